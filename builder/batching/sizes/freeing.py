"""Name the axes that become dynamic, and give the model its new shapes."""

from collections.abc import Mapping
from dataclasses import replace

import onnx_ir as ir

from builder.batching.batched import BatchedModel, BatchedTensor
from builder.batching.sizes.dims import BATCH_SIZE, Dim, Dims, Symbol, fixed, is_fixed, static_size, text
from builder.batching.sizes.known import Sizes
from builder.batching.sizes.walk import follow_sizes
from builder.errors import Listing, ModelError

USUAL = 211
"""The size of a symbolic axis if no size is known at which the model runs."""

Axes = Mapping[str, Mapping[int, str]]
"""Axes to make dynamic: by input, the axis of the original and the name of its size."""


def free_axes(batched: BatchedModel, axes: Axes, sizes: Mapping[str, int] | None = None) -> BatchedModel:
    """Make `axes` of the inputs symbolic.

    The graph of `batched` is changed in place: use only what is returned.

    Args:
        batched: A model that has its batch already.
        axes: The axes; those that are free already stay so, under their own names.
        sizes: For axes that are free already, sizes at which the model runs, by name.

    Raises:
        ModelError: There is no such axis, or its size is baked into constants; every such node is listed.
    """
    path, graph = batched.original.path, batched.ir.graph
    unknown = sorted(axes.keys() - {t.original for t in batched.inputs})
    if unknown:
        inputs = ", ".join(t.original for t in batched.inputs)
        raise ModelError(path, f"--dynamic names {unknown}, which are not inputs", f"use one of its inputs: {inputs}")
    names = _Names(batched, sizes or {})
    if not any(names.are_new(tensor, axes.get(tensor.original, {})) for tensor in batched.inputs):
        return batched
    walked = Sizes(batched.ir)
    for value, tensor in zip(graph.inputs, batched.inputs, strict=True):
        walked.dims[value] = names.dims(value, tensor, axes.get(tensor.original, {}))
        value.shape = ir.Shape(_shape(tensor.name, walked.dims[value]))
    problems = follow_sizes(walked, graph)
    if problems:
        what = Listing("its sizes cannot all be made dynamic:", problems)
        raise ModelError(path, what, "leave out --dynamic for these axes, or export it again with them dynamic")
    return _with_sizes(batched, walked)


class _Names:
    """The named sizes of a model."""

    def __init__(self, batched: BatchedModel, sizes: Mapping[str, int]) -> None:
        self._path = batched.original.path
        self._sizes = sizes
        self._symbols: dict[str, Symbol] = {}

    def are_new(self, tensor: BatchedTensor, asked: Mapping[int, str]) -> bool:
        """Return whether any of the axes that were asked for is not free yet.

        Raises:
            ModelError: The input has no such axis.
        """
        shape = f"input {tensor.original!r} {list(tensor.original_shape)}"
        axes = [axis for axis in range(len(tensor.original_shape)) if axis != tensor.batch_axis]
        missing = sorted(asked.keys() - axes)
        if missing:
            fix = "count the axes of the file's shape from 0, and leave out the batch, which is dynamic already"
            raise ModelError(self._path, f"{shape} has no other axis {missing}", fix)
        return any(isinstance(tensor.original_shape[axis], int) for axis in asked)

    def dims(self, value: ir.Value, tensor: BatchedTensor, asked: Mapping[int, str]) -> Dims:
        """Return the dimensions of an input `[N, *dims]`, with the names that were asked for, and those it has."""
        dims = [self._symbol("batch", BATCH_SIZE, value, 0)]
        for axis, size in enumerate(tensor.original_shape):
            if axis == tensor.batch_axis:
                continue
            if isinstance(size, str):
                dims.append(self._symbol(size, self._sizes.get(size, USUAL), value, len(dims)))
            else:
                dims.append(self._symbol(asked[axis], size, value, len(dims)) if axis in asked else fixed(size))
        return tuple(dims)

    def _symbol(self, name: str, size: int, value: ir.Value, axis: int) -> Dim:
        """Return the size of that name; axes of one name have one size."""
        found = self._symbols.setdefault(name, Symbol(name, size, (value, axis)))
        if found.size != size:
            both = " and ".join("the batch" if n == BATCH_SIZE else str(n) for n in (found.size, size))
            raise ModelError(self._path, f"{name!r} names axes of different sizes: {both}", "use two names")
        return (found,)


def _with_sizes(batched: BatchedModel, sizes: Sizes) -> BatchedModel:
    """Return the model with its new shapes."""

    def resized(tensor: BatchedTensor, value: ir.Value) -> BatchedTensor:
        dims = _shape(tensor.name, sizes.dims[value])[1:]
        value.shape = ir.Shape(["batch", *dims])
        return replace(tensor, dims=tuple(dims))

    graph = batched.ir.graph
    _declare(sizes)
    inputs = tuple(map(resized, batched.inputs, graph.inputs))
    outputs = tuple(map(resized, batched.outputs, graph.outputs))
    return replace(batched, inputs=inputs, outputs=outputs, rewrites=(*batched.rewrites, *sizes.rewrites))


def _declare(sizes: Sizes) -> None:
    """Give every value its new shape; of different dimensions with the same name, only the first one gets it."""
    named: dict[str, Dim] = {}
    for value, dims in sizes.dims.items():
        names = [text(dim) if named.setdefault(text(dim), dim) == dim else None for dim in dims]
        value.shape = ir.Shape([static_size(d) if is_fixed(d) else n for d, n in zip(dims, names, strict=True)])


def _shape(name: str, dims: Dims) -> list[int | str]:
    """Return dimensions as a shape in the file; a size that is computed is named after its place."""
    return [_shown(dim, f"{name}_{axis}") for axis, dim in enumerate(dims)]


def _shown(dim: Dim, otherwise: str) -> int | str:
    if is_fixed(dim):
        return static_size(dim)
    return dim[0].name if len(dim) == 1 and isinstance(dim[0], Symbol) else otherwise
