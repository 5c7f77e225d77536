"""Find the configuration of a model that gives the most throughput under a latency limit, and write it back.

`measurement` says what is tried and what was measured. `bench` measures, by load tests of the real server in which
every answer is checked. `simulation` predicts what was not measured, `search` chooses the runs and finds the best, and
`keeping` keeps the measurements and writes the result back. `pipeline` does all of that in order, and `together` does
it for several models on one server. `table` and `wording` say it in words.
"""

from builder.tuning import table, wording
from builder.tuning.bench import ServerAccess
from builder.tuning.keeping import Applied, UndoAccess
from builder.tuning.measurement import BatchTimes, Bench, Configuration, Interval, Load, Measurement
from builder.tuning.options import Longest, TuneOptions
from builder.tuning.pipeline import Tuning, tune, undo_applied
from builder.tuning.preparing import place_of
from builder.tuning.report import check_folder, write_report, write_reports
from builder.tuning.search import Found, Goal, Result, Shared, Space, Step, Verdict, is_disturbed
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
    "Longest",
    "Measurement",
    "Result",
    "ServerAccess",
    "Shared",
    "Space",
    "Step",
    "Together",
    "TuneOptions",
    "Tuning",
    "UndoAccess",
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
    "write_reports",
]
