"""A tuning that was made up: its runs, what it found, and its tune.json."""

from dataclasses import asdict, replace
from typing import Any

from builder.tuning.measurement import BatchTimes, Configuration, Interval, Load, Measurement
from builder.tuning.search.found import Found, Result, Step
from builder.tuning.search.goal import Goal
from builder.tuning.simulation.simulator import Predicted

CURRENT = Configuration(1, 2, 32)
BEST = Configuration(2, 1, 32, (8,))
GOAL = Goal(0.02)
WORDS = (
    CURRENT,
    BEST,
    Configuration(1, None, 0),
    Configuration(2, 1, 32, (8, 16), 1500),
    Configuration(2, 1, 32, (8,), 500),
    Configuration(2, None, 8, (), 0, (0, 2), True),
    Configuration(2, None, 8, (), 0, (1,)),
)
"""Configurations of every kind, whose words are compared."""
DIFF = """--- model_repository/digits/config.pbtxt
+++ model_repository/digits/config.pbtxt
@@ -20,5 +20,7 @@
 instance_group {
-  count: 1
+  count: 2
   kind: KIND_CPU
 }
-dynamic_batching { }
+dynamic_batching { preferred_batch_size: 8 }
"""


def about(value: float, share: float = 0.03) -> Interval:
    """Return a figure with an interval."""
    return Interval(value, value * (1 - share), value * (1 + share))


def measured(configuration: Configuration, load: Load, throughput: float, p99_s: float, **more: Any) -> Measurement:
    """Return a run's figures."""
    batches = {1: BatchTimes(10, 0.001), 8: BatchTimes(500, 0.004)}
    one = Measurement(configuration, load, about(throughput), about(p99_s, 0.06), 5000, mean_batch=4.2, batches=batches)
    return replace(one, seconds=5.0, server_cpu_s=0.0004, client_cpu_s=0.0001, others=0.01, **more)


def _result(configuration: Configuration, load: Load, throughput: float, p99_s: float, *, runs: int = 2) -> Result:
    return Result(
        configuration, load, about(throughput, 0.02), about(p99_s, 0.04), runs, p99_s * 1.04 <= GOAL.max_p99_s
    )


def steps() -> tuple[Step, ...]:
    """Return ten runs: three to learn from, five that search, two that compare."""
    mixed = Load(users=1, rows=((1, 1.0), (8, 0.35), (32, 0.18)))
    users = {count: Load(users=count) for count in (8, 16, 32)}
    tried: list[tuple[Configuration, Load, Any, float, float, str]] = [
        (CURRENT, mixed, "calibration", 900, 0.009, "how long batches take with 2 threads is not known yet"),
        (replace(BEST, instances=1), mixed, "calibration", 700, 0.011, "how long they take with 1 thread"),
        (BEST, users[8], "search", 1900, 0.0081, "how much two instances slow each other down"),
        (CURRENT, users[16], "search", 1500, 0.0152, "this is what is there now"),
        (BEST, users[16], "search", 2160, 0.0131, "predicted 41 % more, keeps the limit with 93 %"),
        (replace(BEST, preferred=(16,)), users[32], "search", 2310, 0.0243, "predicted 9 % more, keeps with 48 %"),
        (replace(BEST, preferred=(4,)), users[16], "search", 2120, 0.0122, "predicted as much"),
        (replace(BEST, preferred=(), delay_us=500), users[16], "search", 1800, 0.0171, "predicted 2 % more"),
        (BEST, users[16], "confirmation", 2190, 0.0134, "once more, to compare with the current settings"),
        (CURRENT, users[16], "confirmation", 1480, 0.0155, "once more, to compare with the best settings"),
    ]
    made = []
    for number, (configuration, load, purpose, throughput, p99_s, why) in enumerate(tried, 1):
        predicted = None if purpose == "calibration" else Predicted(throughput * 1.05, p99_s * 0.93, 4.0)
        keeps = None if purpose == "calibration" else p99_s * 1.06 <= GOAL.max_p99_s
        best = None if number < 4 else _result(BEST, users[16], 2160, 0.0131, runs=1)
        run = measured(configuration, load, throughput, p99_s)
        made.append(Step(number, 10, configuration, load, purpose, why, predicted, run, keeps, best))
    return tuple(made)


def found(**more: Any) -> Found:
    """Return what they found."""
    load = Load(users=16)
    best, baseline = _result(BEST, load, 2175, 0.0133), _result(CURRENT, load, 1490, 0.0154)
    why = "2 instances of 1 thread, batches up to 8 (of 32), give 46 % more throughput than the current settings"
    tie = _result(replace(BEST, preferred=(4,)), load, 2120, 0.0122, runs=1)
    one = Found("better", why, best, baseline, Interval(1.46, 1.41, 1.51), (tie,), steps=steps())
    return replace(one, **{"notes": ("the machine's two cores were the limit in 3 runs",), **more})


def document(**more: Any) -> dict[str, Any]:
    """Return the tune.json of this tuning."""
    what: dict[str, Any] = asdict(found())
    del what["steps"]
    machine = {"cpu": "AMD EPYC 7B13", "cores": 2, "memory": 16_000_000_000, "kernel": "Linux 6.1", "virtual": True}
    made = {
        "schema": 1,
        "builder": "1.0",
        "name": "digits",
        "started": "2026-11-28T03:00:00+00:00",
        "finished": "2026-11-28T03:01:40+00:00",
        "model": {"version": 1, "sha256": "ab" * 32, "config_sha256": "cd" * 32, "config": 'name: "digits"\n'},
        "current": asdict(CURRENT),
        "goal": asdict(GOAL),
        "runs": 10,
        "stage_time_s": 5.0,
        "protocol": "http",
        "server": None,
        "machine": machine,
        "software": {"tritonserver": "2.51.0", "onnxruntime": "1.23.2"},
        "fixed": ["no other model was under load"],
        "steps": [asdict(step) for step in steps()],
        "found": what,
        "config_diff": DIFF,
        "applied": None,
        "notes": [],
    }
    return {**made, **more}
