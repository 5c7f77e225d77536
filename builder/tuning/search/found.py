"""What a tuning did, step by step, and what it found."""

from dataclasses import dataclass
from typing import Literal

from builder.tuning.measurement import Configuration, Interval, Load, Measurement
from builder.tuning.simulation import Predicted

Purpose = Literal["calibration", "search", "confirmation"]
"""Why a run is made: to learn how the model behaves, to find a better configuration, or to compare at the end."""

Verdict = Literal[
    "better",
    "not distinguishable",
    "as it is",
    "no configuration keeps the limit",
    "nothing could be measured",
]
"""What came out. "better": the best configuration gives more than the current one, and its interval says so. "not
distinguishable": something may be better, but the intervals do not tell them apart, so the current one is kept. "as it
is": nothing that was measured gives 1 % more than the current one; what is predicted to, and was not tried any more, is
named. In both cases `Found.best` is the current configuration."""


@dataclass(frozen=True, slots=True)
class Result:
    """What all runs of one configuration under one load say together.

    Attributes:
        configuration: What was tried.
        load: Under which load.
        throughput: Rows answered each second: the mean of the runs, with its interval.
        p99_s: The time within which 99 % of the requests are answered, in seconds.
        runs: How many runs it is made from. Those that other programs disturbed are among them only if all were.
        keeps: Whether the limit is kept: in each of these runs, with a margin for another one.
    """

    configuration: Configuration
    load: Load
    throughput: Interval
    p99_s: Interval
    runs: int
    keeps: bool

    @property
    def trial(self) -> tuple[Configuration, Load]:
        """What was tried, and under which load."""
        return self.configuration, self.load


@dataclass(frozen=True, slots=True)
class Step:
    """One run: what is tried, why, and what came out of it.

    Each step is reported twice: before its run, with `measurement` None, and after it.

    Attributes:
        number: Which run this is, from 1.
        of: How many there are at most.
        configuration: What is tried.
        load: Under which load.
        purpose: What the run is for.
        why: Why this is tried now, as a sentence without a full stop.
        predicted: What the model of the server predicts; None while there is no model yet.
        measurement: What was measured; None before the run.
        keeps: Whether the run kept the limit; None before it, and for a calibration, which says nothing about that.
        best: The best result so far; None if nothing has kept the limit.
        resumed: Whether the measurement is one of an interrupted tuning.
    """

    number: int
    of: int
    configuration: Configuration
    load: Load
    purpose: Purpose
    why: str
    predicted: Predicted | None = None
    measurement: Measurement | None = None
    keeps: bool | None = None
    best: Result | None = None
    resumed: bool = False

    @property
    def trial(self) -> tuple[Configuration, Load]:
        """What is tried, and under which load."""
        return self.configuration, self.load


@dataclass(frozen=True, slots=True)
class Found:
    """What a tuning found.

    Attributes:
        verdict: What came out.
        why: The verdict as a sentence, with its figures.
        best: The configuration to use, and its load: the current one unless the verdict is "better", even if it may
            miss the limit. None if nothing keeps the limit, or what would be used could not be measured.
        baseline: The current configuration at the best load that keeps the limit; at the one with its lowest p99, with
            `keeps` False, if it keeps the limit nowhere. None if it could not be measured, or answers wrongly.
        gain: How many times as good as the baseline the best one is, as the ratio of their throughputs; of their p99,
            the baseline's above, where a rate is given. None without a baseline that keeps the limit.
        ties: Results that are not distinguishable from the best one, the simplest first. The current configuration is
            one of them if that is so.
        nearest: The lowest p99 that was measured, if no configuration keeps the limit.
        wrong: Configurations that answered wrongly, and are out.
        steps: All runs, in order.
        notes: What limits what this says.
    """

    verdict: Verdict
    why: str
    best: Result | None
    baseline: Result | None
    gain: Interval | None = None
    ties: tuple[Result, ...] = ()
    nearest: Result | None = None
    wrong: tuple[Configuration, ...] = ()
    steps: tuple[Step, ...] = ()
    notes: tuple[str, ...] = ()
