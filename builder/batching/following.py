"""Make the batch of a model dynamic whose other axes are partly dynamic already, and keep those dynamic."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import onnx_ir as ir

from builder.batching.attempt import Attempt, Problem, attempt
from builder.batching.batched import BatchedTensor
from builder.batching.layout import Shape
from builder.batching.merging import Column, merge, named_shape
from builder.batching.pins import Axes, Pins, Sizes, free_names
from builder.batching.rule import Operand, Refusal
from builder.batching.walk import FreeAxes
from builder.model import Dim, Model, TensorSpec, label


def follow_sizes(
    model: Model, source: ir.Model, axes: Axes, batch: int, sizes: Sequence[Sizes], small: Sequence[Sizes] = ()
) -> Attempt:
    """Walk a model at one static batch, and at several sizes of its other symbolic axes, which stay dynamic.

    Two walks show which axes of which values are dynamic. A further walk at each choice of sizes reads them at run time
    where it can, and `merge` makes one graph of all these walks.

    Args:
        model: The model.
        source: The same without functions.
        axes: The axis of the batch, by input.
        batch: The static batch.
        sizes: Choices of sizes for the other names at which the model runs. If there is only one, the axes become
            static.
        small: Small ones, which only show what is dynamic: the last 8 steps of a longer sequence are 8, whatever it is.
    """
    first = attempt(model, source, Pins(axes, batch, sizes[0]))
    if first.problems or len(sizes) == 1 or not free_names(model, axes):
        return first
    second = attempt(model, source, Pins(axes, batch, sizes[1]))
    if second.problems:
        return second
    others = [second, *(attempt(model, source, Pins(axes, batch, each)) for each in small)]
    free = _free_axes(first.walk.operands, [other.walk.operands for other in others])
    attempts = [attempt(model, source, Pins(axes, batch, each), free) for each in sizes]
    failed = next((a for a in attempts if a.problems), None)
    if failed is not None:
        return failed
    problems = [Problem(label(r.node), r.refusal) for r in merge(attempts)]
    if batch > 1:
        problems += _free_rows(attempts)
    if problems:
        return replace(attempts[0], problems=tuple(problems))
    return _named(model, attempts, sizes)


def _free_rows(attempts: Sequence[Attempt]) -> Iterator[Problem]:
    """Refuse outputs where the rows of all samples share an axis, and how many each sample has is dynamic."""
    for tensors in zip(*(a.outputs for a in attempts), strict=True):
        if len({tensor.rows for tensor in tensors}) > 1:
            what = f"output {tensors[0].original!r} has a dynamic number of rows for each sample"
            yield Problem("", Refusal(what))


def _free_axes(first: Mapping[ir.Value, Operand], others: Sequence[Mapping[ir.Value, Operand]]) -> FreeAxes:
    """Compare walks at different sizes; one that was refused somewhere says nothing of what is behind it."""

    def free(value: ir.Value, shape: Shape) -> frozenset[int]:
        if value not in first or value not in others[0]:  # for example, in a copy of a loop's body
            return frozenset(range(len(shape)))
        shapes = [first[value].shape, *(other[value].shape for other in others if value in other)]
        columns = enumerate(zip(*shapes, strict=False))
        return frozenset(axis for axis, column in columns if len(set(column)) > 1)

    return free


def _named(model: Model, attempts: Sequence[Attempt], sizes: Sequence[Sizes]) -> Attempt:
    """Name the dynamic axes of the first attempt's inputs and outputs."""
    first = attempts[0]
    names: dict[Column, str] = {}
    for name in sizes[0]:
        names.setdefault(tuple(each[name] for each in sizes), name)
    inputs = zip(first.graph_inputs, model.inputs, zip(*(a.inputs for a in attempts), strict=True), strict=True)
    outputs = zip(first.graph_outputs, model.outputs, zip(*(a.outputs for a in attempts), strict=True), strict=True)
    return replace(
        first,
        inputs=tuple(_with_names(value, spec, each, names) for value, spec, each in inputs),
        outputs=tuple(_with_names(value, spec, each, names) for value, spec, each in outputs),
    )


def _with_names(
    value: ir.Value, spec: TensorSpec, each: Sequence[BatchedTensor], names: Mapping[Column, str]
) -> BatchedTensor:
    """Name the dynamic axes of one tensor, which is `value` in the graph; `each` is the tensor in each walk."""
    shape = named_shape([_numbers(t.original_shape) for t in each], names, spec)
    dims = named_shape([_numbers(t.dims) for t in each], {**names, **_own_names(each, shape)}, spec)
    value.shape = ir.Shape(["batch", *dims])
    found = replace(each[0], dims=tuple(dims), original_shape=tuple(shape))
    # There is one sample here (see `_free_rows`), so all rows of an axis of any size are its own.
    return found if len({t.rows for t in each}) == 1 else replace(found, batch_axis=None, rows=1, outer=1)


def _numbers(dims: Sequence[Dim]) -> Shape:
    return tuple(dim for dim in dims if isinstance(dim, int))


def _own_names(each: Sequence[BatchedTensor], shape: Sequence[Dim]) -> dict[Column, str]:
    """Return the names in a tensor's `shape`, by their sizes in each walk."""
    columns = zip(*(_numbers(t.original_shape) for t in each), strict=True)
    return {column: dim for column, dim in zip(columns, shape, strict=True) if isinstance(dim, str)}
