"""The result of a run in Markdown, such as for the summary page of a job of GitHub Actions."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from loadtest.console import NO_FIGURE, to_ms
from loadtest.errors import LoadTestError
from loadtest.printable import printable
from loadtest.report.search import to_percent
from loadtest.report.verdict import describe_pass

_COLUMNS = ("stage", "rows/s", "requests", "p50, ms", "p99, ms", "goodput", "failed", "wrong")
_SPECIAL = re.compile(r"_|[^\w\s.,%/-]|(?<!\d)\.|\.(?!\d)")
"""What may mean something in Markdown or HTML, or make a link: everything but words, numbers and a few signs."""


def to_markdown(result: Mapping[str, Any]) -> str:
    """Return verdict, reasons, a table of the stages, and notes."""
    return "\n".join(_lines(result)) + "\n"


def refusal_to_markdown(error: LoadTestError) -> str:
    """Return why a run did not start, and what to do about it."""
    what = _list("error", [f"{error.where}: {error.what}"])
    return "\n".join(["### Load test: did not start", "", *what, *_list("fix", [error.fix])])


def _lines(result: Mapping[str, Any]) -> Iterator[str]:
    run, verdict = result["run"], result["verdict"]
    models = ", ".join(_text(model["name"]) for model in run["models"])
    yield f"### Load test of {models}: {'passed' if verdict['passed'] else 'failed'}"
    yield ""
    yield f"{_text(run['scenario'])} over {_text(run['protocol'])} to {_text(run['server'])}"
    yield ""
    if verdict["passed"]:
        yield from _list("passed", [describe_pass(result)])
    yield from _list("failed", verdict["reasons"])
    if result["search"] is not None:
        yield from _list("found", result["search"]["summary"])
    if result["stages"]:
        yield from _table(result)
    yield from _list("note", result["notes"])


def _list(kind: str, lines: list[str]) -> Iterator[str]:
    yield from (f"- **{kind}**: {_text(line)}" for line in lines)
    if lines:
        yield ""


def _table(result: Mapping[str, Any]) -> Iterator[str]:
    yield f"| {' | '.join(_COLUMNS)} |"
    yield f"|{'---|' * len(_COLUMNS)}"
    for stage in result["stages"]:
        latency, counts = stage["latency_us"], (sum(stage[name].values()) for name in ("failures", "wrong"))
        rate = f"{stage['throughput_rows_per_s']:,.1f}"
        cells = [_text(stage["name"]), rate, f"{stage['requests']:,}", to_ms(latency["p50"]), to_ms(latency["p99"])]
        cells += [NO_FIGURE if stage["goodput"] is None else to_percent(stage["goodput"]), *counts]
        yield f"| {' | '.join(map(str, cells))} |"
    yield ""


def _text(text: object) -> str:
    """Return text that is shown as it is: in Markdown, a character given by its number is never markup."""
    return _SPECIAL.sub(lambda found: f"&#{ord(found[0])};", printable(text))
