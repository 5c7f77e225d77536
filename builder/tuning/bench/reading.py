"""Make a measurement of what a load test of one stage measured; see docs/result-schema.md."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from builder.errors import HostError
from builder.tuning.bench.machine import Busy
from builder.tuning.measurement import BatchTimes, Configuration, Interval, Load, Measurement, Z

_SCHEMA = 2
_SATURATED = 0.9
"""The share of the cores' time above which they were the limit; the start and the end of a load test count too."""

_DISTURBED = 0.05
"""The share of the cores' time that others may take without being mentioned."""


def read_measurement(
    result: Mapping[str, Any], configuration: Configuration, load: Load, busy: Busy, *, is_here: bool
) -> Measurement:
    """Return what a load test says of a configuration.

    Args:
        result: The load test's result, as result.json has it.
        configuration: What was loaded.
        load: The load that was asked for.
        busy: What this machine did meanwhile.
        is_here: Whether the server is on this machine.

    Raises:
        HostError: The result is not as a load test writes it.
    """
    try:
        return _read(result, configuration, load, busy, is_here)
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        what = f"its result is not as it should be: {type(error).__name__}: {error}"
        raise HostError("the load test", what, "report this, with the version of this package") from error


def _read(
    result: Mapping[str, Any], configuration: Configuration, load: Load, busy: Busy, is_here: bool
) -> Measurement:
    if result["schema"] != _SCHEMA:
        raise ValueError(f"schema {result['schema']} instead of {_SCHEMA}")
    totals = result["totals"]
    answered, unchecked = _count(totals["requests"]), _count(totals["unchecked"])
    failed, wrong = (sum(map(_count, totals[kind].values())) for kind in ("failures", "wrong"))
    stages = result["stages"]
    if not stages or not stages[0]["requests"]:
        why = "; ".join(map(str, result["verdict"]["reasons"])) or "no request was answered"
        return Measurement(configuration, load, None, None, wrong=wrong, failed=failed, unchecked=unchecked, error=why)
    stage = stages[0]
    server = stage["server"] or {}
    return Measurement(
        configuration,
        load,
        throughput=_throughput(stage),
        p99_s=_p99(stage),
        requests=_count(stage["requests"]),
        waiting=_waiting(stage),
        wrong=wrong,
        failed=failed,
        unchecked=unchecked,
        mean_batch=_number(server.get("mean_batch", 0.0)),
        batches=_batches(server),
        queue_s=_seconds(server.get("queue_us") or 0.0),
        latency_s=_seconds(stage["latency_us"]["mean"]),
        client_cpu_s=_seconds(stage["client_cpu_us_per_request"] or 0.0),
        server_cpu_s=_seconds(busy.server_s * 1e6 / answered) if is_here and busy.server_s is not None else None,
        others=round(busy.others, 4) if is_here and busy.others is not None else None,
        seconds=_number(stage["seconds"]),
        notes=(*_notes(result, stage), *(_of_machine(busy) if is_here else ())),
    )


def _throughput(stage: Mapping[str, Any]) -> Interval:
    """Return the rows answered each second; where windows without an answer leave no interval, from their number.

    Nine answers that came one by one are 9 give or take 1.96 * 3, as the number of independent events is.
    """
    value, bounds = _number(stage["throughput_rows_per_s"]), stage["intervals"]["throughput_rows_per_s"]
    if bounds is None:
        margin = Z / math.sqrt(max(_count(stage["requests"]), 1))
        return Interval(value, value * max(1 - margin, 0.0), value * (1 + margin))
    low, high = map(_number, bounds)
    return Interval(value, low, high)


def _waiting(stage: Mapping[str, Any]) -> int:
    """Return how many more requests waited at the end of the measured time than at its start.

    The number of answers does not say it: answers to requests of the measured time count also if they come later. The
    figures per second have only what came meanwhile.
    """
    sent, came = (_number(stage[f"{what}_requests_per_s"]) for what in ("sent", "throughput"))
    failed = sum(map(_count, stage["failures"].values()))
    return max(round((sent - came) * _number(stage["seconds"])) - failed, 0)


def _p99(stage: Mapping[str, Any]) -> Interval | None:
    value, bounds = stage["p99_of_requests_us"], stage["intervals"]["p99_us"]
    if value is None or bounds is None:
        return None
    low, high = map(_seconds, bounds)
    return Interval(_seconds(value), low, high)


def _batches(server: Mapping[str, Any]) -> dict[int, BatchTimes]:
    """Return what was executed; a batch that took no time at all says nothing, and has no logarithm."""
    sizes, times = server.get("batch_sizes", {}), server.get("batch_times_us", {})
    found = {int(size): BatchTimes(_count(sizes[size]), _seconds(us)) for size, us in times.items()}
    return {size: one for size, one in found.items() if one.seconds > 0}


def _notes(result: Mapping[str, Any], stage: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the load test remarks on, and why it failed, without the name of its only stage."""
    said: Sequence[Any] = (*result["verdict"]["reasons"], *result["notes"])
    if stage["server"] is None:
        yield f"the batches are not known: {stage['server_missing']}"
    for note in said:
        yield str(note).removeprefix(f"stage {stage['name']}: ")


def _of_machine(busy: Busy) -> Iterator[str]:
    """Yield that the cores were the limit, and what other programs took of them."""
    if busy.share is not None and busy.share > _SATURATED:
        available = busy.cores * busy.seconds
        server = f"the server took {(busy.server_s or 0.0) / available:.0%}, " if busy.server_s is not None else ""
        ours = busy.ours_s / available
        yield f"the cores of this machine were the limit: {server}the load generator {ours:.0%}"
    if busy.others is not None and busy.others > _DISTURBED:
        yield f"other programs took {busy.others:.0%} of the machine"


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is not a count")
    return value


def _seconds(us: Any) -> float:
    """Return microseconds in seconds, without the digits that come from the division."""
    return round(_number(us) / 1e6, 9)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{value!r} is not a figure")
    return float(value)
