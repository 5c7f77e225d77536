"""What Triton counts and measures, read from its Prometheus metrics.

Sources: https://github.com/triton-inference-server/server/blob/main/docs/user_guide/metrics.md,
https://prometheus.io/docs/instrumenting/exposition_formats/
"""

import re
from collections.abc import Iterable, Iterator, Mapping

from loadtest.server.statistics import SPLIT, Counts

GAUGES = {
    "gpu_utilization": "nv_gpu_utilization",
    "gpu_memory_used_bytes": "nv_gpu_memory_used_bytes",
    "gpu_power_watts": "nv_gpu_power_usage",
    "cpu_utilization": "nv_cpu_utilization",
    "cpu_memory_used_bytes": "nv_cpu_memory_used_bytes",
}
_COUNTERS = {
    "nv_inference_count": "inferences",
    "nv_inference_exec_count": "executions",
    "nv_inference_request_success": "requests",
    "nv_inference_request_failure": "failed",
}
_DURATIONS = {f"nv_inference_{part}_duration_us": part for part in SPLIT}

_SAMPLE = re.compile(r"(\w+)(?:\{(.*)\})? +([^ ]+)(?: +-?\d+)?")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_LARGEST = 1e18


def read_samples(text: str, names: Iterable[str]) -> Iterator[tuple[str, Mapping[str, str], float]]:
    """Yield the metrics of these names in Prometheus text, each with its labels and its value.

    A server with many models has thousands of lines. Most are skipped before they are parsed, because the process that
    reads them may be the one that makes the load.
    """
    wanted = frozenset(names)
    beginnings = tuple(wanted)
    for line in text.splitlines():
        found = _SAMPLE.fullmatch(line.strip()) if line.startswith(beginnings) else None
        if found is not None and found[1] in wanted:
            try:
                value = float(found[3])
            except ValueError:
                continue
            if abs(value) < _LARGEST:  # neither NaN nor infinite
                yield found[1], dict(_LABEL.findall(found[2] or "")), value


def read_counters(text: str) -> dict[tuple[str, str], Counts]:
    """Return what was counted by (model, version), added up over the GPUs; there are no sizes of batches."""
    found: dict[tuple[str, str], Counts] = {}
    for name, labels, value in read_samples(text, (*_COUNTERS, *_DURATIONS)):
        if "model" in labels:
            counts = found.setdefault((labels["model"], labels.get("version", "")), Counts())
            if name in _COUNTERS:
                attribute = _COUNTERS[name]
                setattr(counts, attribute, getattr(counts, attribute) + int(value))
            else:
                part = _DURATIONS[name]
                counts.nanoseconds[part] = counts.nanoseconds.get(part, 0) + int(value * 1000)
    return found


def read_gauges(text: str) -> dict[str, float]:
    """Return the gauges: bytes and watts are summed over devices, utilizations averaged."""
    values: dict[str, list[float]] = {}
    for name, _, value in read_samples(text, GAUGES.values()):
        values.setdefault(name, []).append(value)
    found = {}
    for name, metric in GAUGES.items():
        if metric in values:
            found[name] = sum(values[metric]) / (len(values[metric]) if name.endswith("utilization") else 1)
    return found
