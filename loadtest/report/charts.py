"""Which charts a run has.

A ladder (`steps`, `ramp`, `rate`, `search`) is drawn against the load, every other scenario over time, and so is a
ladder as long as it has a single load.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from loadtest.report import plots
from loadtest.report.plots import Axis, Chart, Marks
from loadtest.run import LEAST_FOR_P99
from loadtest.scenarios import SCENARIOS

Stage = Mapping[str, Any]

_SPLIT = {
    "queue_us": "queue",
    "compute_input_us": "input",
    "compute_infer_us": "inference",
    "compute_output_us": "output",
}
_TIME = {"title": "seconds since the run began"}
_MOST_LABELS = 8
"""How many loads are ticks, and how many stages are named."""

_MOST_LETTERS = 12
"""How much of a stage's name fits above its part of a chart."""

_LOG_LOADS = 8
"""Loads are on a logarithmic axis if the highest is at least this many times the lowest."""


def make_charts(result: Mapping[str, Any]) -> list[Chart]:
    """Return the charts of a result, see `plots`."""
    stages = [stage for stage in result["stages"] if stage["windows"]]
    if not stages:
        return []
    limit_ms = result["run"]["limits"]["max_p99_ms"]
    is_ladder = SCENARIOS[result["run"]["scenario"]].is_ladder and len({load_of(stage) for stage in stages}) > 1
    charts = _against_load(stages, _mark(result), limit_ms) if is_ladder else _over_time(stages, limit_ms)
    return [chart for chart in charts if chart["data"]]


def load_of(stage: Stage) -> float:
    """Return the load that was asked for: requests per second in an open loop, otherwise users."""
    return float(stage["concurrency_asked"] if stage["rate_asked"] is None else stage["rate_asked"])


# ---- Ladders, against the load


def _mark(result: Mapping[str, Any]) -> tuple[str, str]:
    """Return the stage to circle, and what it is: the knee, or what a search found."""
    answer = (result["search"] or {}).get("answer")
    if answer is not None:
        return answer["stages"][0], "highest within the limits"
    return (result["knee"]["stage"], "knee") if result["knee"] else ("", "")


def _against_load(stages: Sequence[Stage], mark: tuple[str, str], limit_ms: float | None) -> Iterator[Chart]:
    ladder = sorted(stages, key=load_of)
    x, axis = [load_of(stage) for stage in ladder], _load_axis(ladder)
    yield _throughput(ladder, x, axis, mark)
    times = {name: [stage["latency_us"][name] for stage in ladder] for name in ("p50", "p90")}
    late = {place: share for place, stage in zip(x, ladder, strict=True) if (share := _failed_beyond_p99(stage))}
    yield plots.time_lines("Latency", x, axis, {**times, **_p99(ladder)}, limit_ms, late)
    yield from _goodput(ladder, x, axis)
    columns, names = plots.category_axis(axis["title"]), _bar_names(ladder)
    served = [(name, stage) for name, stage in zip(names, ladder, strict=True) if stage["server"]]
    if served:
        split = _split([stage["server"] for _, stage in served])
        yield plots.time_bars("Server time per request", [name for name, _ in served], columns, split)
    yield from _failures(names, columns, "requests", ladder)
    yield from _batch_sizes(served, columns)


def _throughput(ladder: Sequence[Stage], x: list[float], axis: Axis, mark: tuple[str, str]) -> Chart:
    """Return the throughput, in an open loop beside the rate that was asked for, with one stage circled."""
    if ladder[0]["rate_asked"] is None:
        answered = [stage["throughput_rows_per_s"] for stage in ladder]
        chart = plots.lines("Throughput", "rows/s", x, axis, {"answered": answered})
    else:
        answered = [stage["throughput_requests_per_s"] for stage in ladder]
        chart = plots.lines("Throughput", "requests/s", x, axis, {"answered": answered, "asked for": x})
    for place in [place for place, stage in enumerate(ladder) if stage["name"] == mark[0]][:1]:
        plots.circle(chart, x[place], answered[place], mark[1])
    return chart


def _goodput(ladder: Sequence[Stage], x: Sequence[float], axis: Axis) -> Iterator[Chart]:
    shares = [stage.get("goodput") for stage in ladder]
    if any(share is not None for share in shares):
        percent = {"goodput": [None if share is None else 100 * share for share in shares]}
        yield plots.lines("Right answers within the p99 limit", "% of requests", x, axis, percent)


def _load_axis(ladder: Sequence[Stage]) -> dict[str, Any]:
    """Return the axis of the loads, with a tick at each of them if there are few."""
    loads = sorted({load_of(stage) for stage in ladder})
    return {
        "title": "users" if ladder[0]["rate_asked"] is None else "requests/s asked for",
        "type": "log" if loads[-1] >= _LOG_LOADS * loads[0] else "linear",
        **(plots.ticks(loads) if len(loads) <= _MOST_LABELS else {}),
    }


def _bar_names(ladder: Sequence[Stage]) -> list[str]:
    """Return what stands below each bar; stages with the same load are numbered: `4`, `4 (2)`."""
    names: list[str] = []
    for stage in ladder:
        name = f"{load_of(stage):g}"
        again = sum(earlier.split()[0] == name for earlier in names)
        names.append(f"{name} ({again + 1})" if again else name)
    return names


# ---- Other scenarios, over time


def _over_time(stages: Sequence[Stage], limit_ms: float | None) -> Iterator[Chart]:
    windows = [window for stage in stages for window in stage["windows"]]
    x, marks = [_middle([window]) for window in windows], _boundaries(stages)
    late = {moment: share for stage in stages for moment, share in _late_moments(stage)}
    yield plots.time_lines("Latency", x, _TIME, _percentiles(windows), limit_ms, late, marks)
    answered = [window["throughput_rows_per_s"] for window in windows]
    yield plots.lines("Throughput", "rows/s", x, _TIME, {"answered": answered}, marks)
    yield plots.lines("Requests in flight at the end of each window", "requests", x, _TIME, _in_flight(stages), marks)
    served = [(moment, window["server"]) for moment, window in zip(x, windows, strict=True) if window["server"]]
    if served:
        split = _split([times for _, times in served])
        yield plots.stacked_areas("Server time per request", [moment for moment, _ in served], _TIME, split, marks)
    yield from _failures(x, _TIME, "requests in a window", windows, marks)
    named = [(plots.as_text(stage["name"]), stage) for stage in stages if stage["server"]]
    yield from _batch_sizes(named, plots.category_axis("stage"))


def _in_flight(stages: Sequence[Stage]) -> dict[str, list[float]]:
    """Return how many requests were in flight, in a closed loop beside the number of users."""
    windows = [(stage, window) for stage in stages for window in stage["windows"]]
    waiting = {"in flight": [window["in_flight"] for _, window in windows]}
    is_open_loop = stages[0]["late_us"] is not None
    return waiting if is_open_loop else {**waiting, "users": [stage["concurrency"] for stage, _ in windows]}


def _percentiles(windows: Sequence[Stage]) -> dict[str, list[float | None]]:
    """Return p50, p90 and p99, or p95 if most windows have too few answers for a p99."""
    have_p99 = 2 * sum(window["p99_us"] is not None for window in windows) > len(windows)
    names = ("p50", "p90") if have_p99 else ("p50", "p90", "p95")
    times = {name: [window[f"{name}_us"] for window in windows] for name in names}
    return {**times, **_p99(windows)} if have_p99 else times


def _late_moments(stage: Stage) -> Iterator[tuple[float, float]]:
    """Yield where p99 is longer than any limit: in windows, or else in the whole stage, whose windows may be small."""
    late = [([window], share) for window in stage["windows"] if (share := _failed_beyond_p99(window))]
    whole = _failed_beyond_p99(stage)
    yield from ((_middle(part), share) for part, share in late or ([(stage["windows"], whole)] if whole else []))


def _middle(windows: Sequence[Stage]) -> float:
    """Return the moment in the middle of windows that follow each other."""
    first, last = windows[0], windows[-1]
    middle: float = round((first["start_s"] + last["start_s"] + last["seconds"]) / 2, 3)
    return middle


def _boundaries(stages: Sequence[Stage]) -> dict[str, Any]:
    """Return a vertical line between two stages, and their names, unless there are many."""
    if not 1 < len(stages) <= _MOST_LABELS:
        return {}
    starts = [stage["windows"][0]["start_s"] for stage in stages]
    top = {"y": 1, "yref": "paper", "xanchor": "left", "yanchor": "bottom", "showarrow": False}
    return {
        "shapes": [{"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1} for x in starts[1:]],
        "annotations": [
            {"x": x, "text": plots.as_text(_shorten(stage["name"])), **top}
            for x, stage in zip(starts, stages, strict=True)
        ],
    }


def _shorten(name: str) -> str:
    return name if len(name) <= _MOST_LETTERS else f"{name[: _MOST_LETTERS - 1]}…"


# ---- Both


def _p99(parts: Sequence[Stage]) -> dict[str, list[float | None]]:
    """Return the p99 that a limit is about, which counts requests without an answer as slower than any."""
    return {"p99": [part["p99_of_requests_us"] for part in parts]}


def _failed_beyond_p99(part: Stage) -> float | None:
    """Return the share of requests without an answer if p99 is one of those; otherwise None."""
    failed = _count(part["failures"])
    requests = part["requests"] + failed
    is_known = requests >= LEAST_FOR_P99 and part["p99_of_requests_us"] is None
    return failed / requests if is_known and 100 * failed > requests else None


def _split(times: Sequence[Mapping[str, Any]]) -> dict[str, list[float | None]]:
    """Return the parts of the server's time, without those that it does not count."""
    parts = {name: [one[key] for one in times] for key, name in _SPLIT.items()}
    return {name: values for name, values in parts.items() if any(value is not None for value in values)}


def _failures(x: Sequence[Any], axis: Axis, unit: str, parts: Sequence[Stage], marks: Marks = None) -> Iterator[Chart]:
    """Return a chart of requests without an answer and of wrong answers, if there are any."""
    counts = {
        "without an answer": [_count(part["failures"]) for part in parts],
        "wrong answer": [_count(part["wrong"]) for part in parts],
    }
    found = {name: values for name, values in counts.items() if any(values)}
    if found:
        chart = plots.bars("Failures", unit, x, axis, found, marks)
        chart["layout"]["showlegend"] = True
        yield chart


def _count(counts: Mapping[str, int] | int) -> int:
    return counts if isinstance(counts, int) else sum(counts.values())


def _batch_sizes(named: Sequence[tuple[str, Stage]], axis: Axis) -> Iterator[Chart]:
    """Return how the server's executions are spread over batch sizes: bars for one stage, otherwise a map."""
    title, unit = "Executed batch sizes", "rows in an execution"
    known = [(name, stage["server"]["batch_sizes"]) for name, stage in named if stage["server"]["batch_sizes"]]
    sizes = sorted({size for _, counts in known for size in counts}, key=int)
    if len(known) == 1:
        counts = {"executions": [known[0][1][size] for size in sizes]}
        yield plots.bars(title, "executions", sizes, plots.category_axis(unit), counts)
    elif known:
        percent = [[_percent(counts.get(size, 0), counts) for size in sizes] for _, counts in known]
        yield plots.shares(title, unit, [name for name, _ in known], axis, sizes, percent)


def _percent(count: int, counts: Mapping[str, int]) -> float:
    return round(100 * count / sum(counts.values()), 1)
