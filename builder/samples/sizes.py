"""Sizes to try for the dimensions that a model leaves free, in an order in which one soon fits.

A free dimension has a name, and dimensions of one name have one size. Nothing in a file says which sizes a model runs
at: an image network may need multiples of 32, a mask the length of the ids beside it, and a file that only says that
its batch is dynamic runs at the one batch that was frozen into it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from builder.model import Model

Sizes = Mapping[str, int]
"""The size of each free dimension, by its name."""

_BATCHES = (3, 5, 2, 7, 4)
"""Sizes to try for axis 0: small ones, because a batch costs its size in time."""

_FROZEN_BATCHES = (1, 4, 2, 8, 16)
"""Sizes at which a model runs whose batch is not as dynamic as the file says."""

_STEPS: Sequence[Sequence[int]] = (
    # No two sizes are equal, and no size is likely to be another one of the model's, so that what works is general.
    (7, 11, 13, 17, 19, 23, 29, 31, 37, 41),
    (24, 40, 56, 72, 88, 104, 120),
    (96, 160, 224, 288, 352, 416),
    (192, 320, 448, 576),
    # One size for all axes: a square image, a mask as long as the ids.
    *((size,) for size in (32, 64, 1, 2, 8, 16, 128, 224, 256, 80, 160, 320, 384, 400, 448, 480, 512, 640)),
    *((size,) for size in (1000, 1024, 1280, 8000, 16000, 48000)),
)


@dataclass(frozen=True, slots=True)
class _Grouping:
    """Which free dimensions share a size: those on axis 0, in groups, and the others, in groups."""

    rows: tuple[tuple[str, ...], ...]
    others: tuple[tuple[str, ...], ...]

    def sizes(self, step: Sequence[int], shift: int, batch: int | None) -> dict[str, int]:
        """Return a size for each name: the groups take the sizes of the step in turn, from the `shift`-th round on."""
        sizes: dict[str, int] = {}
        for index, names in enumerate(self.rows):
            size = _BATCHES[(index + shift * len(self.rows)) % len(_BATCHES)] if batch is None else batch
            sizes |= dict.fromkeys(names, size)
        for index, names in enumerate(self.others):
            sizes |= dict.fromkeys(names, step[(index + shift * len(self.others)) % len(step)])
        return sizes


def free_names(model: Model) -> tuple[str, ...]:
    """Return the names of the dimensions that the model's inputs leave free, in the order of the inputs."""
    return tuple(_first_axes(model))


def candidates(model: Model, pinned: Sizes) -> Iterator[tuple[Sizes, Sequence[Sizes]]]:
    """Yield sizes to try for all free names, each with variations to try once these are known to work.

    Args:
        model: The model.
        pinned: Names whose size is settled; it is part of all that is yielded.
    """
    free = [name for name in free_names(model) if name not in pinned]
    groupings = _groupings(model, free)
    for step in _STEPS:
        for batch in (None, *_FROZEN_BATCHES):
            for grouping in groupings:
                first, *others = ({**pinned, **grouping.sizes(step, shift, batch)} for shift in range(3))
                yield first, others
        if not free:
            return


def _groupings(model: Model, free: Sequence[str]) -> list[_Grouping]:
    """Return which free dimensions may share a size: none, those on the same axis, or all but the batch."""
    axes = _first_axes(model)
    rows = tuple(name for name in free if axes[name] == 0)
    others = tuple(name for name in free if axes[name] > 0)
    together, own = _group([rows]), _group((name,) for name in others)
    by_axis = _group(tuple(name for name in others if axes[name] == axis) for axis in sorted(set(axes.values())))
    found = [
        _Grouping(_group((name,) for name in rows), own),
        _Grouping(together, own),
        _Grouping(together, by_axis),
        _Grouping(together, _group([others])),
    ]
    return list(dict.fromkeys(found))


def _group(groups: Iterable[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    return tuple(group for group in groups if group)


def _first_axes(model: Model) -> dict[str, int]:
    """Return the first axis that each free dimension is on, in any input."""
    axes: dict[str, int] = {}
    for spec in model.inputs:
        for axis, dim in enumerate(spec.shape):
            if isinstance(dim, str):
                axes[dim] = min(axis, axes.get(dim, axis))
    return axes
