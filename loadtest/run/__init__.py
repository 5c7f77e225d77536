"""Run a load test: lead the processes through the stages, make the load, and measure.

`check` is called before anything starts. Then the `Leader`, in the master process or the only one, takes every process
through the stages of the scenario. In each process a `LoadWorker` follows its messages; the worker's `Traffic` sends
the requests and checks the answers, and returns what it counted window by window. The leader adds the windows up and
keeps them in a `Run`, which has a `StageRecord` for each stage.

From the bottom up: `latencies`, `tallies`, `busy`, `windows`, `steadiness`, `recorder` (counting), `alarm`, `traffic`
(making load), `record`, `progress`, `messages`, `worker`, `telemetry`, `processes`, `leader` (leading), `preflight`.
"""

from loadtest.run.busy import COMFORTABLE_SHARE, CROWDED_SHARE, SATURATED_SHARE, Busy
from loadtest.run.latencies import LEAST_FOR_P99, Latencies
from loadtest.run.leader import Leader
from loadtest.run.preflight import append, cannot_write, check
from loadtest.run.record import Run, StageRecord, pool
from loadtest.run.tallies import Tally, sum_tallies
from loadtest.run.telemetry import Telemetry, postpone_set_up
from loadtest.run.windows import Window, join_windows
from loadtest.run.worker import LoadWorker, hold_back_messages

__all__ = [
    "COMFORTABLE_SHARE",
    "CROWDED_SHARE",
    "LEAST_FOR_P99",
    "SATURATED_SHARE",
    "Busy",
    "Latencies",
    "Leader",
    "LoadWorker",
    "Run",
    "StageRecord",
    "Tally",
    "Telemetry",
    "Window",
    "append",
    "cannot_write",
    "check",
    "hold_back_messages",
    "join_windows",
    "pool",
    "postpone_set_up",
    "sum_tallies",
]
