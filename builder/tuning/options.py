"""What the caller of `tune` can ask for."""

from dataclasses import dataclass
from typing import Literal

from builder.tuning.search import Goal, most_runs

_BESIDE_S = 2.0
"""How long a run takes besides what it measures: to load the configuration, and to warm up."""


@dataclass(frozen=True, slots=True)
class TuneOptions:
    """How a model is tuned.

    Attributes:
        goal: The limit, and the load if one is given.
        version: The version to tune. Default: the one that config.pbtxt names.
        runs: The most load tests that are run.
        stage_time_s: How long each of them is measured, in seconds.
        protocol: How the load test talks to the server.
        is_fresh: Measure everything anew, instead of going on with an interrupted tuning.
        apply: Write the best configuration to config.pbtxt if it is better than the current one.
    """

    goal: Goal
    version: int | None = None
    runs: int = 10
    stage_time_s: float = 5.0
    protocol: Literal["http", "grpc"] = "http"
    is_fresh: bool = False
    apply: bool = False

    def longest(self, models: int = 1) -> "Longest":
        """Return how many runs there are at most, and how long they usually take.

        Args:
            models: How many models share the server.
        """
        runs = self.runs if models == 1 else most_runs(models, self.runs)
        return Longest(runs, runs * (self.stage_time_s + _BESIDE_S))


@dataclass(frozen=True, slots=True)
class Longest:
    """The most that a tuning does.

    Attributes:
        runs: So many load tests.
        seconds: So long, if each has enough requests in its time. Those of slow models go on for up to ten times that.
    """

    runs: int
    seconds: float
