"""Find the configuration of a model that gives the most throughput under a latency limit, and write it back.

`measurement` says what is tried and what was measured, `space` which configurations there are, `goal` what is better,
`search` finds it, and `found` is what comes out. `pipeline` does all of that in order. Everything is measured by load
tests of the real server, in which every answer is checked. `table` and `wording` say it in words.
"""

from builder.tuning import table, wording
from builder.tuning.access import ServerAccess
from builder.tuning.applying import Applied
from builder.tuning.found import Found, Result, Step, Verdict
from builder.tuning.goal import Goal
from builder.tuning.measurement import BatchTimes, Bench, Configuration, Interval, Load, Measurement
from builder.tuning.options import TuneOptions
from builder.tuning.pipeline import Tuning, place_of, tune, undo_applied
from builder.tuning.pooling import is_disturbed
from builder.tuning.report import check_folder, write_report
from builder.tuning.sharing import Shared
from builder.tuning.space import Space
from builder.tuning.together import Together, summary_of, tune_together

__all__ = [
    "Applied",
    "BatchTimes",
    "Bench",
    "Configuration",
    "Found",
    "Goal",
    "Interval",
    "Load",
    "Measurement",
    "Result",
    "ServerAccess",
    "Shared",
    "Space",
    "Step",
    "Together",
    "TuneOptions",
    "Tuning",
    "Verdict",
    "check_folder",
    "is_disturbed",
    "place_of",
    "summary_of",
    "table",
    "tune",
    "tune_together",
    "undo_applied",
    "wording",
    "write_report",
]
