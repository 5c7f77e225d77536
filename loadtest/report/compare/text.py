"""A comparison as lines of text, as a table, and as plain values for JSON; and which figures became worse."""

import math
from collections.abc import Iterator
from typing import Any

from loadtest.console import NO_FIGURE
from loadtest.report.compare.differences import Difference
from loadtest.report.compare.matching import Change, Comparison, Row
from loadtest.report.compare.runs import FIGURES
from loadtest.report.intervals import Estimate

TITLES = {
    "throughput_rows_per_s": "throughput, rows/s",
    "mean_us": "mean latency, ms",
    "p50_us": "p50 latency, ms",
    "p99_us": "p99 latency, ms",
}
HEADS = ("stage", "figure", "A", "B", "B / A", "")
_GATES = ("throughput_rows_per_s", "p99_us")
_FEW_RUNS = (
    "one run on a side: the intervals know the noise within a run only, and two runs of the same server differ by "
    "more; repeat both sides and compare A1 A2 A3 -- B1 B2 B3"
)


def describe(comparison: Comparison) -> Iterator[str]:
    """Yield what to know before reading the table."""
    for side, labels in zip("AB", comparison.labels, strict=True):
        yield f"{side} = {', '.join(labels)}"
    for difference in comparison.differences:
        yield _difference(difference)
    for doubt in comparison.doubts:
        yield f"warning: {doubt}"
    for unmatched in comparison.unmatched:
        yield f"warning: only in {unmatched}"
    if min(map(len, comparison.labels)) == 1:
        yield f"note: {_FEW_RUNS}"


def _difference(difference: Difference) -> str:
    first, second = (", ".join(values) for values in difference.values)
    text = f"{difference.name} is {first} in A and {second} in B"
    return f"warning: {text}, so these are different tests" if difference.spoils else f"differs: {text}"


def to_table(comparison: Comparison) -> Iterator[tuple[str, ...]]:
    """Yield the lines of the table, one for each figure of each stage."""
    for row in comparison.rows:
        name = row.name
        for figure, title in TITLES.items():
            yield name, title, *_cells(figure, row.changes[figure])
            name = ""
        for count in ("failures", "wrong"):
            first, second = (side[count] for side in row.counts)
            if first or second:
                yield (
                    name,
                    {"failures": "failed requests", "wrong": "wrong answers"}[count],
                    str(first),
                    str(second),
                    "",
                    "",
                )


def _cells(figure: str, change: Change) -> tuple[str, ...]:
    scale = 1000 if figure.endswith("_us") else 1
    sides = [_with_interval(side, scale) for side in (change.first, change.second)]
    return *sides, _with_interval(change.ratio, 1, digits=4), _verdict(figure, change)


def _with_interval(one: Estimate | None, scale: float, digits: int = 3) -> str:
    if one is None:
        return NO_FIGURE
    interval = one.interval
    value, *bounds = (_number(bound / scale, digits) for bound in (one.value, *(interval or ())))
    return f"{value} ({' to '.join(bounds)})" if bounds else value


def _number(value: float, digits: int) -> str:
    """Return this many digits or more; with three, 0.0123, 1.23, 12.3, 123, 1,234."""
    if not 1e-6 < value < 1e9:
        return f"{value:.3g}"
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded if rounded < 1 else value:,.{max(0, digits - 1 - math.floor(math.log10(rounded)))}f}"


def _verdict(figure: str, change: Change) -> str:
    if change.ratio is None:
        return "too few answers"
    if change.differs is None:
        return "no interval: one window"
    if not change.differs:
        return "within the noise"
    return "better" if is_better(figure, change.ratio.value) else "worse"


def is_better(figure: str, ratio: float) -> bool:
    """Return whether the second side is better: more throughput, or less latency."""
    return ratio > 1 if figure == "throughput_rows_per_s" else ratio < 1


def find_slower(comparison: Comparison, share: float) -> list[str]:
    """Return why the second side does not hold the first one's speed; empty if it does.

    Throughput or p99 is worse by more than `share` (0.05 for 5 %) and by more than the noise, or was not compared: a
    stage that is missing, or a run of the second side that did not pass.
    """
    reasons = [doubt for doubt in comparison.doubts if doubt.startswith("B ")]
    reasons += [f"not compared: {unmatched}" for unmatched in comparison.unmatched]
    return reasons + [reason for row in comparison.rows for figure in _GATES for reason in _slower(row, figure, share)]


def _slower(row: Row, figure: str, share: float) -> Iterator[str]:
    """Yield why a figure is too slow. With a share of 5 %, p99 times 1.05 is still allowed, or throughput / 1.05."""
    change = row.changes[figure]
    where = f"stage {row.name}: {TITLES[figure].partition(',')[0]}"
    if change.ratio is None:
        if change.first is not None:
            yield f"{where} has too few answers in B"
        return
    worse = 1 / change.ratio.value if figure == "throughput_rows_per_s" else change.ratio.value
    if worse > 1 + share and change.differs is not False:
        yield f"{where} is worse by {worse - 1:.1%}"


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison as plain values, as comparison.schema.json describes them."""
    return {
        "schema": 1,
        "runs": {"a": list(comparison.labels[0]), "b": list(comparison.labels[1])},
        "differences": [
            {"name": one.name, "a": list(one.values[0]), "b": list(one.values[1]), "spoils": one.spoils}
            for one in comparison.differences
        ],
        "doubts": list(comparison.doubts),
        "unmatched": list(comparison.unmatched),
        "stages": [
            {
                "name": row.name,
                "load": row.load,
                "counts": {"a": dict(row.counts[0]), "b": dict(row.counts[1])},
                "figures": {figure: _change(row.changes[figure]) for figure in FIGURES},
            }
            for row in comparison.rows
        ],
    }


def _change(change: Change) -> dict[str, Any]:
    return {
        "a": _estimate(change.first),
        "b": _estimate(change.second),
        "ratio": _estimate(change.ratio),
        "differs": change.differs,
    }


def _estimate(one: Estimate | None) -> dict[str, float | None] | None:
    if one is None:
        return None
    low, high = one.interval or (None, None)
    return {
        name: value and float(f"{value:.6g}") for name, value in (("value", one.value), ("low", low), ("high", high))
    }
