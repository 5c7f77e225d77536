"""The summary in Markdown: what it says, and that names in it are text."""

import html
import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from support.hostile_text import HOSTILE, READABLE, unsafe
from support.load_results import result_of

from loadtest.errors import SettingsError
from loadtest.printable import printable
from loadtest.report import print_refusal
from loadtest.report.markdown import to_markdown
from loadtest.report.verdict import describe_pass
from loadtest.run import append


def render(markdown: str) -> str:
    return str(MarkdownIt("commonmark").enable("table").render(markdown))


def cells(page: str) -> list[list[str]]:
    lines = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    return [[html.unescape(cell) for cell in re.findall(r"<t[hd]>(.*?)</t[hd]>", line)] for line in lines]


def test_a_summary_has_the_verdict_and_a_line_for_each_stage() -> None:
    result = result_of((100, 1000), (1500, 20_000), options=("--max-p99-ms", "10"))
    page = render(to_markdown(result))
    assert "<h3>Load test of m: passed</h3>" in page
    assert f"<strong>passed</strong>: {describe_pass(result)}" in page
    assert cells(page) == [
        ["stage", "rows/s", "requests", "p50, ms", "p99, ms", "goodput", "failed", "wrong"],
        ["1 user", "100.0", "300", "1", "1", "100 %", "0", "0"],
        ["2 users", "1,500.0", "4,500", "20", "20", "0 %", "0", "0"],
    ]
    assert "<strong>note</strong>: " in page


def test_a_failed_run_says_why_and_a_figure_that_there_is_not_is_a_dash() -> None:
    page = render(to_markdown(result_of((3, 1000), failures={"cut": 2}, wrong={"nan": 1})))
    assert "<h3>Load test of m: failed</h3>" in page
    assert "<strong>failed</strong>: 3 of 9 answers were wrong: 3 nan" in page
    assert cells(page)[1][4:] == ["\N{EN DASH}", "\N{EN DASH}", "6", "3"]


def test_names_are_text() -> None:
    result = result_of((100, 1000), failures={HOSTILE: 1})
    hostile = f"{HOSTILE} | a_b_c *x* [l](http://h) ![i](www.h.com) `c` @user #1 &amp; \\"
    result["run"]["models"][0]["name"] = result["stages"][0]["name"] = hostile
    result["verdict"] = {"passed": False, "complete": True, "reasons": [hostile]}
    result["notes"] = [hostile]
    markdown = to_markdown(result)
    assert unsafe(markdown.encode()) == set()
    assert "@" not in markdown
    page = render(markdown)
    assert set(re.findall(r"<(\w+)", page)) == {
        "h3",
        "p",
        "ul",
        "li",
        "strong",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
    }
    assert html.unescape(page).count(printable(hostile)) == 4
    assert READABLE in page


def test_a_run_that_does_not_start_appends_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = tmp_path / "summary.md"
    print_refusal(SettingsError("--rate", f"{HOSTILE} is not a number", "give a number"), str(summary))
    page = render(summary.read_text(encoding="utf-8"))
    assert "<h3>Load test: did not start</h3>" in page
    assert f"<strong>error</strong>: --rate: {printable(HOSTILE)} is not a number" in html.unescape(page)
    assert "<strong>fix</strong>: give a number" in page
    print_refusal(SettingsError("--rate", "it is missing", "give it"), str(tmp_path))
    said = capsys.readouterr().err
    assert said.count("error: --rate") == 2
    assert "error: --rate: it is missing\nfix: give it\nerror: " in said
    assert said.endswith("fix: set --markdown to a file you can write to\n")


def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="fix: set --markdown to a file you can write to"):
        append(tmp_path, "")
