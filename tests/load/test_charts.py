"""What the charts of a run show: against the load or over time, in which unit, with which marks."""

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.hostile_text import HOSTILE, unsafe
from support.load_results import make_result, record_of, result_of, window
from support.load_settings import read

from loadtest.report.charts import make_charts
from loadtest.run import Run, Window
from loadtest.scenarios import make_stages
from loadtest.server import Snapshot
from loadtest.server.meter import Models
from loadtest.server.statistics import Counts

LADDER = ["Throughput", "Latency", "Server time per request", "Executed batch sizes"]
OVER_TIME = [
    "Latency",
    "Throughput",
    "Requests in flight at the end of each window",
    "Server time per request",
    "Executed batch sizes",
]


def snapshots(number: int) -> list[Snapshot]:
    """A server's counters before and after each window: 100 requests in batches of 1 and 4, 5 ms in the queue."""
    parts = {
        "queue": 500_000_000,
        "compute_input": 1_000_000,
        "compute_infer": 250_000_000,
        "compute_output": 2_000_000,
    }
    return [
        Snapshot(
            {
                ("", "m", "1"): Counts(
                    *(100 * done, 40 * done, 100 * done, 0),
                    {part: ns * done for part, ns in parts.items()},
                    Counter({1: 20 * done, 4: 20 * done}),
                )
            },
            {},
            models=Models(("m",)),
        )
        for done in range(number + 1)
    ]


def charts_of(scenario: str, folder: Path, *options: str, measured: tuple[Window, ...] = ()) -> dict[str, Any]:
    """The charts of a run of a scenario, by title; in each stage, 100 answers took 2 ms unless `measured` says else."""
    (folder / "times.csv").write_text("0\n1\n")
    load = {
        "steps": ("--concurrency", "1,4,16"),
        "ramp": ("--concurrency", "1,5", "--stages", "3"),
        "rate": ("--rate", "100,200"),
        "constant": ("--concurrency", "8"),
        "spike": ("--concurrency", "2,32"),
        "soak": ("--concurrency", "8", "--stages", "3"),
        "replay": ("--arrivals-file", str(folder / "times.csv")),
    }[scenario]
    settings = read("--scenario", scenario, *load, *options)
    run = Run(settings, time.time(), complete=True)
    for place, stage in enumerate(make_stages(settings.load)):
        windows = measured or (window(100, 2000), window(100, 2000))
        record = record_of(stage, *windows, start_s=3.0 * place)
        record.snapshots = snapshots(len(windows))
        run.records.append(record)
    return {chart["title"]: chart for chart in make_charts(make_result(run))}


@pytest.mark.parametrize("scenario", ["steps", "ramp", "rate"])
def test_a_ladder_is_drawn_against_its_load(scenario: str, tmp_path: Path) -> None:
    charts = charts_of(scenario, tmp_path)
    assert list(charts) == LADDER
    loads = {"steps": [1, 4, 16], "ramp": [1, 3, 5], "rate": [100, 200]}[scenario]
    axis = charts["Latency"]["layout"]["xaxis"]
    assert axis["title"]["text"] == ("requests/s asked for" if scenario == "rate" else "users")
    assert axis["tickvals"] == loads
    for title in ("Throughput", "Latency"):
        assert charts[title]["data"][0]["x"] == loads
    assert charts["Server time per request"]["data"][0]["x"] == [f"{load:g}" for load in loads]
    assert [trace["name"] for trace in charts["Latency"]["data"]] == ["p50", "p90", "p99"]


@pytest.mark.parametrize("scenario", ["constant", "spike", "soak", "replay"])
def test_other_scenarios_are_drawn_over_time(scenario: str, tmp_path: Path) -> None:
    charts = charts_of(scenario, tmp_path)
    assert list(charts) == OVER_TIME
    stages = {"spike": 3, "soak": 3}.get(scenario, 1)
    moments = [3.0 * stage + offset for stage in range(stages) for offset in (0.5, 1.5)]
    for title in OVER_TIME[:-1]:
        assert charts[title]["data"][0]["x"] == moments
        assert charts[title]["layout"]["xaxis"]["title"]["text"] == "seconds since the run began"
        assert [line["x0"] for line in charts[title]["layout"]["shapes"]] == [3.0, 6.0][: stages - 1]
    assert [trace["name"] for trace in charts["Server time per request"]["data"]] == [
        *("queue", "input", "inference", "output")
    ]


def test_steps_with_a_single_load_are_drawn_over_time() -> None:
    assert [chart["title"] for chart in make_charts(result_of((100, 1000)))] == OVER_TIME[:3]


def test_the_stages_of_a_spike_are_named_where_they_begin(tmp_path: Path) -> None:
    labels = charts_of("spike", tmp_path)["Throughput"]["layout"]["annotations"]
    assert [(label["text"], label["x"]) for label in labels] == [("before", 0.0), ("spike", 3.0), ("after", 6.0)]


def test_loads_are_in_order_however_the_run_took_them() -> None:
    result = result_of((100, 1000), (190, 2000), (200, 3000))
    result["stages"].reverse()
    charts = {chart["title"]: chart for chart in make_charts(result)}
    assert charts["Throughput"]["data"][0]["x"] == [1, 2, 4]
    assert charts["Throughput"]["data"][0]["y"] == [100, 190, 200]


def test_the_knee_of_a_ladder_is_circled_and_other_scenarios_have_none(tmp_path: Path) -> None:
    (chart, *_) = make_charts(result_of((100, 1000), (196, 2000), (200, 3000)))
    assert [(trace["x"], trace["y"]) for trace in chart["data"] if trace.get("meta") == "circle"] == [([2], [196])]
    assert "The knee is at 2 (users)." in chart["text"]
    for scenario in ("constant", "spike", "soak", "replay"):
        assert "knee" not in str(charts_of(scenario, tmp_path))


def test_what_a_search_found_is_circled() -> None:
    result = result_of((100, 1000), (196, 2000), (200, 3000), options=("--max-p99-ms", "2.5"))
    result["search"] = {"answer": {"stages": [result["stages"][1]["name"]]}}
    (chart, *_) = make_charts(result)
    assert [(trace["x"], trace["text"]) for trace in chart["data"] if trace.get("meta") == "circle"] == [
        ([2], ["highest within the limits"])
    ]


def test_goodput_is_drawn_if_there_is_a_limit() -> None:
    assert "Right answers within the p99 limit" not in [one["title"] for one in make_charts(result_of((1, 1), (2, 2)))]
    result = result_of((100, 1000), (196, 2000), options=("--max-p99-ms", "1.5"))
    charts = {chart["title"]: chart for chart in make_charts(result)}
    assert charts["Right answers within the p99 limit"]["data"][0]["y"] == [100, 0]


@pytest.mark.parametrize(("highest_us", "unit", "y"), [(9_990, "µs", 9_990), (12_000, "ms", 12.0)])
def test_a_chart_of_times_has_one_unit(highest_us: int, unit: str, y: float) -> None:
    chart = make_charts(result_of((100, 2000), (100, highest_us)))[1]
    assert chart["layout"]["yaxis"]["title"]["text"] == unit
    assert chart["data"][0]["y"][1] == pytest.approx(y, rel=0.002)
    assert all(unit in trace["hovertemplate"] for trace in chart["data"])


def test_times_that_differ_a_hundredfold_are_on_a_logarithmic_axis_with_round_ticks() -> None:
    axis = make_charts(result_of((100, 2000), (100, 900_000)))[1]["layout"]["yaxis"]
    assert (axis["type"], axis["title"]["text"]) == ("log", "ms, logarithmic")
    assert axis["ticktext"] == ["1", "2", "5", "10", "20", "50", "100", "200", "500"]


@pytest.mark.parametrize(("limit", "visible"), [("3", True), ("500", "legendonly")])
def test_the_limit_is_a_line_unless_it_would_flatten_the_curves(limit: str, visible: object) -> None:
    chart = make_charts(result_of((100, 2000), (100, 4000), options=("--max-p99-ms", limit)))[1]
    (line,) = (trace for trace in chart["data"] if trace.get("meta") == "limit")
    assert line["y"] == [float(limit) * 1000] * 2
    assert line["visible"] == visible
    assert f"p99 limit: {float(limit) * 1000:,g} µs" in chart["text"]


def test_failures_and_wrong_answers_are_drawn_only_if_there_are_any(tmp_path: Path) -> None:
    assert "Failures" not in charts_of("soak", tmp_path)
    bad = window(100, 2000, failures=Counter(timeout=3), wrong=Counter(nan=2))
    over_time = charts_of("soak", tmp_path, measured=(window(100, 2000), bad))["Failures"]
    assert [trace["y"] for trace in over_time["data"]] == [[0, 3, 0, 3, 0, 3], [0, 2, 0, 2, 0, 2]]
    by_load = charts_of("steps", tmp_path, measured=(bad, bad))["Failures"]
    assert [(trace["name"], trace["y"]) for trace in by_load["data"]] == [
        ("without an answer", [6, 6, 6]),
        ("wrong answer", [4, 4, 4]),
    ]


def late_marks(chart: dict[str, Any]) -> list[tuple[Any, Any]]:
    return [(trace["x"], trace["text"]) for trace in chart["data"] if trace.get("meta") == "late"]


def p99_of(chart: dict[str, Any]) -> Any:
    (values,) = (trace["y"] for trace in chart["data"] if trace["name"] == "p99")
    return values


def failing(failures: int, answers: int = 98, latency_us: int = 2000) -> Window:
    return window(answers, latency_us, failures=Counter(timeout=failures))


def test_a_ladder_shows_the_p99_that_a_limit_is_about_and_marks_where_it_has_none(tmp_path: Path) -> None:
    limit = ("--max-p99-ms", "3")
    failed = charts_of("steps", tmp_path, *limit, measured=(failing(1), failing(2)))["Latency"]
    assert late_marks(failed) == [([1, 4, 16], ["1.5 % failed"] * 3)]
    assert failed["note"] == "▲ more than 1 % failed: p99 is slower than any limit"
    assert "More than 1 % failed, by users: 1, 4, 16." in failed["text"]
    assert "p99" not in [trace["name"] for trace in failed["data"]]
    kept = charts_of("steps", tmp_path, *limit, measured=(failing(1), window(2, 90_000), window(100, 2000)))["Latency"]
    assert (late_marks(kept), "note" in kept) == ([], False)
    assert p99_of(kept) == [pytest.approx(90, rel=0.002)] * 3  # of 200 answers it would be 2 ms


def test_windows_are_marked_where_they_have_no_p99(tmp_path: Path) -> None:
    good, bad = window(200, 2000), failing(3, 197)
    chart = charts_of("spike", tmp_path, measured=(good, bad))["Latency"]
    assert late_marks(chart) == [([1.5, 4.5, 7.5], ["1.5 % failed"] * 3)]
    assert p99_of(chart) == [pytest.approx(2000, rel=0.002), None] * 3


def test_a_stage_is_marked_if_its_windows_are_too_small_for_a_p99(tmp_path: Path) -> None:
    chart = charts_of("soak", tmp_path, measured=(failing(1, 49), failing(3, 97 - 50)))["Latency"]
    assert late_marks(chart) == [([1.0, 4.0, 7.0], ["4.0 % failed"] * 3)]
    few = charts_of("soak", tmp_path, measured=(failing(2, 48), failing(1, 48)))["Latency"]
    assert late_marks(few) == []


def test_marks_have_no_text_where_it_would_overlap(tmp_path: Path) -> None:
    def mode(*measured: Window) -> object:
        chart = charts_of("constant", tmp_path, measured=measured)["Latency"]
        return [trace["mode"] for trace in chart["data"] if trace.get("meta") == "late"]

    good, bad = window(200, 2000), failing(3, 197)
    assert mode(bad) == ["markers+text"]
    assert mode(bad, *[good] * 5, bad) == ["markers+text"]
    assert mode(bad, bad, *[good] * 5) == ["markers"]


def test_a_percentile_of_too_few_answers_is_left_out(tmp_path: Path) -> None:
    for answers, names in ((100, ["p50", "p90", "p99"]), (50, ["p50", "p90", "p95"]), (15, ["p50", "p90"])):
        chart = charts_of("constant", tmp_path, measured=(window(answers, 2000), window(answers, 3000)))["Latency"]
        assert [trace["name"] for trace in chart["data"]] == names
    few = charts_of("constant", tmp_path, measured=(window(100, 2000), window(50, 3000)))["Latency"]
    assert [trace["name"] for trace in few["data"]] == ["p50", "p90", "p95"]


def test_a_run_without_answers_has_no_chart_of_latency(tmp_path: Path) -> None:
    nothing = window(0, 1, failures=Counter(refused=5))
    titles = list(charts_of("steps", tmp_path, measured=(nothing, nothing)))
    assert "Latency" not in titles
    assert "Failures" in titles


def test_requests_in_flight_are_beside_the_users_of_a_closed_loop(tmp_path: Path) -> None:
    title, busy = "Requests in flight at the end of each window", window(200, 50_000)
    busy.in_flight = 7
    chart = charts_of("constant", tmp_path, measured=(busy,))[title]
    assert [(trace["name"], trace["y"]) for trace in chart["data"]] == [("in flight", [7]), ("users", [8])]
    assert [trace["name"] for trace in charts_of("replay", tmp_path)[title]["data"]] == ["in flight"]


def test_batch_sizes_are_bars_for_one_stage_and_shares_for_several(tmp_path: Path) -> None:
    bars = charts_of("constant", tmp_path)["Executed batch sizes"]["data"][0]
    assert (bars["type"], bars["x"], bars["y"]) == ("bar", ["1", "4"], [40, 40])
    shares = charts_of("steps", tmp_path)["Executed batch sizes"]["data"][0]
    assert (shares["x"], shares["y"], shares["z"]) == (["1", "4", "16"], ["1", "4"], [[50.0] * 3] * 2)


def test_every_chart_says_in_words_what_it_shows(tmp_path: Path) -> None:
    charts = charts_of("steps", tmp_path)
    assert all(len(chart["text"]) > 20 for chart in charts.values())
    assert charts["Throughput"]["text"].startswith("In rows/s, by users: answered from 100 to 100, at most 100.")


def test_names_are_text_and_no_markup(tmp_path: Path) -> None:
    result = result_of((100, 1000), (150, 2000))
    result["run"]["scenario"] = "soak"
    for stage in result["stages"]:
        stage["name"] = HOSTILE
    shown = str(make_charts(result))
    assert unsafe(shown.encode()) == set()
    assert "<b" not in shown
