"""Find sizes of its free dimensions at which the original model runs."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from builder.model import Model
from builder.proof.session import Session, one_line, onnxruntime_errors, open_original
from builder.samples import CAUTIONS, Sizes, candidates, draw_feeds, free_names

BUDGET_S = 20.0
"""The longest time to search."""

LARGEST_INPUTS_BYTES = 64 << 20
"""Larger inputs are not tried."""


@dataclass(frozen=True, slots=True)
class WorkingSizes:
    """Sizes at which the original model runs.

    Attributes:
        found: For each way to size the free dimensions, the size of each by its name, all of which run. The first has
            the most different sizes; in the others, every dimension that can has another size. Empty if the model
            runs at none of the sizes that were tried.
        reason: Why it runs at none.
    """

    found: tuple[Sizes, ...]
    reason: str = ""


def working_sizes(model: Model, pinned: Sizes | None = None, *, wanted: int = 3) -> WorkingSizes:
    """Find sizes of the free dimensions at which the original model runs on drawn samples.

    Example: for `ids[batch, length]` in a model that has 1 frozen for the batch, it finds batch 1 and length 7; batch 1
    and length 11; batch 1 and length 13.

    Args:
        model: The model. Its free dimensions have the names that its input shapes give, `NAME_AXIS` where the file
            gives none.
        pinned: Sizes that are settled, by name.
        wanted: How many ways to size the dimensions to look for.

    Raises:
        ModelError: ONNX Runtime cannot load the model.
    """
    search = _Search(model, open_original(model.path, model.zipmaps), time.monotonic() + BUDGET_S)
    settled = {name: size for name, size in (pinned or {}).items() if name in free_names(model)}
    for sizes, variations in candidates(model, settled):
        if search.runs(sizes):
            others = (other for other in search.variants(sizes, variations, settled) if other != sizes)
            return WorkingSizes(_first_different([sizes], others, wanted))
        if search.is_over():
            break
    return WorkingSizes((), search.reason)


def _first_different(found: list[Sizes], others: Iterator[Sizes], wanted: int) -> tuple[Sizes, ...]:
    for other in others if wanted > 1 else ():
        if other not in found:
            found.append(other)
        if len(found) == wanted:
            break
    return tuple(found)


class _Search:
    """Runs the original at one choice of sizes after the other, within a time."""

    def __init__(self, model: Model, session: Session, until: float) -> None:
        self._model = model
        self._session = session
        self._until = until
        self.reason = ""

    def is_over(self) -> bool:
        """Return whether the time is used up."""
        return time.monotonic() > self._until

    def runs(self, sizes: Sizes) -> bool:
        """Return whether the model runs at these sizes and gives answers that are not empty."""
        for caution in CAUTIONS:
            feeds = draw_feeds(self._model, sizes, caution=caution)
            if sum(array.nbytes for array in feeds.values()) > LARGEST_INPUTS_BYTES:
                return False
            try:
                answers = self._session.run({**self._model.constants, **feeds})
            except onnxruntime_errors() as error:
                self.reason = self.reason or f"at {_listed(sizes)}: {one_line(error)}"
                continue
            if all(answer.size for answer in answers.values()):
                return True
            self.reason = self.reason or f"at {_listed(sizes)}: an output is empty"
        return False

    def variants(self, base: Sizes, variations: Sequence[Sizes], settled: Sizes) -> Iterator[Sizes]:
        """Yield other sizes that run: first the given variations, then those that change each free name by itself."""
        for sizes in variations:
            if not self.is_over() and self.runs(sizes):
                yield sizes
        for factor in (2, 3, 4):
            moved = {
                name: size * factor
                for name, size in base.items()
                if name not in settled and not self.is_over() and self.runs({**base, name: size * factor})
            }
            if len(moved) > 1 and self.runs({**base, **moved}):
                yield {**base, **moved}
            else:
                yield from ({**base, name: size} for name, size in moved.items())


def _listed(sizes: Sizes) -> str:
    return ", ".join(f"{name}={size}" for name, size in sizes.items()) or "its own sizes"
