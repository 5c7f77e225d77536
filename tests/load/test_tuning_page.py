"""The page of a tuning: what it shows, that text in it stays text, and that files which are none are refused."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator
from support.load_run import ROOT
from support.tunings import DIFF, GOAL, WORDS, about, document, found, steps

from builder.tuning import wording
from builder.tuning.measurement import Interval
from builder.tuning.search.found import Step
from builder.tuning.table import say_verdict
from loadtest.commands import main
from loadtest.errors import SettingsError
from loadtest.report import read_schema
from loadtest.report.page import read_page
from loadtest.report.tuning import Document, read_document, to_html
from loadtest.report.tuning.charts import find_front, make_charts
from loadtest.report.tuning.document import say_configuration, say_load
from loadtest.report.tuning.page import to_result

HOSTILE = "</script><b>&\x1b[31m\u202e"


def read(values: dict[str, Any], folder: Path) -> Document:
    file = folder / "tune.json"
    file.write_text(json.dumps(values))
    return read_document(file)


def errors(values: Any) -> list[str]:
    found = Draft202012Validator(json.loads(read_schema("tuning"))).iter_errors(json.loads(json.dumps(values)))
    return [f"{error.json_path}: {error.message[:200]}" for error in found]


def kinds(schema: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {"top": schema, **schema["$defs"]}


# ---- The schema


@pytest.mark.parametrize("of", ["tuning", "sharing"])
def test_the_schema_is_a_schema(of: str) -> None:
    Draft202012Validator.check_schema(json.loads(read_schema(of)))


@pytest.mark.parametrize("kind", kinds(json.loads(read_schema("sharing"))).values(), ids=str)
def test_every_key_is_described_and_always_there(kind: dict[str, Any]) -> None:
    assert kind["additionalProperties"] is False
    assert set(kind["properties"]) == set(kind["required"])
    assert all(value["description"] for value in kind["properties"].values())


@pytest.mark.parametrize("of", ["tuning", "sharing"])
def test_the_page_in_the_docs_is_made_from_the_schema(of: str) -> None:
    command = [sys.executable, "docs/result_schema.py", of]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    how = f"run python docs/result_schema.py {of} > docs/{of}-schema.md"
    assert (ROOT / "docs" / f"{of}-schema.md").read_text() == made.stdout, how


def test_a_tuning_is_what_the_schema_describes_and_another_one_is_not() -> None:
    assert errors(document()) == []
    assert errors(document(found=None, finished=None, config_diff="")) == []
    assert errors(document(surprise=1)) != []
    assert errors({key: value for key, value in document().items() if key != "machine"}) != []


def test_the_command_prints_the_schema() -> None:
    for of in ("tuning", "sharing"):
        printed = CliRunner().invoke(main, ["schema", of])
        assert json.loads(printed.output) == json.loads(read_schema(of))


# ---- What is shown


def test_the_page_says_what_was_found_and_with_which_figures(tmp_path: Path) -> None:
    shown = to_result(read(document(), tmp_path))
    assert shown["title"] == "digits: better settings were found"
    assert shown["diff"] == DIFF
    results, runs = shown["tables"]
    assert results["rows"][0] == [
        "best",
        "2 instances of 1 thread, batches up to 8 (of 32)",
        "16 users",
        "2,180 (2,130 to 2,220)",
        "13.3 (12.8 to 13.8)",
        "2",
    ]
    assert [row[0] for row in results["rows"]] == ["best", "current settings", "as good"]
    assert len(runs["rows"]) == 10
    assert [row[-2] for row in runs["rows"]][4:7] == ["best", "misses the limit", "keeps the limit"]
    assert ["machine", "AMD EPYC 7B13, 2 cores, 16 GB, virtual"] in shown["facts"]
    assert shown["notes"] == ["no other model was under load", "the machine's two cores were the limit in 3 runs"]


def test_a_tuning_that_is_not_over_has_a_page(tmp_path: Path) -> None:
    values = document(found=None, finished=None)
    values["steps"] = values["steps"][:4]
    values["steps"][3]["measurement"] = None
    shown = to_result(read(values, tmp_path))
    assert (shown["title"], shown["tone"]) == ("digits: not over yet", "soft")
    assert [len(table["rows"]) for table in shown["tables"]] == [0, 3]


@pytest.mark.parametrize("change", [None, {"verdict": "no configuration keeps the limit", "best": None}])
def test_no_settings_are_called_the_best_before_that_is_known(change: Any, tmp_path: Path) -> None:
    values = document()
    values["found"] = change and values["found"] | change
    texts = [chart["text"] for chart in make_charts(read(values, tmp_path))]
    assert texts[0] == "Of 8 runs, 7 keep the limit."
    assert not any("best" in text or "better" in text for text in texts)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"wrong": 2},
        {"failed": 1},
        {"unchecked": 3},
        {"error": "it is gone"},
        {"p99_s": None},
        {"p99_s": about(0.01)},
        {"others": 0.1},
        {"others": 0.11},
        {"others": None},
    ],
)
def test_runs_have_the_words_of_the_table(change: dict[str, Any], tmp_path: Path) -> None:
    made: list[Step] = []
    for step in steps():
        assert step.measurement is not None
        made.append(replace(step, measurement=replace(step.measurement, **change)))
    runs = read(document(steps=[asdict(step) for step in made]), tmp_path).runs
    assert [run.verdict for run in runs] == [say_verdict(step, GOAL, found().best) for step in made]


@pytest.mark.parametrize(
    ("p99_s", "does_best_keep", "words"),
    [
        ((0.0195, 0.019, 0.02), True, ("best", "falls behind the rate")),
        ((0.0195, 0.019, 0.0201), True, ("best", "may miss the limit")),
        ((0.0195, 0.019, 0.0201), False, ("may miss the limit", "may miss the limit")),
        ((0.0201, 0.0195, 0.021), True, ("misses the limit", "misses the limit")),
    ],
)
def test_a_run_that_leaves_the_limit_open_is_not_said_to_miss_it(
    p99_s: tuple[float, float, float], does_best_keep: bool, words: tuple[str, str], tmp_path: Path
) -> None:
    """All runs of the best settings together may keep the limit, although one of them does not show it."""
    best, of_best, other = found().best, steps()[4], steps()[5]
    assert best
    best = replace(best, keeps=does_best_keep)
    made = []
    for step in (of_best, other):
        assert step.measurement
        run = replace(step.measurement, p99_s=Interval(*p99_s))
        made.append(replace(step, measurement=run, keeps=step is of_best and p99_s[2] <= GOAL.max_p99_s))
    values = document(steps=[asdict(step) for step in made])
    values["found"] |= {"best": asdict(best)}
    assert tuple(run.verdict for run in read(values, tmp_path).runs) == words
    assert tuple(say_verdict(step, GOAL, best) for step in made) == words


@pytest.mark.parametrize(
    ("change", "kind", "verdict"),
    [
        ({"error": "it does not load"}, "out", "it does not load"),
        ({"wrong": 3}, "out", "out: 3 wrong answers"),
        ({"failed": 1}, "out", "1 failed request"),
        ({"unchecked": 2}, "out", "2 unchecked answers"),
    ],
)
def test_a_run_that_proves_nothing_is_out(change: dict[str, Any], kind: str, verdict: str, tmp_path: Path) -> None:
    values = document()
    values["steps"][4]["measurement"].update(change)
    tuning = read(values, tmp_path)
    assert (tuning.runs[4].kind, tuning.runs[4].verdict) == (kind, verdict)
    drawn = [trace["x"] for trace in make_charts(tuning)[0]["data"] if trace["name"] == "best settings"]
    assert [len(x) for x in drawn] == [1]  # the other run of the best settings


def test_a_run_beside_other_programs_is_called_disturbed(tmp_path: Path) -> None:
    values = document()
    values["steps"][0]["measurement"]["others"] = values["steps"][6]["measurement"]["others"] = 0.3
    runs = read(values, tmp_path).runs
    assert [runs[number].verdict for number in (0, 1, 6)] == [
        "to learn from (disturbed)",
        "to learn from",
        "keeps the limit (disturbed)",
    ]


@pytest.mark.parametrize(
    ("verdict", "tone"),
    [("better", "good"), ("as it is", "good"), ("not distinguishable", ""), ("nothing could be measured", "bad")],
)
def test_only_what_was_found_out_is_green(verdict: str, tone: str, tmp_path: Path) -> None:
    values = document()
    values["found"] |= {"verdict": verdict}
    assert to_result(read(values, tmp_path))["tone"] == tone


@pytest.mark.parametrize("configuration", WORDS)
def test_settings_have_the_words_of_the_command(configuration: Any) -> None:
    assert say_configuration(asdict(configuration)) == wording.say_configuration(configuration)


def test_loads_have_the_words_of_the_command(tmp_path: Path) -> None:
    steps = {step["number"]: step["load"] for step in document()["steps"]}
    assert [say_load(steps[number]) for number in (1, 5)] == ["1 user with 1, 8 or 32 rows", "16 users"]
    assert say_load({"users": None, "rate": 300.5, "rows": [[1, 1.0]]}) == "300.5 requests/s"


# ---- The charts


def test_the_charts_are_the_trade_off_the_predictions_and_the_history(tmp_path: Path) -> None:
    charts = make_charts(read(document(), tmp_path))
    assert [chart["title"] for chart in charts] == [
        "Throughput and p99 of each run",
        "Predicted and measured throughput",
        "Predicted and measured p99",
        "Throughput by run",
    ]
    best = next(trace for trace in charts[0]["data"] if trace["name"] == "best settings")
    assert best["y"] == [2160, 2190]
    assert best["error_y"]["array"] == pytest.approx([0.03 * 2160, 0.03 * 2190])
    limit = next(trace for trace in charts[0]["data"] if trace["name"] == "p99 limit: 20 ms")
    assert limit["x"] == [20, 20]
    so_far = next(trace for trace in charts[3]["data"] if trace["name"] == "best so far")
    assert (so_far["x"], so_far["y"]) == ([4, 5, 6, 7, 8, 9, 10], [2160] * 7)


def test_a_limit_far_from_the_runs_is_only_named(tmp_path: Path) -> None:
    values = document()
    values["goal"] |= {"max_p99_s": 0.2}
    limit = make_charts(read(values, tmp_path))[0]["data"][-1]
    assert (limit["name"], limit["visible"]) == ("p99 limit: 200 ms (right of this chart)", "legendonly")


def test_each_kind_of_run_has_the_same_place_in_every_chart(tmp_path: Path) -> None:
    values = document()
    values["steps"] = [step for step in values["steps"] if step["configuration"] != values["current"]]
    for chart in make_charts(read(values, tmp_path)):
        names = [(trace["name"], trace["showlegend"]) for trace in chart["data"][:4]]
        assert names[:2] == [("current settings", False), ("best settings", True)]


def test_current_settings_that_are_the_best_are_one_result(tmp_path: Path) -> None:
    values = document()
    values["found"] |= {"best": values["found"]["baseline"], "verdict": "as it is"}
    shown = to_result(read(values, tmp_path))
    assert shown["title"] == "digits: the current settings are the best"
    assert [row[0] for row in shown["tables"][0]["rows"]] == ["best: the current settings", "as good"]


def test_with_a_rate_the_best_so_far_is_the_lowest_p99(tmp_path: Path) -> None:
    values = document()
    values["goal"] |= {"rate": 300.0}
    chart = make_charts(read(values, tmp_path))[3]
    so_far = next(trace for trace in chart["data"] if trace["name"] == "best so far")
    assert (chart["title"], so_far["y"][0], so_far["y"][-1]) == ("p99 by run", pytest.approx(13.1), pytest.approx(13.1))


def test_the_front_has_what_nothing_beats_in_both_figures() -> None:
    assert find_front([(20, 100), (10, 90), (12, 80), (30, 100), (10, 95)]) == [(10, 95), (20, 100)]
    assert find_front([]) == []


# ---- The file may have been written by anybody


def test_no_text_in_the_page_can_end_its_script(tmp_path: Path) -> None:
    values = document(name=HOSTILE, config_diff=f"+{HOSTILE}", notes=[HOSTILE], server=HOSTILE)
    for step in values["steps"]:
        step["why"] = step["measurement"]["error"] = HOSTILE
    page = to_html(read(values, tmp_path))
    assert page.count("<") == read_page("tuning").count("<")
    assert not {"\x1b", "\u202e"} & set(page)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"schema": 2}, "not a tuning of schema 1"),
        ({"steps": 3}, "damaged"),
        ({"goal": {}}, "damaged"),
        ({"machine": []}, "damaged"),
        ({"found": {"verdict": "better"}}, "damaged"),
        ({"stage_time_s": "long"}, "damaged"),
    ],
)
def test_another_file_is_refused(change: dict[str, Any], what: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=what) as found:
        read(document(**change), tmp_path)
    assert "tune.json" in found.value.fix


@pytest.mark.parametrize("figure", [float("nan"), float("inf"), -1, True, "1"])
def test_a_figure_that_none_can_be_is_refused(figure: Any, tmp_path: Path) -> None:
    values = document()
    values["steps"][3]["measurement"]["throughput"]["value"] = figure
    with pytest.raises(SettingsError, match="is not a figure"):
        read(values, tmp_path)


@pytest.mark.parametrize("kind", ["measurement", "predicted"])
def test_a_time_that_is_too_long_in_milliseconds_is_refused(kind: str, tmp_path: Path) -> None:
    values = document()
    times = values["steps"][3][kind]
    times["p99_s"] = 1e306 if kind == "predicted" else {"value": 1e306, "low": 0.0, "high": 1e306}
    with pytest.raises(SettingsError, match="inf is not a figure"):
        read(values, tmp_path)


def test_the_command_writes_the_page(tmp_path: Path) -> None:
    (tmp_path / "tune.json").write_text(json.dumps(document()))
    command = ["tuning", str(tmp_path / "tune.json"), "--output", str(tmp_path / "new" / "report.html")]
    assert CliRunner().invoke(main, command, catch_exceptions=False).exit_code == 0
    assert "better settings were found" in (tmp_path / "new" / "report.html").read_text()
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="cannot be written"):
        CliRunner().invoke(main, [*command[:3], str(tmp_path / "file" / "x.html")], catch_exceptions=False)
