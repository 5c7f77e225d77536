"""Search for the best configuration in a few runs.

`space` says which configurations there are, `goal` what is better, and `found` what comes out. `searching` makes the
runs: `planner` chooses each by what it may gain and whether it may keep the limit, with what `residuals` say about the
simulation. `repeating` says which runs are made again at the end, `pooling` puts repeated runs together, `verdict`
compares the winner with the current settings, and `sharing` searches for several models on one server, each measured
`beside` the others.
"""

from builder.tuning.search.beside import Measure, Wanted
from builder.tuning.search.found import Found, Result, Step, Verdict
from builder.tuning.search.goal import Goal
from builder.tuning.search.pooling import Runs, is_disturbed
from builder.tuning.search.searching import search
from builder.tuning.search.sharing import Shared, Turn, most_runs, search_together
from builder.tuning.search.space import Space

__all__ = [
    "Found",
    "Goal",
    "Measure",
    "Result",
    "Runs",
    "Shared",
    "Space",
    "Step",
    "Turn",
    "Verdict",
    "Wanted",
    "is_disturbed",
    "most_runs",
    "search",
    "search_together",
]
