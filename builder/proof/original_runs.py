"""Try the original model at different sizes of its dynamic dimensions."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np

from builder.batching import Shape
from builder.model import Model, stored_dtype
from builder.proof.child import Child, ChildDiedError
from builder.proof.comparison import coarsest_precision, differences, tolerance_for
from builder.proof.neighbours import FAR, enlarged
from builder.proof.session import Session, one_line, open_original, run_errors
from builder.samples import (
    Domains,
    Sizes,
    candidates,
    draw_feeds,
    free_names,
    mended,
    other_sizes,
)
from builder.tensors import Arrays

BUDGET_S = 30.0
"""The longest time to search, unless the caller sets another."""

RETRY_S = 1.0
"""If a failed run takes longer, the same sizes are not tried again with more cautious samples."""

LARGEST_INPUTS_BYTES = 64 << 20
"""Larger inputs are not tried, unless the caller asks for their sizes."""

WANTED = 3
"""How many choices of sizes to look for."""

MOST_ASKED = 6
"""How many choices of sizes to try for the axes whose sizes the caller leaves open."""


class OriginalRuns:
    """Runs the original model on drawn samples, to find out at which sizes it works.

    A dynamic dimension has its name in the file, or `INPUT_AXIS` if it has none. The model runs in a child process,
    which starts at the first run.

    Args:
        model: The original.
        budget_s: The longest time to search, seconds: runs that are needed are made after it too.
    """

    def __init__(self, model: Model, *, budget_s: float = BUDGET_S) -> None:
        self._model = model
        self._budget_s = budget_s
        self._spent_s = 0.0
        self._known: dict[tuple[tuple[str, int], ...], Mapping[str, Shape] | str] = {}
        self._child = Child(_Runner(model))

    def working_sizes(self, settled: Sizes) -> tuple[Sizes, ...]:
        """Find sizes of the dynamic dimensions at which the model runs.

        Example: for `ids[batch, length]` in a model whose batch is frozen at 1, it finds batch 1 and length 7; batch 1
        and length 11; batch 1 and length 13.

        Args:
            settled: Sizes to keep, by name.

        Returns:
            Up to three choices of sizes, each by name. In the first, as many sizes as possible are different. In the
            others, every size differs from the first choice's if it can. Empty if the model runs at none of the sizes
            that were tried.

        Raises:
            ModelError: ONNX Runtime cannot load the model.
        """
        settled = {name: size for name, size in settled.items() if name in free_names(self._model)}
        for sizes, variations in self._candidates(settled):
            if (found := self.mended(sizes, settled)) is not None:
                return _first_different(found, self._variants(found, variations, settled), settled)
            if self._spent_s >= self._budget_s:
                break
        return ()

    def _candidates(self, settled: Sizes) -> Iterator[tuple[Sizes, Iterable[Sizes]]]:
        """Yield sizes to try, each with variations; those that the caller asked for come first.

        Others right above them come before them, because they are less likely to be sizes of something else in the
        model. Far below them it may run too, but on nothing: ONNX Runtime's mean of no values is 0.
        """
        asked = {name: size for name, size in self._model.sizes.items() if name not in settled}
        above = {name: size + 1 + 2 * number for number, (name, size) in enumerate(asked.items())}
        for wanted in (above, asked) if asked else ():
            for sizes, _ in islice(candidates(self._model, {**wanted, **settled}), MOST_ASKED):
                yield sizes, self.near(sizes, settled)
        yield from candidates(self._model, settled)

    def mended(self, sizes: Sizes, settled: Sizes) -> Sizes | None:
        """Return these sizes if the model runs at them, or near ones that follow its error; None if at neither.

        Axis 0 stays as it is: it is the batch, of which a model may have one of a few sizes, whatever the others are.

        Args:
            sizes: The sizes to try.
            settled: Sizes to keep, by name.
        """
        in_front = {spec.shape[0] for spec in self._model.inputs if spec.shape}
        return mended(sizes, self.fault_at, kept={*settled, *(name for name in sizes if name in in_front)})

    def near(self, sizes: Sizes, settled: Sizes) -> Iterator[Sizes]:
        """Yield other sizes at which the model runs, near these, at which it runs too."""
        return other_sizes(sizes, self.fault_at, kept=settled)

    def fault_at(self, sizes: Sizes) -> str | None:
        """Return why the model does not run at these sizes, as far as that is known; None if it does."""
        if self.output_shapes(sizes) is not None:
            return None
        found = self._known.get(tuple(sorted(sizes.items())), "")
        return found if isinstance(found, str) else ""

    def output_shapes(self, sizes: Sizes, *, is_needed: bool = False) -> Mapping[str, Shape] | None:
        """Return the shapes of the outputs at these sizes, by name.

        None means that the model does not run at them or that an output is empty. Unless the answer `is_needed`, it is
        also None after the time is used up: that a search had to stop says nothing about the model.
        """
        key = tuple(sorted(sizes.items()))
        if key not in self._known and (is_needed or self._spent_s < self._budget_s):
            started = time.monotonic()
            self._known[key] = self._ask(sizes)
            self._spent_s += time.monotonic() - started
        found = self._known.get(key)
        return None if isinstance(found, str) else found

    def why_not(self) -> str | None:
        """Return why ONNX Runtime cannot run the model at the first sizes of the search; None if it can somewhere.

        Raises:
            ModelError: ONNX Runtime cannot load the model.
        """
        if self.working_sizes({}):
            return None
        sizes, _ = next(iter(candidates(self._model, {})))
        try:
            reason: str | None = self._child.ask(("fault", sizes))
        except ChildDiedError:
            return None
        return reason

    def _ask(self, sizes: Sizes) -> Mapping[str, Shape] | str:
        """Return the shapes of the outputs, or why the model does not run."""
        is_asked = bool(self._model.sizes) and sizes.items() >= self._model.sizes.items()
        if self._input_bytes(sizes) > LARGEST_INPUTS_BYTES and not is_asked:
            return ""
        try:
            found: Mapping[str, Shape] | str = self._child.ask(("shapes", sizes))
        except ChildDiedError:
            return ""
        return found

    def _input_bytes(self, sizes: Sizes) -> int:
        return sum(
            math.prod(dim if isinstance(dim, int) else sizes[dim] for dim in spec.shape)
            * stored_dtype(spec.dtype).itemsize
            for spec in self._model.inputs
        )

    def keeps_apart(self, sizes: Sizes, axes: Mapping[str, int | None], chunk: int) -> bool:
        """Return whether every few rows of a batch get the same answers as without the other rows.

        Args:
            sizes: Sizes at which the model runs and has the batch on axis 0 of each output.
            axes: The axis of the batch, by input; None for an input without one.
            chunk: How many rows to run together. The batch size is a multiple of it.
        """
        try:
            return bool(self._child.ask(("apart", sizes, axes, chunk)))
        except ChildDiedError:
            return False

    def _variants(self, base: Sizes, variations: Iterable[Sizes], settled: Sizes) -> Iterator[Sizes]:
        """Yield other sizes that run: first of the given variations, then those that change each name by itself."""

        def runs(sizes: Sizes) -> bool:
            shapes = self.output_shapes(sizes)
            return shapes is not None and self._has_same_rows(base, sizes, shapes)

        followed = (self.mended(sizes, settled) for sizes in variations)
        yield from (sizes for sizes in followed if sizes is not None and runs(sizes))
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

    def _has_same_rows(self, base: Sizes, sizes: Sizes, shapes: Mapping[str, Shape]) -> bool:
        """Return whether outputs with as many rows as an input at `base` have as many as that input at `sizes` too.

        They may not: an image of twice the width may be taken for two images.
        """
        rows = [spec.shape[0] for spec in self._model.inputs if spec.shape and isinstance(spec.shape[0], str)]
        known = self.output_shapes(base) or {}
        return all(
            shapes[name][:1] == (sizes[row],)
            for name, shape in known.items()
            for row in rows
            if isinstance(row, str) and shape[:1] == (base[row],)
        )


class _Runner:
    """Runs the original in the child."""

    def __init__(self, model: Model) -> None:
        self._model = model

    @cached_property
    def _session(self) -> Session:
        return open_original(self._model.path, self._model.zipmaps, outputs=self._model.output_names, is_trial=True)

    @cached_property
    def _domains(self) -> Domains:
        return Domains(self._model)

    @cached_property
    def _precision(self) -> str:
        return coarsest_precision(self._model.ir.graph)

    def __call__(self, question: tuple[Any, ...]) -> Any:
        """Answer `("shapes", sizes)`, `("apart", sizes, axes, chunk)` and `("fault", sizes)` for the methods above."""
        kind, *arguments = question
        match kind:
            case "shapes":
                return self._shapes(*arguments)
            case "apart":
                return self._keeps_apart(*arguments)
        return self._fault(*arguments)

    def _shapes(self, sizes: Sizes) -> dict[str, Shape] | str:
        """Return the shapes of the outputs, or ONNX Runtime's message for the most cautious samples."""
        started, why = time.monotonic(), ""
        for feeds in draw_feeds(self._domains, sizes):
            if time.monotonic() - started > RETRY_S:
                break
            try:
                answers = self._session.run({**self._model.constants, **feeds})
            except run_errors() as error:
                why = one_line(error)
                continue
            shapes = {name: np.shape(answer) for name, answer in answers.items()}
            if all(answer.size for answer in answers.values()):
                return shapes
            why = ""
        return why

    def _fault(self, sizes: Sizes) -> str | None:
        try:
            self._session.run({**self._model.constants, **next(draw_feeds(self._domains, sizes))})
        except run_errors() as error:
            return one_line(error)
        return None

    def _keeps_apart(self, sizes: Sizes, axes: Mapping[str, int | None], chunk: int) -> bool:
        """A model may look at its neighbours above a threshold only, so it is also asked with large values."""
        feeds = next(draw_feeds(self._domains, sizes))
        return self._are_apart(feeds, axes, chunk, may_fail=False) and all(
            self._are_apart(enlarged(feeds, factor), axes, chunk, may_fail=True) for factor in (FAR, -FAR)
        )

    def _are_apart(self, feeds: Arrays, axes: Mapping[str, int | None], chunk: int, *, may_fail: bool) -> bool:
        batch = next(feeds[name].shape[axis] for name, axis in axes.items() if axis is not None)
        try:
            together = self._session.run({**self._model.constants, **feeds})
            return all(
                self._is_same_alone(feeds, axes, range(row, row + chunk), together) for row in range(0, batch, chunk)
            )
        except run_errors():
            return may_fail

    def _is_same_alone(self, feeds: Arrays, axes: Mapping[str, int | None], rows: range, together: Arrays) -> bool:
        one = {name: a if (axis := axes[name]) is None else a.take(rows, axis) for name, a in feeds.items()}
        alone = self._session.run({**self._model.constants, **one})
        for name, answer in together.items():
            wanted, tolerance = answer[rows.start : rows.stop], tolerance_for(answer, self._precision)
            if alone[name].shape != wanted.shape or differences(alone[name], wanted, tolerance)[1].any():
                return False
        return True


def _first_different(base: Sizes, others: Iterator[Sizes], settled: Sizes) -> tuple[Sizes, ...]:
    """Return `base` and other sizes, so that every size that is not settled takes another value if possible."""
    found, rest = [base], list[Sizes]()
    same = set(base) - set(settled)
    for other in others:
        differing = {name for name in same if other[name] != base[name]}
        if other not in (*found, *rest):
            (found if differing else rest).append(other)
        same -= differing
        if len(found) == WANTED or (not same and len(found) + len(rest) >= WANTED):
            break
    return tuple([*found, *rest][:WANTED])
