"""The server under test, seen from outside.

Before a run, `prepare` checks that the server is ready and serves what the settings and the repository say, and
returns the samples to send; `check_metrics` checks that its metrics can be read. During a run, a `Meter` takes
snapshots of what the server has counted, and `summarize` turns those of a stage into the server's share of the figures.

From the bottom up: `control` (requests about the server), `statistics` and `metrics` (what it counts), `meter`,
`figures`, and beside them `target` and `preparing`.
"""

from loadtest.server.control import ignored_proxy
from loadtest.server.figures import Seen, Summary, settle, summarize
from loadtest.server.meter import Meter, Snapshot, check_metrics
from loadtest.server.preparing import Prepared, prepare

__all__ = [
    "Meter",
    "Prepared",
    "Seen",
    "Snapshot",
    "Summary",
    "check_metrics",
    "ignored_proxy",
    "prepare",
    "settle",
    "summarize",
]
