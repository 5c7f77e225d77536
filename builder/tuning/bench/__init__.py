"""Measure configurations of a model on a real server, with load tests in which every answer is checked.

`opening` puts `NAME.candidate` beside the model, `measuring` loads one configuration after the other there and measures
it, and `configuring` says what a config says of a configuration and the other way round. `driving` runs the load tests,
`reading` reads their results, and `machine` tells what this machine did meanwhile. `access` is a server of the user's.
"""

from builder.tuning.bench.access import ServerAccess
from builder.tuning.bench.configuring import configured, options_of, read_configuration
from builder.tuning.bench.machine import MachineFacts, Stopwatch, read_machine
from builder.tuning.bench.measuring import ServerBench
from builder.tuning.bench.opening import open_bench, read_goal, start_server

__all__ = [
    "MachineFacts",
    "ServerAccess",
    "ServerBench",
    "Stopwatch",
    "configured",
    "open_bench",
    "options_of",
    "read_configuration",
    "read_goal",
    "read_machine",
    "start_server",
]
