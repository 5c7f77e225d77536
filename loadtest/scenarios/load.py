"""The options that scenarios make their stages from."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Load:
    """The options that scenarios make their stages from.

    Attributes:
        scenario: The scenario's name in the table.
        concurrency: Numbers of users.
        rates: Requests per second.
        arrivals: The gaps between requests at a rate: `constant` or `poisson`.
        arrivals_file: A CSV of recorded times.
        arrivals_unit: The unit of these times.
        max_in_flight: The most requests in flight of an open loop.
        stage_time_s: How long a stage lasts.
        stages: How many stages the scenario is divided into.
        warm_up_s: How long at a stage's start nothing is measured.
        request_timeout_s: How long an answer may take.
        seed: Of every random choice.
        min_requests: How many requests must be answered in a stage; it may last ten times as long for that.
        max_p99_ms: The limit that a search looks for; None without one.
        search_precision: How precise the answer of a search must be, as a share of the load.
    """

    scenario: str
    concurrency: tuple[int, ...]
    rates: tuple[float, ...]
    arrivals: str
    arrivals_file: Path | None
    arrivals_unit: str
    max_in_flight: int
    stage_time_s: float
    stages: int
    warm_up_s: float
    request_timeout_s: float
    seed: int
    min_requests: int
    max_p99_ms: float | None
    search_precision: float
