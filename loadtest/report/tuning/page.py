"""The page of a tuning: one file of HTML with its charts and tables, which needs no other file."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from loadtest.console import NO_FIGURE
from loadtest.errors import SettingsError, reason
from loadtest.report.page import fill_page, read_page
from loadtest.report.tuning.charts import make_charts
from loadtest.report.tuning.document import Document, Interval, Run

_RUN_HEADS = (
    "run", "settings", "load", "predicted (rows/s)", "rows/s", "predicted p99 (ms)", "p99 (ms)", "mean batch",
    "verdict", "why it was tried",
)  # fmt: skip
_RESULT_HEADS = ("", "settings", "load", "rows/s", "p99 (ms)", "runs")
_TITLES = {
    "": "not over yet",
    "better": "better settings were found",
    "as it is": "the current settings are the best",
    "not distinguishable": "nothing is distinguishably better than the current settings",
}
_TONES = {"": "soft", "better": "good", "as it is": "good", "not distinguishable": ""}
"""How the verdict is written: a class of the page."""

_TEXTS = {"", "settings", "load", "verdict", "why it was tried"}


def write(tuning: Document, path: Path) -> None:
    """Write the page.

    Raises:
        SettingsError: The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(to_html(tuning), encoding="utf-8")
    except OSError as error:
        raise SettingsError(path, f"the page cannot be written: {reason(error)}", "name another file") from error


def to_html(tuning: Document) -> str:
    """Return the page."""
    return fill_page(read_page("tuning"), {"result": to_result(tuning), "charts": make_charts(tuning), "over": True})


def to_result(tuning: Document) -> dict[str, Any]:
    """Return what the page shows besides the charts: texts, and tables of texts."""
    return {
        "title": f"{tuning.name}: {_TITLES.get(tuning.verdict, tuning.verdict)}",
        "tone": _TONES.get(tuning.verdict, "bad"),
        "why": tuning.why,
        "applied": tuning.applied,
        "notes": list(tuning.notes),
        "diff": tuning.diff,
        "facts": [list(fact) for fact in tuning.facts],
        "tables": [
            _table("Results", _RESULT_HEADS, list(_results(tuning))),
            _table("Runs", _RUN_HEADS, [_row(run) for run in tuning.runs]),
        ],
    }


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> dict[str, Any]:
    return {"title": title, "heads": [[head, head in _TEXTS] for head in heads], "rows": [list(row) for row in rows]}


def _results(tuning: Document) -> Iterator[tuple[str, ...]]:
    for one in tuning.results:
        yield one.what, one.settings, one.load, _figure(one.throughput), _figure(one.p99_ms), str(one.runs)


def _row(run: Run) -> tuple[str, ...]:
    throughput, p99_ms = run.predicted or (None, None)
    return (
        str(run.number),
        run.settings,
        run.load,
        NO_FIGURE if throughput is None else _three(throughput),
        _figure(run.throughput),
        NO_FIGURE if p99_ms is None else _three(p99_ms),
        _figure(run.p99_ms),
        _three(run.mean_batch) if run.mean_batch else NO_FIGURE,
        run.verdict,
        run.why,
    )


def _figure(interval: Interval | None) -> str:
    """Return a figure with its interval: `1,240 (1,200 to 1,280)`."""
    if interval is None:
        return NO_FIGURE
    return f"{_three(interval.value)} ({_three(interval.low)} to {_three(interval.high)})"


def _three(value: float) -> str:
    """Return a number with three digits: 0.0123, 1.23, 12.3, 123, 1,230."""
    return f"{float(f'{value:.3g}'):,.6g}"
