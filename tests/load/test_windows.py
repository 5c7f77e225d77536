"""Counting, merging without loss, and telling when windows agree."""

import base64
import math
import random
import zlib

import pytest
from hdrh.histogram import HdrHistogram
from support.load_settings import read

from loadtest.run.busy import Busy
from loadtest.run.latencies import PERCENTILES, Latencies, least_count
from loadtest.run.record import Run, StageRecord
from loadtest.run.recorder import Recorder
from loadtest.run.steadiness import is_stable
from loadtest.run.tallies import Tally
from loadtest.run.windows import Window, join_windows, merge_processes
from loadtest.scenarios import make_stages

KEY = ("m", "1")


def latencies(values: list[int]) -> Latencies:
    made = Latencies()
    for value in values:
        made.record(value)
    return made


def window(rows: int, latency_us: int, seconds: float = 1.0) -> Window:
    made = Window(seconds)
    made.tallies[KEY] = Tally(requests=rows, rows=rows)
    made.tallies[KEY].latency_us.record(latency_us, rows)
    return made


def test_merged_histograms_give_what_one_process_would_have_given() -> None:
    rng = random.Random(1)
    values = [round(rng.lognormvariate(7, 1.5)) + 1 for _ in range(5000)]
    whole = latencies(values)
    merged = Latencies()
    for share in range(3):
        merged.add(Latencies.from_message(latencies(values[share::3]).to_message()))
    assert list(merged.counts()) == list(whole.counts())
    figures = {name: value for name, value in merged.summarize().items() if name != "max"}
    assert figures == {name: value for name, value in whole.summarize().items() if name != "max"}
    assert merged.summarize()["max"] == pytest.approx(max(values), rel=2e-3)


def test_the_worked_example_of_two_processes_holds() -> None:
    merged = latencies([100, 100, 100, 900])
    merged.add(latencies([200, 5000]))
    assert list(merged.counts())[:3] == [(100, 3), (200, 1), (900, 1)]
    figures = merged.summarize()
    assert (merged.count, figures["p50"], figures["mean"]) == (6, 100, 1066.7)


def test_percentiles_are_right_to_three_digits_and_the_mean_is_exact() -> None:
    figures = latencies(list(range(1, 10_001))).summarize()
    assert figures["p50"] == pytest.approx(5000, rel=1e-3)
    assert figures["p99"] == pytest.approx(9900, rel=1e-3)
    assert figures["mean"] == 5000.5


@pytest.mark.parametrize(("name", "least"), [("p50", 2), ("p90", 10), ("p95", 20), ("p99", 100)])
def test_a_percentile_needs_enough_values(name: str, least: int) -> None:
    assert least_count(PERCENTILES[name]) == least
    assert latencies([5] * (least - 1)).summarize()[name] is None
    assert latencies([5] * least).summarize()[name] == 5


@pytest.mark.parametrize("count", [100, 101, 149, 150, 160, 199, 200, 1000])
def test_99_of_100_values_are_within_p99_and_no_fewer(count: int) -> None:
    rank = latencies(list(range(1, count + 1))).percentile_us(99)
    assert rank is not None
    assert rank >= 0.99 * count > rank - 1


def test_the_worked_example_of_requests_without_an_answer_holds() -> None:
    answered = latencies([13_000] * 197)
    assert answered.percentile_us(99, unanswered=3) == math.inf
    assert latencies([13_000] * 199).percentile_us(99, unanswered=1) == pytest.approx(13_000, rel=1e-3)
    assert latencies([]).percentile_us(99, unanswered=99) is None
    assert latencies([]).percentile_us(99, unanswered=100) == math.inf


def test_a_histogram_is_read_from_text() -> None:
    latencies = Latencies()
    latencies.record_all({100: 5, 3000: 7, 123_456: 1})
    assert Latencies.counts_of_text(latencies.to_text()) == dict(latencies.counts())
    assert Latencies.counts_of_text(Latencies().to_text()) == {}


def packed(payload: bytes) -> str:
    return base64.b64encode(base64.b64decode(Latencies().to_text())[:8] + zlib.compress(payload)).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not base64",
        "\ud800",
        Latencies().to_text()[:-8],
        HdrHistogram(1, 10**12, 3).encode().decode(),
        packed(b""),
        packed(bytes(10**7)),  # 10 kB that unpack to 10 MB
        packed(zlib.decompress(base64.b64decode(Latencies().to_text())[8:])[:-8] + bytes([0xFF] * 60)),
    ],
    ids=["empty", "text", "surrogate", "short", "buckets", "nothing", "bomb", "counts"],
)
def test_text_that_is_no_histogram_of_ours_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a histogram of a load test"):
        Latencies.counts_of_text(text)


def test_a_window_survives_being_sent() -> None:
    recorder = Recorder("w1")
    recorder.round.answered(KEY, 4, 1500)
    recorder.round.found_wrong(KEY, "nan", "x: NaN came")
    recorder.round.left_unchecked(KEY)
    recorder.round.failed(("m", ""), "refused", "nobody listens", 90)
    recorder.round.backed_off(0.1)
    recorder.round.sent_late(12)
    recorder.round.keep_example("nan-1.npz", b"\0bytes")
    recorder.round.sent = 4
    sent = recorder.take(1)[0]
    assert sent.in_flight == 2
    came = Window.from_message(sent.to_message())
    assert came.to_message() == sent.to_message()
    assert (came.total.requests, came.total.rows, came.total.unchecked) == (1, 4, 1)
    assert (came.total.failures, came.total.wrong) == ({"refused": 1}, {"nan": 1})
    assert came.messages == {"nan": "x: NaN came", "refused": "nobody listens"}
    assert came.examples == [("nan-1.npz", b"\0bytes")]
    assert came.late_us.count == 1


def test_taking_a_window_starts_the_next_one_empty() -> None:
    recorder = Recorder("w1")
    recorder.round.answered(KEY, 1, 10)
    assert recorder.take(1)[0].requests == 1
    assert recorder.take(2)[1].requests == 0


def test_processes_add_up_and_windows_follow_each_other() -> None:
    first, second = window(10, 100), window(30, 200)
    first.busy["a"], second.busy["b"] = Busy(1.0, 0.5), Busy(1.0, 0.25)
    first.in_flight, second.in_flight = 5, 6
    together = merge_processes([first, second])
    assert together.in_flight == 11
    assert (together.seconds, together.total.rows, set(together.busy)) == (1.0, 40, {"a", "b"})
    longer = join_windows([together, window(5, 300, 2.0)])
    assert (longer.seconds, longer.total.rows, longer.total.latency_us.count) == (3.0, 45, 45)
    assert longer.in_flight == 0, "those of the last window alone are in flight at the end"


@pytest.mark.parametrize(
    ("windows", "stable"),
    [
        ([window(100, 1000)] * 3, True),
        ([window(50, 9000), *[window(100, 1000)] * 3], True),
        ([window(100, 1000)] * 2, False),
        ([window(100, 1000), window(100, 1000), window(115, 1000)], False),
        ([window(100, 1000), window(100, 1000), window(100, 1150)], False),
        ([window(0, 0)] * 3, False),
    ],
)
def test_three_windows_must_agree_within_a_tenth(windows: list[Window], stable: bool) -> None:
    assert is_stable(windows) is stable


def test_waiting_for_a_cpu_counts_as_being_busy() -> None:
    assert Busy(seconds=2.0, cpu_s=1.0, cpu_wait_s=0.9).share == 0.95


def test_throughput_is_what_came_in_a_window_whenever_it_was_sent() -> None:
    recorder = Recorder("w1")
    recorder.round.sent = 3
    recorder.round.answered(KEY, 2, 10)
    before, warm_up = recorder.round, recorder.take(1)[0]
    recorder.round.sent = 1
    before.answered(KEY, 4, 900)
    before.failed(("m", ""), "timeout", "no answer in time", 1000)
    windows = recorder.take(2)
    late, measured = windows[0], windows[1]
    assert (warm_up.sent, warm_up.requests, late.sent, late.requests) == (3, 1, 0, 1)
    assert late.total.failures == {"timeout": 1}
    assert (measured.sent, measured.requests, measured.surplus_requests, measured.surplus_rows) == (1, 0, 1, 4)
    assert measured.figures().requests == 1
    assert measured.rows_per_s * measured.seconds == pytest.approx(4)
    measured.add_counts(late)
    assert measured.figures().requests == 1
    assert measured.total.latency_us.count == 1


def test_answers_that_come_late_count_for_the_stage_in_which_they_were_sent() -> None:
    stages = make_stages(read("--concurrency", "1,2", "--warm-up", "1").load)
    records = [StageRecord(stage, begun=begun) for stage, begun in zip(stages, (1, 6), strict=True)]
    records[0].measured_from, records[0].measured_until = 2, 5
    records[1].measured_from = 7
    run = Run(read("--concurrency", "1,2"), 0.0, records)
    sent_in = {1: "warm-up", 3: "measured", 5: "drained", 6: "next warm-up", 7: "next measured"}
    for number in sent_in:
        run.record_of(number).add_late(number, window(10 * number, 100))
    first, second = records
    assert (first.discarded.requests, first.measured.requests) == (10 + 50, 30)
    assert (second.discarded.requests, second.measured.requests) == (60, 70)
    first.close()
    assert first.measured.requests == 30, "closing a stage does not count them twice"


def test_a_process_that_was_lost_is_named_though_it_came_back() -> None:
    record = StageRecord(make_stages(read("--concurrency", "1").load)[0])
    for lost in ({"b", "a"}, {"b"}, set()):
        record.note_lost(lost)
    assert record.lost_workers == ["a", "b"]
