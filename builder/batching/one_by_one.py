"""Run each sample by itself: for models that mix the rows of a batch, or whose operators have no rule.

The whole graph becomes the body of a Scan over the batch. Right by construction, and no faster than one at a time.

Source: https://onnx.ai/onnx/operators/onnx__Scan.html
"""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from builder.batching.batched import BatchedModel, BatchedTensor, Rewrite
from builder.batching.input_axes import batch_axes_of
from builder.errors import ModelError
from builder.model import Model, TensorSpec

OLDEST_OPSET = 9
"""Before it, Scan had a batch axis of its own."""


def run_one_by_one(model: Model, *, batch_axes: Mapping[str, int | None] | None = None) -> BatchedModel:
    """Wrap the graph so that it sees one sample at a time: `[N, *dims] -> N times [1, *dims] -> [N, *dims]`.

    An output of which the first axis is not a batch of one is a sample's answer as a whole.

    Raises:
        ModelError: Its static batch is above 1, so that no sample has an answer of its own, or its opset is too old.
    """
    axes, static_batch = batch_axes_of(model, batch_axes or {})
    if static_batch != 1:
        raise ModelError(
            model.path,
            f"its static batch is {static_batch}, so the file has no answer for a sample by itself",
            "export it with a batch of 1, or publish it with --static",
        )
    source = model.ir.clone()
    opset = source.opset_imports.get("", 1)
    if opset < OLDEST_OPSET:
        raise ModelError(
            model.path, f"opset {opset} has no Scan over a batch", f"export it with opset {OLDEST_OPSET} or newer"
        )
    wrapped = _wrap(model, source, axes, opset)
    rewrite = Rewrite("", "Scan", "the graph runs one sample at a time, inside a Scan over the batch")
    inputs = tuple(_tensor(spec, axes[spec.name]) for spec in model.inputs)
    outputs = tuple(_tensor(spec, _batch_of(spec)) for spec in model.outputs)
    return BatchedModel(model, wrapped, inputs, outputs, 1, False, (rewrite,))


def _batch_of(spec: TensorSpec) -> int | None:
    return 0 if spec.shape[:1] == (1,) else None


def _tensor(spec: TensorSpec, axis: int | None) -> BatchedTensor:
    return BatchedTensor(spec.name, spec.name, spec.dtype, _dims(spec, axis), spec.shape, axis)


def _dims(spec: TensorSpec, axis: int | None) -> tuple[int | str, ...]:
    return spec.shape if axis is None else (*spec.shape[:axis], *spec.shape[axis + 1 :])


def _wrap(model: Model, source: ir.Model, axes: Mapping[str, int | None], opset: int) -> ir.Model:
    """The clone `source` with all of its nodes moved into the body of a Scan; weights stay outside."""
    graph = source.graph
    nodes = list(graph)
    originals = {v.name: v for v in graph.inputs}
    graph.remove(nodes)
    before, after = [], []
    outer_inputs, body_inputs = [], []
    for spec in model.inputs:
        inner = originals[spec.name]
        outer_inputs.append(_value(spec.name, spec.dtype, ("batch", *_dims(spec, axes[spec.name]))))
        row = _value(f"{spec.name}.row", spec.dtype, _dims(spec, axes[spec.name]))
        body_inputs.append(row)
        axis = axes[spec.name]
        node, taken = _reaxis("Unsqueeze", row, axis, opset) if axis is not None else _copy(row)
        taken.type, taken.shape = inner.type, inner.shape
        inner.replace_all_uses_with(taken, replace_graph_outputs=True)
        before.extend(node)
    outer_outputs, body_outputs = [], []
    for spec, inner in zip(model.outputs, graph.outputs, strict=True):
        axis = _batch_of(spec)
        node, row = _reaxis("Squeeze", inner, axis, opset) if axis is not None else _copy(inner)
        after.extend(node)
        inner.name = f"{spec.name}.whole"
        row.name = f"{spec.name}.answer"
        row.type, row.shape = ir.TensorType(spec.dtype), ir.Shape(_dims(spec, axis))
        body_outputs.append(row)
        outer_outputs.append(_value(spec.name, spec.dtype, ("batch", *_dims(spec, axis))))
    body = ir.Graph(body_inputs, body_outputs, nodes=[*before, *nodes, *after], name="one_sample")
    attributes = [
        ir.Attr("body", ir.AttributeType.GRAPH, body),
        ir.Attr("num_scan_inputs", ir.AttributeType.INT, len(body_inputs)),
    ]
    scan = ir.Node("", "Scan", outer_inputs, attributes, outputs=outer_outputs, name="batch")
    initializers = list(graph.initializers.values())
    graph.initializers.clear()
    return ir.Model(
        ir.Graph(
            outer_inputs,
            outer_outputs,
            nodes=[scan],
            initializers=initializers,
            opset_imports=source.opset_imports,
            name=graph.name,
            metadata_props=graph.metadata_props,
        ),
        ir_version=max(source.ir_version, 4),
        producer_name=source.producer_name,
        producer_version=source.producer_version,
        functions=list(source.functions.values()),
        metadata_props=source.metadata_props,
    )


def _value(name: str, dtype: ir.DataType, shape: tuple[int | str, ...]) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))


def _reaxis(op_type: str, value: ir.Value, axis: int, opset: int) -> tuple[list[ir.Node], ir.Value]:
    """Put in or take out the batch of one; the axes are an attribute before opset 13."""
    if opset < 13:
        node = ir.Node("", op_type, [value], [ir.Attr("axes", ir.AttributeType.INTS, [axis])])
        node.outputs[0].name = f"{value.name}.{op_type.lower()}"
        return [node], node.outputs[0]
    constant = ir.Node("", "Constant", [], [ir.Attr("value", ir.AttributeType.TENSOR, ir.tensor(np.asarray([axis])))])
    constant.outputs[0].name = f"{value.name}.axes"
    node = ir.Node("", op_type, [value, constant.outputs[0]])
    node.outputs[0].name = f"{value.name}.{op_type.lower()}"
    return [constant, node], node.outputs[0]


def _copy(value: ir.Value) -> tuple[list[ir.Node], ir.Value]:
    node = ir.Node("", "Identity", [value])
    node.outputs[0].name = f"{value.name}.copy"
    return [node], node.outputs[0]
