"""Operators that take a shape from a constant: how named sizes go through, and what the constant becomes."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from builder.batching.rule import given, required
from builder.batching.sizes.dims import Baked, Dim, Dims, Symbol, fixed, is_fixed, regroup, static_size, text
from builder.batching.sizes.known import Sizes, broadcast, constant_input

TO_THE_END = 2**31 - 1
"""The end of a Slice that goes up to the last element, however many there are."""

COPY, REST = 0, -1
"""In a Reshape's target: the input's size on this axis, and the size that the others leave."""


def _reshape(sizes: Sizes, node: ir.Node) -> Dims:
    """Reshape: the factors of the dimensions are regrouped, and the target is written with them.

    For `[N, 3, h, w]` with h = w = 4 and the target `[-1, 3, 16]`, the static sizes are `[N, 3, 16]`, so that the
    result is `[N, 3, h*w]`. The new target is `[0, 3, -1]`: N is copied, and h*w is what the others leave. A second
    size that cannot be copied would be computed at run time.
    """
    target = constant_input(node, 1)
    if target is None:
        raise Baked("its target is computed")
    source = sizes.of(required(node.inputs, 0))
    dims = regroup(source, _target_sizes(source, target.tolist()))
    written = sizes.write.vector(node, _target(source, dims))
    if written.const_value is None or written.const_value.numpy().tolist() != target.tolist():
        sizes.note(node, f"shape {target.tolist()} became {_listed(dims)}")
    node.replace_input_with(1, written)
    return tuple(dims)


def _target_sizes(source: Dims, target: Sequence[int]) -> list[int]:
    """Return the static sizes that a target stands for."""
    found = [static_size(source[axis]) if size == COPY else size for axis, size in enumerate(target)]
    if REST in found:
        others = -math.prod(found)
        found[found.index(REST)] = math.prod(map(static_size, source)) // max(1, others)
    return found


def _target(source: Dims, dims: Sequence[Dim]) -> list[int | Dim]:
    """Return dimensions as a Reshape's target; forms that need no node at run time are preferred: a copy, then `-1`."""
    target: list[int | Dim] = [static_size(d) if is_fixed(d) else d for d in dims]
    for axis, dim in enumerate(dims):
        is_copied = axis < len(source) and source[axis] == dim
        if is_copied and not is_fixed(dim):
            target[axis] = COPY
    computed = [axis for axis, part in enumerate(target) if not isinstance(part, int)]
    if computed:
        target[computed[0]] = REST
    return target


def _listed(dims: Sequence[Dim]) -> str:
    return f"[{', '.join(map(text, dims))}]"


def _expand(sizes: Sizes, node: ir.Node) -> Dims:
    """Expand: an axis that has a named size keeps it, by a 1 in the target."""
    source, target = sizes.of(required(node.inputs, 0)), sizes.vector(required(node.inputs, 1))
    if target is None:
        raise Baked("its target is computed")
    shift = len(target) - len(source)
    keeps = [axis >= shift and not is_fixed(source[axis - shift]) for axis in range(len(target))]
    parts = [() if keep else tuple(f for f in dim if f != 1) for keep, dim in zip(keeps, target, strict=True)]
    if any(keep and static_size(dim) != 1 for keep, dim in zip(keeps, target, strict=True)):
        written = sizes.write.vector(node, [static_size(p) if is_fixed(p) else p for p in parts])
        node.replace_input_with(1, written)
    return broadcast([source, tuple(parts)])


# ---------------------------------------------------------------------- Slice


@dataclass(frozen=True, slots=True)
class _Cut:
    """What a Slice takes of one axis: `[start:end:step]`."""

    start: int
    end: int
    step: int

    def length(self, size: int) -> int:
        """Return how many elements that is of an axis of `size`."""
        end = self.end if self.end >= -size else None
        return len(range(size)[self.start : end : self.step])

    def reaches_the_end(self, size: int) -> bool:
        """Return whether the last element is taken because the end is at least the size the axis has had."""
        return self.step == 1 and self.end >= size

    def has_fixed_length(self) -> bool:
        """Return whether the length is the same for any size: start and end are counted from the same side."""
        return self.step == 1 and (self.start < 0) == (self.end < 0)


def _slice(sizes: Sizes, node: ir.Node) -> Dims:
    """Slice: an end at the old size becomes the end.

    Of an axis h with h = 10 in the static model, `[0:10]` becomes `[0:]` and has the size h; `[2:10]` becomes `[2:]`
    and has a new size, 8 in the static model; `[0:4]` and `[-6:-2]` stay, and have the fixed size 4; `[1:-1]` and
    `[0:9:2]` stay, and have a new size each.
    """
    data = required(node.inputs, 0)
    cuts = _cuts(node, len(sizes.of(data)))
    dims = list(sizes.of(data))
    ends = []
    for axis, cut in cuts:
        dim = dims[axis]
        is_stretched = not is_fixed(dim) and cut.reaches_the_end(static_size(dim))
        ends.append(TO_THE_END if is_stretched else cut.end)
        dims[axis] = _cut_dim(node, axis, dim, cut)
    node.replace_input_with(2, sizes.write.constant(np.asarray(ends, np.int64)))
    return tuple(dims)


def _cuts(node: ir.Node, rank: int) -> list[tuple[int, _Cut]]:
    """Return what a Slice takes of which axis."""
    bounds = [constant_input(node, i) for i in range(1, len(node.inputs))]
    starts, ends = (given(bounds, 0), given(bounds, 1))
    if starts is None or ends is None or any(b is None for b in bounds):
        raise Baked("its bounds are computed, or attributes as they were before opset 10")
    axes, steps = (given(bounds, 2), given(bounds, 3))
    listed = range(len(starts)) if axes is None else axes.tolist()
    strides = [1] * len(starts) if steps is None else steps.tolist()
    cuts = map(_Cut, starts.tolist(), ends.tolist(), strides)
    return [(axis + rank if axis < 0 else axis, cut) for axis, cut in zip(listed, cuts, strict=True)]


def _cut_dim(node: ir.Node, axis: int, dim: Dim, cut: _Cut) -> Dim:
    """Return the dimension that a cut leaves."""
    size = static_size(dim)
    length = cut.length(size)
    if is_fixed(dim):
        return fixed(length)
    if cut.reaches_the_end(size):
        return dim if cut.start == 0 else _new_size(node, axis, length)
    return fixed(length) if cut.has_fixed_length() else _new_size(node, axis, length)


def _new_size(node: ir.Node, axis: int, length: int) -> Dim:
    value = node.outputs[0]
    return (Symbol(f"{value.name}_{axis}", length, (value, axis)),)


# ---------------------------------------------------------------------- Resize, Shape, Range


def _resize(sizes: Sizes, node: ir.Node) -> Dims:
    """Resize: a size that is a multiple of the old one stays that multiple."""
    if given(node.inputs, 3) is None:
        return sizes.required(node)[0]
    source, target = sizes.of(required(node.inputs, 0)), sizes.vector(node.inputs[3])
    if target is None or len(target) != len(source):
        raise Baked("its sizes are computed")
    dims = [_resized(dim, static_size(size)) for dim, size in zip(source, target, strict=True)]
    written = sizes.write.vector(node, [static_size(d) if is_fixed(d) else d for d in dims])
    node.replace_input_with(3, written)
    sizes.note(node, f"sizes became {_listed(dims)}")
    return tuple(dims)


def _resized(dim: Dim, size: int) -> Dim:
    old = static_size(dim)
    if size == old:
        return dim
    if is_fixed(dim):
        return fixed(size)
    if size % old:
        raise Baked(f"it resizes {text(dim)} from {old} to {size}, which is not a multiple")
    return (*dim, size // old)


def _shape(sizes: Sizes, node: ir.Node) -> Dims:
    """Shape: a vector as long as the input's rank."""
    node.outputs[0].type = ir.TensorType(ir.DataType.INT64)
    return (fixed(len(sizes.of(required(node.inputs, 0)))),)


def _range(sizes: Sizes, node: ir.Node) -> Dims:
    """Range: as long as its limit, from 0 in steps of 1."""
    limit = sizes.vector(required(node.inputs, 1))
    if limit is None or constant_input(node, 0) != 0 or constant_input(node, 2) != 1:
        raise Baked("its limits are computed")
    return limit


RULES: Mapping[tuple[str, str], Callable[[Sizes, ir.Node], Dims]] = {
    ("", "Expand"): _expand,
    ("", "Range"): _range,
    ("", "Reshape"): _reshape,
    ("", "Resize"): _resize,
    ("", "Shape"): _shape,
    ("", "Slice"): _slice,
}
"""The function that finds the output's dimensions and replaces the constant, for each operator with its own rule."""
