"""Make the batch dynamic while other axes are free already: the body goes on following their sizes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import onnx_ir as ir

from builder.batching.attempt import Attempt, Problem, attempt
from builder.batching.batched import BatchedTensor
from builder.batching.layout import Shape
from builder.batching.merging import Column, merge, shape_at
from builder.batching.pins import Axes, Pins, Sizes, free_names
from builder.batching.rule import Operand, Refusal
from builder.batching.walk import FreeAxes
from builder.model import Dim, Model, TensorSpec, label


def follow_sizes(model: Model, source: ir.Model, axes: Axes, batch: int, sizes: Sequence[Sizes]) -> Attempt:
    """Walk a model at one static batch, and at several sizes of its other named axes, which stay free.

    Two walks show which axes of which values are free. Then one walk at each of the sizes reads these when the model
    runs where it can, and `merge` makes one graph of all.

    Args:
        model: The model.
        source: The same without functions.
        axes: The axis of the batch, by input.
        batch: The static batch.
        sizes: Sizes of the other names at which the model runs. If there is only one choice, they become fixed.
    """
    first = attempt(model, source, Pins(axes, batch, sizes[0]))
    if first.problems or len(sizes) == 1 or not free_names(model, axes):
        return first
    second = attempt(model, source, Pins(axes, batch, sizes[1]))
    if second.problems:
        return second
    free = _free_axes(first.walk.operands, second.walk.operands)
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
    """Yield the outputs in which a sample has as many rows as a free axis is long, beside those of other samples."""
    for tensors in zip(*(a.outputs for a in attempts), strict=True):
        if len({tensor.rows for tensor in tensors}) > 1:
            what = f"output {tensors[0].original!r} has the rows of a sample on an axis that is free"
            yield Problem("", Refusal(what))


def _free_axes(first: Mapping[ir.Value, Operand], second: Mapping[ir.Value, Operand]) -> FreeAxes:
    """Compare two walks at different sizes."""

    def free(value: ir.Value, shape: Shape) -> frozenset[int]:
        if value not in first or value not in second:  # in a copy of a body, for instance
            return frozenset(range(len(shape)))
        pairs = zip(first[value].shape, second[value].shape, strict=False)
        return frozenset(axis for axis, (one, other) in enumerate(pairs) if one != other)

    return free


def _named(model: Model, attempts: Sequence[Attempt], sizes: Sequence[Sizes]) -> Attempt:
    """Give the free axes of the first attempt's inputs and outputs their names."""
    first = attempts[0]
    names: dict[Column, str] = {}
    for name in sizes[0]:
        names.setdefault(tuple(each[name] for each in sizes), name)
    inputs = [
        _with_names(attempts, k, value, "inputs", model.inputs[k], names) for k, value in enumerate(first.graph_inputs)
    ]
    outputs = [
        _with_names(attempts, k, value, "outputs", model.outputs[k], names)
        for k, value in enumerate(first.graph_outputs)
    ]
    return replace(first, inputs=tuple(inputs), outputs=tuple(outputs))


def _with_names(
    attempts: Sequence[Attempt],
    index: int,
    value: ir.Value,
    side: str,
    spec: TensorSpec,
    names: Mapping[Column, str],
) -> BatchedTensor:
    each: list[BatchedTensor] = [getattr(a, side)[index] for a in attempts]
    shape = shape_at([_numbers(t.original_shape) for t in each], names, spec)
    dims = shape_at([_numbers(t.dims) for t in each], {**names, **_own_names(each, shape)}, spec)
    value.shape = ir.Shape(["batch", *dims])
    found = replace(each[0], dims=tuple(dims), original_shape=tuple(shape))
    # With one sample, as many rows as an axis has, whatever its size is, are simply all that the tensor has.
    return found if len({t.rows for t in each}) == 1 else replace(found, batch_axis=None, rows=1, outer=1)


def _numbers(dims: Sequence[Dim]) -> Shape:
    return tuple(dim for dim in dims if isinstance(dim, int))


def _own_names(each: Sequence[BatchedTensor], shape: Sequence[Dim]) -> dict[Column, str]:
    columns = zip(*(_numbers(t.original_shape) for t in each), strict=True)
    return {column: dim for column, dim in zip(columns, shape, strict=True) if isinstance(dim, str)}
