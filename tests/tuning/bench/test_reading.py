"""What a measurement takes from the result of a load test, and what it does with one that is damaged."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from support.load_results import make_result, record_of, window
from support.load_settings import read

from builder.errors import HostError
from builder.tuning.bench.machine import Busy
from builder.tuning.bench.reading import read_measurement
from builder.tuning.measurement import BatchTimes, Configuration, Interval, Load, Measurement
from loadtest.run import Run, Window
from loadtest.scenarios import make_stages
from loadtest.server import Snapshot
from loadtest.server.meter import Models
from loadtest.server.statistics import Counts

CONFIGURATION, LOAD = Configuration(2, 1, 32), Load(users=8)
BUSY = Busy(seconds=10.0, cores=4, server_s=2.0, ours_s=1.0, total_s=4.0)


def counts(batches: dict[int, int]) -> Counts:
    """What the model m has counted that ran these batches, each for 1 ms and 0.1 ms a row."""
    rows, executions = sum(size * count for size, count in batches.items()), sum(batches.values())
    made = Counts(rows, executions, rows, nanoseconds={"queue": rows * 250_000})
    made.batch_sizes.update(batches)
    made.batch_nanoseconds.update({size: count * (1_000_000 + size * 100_000) for size, count in batches.items()})
    return made


def result_of(
    *windows: Window, discarded: Window | None = None, late: Window | None = None, served: bool = True
) -> dict[str, Any]:
    """A real result of a run of one stage, with answers that came after its end."""
    made = read("--scenario", "constant", "--concurrency", "8")
    record = record_of(make_stages(made.load)[0], *windows, discarded=discarded)
    record.close()
    if late is not None:
        record.measured_from = 0
        record.add_late(0, late)
    if served:
        for number in range(len(windows) + 1):
            counted = counts({8: 20 * number, 4: 60 * number})
            record.snapshots.append(Snapshot({("", "m", "1"): counted}, {}, models=Models(("m",))))
    return make_result(Run(made, 0.0, [record], complete=True, checked=True))


def measured(result: dict[str, Any], busy: Busy = BUSY, *, is_here: bool = True) -> Measurement:
    return read_measurement(result, CONFIGURATION, LOAD, busy, is_here=is_here)


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return result_of(window(400, 2000), window(400, 2000), window(400, 2000), discarded=window(800, 2000))


def test_the_figures_are_those_of_the_only_stage(result: dict[str, Any]) -> None:
    made = measured(result)
    assert (made.configuration, made.load, made.error) == (CONFIGURATION, LOAD, "")
    assert made.throughput == Interval(400.0, 400.0, 400.0)
    assert made.p99_s is not None
    assert made.p99_s.value == pytest.approx(0.002, rel=1e-3)
    assert made.p99_s.low <= 0.002 <= made.p99_s.high
    assert (made.requests, made.wrong, made.failed, made.unchecked) == (1200, 0, 0, 0)
    assert (made.latency_s, made.queue_s, made.seconds) == (0.002, 0.00025, 3.0)
    assert made.mean_batch == 5.0
    assert made.batches == {4: BatchTimes(180, 0.0014), 8: BatchTimes(60, 0.0018)}
    assert made.client_cpu_s == pytest.approx(0.9 / 1200, rel=1e-3)


def test_the_servers_processor_time_is_shared_among_all_requests_also_those_of_the_warm_up(
    result: dict[str, Any],
) -> None:
    made = measured(result)
    assert made.server_cpu_s == 2.0 / 2000
    assert made.others == 0.025  # 4 s of 40 s were busy, of which the server took 2 s, and the load generator 1 s
    elsewhere = measured(result, is_here=False)
    assert (elsewhere.server_cpu_s, elsewhere.others) == (None, None)


def test_wrong_failed_and_unchecked_answers_of_the_warm_up_count_too() -> None:
    first = window(100, 2000, unchecked=5)
    (tally,) = first.tallies.values()
    tally.wrong["tolerance"] = 3
    tally.failures["timeout"] = 2
    made = measured(result_of(*(window(400, 2000) for _ in range(3)), discarded=first))
    assert (made.wrong, made.failed, made.unchecked) == (3, 2, 5)
    assert any("3 of 1,300 answers were wrong" in note for note in made.notes)


def test_requests_whose_answers_come_only_after_the_measured_time_wait_at_its_end() -> None:
    """Of 440 requests a second, 400 are answered; the load test waits for the others, and counts them."""
    windows = [window(400, 2000) for _ in range(3)]
    for one in windows:
        one.sent = 440
    late = window(120, 90_000)
    late.sent, late.surplus_requests, late.surplus_rows = 0, -120, -120
    made = measured(result_of(*windows, late=late))
    assert made.throughput is not None
    assert (made.requests, made.throughput.value, made.waiting) == (1320, 400.0, 120)
    assert measured(result_of(*(window(400, 2000) for _ in range(3)))).waiting == 0


def test_few_requests_have_no_p99() -> None:
    assert measured(result_of(*(window(100, 2000) for _ in range(3)))).p99_s is None


def test_windows_without_an_answer_leave_an_interval_that_is_as_wide_as_the_answers_are_few() -> None:
    made = measured(result_of(window(9, 2000), window(0, 2000), window(0, 2000), served=False))
    assert made.throughput is not None
    assert made.throughput.value == 3.0
    bounds = [made.throughput.low, made.throughput.high]
    assert bounds == pytest.approx([3 * (1 - 1.96 / 3), 3 * (1 + 1.96 / 3)])


def test_without_an_answer_there_is_no_measurement_but_the_reason() -> None:
    made = measured(result_of(window(0, 2000), window(0, 2000), served=False))
    assert (made.throughput, made.p99_s) == (None, None)
    assert made.error.startswith("no request was answered")


def test_wrong_answers_are_not_forgotten_if_all_came_in_the_warm_up() -> None:
    first = window(100, 2000, unchecked=5)
    (tally,) = first.tallies.values()
    tally.wrong["tolerance"] = 3
    made = measured(result_of(window(0, 2000), window(0, 2000), discarded=first, served=False))
    assert made.error
    assert (made.wrong, made.unchecked) == (3, 5)


def test_batches_that_took_no_time_are_left_out(result: dict[str, Any]) -> None:
    strange = copy.deepcopy(result)
    strange["stages"][0]["server"]["batch_times_us"]["4"] = 0.0
    assert [*measured(strange).batches] == [8]


def test_what_other_programs_took_is_not_known_where_the_server_is_in_a_container(result: dict[str, Any]) -> None:
    """Its processor time is on this machine, but not known, so it must not count as that of other programs."""
    made = measured(result, Busy(seconds=10.0, cores=4, server_s=None, ours_s=1.0, total_s=30.0))
    assert made.others is None
    assert not any(note.startswith("other programs") for note in made.notes)


def test_what_the_server_did_not_say_is_left_out_and_noted() -> None:
    made = measured(result_of(*(window(400, 2000) for _ in range(3)), served=False))
    assert (made.batches, made.mean_batch) == ({}, 0.0)
    assert any(note.startswith("the batches are not known") for note in made.notes)


def test_the_limits_of_the_load_generator_and_of_the_machine_are_noted() -> None:
    made = measured(
        result_of(*(window(400, 2000, busy=0.97) for _ in range(3))),
        Busy(seconds=10.0, cores=2, server_s=12.0, ours_s=5.0, total_s=19.0),
    )
    assert any(note.startswith("the load generator, not the server, was the bottleneck") for note in made.notes)
    assert "the cores of this machine were the limit: the server took 60%, the load generator 25%" in made.notes
    assert "other programs took 10% of the machine" in made.notes
    assert not any("stage 8 users" in note for note in made.notes)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the places of all values in a result, except the texts that are only shown."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


@pytest.mark.parametrize("damage", ["removed", None, "text", -1, float("nan"), [], {}, True], ids=str)
def test_a_damaged_result_is_refused_or_makes_no_difference_but_never_ends_in_another_error(
    damage: Any, result: dict[str, Any]
) -> None:
    refused = 0
    for path in [*places(result)][1:]:
        broken = copy.deepcopy(result)
        inner: Any = broken
        for key in path[:-1]:
            inner = inner[key]
        if damage == "removed":
            del inner[path[-1]]
        else:
            inner[path[-1]] = damage
        try:
            measured(broken)
        except HostError:
            refused += 1
    assert refused >= 10


def test_a_result_of_another_schema_is_refused(result: dict[str, Any]) -> None:
    with pytest.raises(HostError, match="schema 3 instead of 2"):
        measured({**result, "schema": 3})
