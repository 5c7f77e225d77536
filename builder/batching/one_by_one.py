"""Run each sample by itself: for models that mix the samples of a batch, or that have operators without a rule.

The whole graph becomes the body of a Scan over the batch. That is right by construction, and as slow as one request at
a time.

Source: https://onnx.ai/onnx/operators/onnx__Scan.html
"""

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from builder.batching.answers import answers_of_one, shape_of_one
from builder.batching.batched import OLDEST_IR_VERSION, BatchedModel, BatchedTensor, Rewrite
from builder.batching.input_axes import batch_axes_of
from builder.batching.keeping import refuse_random
from builder.batching.pins import Runs, batch_names, claimed_axes
from builder.errors import ModelError
from builder.model import Dim, Model, TensorSpec, free_name, name_nodes, node_names, value_names

SCAN_WITHOUT_BATCH = 9
"""The opset in which Scan lost its own batch axis."""

AXES_AS_INPUT = 13
"""The opset from which Squeeze and Unsqueeze take their axes as an input."""

STATE = ir.DataType.INT32
"""The type of the state of a Scan: one that no precision lowers."""

Fresh = Callable[[str], str]
"""Returns a name that no value has yet, and that begins with the given one."""


def run_one_by_one(
    model: Model, *, batch_axes: Mapping[str, int | None] | None = None, original: Runs | None = None
) -> BatchedModel:
    """Wrap the graph so that it sees one sample at a time: `[N, *dims] -> N times [1, *dims] -> [N, *dims]`.

    A symbolic batch is set to 1 inside. The batch axis of each output is removed there (see `answers`); if it has none,
    the whole output is the answer to one sample.

    Args:
        model: A model whose batch is 1 or symbolic.
        batch_axes: The axis of the batch, for inputs that do not have it on axis 0; None for an input without a batch,
            of which each sample brings its own.
        original: Runs the original, to see the shapes of outputs that cannot be inferred.

    Raises:
        ModelError: Its static batch is above 1, so that there is no answer for a single sample; its opset is too old;
            it draws random numbers; or the size of an output depends on the values of the samples.
    """
    refuse_random(model)
    axes, static_batch = batch_axes_of(model, {**claimed_axes(model), **(batch_axes or {})})
    if static_batch != 1:
        raise ModelError(
            model.path,
            f"its static batch is {static_batch}, so it cannot answer a single sample",
            "export it with a batch of 1",
            is_about_batch=True,
        )
    source = model.ir.clone()
    opset = source.opset_imports.get("", 1)
    if opset < SCAN_WITHOUT_BATCH:
        raise ModelError(
            model.path,
            f"opset {opset} has no Scan over a batch",
            f"export it with opset {SCAN_WITHOUT_BATCH} or newer",
            is_about_batch=True,
        )
    inputs = tuple(_tensor(spec, shape_of_one(spec, axes[spec.name]), axes[spec.name]) for spec in model.inputs)
    answers = answers_of_one(model, axes, original)
    outputs = tuple(_tensor(spec, one.shape, one.axis) for spec, one in zip(model.outputs, answers, strict=True))
    _forget(source.graph, batch_names(model, axes))
    wrapped = _wrapped(source, inputs, outputs, opset)
    rewrite = Rewrite("", "Scan", "the graph runs one sample at a time, inside a Scan over the batch")
    return BatchedModel(model, wrapped, inputs, outputs, 1, False, (rewrite,))


def _tensor(spec: TensorSpec, shape: Sequence[Dim], axis: int | None) -> BatchedTensor:
    dims = shape if axis is None else (*shape[:axis], *shape[axis + 1 :])
    return BatchedTensor(spec.name, spec.name, spec.dtype, tuple(dims), tuple(shape), axis)


def _forget(graph: ir.Graph, names: Collection[str]) -> None:
    """Remove the shapes that name the batch: inside the Scan it is 1, whatever the file says."""
    for node in graph.all_nodes():
        for value in node.outputs:
            if value.shape is not None and any(isinstance(d, ir.SymbolicDim) and d.value in names for d in value.shape):
                value.shape = None


def _wrapped(
    source: ir.Model, inputs: Sequence[BatchedTensor], outputs: Sequence[BatchedTensor], opset: int
) -> ir.Model:
    """Move all nodes of the clone `source` into the body of a Scan; the weights stay outside."""
    graph = source.graph
    fresh = _namer(source)
    taken = node_names(source)
    nodes = list(graph)
    graph.remove(nodes)
    before, rows = _body_inputs(graph, inputs, opset, fresh)
    after, answers = _body_outputs(graph, outputs, opset, fresh)
    state, kept, keep = _state(fresh)
    name_nodes([*before, *after, keep], taken)
    body = ir.Graph(
        [kept, *rows], [keep.outputs[0], *answers], nodes=[keep, *before, *nodes, *after], name="one_sample"
    )
    samples = [_batched(t) for t in inputs]
    scan = ir.Node(
        "",
        "Scan",
        [state, *samples],
        [
            ir.Attr("body", ir.AttributeType.GRAPH, body),
            ir.Attr("num_scan_inputs", ir.AttributeType.INT, len(rows)),
        ],
        outputs=[_value(fresh("state.last"), STATE, ()), *map(_batched, outputs)],
        name=free_name("batch", taken),
    )
    initializers = [state, *graph.initializers.values()]
    graph.initializers.clear()
    graph.outputs.clear()  # a weight may be one
    graph.inputs.clear()  # before IR version 4, the initializers are among them
    return ir.Model(
        ir.Graph(
            samples,
            scan.outputs[1:],
            nodes=[scan],
            initializers=initializers,
            opset_imports=source.opset_imports,
            name=graph.name,
            metadata_props=graph.metadata_props,
        ),
        ir_version=max(source.ir_version, OLDEST_IR_VERSION),
        producer_name=source.producer_name,
        producer_version=source.producer_version,
        functions=list(source.functions.values()),
        metadata_props=source.metadata_props,
    )


def _state(fresh: Fresh) -> tuple[ir.Value, ir.Value, ir.Node]:
    """Return a state that never changes: before the first sample, in the body, and the node that hands it on.

    The parser of TensorRT 11 refuses a Scan without a state, with the words "Invalid Node": it asks for the first one.

    Source: `DEFINE_BUILTIN_OP_IMPORTER(Scan)` in onnxOpImporters.cpp of onnx/onnx-tensorrt
    """
    first = _value(fresh("state.first"), STATE, ())
    first.const_value = ir.tensor(np.zeros((), np.int32), name=first.name)
    kept = _value(fresh("state"), STATE, ())
    keep = ir.Node("", "Identity", [kept], outputs=[_value(fresh("state.next"), STATE, ())])
    return first, kept, keep


def _namer(model: ir.Model) -> Fresh:
    names = value_names(model)

    def fresh(name: str) -> str:
        while name in names:
            name += "_"
        names.add(name)
        return name

    return fresh


def _body_inputs(
    graph: ir.Graph, tensors: Sequence[BatchedTensor], opset: int, fresh: Fresh
) -> tuple[list[ir.Node], list[ir.Value]]:
    """Return nodes that make the original's inputs of one sample each, and the samples they read."""
    originals = {v.name: v for v in graph.inputs}
    nodes, rows = [], []
    for tensor in tensors:
        original = originals[tensor.name]
        row = _value(fresh(f"{tensor.name}.row"), tensor.dtype, tensor.dims)
        made, taken = _with_axis("Unsqueeze", row, tensor.batch_axis, opset, fresh)
        taken.type, taken.shape = original.type, ir.Shape(tensor.original_shape)
        original.replace_all_uses_with(taken, replace_graph_outputs=True)
        nodes.extend(made)
        rows.append(row)
    return nodes, rows


def _body_outputs(
    graph: ir.Graph, tensors: Sequence[BatchedTensor], opset: int, fresh: Fresh
) -> tuple[list[ir.Node], list[ir.Value]]:
    """Return nodes that take the batch of one out of the original's outputs, and the answers they give."""
    nodes, answers = [], []
    for tensor, original in zip(tensors, graph.outputs, strict=True):
        original.name = fresh(f"{tensor.name}.whole")  # the Scan's output has its name
        made, answer = _with_axis("Squeeze", original, tensor.batch_axis, opset, fresh)
        answer.name = fresh(f"{tensor.name}.answer")
        answer.type, answer.shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.dims)
        nodes.extend(made)
        answers.append(answer)
    return nodes, answers


def _batched(tensor: BatchedTensor) -> ir.Value:
    return _value(tensor.name, tensor.dtype, ("batch", *tensor.dims))


def _value(name: str, dtype: ir.DataType, shape: Sequence[int | str]) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))


def _with_axis(
    op_type: str, value: ir.Value, axis: int | None, opset: int, fresh: Fresh
) -> tuple[list[ir.Node], ir.Value]:
    """Unsqueeze or squeeze the batch of one, or copy a value that has none."""
    if axis is None:
        node = ir.Node("", "Identity", [value])
        node.outputs[0].name = fresh(f"{value.name}.copy")
        return [node], node.outputs[0]
    nodes = []
    if opset < AXES_AS_INPUT:
        node = ir.Node("", op_type, [value], [ir.Attr("axes", ir.AttributeType.INTS, [axis])])
    else:
        axes = ir.Attr("value", ir.AttributeType.TENSOR, ir.tensor(np.asarray([axis])))
        constant = ir.Node("", "Constant", [], [axes])
        constant.outputs[0].name = fresh(f"{value.name}.axes")
        nodes.append(constant)
        node = ir.Node("", op_type, [value, constant.outputs[0]])
    node.outputs[0].name = fresh(f"{value.name}.{op_type.lower()}")
    return [*nodes, node], node.outputs[0]
