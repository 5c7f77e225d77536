"""What the caller of `tune` can ask for."""

from dataclasses import dataclass
from typing import Literal

from builder.tuning.search import Goal


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
