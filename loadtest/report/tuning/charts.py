"""The charts of a tuning: throughput against p99, predicted against measured, and the best so far."""

from collections.abc import Iterator, Sequence
from typing import Any

from loadtest.report.plots import Chart, as_text, points
from loadtest.report.tuning.document import Document, Interval, Run

_KINDS = {
    "current": ("current settings", "square"),
    "best": ("best settings", "star"),
    "kept": ("keeps the limit", "circle"),
    "missed": ("misses the limit, or may miss it", "x"),
}
"""The series of a chart, each with its name and the symbol of its points."""

_FAR_LIMIT = 2.5
"""A limit this many times above the highest p99 is only named: its line would leave no room for the points."""

_MOST_TICKS = 12


def make_charts(tuning: Document) -> list[Chart]:
    """Return the charts; runs that served to learn, or that are out, have no place in them."""
    runs = [run for run in tuning.runs if run.kind in _KINDS and run.throughput is not None]
    return [*_trade_off(runs, tuning), *_predictions(runs), *_history(runs, tuning)]


def _trade_off(runs: Sequence[Run], tuning: Document) -> Iterator[Chart]:
    """Yield throughput against p99, with the runs that no other one beats in both, and the limit."""
    known = [(run, run.p99_ms, run.throughput) for run in runs if run.p99_ms is not None and run.throughput is not None]
    if not known:
        return
    front = find_front([(p99_ms.value, throughput.value) for _, p99_ms, throughput in known])
    highest = max(throughput.high for _, _, throughput in known)
    is_far = tuning.limit_ms > _FAR_LIMIT * max(p99_ms.high for _, p99_ms, _ in known)
    name = f"p99 limit: {tuning.limit_ms:g} ms" + (" (right of this chart)" if is_far else "")
    lines = [
        _line("no run is better in both", [x for x, _ in front], [y for _, y in front]),
        _limit([tuning.limit_ms] * 2, [0, highest], name) | {"visible": "legendonly" if is_far else True},
    ]
    chart = points("Throughput and p99 of each run", "rows/s", {"title": "p99, ms"}, [*_series(known), *lines])
    kept = sum(run.kind != "missed" for run, _, _ in known)
    chart["text"] = f"Of {len(known)} runs, {kept} keep the limit. {_best(runs)}".rstrip()
    yield chart


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
        found = [(run, run.predicted[place], _figure(run, figure)) for run in runs if run.predicted is not None]
        known = [(run, _exact(expected), measured) for run, expected, measured in found if measured is not None]
        if not known:
            continue
        ends = [0, max(max(expected.value, measured.value) for _, expected, measured in known)]
        title = f"Predicted and measured {'throughput' if place == 0 else 'p99'}"
        traces = [*_series(known), _limit(ends, ends, "as predicted")]
        chart = points(title, f"measured, {unit}", {"title": f"predicted, {unit}"}, traces)
        off = sorted(abs(measured.value / expected.value - 1) for _, expected, measured in known if expected.value)
        if off:
            chart["text"] = f"Of {len(known)} runs, half were within {off[len(off) // 2]:.0%} of what was predicted."
        yield chart


def _history(runs: Sequence[Run], tuning: Document) -> Iterator[Chart]:
    """Yield what each run gave, and the best so far."""
    figure, title, unit, place = (
        ("p99_ms", "p99 by run", "ms", 1) if tuning.is_rate else ("throughput", "Throughput by run", "rows/s", 0)
    )
    found = [(run, _exact(run.number), _figure(run, figure)) for run in runs]
    known = [(run, number, measured) for run, number, measured in found if measured is not None]
    if not known:
        return
    best = [(run.number, run.so_far[place]) for run in runs if run.so_far is not None]
    axis = {"title": "run", "dtick": 1 if len(known) <= _MOST_TICKS else None}
    lines = [_line("best so far", [x for x, _ in best], [y for _, y in best])] if best else []
    chart = points(title, unit, axis, [*_series(known), *lines])
    chart["text"] = _best(runs)
    yield chart


def _figure(run: Run, name: str) -> Interval | None:
    return run.throughput if name == "throughput" else run.p99_ms


def _best(runs: Sequence[Run]) -> str:
    """Return which settings are the best; nothing while that is open, or if none keep the limit."""
    best = [run for run in runs if run.kind == "best"]
    if not best:
        return ""
    figures = "" if best[-1].throughput is None else f": {best[-1].throughput.value:,.0f} rows/s"
    return f"The best are {best[-1].settings}, {best[-1].load}{figures}."


def _label(run: Run) -> str:
    return as_text(f"run {run.number}: {run.settings}, {run.load}")


def _series(found: Sequence[tuple[Run, Interval, Interval]]) -> list[Chart]:
    """Return the points of each kind, with their intervals as bars.

    A kind without a point is there too, so that each kind has the same colour in all charts.
    """
    return [_points(kind, [(run, x, y) for run, x, y in found if run.kind == kind]) for kind in _KINDS]


def _points(kind: str, found: Sequence[tuple[Run, Interval, Interval]]) -> Chart:
    name, symbol = _KINDS[kind]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [x.value for _, x, _ in found],
        "y": [y.value for _, _, y in found],
        "error_x": _bars([x for _, x, _ in found]),
        "error_y": _bars([y for _, _, y in found]),
        "marker": {"symbol": symbol, "size": 15 if kind == "best" else 11},
        "text": [_label(run) for run, _, _ in found],
        "hovertemplate": "%{text}<br>%{x:,.4~g}, %{y:,.4~g}<extra></extra>",
        "showlegend": bool(found),
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
