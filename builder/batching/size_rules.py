"""Operators that hold a shape in a constant: how named sizes go through, and the constant made anew."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from builder.batching.dims import Baked, Dim, Symbol, fixed, hint, is_fixed, regroup, text
from builder.batching.rule import required

if TYPE_CHECKING:
    from builder.batching.sizes import SizeWalk
    from builder.tensors import Array

TO_THE_END = 2**31 - 1


def constant_input(node: ir.Node, index: int) -> Array | None:
    """The value of an input that is stored in the graph."""
    value = node.inputs[index] if index < len(node.inputs) else None
    return None if value is None or value.const_value is None else value.const_value.numpy()


def _reshape(walk: SizeWalk, node: ir.Node) -> tuple[Dim, ...]:
    """Reshape: regroup the factors, and spell the target with them."""
    data = node.inputs[0]
    given = constant_input(node, 1)
    if given is None or data is None:
        raise Baked("its target is computed")
    source = walk.of(data)
    sizes = [hint(source[i]) if d == 0 else int(d) for i, d in enumerate(given.tolist())]
    if -1 in sizes:
        total = math.prod(hint(d) for d in source)
        sizes[sizes.index(-1)] = total // max(1, -math.prod(sizes))
    dims = regroup(source, sizes)
    named = [i for i, d in enumerate(dims) if not is_fixed(d)]
    parts: list[int | Dim] = [hint(d) for d in dims]
    for i in named:
        parts[i] = 0 if i < len(source) and source[i] == dims[i] else dims[i]
    free = [i for i in named if parts[i] != 0]
    if free:
        parts[free[0]] = -1
    target = walk.write.sizes(node, parts)
    if target.const_value is None or target.const_value.numpy().tolist() != given.tolist():
        walk.note(node, f"shape {given.tolist()} became [{', '.join(text(d) or '1' for d in dims)}]")
    node.replace_input_with(1, target)
    return tuple(dims)


def _expand(walk: SizeWalk, node: ir.Node) -> tuple[Dim, ...]:
    """Expand: what is as large already is kept by a 1 in the target."""
    source, given = walk.of(required(node.inputs, 0)), walk.vector(node.inputs[1])
    if given is None:
        raise Baked("its target is computed")
    shift = len(given) - len(source)
    kept = [i >= shift and not is_fixed(source[i - shift]) for i in range(len(given))]
    parts = [() if keep else tuple(f for f in dim if f != 1) for keep, dim in zip(kept, given, strict=True)]
    if any(keep and hint(dim) != 1 for keep, dim in zip(kept, given, strict=True)):
        node.replace_input_with(1, walk.write.sizes(node, [hint(p) if is_fixed(p) else p for p in parts]))
    return walk.broadcast([source, tuple(parts)])


def _slice(walk: SizeWalk, node: ir.Node) -> tuple[Dim, ...]:
    """Slice: an end at the old size means to the end."""
    data = node.inputs[0]
    bounds = [constant_input(node, i) for i in range(1, len(node.inputs))]
    if data is None or len(bounds) < 2 or any(b is None for b in bounds):
        raise Baked("its bounds are computed or it is of an old opset")
    starts, ends = (b.tolist() for b in bounds[:2] if b is not None)
    source = list(walk.of(data))
    axes = bounds[2].tolist() if len(bounds) > 2 and bounds[2] is not None else list(range(len(starts)))
    steps = bounds[3].tolist() if len(bounds) > 3 and bounds[3] is not None else [1] * len(starts)
    for k, axis in enumerate(axes):
        axis += len(source) if axis < 0 else 0
        dim = source[axis]
        length = len(range(hint(dim))[slice(starts[k], ends[k] if ends[k] >= -hint(dim) else None, steps[k])])
        if is_fixed(dim):
            source[axis] = fixed(length)
        elif steps[k] == 1 and ends[k] >= hint(dim):
            ends[k] = TO_THE_END
            source[axis] = dim if starts[k] == 0 else (_fresh(node, axis, length),)
        elif (starts[k] < 0) == (ends[k] < 0) and steps[k] > 0:
            source[axis] = fixed(length) if abs(steps[k]) == 1 else (_fresh(node, axis, length),)
        else:
            source[axis] = (_fresh(node, axis, length),)
    node.replace_input_with(2, walk.write.constant(np.asarray(ends, np.int64)))
    return tuple(source)


def _fresh(node: ir.Node, axis: int, length: int) -> Symbol:
    value = node.outputs[0]
    return Symbol(f"{value.name}_{axis}", length, (value, axis))


def _resize(walk: SizeWalk, node: ir.Node) -> tuple[Dim, ...]:
    """Resize: a size that is a multiple of the old one stays that multiple."""
    source = walk.of(required(node.inputs, 0))
    sizes_input = node.inputs[3] if len(node.inputs) > 3 else None
    if sizes_input is None:
        found = walk.infer(node)[0]
        if found is None:
            raise Baked("the shape of its output cannot be told")
        return found
    given = walk.vector(sizes_input)
    if given is None or len(given) != len(source):
        raise Baked("its sizes are computed")
    dims: list[Dim] = []
    for dim, size in zip(source, map(hint, given), strict=True):
        if is_fixed(dim) or size == hint(dim):
            dims.append(dim if size == hint(dim) else fixed(size))
        elif size % hint(dim) == 0:
            dims.append((*dim, size // hint(dim)))
        else:
            raise Baked(f"it resizes {text(dim)} from {hint(dim)} to {size}, which is no multiple")
    node.replace_input_with(3, walk.write.sizes(node, [hint(d) if is_fixed(d) else d for d in dims]))
    walk.note(node, f"sizes became [{', '.join(text(d) or '1' for d in dims)}]")
    return tuple(dims)


def _shape(walk: SizeWalk, node: ir.Node) -> tuple[Dim, ...]:
    """Shape: a vector as long as the input's rank."""
    node.outputs[0].type = ir.TensorType(ir.DataType.INT64)
    return (fixed(len(walk.of(required(node.inputs, 0)))),)


def _range(walk: SizeWalk, node: ir.Node) -> tuple[Dim, ...]:
    """Range: as long as its limit, from 0 in steps of 1."""
    limit = walk.vector(node.inputs[1])
    if limit is None or constant_input(node, 0) != 0 or constant_input(node, 2) != 1:
        raise Baked("its limits are computed")
    return limit


SPECIAL: Mapping[tuple[str, str], Callable[[SizeWalk, ir.Node], tuple[Dim, ...]]] = {
    ("", "Reshape"): _reshape,
    ("", "Expand"): _expand,
    ("", "Slice"): _slice,
    ("", "Resize"): _resize,
    ("", "Shape"): _shape,
    ("", "Range"): _range,
}
