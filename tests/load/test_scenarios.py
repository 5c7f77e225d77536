"""Options, the stages of each scenario, and when an open loop's requests are due."""

import random
import statistics
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from support.load_settings import read

from loadtest.checking import Samples, make_order, make_pool
from loadtest.errors import SettingsError
from loadtest.scenarios import Arrivals, Stage, Trial, describe_plan, make_plan, make_stages, read_arrivals
from loadtest.wire import InferRequest, TensorSpec


def test_models_and_rows_carry_weights() -> None:
    made = read("--model", "a=3,b", "--rows", "1=2,8")
    assert [(choice.name, choice.weight) for choice in made.models] == [("a", 3.0), ("b", 1.0)]
    assert made.rows == ((1, 2.0), (8, 1.0))


@pytest.mark.parametrize(
    ("arguments", "where", "what"),
    [
        (["--model", ""], "--model", "this option is missing"),
        (["--model-version", "two"], "--model-version", "is not a version number"),
        (["--model", "a,b", "--model-version", "1"], "--model-version", "one model only, not for 2"),
        (["--rows", "0"], "--rows", "is not a whole number from 1 to"),
        (["--rows", "1=-2"], "--rows", "is not a number from 0.000001 to 1,000,000"),
        (["--concurrency", "1,x"], "--concurrency", "'x' is not"),
        (["--concurrency", ","], "--concurrency", "this option is empty"),
        (["--scenario", "constant", "--concurrency", "1,2"], "--concurrency", "needs one number, not 2"),
        (["--scenario", "spike", "--concurrency", "1"], "--concurrency", "needs two numbers, not 1"),
        (["--scenario", "rate"], "--rate", "scenario rate needs this option"),
        (["--scenario", "replay"], "--arrivals-file", "scenario replay needs this option"),
        (["--scenario", "search"], "--max-p99-ms", "so it must be given"),
        (["--scenario", "search", "--max-p99-ms", "9", "--concurrency", "8"], "--concurrency", "highest load, not 8"),
        (["--scenario", "search", "--max-p99-ms", "9", "--concurrency", "8,8"], "--concurrency", "not 8,8"),
        (["--scenario", "search", "--max-p99-ms", "9", "--rate", "200,50"], "--rate", "highest load, not 200,50"),
        (["--search-precision", "5"], "--search-precision", "'5' is not a percentage"),
        (["--search-precision", "0.01%"], "--search-precision", "is not a percentage from 0.1%"),
        (["--repository", "/no/such/place"], "--repository", "/no/such/place is not a directory"),
        (["--grpc-address", "nowhere"], "--grpc-address", "is not HOST:PORT"),
        (["--stage-time", "nan"], "--stage-time", "is not a number above 0"),
        (["--stage-time", "1e300"], "--stage-time", "is not a number above 0 and up to 31,536,000"),
        (["--warm-up", "1e300"], "--warm-up", "is not a number from 0 to 31,536,000"),
        (["--request-timeout", "1e9"], "--request-timeout", "up to 3,600"),
        (["--max-p99-ms", "1e9"], "--max-p99-ms", "up to 3,600,000"),
        (["--rows", "1=1e308,2=1e308"], "--rows", "'1e308' is not a number from"),
        (["--rows", "9" * 30], "--rows", "is not a whole number from 1 to 2,147,483,647"),
        (["--model", "a=1e-320,b"], "--model", "'1e-320' is not a number from"),
        (["--model-version", "01"], "--model-version", "'01' is not a version number"),
        (["--model-version", "9" * 5000], "--model-version", "is not a version number"),
        (["--concurrency", "99999999999"], "--concurrency", "is not a whole number from 1 to 100,000"),
        (["--concurrency", "1_0"], "--concurrency", "'1_0' is not a whole number"),
        (["--concurrency", "\u0661"], "--concurrency", "is not a whole number"),
        (["--stages", "9" * 10], "--stages", "is not a whole number from 1 to 100,000"),
        (["--rate", "1e-300"], "--rate", "is not a number from 0.000001 to 1,000,000,000"),
        (["--seed", "-5"], "--seed", "is not a whole number from 0 to"),
        (["--sequence-length", "9" * 5000], "--sequence-length", "is not a whole number from 1 to"),
        (["--max-p99-ms", "-1"], "--max-p99-ms", "is not a number above 0"),
    ],
)
def test_an_option_that_makes_no_sense_is_named(arguments: list[str], where: str, what: str) -> None:
    with pytest.raises(SettingsError, match=what) as caught:
        read(*arguments)
    assert caught.value.where == where


def test_steps_are_a_ladder_of_stages_until_stable() -> None:
    stages = make_stages(read("--concurrency", "1,2,4", "--stage-time", "5").load)
    assert [(stage.users, stage.until_stable, stage.window_s) for stage in stages] == [
        (1, True, 1.0),
        (2, True, 1.0),
        (4, True, 1.0),
    ]


def test_the_other_closed_loops_run_every_stage_to_its_end() -> None:
    users = {
        "constant": (["--concurrency", "7"], [7]),
        "spike": (["--concurrency", "2,9"], [2, 9, 2]),
        "soak": (["--concurrency", "3", "--stages", "4"], [3, 3, 3, 3]),
        "ramp": (["--concurrency", "1,9", "--stages", "3"], [1, 5, 9]),
    }
    for scenario, (arguments, expected) in users.items():
        stages = make_stages(read("--scenario", scenario, *arguments).load)
        assert [stage.users for stage in stages] == expected
        assert not any(stage.until_stable for stage in stages)


def test_a_search_goes_on_until_it_is_decided_up_to_four_times_the_stage_time() -> None:
    options = ("--scenario", "search", "--max-p99-ms", "20", "--stage-time", "10")
    users = make_plan(read(*options).load)
    assert users.next_stage(()) == Stage("1 user", 1, 40.0, 1.0, sought_p99_us=20_000.0)
    rates = make_plan(read(*options, "--rate", "50,2000", "--max-in-flight", "64").load)
    first = rates.next_stage(())
    assert first is not None
    assert (first.name, first.users, first.rate, first.load, first.window_s) == ("50 requests/s", 64, 50, 50, 2.0)
    again = rates.next_stage([Trial(50, within=False, p99_us=30_000.0)])
    assert again is not None
    assert (again.name, again.rate) == ("50 requests/s (2)", 50)
    assert again.arrivals != first.arrivals
    assert (users.most_stages, users.most_seconds) == (23, 23 * 41)


def test_constant_arrivals_are_shared_out_over_processes() -> None:
    arrivals = Arrivals("constant", 100.0)
    shares = [list(islice(arrivals.due_times(index, 2), 3)) for index in range(2)]
    assert shares == [[0.0, 0.02, 0.04], [0.01, 0.03, 0.05]]


def test_poisson_arrivals_of_processes_add_up_to_the_rate() -> None:
    arrivals = Arrivals("poisson", 200.0, 5)
    merged = sorted(due for index in range(4) for due in islice(arrivals.due_times(index, 4), 5000) if due < 80)
    gaps = np.diff(merged)
    assert len(merged) / 80 == pytest.approx(200, rel=0.05)
    assert statistics.stdev(gaps) == pytest.approx(statistics.fmean(gaps), rel=0.05)


def test_a_replay_reads_times_after_a_header(tmp_path: Path) -> None:
    path = tmp_path / "arrivals.csv"
    path.write_text("time,what\n0.0,a\n0.5,b\n\n0.5,c\n2,d\n")
    assert read_arrivals(path) == (0.0, 0.5, 0.5, 2.0)
    (stage,) = make_stages(read("--scenario", "replay", "--arrivals-file", str(path)).load)
    assert stage.arrivals is not None
    assert [list(stage.arrivals.due_times(index, 2)) for index in range(2)] == [[0.0, 0.5], [0.5, 2.0]]


@pytest.mark.parametrize(
    ("text", "unit", "times"),
    [
        ("1764190000.25\n1764190000.75\n1764190002.25\n", "s", (0, 0.5, 2)),
        ("1764190000250\n1764190000750\n1764190002250\n", "ms", (0, 0.5, 2)),
        ("1764190000250000000\n1764190000750000000\n", "ns", (0, 0.5)),
        ("\ufeff7\n7.5\n", "s", (0, 0.5)),
        ("\ufefftime\n 7\n7.5,x\n", "s", (0, 0.5)),
    ],
    ids=["since 1970", "in ms", "in ns", "mark", "mark and heading"],
)
def test_a_replay_begins_with_the_first_request_whatever_its_time(
    tmp_path: Path, text: str, unit: str, times: tuple[float, ...]
) -> None:
    path = tmp_path / "arrivals.csv"
    path.write_text(text, encoding="utf-8")
    assert read_arrivals(path, unit) == pytest.approx(times, abs=1e-6)


def refusal(path: Path, unit: str) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        read_arrivals(path, unit)
    return caught.value


@pytest.mark.parametrize(
    ("times", "unit", "what", "fix"),
    [
        ([0, 100_000], "s", "its replay would take 1 d 3 h, but may take 1 d at most", "add --arrivals-unit ms if"),
        (
            [0, 5_000, 9_000],
            "s",
            "nothing would be sent for 1 h 23 min between lines 1 and 2",
            "add --arrivals-unit ms if",
        ),
        (
            [10**18, 10**18 + 10**10],
            "s",
            "its first time, 1e+18 s, is more than 300 years",
            "add --arrivals-unit ns, if",
        ),
        ([1764190000000, 1764190000040], "s", "its first time, 1764190000000 s, is more", "add --arrivals-unit ms, if"),
        ([0, 10**9], "ns", "", ""),
        ([t * 3000 for t in range(40)], "s", "its replay would take 1 d 8 h", "add --arrivals-unit ms if"),
    ],
)
def test_a_replay_that_nobody_would_wait_for_is_refused(
    tmp_path: Path, times: list[int], unit: str, what: str, fix: str
) -> None:
    path = tmp_path / "arrivals.csv"
    path.write_text("".join(f"{time}\n" for time in times))
    if not what:
        assert len(read_arrivals(path, unit)) == len(times)
        return
    error = refusal(path, unit)
    assert what in error.what
    assert error.fix.startswith(fix)
    assert len(read_arrivals(path, error.fix.split()[2].rstrip(","))) == len(times), "the fix works for this file"


def test_the_fix_of_a_gap_closes_it(tmp_path: Path) -> None:
    path = tmp_path / "arrivals.csv"
    path.write_text("0\n1\n50000000\n50000001\n")
    error = refusal(path, "ms")
    assert "nothing would be sent for 13 h 53 min between lines 2 and 3" in error.what
    assert error.fix.endswith("or subtract 49999999 from the times from line 3 on")
    shift = 49_999_999
    path.write_text(f"0\n1\n{50000000 - shift}\n{50000001 - shift}\n")
    assert read_arrivals(path, "ms") == pytest.approx((0, 0.001, 0.001, 0.002))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "steps: 5 stages, at most 55 s, and up to 10 s for the last answers of a stage"),
        (
            ("--scenario", "constant", "--concurrency", "2", "--stage-time", "3600"),
            "constant: 1 stage, at most 1 h,",
        ),
        (("--scenario", "search", "--max-p99-ms", "9"), "search: at most 23 stages, at most 15 min 43 s, and"),
        (("--min-requests", "500"), "steps: 5 stages, at most 9 min 10 s, and"),
    ],
)
def test_a_run_says_how_long_it_may_take(arguments: tuple[str, ...], said: str) -> None:
    load = read(*arguments).load
    assert describe_plan(load, make_plan(load)).startswith(said)


def test_a_replay_says_how_long_it_takes(tmp_path: Path) -> None:
    path = tmp_path / "arrivals.csv"
    path.write_text("".join(f"{1764190000 + turn}\n" for turn in range(1201)))
    load = read("--scenario", "replay", "--arrivals-file", str(path)).load
    assert describe_plan(load, make_plan(load)) == "replay: 1,201 requests in 20 min, 1 requests/s on average"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "has no times"),
        ("time\n", "has no times"),
        ("0s\n1\n", "line 1.*is not a number"),
        ("1\n1_000\n", "line 2.*is not a number"),
        ("1\nx\n", "line 2.*is not a number"),
        ("2\n1\n", "line 2: 1 is earlier than the time before it, 2"),
        ("-1\n", "line 1: -1 is not a time from 0 up"),
    ],
)
def test_a_damaged_arrivals_file_is_refused(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "arrivals.csv"
    path.write_text(text)
    with pytest.raises(SettingsError, match=what):
        read_arrivals(path)


def samples(rows: int) -> Samples:
    array = np.arange(rows * 2.0).reshape(rows, 2)
    return Samples("m", "", 8, (TensorSpec("x", "FP32", (2,)),), ("y",), {"x": array}, None)


def encode(request: InferRequest) -> bytes:
    return request.inputs[0].array.tobytes()


def test_groups_of_rows_are_random_and_cover_every_sample() -> None:
    pool = make_pool(samples(1001), 4, encode, random.Random(1))
    assert {len(request.group) for request in pool} == {4}
    assert {row for request in pool for row in request.group} == set(range(1001))
    assert len({request.group for request in pool}) == len(pool)


def test_the_order_has_every_request_and_keeps_the_weights() -> None:
    heavy, light = (
        make_pool(samples(50), 1, encode, random.Random(1)),
        make_pool(samples(40), 1, encode, random.Random(2)),
    )
    order = make_order([(3.0, heavy), (1.0, light)], random.Random(3))
    assert {id(request) for request in order} == {id(request) for request in (*heavy, *light)}
    share = sum(request in light for request in order) / len(order)
    assert share == pytest.approx(0.25, abs=0.01)
