"""The shapes of load: the stages of each scenario, and when the requests of an open loop are due.

`SCENARIOS` is the table of all scenarios. `make_stages` turns the chosen one and its options (`Load`) into `Stage`s,
each with a number of users. In a closed loop, a user sends its next request when the last one was answered. In an
open loop, requests are due at the times of the stage's `Arrivals`, however slow the answers are.
"""

from loadtest.scenarios.arrivals import ARRIVALS, PAUSE, Arrivals, read_arrivals
from loadtest.scenarios.stages import LONGEST, Stage
from loadtest.scenarios.table import SCENARIOS, Load, Reads, Scenario, listed, make_stages, readers, users

__all__ = [
    "ARRIVALS",
    "LONGEST",
    "PAUSE",
    "SCENARIOS",
    "Arrivals",
    "Load",
    "Reads",
    "Scenario",
    "Stage",
    "listed",
    "make_stages",
    "read_arrivals",
    "readers",
    "users",
]
