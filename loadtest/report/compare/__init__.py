"""Compare two results, or two sets of repeated runs, stage by stage.

`read_run` reads each result.json. `compare` matches the stages of the two sides (`matching`), gives every figure and
every ratio its 95 % interval (`report.intervals`), and finds what else differs between the runs (`differences`). The
`Comparison` that it returns is shown as text (`text`), as JSON or as a picture (`picture`).
"""

from loadtest.report.compare.matching import Change, Comparison, Row, compare
from loadtest.report.compare.picture import draw
from loadtest.report.compare.runs import Run, read_run
from loadtest.report.compare.text import HEADS, describe, find_slower, to_json, to_table

__all__ = [
    "HEADS",
    "Change",
    "Comparison",
    "Row",
    "Run",
    "compare",
    "describe",
    "draw",
    "find_slower",
    "read_run",
    "to_json",
    "to_table",
]
