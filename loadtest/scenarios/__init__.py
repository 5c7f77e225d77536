"""The shapes of load: the stages of each scenario, and when the requests of an open loop are due.

`SCENARIOS` is the table of all scenarios. `make_plan` turns the chosen one and its options (`Load`) into a `Plan`,
which says which `Stage` comes next. Most plans are lists; that of a `Search` depends on the `Trial`s so far. In a
closed loop, a user sends its next request when the last one was answered. In an open loop, requests are due at the
times of the stage's `Arrivals`, however slow the answers are.
"""

from loadtest.scenarios.arrivals import ARRIVALS, PAUSE, Arrivals
from loadtest.scenarios.durations import describe_seconds
from loadtest.scenarios.evidence import LATE_SHARE, Counts, Verdict, describe_doubt, find_margin, judge
from loadtest.scenarios.load import Load
from loadtest.scenarios.plan import FixedPlan, Plan, SearchPlan, describe_plan
from loadtest.scenarios.recorded import UNITS, read_arrivals
from loadtest.scenarios.search import Search, Trial, find_bracket
from loadtest.scenarios.stages import LONGEST, Stage, name_rate, name_users
from loadtest.scenarios.table import (
    SCENARIOS,
    Reads,
    Scenario,
    listed,
    make_plan,
    make_stages,
    readers,
    users,
)

__all__ = [
    "ARRIVALS",
    "LATE_SHARE",
    "LONGEST",
    "PAUSE",
    "SCENARIOS",
    "UNITS",
    "Arrivals",
    "Counts",
    "FixedPlan",
    "Load",
    "Plan",
    "Reads",
    "Scenario",
    "Search",
    "SearchPlan",
    "Stage",
    "Trial",
    "Verdict",
    "describe_doubt",
    "describe_plan",
    "describe_seconds",
    "find_bracket",
    "find_margin",
    "judge",
    "listed",
    "make_plan",
    "make_stages",
    "name_rate",
    "name_users",
    "read_arrivals",
    "readers",
    "users",
]
