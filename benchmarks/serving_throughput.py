"""Measure what dynamic batching gains in the embedded server, and what the server costs.

    python benchmarks/serving_throughput.py [--concurrency 16] [--rounds 3] [--protocol grpc] [--json]

The same requests are answered in three ways, one after the other in every round, on the same cores. The figures are
medians of the rounds.

- static: the original model in the embedded Triton, one request at a time;
- dynamic: the published model in the same server, which gathers concurrent requests into batches;
- in process: ONNX Runtime without a server, given whole batches of the size that suits it best.

NVIDIA's perf_analyzer makes the load, and shares the processor with the first two. There are three models: the example,
which takes 0.1 ms, little compared with the cost of a request in server and client; a perceptron, which is small too
but has weights to read; and a residual network that takes a few milliseconds.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime
from perf_analyzer import PerfAnalyzer
from random_networks import CACHE, ranker, resnet26_small

from builder.server import Server

EXAMPLE = Path(__file__).parents[1] / "examples" / "digits" / "digits.onnx"
BATCH_SIZES = (1, 2, 4, 8, 16, 32)
IN_PROCESS_S = 1.0
QUIET = 0.5
WINDOW_MS = 2000
STABILITY_PERCENT = 90
"""How far three windows may differ. This is wide because the rounds already even out a busy machine."""


@dataclass(frozen=True, slots=True)
class Load:
    """One measured load: answered rows per second, and the latency of a request in microseconds."""

    rows_per_s: float
    p50_us: float
    p99_us: float


@dataclass(frozen=True, slots=True)
class Result:
    """Medians over the rounds for one model.

    Attributes:
        load_average: Of the machine, over the minute before. Above QUIET, something else was running.
        dynamic_over_static: The ratio of each round, lowest, median and highest.
        dynamic_over_in_process: The same.
    """

    model: str
    rounds: int
    load_average: float
    static: Load
    dynamic: Load
    in_process_rows_per_s: float
    in_process_batch_size: int
    dynamic_over_static: tuple[float, float, float]
    dynamic_over_in_process: tuple[float, float, float]


def publish(model: Path, repository: Path, *options: str) -> Path:
    """Publish `model` with the command line and return its version directory."""
    command = [sys.executable, "-m", "builder", "publish", str(model), "--repository", str(repository), *options]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Path(done.stdout.strip())


def drive(server: Server, model_name: str, protocol: str, concurrency: int) -> Load:
    """Keep `concurrency` requests of one row in flight until perf_analyzer calls the figures stable."""
    tool = PerfAnalyzer.fetched()
    address = server.grpc_address if protocol == "grpc" else server.http_address
    with tempfile.NamedTemporaryFile(suffix=".csv") as table:
        command = [
            *(str(tool.binary), "-m", model_name, "-u", address, "-i", protocol, "-f", table.name, "--async"),
            *("--concurrency-range", str(concurrency), "--measurement-interval", str(WINDOW_MS)),
            *("--stability-percentage", str(STABILITY_PERCENT)),
        ]
        done = subprocess.run(command, env=tool.environment, capture_output=True, text=True)
        rows = list(csv.DictReader(Path(table.name).read_text().splitlines()))
    if done.returncode or not rows:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
    return Load(*(float(rows[-1][name]) for name in ("Inferences/Second", "p50 latency", "p99 latency")))


def served(repository: Path, model_name: str, protocol: str, concurrency: int) -> Load:
    """Start the embedded server on `repository` and measure one load."""
    with Server.start(repository, http_port=0, grpc_port=0, metrics_port=0) as server:
        return drive(server, model_name, protocol, concurrency)


def in_process(model: Path) -> tuple[float, int]:
    """Return the best rows per second of ONNX Runtime with ready batches, and the batch size that gave it."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (value,) = session.get_inputs()
    rng = np.random.default_rng(0)
    return max((_rows_per_s(session, value, size, rng), size) for size in BATCH_SIZES)


def _rows_per_s(
    session: onnxruntime.InferenceSession, value: onnxruntime.NodeArg, size: int, rng: np.random.Generator
) -> float:
    feeds = {value.name: rng.random((size, *value.shape[1:]), dtype=np.float32)}
    session.run(None, feeds)
    runs, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < IN_PROCESS_S:
        session.run(None, feeds)
        runs += 1
    return runs * size / elapsed


def measure(model: Path, *, rounds: int, protocol: str, concurrency: int) -> Result:
    """Measure the three ways in turns and take medians."""
    CACHE.mkdir(exist_ok=True)
    load_average = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        static, dynamic = Path(name) / "static", Path(name) / "dynamic"
        publish(model, static, "--static")
        published = publish(model, dynamic) / "model.onnx"
        triples = [
            (
                served(static, model.stem, protocol, concurrency),
                served(dynamic, model.stem, protocol, concurrency),
                in_process(published),
            )
            for _ in range(rounds)
        ]
    statics, dynamics, direct = zip(*triples, strict=True)
    return Result(
        model=model.name,
        rounds=rounds,
        load_average=load_average,
        static=median_of(statics),
        dynamic=median_of(dynamics),
        in_process_rows_per_s=median(rate for rate, _ in direct),
        in_process_batch_size=max(direct)[1],
        dynamic_over_static=spread([b.rows_per_s / a.rows_per_s for a, b, _ in triples]),
        dynamic_over_in_process=spread([b.rows_per_s / rate for _, b, (rate, _) in triples]),
    )


def median_of(loads: Sequence[Load]) -> Load:
    """Return the median of each figure."""
    return Load(*(median(getattr(load, name) for load in loads) for name in ("rows_per_s", "p50_us", "p99_us")))


def spread(ratios: Sequence[float]) -> tuple[float, float, float]:
    """Return the lowest, the median and the highest."""
    return min(ratios), median(ratios), max(ratios)


def show(results: Sequence[Result]) -> None:
    """Print a table."""
    print(f"{'model':20} {'way':11} {'rows/s':>8} {'p50 ms':>8} {'p99 ms':>8}  dynamic is (lowest to highest)")
    for each in results:
        for way, load, over in (("static", each.static, each.dynamic_over_static), ("dynamic", each.dynamic, None)):
            latency = f"{load.p50_us / 1e3:8.2f} {load.p99_us / 1e3:8.2f}"
            print(f"{each.model:20} {way:11} {load.rows_per_s:8.0f} {latency}  {_ratio(over)}".rstrip())
        direct = f"direct, {each.in_process_batch_size}"
        ratio = _ratio(each.dynamic_over_in_process)
        print(f"{each.model:20} {direct:11} {each.in_process_rows_per_s:8.0f} {'':17}  {ratio}")


def _ratio(over: tuple[float, float, float] | None) -> str:
    return "" if over is None else f"{over[1]:.2f} times ({over[0]:.2f} to {over[2]:.2f})"


def main() -> None:
    """Measure every model and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path, metavar="MODEL.onnx", help="of one float32 input")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--protocol", choices=("grpc", "http"), default="grpc")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    results = [
        measure(model, rounds=asked.rounds, protocol=asked.protocol, concurrency=asked.concurrency)
        for model in asked.models or [EXAMPLE, ranker(), resnet26_small()]
    ]
    if (busy := results[0].load_average) > QUIET:
        print(f"load average {busy:.1f} before the start: the machine was not quiet", file=sys.stderr)
    if asked.json:
        print(json.dumps([asdict(result) for result in results], indent=1))
    else:
        show(results)


if __name__ == "__main__":
    main()
