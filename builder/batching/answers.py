"""What a model answers to one sample: the shape of each output at a batch of 1, and where its batch axis is.

The batch may be symbolic, and the axes of the outputs may have any names. So the batch is set to 1, and the shapes are
inferred from that: an output with 1 on axis 0 has its batch there. Where nothing can be inferred, the original is run.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from builder.batching.ends import TIME_MAJOR
from builder.batching.layout import Shape
from builder.batching.pins import Axes, Runs, batch_names, free_names
from builder.batching.rules import SIZED_BY_VALUES
from builder.errors import ModelError
from builder.model import Dim, Model, TensorSpec, inlined, label, operator

Dims = tuple[Dim, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """One output at a batch of 1.

    Attributes:
        shape: Its shape, with a name for each size that is not known.
        axis: Its batch axis; None if it has none, so that the whole output is the answer to the sample.
    """

    shape: Dims
    axis: int | None


def shape_of_one(spec: TensorSpec, axis: int | None) -> Dims:
    """Return the shape of an input that holds one sample: `[N, 3] -> [1, 3]`."""
    return tuple(1 if i == axis else dim for i, dim in enumerate(spec.shape))


def answers_of_one(model: Model, axes: Axes, original: Runs | None = None) -> list[Answer]:
    """Return the answers of a model to one sample, in the order of its outputs.

    Args:
        model: A model whose batch is 1 or symbolic.
        axes: The axis of the batch, by input.
        original: Runs the original, to see the shapes that cannot be inferred.

    Raises:
        ModelError: The size of an output depends on the values of the sample, so that the answers to two samples may
            not fit into one tensor.
    """
    graph = _inferred(model, axes)
    named, free = batch_names(model, axes), free_names(model, axes)
    known = [_known(spec.shape, v.shape, free) for spec, v in zip(model.outputs, graph.outputs, strict=True)]
    unknown = [value for value, shape in zip(graph.outputs, known, strict=True) if _is_unknown(shape, free)]
    for value in unknown:
        _refuse_size_by_values(model, graph, value)
    seen = _seen(original, named) if original is not None and unknown else []
    found = []
    for spec, inferred in zip(model.outputs, known, strict=True):
        shape = _of_rank(inferred, [shapes[spec.name] for shapes in seen])
        numbers = _with_numbers(shape, [shapes[spec.name] for shapes in seen], free)
        axis = _own_axis(spec.shape, numbers, named, free)
        found.append(Answer(tuple(1 if i == axis else dim for i, dim in enumerate(shape)), axis))
    return found


def _seen(original: Runs, named: Collection[str]) -> list[Mapping[str, Shape]]:
    """Return the shapes of the original's outputs for one sample, at several sizes of its other names."""
    choices = original.working_sizes(dict.fromkeys(named, 1))
    return [shapes for sizes in choices if (shapes := original.output_shapes(sizes)) is not None]


def _of_rank(shape: Dims, seen: Sequence[Shape]) -> Dims:
    """Return a shape of the rank that was seen: the file may declare another."""
    ranks = {len(each) for each in seen}
    return shape if len(ranks) != 1 or len(shape) in ranks else tuple(f"size_{i}" for i in range(ranks.pop()))


def _with_numbers(shape: Dims, seen: Sequence[Shape], free: Collection[str]) -> Dims:
    """Replace names by the sizes that were seen, where these were the same each time."""
    if not seen or any(len(each) != len(shape) for each in seen):
        return shape
    columns = [set(column) for column in zip(*seen, strict=True)]
    return tuple(
        sizes.pop() if len(sizes) == 1 and isinstance(dim, str) and dim not in free else dim
        for dim, sizes in zip(shape, columns, strict=True)
    )


def _inferred(model: Model, axes: Axes) -> ir.Graph:
    """Return the graph with the shapes that ONNX infers at a batch of 1; the shapes in the file are ignored."""
    try:
        copy = inlined(model.ir, where=model.path)
    except ModelError:  # its functions stay, and what is behind them is not inferred
        copy = model.ir.clone()
    of_one = {spec.name: shape_of_one(spec, axes[spec.name]) for spec in model.inputs}
    for value in copy.graph.inputs:
        if value.name in of_one:
            value.shape = ir.Shape(of_one[value.name])
    for node in copy.graph.all_nodes():
        for value in node.outputs:
            value.shape = None
    return ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(copy).model.graph


def _known(declared: Dims, inferred: ir.Shape | None, free: Collection[str]) -> Dims:
    """Return the shape of an output: the inferred sizes, or the file's where nothing was inferred.

    Example: an output declared `[batch, length, 5]`, and inferred as `[1, ?, 5]`, is `[1, length, 5]`.
    """
    if inferred is None:
        return declared
    if len(inferred) != len(declared):
        return tuple(_name_or_size(dim, f"size_{i}") for i, dim in enumerate(inferred))
    return tuple(
        dim if isinstance(dim, int) else str(dim.value) if dim.value in free else said
        for dim, said in zip(inferred, declared, strict=True)
    )


def _name_or_size(dim: int | ir.SymbolicDim, name: str) -> Dim:
    return dim if isinstance(dim, int) else str(dim.value or name)


def _own_axis(declared: Dims, shape: Dims, named: Collection[str], free: Collection[str]) -> int | None:
    """Return the batch axis of an output at a batch of 1.

    It is axis 0 if that has size 1; else the axis with the batch's name, as in `[time, batch, C]`, or the only axis of
    size 1 in that order, `[T, 1, C]`. If the inputs have a symbolic batch, an unknown name on axis 0 is taken for the
    batch too, because some exporters give every axis another name.
    """
    if shape[:1] == (1,):
        return 0
    if len(declared) == len(shape):
        by_name = [i for i, dim in enumerate(shape) if declared[i] in named and (dim == 1 or isinstance(dim, str))]
        if by_name:
            return by_name[0]
    if len(shape) == TIME_MAJOR and [i for i, dim in enumerate(shape) if dim == 1] == [1]:
        return 1
    return 0 if named and _is_unknown(shape[:1], free) else None


def _is_unknown(dims: Dims, free: Collection[str]) -> bool:
    return any(isinstance(dim, str) and dim not in free for dim in dims)


def _refuse_size_by_values(model: Model, graph: ir.Graph, output: ir.Value) -> None:
    """Refuse an output of unknown size that depends on a node which keeps or drops elements by their values.

    Raises:
        ModelError: It depends on such a node.
    """
    given = {spec.name for spec in model.inputs}
    node = _sized_by_values(graph, [value for value in graph.inputs if value.name in given]).get(output)
    if node is not None:
        raise ModelError(
            model.path,
            f"{label(node)}: the size of output {output.name!r} depends on the values of the sample, so the answers to "
            "two samples may not fit into one tensor",
            "export it with an output of a fixed size",
            is_about_batch=True,
        )


def _sized_by_values(graph: ir.Graph, inputs: Iterable[ir.Value]) -> dict[ir.Value, ir.Node]:
    """Return every value whose size may depend on the values of the inputs, with the node that is the reason.

    A node is examined together with the graphs inside it. The shape of an input does not depend on its values.
    """
    holding, sized = set(inputs), dict[ir.Value, ir.Node]()
    for node in graph:
        inside = [node, *(inner for body in _bodies(node) for inner in body.all_nodes())]
        read = {value for each in inside for value in each.inputs if value is not None}
        reason = next((sized[value] for value in read if value in sized), None)
        if reason is None and not holding.isdisjoint(read):
            reason = next((each for each in inside if operator(each) in SIZED_BY_VALUES), None)
            if operator(node) not in {("", "Shape"), ("", "Size")}:
                holding.update(node.outputs)
        if reason is not None:
            sized.update(dict.fromkeys(node.outputs, reason))
    return sized


def _bodies(node: ir.Node) -> Iterator[ir.Graph]:
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()
