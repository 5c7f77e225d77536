"""Names and messages from servers are shown as text: on the console, in the page and in pictures."""

import html
import json
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from locust.env import Environment
from support.hostile_text import HOSTILE, READABLE, forged, unsafe
from support.load_results import result_of

from loadtest import console
from loadtest.commands import main
from loadtest.errors import ServerError
from loadtest.report import page
from loadtest.report.compare import compare, draw, read_run
from loadtest.report.outcome import summarize
from loadtest.run.locust_stats import Feed
from loadtest.run.recorder import Slice

CHROMIUM = shutil.which("chromium")


def hostile_result() -> dict[str, Any]:
    """A result in which everything that a server, a model or a worker can name is hostile."""
    result = result_of((100, 1000), (150, 2000), failures={HOSTILE: 1}, wrong={HOSTILE: 1})
    result["run"]["models"][0]["name"] = HOSTILE
    result["messages"] = {HOSTILE: HOSTILE}
    result["verdict"] |= {"passed": False, "reasons": [HOSTILE]}
    result["notes"] = [HOSTILE]
    result["stages"][0]["name"] = HOSTILE
    return result


def test_the_summary_prints_hostile_text_as_text(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    for line in summarize(hostile_result()):
        console.print_line(line)
    console.print_error(ServerError(HOSTILE, HOSTILE, HOSTILE))
    printed = capfdbinary.readouterr()
    assert unsafe(printed.out + printed.err) == set()
    assert forged(printed.out + printed.err) == []
    assert printed.err.startswith(b"error: a\\x1b")
    assert READABLE in printed.out.decode()


def test_what_locust_prints_and_shows_is_text() -> None:
    environment = Environment()
    came = Slice(failures=Counter([HOSTILE]), wrong=Counter([HOSTILE]))
    Feed(environment.stats).add(HOSTILE, "http", came, (0.0, 1.0))
    shown = [*(str(error.error) + error.name for error in environment.stats.errors.values())]
    shown += [name for name, _ in environment.stats.entries]
    assert len(shown) == 3
    assert unsafe("".join(shown).encode()) == set()


def test_no_text_in_the_page_can_end_its_script() -> None:
    report, plain = page.to_html(hostile_result()), page.read_page()
    assert report.count("<") == plain.count("<")
    assert unsafe(report.encode()) == set()
    start = report.index("const SHOWN = ") + len("const SHOWN = ")
    shown = json.JSONDecoder().raw_decode(report, start)[0]
    assert shown["result"]["messages"] == {HOSTILE: HOSTILE}
    assert "<" not in json.dumps(shown["charts"])


def show(result: dict[str, Any], folder: Path) -> str:
    """The report as a browser shows it, in HTML."""
    (folder / "report.html").write_text(page.to_html(result))
    command = [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile"]
    done = subprocess.run(
        [*command, "--dump-dom", f"file://{folder}/report.html"], capture_output=True, timeout=600, check=True
    )
    return done.stdout.decode().partition("<main")[2].partition("</main>")[0]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")
def test_the_table_says_which_stages_kept_the_p99_limit_and_has_the_intervals(tmp_path: Path) -> None:
    result = result_of((100, 1000), (100, 3000), options=("--max-p99-ms", "2"))
    result["stages"][1]["intervals"] = {"throughput_rows_per_s": [98.76, 1012.4], "p99_us": [2900, 3456.7]}
    shown = show(result, tmp_path)
    assert "95 % interval" in shown
    assert "600 answers," in shown
    assert "0 failed requests." in shown
    _, fast, slow, *_ = (row.partition("</tr>")[0] for row in shown.split("<tr>")[1:])
    assert (">kept<" in fast, ">missed<" in fast) == (True, False)
    assert (">kept<" in slow, ">missed<" in slow) == (False, True)
    assert "98.8 to 1,012<" in slow
    assert ">2,900 to 3,457<" in slow
    assert " to " not in fast


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")
def test_a_browser_shows_hostile_text_as_text(tmp_path: Path) -> None:
    shown = show(hostile_result(), tmp_path)
    assert unsafe(shown.encode()) == set()
    assert READABLE in shown
    assert "95 % interval" not in shown, "there is none"
    assert "onmouseover" in html.unescape(shown)
    assert "<b onmouseover" not in shown


@pytest.mark.slow
def test_a_comparison_of_hostile_files_is_printed_and_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.chdir(tmp_path)
    name = HOSTILE.replace("/", "_").replace(READABLE, "")[:200]
    for path in (Path(f"{name}1"), Path(f"{name}2")):
        path.write_text(json.dumps(hostile_result()))
    with pytest.raises(SystemExit):
        main(["compare", f"{name}1", f"{name}2", "--picture", "compare.png"], standalone_mode=False)
    printed = capfdbinary.readouterr()
    assert unsafe(printed.out + printed.err) == set()
    assert b"[red]" in printed.out
    assert Path("compare.png").stat().st_size > 1000


@pytest.mark.slow
def test_dollar_signs_in_a_label_are_no_formula(tmp_path: Path) -> None:
    result = result_of((100, 1000))
    result["stages"][0]["name"] = r"$\frac{"
    (tmp_path / "$x_$").write_text(json.dumps(result))
    runs = [read_run(tmp_path / "$x_$")]
    draw(compare(runs, runs), tmp_path / "p.svg")
    assert (tmp_path / "p.svg").stat().st_size > 1000
