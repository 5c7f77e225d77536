"""Sizes to try for the dynamic dimensions of a model, the most likely to work first.

A dynamic dimension has a name, and dimensions with the same name have the same size. Nothing in a file says which sizes
a model runs at: an image network may need multiples of 32, a mask has to be as long as the ids beside it, and a file
that only claims a dynamic batch runs at the one size that was frozen into it. What the nodes say (see `constraints`) is
tried first.
"""

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, product
from operator import add, floordiv, mul, sub

from builder.model import Model
from builder.samples.constraints import Constraints

Sizes = Mapping[str, int]
"""The size of each dynamic dimension, by its name."""

Names = tuple[str, ...]

USUAL = 32
"""The usual size of a sample on a dynamic axis, if the model runs at it."""

ROUNDS = 3
"""How many choices of sizes are yielded together: one to try first, and its variations."""

STATE_RANK = 3
"""The rank of the states of recurrent networks: layers, batch, features."""

_BATCHES = (3, 5, 2, 7, 4)
"""Sizes to try for axis 0: small ones, because a batch costs its size in time."""

_FROZEN_BATCHES = (1, 4, 2, 8, 16)
"""Batch sizes to try for a model whose batch is frozen, whatever the file says."""

_MULTIPLES = (160, 224, 96, 288, 352, 416)
"""Multiples of 32, for networks that halve an image five times."""

_STEPS: Sequence[Sequence[int]] = (
    # What works at these sizes works at most: all are different, odd or even, unlikely to be another size of the model,
    # and so far apart that they still differ after strides of 32 or 64.
    (211, 134, 97, 293, 330, 389, 166, 259, 178, 401, 457, 118),
    (37, 58, 21, 46, 81, 97, 30, 67, 52, 43),
    (7, 10, 13, 11, 18, 17, 14, 19),
    # Networks that halve an image and double it again need multiples of a power of 2.
    (136, 200, 72, 248, 328, 392, 168, 264),
    _MULTIPLES,
    (192, 320, 448, 576),
)
"""Sizes that the groups of dynamic dimensions take in turn."""

_ONE_FIXED = (48, 32, 64, 80, 40, 96, 128)
"""Sizes for one group that may have only one, such as the height of a line of text, while the others vary."""

_LAST: Sequence[Sequence[int]] = (
    # A square image, a mask as long as the ids.
    *((size,) for size in (32, 64, 1, 2, 8, 16, 128, 224, 256, 80, 160, 320, 384, 400, 448, 480, 512, 640)),
    # Seconds of sound.
    (8033, 12100, 16007, 10001),
    *((size,) for size in (1000, 1024, 1280, 8000, 16000, 48000)),
)


@dataclass(frozen=True, slots=True)
class _Grouping:
    """Which dynamic dimensions share a size: groups of those on axis 0, and groups of the others."""

    rows: tuple[Names, ...]
    others: tuple[Names, ...]

    def sizes(self, step: Sequence[int], shift: int, batch: int | None) -> dict[str, int]:
        """Return a size for each name: the groups take the sizes of the step in turn, starting at round `shift`."""
        sizes: dict[str, int] = {}
        for index, names in enumerate(self.rows):
            size = _BATCHES[(index + shift * len(self.rows)) % len(_BATCHES)] if batch is None else batch
            sizes |= dict.fromkeys(names, size)
        for index, names in enumerate(self.others):
            sizes |= dict.fromkeys(names, step[(index + shift * len(self.others)) % len(step)])
        return sizes


def completed(model: Model, sizes: Sizes) -> dict[str, int]:
    """Return the sizes, with those of names that are sums or products of others: `past + 1` for `past`."""
    names = free_names(model)
    sums = {name: tree for name in names if name not in sizes and (tree := _expression(name, names))}
    whole = dict(sizes)
    for name, tree in sums.items():
        if all(part.id in whole for part in ast.walk(tree) if isinstance(part, ast.Name)):
            whole[name] = max(1, _evaluate(tree, whole))
    return whole


def free_names(model: Model) -> Names:
    """Return the names of the dynamic dimensions of a model's inputs, in the order of the inputs."""
    return tuple(_first_axes(model))


def candidates(model: Model, pinned: Sizes) -> Iterator[tuple[Sizes, Sequence[Sizes]]]:
    """Yield sizes to try for all dynamic dimensions, each with variations to try if the model runs at these.

    Args:
        model: The model.
        pinned: Sizes to keep, by name; they are part of all that is yielded.
    """
    known, same = _settled(model, pinned)
    # What the nodes say may be wrong: inference makes mistakes, and an axis of size 1 fits any other.
    on_their_own = [(name,) for name in free_names(model) if name not in pinned]
    seen = set()
    for sizes, variations in chain(_tries(model, known, same), _tries(model, pinned, on_their_own)):
        key = tuple(sorted(sizes.items()))
        if key not in seen:
            seen.add(key)
            yield sizes, variations


def _settled(model: Model, pinned: Sizes) -> tuple[Sizes, list[Names]]:
    """Return the sizes that are pinned or the only possible ones, and the other names, grouped by equal size."""
    if not any(axis for name, axis in _first_axes(model).items() if name not in pinned):
        return pinned, [(name,) for name in free_names(model) if name not in pinned]  # any batch will do
    constraints = Constraints(model)
    sizes = {constraints.name(name): size for name, size in pinned.items()}
    known, groups = dict(pinned), dict[str, list[str]]()
    for name in free_names(model):
        size = sizes.get(constraints.name(name), constraints.size(name))
        if name not in known and size is not None:
            known[name] = size
        elif name not in known:
            groups.setdefault(constraints.name(name), []).append(name)
    return known, [tuple(names) for names in groups.values()]


def _tries(model: Model, known: Sizes, same: Sequence[Names]) -> Iterator[tuple[Sizes, Sequence[Sizes]]]:
    """Yield what `candidates` does, given the known sizes and, in `same`, the other names, grouped by equal size."""
    sums = {name: tree for names in same for name in names if (tree := _expression(name, free_names(model)))}

    def complete(sizes: Sizes) -> Sizes:
        whole = {**sizes, **known}
        return whole | {name: max(1, _evaluate(tree, whole)) for name, tree in sums.items() if name not in known}

    groupings = _groupings(model, same)
    for batches in ((None, *_FROZEN_BATCHES[:1]), _FROZEN_BATCHES[1:]):
        for choices in _choices(groupings, batches):
            first, *others = map(complete, choices)
            yield first, others


def _choices(groupings: Sequence[_Grouping], batches: Sequence[int | None]) -> Iterator[Sequence[Sizes]]:
    """Yield the sizes to try first, each with two variations."""
    for step, batch, grouping in product(_STEPS, batches, groupings):
        yield [grouping.sizes(step, shift, batch) for shift in range(ROUNDS)]
    for size, batch, grouping in product(_ONE_FIXED, batches, groupings):
        for names in grouping.others if len(grouping.others) > 1 else ():
            fixed = dict.fromkeys(names, size)
            yield [{**grouping.sizes(_MULTIPLES, shift, batch), **fixed} for shift in range(ROUNDS)]
    for step, batch, grouping in product(_LAST, batches, groupings):
        yield [grouping.sizes(step, shift, batch) for shift in range(ROUNDS)]


def _groupings(model: Model, same: Sequence[Names]) -> list[_Grouping]:
    """Return which dynamic dimensions may share a size, in several ways.

    These share a size, in turn: only equal dimensions; all on axis 0; all on the same axis; those on axis 0 and the
    batch of states `[layers, N, H]`; all on axis 0, and all others.
    """
    axes = {names: min(_first_axes(model)[name] for name in names) for names in same}
    rows = [names for names in same if axes[names] == 0]
    others = [names for names in same if axes[names] > 0]
    by_axis = [[names for names in others if axes[names] == axis] for axis in sorted(set(axes.values()))]
    together = _joined([rows])
    states = [names for names in others if _is_in_states(model, names)]
    found = [
        _Grouping(tuple(rows), tuple(others)),
        _Grouping(together, tuple(others)),
        _Grouping(together, _joined(by_axis)),
        _Grouping(_joined([[*rows, *states]]), tuple(names for names in others if names not in states)),
        _Grouping(together, _joined([others])),
    ]
    return list(dict.fromkeys(found))


def _is_in_states(model: Model, names: Names) -> bool:
    """Return whether these are the batch of states of a recurrent network, `[layers, N, H]`."""
    shapes = [spec.shape for spec in model.inputs if len(spec.shape) == STATE_RANK and isinstance(spec.shape[0], int)]
    return any(shape[1] in names for shape in shapes)


def _joined(groups: Iterable[Sequence[Names]]) -> tuple[Names, ...]:
    return tuple(tuple(name for names in group for name in names) for group in groups if group)


def _first_axes(model: Model) -> dict[str, int]:
    """Return the lowest axis that each dynamic dimension is on, in any input."""
    axes: dict[str, int] = {}
    for spec in model.inputs:
        for axis, dim in enumerate(spec.shape):
            if isinstance(dim, str):
                axes[dim] = min(axis, axes.get(dim, axis))
    return axes


# ---------------------------------------------------------------- names such as "past_length + length"

_OPERATIONS = {ast.Add: add, ast.Sub: sub, ast.Mult: mul, ast.FloorDiv: floordiv, ast.Div: floordiv}


def _expression(name: str, names: Sequence[str]) -> ast.expr | None:
    """Read a name as exporters write a sum or product of other names, or return None for any other name."""
    try:
        tree = ast.parse(name, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return tree if isinstance(tree, ast.BinOp) and _is_made_of(tree, names) else None


def _is_made_of(tree: ast.expr, names: Sequence[str]) -> bool:
    match tree:
        case ast.BinOp(left, ast.Div() | ast.FloorDiv(), right):
            return _is_made_of(left, names) and isinstance(right, ast.Constant) and _is_made_of(right, names)
        case ast.BinOp(left, op, right):
            return type(op) in _OPERATIONS and _is_made_of(left, names) and _is_made_of(right, names)
        case ast.Constant(value):
            return type(value) is int and value > 0
        case ast.Name(name):
            return name in names
    return False


def _evaluate(tree: ast.expr, sizes: Sizes) -> int:
    match tree:
        case ast.BinOp(left, op, right):
            result: int = _OPERATIONS[type(op)](_evaluate(left, sizes), _evaluate(right, sizes))
            return result
        case ast.Constant(int(value)):
            return value
        case ast.Name(name):
            return sizes[name]
    raise ValueError(ast.dump(tree))
