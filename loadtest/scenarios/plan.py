"""What decides about the next stage: a list that is known from the start, or a search."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from loadtest.errors import SettingsError
from loadtest.printable import counted
from loadtest.scenarios.arrivals import Arrivals
from loadtest.scenarios.durations import describe_seconds
from loadtest.scenarios.load import Load
from loadtest.scenarios.search import Search, Trial
from loadtest.scenarios.stages import LONGEST, Stage, name_rate, name_users

_TIMES = 4
"""A stage of a search lasts at most so many times the stage time."""


class Plan(Protocol):
    """What decides about the next stage."""

    def next_stage(self, trials: Sequence[Trial]) -> Stage | None:
        """Return the stage that comes after those that were tried; None at the end."""

    @property
    def is_fixed(self) -> bool:
        """Whether there are exactly `most_stages`, known from the start."""

    @property
    def has_breaks(self) -> bool:
        """Whether the requests of each stage are answered before the next one begins."""

    @property
    def most_stages(self) -> int:
        """The most stages there can be."""

    @property
    def most_seconds(self) -> float:
        """The most time they can take, without waiting for the last answers of each."""


@dataclass(frozen=True)
class FixedPlan:
    """Stages that are known from the start."""

    stages: tuple[Stage, ...]
    is_fixed = True

    def next_stage(self, trials: Sequence[Trial]) -> Stage | None:
        """Return the next stage of the list."""
        return self.stages[len(trials)] if len(trials) < len(self.stages) else None

    @property
    def has_breaks(self) -> bool:
        """Whether no stage follows on from another one."""
        return not any(stage.follows_on for stage in self.stages)

    @property
    def most_stages(self) -> int:
        """How many there are."""
        return len(self.stages)

    @property
    def most_seconds(self) -> float:
        """How long they take, if none ends early."""
        return sum(stage.warm_up_s + stage.seconds for stage in self.stages)


@dataclass(frozen=True)
class SearchPlan:
    """The stages of a search."""

    load: Load
    is_fixed = False
    has_breaks = True

    @cached_property
    def search(self) -> Search:
        """What is searched."""
        load = self.load
        low, high = load.rates or load.concurrency
        limit_us = 1000 * (load.max_p99_ms or 0.0)
        return Search(low, high, limit_us, load.search_precision, is_open_loop=bool(load.rates))

    def next_stage(self, trials: Sequence[Trial]) -> Stage | None:
        """Return a stage with the load that the search wants to try next."""
        value = self.search.next_load(trials)
        return None if value is None else self._make_stage(value, trials)

    def _make_stage(self, value: float, trials: Sequence[Trial]) -> Stage:
        repeats = sum(trial.load == value for trial in trials)
        suffix = f" ({repeats + 1})" if repeats else ""
        rate = value if self.search.is_open_loop else None
        return Stage(
            (name_users(round(value)) if rate is None else name_rate(rate)) + suffix,
            round(value) if rate is None else self.load.max_in_flight,
            _TIMES * self.load.stage_time_s,
            self.load.warm_up_s,
            sought_p99_us=self.search.limit_us,
            arrivals=None if rate is None else Arrivals(self.load.arrivals, rate, self.load.seed + len(trials)),
        )

    @property
    def first_stage(self) -> Stage:
        """The only stage that is known from the start."""
        return self._make_stage(self.search.low, ())

    @property
    def most_stages(self) -> int:
        """The most stages the search may take."""
        return self.search.most_stages

    @property
    def most_seconds(self) -> float:
        """How long they take, if every one of them is hard to decide."""
        return self.most_stages * (self.first_stage.warm_up_s + self.first_stage.seconds)


def describe_plan(load: Load, plan: Plan) -> str:
    """Return what will be run and how long it may take, for example `steps: 5 stages, at most 55 s, and …`."""
    stage = plan.next_stage(())
    if stage is not None and stage.arrivals is not None and stage.arrivals.is_recorded:
        times = stage.arrivals.times
        rate = f"{stage.arrivals.rate:.3g} requests/s on average"
        return f"{load.scenario}: {counted(len(times), 'request')} in {describe_seconds(times[-1])}, {rate}"
    seconds = plan.most_seconds * (LONGEST if load.min_requests else 1)
    answers = f"and up to {describe_seconds(load.request_timeout_s)} for the last answers of a stage"
    stages = f"{'' if plan.is_fixed else 'at most '}{counted(plan.most_stages, 'stage')}"
    return f"{load.scenario}: {stages}, at most {describe_seconds(seconds)}, {answers}"


def check_range(load: Load) -> None:
    """Check that a search has a limit, and a lowest and a highest load.

    Raises:
        SettingsError: It has not.
    """
    if load.max_p99_ms is None:
        what = "scenario search looks for the highest load that keeps this limit, so it must be given"
        raise SettingsError("--max-p99-ms", what, "give the limit in milliseconds, as in --max-p99-ms 20")
    option, values = ("--rate", load.rates) if load.rates else ("--concurrency", load.concurrency)
    if len(values) != 2 or values[0] >= values[1]:
        what = f"scenario search needs the lowest and the highest load, not {_list(values)}"
        example = "--rate 50,2000" if load.rates else "--concurrency 1,256"
        raise SettingsError(option, what, f"give two numbers, the lower one first, as in {example}")


def _list(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)
