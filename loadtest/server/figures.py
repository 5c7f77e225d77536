"""The server's share of a stage's figures, and whether what it counted are the client's requests at all."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from loadtest.server.meter import Key, Models, Snapshot
from loadtest.server.metrics import GAUGES
from loadtest.server.statistics import SPLIT, Counts

_FEW_REQUESTS = 10


@dataclass(frozen=True, slots=True)
class Seen:
    """What the client saw between the first and the last of some snapshots that were read.

    Attributes:
        answered: How many answers came.
        failed: How many requests got none; the server may have counted them all the same.
        in_flight: The most requests in flight at any moment.
        seconds: How long it was.
    """

    answered: int = 0
    failed: int = 0
    in_flight: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Summary:
    """What can be said about the server.

    Attributes:
        figures: The values for the result; None if there are none.
        reason: Why there are none; empty if there are, or if it is too early to know.
        restarted: Whether the server or a model was restarted.
        foreign: Whether the counts are not those of one server, or not of this client's requests.
    """

    figures: dict[str, Any] | None
    reason: str = ""
    restarted: bool = False
    foreign: bool = False


def summarize(snapshots: Sequence[Snapshot], seen: Seen) -> Summary:
    """Return what the server did between the first and the last snapshot.

    The counts of client and server must agree. They are not read at the same moment, and requests are in flight
    meanwhile. For example, the client got 8,000 answers in 4 s, 2,000 a second, with 8 requests in flight. The first
    snapshot was read at most 10 ms after the client's figures, the last one at most 15 ms after them. In 25 ms there
    may be 50 answers; twice that, and 2 x 8 + 10, make 126. A server that counted from 7,874 to 8,126 requests was
    asked by this client, and by nobody else. If it counted fewer, other servers answered the rest. If it counted more,
    it has other clients, or the two snapshots are of two servers.

    Counts start again from 0 with the server, and with a model that is loaded again. So a count that fell shows a
    restart, after which all of it was counted, unless it is more than the client can have caused.
    """
    known = [snapshot for snapshot in snapshots if not snapshot.problem]
    if len(known) < 2:
        return Summary(None, next((one.problem for one in snapshots if one.problem), ""))
    gains, fell = _find_gains(known)
    asked = known[-1].models.asked
    requests = sum(counts.requests for key, counts in gains.items() if key[1] in asked)
    slack = _find_slack(known, seen)
    if requests > seen.answered + seen.failed + slack:
        what = "it has other clients, or several servers are behind its address"
        return Summary(None, _disagree(requests, seen, what), foreign=True)
    if fell:
        return Summary(_figures(gains, known), restarted=True)
    if requests < seen.answered - slack:
        if len(known) < len(snapshots):
            return Summary(None, "the server was restarted", restarted=True)
        return Summary(None, _disagree(requests, seen, "other servers share the load"), foreign=True)
    return Summary(_figures(gains, known))


def settle(summaries: Sequence[Summary]) -> list[Summary]:
    """Return the summaries of a run's stages; if one shows that several servers answer, no stage shows a restart.

    A count that fell from 5,000 to 300 looks like a restart, but in the next stage it may be 5,500.
    """
    foreign = next((summary for summary in summaries if summary.foreign), None)
    if foreign is None:
        return [*summaries]
    return [Summary(None, foreign.reason, foreign=True) if one.restarted else one for one in summaries]


def _find_slack(known: Sequence[Snapshot], seen: Seen) -> float:
    rate = seen.answered / seen.seconds if seen.seconds else 0.0
    return 2 * rate * (known[0].lag_s + known[-1].lag_s) + 2 * seen.in_flight + _FEW_REQUESTS


def _disagree(requests: int, seen: Seen, why: str) -> str:
    fix = "name the metrics of every server in --server-metrics"
    return f"the server counted {requests:,} requests and the client {seen.answered:,} answers: {why}; {fix}"


def _find_gains(known: Sequence[Snapshot]) -> tuple[dict[Key, Counts], bool]:
    """Return what each server and model counted from the first snapshot to the last, and whether a count fell."""
    gains: dict[Key, Counts] = {}
    fell = False
    for earlier, later in pairwise(known):
        for key, now in later.counts.items():
            before = earlier.counts.get(key, Counts())
            is_below = now.is_below(before)
            fell |= is_below
            gains[key] = gains.get(key, Counts()).plus(now if is_below else now.minus(before))
    return gains, fell


def _figures(gains: Mapping[Key, Counts], known: Sequence[Snapshot]) -> dict[str, Any]:
    models = known[-1].models
    asked = _sum(counts for key, counts in gains.items() if key[1] in models.asked)
    executed = _sum(counts for key, counts in gains.items() if key[1] in models.executed)
    return {
        **_describe(executed, asked.requests),
        "requests": asked.requests,
        "failed": asked.failed,
        "inferences": asked.inferences,
        "models": _by_model(gains, models),
        **_summarize_gauges(known),
    }


def _describe(executed: Counts, requests: int) -> dict[str, Any]:
    """Return the mean times per request, in microseconds, and how the rows were batched.

    An ensemble waits in the queues of its models, and computes what they compute: its time is the sum of theirs.
    """
    times = {
        f"{part}_us": round(executed.nanoseconds[part] / max(requests, 1) / 1000, 1)
        if part in executed.nanoseconds
        else None
        for part in SPLIT
    }
    return {
        **times,
        "executions": executed.executions,
        "mean_batch": round(executed.inferences / executed.executions, 3) if executed.executions else 0.0,
        "batch_sizes": {str(size): executed.batch_sizes[size] for size in sorted(executed.batch_sizes)},
    }


def _by_model(gains: Mapping[Key, Counts], models: Models) -> list[dict[str, Any]]:
    """Return the figures of each version of each model that executed something, if there are several models."""
    if len(models.all) < 2:
        return []
    by_version: dict[tuple[str, str], Counts] = {}
    for (_, model, version), counts in gains.items():
        by_version[model, version] = by_version.get((model, version), Counts()).plus(counts)
    return [
        {
            "name": model,
            "version": version,
            **_describe(counts, counts.requests),
            "requests": counts.requests,
            "failed": counts.failed,
            "inferences": counts.inferences,
        }
        for (model, version), counts in by_version.items()
        if model in models.executed and (counts.requests or counts.failed)
    ]


def _sum(several: Iterable[Counts]) -> Counts:
    total = Counts()
    for counts in several:
        total = total.plus(counts)
    return total


def _summarize_gauges(snapshots: Sequence[Snapshot]) -> dict[str, float]:
    """Return means of utilization and power, and the highest use of memory."""
    figures: dict[str, float] = {}
    for name in GAUGES:
        values = [snapshot.gauges[name] for snapshot in snapshots[1:] if name in snapshot.gauges]
        if values:
            figures[name] = max(values) if name.endswith("bytes") else round(sum(values) / len(values), 3)
    return figures
