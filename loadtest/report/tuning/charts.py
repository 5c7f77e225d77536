"""The charts of a tuning: throughput against p99, predicted against measured, and the best so far."""

from collections.abc import Iterator, Sequence
from typing import Any

from loadtest.report.plots import Chart, as_text, points
from loadtest.report.tuning.document import Document, Interval, Run

_KINDS = {
    "current": ("current settings", "square"),
    "best": ("best settings", "star"),
    "kept": ("keeps the limit", "circle"),
    "missed": ("misses the limit", "x"),
}
"""The series of a chart, each with its name and the symbol of its points."""


def make_charts(tuning: Document) -> list[Chart]:
    """Return the charts; runs that served to learn, or that are out, have no place in them."""
    runs = [run for run in tuning.runs if run.kind in _KINDS and run.throughput is not None]
    charts = [*_trade_off(runs, tuning), *_predictions(runs), *_history(runs, tuning)]
    return [chart for chart in charts if any(trace.get("meta") is None for trace in chart["data"])]


def _trade_off(runs: Sequence[Run], tuning: Document) -> Iterator[Chart]:
    """Yield throughput against p99, with the runs that no other one beats in both, and the limit."""
    known = [run for run in runs if run.p99_ms is not None]
    if not known:
        return
    series = [
        _series(kind, [(_p99(run), run.throughput, _label(run)) for run in known if run.kind == kind])
        for kind in _KINDS
    ]
    front = find_front([(_value(run.p99_ms), _value(run.throughput)) for run in known])
    highest = max(_high(run.throughput) for run in known)
    lines = [
        _line("no run is better in both", [x for x, _ in front], [y for _, y in front]),
        _limit([tuning.limit_ms] * 2, [0, highest], f"p99 limit: {tuning.limit_ms:g} ms"),
    ]
    chart = points("Throughput and p99 of each run", "rows/s", {"title": "p99, ms"}, [*filter(None, series), *lines])
    chart["text"] = f"Of {len(known)} runs, {sum(run.kind != 'missed' for run in known)} keep the limit. {_best(runs)}"
    yield chart


def _p99(run: Run) -> Interval | None:
    return run.p99_ms


def find_front(figures: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the pairs of p99 and throughput that no other pair beats in both, by p99 (the Pareto front)."""
    front: list[tuple[float, float]] = []
    for p99, throughput in sorted(figures, key=lambda pair: (pair[0], -pair[1])):
        if not front or throughput > front[-1][1]:
            front.append((p99, throughput))
    return front


def _predictions(runs: Sequence[Run]) -> Iterator[Chart]:
    """Yield predicted against measured throughput, and p99: what is on the line came as predicted."""
    for place, unit, figure in ((0, "rows/s", "throughput"), (1, "ms", "p99_ms")):
        found = [(run, run.predicted[place], getattr(run, figure)) for run in runs if run.predicted is not None]
        known = [(run, expected, measured) for run, expected, measured in found if measured is not None]
        if not known:
            continue
        series = [
            _series(kind, [(_exact(expected), measured, _label(run)) for run, expected, measured in known
                           if run.kind == kind])
            for kind in _KINDS
        ]  # fmt: skip
        ends = [0, max(max(expected, measured.value) for _, expected, measured in known)]
        title = f"Predicted and measured {'throughput' if place == 0 else 'p99'}"
        axis = {"title": f"predicted, {unit}"}
        chart = points(title, f"measured, {unit}", axis, [*filter(None, series), _limit(ends, ends, "as predicted")])
        off = sorted(abs(measured.value / expected - 1) for _, expected, measured in known if expected)
        chart["text"] = f"Of {len(known)} runs, half were within {off[len(off) // 2]:.0%} of what was predicted."
        yield chart


def _history(runs: Sequence[Run], tuning: Document) -> Iterator[Chart]:
    """Yield what each run gave, and the best so far."""
    figure = "p99_ms" if tuning.is_rate else "throughput"
    known = [(run, getattr(run, figure)) for run in runs if getattr(run, figure) is not None]
    series = [
        _series(kind, [(_exact(run.number), measured, _label(run)) for run, measured in known if run.kind == kind])
        for kind in _KINDS
    ]
    best: list[float] = []
    places: list[float] = []
    choose = min if tuning.is_rate else max
    for run, measured in known:
        if run.kind != "missed":
            best.append(choose([*best[-1:], measured.value]))
            places.append(run.number)
    axis = {"title": "run", "dtick": 1 if len(known) <= 12 else None}
    lines = [_line("best so far", places, best)] if best else []
    chart = points(
        "p99 by run" if tuning.is_rate else "Throughput by run",
        "ms" if tuning.is_rate else "rows/s",
        axis,
        [*filter(None, series), *lines],
    )
    chart["text"] = _best(runs)
    yield chart


def _best(runs: Sequence[Run]) -> str:
    best = [run for run in runs if run.kind == "best"]
    if not best:
        return "No settings are better than the current ones."
    figures = f"{_value(best[-1].throughput):,.0f} rows/s"
    return f"The best are {best[-1].settings}, {best[-1].load}: {figures}."


def _label(run: Run) -> str:
    return as_text(f"run {run.number}: {run.settings}, {run.load}")


def _series(kind: str, found: Sequence[tuple[Interval | None, Interval | None, str]]) -> Chart | None:
    """Return the points of one kind, with their intervals as bars; None if there are none."""
    known = [(x, y, label) for x, y, label in found if x is not None and y is not None]
    if not known:
        return None
    name, symbol = _KINDS[kind]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [x.value for x, _, _ in known],
        "y": [y.value for _, y, _ in known],
        "error_x": _bars([x for x, _, _ in known]),
        "error_y": _bars([y for _, y, _ in known]),
        "marker": {"symbol": symbol, "size": 11 if kind != "best" else 15},
        "text": [label for _, _, label in known],
        "hovertemplate": "%{text}<br>%{x:,.4~g}, %{y:,.4~g}<extra></extra>",
    }


def _bars(intervals: Sequence[Interval]) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [one.high - one.value for one in intervals],
        "arrayminus": [one.value - one.low for one in intervals],
        "thickness": 1,
        "width": 3,
        "visible": any(one.high > one.low for one in intervals),
    }


def _line(name: str, x: Sequence[float], y: Sequence[float]) -> Chart:
    return {"type": "scatter", "mode": "lines", "name": name, "meta": "line", "x": [*x], "y": [*y],
            "line": {"shape": "hv"}, "hoverinfo": "skip"}  # fmt: skip


def _limit(x: Sequence[float], y: Sequence[float], name: str) -> Chart:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "meta": "limit",
        "x": [*x],
        "y": [*y],
        "hoverinfo": "skip",
    }


def _exact(value: float) -> Interval:
    return Interval(value, value, value)


def _value(interval: Interval | None) -> float:
    return 0.0 if interval is None else interval.value


def _high(interval: Interval | None) -> float:
    return 0.0 if interval is None else interval.high
