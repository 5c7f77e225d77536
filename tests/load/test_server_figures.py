"""The server's share of the figures: what it counted between two snapshots, and when that is not to be believed."""

from collections import Counter

import pytest
from support.load_results import record_of, window

from loadtest.scenarios import Stage
from loadtest.server import Seen, Snapshot, Summary, summarize
from loadtest.server.meter import Models
from loadtest.server.metrics import read_counters, read_gauges
from loadtest.server.statistics import Counts, read_statistics

SILENT = Snapshot({}, {}, "the server did not answer: timed out")


def counts(requests: int, *, rows: int = 1, batch: int = 1, queue_us: int = 0) -> Counts:
    """What a model has counted that waited `queue_us` for each request and computed for 100 µs."""
    inferences = requests * rows
    made = Counts(inferences, inferences // batch, requests, batch_sizes=Counter({batch: inferences // batch}))
    made.nanoseconds = {"queue": requests * queue_us * 1000, "compute_infer": requests * 100_000}
    return made


def snapshot(requests: int, server: str = "", lag_s: float = 0.0) -> Snapshot:
    return Snapshot({(server, "m", "1"): counts(requests)}, {}, lag_s=lag_s, models=Models(("m",)))


def summary(*snapshots: Snapshot, answered: int, failed: int = 0, in_flight: int = 0, seconds: float = 4.0) -> Summary:
    """Summarize snapshots between which the client got as many answers each time."""
    times = len(snapshots) - 1
    shares = [answered // max(times, 1) + (number < answered % max(times, 1)) for number in range(times)]
    return summarize(snapshots, [Seen(share, failed, in_flight, seconds / times) for share in shares])


def test_the_figures_are_what_was_counted_between_the_first_and_the_last_snapshot() -> None:
    first = Snapshot({("", "m", "1"): counts(100, rows=4, batch=8, queue_us=50)}, {}, models=Models(("m",)))
    last = Snapshot({("", "m", "1"): counts(300, rows=4, batch=8, queue_us=150)}, {}, models=Models(("m",)))
    figures = summary(first, SILENT, last, answered=200).figures
    assert figures is not None
    # the queue took 300 x 150 - 100 x 50 = 40,000 µs for 200 requests
    assert (figures["queue_us"], figures["compute_infer_us"], figures["compute_input_us"]) == (200.0, 100.0, None)
    assert (figures["requests"], figures["inferences"], figures["executions"]) == (200, 800, 100)
    assert (figures["mean_batch"], figures["batch_sizes"], figures["models"]) == (8.0, {"8": 100}, [])


def test_the_time_of_a_batch_is_that_of_its_input_inference_and_output() -> None:
    """Batches of 8 rows: 10 took 1 ms each before, and 20 take 2.1 ms each from the first to the last snapshot."""

    def at(count: int, infer_us: int, output_us: int) -> Snapshot:
        split = {part: {"count": count, "ns": 0} for part in ("success", "fail", "queue")}
        times = {"compute_input": 100 * count, "compute_infer": infer_us, "compute_output": output_us}
        parts = {part: {"count": count, "ns": us * 1000} for part, us in times.items()}
        entry = {"name": "m", "version": "1", "inference_count": 8 * count, "execution_count": count}
        batches = [{"batch_size": 8, **parts}]
        answer = {"model_stats": [{**entry, "inference_stats": {**split, **parts}, "batch_stats": batches}]}
        (counted,) = [one for _, _, one in read_statistics(answer)]
        return Snapshot({("", "m", "1"): counted}, {}, models=Models(("m",)))

    figures = summary(at(10, 9_000, 0), at(30, 47_000, 2_000), answered=20).figures
    assert figures is not None
    assert (figures["batch_sizes"], figures["batch_times_us"]) == ({"8": 20}, {"8": 2100.0})


def test_a_part_of_a_batch_that_the_server_does_not_count_is_left_out() -> None:
    parts = {part: {"count": 3, "ns": 0} for part in ("success", "fail", "queue", "compute_input", "compute_output")}
    stats = {**parts, "compute_infer": {"count": 3, "ns": 6_000}}
    entry = {"name": "m", "version": "1", "inference_count": 24, "execution_count": 3, "inference_stats": stats}
    batches = [{"batch_size": 8, "compute_infer": {"count": 3, "ns": 6_000}}]
    ((_, _, counted),) = read_statistics({"model_stats": [{**entry, "batch_stats": batches}]})
    assert counted.batch_nanoseconds == {8: 6_000}


def test_without_two_snapshots_there_are_no_figures_and_the_reason_is_given() -> None:
    assert summary(SILENT, snapshot(3), answered=3).reason == SILENT.problem
    assert summary(snapshot(3), answered=3).figures is None


@pytest.mark.parametrize(
    ("counted", "answered", "failed", "in_flight", "lag_s", "fits"),
    [
        (8000, 8000, 0, 0, 0.0, True),
        (8010, 8000, 0, 0, 0.0, True),
        (8011, 8000, 0, 0, 0.0, False),
        (7989, 8000, 0, 0, 0.0, False),
        (7984, 8000, 0, 3, 0.0, True),  # three may have been in flight at both ends
        (8070, 8000, 60, 0, 0.0, True),  # the client gave up on 60 that the server answered
        (7930, 8000, 60, 0, 0.0, False),
        (8100, 8000, 0, 0, 0.0125, True),  # 2 x 2,000/s x 2 x 0.0125 s = 100
        (593_617, 13_328, 0, 8, 0.05, False),
        (6664, 13_328, 0, 8, 0.05, False),
    ],
)
def test_what_the_server_counted_must_fit_what_the_client_counted(
    counted: int, answered: int, failed: int, in_flight: int, lag_s: float, *, fits: bool
) -> None:
    ends = (snapshot(1000, lag_s=lag_s), snapshot(1000 + counted, lag_s=lag_s))
    found = summary(*ends, answered=answered, failed=failed, in_flight=in_flight)
    assert (found.figures is not None, found.foreign, found.restarted) == (fits, not fits, False)
    if not fits:
        assert f"counted {counted:,} requests and the client {answered:,} answers" in found.reason


def test_a_count_that_fell_shows_a_restart_after_which_all_of_it_was_counted() -> None:
    found = summarize((snapshot(90), snapshot(100), snapshot(40)), [Seen(10, seconds=2.0), Seen(50, seconds=2.0)])
    assert found.restarted
    assert found.figures is not None
    assert found.figures["requests"] == 50


def test_a_restart_that_no_count_shows_is_seen_if_the_server_did_not_answer_in_between() -> None:
    found = summary(snapshot(100), SILENT, snapshot(900), answered=2000)
    assert (found.restarted, found.figures) == (True, None)
    assert not summary(snapshot(100), snapshot(900), answered=2000).restarted


QUICK = (snapshot(0), snapshot(2600), snapshot(2700), snapshot(5700))
"""A server that was killed at 2,600, and back so soon that at the next snapshot it had counted 2,700 again."""


def test_a_restart_between_two_snapshots_is_seen_if_requests_failed_or_if_all_other_counts_fit() -> None:
    lost = [Seen(2600, 0, 2, 2.0), Seen(2990, 12, 2, 2.0), Seen(3000, 0, 2, 2.0)]
    reloaded = [Seen(2600, 0, 2, 2.0), Seen(3000, 0, 2, 2.0), Seen(3000, 0, 2, 2.0)]
    for seen in (lost, reloaded):
        found = summarize(QUICK, seen)
        assert (found.restarted, found.foreign, found.figures) == (True, False, None)
    assert summarize(QUICK[1:3], lost[1:2]).restarted
    assert not summarize(QUICK[1:3], reloaded[1:2]).restarted


def test_a_restart_is_seen_where_the_next_snapshot_was_read_late() -> None:
    # 3,000 x 1 s / 2 s x 2 = 3,000 answers may be missing from this snapshot alone, but not from all of them
    late = (snapshot(0), snapshot(2600), snapshot(2700, lag_s=1.0), snapshot(5700))
    found = summarize(late, [Seen(2600, 0, 2, 2.0), Seen(2990, 12, 2, 2.0), Seen(3000, 0, 2, 2.0)])
    assert (found.restarted, found.foreign) == (True, False)


@pytest.mark.parametrize(("lag_s", "in_flight", "missing"), [(0.05, 0, 100), (0.0, 20, 60)])
def test_the_counts_around_a_restart_may_differ_as_much_as_those_at_both_ends(
    lag_s: float, in_flight: int, missing: int
) -> None:
    around = (snapshot(2600, lag_s=lag_s), snapshot(2700, lag_s=lag_s))
    last = snapshot(2700 + 3000 - missing)
    answers = [Seen(2600, 0, in_flight, 2.0), Seen(2990, 12, in_flight, 2.0), Seen(3000, 0, in_flight, 2.0)]
    assert summarize((snapshot(0), *around, last), answers).restarted


@pytest.mark.parametrize("failed", [0, 5])
@pytest.mark.parametrize("start", [0, 40_000])
def test_servers_that_share_the_load_are_not_taken_for_a_restart(start: int, failed: int) -> None:
    half = [snapshot(start + 1500 * number) for number in range(6)]
    found = summarize(half, [Seen(3000, failed, 8, 2.0)] * 5)
    assert (found.foreign, found.restarted) == (True, False)
    assert "other servers share the load" in found.reason
    few = [snapshot(start + 6 * number) for number in range(6)]
    assert not summarize(few, [Seen(12, failed, 0, 2.0)] * 5).restarted


def test_two_servers_in_turn_are_not_taken_for_a_restart() -> None:
    found = summary(snapshot(5000), snapshot(300), snapshot(5500), snapshot(800), answered=1000)
    assert (found.foreign, found.restarted, found.figures) == (True, False, None)


def test_the_counts_of_several_servers_are_added_up_and_each_may_restart() -> None:
    def both(first: int, second: int) -> Snapshot:
        return Snapshot(
            {**snapshot(first, "a:8002").counts, **snapshot(second, "b:8002").counts}, {}, models=Models(("m",))
        )

    found = summary(both(1000, 20), both(1500, 520), answered=1000)
    assert found.figures is not None
    assert (found.figures["requests"], found.restarted) == (1000, False)
    assert summary(both(1000, 20), both(200, 520), answered=1000).restarted


# ---- ensembles


def test_the_time_of_an_ensemble_is_the_sum_of_its_models_and_each_is_shown() -> None:
    steps = {"chain": ("first", "inner"), "inner": ("second",)}

    def at(requests: int) -> Snapshot:
        own = counts(requests, rows=4)
        own.nanoseconds = {"queue": 0, "compute_infer": requests * 10**9}
        taken = {
            ("", "chain", "1"): own,
            ("", "inner", "1"): own,
            ("", "first", "2"): counts(requests, rows=4, batch=4, queue_us=20),
            ("", "second", "1"): counts(requests, rows=4, batch=2, queue_us=50),
        }
        return Snapshot(taken, {}, models=Models(("chain",), steps))

    figures = summary(at(10), at(110), answered=100).figures
    assert figures is not None
    assert (figures["queue_us"], figures["compute_infer_us"], figures["requests"]) == (70.0, 200.0, 100)
    assert (figures["executions"], figures["mean_batch"]) == (300, round(800 / 300, 3))
    assert figures["batch_sizes"] == {"2": 200, "4": 100}
    shown = [(one["name"], one["version"], one["queue_us"], one["mean_batch"]) for one in figures["models"]]
    assert shown == [("first", "2", 20.0, 4.0), ("second", "1", 50.0, 2.0)]


# ---- Prometheus text

METRICS = r"""# HELP nv_inference_request_success Number of successful inference requests
# TYPE nv_inference_request_success counter
nv_inference_request_success{gpu_uuid="a",model="m",version="1"} 7
nv_inference_request_success{gpu_uuid="b",model="m",version="1"} 1.3e+01
nv_inference_request_success{model="a \"b\" \\ c",version="2"} 1
nv_inference_request_failure{model="m",reason="OTHER",version="1"} 2
nv_inference_request_failure{model="m",reason="BACKEND",version="1"} 1
nv_inference_count{model="m",version="1"} 40
nv_inference_exec_count{model="m",version="1"} 5 1700000000000
nv_inference_queue_duration_us{model="m",version="1"} 12
nv_inference_compute_infer_duration_us{model="m",version="1"} NaN
nv_gpu_utilization{gpu_uuid="a"} 0.5
nv_gpu_utilization{gpu_uuid="b"} 0.7
nv_gpu_memory_used_bytes{gpu_uuid="a"} 100
nv_gpu_memory_used_bytes{gpu_uuid="b"} 50
nv_gpu_memory_used_bytes_other 7
not a metric
"""


def test_the_counters_of_prometheus_text_are_added_up_over_devices_and_reasons() -> None:
    found = read_counters(METRICS)
    assert found["m", "1"] == Counts(40, 5, 20, 3, {"queue": 12_000})
    assert [key for key in found if key[0] != "m"] == [(r"a \"b\" \\ c", "2")]


def test_gauges_of_devices_are_summed_or_averaged() -> None:
    assert read_gauges(METRICS) == {"gpu_utilization": pytest.approx(0.6), "gpu_memory_used_bytes": 150}


@pytest.mark.parametrize(("in_flight", "fits"), [(64, True), (0, False)])
def test_answers_to_requests_in_flight_at_the_start_of_a_stage_may_be_missing(in_flight: int, fits: bool) -> None:
    record = record_of(Stage("after", 2, 1.0, 0.0, follows_on=True), window(5000, 500))
    record.discarded.in_flight = in_flight
    record.snapshots = [snapshot(100), snapshot(5000)]
    assert (record.on_server().figures is not None) is fits
