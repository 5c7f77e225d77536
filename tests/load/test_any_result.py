"""Whatever a run has measured, its result can be worked out, and everything that shows it can be made."""

import time
from collections import Counter

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from support.load_results import KEY, make_result, record_of
from support.load_settings import read

from loadtest.report import outcome
from loadtest.report.files import to_csv, to_json
from loadtest.report.markdown import to_markdown
from loadtest.report.page import to_shown
from loadtest.run import Busy, Run, StageRecord, Tally, Window
from loadtest.scenarios import Stage, make_stages
from loadtest.server import Snapshot
from loadtest.server.meter import Models
from loadtest.server.statistics import Counts

SCENARIOS = {
    "steps": ("--concurrency", "1,4"),
    "constant": ("--concurrency", "4"),
    "soak": ("--concurrency", "4", "--stages", "2"),
    "spike": ("--concurrency", "1,4"),
    "ramp": ("--concurrency", "1,4"),
    "rate": ("--rate", "10,400"),
    "search": ("--concurrency", "1,8", "--max-p99-ms", "5"),
}
NUMBERS = st.one_of(st.sampled_from([0, 1, 2, 99, 100, 101]), st.integers(0, 100_000))
SHARES = st.one_of(st.sampled_from([0.0, 0.25, 0.9, 0.9004, 0.901, 1.0]), st.floats(0, 1.2))
TIMES_US = st.integers(0, 4_000_000_000)


@st.composite
def windows(draw: st.DrawFn) -> Window:
    made = Window(draw(st.sampled_from([1e-6, 0.0004, 0.5, 2.0])), sent=draw(NUMBERS), in_flight=draw(NUMBERS))
    answers = draw(NUMBERS)
    tally = made.tallies[KEY] = Tally(requests=answers, rows=answers * draw(st.integers(1, 4)))
    if answers:
        tally.latency_us.record(draw(TIMES_US), answers)
    tally.failures = Counter({kind: count for kind in ("timeout", "refused") if (count := draw(NUMBERS))})
    tally.wrong = Counter({"nan": wrong}) if (wrong := min(draw(NUMBERS), answers)) else Counter()
    tally.unchecked = min(draw(NUMBERS), answers - tally.wrong.total())
    if late := draw(NUMBERS):
        made.late_us.record(draw(TIMES_US), late)
    made.busy["local"] = Busy(made.seconds, draw(SHARES) * made.seconds, draw(SHARES) * made.seconds)
    made.backed_off_s = draw(st.sampled_from([0.0, 1e-6, 3.5]))
    return made


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    if draw(st.booleans()):
        return Snapshot({}, {}, "the server did not answer: timed out")
    requests = draw(NUMBERS)
    counts = Counts(requests, requests, requests, draw(NUMBERS), {"queue": draw(TIMES_US)})
    return Snapshot({("", *KEY): counts}, {}, lag_s=draw(st.sampled_from([0.0, 0.01, 2.0])), models=Models(KEY[:1]))


@st.composite
def records(draw: st.DrawFn, stage: Stage) -> StageRecord:
    made = record_of(stage, *draw(st.lists(windows(), min_size=1, max_size=4)), discarded=draw(windows()))
    made.snapshots = draw(st.lists(snapshots(), min_size=len(made.windows) + 1, max_size=len(made.windows) + 1))
    made.complete, made.stable = draw(st.booleans()), draw(st.booleans())
    made.lost_workers = draw(st.lists(st.sampled_from("ab"), unique=True))
    return made


@pytest.mark.parametrize("scenario", SCENARIOS)
@settings(max_examples=25, phases=[Phase.generate])
@given(data=st.data())
def test_the_result_of_any_run_can_be_worked_out_and_shown(scenario: str, data: st.DataObject) -> None:
    run = Run(read("--scenario", scenario, *SCENARIOS[scenario]), time.time(), complete=data.draw(st.booleans()))
    run.records = [data.draw(records(stage)) for stage in make_stages(run.settings.load)]
    result = make_result(run)
    for show in (outcome.summarize, to_markdown, to_json, to_csv, to_shown):
        assert show(result)
