"""Find the configuration of a model that gives the most throughput under a latency limit, and write it back.

`measurement` says what is tried and what was measured, `space` which configurations there are, `goal` what is better,
`search` finds it, and `found` is what comes out. Everything is measured by load tests of the real server, in
which every answer is checked.
"""

from builder.tuning.found import Found, Result, Step, Verdict
from builder.tuning.goal import Goal
from builder.tuning.measurement import BatchTimes, Bench, Configuration, Interval, Load, Measurement
from builder.tuning.space import Space

__all__ = [
    "BatchTimes",
    "Bench",
    "Configuration",
    "Found",
    "Goal",
    "Interval",
    "Load",
    "Measurement",
    "Result",
    "Space",
    "Step",
    "Verdict",
]
