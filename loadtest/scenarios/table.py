"""The scenarios, in one table. A new one needs a function that makes its stages and an entry in `SCENARIOS`.

The rest of the load tester reads the table: the choices and the help of `--scenario` and the options that a scenario
reads, the checks of these options, how limits are judged, and which notes the report makes. docs/load-testing.md
lists the scenarios for users.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from loadtest.errors import SettingsError
from loadtest.scenarios.arrivals import Arrivals
from loadtest.scenarios.load import Load
from loadtest.scenarios.plan import FixedPlan, Plan, SearchPlan, check_range
from loadtest.scenarios.recorded import read_arrivals
from loadtest.scenarios.stages import Stage, name_rate, name_users


class Reads(Enum):
    """Which option says how much load there is, and how it is written."""

    USERS = ("--concurrency", "one number, as in --concurrency 8", 1, "8")
    LOW_AND_HIGH_USERS = ("--concurrency", "two numbers, as in --concurrency 2,32", 2, "2,32")
    LADDER_OF_USERS = ("--concurrency", "one or more numbers, as in --concurrency 1,2,4,8", None, "1,2,4,8,16")
    RANGE = (
        "--concurrency",
        "the lowest and the highest number, as in --concurrency 1,256",
        2,
        "1,256",
        ("--rate", "--arrivals", "--max-in-flight", "--search-precision", "--stage-time", "--warm-up"),
    )
    RATES = (
        "--rate",
        "requests per second, as in --rate 100,200",
        None,
        "",
        ("--arrivals", "--max-in-flight", "--stage-time", "--warm-up"),
    )
    ARRIVALS_FILE = (
        "--arrivals-file",
        "a CSV file of times, as in --arrivals-file times.csv",
        None,
        "",
        ("--arrivals-unit", "--max-in-flight"),
    )

    def __init__(
        self,
        option: str,
        form: str,
        count: int | None,
        default: str,
        others: tuple[str, ...] = ("--stage-time", "--warm-up"),
    ) -> None:
        self.option = option
        self.form = form
        self.count = count
        """How many numbers the option must have; None: any number of them."""
        self.default = default
        """The option's value if it is not given; empty if it must be given."""
        self.others = others
        """Which other options are used with it, of those that only some scenarios use."""

    def check(self, load: Load) -> None:
        """Check that the option is given, with as many numbers as it must have.

        Raises:
            SettingsError: It is not.
        """
        if self is Reads.RANGE:
            check_range(load)
            return
        given = {"--concurrency": load.concurrency, "--rate": load.rates, "--arrivals-file": load.arrivals_file}
        value = given[self.option]
        if not value:
            raise self.is_missing(load)
        if self.count is not None and isinstance(value, tuple) and len(value) != self.count:
            what = f"scenario {load.scenario} needs {_count(self.count)}, not {len(value)}"
            raise SettingsError(self.option, what, f"give {self.form}")

    def find_ignored(self, *, has_rate: bool) -> tuple[str, ...]:
        """Return which of its options are not used after all: a search has users or a rate, not both."""
        if self is not Reads.RANGE:
            return ()
        return ("--concurrency",) if has_rate else ("--arrivals", "--max-in-flight")

    def is_missing(self, load: Load) -> SettingsError:
        """Return the error for a scenario whose option is not given."""
        return SettingsError(self.option, f"scenario {load.scenario} needs this option", f"give {self.form}")


def _count(numbers: int) -> str:
    return {1: "one number", 2: "two numbers"}.get(numbers, f"{numbers} numbers")


@dataclass(frozen=True, slots=True)
class Scenario:
    """One entry of the table.

    Attributes:
        make_stages: Makes its stages, in order; of a search, the first.
        reads: Which option says how much load there is.
        help: The load it makes, in a few words for `--help`.
        uses_stages: Whether it reads `--stages` as well.
        is_ladder: Whether one stage within the limits is enough for the run to pass; otherwise every stage must be.
        is_steady: Whether the load should become stable, so that a stage without stable windows gets a note.
        is_search: Whether each stage follows from those before it.
    """

    make_stages: Callable[[Load], list[Stage]]
    reads: Reads
    help: str
    uses_stages: bool = False
    is_ladder: bool = False
    is_steady: bool = False
    is_search: bool = False

    @property
    def options(self) -> tuple[str, ...]:
        """The options it uses, of those that only some scenarios use."""
        return (self.reads.option, *self.reads.others, *(("--stages",) if self.uses_stages else ()))


def make_plan(load: Load) -> Plan:
    """Return what decides about the stages of the chosen scenario.

    Raises:
        SettingsError: An option or file that the scenario reads is missing or cannot be used.
    """
    stages = make_stages(load)
    return SearchPlan(load) if SCENARIOS[load.scenario].is_search else FixedPlan(tuple(stages))


def make_stages(load: Load) -> list[Stage]:
    """Return the stages of the chosen scenario, in order; of a search, only the first, as the others depend on it.

    Raises:
        SettingsError: An option or file that the scenario reads is missing or cannot be used.
    """
    scenario = SCENARIOS[load.scenario]
    scenario.reads.check(load)
    return scenario.make_stages(load)


def _steps(load: Load) -> list[Stage]:
    return [
        Stage(name_users(users), users, load.stage_time_s, load.warm_up_s, until_stable=True)
        for users in load.concurrency
    ]


def _constant(load: Load) -> list[Stage]:
    (users,) = load.concurrency
    return [Stage(name_users(users), users, load.stage_time_s, load.warm_up_s)]


def _spike(load: Load) -> list[Stage]:
    low, high = load.concurrency
    return [
        Stage("before", low, load.stage_time_s, load.warm_up_s, has_jump=True),
        Stage("spike", high, load.stage_time_s, 0.0, follows_on=True, has_jump=True),
        Stage("after", low, load.stage_time_s, 0.0, follows_on=True, has_jump=True),
    ]


def _soak(load: Load) -> list[Stage]:
    (users,) = load.concurrency
    return [
        Stage(f"part {number}", users, load.stage_time_s, 0.0 if number > 1 else load.warm_up_s, follows_on=number > 1)
        for number in range(1, load.stages + 1)
    ]


def _ramp(load: Load) -> list[Stage]:
    """Spread the stages evenly: from 1 to 9 in 3 stages is 1, 5, 9."""
    low, high = load.concurrency
    steps = max(load.stages - 1, 1)
    ladder = [round(low + (high - low) * step / steps) for step in range(load.stages)]
    return [Stage(name_users(users), users, load.stage_time_s, load.warm_up_s) for users in ladder]


def _rate(load: Load) -> list[Stage]:
    return [
        Stage(
            name_rate(rate),
            load.max_in_flight,
            load.stage_time_s,
            load.warm_up_s,
            arrivals=Arrivals(load.arrivals, rate, load.seed + number),
        )
        for number, rate in enumerate(load.rates)
    ]


def _replay(load: Load) -> list[Stage]:
    path = load.arrivals_file
    if path is None:
        raise Reads.ARRIVALS_FILE.is_missing(load)
    times = read_arrivals(path, load.arrivals_unit)
    seconds = times[-1] + load.request_timeout_s
    return [Stage(path.name, load.max_in_flight, seconds, 0.0, arrivals=Arrivals.recorded(times))]


SCENARIOS: dict[str, Scenario] = {
    "steps": Scenario(
        _steps,
        Reads.LADDER_OF_USERS,
        "several numbers of users, one after the other, each until the figures are stable",
        is_ladder=True,
        is_steady=True,
    ),
    "constant": Scenario(_constant, Reads.USERS, "a constant number of users", is_steady=True),
    "spike": Scenario(_spike, Reads.LOW_AND_HIGH_USERS, "few users, then many, then few again"),
    "soak": Scenario(
        _soak,
        Reads.USERS,
        "a constant number of users for a long time, in equal stages",
        uses_stages=True,
    ),
    "ramp": Scenario(
        _ramp,
        Reads.LOW_AND_HIGH_USERS,
        "from few users to many, in equal stages",
        uses_stages=True,
        is_ladder=True,
    ),
    "rate": Scenario(_rate, Reads.RATES, "requests sent at a fixed rate, however slow the answers are", is_ladder=True),
    "search": Scenario(
        lambda load: [SearchPlan(load).first_stage],
        Reads.RANGE,
        "the highest number of users, or with --rate the highest rate, that keeps --max-p99-ms",
        is_ladder=True,
        is_search=True,
    ),
    "replay": Scenario(_replay, Reads.ARRIVALS_FILE, "requests sent at the times in a file"),
}


def readers(option: str) -> str:
    """Return which scenarios read `option`, with the form each needs and its default, as a sentence lists them.

    For example: `steps (one or more numbers, as in …; 1,2,4,8,16 by default), constant and soak (one number, …)`.
    """
    found = [(name, scenario.reads) for name, scenario in SCENARIOS.items() if scenario.reads.option == option]
    forms = {reads: [name for name, other in found if other is reads] for _, reads in found}
    return ", ".join(f"{listed(names)} ({reads.form}{_default(reads)})" for reads, names in forms.items())


def _default(reads: Reads) -> str:
    return f"; {reads.default} by default" if reads.default else ""


def users(option: str) -> list[str]:
    """Return which scenarios use `option`; none if it has nothing to do with the scenario."""
    return [name for name, scenario in SCENARIOS.items() if option in scenario.options]


def listed(names: Sequence[str]) -> str:
    """Return names as a sentence lists them: `soak`, `soak and ramp`, `spike, ramp and waves`."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
