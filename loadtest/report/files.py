"""Write the report of a run: result.json, stages.csv, report.html and the kept wrong answers."""

import csv
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from loadtest.report.page import to_html
from loadtest.run import cannot_write

_COLUMNS = (
    "name",
    "concurrency",
    "rate_asked",
    "seconds",
    "requests",
    "rows",
    "unchecked",
    "throughput_rows_per_s",
    "throughput_requests_per_s",
    "goodput",
    "stable",
    "client_cpu_us_per_request",
    "client_busy_share",
    "client_saturated",
    "server_restarted",
    "server_seconds",
)
_LATENCIES = ("p50", "p90", "p95", "p99", "max", "mean")
_SERVER = (
    "queue_us",
    "compute_input_us",
    "compute_infer_us",
    "compute_output_us",
    "executions",
    "mean_batch",
    "batch_sizes",
)


def write(directory: Path, result: Mapping[str, Any], examples: Iterable[tuple[str, bytes]] = ()) -> list[Path]:
    """Write the report's files, over those of an earlier run, and return their paths.

    Raises:
        SettingsError: The directory cannot be written.
    """
    files = {
        "result.json": to_json(result).encode(),
        "stages.csv": to_csv(result).encode(),
        "report.html": to_html(result).encode(),
        **{f"wrong/{name}": data for name, data in examples},
    }
    try:
        for name, data in files.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    except OSError as error:
        raise cannot_write(directory, error) from error
    return [directory / name for name in files]


def to_json(result: Mapping[str, Any]) -> str:
    """Return the result as JSON text."""
    return json.dumps(result, indent=1, allow_nan=False) + "\n"


def to_csv(result: Mapping[str, Any]) -> str:
    """Return one line for each stage; times in microseconds, batch sizes as in `1:20 4:7` (size:count)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    latencies = [f"{name}_us" for name in _LATENCIES]
    writer.writerow([*_COLUMNS, "failures", "wrong", *latencies, *(f"server_{name}" for name in _SERVER)])
    for stage in result["stages"]:
        server = stage["server"] or {}
        writer.writerow(
            [
                *(stage[column] for column in _COLUMNS),
                sum(stage["failures"].values()),
                sum(stage["wrong"].values()),
                *(stage["latency_us"][name] for name in _LATENCIES),
                *(_cell(server.get(name)) for name in _SERVER),
            ]
        )
    return text.getvalue()


def _cell(value: Any) -> Any:
    return " ".join(f"{key}:{count}" for key, count in value.items()) if isinstance(value, dict) else value


def read_schema(of: str = "result") -> str:
    """Return the JSON Schema of result.json, or of a `comparison`, a `tuning` or of `sharing`.

    That of several models that share a server has that of each single one in it.
    """
    text = (Path(__file__).parent / f"{of}.schema.json").read_text(encoding="utf-8")
    if of != "sharing":
        return text
    schema, tuning = json.loads(text), json.loads(read_schema("tuning"))
    kinds = tuning.pop("$defs")
    del tuning["$schema"]
    schema["$defs"] |= {"tuning": tuning, **kinds}
    return json.dumps(schema, indent=2, ensure_ascii=False)
