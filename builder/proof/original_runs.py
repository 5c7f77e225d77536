"""Try the original model at different sizes of its free dimensions."""

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np

from builder.batching import Shape
from builder.model import Model
from builder.proof.session import Session, onnxruntime_errors, open_original
from builder.samples import CAUTIONS, Sizes, candidates, draw_feeds, free_names

BUDGET_S = 30.0
"""The longest time for all runs together."""

RETRY_S = 1.0
"""A model that takes longer to fail is not tried again with more cautious samples of the same sizes."""

LARGEST_INPUTS_BYTES = 64 << 20
"""Larger inputs are not tried."""

WANTED = 3
"""How many ways to size the dimensions are looked for."""


class OriginalRuns:
    """Runs of the original model on drawn samples, to see at which sizes it does.

    The free dimensions of the model have the names that its input shapes give, `NAME_AXIS` where the file gives none.
    The session is opened for the first run.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._spent_s = 0.0
        self._known: dict[tuple[tuple[str, int], ...], dict[str, Shape] | None] = {}

    @cached_property
    def _session(self) -> Session:
        return open_original(self._model.path, self._model.zipmaps, is_trial=True)

    def working_sizes(self, settled: Sizes) -> tuple[Sizes, ...]:
        """Find sizes of the free dimensions at which the model runs.

        Example: for `ids[batch, length]` in a model that has 1 frozen for the batch, it finds batch 1 and length 7;
        batch 1 and length 11; batch 1 and length 13.

        Args:
            settled: Sizes to keep, by name.

        Returns:
            Up to three ways to size the dimensions, each with the size of each by its name. The first has the most
            different sizes; in the others, every dimension that can has another size. Empty if the model runs at none
            of the sizes that were tried.

        Raises:
            ModelError: ONNX Runtime cannot load the model.
        """
        settled = {name: size for name, size in settled.items() if name in free_names(self._model)}
        for sizes, variations in candidates(self._model, settled):
            if self.output_shapes(sizes) is not None:
                others = self._variants(sizes, variations, settled)
                return _first_different([sizes], (other for other in others if other != sizes))
            if self._spent_s >= BUDGET_S:
                break
        return ()

    def output_shapes(self, sizes: Sizes) -> Mapping[str, Shape] | None:
        """Return the shapes of the outputs at these sizes.

        None means that the model does not run there, that an output is empty, or that the time is used up.
        """
        key = tuple(sorted(sizes.items()))
        if key not in self._known:
            started = time.monotonic()
            self._known[key] = self._run(sizes) if self._spent_s < BUDGET_S else None
            self._spent_s += time.monotonic() - started
        return self._known[key]

    def _run(self, sizes: Sizes) -> dict[str, Shape] | None:
        started = time.monotonic()
        for caution in CAUTIONS:
            if time.monotonic() - started > RETRY_S:
                break
            feeds = draw_feeds(self._model, sizes, caution=caution)
            if sum(array.nbytes for array in feeds.values()) > LARGEST_INPUTS_BYTES:
                return None
            try:
                answers = self._session.run({**self._model.constants, **feeds})
            except onnxruntime_errors():
                continue
            shapes = {name: np.shape(answer) for name, answer in answers.items()}
            if all(answer.size for answer in answers.values()):
                return shapes
        return None

    def _variants(self, base: Sizes, variations: Sequence[Sizes], settled: Sizes) -> Iterator[Sizes]:
        """Yield other sizes that run: first the given variations, then those that change each free name by itself."""

        def runs(sizes: Sizes) -> bool:
            return self.output_shapes(sizes) is not None

        yield from filter(runs, variations)
        for factor in (2, 3, 4):
            moved = {
                name: size * factor
                for name, size in base.items()
                if name not in settled and runs({**base, name: size * factor})
            }
            if len(moved) > 1 and runs({**base, **moved}):
                yield {**base, **moved}
            else:
                yield from ({**base, name: size} for name, size in moved.items())


def _first_different(found: list[Sizes], others: Iterator[Sizes]) -> tuple[Sizes, ...]:
    for other in others:
        if other not in found:
            found.append(other)
        if len(found) == WANTED:
            break
    return tuple(found)
