"""Results side by side: which stages are compared, what is said about the runs, and what the command prints."""

import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from jsonschema import Draft202012Validator
from support.load_results import KEY, make_result, record_of, result_of
from support.load_settings import read

from loadtest.commands import main
from loadtest.console import NO_FIGURE
from loadtest.errors import SettingsError
from loadtest.report import read_schema
from loadtest.report.compare import Comparison, compare, describe, find_slower, read_run, to_table
from loadtest.run import Busy, Run, Tally, Window
from loadtest.scenarios import make_stages

SOAK = ("--scenario", "soak", "--concurrency", "4", "--stages", "3")
SPIKE = ("--scenario", "spike", "--concurrency", "2,32")


def noisy_window(rng: random.Random, rows: int, latency_us: int) -> Window:
    made = Window(1.0, {KEY: Tally()})
    made.busy["local"] = Busy(1.0, 0.3)
    tally = made.tallies[KEY]
    tally.requests = tally.rows = round(rows * rng.gauss(1, 0.01))
    for _ in range(tally.requests):
        tally.latency_us.record(round(latency_us * rng.lognormvariate(0, 0.2)))
    return made


def result_with(*stages: tuple[int, int], options: Sequence[str] = (), seed: int = 0) -> dict[str, Any]:
    """The result of a run, each stage given as (rows per second, latency in microseconds), with some noise."""
    rng, settings = random.Random(seed), read(*options)
    run = Run(settings, time.time(), complete=True)
    for stage, (rows, latency_us) in zip(make_stages(settings.load), stages, strict=True):
        run.records.append(record_of(stage, *(noisy_window(rng, rows, latency_us) for _ in range(5))))
    return make_result(run)


def write(folder: Path, **results: dict[str, Any]) -> list[Path]:
    for name, result in results.items():
        (folder / f"{name}.json").write_text(json.dumps(result))
    return [folder / f"{name}.json" for name in results]


def compared(folder: Path, first: dict[str, Any], second: dict[str, Any]) -> Comparison:
    one, other = map(read_run, write(folder, first=first, second=second))
    return compare([one], [other])


def said(comparison: Comparison) -> str:
    return "\n".join(describe(comparison))


def test_p99_is_that_of_the_stage_not_the_mean_of_its_windows(tmp_path: Path) -> None:
    result = result_with((300, 1000), options=("--scenario", "constant"))
    (row,) = compared(tmp_path, result, result).rows
    for name, figure in (("p50_us", "p50"), ("p99_us", "p99"), ("mean_us", "mean")):
        change = row.changes[name]
        assert change.first is not None
        assert change.first.value == pytest.approx(result["stages"][0]["latency_us"][figure])
    (stage,) = result["stages"]
    mean_of_windows = sum(window["p99_us"] for window in stage["windows"]) / len(stage["windows"])
    assert mean_of_windows != stage["latency_us"]["p99"]


def test_every_part_of_a_soak_and_every_phase_of_a_spike_is_compared(tmp_path: Path) -> None:
    for options, names in ((SOAK, ["part 1", "part 2", "part 3"]), (SPIKE, ["before", "spike", "after"])):
        result = result_with((100, 1000), (200, 2000), (400, 3000), options=options)
        comparison = compared(tmp_path, result, result)
        assert [row.name for row in comparison.rows] == names
        values = [row.changes["throughput_rows_per_s"].second for row in comparison.rows]
        assert [round(one.value if one else 0, -2) for one in values] == [100, 200, 400]
        assert comparison.unmatched == []


def test_equal_loads_are_paired_in_order_and_what_is_left_is_named(tmp_path: Path) -> None:
    soak = result_with((100, 1000), (200, 1000), (400, 1000), options=SOAK)
    constant = result_with((100, 1000), options=("--scenario", "constant", "--concurrency", "4"))
    comparison = compared(tmp_path, soak, constant)
    assert [row.name for row in comparison.rows] == ["part 1"]
    assert comparison.unmatched == [f"A ({tmp_path}/first.json): part 2, part 3"]
    assert "warning: only in A" in said(comparison)
    assert "warning: scenario is soak in A and constant in B, so these are different tests" in said(comparison)


def test_an_open_loop_is_not_compared_with_as_many_users(tmp_path: Path) -> None:
    rate = result_with((100, 1000), options=("--scenario", "rate", "--rate", "4"))
    users = result_with((100, 1000), options=("--scenario", "constant", "--concurrency", "4"))
    with pytest.raises(SettingsError, match=r"no stage in common: .*: 4 requests/s; .*: 4 users"):
        compared(tmp_path, rate, users)


def test_another_number_of_requests_in_flight_is_said(tmp_path: Path) -> None:
    rate = ("--scenario", "rate", "--rate", "100")
    first, second = (result_with((100, 1000), options=(*rate, *more)) for more in ((), ("--max-in-flight", "8")))
    text = said(compared(tmp_path, first, second))
    assert "warning: requests in flight at most is [256.0] in A and [8.0] in B" in text


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--protocol", "grpc"), "warning: protocol is http in A and grpc in B, so these are different tests"),
        (("--rows", "4"), "warning: rows_per_request is"),
        (("--shape", "x=4"), "warning: inputs.shapes is {} in A and"),
        (("--request-parameters", "a:1:int"), 'warning: inputs.parameters is [] in A and ["a"] in B'),
        (("--model", "other"), "warning: models.m is 1.0 in A and not given in B, so these are different tests"),
        (("--model-version", "2"), 'differs: version asked for is ["any"] in A and ["2"] in B'),
        (("--seed", "7"), "differs: seed is 0 in A and 7 in B"),
        (("--stage-time", "30"), "differs: stage_time_s is 10.0 in A and 30.0 in B"),
        (("--max-p99-ms", "9"), "differs: limits.max_p99_ms is null in A and 9.0 in B"),
    ],
)
def test_what_differs_between_the_runs_is_said(tmp_path: Path, options: tuple[str, ...], line: str) -> None:
    constant = ("--scenario", "constant")
    first, second = result_with((100, 1000), options=constant), result_with((100, 1000), options=(*constant, *options))
    assert line in said(compared(tmp_path, first, second))


def test_the_versions_that_answered_are_compared(tmp_path: Path) -> None:
    first, second = (result_with((100, 1000), options=("--scenario", "constant")) for _ in range(2))
    second["stages"][0]["versions"][0]["version"] = "2"
    assert 'differs: answered by is ["m 1"] in A and ["m 2"] in B' in said(compared(tmp_path, first, second))


def test_a_run_that_did_not_pass_is_named(tmp_path: Path) -> None:
    good, bad = result_of((300, 1000)), result_of((300, 1000), wrong={"nan": 1}, failures={"cut": 2}, busy=0.99)
    bad["verdict"]["complete"] = False
    comparison = compared(tmp_path, good, bad)
    text = said(comparison)
    assert f"warning: B ({tmp_path}/second.json) did not run to its end" in text
    assert "did not pass: 3 of 900 answers were wrong" in text
    assert "measured its load generator, not the server, in: 1 user" in text
    cells = [line[1:4] for line in to_table(comparison)]
    assert ("failed requests", "0", "6") in cells
    assert ("wrong answers", "0", "3") in cells
    assert find_slower(comparison, 0.05)


def test_a_real_change_is_told_from_noise(tmp_path: Path) -> None:
    constant = ("--scenario", "constant")
    first = result_with((300, 1000), options=constant)
    same, slower = (result_with((300, us), options=constant, seed=us) for us in (1001, 1200))
    (row,) = compared(tmp_path, first, same).rows
    assert {name: change.differs for name, change in row.changes.items()} == dict.fromkeys(row.changes, False)
    (row,) = compared(tmp_path, first, slower).rows
    assert [row.changes[name].differs for name in ("mean_us", "p50_us", "p99_us")] == [True] * 3
    assert row.changes["throughput_rows_per_s"].differs is False


def test_too_few_answers_have_no_p99_and_one_window_no_interval(tmp_path: Path) -> None:
    few = result_with((9, 1000), options=("--scenario", "constant"))
    comparison = compared(tmp_path, few, few)
    assert [line[1:] for line in to_table(comparison)][3] == ("p99 latency, ms", *[NO_FIGURE] * 3, "too few answers")
    one = result_of((300, 1000))
    one["stages"][0]["windows"] = one["stages"][0]["windows"][:1]
    assert {line[5] for line in to_table(compared(tmp_path, one, one))} == {"no interval: one window"}
    assert find_slower(compared(tmp_path, one, result_of((200, 1000))), 0.05) == [
        "stage 1 user: throughput is worse by 50.0%"
    ]


def command(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["compare", *map(str, arguments)])


def test_the_command_prints_a_table_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    static, dynamic = write(
        tmp_path, static=result_of((100, 1000), (150, 2000)), dynamic=result_of((100, 1000), (300, 2000))
    )
    done = command(static, dynamic)
    assert done.exit_code == 0, done.output
    assert "2.000 (2.000 to 2.000)" in done.output
    assert "within the noise" in done.output
    assert "note: one run on a side" in done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dynamic.json", "static.json"]


@pytest.mark.slow
def test_repeated_runs_are_compared_and_drawn(tmp_path: Path) -> None:
    constant = ("--scenario", "constant")
    runs = {
        f"{side}{seed}": result_with((rows, 1000), options=constant, seed=seed)
        for side, rows in (("a", 200), ("b", 240))
        for seed in range(3)
    }
    paths = write(tmp_path, **runs)
    done = command(*paths[:3], "--", *paths[3:], "--json", "--picture", tmp_path / "both.svg")
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    Draft202012Validator(json.loads(read_schema("comparison"))).validate(printed)
    (stage,) = printed["stages"]
    change = stage["figures"]["throughput_rows_per_s"]
    assert change["ratio"]["low"] < 1.2 < change["ratio"]["high"]
    assert change["differs"]
    assert len(printed["runs"]["b"]) == 3
    assert "<svg" in (tmp_path / "both.svg").read_text()


@pytest.mark.parametrize(
    ("latency_us", "share", "code"), [(1000, "5%", 0), (1200, "5%", 1), (1200, "30%", 0), (900, "0%", 0)]
)
def test_a_slower_side_fails_on_request(tmp_path: Path, latency_us: int, share: str, code: int) -> None:
    paths = write(tmp_path, a=result_of((300, 1000)), b=result_of((300, latency_us)))
    done = command(*paths, "--fail-if-slower", share)
    assert done.exit_code == code
    assert ("FAILED: stage 1 user: p99 latency is worse by 20.0%" in done.stderr) is bool(code)
    assert command(*paths).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("A", "--fail-if-slower", "5"), "'5' is not a percentage"),
        (("A",), "do not say which files"),
        (("A", "A", "A"), "do not say which files"),
        (("A", "--"), "do not say which files"),
        (("A", "--", "A", "--", "A"), "do not say which files"),
        (("A", "none.json"), "the file cannot be read"),
        (("A", "A", "--picture", "out.xyz"), "the picture cannot be written"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(tmp_path: Path, arguments: tuple[str, ...], what: str) -> None:
    (path,) = write(tmp_path, A=result_of((100, 1000)))
    done = command(*(str(path) if argument == "A" else argument for argument in arguments))
    assert isinstance(done.exception, SettingsError)
    assert what in str(done.exception)


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 99}'])
def test_a_file_that_is_not_a_result_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(text)
    with pytest.raises(SettingsError, match="fix: name the result"):
        read_run(path)


def test_answers_to_the_requests_of_a_warm_up_do_not_change_the_mean(tmp_path: Path) -> None:
    """They count for the throughput of the first window, but the latency histograms do not have them."""
    windows = [Window(1.0, {KEY: Tally(requests=100, rows=100)}, surplus_requests=surplus) for surplus in (50, 0, 0)]
    for window in windows:
        window.tallies[KEY].latency_us.record(1000, 100)
    run = Run(read("--concurrency", "1"), time.time(), complete=True)
    run.records.append(record_of(make_stages(run.settings.load)[0], *windows))
    (path,) = write(tmp_path, a=make_result(run))
    (stage,) = read_run(path).stages
    assert stage.windows.total_us.tolist() == [100_000] * 3


def test_a_run_that_counted_wrong_answers_did_not_pass_whatever_it_says(tmp_path: Path) -> None:
    for place in (("totals", "wrong"), ("exceptions",), ("stages", 0, "wrong")):
        edited = result_of((300, 1000))
        counts: Any = edited
        for key in place:
            counts = counts[key]
        counts["tolerance"] = 3
        assert edited["verdict"]["passed"]
        comparison = compared(tmp_path, result_of((300, 1000)), edited)
        assert "says that it passed, but it counted wrong answers" in said(comparison)
        assert find_slower(comparison, 0.05)


@pytest.mark.parametrize("name", ["p50", "p99"])
def test_a_percentile_that_is_not_that_of_its_histogram_is_refused(tmp_path: Path, name: str) -> None:
    edited = result_of((300, 1000))
    edited["stages"][0]["latency_us"][name] = 1
    with pytest.raises(SettingsError, match=f"{name} of stage 1 user is 1, but its histogram says"):
        compared(tmp_path, result_of((300, 1000)), edited)
