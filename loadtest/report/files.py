"""Writes a result: result.json, stages.csv, report.html and the kept wrong answers."""

import csv
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from loadtest.errors import SettingsError

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
    "stable",
    "client_cpu_us_per_request",
    "client_busy_share",
    "client_saturated",
    "server_restarted",
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


def check_directory(directory: Path) -> None:
    """Hold that a report can be written, before anything is measured for it.

    Raises:
        SettingsError: It cannot.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise _cannot_write(directory, error) from error


def _cannot_write(directory: Path, error: OSError) -> SettingsError:
    return SettingsError(directory, f"the report cannot be written: {error}", "name another --report-dir")


def write(directory: Path, result: Mapping[str, Any], examples: Iterable[tuple[str, bytes]] = ()) -> list[Path]:
    """Write the report's files, over those of an earlier run.

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
        raise _cannot_write(directory, error) from error
    return [directory / name for name in files]


def to_json(result: Mapping[str, Any]) -> str:
    """The result as JSON text."""
    return json.dumps(result, indent=1, allow_nan=False) + "\n"


def to_csv(result: Mapping[str, Any]) -> str:
    """One line per stage; times in microseconds, batch sizes as `size:count` words."""
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


def to_html(result: Mapping[str, Any]) -> str:
    """The report as one page that needs nothing else."""
    data = json.dumps(result, allow_nan=False).replace("</", "<\\/")
    return page().replace('"@RESULT@"', data)


def page() -> str:
    """The page that draws a result: the one put in place of `"@RESULT@"`, or else the server's newest."""
    return (Path(__file__).parent / "report.html").read_text(encoding="utf-8")
