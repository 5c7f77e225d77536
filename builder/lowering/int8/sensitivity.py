"""Find the nodes that a model has to keep in fp32, by the error that each causes when it is quantized.

The errors of single nodes add up: where 2 nodes of 50 cause most of the error, these 2 stay in fp32, whatever their
names or operators are. First each node is quantized by itself. Then the worst are kept in fp32: as few as are enough,
found by halving. Example: the errors, as parts of what is allowed, are 1.9, 0.4, 0.2 and 0.1. All four together are
beyond it. Keeping the worst two leaves 0.3, and keeping the worst leaves 0.5: one is enough.

If there are so many nodes that the time would not do, neighbours are tried together at first.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from builder.batching import BatchedModel
from builder.errors import ModelError, VerificationError
from builder.lowering.int8.ranges import batches
from builder.proof import (
    Session,
    differences,
    mean_limit,
    one_line,
    onnxruntime_warnings,
    open_rewritten,
    run_errors,
    tolerance_for,
)
from builder.tensors import Array, Arrays

BUDGET_S = 60.0
"""How long to look for the nodes, seconds."""

TARGET = 0.9
"""The part of the tolerance that the error may have here, because it may be larger on other samples."""

MOST_ROWS, MOST_BYTES = 256, 64 << 20
"""How many rows each attempt runs: those that the proof runs too, unless they are large."""

FEWEST_ROWS = 8

Group = tuple[str, ...]
"""The names of nodes that are quantized, or kept in fp32, together."""

Quantize = Callable[[frozenset[str]], ir.Model]
"""Makes the quantized model, in which the nodes with these names stay in fp32."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What has to stay in fp32.

    Attributes:
        names: The names of the nodes.
        errors: The error that each of them causes by itself, as a part of the tolerance.
        is_over: Whether the time was up before single nodes were told apart.
        error: The error that is left, as a part of the tolerance.
    """

    names: frozenset[str]
    errors: Mapping[str, float]
    is_over: bool
    error: float


def keep_sensitive(
    batched: BatchedModel,
    units: Sequence[Group],
    quantized: Quantize,
    rows: Arrays,
    *,
    max_error: float | None = None,
    budget_s: float = BUDGET_S,
) -> Kept:
    """Find as few nodes as are enough to keep in fp32.

    Args:
        batched: The model in fp32.
        units: The names of the nodes that can be quantized, in the order of the graph; those that share their weights
            are one unit.
        quantized: Makes the quantized model.
        rows: Samples, `[rows, *dims]` by input. No more than 256 are run.
        max_error: The allowed error, as `verify` takes it.
        budget_s: How long to look, seconds.

    Raises:
        ModelError: The model in fp32 fails on the samples.
    """
    search = _Search(batched, units, quantized, rows, max_error, time.monotonic() + budget_s)
    return search.find()


class _Search:
    """The search on one model."""

    def __init__(
        self,
        batched: BatchedModel,
        units: Sequence[Group],
        quantized: Quantize,
        rows: Arrays,
        max_error: float | None,
        end: float,
    ) -> None:
        self._batched = batched
        self._units = units
        self._quantized = quantized
        self._rows = {name: array[: _affordable(rows)] for name, array in rows.items()}
        self._max_error = max_error
        self._end = end
        self._everything = frozenset(name for unit in units for name in unit)
        self._alone: dict[Group, float] = {}
        self._failures: tuple[type[Exception], ...] = (ModelError, VerificationError, *run_errors())
        self._wanted = self._answer(batched.ir)

    def find(self) -> Kept:
        """Find the nodes."""
        started = time.monotonic()
        error = self._error(frozenset())
        if error <= TARGET or not self._units:
            return Kept(frozenset(), {}, False, error)
        groups = self._grouped(time.monotonic() - started)
        while True:
            error, kept, others = self._choose(groups)
            parts = [part for group in kept for part in self._halves(group)]
            if len(parts) == len(kept) or self._is_over():
                break
            groups = [*others, *parts]
        names = frozenset(name for group in kept for name in group)
        alone = {name: self._alone[group] for group in kept if group in self._alone for name in group}
        return Kept(names, alone, len(parts) > len(kept), error)

    def _choose(self, groups: Sequence[Group]) -> tuple[float, list[Group], list[Group]]:
        """Return the error that is left, the groups to keep, and the others. What was not tried in time is kept."""
        for group in groups:
            if group not in self._alone and not self._is_over():
                self._alone[group] = self._error(self._everything - set(group))
        left = [group for group in groups if group not in self._alone]
        worst = sorted((group for group in groups if group in self._alone), key=self._alone.__getitem__, reverse=True)
        count, error = self._fewest(worst, left)
        return error, [*worst[:count], *left], worst[count:]

    def _is_over(self) -> bool:
        return time.monotonic() > self._end

    def _grouped(self, cost: float) -> list[Group]:
        """Return groups of neighbours, as many as half of the time that is left allows to try."""
        most = max(4, int((self._end - time.monotonic()) / 2 / max(cost, 1e-3)))
        size = -(-len(self._units) // most)
        chunks = [self._units[start : start + size] for start in range(0, len(self._units), size)]
        return [tuple(name for unit in chunk for name in unit) for chunk in chunks]

    def _halves(self, group: Group) -> list[Group]:
        """Return a group's two halves, or the group itself if it is one unit."""
        units = [unit for unit in self._units if unit[0] in group]
        if len(units) < 2:
            return [group]
        middle = len(units) // 2
        return [tuple(name for unit in part for name in unit) for part in (units[:middle], units[middle:])]

    def _fewest(self, worst: Sequence[Group], left: Sequence[Group]) -> tuple[int, float]:
        """Return how many of the worst groups to keep so that the rest is good enough, and its error."""
        low, high, found = 0, len(worst), 0.0
        while low < high:
            middle = (low + high) // 2
            error = self._error(frozenset(name for group in (*worst[:middle], *left) for name in group))
            if error <= TARGET:
                high, found = middle, error
            else:
                low = middle + 1
        return high, found

    def _error(self, keep: frozenset[str]) -> float:
        """Return the largest error of any output as a part of its tolerance; infinite if the model fails."""
        try:
            answers = self._answer(self._quantized(keep))
        except self._failures:
            return np.inf
        return max((self._part(answers[name], wanted) for name, wanted in self._wanted.items()), default=0.0)

    def _part(self, answer: Array, wanted: Array) -> float:
        if answer.shape != wanted.shape:
            return np.inf
        if wanted.dtype.kind != "f" or not wanted.size:
            return 0.0
        tolerance = tolerance_for(wanted, "LOWERED_TO_INT8", max_error=self._max_error)
        errors, _ = differences(answer, wanted, tolerance)
        with np.errstate(invalid="ignore"):
            allowed = tolerance.atol + tolerance.rtol * np.abs(wanted.astype(np.float64))
            parts = np.nan_to_num(np.where(errors > 0, errors / allowed, 0.0), nan=np.inf, posinf=np.inf)
        limit = mean_limit(wanted, "LOWERED_TO_INT8", max_error=self._max_error)
        mean = float(errors.mean()) / limit if limit else 0.0
        return float(max(parts.max(initial=0.0), mean))

    def _answer(self, model: ir.Model) -> dict[str, Array]:
        """Run the rows, and return the answers by output."""
        path = self._batched.original.path
        with onnxruntime_warnings():
            session = self._open(model)
            try:
                answers = [session.run(feeds) for feeds in batches(self._rows, is_static=self._batched.is_static)]
            except run_errors() as error:
                what = f"the model fails on the calibration data: {one_line(error)}"
                raise ModelError(path, what, "give inputs that it accepts with --calibration FILE.npz") from error
        if self._batched.is_static:
            answers = [{name: array[np.newaxis] for name, array in each.items()} for each in answers]
        try:
            return {name: np.concatenate([each[name] for each in answers]) for name in answers[0]}
        except ValueError as error:
            what = "the shapes of its answers depend on the calibration data, so their errors cannot be measured"
            raise ModelError(path, what, "leave out --precision") from error

    def _open(self, model: ir.Model) -> Session:
        path = self._batched.original.path
        serialized = ir.to_proto(model).SerializeToString()
        return open_rewritten(serialized, where=path, folder=path.parent, as_written=True)


def _affordable(rows: Arrays) -> int:
    """Return how many rows to run."""
    row_bytes = sum(array[:1].nbytes for array in rows.values())
    return max(FEWEST_ROWS, min(MOST_ROWS, MOST_BYTES // max(1, row_bytes)))
