"""The result of a run, worked out from windows: verdict, knee and notes."""

import csv
import re
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.load_results import KEY, make_result, record_of, result_of, window
from support.load_settings import read

from loadtest import report
from loadtest.errors import SettingsError
from loadtest.report import outcome
from loadtest.report.files import write
from loadtest.report.markdown import to_markdown
from loadtest.report.result import Ended
from loadtest.run import Busy, Run, Window
from loadtest.scenarios import Stage, make_stages
from loadtest.server import Snapshot
from loadtest.server.meter import Models
from loadtest.server.statistics import Counts
from loadtest.settings.allowances import read_allowance


def test_the_knee_is_the_lowest_load_with_95_percent_of_the_best() -> None:
    knee = result_of((100, 1000), (195, 1000), (199, 2000), (200, 4000))["knee"]
    assert (knee["concurrency"], knee["best_throughput_rows_per_s"]) == (2, 200)


def test_the_best_throughput_within_the_p99_limit_is_named() -> None:
    options = ("--max-p99-ms", "2.5", "--min-throughput", "150")
    result = result_of((100, 1000), (180, 2000), (300, 4000), options=options)
    assert result["knee"]["best_within_p99"]["throughput_rows_per_s"] == 180
    assert result["verdict"]["passed"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--max-p99-ms", "0.5"), "no stage kept p99 within 0.5 ms; the lowest p99 was 1.000 ms"),
        (("--min-throughput", "1000"), "the best throughput was 300 rows/s, but 1000 are required"),
        (
            ("--max-p99-ms", "1.5", "--min-throughput", "200"),
            "the best throughput with p99 within 1.5 ms was 100 rows/s, but 200 are required",
        ),
    ],
)
def test_a_ladder_fails_when_no_stage_keeps_both_limits(options: tuple[str, ...], reason: str) -> None:
    result = result_of((100, 1000), (300, 4000), options=options)
    assert result["verdict"] == {"passed": False, "complete": True, "reasons": [reason]}


def test_every_stage_of_a_spike_must_keep_the_limits() -> None:
    made = read("--scenario", "spike", "--concurrency", "1,2", "--max-p99-ms", "2", "--min-throughput", "150")
    run = Run(made, time.time(), complete=True)
    for stage, (rows, latency_us) in zip(make_stages(made.load), [(200, 1000), (200, 3000), (120, 1000)], strict=True):
        run.records.append(record_of(stage, window(rows, latency_us)))
    assert make_result(run)["verdict"]["reasons"] == [
        "stage spike: p99 was 3.001 ms, but the limit is 2 ms",
        "stage after: throughput was 120 rows/s, but 150 are required",
    ]


def test_a_stage_without_an_answer_fails_and_is_named() -> None:
    made = read("--scenario", "soak", "--concurrency", "1", "--stages", "2")
    run = Run(made, time.time(), complete=True)
    for stage, rows in zip(make_stages(made.load), (100, 0), strict=True):
        run.records.append(record_of(stage, window(rows, 1000)))
    assert make_result(run)["verdict"]["reasons"] == ["stage part 2: no request was answered"]


def test_a_rung_of_a_ladder_without_an_answer_fails_the_run_too() -> None:
    result = result_of((100, 1000), (0, 1000), options=("--max-p99-ms", "50"))
    assert result["verdict"]["reasons"] == ["stage 2 users: no request was answered"]
    assert result["stages"][1]["latency_us"] == dict.fromkeys(("p50", "p90", "p95", "p99", "max", "mean"))


def one_stage(measured: Window, *options: str) -> dict[str, Any]:
    made = read("--scenario", "constant", "--concurrency", "1", *options)
    run = Run(made, time.time(), complete=True)
    (stage,) = make_stages(made.load)
    run.records.append(record_of(stage, measured))
    return make_result(run)


def test_a_p99_limit_cannot_be_kept_by_fewer_than_100_requests() -> None:
    (reason,) = one_stage(window(99, 1000), "--max-p99-ms", "50")["verdict"]["reasons"]
    assert reason.startswith("stage 1 user: p99 could not be checked: it takes 100 requests, and there were 99")
    assert one_stage(window(100, 1000), "--max-p99-ms", "50")["verdict"]["passed"]


@pytest.mark.parametrize(("failed", "kept"), [(1, True), (2, True), (3, False)])
def test_a_request_without_an_answer_is_slower_than_any_limit(failed: int, kept: bool) -> None:
    options = ("--max-p99-ms", "50", "--max-failures", "1000")
    result = one_stage(window(200, 1000, failures=Counter(timeout=failed)), *options)
    assert (result["verdict"]["passed"], result["stages"][0]["keeps_p99"]) == (kept, kept)
    assert result["stages"][0]["latency_us"]["p99"] == 1000
    if not kept:
        what = "more than 1 % of the requests got no answer within 50 ms, so no p99 limit is kept"
        assert result["verdict"]["reasons"] == [f"stage 1 user: {what}"]


@pytest.mark.parametrize(("answered", "reasons"), [(3, []), (2, ["stage a.csv: only 2 of 3 requests were sent"])])
def test_a_replay_must_send_every_request(tmp_path: Path, answered: int, reasons: list[str]) -> None:
    path = tmp_path / "a.csv"
    path.write_text("0\n1\n2\n")
    run = Run(read("--scenario", "replay", "--arrivals-file", str(path)), time.time(), complete=True)
    (stage,) = make_stages(run.settings.load)
    run.records.append(record_of(stage, window(answered, 1000)))
    assert make_result(run)["verdict"]["reasons"] == reasons


@pytest.mark.parametrize(("achieved", "said"), [(96, False), (90, True)])
def test_a_rate_that_was_not_achieved_is_noted(achieved: int, said: bool) -> None:
    run = Run(read("--scenario", "rate", "--rate", "100"), time.time(), complete=True)
    (stage,) = make_stages(run.settings.load)
    run.records.append(record_of(stage, window(achieved, 1000)))
    assert any("only 90 of 100 requests/s were sent" in note for note in make_result(run)["notes"]) is said


@pytest.mark.parametrize(("failed", "said"), [(0, True), (10, False)])
def test_requests_that_failed_do_not_mean_that_the_server_fell_behind(failed: int, said: bool) -> None:
    run = Run(read("--scenario", "rate", "--rate", "100"), time.time(), complete=True)
    (stage,) = make_stages(run.settings.load)
    run.records.append(record_of(stage, window(90, 1000, failures=+Counter(http_503=failed))))
    run.records[0].recent[0].sent = 100
    assert any("the server fell behind" in note for note in make_result(run)["notes"]) is said


def test_a_single_wrong_answer_fails_the_run_even_in_the_warm_up() -> None:
    run = Run(read("--concurrency", "1"), time.time(), complete=True)
    stage = make_stages(run.settings.load)[0]
    early = window(9_999, 100, wrong={"nan": 1})
    run.records.append(record_of(stage, window(1, 100), discarded=early))
    result = make_result(run)
    assert result["verdict"]["reasons"] == ["1 of 10,000 answers was wrong: 1 nan"]
    assert result["stages"][0]["wrong"] == {}


def test_failures_beyond_the_limit_fail_the_run() -> None:
    assert result_of((10, 100), failures={"refused": 2}, options=("--max-failures", "6"))["verdict"]["passed"]
    reasons = result_of((10, 100), failures={"refused": 2}, options=("--max-failures", "5"))["verdict"]["reasons"]
    assert reasons == ["6 of 36 requests failed, but at most 5 may: 6 refused"]


@pytest.mark.parametrize(("failed", "passed"), [(29, True), (30, False)])
def test_failures_may_be_a_share_of_all_requests(failed: int, passed: bool) -> None:
    options = ("--max-failures", "29%")
    result = one_stage(window(100 - failed, 100, failures=Counter(cut=failed)), *options)
    assert result["verdict"]["passed"] is passed
    if not passed:
        assert result["verdict"]["reasons"] == ["30 of 100 requests failed, but at most 29 % may: 30 cut"]
    limits = result["run"]["limits"]
    assert (limits["max_failures"], limits["max_failures_share"]) == (None, 0.29)


def test_a_share_of_failures_is_exact() -> None:
    assert read_allowance("1.5%").allows(3, 200)
    assert not read_allowance("1.5%").allows(4, 200)
    assert read_allowance("7").allows(7, 7)
    assert not read_allowance("0%").allows(1, 10**9)
    assert [str(read_allowance(text)) for text in ("5", "1.50%", "100%")] == ["5", "1.5 %", "100 %"]


@pytest.mark.parametrize(
    "text", ["0.9", "-1", "1e3", "101%", "-1%", "nan%", "%", "1/3%", "x", "1 %%", "inf%", "5 requests"]
)
def test_an_allowance_that_is_neither_a_number_nor_a_share_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="neither a whole number from 0 up nor a share") as caught:
        read(f"--max-failures={text}")
    assert "as in --max-failures 5, or a share of them, as in --max-failures 1.5%" in caught.value.fix


def test_a_stage_with_fewer_answers_than_it_must_have_fails() -> None:
    (reason,) = one_stage(window(199, 100), "--min-requests", "200")["verdict"]["reasons"]
    assert reason == "stage 1 user: only 199 requests were answered, but --min-requests is 200"
    assert one_stage(window(200, 100), "--min-requests", "200")["verdict"]["passed"]


@pytest.mark.parametrize(
    ("given", "checked", "unchecked", "reason"),
    [
        ((), True, 0, None),
        ((), True, 1, "1 of 200 answers could not be checked: there is no right answer to compare them with"),
        ((), False, 200, None),
        (("--require-checked", "no"), True, 1, None),
        (("--require-checked", "no"), True, 200, "200 of 200 answers could not be checked"),
        (("--require-checked",), False, 200, "200 of 200 answers could not be checked: give a --repository"),
        (("--require-checked", "yes"), True, 1, "1 of 200 answers could not be checked"),
    ],
)
def test_answers_that_could_not_be_checked_fail_the_run_if_they_must_be(
    given: tuple[str, ...], checked: bool, unchecked: int, reason: str | None
) -> None:
    run = Run(read("--scenario", "constant", "--concurrency", "1", *given), time.time(), complete=True, checked=checked)
    run.records.append(record_of(make_stages(run.settings.load)[0], window(200, 100, unchecked=unchecked)))
    reasons = make_result(run)["verdict"]["reasons"]
    assert len(reasons) == (reason is not None)
    assert reason is None or reasons[0].startswith(reason)


def test_the_last_line_says_exactly_what_held() -> None:
    limits = ("--max-p99-ms", "50", "--require-checked", "no")

    def last_line(*options: str, requests: int = 1000, **counts: Any) -> str:
        return outcome.summarize(one_stage(window(requests, 100, **counts), *options))[-1]

    assert last_line() == "PASSED: all 1,000 answers were right, no request failed, and no limit was set"
    assert last_line(*limits) == "PASSED: all 1,000 answers were right, no request failed, and every limit was kept"
    said = last_line(*limits, "--max-failures", "2", unchecked=12, failures=Counter(cut=2))
    assert "988 answers were right, 12 of 1,000 could not be checked, 2 requests failed, and every" in said
    assert last_line(unchecked=1000) == (
        "PASSED: 1,000 answers came, but none was checked, no request failed, and no limit was set"
    )
    assert last_line(wrong=Counter(nan=1)) == "FAILED: 1 of 1,000 answers was wrong: 1 nan"


def test_the_line_of_a_stage_has_the_intervals_that_there_are() -> None:
    def line(throughput: list[float] | None, p99_us: list[float] | None, **counts: Any) -> str:
        result = one_stage(window(1234, 4180, **counts))
        result["stages"][0]["intervals"] = {"throughput_rows_per_s": throughput, "p99_us": p99_us}
        return outcome.summarize(result)[0]

    intervals = [1198.26, 1270.6], [3921.0, 4530.0]
    rows, times = "1 user: 1234 rows/s (1198 to 1271), 1,234 requests", "p50 4.18 ms, p99 4.18 ms (3.92 to 4.53)"
    assert line(*intervals).startswith(f"{rows}, {times}, 0 failed")
    assert line(None, None).startswith("1 user: 1234 rows/s, 1,234 requests, p50 4.18 ms, p99 4.18 ms, 0 failed")
    failed = line(*intervals, failures=Counter(timeout=20))
    assert failed.startswith(f"{rows}, p50 4.18 ms, p99 4.18 ms, 20 failed"), "this p99 is another figure"


def test_a_run_that_was_stopped_or_answered_nothing_fails() -> None:
    made = read("--concurrency", "1")
    reasons = make_result(Run(made, time.time()))["verdict"]["reasons"]
    assert reasons == ["the run was stopped before its end", "no request was answered"]


def test_a_saturated_client_is_named_with_the_processes_it_needs() -> None:
    result = result_of((100, 1000), busy=0.98)
    (stage,) = result["stages"]
    assert (stage["client_saturated"], stage["client_processes_that_would_do"]) == (True, 2)
    assert "the load generator, not the server, was the bottleneck (busy 98% of the time)" in result["notes"][1]
    assert "use --processes 2" in result["notes"][1]
    assert not result_of((100, 1000), busy=0.5)["stages"][0]["client_saturated"]


@pytest.mark.parametrize("options", [(), ("--scenario", "rate", "--rate", "100")])
def test_a_client_is_saturated_by_the_share_that_is_shown(options: tuple[str, ...]) -> None:
    run = Run(read("--concurrency", "1", *options), time.time(), complete=True)
    run.records.append(record_of(make_stages(run.settings.load)[0], window(100, 1000, busy=0.9004)))
    (stage,) = make_result(run)["stages"]
    assert (stage["client_busy_share"], stage["client_saturated"]) == (0.9, False)


def test_a_client_that_waits_for_a_cpu_needs_its_own_cores() -> None:
    run = Run(read("--concurrency", "1"), time.time(), complete=True)
    crowded = window(100, 1000)
    crowded.busy["local"] = Busy(1.0, 0.5, 0.45)
    run.records.append(record_of(make_stages(run.settings.load)[0], crowded))
    assert "it waited for a CPU 45% of the time" in make_result(run)["notes"][1]


def test_a_kind_of_note_is_given_once_for_the_stage_that_it_holds_for_most() -> None:
    run = Run(read("--scenario", "rate", "--rate", "100,200,400"), time.time(), complete=True)
    for stage, late_us, lost in zip(make_stages(run.settings.load), (20_000, 50_000, 30_000), "aba", strict=True):
        late = window(100, 1000)
        late.sent = 100
        late.late_us.record(late_us, 100)
        run.records.append(record_of(stage, late))
        run.records[-1].lost_workers = [lost]
    said = [note for note in make_result(run)["notes"] if note.startswith("stage")]
    assert [note.partition(" (")[0] for note in said if "late although" in note] == [
        "stage 200 requests/s and 2 more: the load generator sent requests late although users were free"
    ]
    assert [note for note in said if "requests/s were sent" in note] == [
        "stage 400 requests/s and 1 more: only 100 of 400 requests/s were sent"
    ]
    assert [note for note in said if "lost" in note] == [
        "stage 100 requests/s and 1 more: 1 worker was lost: a",
        "stage 200 requests/s: 1 worker was lost: b",
    ]


def test_an_open_loop_that_sends_late_names_the_client() -> None:
    run = Run(read("--scenario", "rate", "--rate", "100"), time.time(), complete=True)
    late = window(100, 1000)
    late.late_us.record(50_000, 100)
    (stage,) = make_stages(run.settings.load)
    run.records.append(record_of(stage, late))
    result = make_result(run)
    assert result["stages"][0]["client_saturated"]
    assert "sent requests late although users were free (p99 50." in result["notes"][1]


def test_a_stages_windows_are_a_fifth_of_its_time() -> None:
    assert Stage("s", 1, 10.0, 1.0).window_s == 2.0
    assert Stage("s", 1, 1.0, 1.0).window_s == 0.5


def counts(requests: int, executions: int, batches: dict[int, int], infer_ns: int = 0) -> Snapshot:
    made = Counts(requests, executions, requests, 0, {"compute_infer": infer_ns}, Counter(batches))
    return Snapshot({("", *KEY): made}, {}, models=Models(KEY[:1]))


SILENT = Snapshot({}, {}, "the server did not answer: timed out")


def test_a_stage_has_no_server_figures_unless_they_fit_the_clients() -> None:
    settings = read("--scenario", "soak", "--concurrency", "8", "--stages", "2")
    fits, other = (record_of(stage, window(1000, 1000)) for stage in make_stages(settings.load))
    fits.snapshots = [counts(5000, 5000, {}), counts(300, 300, {})]
    other.snapshots = [counts(300, 300, {}), counts(500_300, 500_300, {})]
    result = make_result(Run(settings, time.time(), [fits, other], complete=True))
    assert [stage["server"] for stage in result["stages"]] == [None, None]
    assert not any(stage["server_restarted"] for stage in result["stages"])
    said = "the server counted 500,000 requests and the client 1,000 answers"
    assert all(said in stage["server_missing"] for stage in result["stages"])
    assert [said in note for note in result["notes"]].count(True) == 1
    alone = make_result(Run(settings, time.time(), [fits], complete=True))["stages"][0]
    assert (alone["server"]["requests"], alone["server_restarted"], alone["server_missing"]) == (300, True, None)


def test_a_snapshot_that_was_not_read_leaves_out_the_windows_beside_it() -> None:
    (stage,) = make_stages(read("--scenario", "constant", "--concurrency", "8").load)
    record = record_of(stage, *(window(rows, 1000) for rows in (1000, 2000, 3000)))
    record.snapshots = [SILENT, counts(500, 500, {}), counts(2500, 2500, {}), SILENT]
    figures = record.on_server().figures
    assert figures is not None
    assert figures["requests"] == 2000
    record.snapshots[2] = SILENT
    assert record.on_server().reason == SILENT.problem


def test_figures_of_the_server_for_a_part_of_a_stage_are_said_to_be_that(tmp_path: Path) -> None:
    settings = read("--scenario", "constant", "--concurrency", "8")
    record = record_of(make_stages(settings.load)[0], *(window(rows, 1000) for rows in (1000, 2000, 3000)))
    run = Run(settings, time.time(), [record], complete=True)
    at = [counts(number, number, {}) for number in (0, 1000, 3000, 6000)]
    said = f"are those of 2 of 3 s: {SILENT.problem}"
    for snapshots, seconds, missing in (
        (at, 3, None),
        ([at[0], SILENT, SILENT, at[3]], 3, None),
        ([*at[:3], SILENT], 2, SILENT.problem),
        ([SILENT, *at[1:]], 2, SILENT.problem),
        ([SILENT] * 4, None, SILENT.problem),
    ):
        record.snapshots = snapshots
        result = make_result(run)
        (stage,) = result["stages"]
        assert (stage["server_seconds"], stage["server_missing"]) == (seconds, missing)
        assert any(said in note for note in result["notes"]) == (seconds == 2)
        write(tmp_path, result)
        (row,) = csv.DictReader((tmp_path / "stages.csv").read_text().splitlines())
        assert row["server_seconds"] == ("" if seconds is None else f"{seconds:.1f}")


def stopped_answering(*after: Window, problems: tuple[str, ...] = ("", "", "refused")) -> list[str]:
    """The notes on a server that answered for a second, by what the client and the meter saw then."""
    settings = read("--scenario", "soak", "--concurrency", "8", "--stages", "2")
    first, second = make_stages(settings.load)
    records = [record_of(first, window(1000, 1000)), record_of(second, *after, start_s=1.5)]
    for record in records:
        record.snapshots = [replace(counts(0, 0, {}), problem=problem) for problem in problems]
    result = make_result(Run(settings, time.time(), records, complete=True))
    return [note for note in result["notes"] if "stopped answering" in note]


def test_a_server_that_does_not_come_back_is_said_to_be_gone() -> None:
    refused, hanging = window(0, 1, failures=Counter(refused=5)), window(0, 1)
    hanging.in_flight = 8
    gone = "stage part 2: the server stopped answering, at the latest {} s after the run began, and has not come back: "
    assert stopped_answering(refused, hanging) == [f"{gone.format(1.5)}refused"]
    assert stopped_answering(hanging) == [f"{gone.format(1.5)}refused"]
    assert stopped_answering(window(5, 1000), refused) == [f"{gone.format(2.5)}refused"]
    assert stopped_answering(refused, window(5, 1000)) == []
    assert stopped_answering(window(0, 1)) == []
    assert stopped_answering(refused, problems=("", "refused", "")) == []
    assert stopped_answering(refused, problems=("no statistics",) * 3) == []


def test_one_is_said_in_the_singular() -> None:
    settings = read("--scenario", "constant", "--concurrency", "1", "--min-requests", "2")
    one = window(1, 1000, failures=Counter(timeout=1), wrong=Counter(nan=1), unchecked=1)
    one.exceptions["here"] = 1
    record = record_of(make_stages(settings.load)[0], one)
    record.snapshots, record.lost_workers = [counts(0, 0, {}), counts(500, 500, {})], ["a"]
    run = Run(settings, time.time(), [record], complete=True, checked=True, lost_workers=["a"])
    result = make_result(run)
    said = " | ".join([*outcome.summarize(result), to_markdown(result)])
    for right in (
        "1 worker was lost, with",
        "1 worker was lost: a",
        "failed 1 time,",
        "1 of 1 answer was wrong",
        "1 of 2 requests failed",
        "1 of 1 answer could",
        "only 1 request was answered",
        "500 requests and the client 1 answer:",
        "rows/s, 1 request, p50",
    ):
        assert right in said
    assert re.findall(r"\b1 \w+s\b(?!/s)", said) == []


def test_a_window_says_when_it_was_and_what_the_server_did_meanwhile() -> None:
    settings = read("--scenario", "constant", "--concurrency", "8")
    windows = [window(100, 1000), window(5, 2000, failures=Counter(timeout=2), wrong=Counter(nan=1))]
    windows[1].in_flight = 2
    record = record_of(make_stages(settings.load)[0], *windows, start_s=1.5)
    record.snapshots = [counts(0, 0, {}), counts(100, 50, {2: 50}, 200_000_000), counts(105, 55, {1: 5}, 200_005_000)]
    first, second = make_result(Run(settings, time.time(), [record]))["stages"][0]["windows"]
    assert [first["start_s"], second["start_s"]] == [1.5, 2.5]
    assert (second["failures"], second["wrong"], second["in_flight"]) == (2, 1, 2)
    assert [first["p50_us"], first["p99_us"], second["p50_us"], second["p90_us"]] == [1000, 1000, 2000, None]
    assert (first["server"]["compute_infer_us"], first["server"]["mean_batch"]) == (2000, 2)
    assert (second["server"]["compute_infer_us"], second["server"]["mean_batch"]) == (1, 1)
    record.snapshots[1] = SILENT
    windows = make_result(Run(settings, time.time(), [record]))["stages"][0]["windows"]
    assert [one["server"] for one in windows] == [None, None]


def test_a_long_stage_keeps_every_figure_and_little_else() -> None:
    (stage,) = make_stages(read("--scenario", "constant", "--concurrency", "1").load)
    record = record_of(stage, *(window(turn, 100) for turn in range(1, 101)))
    assert (record.measured.requests, len(record.windows), len(record.recent)) == (5050, 100, 3)
    record.close()
    assert (record.measured.requests, record.recent) == (5050, [])


def test_a_stage_that_became_stable_counts_its_last_three_windows() -> None:
    (stage,) = make_stages(read("--concurrency", "1").load)
    record = record_of(stage, *(window(rows, 100) for rows in (10, 50, 100, 101, 102)))
    record.snapshots += [SILENT] * 6
    record.keep_stable()
    record.close()
    assert (record.measured.requests, record.discarded.requests) == (303, 60)
    assert [figures.requests for figures in record.windows] == [100, 101, 102]
    assert len(record.snapshots) == 4


def test_a_run_that_is_watched_shows_what_came_since_and_works_out_no_stage_again() -> None:
    made = read("--scenario", "soak", "--concurrency", "4", "--stages", "4", "--max-p99-ms", "20")
    stages = make_stages(made.load)
    run = Run(made, time.time(), [record_of(stage, window(100, 5000), window(90, 6000)) for stage in stages[:3]])
    ended = Ended()
    before = report.make_result(run, ended)
    assert before == report.make_result(run)
    run.records[2].measure(window(80, 7000))  # the stage in progress
    run.records[1].measured_from = 0
    run.records[1].add_late(0, window(10, 30_000, wrong=Counter(tolerance=2)))
    after = report.make_result(run, ended)
    assert after == report.make_result(run)
    assert after["totals"]["wrong"] == {"tolerance": 2}
    assert [new is old for new, old in zip(after["stages"], before["stages"], strict=True)] == [True, False, False]
    run.records.append(record_of(stages[3], window(70, 8000)))
    run.complete = True
    assert report.make_result(run, ended) == report.make_result(run)
