"""What a search tells from the windows of its stages: verdicts, goodput, the answer, and why a run fails."""

import time
from dataclasses import replace
from typing import Any

import pytest
from support.load_results import KEY, make_result, record_of
from support.load_settings import read

from loadtest.report.markdown import to_markdown
from loadtest.report.outcome import summarize
from loadtest.run import Busy, Run, Tally, Window, pool
from loadtest.scenarios import Verdict, make_plan, make_stages

OPTIONS = ("--scenario", "search", "--max-p99-ms", "20", "--stage-time", "1")
SLOW_US, QUICK_US = 30_000, 10_000


def window(late: int = 0, *, requests: int = 10_000, rows: int = 0, **counts: Any) -> Window:
    """A window with so many answers after 30 ms, and the others after 10 ms."""
    made = Window(1.0, {KEY: Tally(requests=requests, rows=rows or requests, **counts)})
    made.tallies[KEY].latency_us.record(QUICK_US, requests - late)
    made.tallies[KEY].latency_us.record(SLOW_US, late)
    return made


def search(server: dict[int, Window], *options: str) -> dict[str, Any]:
    """The result of a search of a server whose windows at each number of users are all the same."""
    settings = read(*OPTIONS, *options)
    run, plan = Run(settings, time.time(), complete=True), make_plan(settings.load)
    while (stage := plan.next_stage(run.trials)) is not None:
        record = record_of(stage, *[server[stage.users]] * 3)
        record.trial = record.to_trial(settings.limits)
        run.records.append(record)
    return make_result(run)


def test_the_answer_is_named_with_its_figures_and_what_missed_the_limit() -> None:
    rows = {1: 4000, 2: 7800, 4: 7900, 8: 8000, 5: 8000, 6: 8000}
    late = {1: 0, 2: 0, 4: 10, 8: 900, 5: 20, 6: 400}
    result = search({users: window(late[users], rows=rows[users]) for users in rows}, "--concurrency", "1,8")
    found = result["search"]
    assert found["settled"]
    assert (found["answer"]["load"], found["missed"]["load"], found["enough"]["load"]) == (5, 6, 2)
    assert found["answer"]["stages"] == ["5 users", "5 users (2)"]
    assert (found["answer"]["goodput"], found["answer"]["verdict"]) == (0.998, "within")
    assert [line for line in summarize(result) if line in found["summary"]] == [
        "highest concurrency within the limits: 5 users, 8000 rows/s, p99 10.0 ms (10.0 to 10.0), limit 20 ms; "
        "6 users, 8000 rows/s, p99 30.0 ms (30.0 to 30.0) missed it",
        "2 users, 7800 rows/s, p99 10.0 ms (10.0 to 10.0): 98% of that throughput",
    ]
    assert result["verdict"]["passed"]
    assert result["knee"] is None
    assert "**found**: highest concurrency within the limits" in to_markdown(result)


def test_a_load_generator_that_was_the_bottleneck_is_named() -> None:
    busy = window(500)
    busy.busy["local"] = Busy(1.0, 0.95)
    said = search({1: window(), 2: busy}, "--concurrency", "1,2")["search"]["summary"]
    assert any("the load generator was the bottleneck" in one for one in said)


def test_a_stage_that_is_too_close_to_call_is_decided_by_its_p99_and_says_so() -> None:
    result = search({1: window(99), 2: window(101)}, "--concurrency", "1,2")
    assert [stage["verdict"] for stage in result["stages"]] == ["undecided"] * len(result["stages"])
    assert (result["search"]["answer"]["load"], result["search"]["missed"]["load"]) == (1, 2)
    assert result["search"]["summary"][0].count("too close to call") == 2
    answer = result["search"]["answer"]
    assert answer["p99_low_us"] < 20_000 < answer["p99_high_us"]


@pytest.mark.parametrize(
    ("server", "options", "reason"),
    [
        ({1: window(500)}, (), "no load kept the limits, not even the lowest: stage 1 user: p99 was 30."),
        ({1: window(20, requests=20)}, (), "only 0 % of its requests were answered within 20 ms"),
        ({1: window(0, requests=20)}, (), "it takes 100 requests, and there were 60"),
        ({1: window(failures={"timeout": 3})}, (), "9 of 30,009 requests failed, but at most 0 may: 9 timeout"),
        ({1: window(), 2: window(500)}, ("--min-throughput", "20000"), "was 10000 rows/s, but 20000 are required"),
    ],
)
def test_a_search_without_an_answer_fails_the_run(
    server: dict[int, Window], options: tuple[str, ...], reason: str
) -> None:
    verdict = search(server, "--concurrency", "1,2", *options)["verdict"]
    assert not verdict["passed"]
    assert [reason in one for one in verdict["reasons"]].count(True) == 1, verdict["reasons"]


@pytest.mark.parametrize(
    ("stages", "reason"),
    [
        ((0, 500, 500, 500), "no load kept the limits, not even the lowest: stage 1 user (2): p99 was 30."),
        ((0, 500), "the search found no load that keeps the limits: its stages contradict each other"),
    ],
)
def test_a_search_whose_first_stage_kept_the_limits_alone_fails_the_run(stages: tuple[int, ...], reason: str) -> None:
    settings = read(*OPTIONS, "--concurrency", "1,2")
    run, lowest = Run(settings, time.time(), complete=True), make_stages(settings.load)[0]
    for number, late in enumerate(stages, 1):
        stage = replace(lowest, name=f"{lowest.name} ({number})" if number > 1 else lowest.name)
        record = record_of(stage, *[window(late)] * 3)
        record.trial = record.to_trial(settings.limits)
        run.records.append(record)
    result = make_result(run)
    assert result["search"]["answer"] is None
    (said,) = result["verdict"]["reasons"]
    assert said.startswith(reason)


@pytest.mark.parametrize(("required", "passed"), [("10000", True), ("10001", False)])
def test_the_throughput_of_an_answer_is_that_of_all_its_stages(required: str, passed: bool) -> None:
    """Two stages of 9,000 and 11,000 rows/s have 10,000 together, which is the figure that the report gives."""
    settings = read(*OPTIONS, "--concurrency", "1,2", "--min-throughput", required)
    run, lowest = Run(settings, time.time(), complete=True), make_stages(settings.load)[0]
    for rows in (9000, 11_000):
        record = record_of(lowest, *[window(rows=rows)] * 3)
        record.trial = record.to_trial(settings.limits)
        run.records.append(record)
    result = make_result(run)
    assert result["search"]["answer"]["throughput_rows_per_s"] == 10_000
    assert result["verdict"]["passed"] is passed


def test_failures_above_the_answer_do_not_fail_the_run() -> None:
    """They say that the load was too high, which is what the search is about."""
    result = search({1: window(), 2: window(failures={"http_503": 40})}, "--concurrency", "1,2")
    assert result["verdict"] == {"passed": True, "complete": True, "reasons": []}
    assert (result["search"]["answer"]["load"], result["search"]["missed"]["load"]) == (1, 2)
    assert result["stages"][1]["verdict"] == "missed"


def test_a_wrong_answer_ends_the_search_and_fails_the_run() -> None:
    result = search({1: window(), 2: window(wrong={"nan": 1}), 4: window()}, "--concurrency", "1,4")
    assert [stage["name"] for stage in result["stages"]] == ["1 user", "2 users"]
    assert result["verdict"]["reasons"] == ["3 of 60,000 answers were wrong: 3 nan"]
    assert not result["search"]["settled"]
    assert result["search"]["summary"] == ["a wrong answer ended the search after 2 stages"]


def test_goodput_is_the_share_of_all_requests_that_were_answered_rightly_within_the_limit() -> None:
    """Of 1000 requests, 100 got no answer, 45 of the answers were late, and 5 were wrong: 850 / 1000."""
    settings = read("--max-p99-ms", "20", "--concurrency", "1")
    stage = make_plan(settings.load).next_stage(())
    assert stage is not None
    record = record_of(stage, window(45, requests=900, failures={"cut": 100}, wrong={"nan": 5}))
    assert record.find_goodput(settings.limits) == 0.85
    assert record.find_goodput(read().limits) is None
    assert record_of(stage, Window(1.0)).find_goodput(settings.limits) is None


def test_a_stage_of_a_search_is_decided_once_that_is_clear() -> None:
    limits = read(*OPTIONS).limits
    stage = make_plan(read(*OPTIONS).load).next_stage(())
    assert stage is not None

    def decided(*windows: Window) -> bool:
        return record_of(stage, *windows).is_decided(limits)

    assert decided(*[window(10)] * 3)
    assert decided(*[window(500)] * 3)
    assert decided(window(failures={"cut": 1}))
    assert decided(window(wrong={"nan": 1}))
    assert not decided(*[window(10)] * 2)
    assert not decided(*[window(100)] * 20)


def test_answers_after_the_end_of_a_stage_leave_it_decided_unless_p99_crosses_the_limit() -> None:
    """Until then, 150 of 30,000 requests were late. With the last 256 answers it is still less than 1 %, or more."""
    limits = read(*OPTIONS).limits
    stage = make_plan(read(*OPTIONS).load).next_stage(())
    assert stage is not None

    def verdict_with(*late: Window) -> Verdict:
        record = record_of(stage, *[window(50)] * 3)
        assert record.is_decided(limits)
        record.measured_from = 0
        for one in late:
            record.add_late(0, one)
        assert record.find_verdict(limits) is pool([record, record], limits).find_verdict(limits)
        assert (record.to_trial(limits).within, record.find_verdict(limits)) != (False, Verdict.WITHIN)
        return record.find_verdict(limits)

    assert verdict_with() is Verdict.WITHIN
    assert verdict_with(window(130, requests=256)) is Verdict.WITHIN
    assert verdict_with(window(200, requests=256)) is Verdict.UNDECIDED
    assert verdict_with(window(20_000, requests=20_000)) is not Verdict.WITHIN
    assert verdict_with(window(0, requests=256, failures={"timeout": 1})) is Verdict.MISSED


def test_the_stages_of_the_answer_must_have_enough_requests() -> None:
    """A load that missed the limit need not have them: its stage ended when that was clear."""
    reasons = {
        least: search({1: window(), 2: window(500)}, "--concurrency", "1,2", "--min-requests", least)["verdict"][
            "reasons"
        ]
        for least in ("30000", "30001")
    }
    assert reasons["30000"] == []
    assert reasons["30001"][0] == "stage 1 user: only 30,000 requests were answered, but --min-requests is 30,001"
    assert not any("2 users" in reason for reason in reasons["30001"])
    unclear = {1: window(), 2: window(500, requests=9000)}
    assert search(unclear, "--concurrency", "1,2", "--min-requests", "30000")["verdict"]["passed"]


def test_the_line_of_a_stage_says_what_it_found() -> None:
    limits = read(*OPTIONS).limits
    stage = make_plan(read(*OPTIONS).load).next_stage(())
    assert stage is not None
    said = [
        record_of(stage, *[one] * 3).describe(limits)
        for one in (
            window(10),
            window(500),
            window(99),
            window(wrong={"nan": 1}),
            window(failures={"cut": 1}),
            window(requests=9),
        )
    ]
    assert said == [
        "1 user: p99 10.0 ms, within the limit",
        "1 user: p99 30.0 ms, beyond the limit",
        "1 user: p99 10.0 ms, within the limit, too close to call",
        "1 user: p99 10.0 ms, but there were wrong answers",
        "1 user: p99 10.0 ms, but too many requests failed",
        "1 user: too few requests to tell: 27",
    ]


def test_a_queue_that_grows_is_not_within_the_limit_yet() -> None:
    stage = make_plan(read(*OPTIONS).load).next_stage(())
    assert stage is not None
    windows = [Window(1.0, {KEY: Tally(requests=5000, rows=5000)}) for _ in range(3)]
    for one, latency_us in zip(windows, (1000, 1150, 1300), strict=True):
        one.tallies[KEY].latency_us.record(latency_us, 5000)
    assert not record_of(stage, *windows).is_decided(read(*OPTIONS).limits)
    assert record_of(stage, *windows, windows[-1]).is_decided(read(*OPTIONS).limits)


def test_a_search_that_has_only_begun_has_no_answer_yet() -> None:
    settings = read(*OPTIONS)
    run = Run(settings, time.time())
    stage = make_plan(settings.load).next_stage(())
    assert stage is not None
    for records in ([], [record_of(stage, window())]):
        run.records = records
        found = make_result(run)["search"]
        assert (found["answer"], found["missed"], found["enough"], found["summary"]) == (None, None, None, [])
        assert not found["settled"]
