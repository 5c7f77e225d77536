"""What a run with `--otel` exports, as the collector that gets it reads it, with OpenTelemetry's own parser."""

import gzip
import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from locust.env import Environment
from support.load_results import window
from support.load_run import listening, run

from builder.server import Server
from loadtest.errors import SettingsError
from loadtest.run import Telemetry

Exported = dict[tuple[str, str, str, str], Any]
"""By instrument, model, version and error, the value; of a histogram, the count and the sum."""


def read(request: Any) -> Exported:
    found: Exported = {}
    for resource in request.resource_metrics:
        for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
            kind = metric.WhichOneof("data")
            for point in getattr(metric, kind).data_points:
                said = {one.key: one.value.string_value for one in point.attributes}
                key = (metric.name, *(said.get(name, "") for name in ("name", "version", "error.type")))
                found[key] = (point.count, point.sum) if kind == "histogram" else point.as_int
    return found


@contextmanager
def collecting() -> Iterator[tuple[str, list[Exported]]]:
    """A collector: its URL, and what it was sent."""
    parser = pytest.importorskip("opentelemetry.proto.collector.metrics.v1.metrics_service_pb2")
    sent: list[Exported] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            if self.path.endswith("/metrics"):
                sent.append(read(parser.ExportMetricsServiceRequest.FromString(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with listening(Handler) as url:
        yield url, sent


@pytest.mark.slow
def test_a_collector_gets_a_duration_for_each_answer(
    server: Server, repository: Path, tmp_path: Path, master_port: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    with collecting() as (url, sent):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "400")
        monkeypatch.setenv("OTEL_LOGS_EXPORTER", "none")
        monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
        constant = (
            "--scenario",
            "constant",
            "--concurrency",
            "2",
            "--rows",
            "3",
            "--stage-time",
            "1",
            "--warm-up",
            "0.2",
            "--min-requests",
            "20",
        )
        finished = run(
            server, tmp_path, "--otel", "--processes", "2", *master_port, "--repository", str(repository), *constant
        )
    assert finished.code == 0, finished.stderr
    assert "KeyError" not in finished.stderr  # of a thread from before the fork
    durations = ("locust.client.duration", "classifier", "1", "")
    # The other processes have none, and any of the three may be the last to export.
    totals, last = finished.result["totals"], [export for export in sent if durations in export][-1]
    count, seconds = last[durations]
    assert count == totals["requests"]
    assert last["loadtest.rows", "classifier", "1", ""] == totals["rows"] == 3 * count
    (stage,) = finished.result["stages"]
    assert stage["requests"] * stage["latency_us"]["mean"] < seconds * 1e6 * 1.01
    assert any(("locust.users.count", "", "", "") in export for export in sent)


def test_locusts_own_histogram_is_filled_and_errors_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    sdk = pytest.importorskip("opentelemetry.sdk.metrics")
    reader = sdk.export.InMemoryMetricReader()
    provider = sdk.MeterProvider(metric_readers=[reader])
    monkeypatch.setattr("opentelemetry.metrics.get_meter", provider.get_meter)
    locusts = provider.get_meter("locust").create_histogram(
        "locust.client.duration", unit="s", description="Time to last byte for requests"
    )
    environment = Environment()
    telemetry = Telemetry()
    telemetry.listen(environment)
    telemetry.add(window(250, 2000, failures=Counter(cut=2), wrong=Counter(nan=3)))
    telemetry.add(window(50, 4000))
    locusts.record(1.0, {"name": "m", "version": "1"})
    events: Any = environment.events
    events.quitting.fire(environment=environment)
    scopes = json.loads(reader.get_metrics_data().to_json())["resource_metrics"][0]["scope_metrics"]
    metrics = [
        (metric["name"], point)
        for scope in scopes
        for metric in scope["metrics"]
        for point in metric["data"]["data_points"]
    ]
    assert [(name, point.get("count", point.get("value"))) for name, point in metrics] == [
        ("locust.client.duration", 301),
        ("loadtest.rows", 300),
        ("loadtest.failures", 2),
        ("loadtest.wrong", 3),
    ]
    assert metrics[0][1]["sum"] == pytest.approx(1 + 250 * 0.002 + 50 * 0.004, rel=0.01)
    assert metrics[2][1]["attributes"] == {"name": "m", "version": "1", "error.type": "cut"}


def test_without_the_sdk_the_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.metrics", None)
    with pytest.raises(SettingsError, match="fix: run: pip install opentelemetry-sdk"):
        Telemetry()
