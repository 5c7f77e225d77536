"""The kinds of charts, as plain values for Plotly: lines, stacked areas, stacked bars and a map.

A chart has `title`, `text` (what it says, in words), `data` and `layout`, some a `note`, and it shows one quantity in
one unit. Colours and fonts are the page's. A series is a name with its values; None is a gap.

Source: https://plotly.com/javascript/reference/
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import pairwise
from math import floor, log10
from typing import Any

from loadtest.printable import printable

Chart = dict[str, Any]
Axis = Mapping[str, Any]
Series = Mapping[str, Sequence[float | None]]
Marks = Mapping[str, Any] | None
"""Lines and labels to add to a chart, as Plotly's `shapes` and `annotations`."""

_DASHES = ("solid", "dash", "dot", "dashdot")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up")
_MS_FROM_US = 10_000
"""A chart whose highest time is at least this long is in milliseconds, otherwise in microseconds."""

_LOG_RATIO = 100
"""Times are on a logarithmic axis if the highest is more than this many times the lowest."""

_FAR_LIMIT = 3.0
"""A limit this many times above the highest value is only named: its line would flatten the curves."""

_MOST_MARKERS = 60
_FEW_BARS = 3
_TEXT_WIDTH = 1 / 6
"""The width of a text beside a mark, as a share of the chart."""


def lines(title: str, unit: str, x: Sequence[float], axis: Axis, series: Series, marks: Marks = None) -> Chart:
    """Return a line for each series."""
    traces = [
        {
            "type": "scatter",
            "mode": "lines+markers" if len(x) <= _MOST_MARKERS else "lines",
            **_values(name, x, values, unit),
            "line": {"dash": dash},
            "marker": {"symbol": symbol},
        }
        for (name, values), dash, symbol in zip(series.items(), _DASHES, _SYMBOLS, strict=False)
    ]
    return _chart(title, unit, axis, traces, marks)


def time_lines(
    title: str,
    x: Sequence[float],
    axis: Axis,
    times_us: Series,
    limit_ms: float | None,
    late: Mapping[float, float],
    marks: Marks = None,
) -> Chart:
    """Return a line for each series of times, one for their limit, and a mark at the top where p99 is infinite.

    `late` has these places on the axis, each with the share of requests without an answer.

    A percentile that no point has, because there were too few answers, would only be a name in the legend: it is left
    out.
    """
    unit, scale = _time_unit(_known(times_us))
    series = {name: _scaled(values, scale) for name, values in times_us.items() if _known({name: values})}
    chart, values = lines(title, unit, x, axis, series, marks), _known(series)
    if min(values, default=0) > 0 and max(values) > _LOG_RATIO * min(values):
        heading = {"text": f"{unit}, logarithmic"}
        chart["layout"]["yaxis"] = {"title": heading, "type": "log", **ticks(_decades(min(values), max(values)))}
    if limit_ms is not None and values:
        _add_limit(chart, x, limit_ms * 1000 / scale, unit, max(values))
    if late and values:
        _add_late(chart, late)
    return chart


def _add_limit(chart: Chart, x: Sequence[float], limit: float, unit: str, highest: float) -> None:
    """Draw the limit; one far above the curves appears when it is clicked in the legend."""
    is_far = chart["layout"]["yaxis"].get("type") != "log" and limit > _FAR_LIMIT * highest
    name = f"p99 limit: {limit:,g} {unit}" + (" (above this chart)" if is_far else "")
    trace = {"type": "scatter", "mode": "lines", "name": name, "meta": "limit", "x": [min(x), max(x)], "y": [limit] * 2}
    chart["data"].append(trace | {"hoverinfo": "skip", "visible": "legendonly" if is_far else True})
    chart["layout"]["showlegend"] = True
    chart["text"] += f" {name}."


def _add_late(chart: Chart, late: Mapping[float, float]) -> None:
    """Mark places at the top of a chart, whatever its axis shows: they have an axis of their own, from 0 to 1."""
    axis = chart["layout"]["xaxis"]
    chart["data"].append(
        {
            "type": "scatter",
            "mode": "markers+text" if _are_apart(chart, late) else "markers",
            "name": "failed",
            "meta": "late",
            "x": list(late),
            "y": [1] * len(late),
            "yaxis": "y2",
            "marker": {"symbol": "triangle-up", "size": 12},
            "text": [f"{100 * share:.1f} % failed" for share in late.values()],
            "textposition": "bottom center" if chart["layout"]["annotations"] else "top center",
            "cliponaxis": False,
            "showlegend": False,
            "hovertemplate": "%{text}: slower than any limit<extra></extra>",
        }
    )
    chart["layout"]["yaxis2"] = {"overlaying": "y", "range": [0, 1], "visible": False}
    chart["note"] = "▲ more than 1 % failed: p99 is slower than any limit"
    chart["text"] += f" More than 1 % failed, by {axis['title']['text']}: {', '.join(f'{x:g}' for x in late)}."


def _are_apart(chart: Chart, places: Iterable[float]) -> bool:
    """Return whether texts at these places on the axis do not run into each other."""
    scale = log10 if chart["layout"]["xaxis"].get("type") == "log" else float
    points = [*map(scale, chart["data"][0]["x"])]
    least = _TEXT_WIDTH * (max(points) - min(points))
    return all(later - earlier > least for earlier, later in pairwise(sorted(map(scale, places))))


def circle(chart: Chart, x: float, y: float, name: str) -> None:
    """Circle a point, and write its name below it."""
    chart["data"].append(
        {
            "type": "scatter",
            "mode": "markers+text",
            "meta": "circle",
            "x": [x],
            "y": [y],
            "marker": {"symbol": "circle-open", "size": 16},
            "text": [name],
            "textposition": "bottom center",
            "showlegend": False,
            "hoverinfo": "skip",
        }
    )
    chart["text"] += f" The {name} is at {x:g} ({chart['layout']['xaxis']['title']['text']})."


def stacked_areas(title: str, x: Sequence[float], axis: Axis, times_us: Series, marks: Marks) -> Chart:
    """Return times that are added up, as areas on top of each other."""
    unit, scale = _time_unit(_sums(times_us))
    traces = [
        {
            "type": "scatter",
            "mode": "lines",
            "stackgroup": "all",
            **_values(name, x, _scaled(values, scale), unit),
        }
        for name, values in times_us.items()
    ]
    return _chart(title, unit, axis, traces, marks)


def time_bars(title: str, x: Sequence[Any], axis: Axis, times_us: Series) -> Chart:
    """Return times that are added up, as bars on top of each other."""
    unit, scale = _time_unit(_sums(times_us))
    return bars(title, unit, x, axis, {name: _scaled(values, scale) for name, values in times_us.items()})


def bars(title: str, unit: str, x: Sequence[Any], axis: Axis, series: Series, marks: Marks = None) -> Chart:
    """Return the series as bars on top of each other."""
    width = {"width": 0.4} if axis.get("type") == "category" and len(x) <= _FEW_BARS else {}
    traces = [{"type": "bar", **_values(name, x, values, unit), **width} for name, values in series.items()]
    return _chart(title, unit, axis, traces, marks)


def shares(
    title: str, unit: str, columns: Sequence[str], axis: Axis, rows: Sequence[str], percent: Sequence[list[float]]
) -> Chart:
    """Return a map: for each column, how many percent of the executions each row has."""
    trace = {
        "type": "heatmap",
        "x": list(columns),
        "y": list(rows),
        "z": [list(row) for row in zip(*percent, strict=True)],
        "zmin": 0,
        "zmax": 100,
        "colorbar": {"title": {"text": "% of executions", "side": "right"}, "thickness": 12},
        "hovertemplate": "%{z:.1f} % of executions: %{y} " + f"{unit}<extra>%{{x}}</extra>",
    }
    chart = _chart(title, unit, axis, [trace])
    chart["layout"]["yaxis"] |= {"type": "category"}
    most = [f"{column}: mostly {rows[row.index(max(row))]}" for column, row in zip(columns, percent, strict=True)]
    chart["text"] = f"{unit}, by {axis['title']}: {'; '.join(most)}."
    return chart


def points(title: str, unit: str, axis: Axis, traces: list[Chart]) -> Chart:
    """Return series of points, and lines beside them."""
    chart = _chart(title, unit, axis, traces)
    chart["layout"]["xaxis"] |= {"rangemode": "tozero"}
    chart["layout"] |= {"hovermode": "closest", "showlegend": True}
    return chart


def category_axis(title: str) -> dict[str, Any]:
    """Return an axis with a place for each name."""
    return {"title": title, "type": "category"}


def ticks(values: Sequence[float]) -> dict[str, Any]:
    """Return what gives an axis these ticks."""
    return {"tickmode": "array", "tickvals": list(values), "ticktext": [f"{value:,.6g}" for value in values]}


def as_text(name: str) -> str:
    """Return a name as Plotly shows it: control characters as escapes, and nothing as markup."""
    return escape(printable(name), quote=False)


def _decades(lowest: float, highest: float) -> list[float]:
    """Return the ticks of a logarithmic axis: 1, 2 and 5 times each power of ten between these."""
    powers = range(floor(log10(lowest)), floor(log10(highest)) + 1)
    return [digit * 10.0**power for power in powers for digit in (1, 2, 5)]


def _chart(title: str, unit: str, axis: Axis, traces: list[Chart], marks: Marks = None) -> Chart:
    layout = {
        "xaxis": {**axis, "title": {"text": axis["title"]}},
        "yaxis": {"title": {"text": unit}, "rangemode": "tozero"},
        "barmode": "stack",
        "showlegend": len(traces) > 1,
        "shapes": [],
        "annotations": [],
        **(marks or {}),
    }
    return {"title": title, "text": _in_words(unit, axis, traces), "data": traces, "layout": layout}


def _in_words(unit: str, axis: Axis, traces: Sequence[Chart]) -> str:
    """Return what a chart's series say, for those who cannot see it."""
    said = []
    for trace in traces:
        values = [value for value in trace.get("y", ()) if isinstance(value, int | float)]
        if values:
            said.append(f"{trace['name']} from {values[0]:.4g} to {values[-1]:.4g}, at most {max(values):.4g}")
    return f"In {unit}, by {axis['title']}: {'; '.join(said)}."


def _values(name: str, x: Sequence[Any], y: Sequence[float | None], unit: str) -> Chart:
    return {"name": name, "x": list(x), "y": list(y), "hovertemplate": f"%{{y:,.4~g}} {unit}"}


def _time_unit(values_us: Sequence[float]) -> tuple[str, float]:
    """Return the unit for these times, and how many microseconds it is."""
    return ("ms", 1000.0) if max(values_us, default=0) >= _MS_FROM_US else ("µs", 1.0)


def _sums(series: Series) -> list[float]:
    return [sum(value or 0 for value in column) for column in zip(*series.values(), strict=True)]


def _known(series: Series) -> list[float]:
    return [value for values in series.values() for value in values if value is not None]


def _scaled(values: Sequence[float | None], scale: float) -> list[float | None]:
    return [None if value is None else round(value / scale, 6) for value in values]
