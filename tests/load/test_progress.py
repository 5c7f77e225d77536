"""What a run says on the terminal while it takes place."""

from collections import Counter

import pytest
from support.load_results import record_of, window
from support.load_settings import read

from loadtest.run.progress import Progress
from loadtest.scenarios import make_plan, make_stages


def test_a_line_for_each_stage_and_now_and_then_within_a_long_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 29.0, 31.0, 31.0, 60.0, 61.0, 61.0, 70.0])
    monkeypatch.setattr("loadtest.run.progress.time.monotonic", lambda: next(clock))
    settings = read("--concurrency", "1,4")
    says = Progress(make_plan(settings.load), settings.limits)
    stage = make_stages(settings.load)[1]
    few, many = window(3, 700), window(1200, 18_000, failures=Counter(cut=2), wrong=Counter(nan=1))
    record = record_of(stage, few, many)
    for one in (few, many, few, many):
        says.say_measured(2, record, one)
    says.say_ended(2, record)
    assert capsys.readouterr().err.splitlines() == [
        "stage 2 of 2: 4 users, after 2 s: 1,200 rows/s, p50 18 ms, p99 18 ms, 2 failed, 1 wrong",
        "stage 2 of 2: 4 users, after 2 s: 1,200 rows/s, p50 18 ms, p99 18 ms, 2 failed, 1 wrong",
        "stage 2 of 2: 4 users: 602 rows/s, p50 18 ms, p99 18 ms, 2 failed, 1 wrong",
    ]


@pytest.mark.parametrize(("scenario", "has_breaks"), [("steps", True), ("spike", False), ("soak", False)])
def test_figures_are_said_when_all_requests_are_answered_unless_stages_follow_on(
    scenario: str, has_breaks: bool
) -> None:
    assert make_plan(read("--scenario", scenario).load).has_breaks is has_breaks


def test_a_search_says_that_it_may_take_fewer_stages(capsys: pytest.CaptureFixture[str]) -> None:
    settings = read("--scenario", "search", "--max-p99-ms", "20")
    plan = make_plan(settings.load)
    stage = plan.next_stage(())
    assert stage is not None
    Progress(plan, settings.limits).say_ended(1, record_of(stage, *[window(500, 10_000)] * 3))
    assert capsys.readouterr().err == f"stage 1 of at most {plan.most_stages}: 1 user: p99 10.0 ms, within the limit\n"
