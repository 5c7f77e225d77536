"""Options of `tune` that contradict each other are refused before any work."""

import shlex
from pathlib import Path

import click
import pytest

from builder.cli import cli
from builder.cli.faults import describe
from builder.cli.help_pages import Command
from builder.cli.tuning import options_of
from builder.cli.tuning_conflicts import check_tuning
from builder.tuning import Goal, TuneOptions


@pytest.mark.parametrize(
    ("arguments", "what", "fix"),
    [
        ("m", "no limit is given", "add --max-p99-ms"),
        ("m --max-p99-ms 0", "0 is not a number above 0", "for example 20"),
        ("m --max-p99-ms nan", "nan is not a number above 0", "for example 20"),
        ("m --max-p99-ms 5 --rate 9 --concurrency 2", "--rate for requests that wait", "--concurrency or --rate"),
        ("m --max-p99-ms 5 --rate 0", "0 is not a number above 0", "for example 300"),
        ("m --max-p99-ms 5 --concurrency 0", "0 is too small", "use 1 or more"),
        ("m --max-p99-ms 5 --rows 0", "'0' is not a number of rows", "1=8,16=1"),
        ("m --max-p99-ms 5 --rows 1=0", "0 is not a weight above 0", "1=8,16=1"),
        ("m --max-p99-ms 5 --rows 1=inf", "inf is not a weight", "1=8,16=1"),
        ("m --max-p99-ms 5 --rows 1=2,1=3", "1 rows are named twice", "one weight"),
        ("m --max-p99-ms 5 --runs 3", "3 is too small", "use 4 or more"),
        ("m --max-p99-ms 5 --stage-time 0.5s", "--stage-time 0.5s is not from 1s to 10m", "5s"),
        ("m --max-p99-ms 5 --runs 101", "101 is too large", "use 100 or less"),
        ("m --max-p99-ms 5 --runs 100 --stage-time 10m", "100 runs of 600 s take 16.7 h", "at most 12 h"),
        ("m n --max-p99-ms 5 --rate 9 --share --stage-time 30m", "is not from 1s to 10m", "5s"),
        ("m n --max-p99-ms 5 --rate 9 --share --runs 20 --stage-time 10m", "84 runs of 600 s", "name fewer models"),
        ("m --max-p99-ms 5 --cores 4", "--cores is for a server of yours", "add --server"),
        ("m --undo --cores 4", "--cores has no effect with --undo", "leave out"),
        ("m n --max-p99-ms 5", "2 models are named", "add --share"),
        ("m --max-p99-ms 5 --concurrency 2 --share", "--share is for several models", "name the other models"),
        ("m n --max-p99-ms 5 --share", "at one load of all models, and none is given", "add --concurrency"),
        ("m n --max-p99-ms 5 --rate 9 --share --fresh", "--fresh has no effect with --share", "leave out --fresh"),
        ("m m --max-p99-ms 5 --concurrency 2 --share", "m is named twice", "name m once"),
        ("m --undo --max-p99-ms 5", "--max-p99-ms has no effect with --undo", "leave out --max-p99-ms or --undo"),
        ("m --undo --apply", "--apply has no effect with --undo", "leave out --apply or --undo"),
        ("m --undo --report-dir out", "--report-dir has no effect with --undo", "leave out"),
        ("m --undo --http-address h:1", "--http-address has no effect with --undo", "leave out"),
        ("m n --undo", "--undo is for one model", "`python -m builder tune m --undo`"),
        ("m --max-p99-ms 5 --ca-file ca.pem", "--ca-file is for a server of yours", "add --server"),
        ("m --max-p99-ms 5 --http-address h:1", "--http-address is for a server of yours", "add --server"),
    ],
)
def test_a_contradiction_is_refused_with_a_fix(
    arguments: str, what: str, fix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(click.UsageError) as found:
        cli.main(["tune", *arguments.split()], standalone_mode=False)
    error, _, how = describe(found.value).partition("\nfix: ")
    assert what in error
    assert fix in how


def test_no_example_of_the_help_is_refused() -> None:
    command = cli.commands["tune"]
    assert isinstance(command, Command)
    for example in command.examples:
        params = command.make_context("tune", shlex.split(example)[4:]).params
        check_tuning(params["names"], params)


def test_the_options_of_a_tuning_fill_what_it_is_asked_for() -> None:
    given = "m --max-p99-ms 5 --concurrency 8 --rows 16=1,1=8 --runs 6 --stage-time 2s --protocol grpc --fresh --apply"
    params = cli.commands["tune"].make_context("tune", given.split()).params
    goal = Goal(0.005, users=8, rows=((1, 8.0), (16, 1.0)))
    assert options_of(params) == TuneOptions(goal, None, 6, 2.0, "grpc", is_fresh=True, apply=True)


def test_the_defaults_of_a_tuning_are_those_of_the_python_call() -> None:
    params = cli.commands["tune"].make_context("tune", ["m", "--max-p99-ms", "5"]).params
    assert options_of(params) == TuneOptions(Goal(0.005))
    text = {param.name: str(getattr(param, "help", "")) for param in cli.commands["tune"].params}
    default = TuneOptions(Goal(0.005))
    assert f"Default: {default.runs}." in text["runs"]
    assert f"Default: {default.stage_time_s:g}s." in text["stage_time_s"]
    assert f"Default: {default.protocol}." in text["protocol"]
