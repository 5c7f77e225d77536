"""Try the original model at different sizes of its free dimensions."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np

from builder.batching import BatchedModel, Shape
from builder.model import Model, stored_dtype
from builder.proof.child import Child, ChildDiedError
from builder.proof.comparison import coarsest_precision, differences, tolerance_for
from builder.proof.session import Session, onnxruntime_errors, open_original
from builder.samples import CAUTIONS, USUAL, Domains, Sizes, candidates, draw_feeds, free_names
from builder.tensors import Arrays

BUDGET_S = 30.0
"""The longest time for all runs together, when the caller sets none."""

RETRY_S = 1.0
"""A model that takes longer to fail is not tried again with more cautious samples of the same sizes."""

LARGEST_INPUTS_BYTES = 64 << 20
"""Larger inputs are not tried."""

UNSEEN = ((3, 1), (2, 1), (1, 1), (4, 0), (2, 0))
"""What to make of sizes that work to get others: a multiple, and one more."""

WANTED = 3
"""How many ways to size the dimensions are looked for."""


class OriginalRuns:
    """Runs of the original model on drawn samples, to see at which sizes it does.

    The free dimensions of the model have the names that its input shapes give, `NAME_AXIS` where the file gives none.
    The model runs in a process of its own, which starts with the first run.

    Args:
        model: The original.
        budget_s: The longest time for all runs together, seconds.
    """

    def __init__(self, model: Model, *, budget_s: float = BUDGET_S) -> None:
        self._model = model
        self._budget_s = budget_s
        self._spent_s = 0.0
        self._known: dict[tuple[tuple[str, int], ...], Mapping[str, Shape] | None] = {}
        self._child = Child(_Runner(model))

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
                return _first_different(sizes, self._variants(sizes, variations, settled), settled)
            if self._spent_s >= self._budget_s:
                break
        return ()

    def output_shapes(self, sizes: Sizes) -> Mapping[str, Shape] | None:
        """Return the shapes of the outputs at these sizes.

        None means that the model does not run there, that an output is empty, or that the time is used up.
        """
        key = tuple(sorted(sizes.items()))
        if key not in self._known:
            started = time.monotonic()
            self._known[key] = self._ask(sizes) if self._spent_s < self._budget_s else None
            self._spent_s += time.monotonic() - started
        return self._known[key]

    def _ask(self, sizes: Sizes) -> Mapping[str, Shape] | None:
        if self._input_bytes(sizes) > LARGEST_INPUTS_BYTES:
            return None
        try:
            found: Mapping[str, Shape] | None = self._child.ask((sizes,))
        except ChildDiedError:
            return None
        return found

    def _input_bytes(self, sizes: Sizes) -> int:
        return sum(
            math.prod(dim if isinstance(dim, int) else sizes[dim] for dim in spec.shape)
            * stored_dtype(spec.dtype).itemsize
            for spec in self._model.inputs
        )

    def keeps_apart(self, sizes: Sizes, axes: Mapping[str, int | None], chunk: int) -> bool:
        """Return whether the model gives a few rows of a batch the answers that it gives to them alone.

        Args:
            sizes: Sizes at which it runs, and has a batch in front of each output.
            axes: The axis of the batch, by input.
            chunk: How many rows; the batch is a multiple of that.
        """
        try:
            return bool(self._child.ask((sizes, axes, chunk)))
        except ChildDiedError:
            return False

    def _variants(self, base: Sizes, variations: Sequence[Sizes], settled: Sizes) -> Iterator[Sizes]:
        """Yield other sizes that run: first the given variations, then those that change each free name by itself."""

        def runs(sizes: Sizes) -> bool:
            shapes = self.output_shapes(sizes)
            return shapes is not None and self._has_same_rows(base, sizes, shapes)

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

    def _has_same_rows(self, base: Sizes, sizes: Sizes, shapes: Mapping[str, Shape]) -> bool:
        """Return whether outputs that have as many rows as some input at `base` have as many at `sizes` too.

        An image of twice the width may be taken for two images.
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
        return open_original(self._model.path, self._model.zipmaps, is_trial=True)

    @cached_property
    def _domains(self) -> Domains:
        return Domains(self._model)

    def __call__(self, question: tuple[Any, ...]) -> Any:
        """Answer `(sizes,)` as `output_shapes` does, and `(sizes, axes, chunk)` as `keeps_apart` does."""
        return self._run(*question) if len(question) == 1 else self._keeps_apart(*question)

    def _run(self, sizes: Sizes) -> dict[str, Shape] | None:
        started = time.monotonic()
        for caution in CAUTIONS:
            if time.monotonic() - started > RETRY_S:
                break
            feeds = draw_feeds(self._domains, sizes, caution=caution)
            try:
                answers = self._session.run({**self._model.constants, **feeds})
            except onnxruntime_errors():
                continue
            shapes = {name: np.shape(answer) for name, answer in answers.items()}
            if all(answer.size for answer in answers.values()):
                return shapes
        return None

    def _keeps_apart(self, sizes: Sizes, axes: Mapping[str, int | None], chunk: int) -> bool:
        feeds = draw_feeds(self._domains, sizes)
        batch = next(feeds[name].shape[axis] for name, axis in axes.items() if axis is not None)
        try:
            together = self._session.run({**self._model.constants, **feeds})
            return all(
                self._is_same_alone(feeds, axes, range(row, row + chunk), together) for row in range(0, batch, chunk)
            )
        except onnxruntime_errors():
            return False

    def _is_same_alone(self, feeds: Arrays, axes: Mapping[str, int | None], rows: range, together: Arrays) -> bool:
        one = {name: a if (axis := axes[name]) is None else a.take(rows, axis) for name, a in feeds.items()}
        alone = self._session.run({**self._model.constants, **one})
        precision = coarsest_precision(self._model.ir.graph)
        return all(
            alone[name].shape == answer[rows.start : rows.stop].shape
            and not differences(alone[name], answer[rows.start : rows.stop], tolerance_for(answer, precision))[1].any()
            for name, answer in together.items()
        )


def _first_different(base: Sizes, others: Iterator[Sizes], settled: Sizes) -> tuple[Sizes, ...]:
    """Return `base` and other sizes: if possible, every size that is not settled is another one in some of them."""
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


def free_sizes(batched: BatchedModel) -> tuple[Sizes, ...]:
    """Return choices of sizes for the dimensions that both the original and the rewritten model leave free.

    The original runs at each of them, on its static batch: the usual size if it can, then sizes that are all
    different. If it runs at none, the usual one is returned, and what it says there is the reason. There are no choices
    where no dimension but the batch is free.

    Raises:
        ModelError: ONNX Runtime cannot load the original.
    """
    model = batched.original
    if not any(isinstance(dim, str) for tensor in batched.inputs for dim in tensor.static_dims):
        return ()
    axes = {tensor.original: tensor.batch_axis for tensor in batched.inputs}
    in_front = [spec.shape[axis] for spec in model.inputs if (axis := axes[spec.name]) is not None]
    batch = {dim: batched.static_batch for dim in in_front if isinstance(dim, str)}
    usual = {**dict.fromkeys(free_names(model), USUAL), **batch}
    runs = OriginalRuns(model)
    found: list[Sizes] = [usual] if runs.output_shapes(usual) is not None else []
    found += [sizes for sizes in runs.working_sizes(batch) if sizes != usual]
    if found:
        found += _unseen(runs, found[-1], batch)
    return tuple(found) or (usual,)


def _unseen(runs: OriginalRuns, found: Sizes, batch: Sizes) -> list[Sizes]:
    """Return sizes that the analysis has not seen: what it took for a rule has to hold there too."""
    others = (
        {name: size if name in batch else times * size + more for name, size in found.items()} for times, more in UNSEEN
    )
    return list(islice((sizes for sizes in others if runs.output_shapes(sizes) is not None), 1))
