"""Results of made-up load tests, worked out from made-up windows."""

import time
from typing import Any

from loadtest import report
from loadtest.run import Busy, Run, StageRecord, Tally, Window
from loadtest.scenarios import Stage, make_stages
from support.load_schema import check
from support.load_settings import read

KEY = ("m", "1")


def make_result(run: Run) -> dict[str, Any]:
    """The result of a run, which must be what its schema says."""
    made = report.make_result(run)
    check(made)
    return made


def window(rows: int, latency_us: int, *, busy: float = 0.3, **counts: Any) -> Window:
    made = Window(1.0, sent=rows)
    made.tallies[KEY] = Tally(requests=rows, rows=rows, **counts)
    made.tallies[KEY].latency_us.record(latency_us, rows)
    made.busy["local"] = Busy(1.0, busy)
    return made


def record_of(stage: Stage, *measured: Window, discarded: Window | None = None, start_s: float = 0.0) -> StageRecord:
    made = StageRecord(stage, stage.users, start_s, discarded=discarded or Window())
    for one in measured:
        made.measure(one)
    return made


def result_of(*ladder: tuple[int, int], options: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    """The result of steps of 1, 2, 4… users, each given as (rows per second, latency in microseconds)."""
    users = ",".join(str(2**step) for step in range(len(ladder)))
    made = read("--concurrency", users, *options)
    run = Run(made, time.time(), complete=True)
    for place, (stage, (rows, latency_us)) in enumerate(zip(make_stages(made.load), ladder, strict=True)):
        windows = [window(rows, latency_us, **more) for _ in range(3)]
        run.records.append(record_of(stage, *windows, start_s=4.0 * place))
    return make_result(run)
