"""Compare two runs stage by stage, each figure with its uncertainty."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.console import NO_FIGURE
from loadtest.errors import SettingsError, reason
from loadtest.files import read_json
from loadtest.printable import printable
from loadtest.report.result import SCHEMA

_T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 10: 2.228}
"""Student's t for a two-sided 95 % interval, by degrees of freedom; beyond these, the normal distribution's 1.96."""

_T_95_NORMAL = 1.96
_LABEL_LENGTH = 60

_FIGURES = ("throughput_rows_per_s", "mean_us", "p99_us")
_TOO_LARGE = 1e18


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over windows, and the half width of its 95 % confidence interval; None with a single window."""

    mean: float
    margin: float | None

    def __str__(self) -> str:
        return (
            NO_FIGURE
            if math.isnan(self.mean)
            else f"{self.mean:,.1f}" + ("" if self.margin is None else f" ± {self.margin:,.1f}")
        )


@dataclass(frozen=True, slots=True)
class Row:
    """One load in both runs: throughput in rows per second, mean and p99 latency in microseconds."""

    load: float
    throughput: tuple[Estimate, Estimate]
    mean_us: tuple[Estimate, Estimate]
    p99_us: tuple[Estimate, Estimate]

    @property
    def ratio(self) -> float:
        """The second run's throughput divided by the first's."""
        first, second = self.throughput
        return second.mean / first.mean if first.mean else math.nan

    @property
    def differs(self) -> bool:
        """Whether the intervals of the two throughputs do not overlap.

        100 ± 4 and 108 ± 3 differ: 104 is below 105. 100 ± 4 and 106 ± 3 do not: both may be 103.5. Without an
        interval, nothing can be said.
        """
        first, second = self.throughput
        if first.margin is None or second.margin is None:
            return False
        return abs(first.mean - second.mean) > first.margin + second.margin


def read_result(path: Path) -> dict[str, Any]:
    """Read a result.json.

    Raises:
        SettingsError: The file is something else, or has another schema.
    """
    fix = "name the result.json of a finished run"
    try:
        result = read_json(path)
    except (OSError, ValueError) as error:
        raise SettingsError(path, f"the file cannot be read: {reason(error)}", fix) from error
    if not isinstance(result, dict) or result.get("schema") != SCHEMA:
        raise SettingsError(path, f"the file is not a result of schema {SCHEMA}", fix)
    try:
        _check_stages(result["stages"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise SettingsError(path, f"the stages in this file are damaged: {error!r}", fix) from error
    return result


def _check_stages(stages: Any) -> None:
    """Check that each stage has what is compared: its load, and the figures of one window or more."""
    for stage in stages:
        values = [window[figure] for window in stage["windows"] for figure in _FIGURES]
        # too few answers in a window have no p99
        figures = [_load(stage), *(float(value) for value in values if value is not None)]
        if len(figures) < 2 or not all(0 <= figure < _TOO_LARGE for figure in figures):
            raise ValueError("a figure is missing, or is not a number that can be measured")


def estimate(values: Sequence[float]) -> Estimate:
    """Return the mean of windows and its uncertainty, as if the windows were independent of each other.

    The half width is t * s / sqrt(n). For windows of 10, 12 and 14 rows/s, the mean is 12, the standard deviation s
    is 2, n is 3, and t for n - 1 = 2 degrees of freedom is 4.303: 4.303 * 2 / 1.732 = 4.97. So it is 12 ± 5.
    """
    mean = statistics.fmean(values) if values else math.nan
    if len(values) < 2:
        return Estimate(mean, None)
    t = _T_95.get(len(values) - 1, _T_95_NORMAL)
    return Estimate(mean, t * statistics.stdev(values) / math.sqrt(len(values)))


def compare_stages(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Row]:
    """Return the stages that both runs have under the same load, in ascending order.

    Raises:
        SettingsError: They have no load in common.
    """
    stages = [{_load(stage): stage for stage in result["stages"]} for result in (first, second)]
    common = sorted(stages[0].keys() & stages[1].keys())
    if not common:
        loads = " and ".join(", ".join(f"{load:g}" for load in sorted(side)) or "none" for side in stages)
        raise SettingsError("the two results", f"they have no load in common: {loads}", "run both with the same loads")
    return [_row(load, stages[0][load], stages[1][load]) for load in common]


def _load(stage: Mapping[str, Any]) -> float:
    return float(stage["rate_asked"] or stage["concurrency_asked"])


def _row(load: float, *stages: Mapping[str, Any]) -> Row:
    def both(figure: str) -> tuple[Estimate, Estimate]:
        values = [[window[figure] for window in stage["windows"]] for stage in stages]
        first, second = (estimate([value for value in side if value is not None]) for side in values)
        return first, second

    return Row(load, *map(both, _FIGURES))


def _end(label: str) -> str:
    """Return the end of a long path; the figure has no room for all of it."""
    shown = printable(label)
    return shown if len(shown) <= _LABEL_LENGTH else f"…{shown[-_LABEL_LENGTH:]}"


def draw(rows: Sequence[Row], labels: tuple[str, str], path: Path) -> None:
    """Draw throughput and p99 against load, with error bars, in the format that the file's name ends with.

    Raises:
        SettingsError: The picture cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    panels = figure.subplots(1, 2)
    titles = ("throughput, rows/s", "p99 latency, µs")
    for panel, title, name in zip(panels, titles, ("throughput", "p99_us"), strict=True):
        for side, label in enumerate(labels):
            estimates = [getattr(row, name)[side] for row in rows]
            panel.errorbar(
                [row.load for row in rows],
                [one.mean for one in estimates],
                yerr=[one.margin or 0 for one in estimates],
                marker="o",
                capsize=3,
                label=f"{'AB'[side]} = {_end(label)}",
            )
        panel.set(title=title, xlabel="load (users, or requests/s asked for)", ylim=(0, None))
        panel.grid(alpha=0.3)
    for text in panels[0].legend().get_texts():
        text.set_parse_math(False)  # a path may contain dollar signs
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        fix = "give a file name that ends in .png or .svg, in a directory you can write to"
        raise SettingsError(path, f"the picture cannot be written: {reason(error)}", fix) from error
