"""The table of scenarios: everything that depends on a scenario's name reads it, and the documentation lists it."""

import argparse
import re
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support.load_results import record_of, window
from support.load_settings import Parser, read

from loadtest import options
from loadtest.commands import main
from loadtest.errors import SettingsError
from loadtest.report import make_result
from loadtest.run import Run
from loadtest.scenarios import SCENARIOS, Load, Reads, Scenario, Stage, make_plan, make_stages

ROOT = Path(__file__).parents[2]


def make_waves(load: Load) -> list[Stage]:
    """The numbers of users, up and down again."""
    users = [*load.concurrency, *reversed(load.concurrency)]
    return [Stage(f"wave {number}", one, load.stage_time_s, load.warm_up_s) for number, one in enumerate(users)]


@pytest.fixture
def _waves(monkeypatch: pytest.MonkeyPatch) -> None:
    added = Scenario(make_waves, Reads.LADDER_OF_USERS, "up and down again", uses_stages=True, is_steady=True)
    monkeypatch.setitem(SCENARIOS, "waves", added)


def actions() -> dict[str, argparse.Action]:
    parser = Parser()
    options.declare(parser)
    return {action.option_strings[0]: action for action in parser._actions}


@pytest.mark.usefixtures("_waves")
def test_an_added_scenario_is_a_choice_and_in_the_help() -> None:
    declared = actions()
    assert "waves" in (declared["--scenario"].choices or ())
    assert "waves: up and down again" in str(declared["--scenario"].help)
    assert "steps and waves (one or more numbers" in str(declared["--concurrency"].help)
    assert "ramp and waves" in str(declared["--stages"].help)


def test_the_command_line_lists_every_option_with_its_help() -> None:
    done = CliRunner().invoke(main, ["run", "--help"])
    assert done.exit_code == 0
    shown = " ".join(done.output.split())
    assert all(option.name in shown and option.help[:20] in shown for option in options.all_options())
    assert all(f"{title}:" in done.output for title in options.grouped())
    assert "--host" in shown
    assert "--processes" in shown  # one of Locust's


def test_an_option_says_what_to_give_it() -> None:
    declared = actions()
    for option in options.all_options():
        assert option.metavar or option.choices or declared[option.name].nargs == 0, option.name
    shown = " ".join(CliRunner().invoke(main, ["run", "--help"]).output.split())
    assert "TEXT" not in shown
    assert all(form in shown for form in ("--report-dir DIR", "--insecure Use TLS", "--require-checked [auto|yes|no]"))


def test_a_flag_is_given_without_a_value_and_chosen_in_the_form() -> None:
    assert read("--insecure", host="https://a").http.tls is not None
    assert actions()["--insecure"].choices == ["no", "yes"]
    with pytest.raises(SystemExit):
        read("--insecure", "yes", host="https://a")


def test_options_come_in_the_order_in_which_people_fill_them_in() -> None:
    places = [option.name for option in options.all_options()]
    order = ["--grpc-address", "--model", "--rows", "--protocol", "--scenario", "--stage-time", "--max-p99-ms"]
    assert sorted(order, key=places.index) == order
    assert [*options.grouped()][-1] == "Report"
    assert len(places) == len(set(places))


def test_what_a_scenario_uses_are_options() -> None:
    names = {option.name for option in options.all_options()}
    assert {name for scenario in SCENARIOS.values() for name in scenario.options} <= names


SEARCH = ("--scenario", "search", "--max-p99-ms", "20")


@pytest.mark.parametrize(
    ("arguments", "unused"),
    [
        (("--rate", "100"), ["--rate"]),
        (("--scenario", "rate", "--rate", "100", "--arrivals", "poisson"), []),
        (("--scenario", "rate", "--rate", "100", "--concurrency", "8", "--stages", "3"), ["--concurrency", "--stages"]),
        (("--scenario", "ramp", "--concurrency", "1,8", "--stages", "3"), []),
        (("--scenario", "replay", "--arrivals-file", "times.csv", "--warm-up", "0"), ["--warm-up"]),
        ((*SEARCH, "--concurrency", "1,8", "--arrivals", "poisson"), ["--arrivals"]),
        ((*SEARCH, "--concurrency", "1,8", "--arrivals", "poisson", "--rate", "5,50"), ["--concurrency"]),
    ],
)
def test_an_option_that_the_scenario_does_not_use_is_noted(arguments: tuple[str, ...], unused: list[str]) -> None:
    settings = read(*arguments)
    assert list(settings.unused) == unused
    scenario = settings.load.scenario
    notes = make_result(Run(settings, time.time()))["notes"]
    said = [note.split()[0] for note in notes if f"scenario {scenario} does not use it" in note]
    assert said == unused


@pytest.mark.usefixtures("_waves")
def test_the_options_of_an_added_scenario_are_checked() -> None:
    with pytest.raises(SettingsError, match="this option is empty"):
        read("--scenario", "waves", "--concurrency", ",")
    assert read("--scenario", "waves").load.scenario == "waves"


@pytest.mark.usefixtures("_waves")
def test_an_added_scenario_runs_and_is_judged() -> None:
    settings = read("--scenario", "waves", "--concurrency", "1,4", "--min-throughput", "150")
    stages = make_stages(settings.load)
    assert [stage.users for stage in stages] == [1, 4, 4, 1]
    run = Run(settings, time.time(), complete=True)
    for stage, rows in zip(stages, (100, 200, 200, 200), strict=True):
        run.records.append(record_of(stage, window(rows, 1000)))
    result = make_result(run)
    assert (result["run"]["scenario"], result["run"]["arrivals"]) == ("waves", None)
    assert result["verdict"]["reasons"] == ["stage wave 0: throughput was 100 rows/s, but 150 are required"]
    (note,) = [note for note in result["notes"] if "not stable" in note]
    assert note.startswith("stage wave 0 and 3 more: the figures are not stable")


@pytest.mark.parametrize("name", [name for name, one in SCENARIOS.items() if one.reads.option == "--concurrency"])
def test_a_scenario_has_a_default_number_of_users_of_its_own(name: str) -> None:
    assert make_stages(read("--scenario", name, "--max-p99-ms", "20").load)
    assert f"; {SCENARIOS[name].reads.default} by default" in str(actions()["--concurrency"].help)


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_makes_stages_from_the_options_that_its_entry_says(name: str, tmp_path: Path) -> None:
    path = tmp_path / "times.csv"
    path.write_text("0\n1\n")
    given: dict[str, list[str]] = {
        "--concurrency": ["2", "2,32", "1,2,4"],
        "--rate": ["100,200"],
        "--arrivals-file": [str(path)],
    }
    reads = SCENARIOS[name].reads
    values = given[reads.option]
    value = values[-1] if reads.count is None else values[reads.count - 1]
    load = read("--scenario", name, "--max-p99-ms", "20", reads.option, value).load
    stages = make_stages(load)
    assert make_plan(load).next_stage(()) == stages[0]
    assert (stages[0].arrivals is not None) == (reads in (Reads.RATES, Reads.ARRIVALS_FILE))


def scenarios_of(document: str) -> dict[str, list[str]]:
    """The rows of the documentation's table of scenarios, by name."""
    section = document.split("## Scenarios")[1].split("\n## ")[0]
    rows: list[Any] = [re.split(r"\s*\|\s*", line.strip("| ")) for line in section.splitlines() if line[:3] == "| `"]
    return {name.strip("`"): cells for name, *cells in rows if name != "`--scenario`"}


def test_the_documentation_lists_every_scenario_with_the_option_it_reads() -> None:
    documented = scenarios_of((ROOT / "docs" / "load-testing.md").read_text())
    assert list(documented) == list(SCENARIOS)
    for name, cells in documented.items():
        assert SCENARIOS[name].reads.option in cells[-1], name
