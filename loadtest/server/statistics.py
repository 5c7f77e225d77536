"""What the server counted while the client measured, from Triton's statistics and its Prometheus metrics.

Sources: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_statistics.md,
https://github.com/triton-inference-server/server/blob/main/docs/user_guide/metrics.md
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from loadtest.server.control import Control, ControlError
from loadtest.settings import Settings
from loadtest.wire import model_path

SPLIT = ("queue", "compute_input", "compute_infer", "compute_output")
_TIMEOUT_S = 1.0
"""How long a snapshot may delay the run that it is taken for."""

_SLACK_REQUESTS, _SLACK_SHARE = 100, 0.4
"""How far the counts of client and server may differ, because they are not read at the same moment."""

_GAUGES = {
    "gpu_utilization": "nv_gpu_utilization",
    "gpu_memory_used_bytes": "nv_gpu_memory_used_bytes",
    "gpu_power_watts": "nv_gpu_power_usage",
    "cpu_utilization": "nv_cpu_utilization",
    "cpu_memory_used_bytes": "nv_cpu_memory_used_bytes",
}


@dataclass
class Counts:
    """What one version of a model has counted since it was loaded."""

    inferences: int = 0
    executions: int = 0
    requests: int = 0
    failed: int = 0
    nanoseconds: Counter[str] = field(default_factory=Counter)
    batch_sizes: Counter[int] = field(default_factory=Counter)

    def minus(self, earlier: "Counts") -> "Counts":
        """Return what was added since `earlier`."""
        return Counts(
            self.inferences - earlier.inferences,
            self.executions - earlier.executions,
            self.requests - earlier.requests,
            self.failed - earlier.failed,
            self.nanoseconds - earlier.nanoseconds,
            self.batch_sizes - earlier.batch_sizes,
        )

    def plus(self, other: "Counts") -> "Counts":
        """Return the sum of both."""
        return Counts(
            self.inferences + other.inferences,
            self.executions + other.executions,
            self.requests + other.requests,
            self.failed + other.failed,
            self.nanoseconds + other.nanoseconds,
            self.batch_sizes + other.batch_sizes,
        )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The server at one moment: counts by (model, version), and gauges summed or averaged over devices."""

    counts: Mapping[tuple[str, str], Counts]
    gauges: Mapping[str, float]


def take_snapshot(settings: Settings) -> Snapshot | None:
    """Ask the server for its statistics; None if it does not answer or keeps none."""
    counts: dict[tuple[str, str], Counts] = {}
    try:
        with Control(settings.http, _TIMEOUT_S) as control:
            for choice in settings.models:
                stats = control.fetch_json(f"{model_path(choice.name)}/stats")
                for entry in stats["model_stats"]:
                    counts[entry["name"], str(entry["version"])] = _counts(entry)
    except (ControlError, KeyError, TypeError, ValueError):
        return None
    return Snapshot(counts, _gauges(settings))


def _counts(entry: Mapping[str, Any]) -> Counts:
    stats = entry["inference_stats"]
    return Counts(
        inferences=int(entry["inference_count"]),
        executions=int(entry["execution_count"]),
        requests=int(stats["success"]["count"]),
        failed=int(stats["fail"]["count"]),
        nanoseconds=Counter({name: int(stats[name]["ns"]) for name in SPLIT}),
        batch_sizes=Counter(
            {int(batch["batch_size"]): int(batch["compute_infer"]["count"]) for batch in entry["batch_stats"]}
        ),
    )


def _gauges(settings: Settings) -> dict[str, float]:
    port = settings.http.port + 2
    found = settings.metrics or [replace(settings.http, tls=None, port=port, path="/metrics", headers=())]
    if settings.metrics is None:
        return {}
    try:
        text = "".join(Control(address, _TIMEOUT_S).fetch("").decode("utf-8", "replace") for address in found)
    except (ControlError, ValueError):
        return {}
    return read_gauges(text)


def read_gauges(text: str) -> dict[str, float]:
    """Read gauges from Prometheus text; bytes and watts are summed over devices, utilizations averaged."""
    found: dict[str, float] = {}
    for name, metric in _GAUGES.items():
        values = [
            float(line.rsplit(" ", 1)[1])
            for line in text.splitlines()
            if line.startswith((f"{metric} ", f"{metric}{{"))
        ]
        if values:
            found[name] = sum(values) / (len(values) if name.endswith("utilization") else 1)
    return found


def has_restarted(earlier: Snapshot, later: Snapshot, answered: int) -> bool:
    """Return whether the server or a model was restarted between two snapshots, given the answers this client received.

    Triton's counters start again from 0 with the server, and with a model that is loaded again, so a restart shows
    as a count that rose by less than the number of answers. Client and server are not read at the same moment, so
    a difference of up to 100, or of up to 40 % of the answers, proves nothing. With 2,000 answers, a count that
    went from 100 to 900 rose by 800 and misses 1,200: more than 40 % (800), so there was a restart. A count that
    went from 100 to 1,500 rose by 1,400 and misses 600: no restart.
    """
    missing = answered - (_requests(later) - _requests(earlier))
    return missing > max(_SLACK_REQUESTS, _SLACK_SHARE * answered)


def _requests(snapshot: Snapshot) -> int:
    return sum(counts.requests for counts in snapshot.counts.values())


def summarize(snapshots: Iterable[Snapshot | None]) -> dict[str, Any] | None:
    """Return what the server did between the first and the last snapshot; None if there are fewer than two.

    Times are means per request, in microseconds. `batch_sizes` counts executions. A count that fell was reset by a
    restart, so all of it was counted since then.
    """
    known = [snapshot for snapshot in snapshots if snapshot is not None]
    if len(known) < 2:
        return None
    total = Counts()
    for earlier, later in pairwise(known):
        for key, now in later.counts.items():
            before = earlier.counts.get(key, Counts())
            restarted = now.inferences < before.inferences or now.executions < before.executions
            total = total.plus(now if restarted else now.minus(before))
    requests = max(total.requests, 1)
    figures: dict[str, Any] = {f"{name}_us": round(total.nanoseconds[name] / requests / 1000, 1) for name in SPLIT}
    return {
        **figures,
        "requests": total.requests,
        "failed": total.failed,
        "inferences": total.inferences,
        "executions": total.executions,
        "mean_batch": round(total.inferences / total.executions, 3) if total.executions else 0.0,
        "batch_sizes": {str(size): total.batch_sizes[size] for size in sorted(total.batch_sizes)},
        **_summarize_gauges(known),
    }


def _summarize_gauges(snapshots: list[Snapshot]) -> dict[str, float]:
    """Return means of utilization and power, and the highest use of memory."""
    figures: dict[str, float] = {}
    for name in _GAUGES:
        values = [snapshot.gauges[name] for snapshot in snapshots[1:] if name in snapshot.gauges]
        if values:
            figures[name] = max(values) if name.endswith("bytes") else round(sum(values) / len(values), 3)
    return figures
