"""Measure a configuration on a running server under several loads, one after the other, and keep what was measured.

This is the benchmark's own way to measure, apart from that of `tune`: its tables are the truth that `tune` is held to.
Both run the same load test, because the question is whether the search is right, not whether the load test is.
"""

import contextlib
import fcntl
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from hdrh.histogram import HdrHistogram
from tune_models import ROOT

from builder.config import pbtxt
from builder.deployment import Address, LiveServer
from builder.server import Server
from builder.tuning import Configuration
from builder.tuning.bench.machine import Stopwatch
from builder.tuning.measurement import Z


@dataclass(frozen=True, slots=True)
class Point:
    """What one configuration gave under one load.

    Attributes:
        model: The model.
        configuration: The configuration.
        users: How many users there were.
        seconds: How long was measured.
        requests: How many requests were answered meanwhile.
        wrong: How many answers were wrong, or no answers, or not checked.
        windows: Rows per second in each window.
        p99_ms: The time within which 99 % of the requests were answered; None if there were fewer than 100.
        p99_high_ms: The upper end of its 95 % interval, by order statistics; None if there were too few for one.
        mean_batch: The mean number of rows in a batch.
        others: The share of the machine's cores that other programs took.
        slowdown: How many times as long as usual a fixed computation took before or after, whichever was slower: a
            virtual machine is slowed down by its neighbours too, and nothing in it says so.
        kind: `ladder` for the first measurement of each point, `again` for the interleaved ones of the best, and
            `calibration` for requests of 1 to 32 rows by one user.
    """

    model: str
    configuration: Configuration
    users: int
    seconds: float
    requests: int
    wrong: int
    windows: tuple[float, ...]
    p99_ms: float | None
    p99_high_ms: float | None
    mean_batch: float
    others: float
    slowdown: float
    kind: str = "ladder"
    percentiles_ms: tuple[float, ...] = field(default=())
    """The latencies within which 90, 95, 98, 99, 99.5 and 99.9 % were answered."""
    stage: dict[str, Any] = field(default_factory=dict, compare=False)
    """What the load test's result says about the stage, without windows and histograms."""

    @property
    def throughput(self) -> float:
        """Rows answered each second."""
        return sum(self.windows) / len(self.windows)

    @property
    def key(self) -> tuple[str, Configuration, int]:
        """What was measured."""
        return self.model, self.configuration, self.users


class Table:
    """The points measured so far, in a file with a JSON object on each line; a run that was cut off goes on there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.points = [_read(json.loads(line)) for line in lines]

    def add(self, points: Sequence[Point]) -> None:
        """Keep more points."""
        self.points += points
        with self.path.open("a") as file:
            file.writelines(json.dumps(asdict(point)) + "\n" for point in points)

    def of(self, model: str, kind: str | None = None) -> list[Point]:
        """Return the points of a model."""
        return [point for point in self.points if point.model == model and kind in (None, point.kind)]

    def save(self, path: Path, chosen: Sequence[Point]) -> None:
        """Write some of the points to a file, with what a replay needs."""
        lines = [json.dumps(_without_defaults(asdict(_shortened(point))), separators=(",", ":")) for point in chosen]
        path.write_text("".join(f"{line}\n" for line in lines))


_DEFAULTS: dict[str, Any] = {"max_batch_size": 32, "preferred": (), "delay_us": 0, "profiles": (), "cuda_graphs": False}
_POINT: dict[str, Any] = {"wrong": 0, "kind": "ladder", "percentiles_ms": ()}


def _without_defaults(record: dict[str, Any]) -> dict[str, Any]:
    """Leave out what most points have in common."""
    left = {name: value for name, value in record.items() if name not in _POINT or value != _POINT[name]}
    given = record["configuration"]
    left["configuration"] = {
        name: value for name, value in given.items() if name not in _DEFAULTS or value != _DEFAULTS[name]
    }
    return left


def _shortened(point: Point) -> Point:
    """Return a point without what no replay reads."""
    stage, server = point.stage, point.stage["server"]
    times = server["batch_times_us"]
    short = {
        "latency_us": round(stage["latency_us"]["mean"]),
        "client_us": round(stage["client_cpu_us_per_request"]),
        "queue_us": round(server["queue_us"]),
        "batches": {rows: (count, round(times[rows])) for rows, count in server["batch_sizes"].items()},
    }
    return replace(
        point,
        windows=tuple(round(rows) for rows in point.windows),
        mean_batch=round(point.mean_batch, 2),
        p99_ms=point.p99_ms and round(point.p99_ms, 2),
        p99_high_ms=point.p99_high_ms and round(point.p99_high_ms, 2),
        percentiles_ms=(),
        stage=short,
    )


def _lengthened(stage: dict[str, Any]) -> dict[str, Any]:
    """Return a stage as the load test writes it."""
    return {
        "latency_us": {"mean": stage["latency_us"]},
        "client_cpu_us_per_request": stage["client_us"],
        "server": {
            "queue_us": stage["queue_us"],
            "batch_sizes": {rows: count for rows, (count, _) in stage["batches"].items()},
            "batch_times_us": {rows: us for rows, (_, us) in stage["batches"].items()},
        },
    }


def _read(record: dict[str, Any]) -> Point:
    """Read a line of either form."""
    given, record = {**_DEFAULTS, **record["configuration"]}, {**_POINT, **record}
    for name in ("preferred", "profiles"):
        given[name] = tuple(given[name])
    if "batches" in record["stage"]:
        record["stage"] = _lengthened(record["stage"])
    lists = {name: tuple(record[name]) for name in ("windows", "percentiles_ms")}
    return Point(**{**record, **lists, "configuration": Configuration(**given)})


class Turns:
    """A lock that others who share this machine respect: kept from one measurement to the next for a while.

    Args:
        path: The file that is locked; None locks nothing.
        seconds: How long it is kept. A measurement that began in time is not cut off.
    """

    def __init__(self, path: Path | None, seconds: float = 60.0) -> None:
        self._file = path.open("a") if path else None
        self._seconds = seconds
        self._since: float | None = None

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Hold the lock for the block, at least."""
        if self._file is not None and self._since is None:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            self._since = time.monotonic()
        try:
            yield
        finally:
            if self._since is not None and time.monotonic() - self._since > self._seconds:
                self.end()

    def end(self) -> None:
        """Let others have it."""
        if self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_UN)
            self._since = None


@dataclass(frozen=True, slots=True)
class Measuring:
    """A running server in explicit mode, and how it is measured.

    Attributes:
        server: The server.
        live: The connection that loads models on it.
        turns: Held while something is measured.
        probe: Says how fast the machine is.
    """

    server: Server
    live: LiveServer
    turns: Turns
    probe: "Probe"

    def measure(
        self,
        model: str,
        configuration: Configuration,
        users: Sequence[int],
        stage_s: float,
        kind: str = "ladder",
        rows: str = "1",
    ) -> list[Point]:
        """Load a configuration, and measure it under each load. `rows` is that of the load test.

        Raises:
            HostError: It does not load.
        """
        with self.turns.taken(), tempfile.TemporaryDirectory() as folder:
            self.live.load(model, [1], config=self._config(model, configuration))
            slowdown = self.probe.slowdown()
            watch, before = Stopwatch(self.server.pid), _children_s()
            result = self._run(model, users, stage_s, rows, Path(folder))
            others = watch.stop(children_s=_children_s() - before).others or 0.0
            slowdown = max(slowdown, self.probe.slowdown())
        return [_point(model, configuration, stage, (round(others, 3), slowdown), kind) for stage in result["stages"]]

    def _config(self, model: str, wanted: Configuration) -> Any:
        path = self.server.repository / model / pbtxt.FILE
        config = pbtxt.parse(path.read_text(), where=path)
        config.max_batch_size = wanted.max_batch_size
        config.instance_group[0].count = wanted.instances
        config.dynamic_batching.preferred_batch_size[:] = wanted.preferred
        config.dynamic_batching.max_queue_delay_microseconds = wanted.delay_us
        if wanted.threads is not None:
            config.parameters["intra_op_thread_count"].string_value = str(wanted.threads)
        return config

    def _run(self, model: str, users: Sequence[int], stage_s: float, rows: str, folder: Path) -> dict[str, Any]:
        command = [sys.executable, "-m", "loadtest", "run", "--host", f"http://{self.server.http_address}"]
        command += ["--grpc-address", self.server.grpc_address, "--server-metrics", "none", "--model", model]
        command += ["--repository", str(self.server.repository), "--report-dir", str(folder), "--warm-up", "0.3"]
        command += ["--scenario", "steps" if len(users) > 1 else "constant", "--stage-time", f"{stage_s:g}"]
        command += ["--concurrency", ",".join(str(count) for count in users), "--rows", rows]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        path = folder / "result.json"
        assert path.exists(), done.stdout + done.stderr
        return dict(json.loads(path.read_text()))


def _children_s() -> float:
    """Return the processor time of our processes that have ended, in seconds."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextlib.contextmanager
def measuring(repository: Path, lock: Path | None) -> Iterator[Measuring]:
    """Serve a repository, with no model loaded at first, for the block."""
    with (
        Server.start(repository, model_control_mode="explicit", http_port=0, grpc_port=0, metrics_port=0) as server,
        LiveServer(Address(server.grpc_address), admin=server.admin) as live,
    ):
        yield Measuring(server, live, Turns(lock), Probe())


def _point(
    model: str, configuration: Configuration, stage: dict[str, Any], disturbed: tuple[float, float], kind: str
) -> Point:
    windows = stage["windows"]
    histogram = HdrHistogram.decode(stage["latency_histogram"])
    percentiles = [histogram.get_value_at_percentile(percent) / 1000 for percent in (90, 95, 98, 99, 99.5, 99.9)]
    p99_us = stage["p99_of_requests_us"]
    return Point(
        model=model,
        configuration=configuration,
        users=stage["concurrency"],
        seconds=stage["seconds"],
        requests=stage["requests"],
        wrong=sum(stage["wrong"].values()) + sum(stage["failures"].values()) + stage["unchecked"],
        windows=tuple(window["throughput_rows_per_s"] for window in windows),
        p99_ms=None if p99_us is None else p99_us / 1000,
        p99_high_ms=_upper(histogram),
        mean_batch=stage["server"]["mean_batch"] or 0.0,
        others=disturbed[0],
        slowdown=disturbed[1],
        kind=kind,
        percentiles_ms=tuple(percentiles),
        stage={name: value for name, value in stage.items() if name not in ("windows", "latency_histogram")},
    )


class Probe:
    """How fast the machine is now, beside the fastest that it has been so far."""

    def __init__(self) -> None:
        self._fastest = float("inf")
        self.slowdown()

    def slowdown(self) -> float:
        """Return how many times as long a fixed computation takes on all cores, at its best."""
        values = np.ones((768, 768), np.float32)
        taken = []
        for _ in range(6):
            started = time.perf_counter()
            for _ in range(5):
                values @ values
            taken.append(time.perf_counter() - started)
        self._fastest = min(self._fastest, *taken)
        return round(min(taken) / self._fastest, 3)


def _upper(histogram: Any) -> float | None:
    """Return the upper end of the 95 % interval of p99, in ms; None if no latency is high enough to be one.

    How many of n latencies are below the true p99 is binomial, with a mean of 0.99 n and a standard deviation of
    sqrt(0.0099 n). Of 1,000, these are 990 and 3.1, so that the 997th is the upper end.
    """
    number = histogram.get_total_count()
    rank = 0.99 * number + Z * (0.0099 * number) ** 0.5 + 1
    if rank > number:
        return None
    return float(histogram.get_value_at_percentile(100 * rank / number)) / 1000
