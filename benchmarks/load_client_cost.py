"""Measure what a checked request costs our load generator, next to an unchecked one of perf_analyzer.

    python benchmarks/load_client_cost.py [--concurrency 1,4,16,64] [--processes 1,2] [--seconds 3] [--repeats 3]
                                          [--model residual]

Both tools send requests to the same model on the same embedded server, in turn, over HTTP and gRPC. The CPU time of
the tool's processes and the server's own count of requests are read twice in the middle of each run, so that neither
start-up nor shutdown counts. Latency and throughput are what the tools themselves report for the run.

The tiny classifier shows what the tools cost: they use as much of the processor as the server does. With the residual
network, which takes a millisecond per row, the server is the limit, and both tools should report the same.
"""

import argparse
import contextlib
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from perf_analyzer import PerfAnalyzer
from random_networks import resnet26_small

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.load_server import serving, write_version  # noqa: E402

from builder.server import Server, free_port  # noqa: E402

SETTLE_S = 2.0
HANG_S, ATTEMPTS = 60, 3
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Target:
    """The model to send requests to, and the server and the repository it is in."""

    server: Server
    repository: Path
    model: str


@dataclass(frozen=True)
class Reading:
    """One tool at one load: CPU microseconds per request, requests per second, p50 and p99 in microseconds."""

    cpu_us: float
    throughput: float
    p50_us: float
    p99_us: float


def request_count(target: Target) -> int:
    with urllib.request.urlopen(f"http://{target.server.http_address}/v2/models/{target.model}/stats") as answer:
        return int(json.load(answer)["model_stats"][0]["inference_stats"]["success"]["count"])


def cpu_s(pids: Sequence[int]) -> float:
    total = 0.0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / TICKS
    return total


def family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in family(int(child)))]


def sample(process: "subprocess.Popen[bytes]", target: Target, seconds: float) -> tuple[float, float]:
    """Return CPU microseconds per request and requests per second over `seconds` in the middle of a run."""
    before = request_count(target)
    while request_count(target) - before < 50:
        assert process.poll() is None, "the load generator ended early"
        time.sleep(0.1)
    time.sleep(SETTLE_S)
    pids = family(process.pid)
    cpu, count, started = cpu_s(pids), request_count(target), time.perf_counter()
    time.sleep(seconds)
    served = request_count(target) - count
    return (cpu_s(pids) - cpu) / served * 1e6, served / (time.perf_counter() - started)


def with_perf_analyzer(target: Target, protocol: str, concurrency: int, seconds: float) -> Reading:
    for _ in range(ATTEMPTS):
        with contextlib.suppress(
            subprocess.TimeoutExpired
        ):  # going through the requests of a long window, it takes minutes
            return _with_perf_analyzer(target, protocol, concurrency, seconds)
    raise SystemExit(f"perf_analyzer hung {ATTEMPTS} times over {protocol} at {concurrency}")


def _with_perf_analyzer(target: Target, protocol: str, concurrency: int, seconds: float) -> Reading:
    tool = PerfAnalyzer.fetched()
    address = {"http": target.server.http_address, "grpc": target.server.grpc_address}[protocol]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figures.csv"
        window_ms = int((SETTLE_S + seconds) * 500)
        command = [str(tool.binary), "-m", target.model, "-i", protocol, "-u", address, "-f", str(path)]
        command += ["--concurrency-range", str(concurrency), "-p", str(window_ms), "--stability-percentage", "999"]
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen(command, env=tool.environment, stdout=log, stderr=log)
            try:
                cpu_us, throughput = sample(process, target, seconds)
                process.wait(HANG_S)
            finally:
                process.kill()
        (line,) = csv.DictReader(path.open())
    return Reading(cpu_us, throughput, float(line["p50 latency"]), float(line["p99 latency"]))


def with_ours(target: Target, protocol: str, concurrency: int, seconds: float, processes: int = 1) -> Reading:
    server = target.server
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "locust", "-f", str(ROOT / "loadtest" / "locustfile.py"), "--headless"]
        command += ["--only-summary", "--host", f"http://{server.http_address}", "--grpc-address", server.grpc_address]
        command += ["--server-metrics", "none", "--model", target.model]
        command += ["--repository", str(target.repository)]
        command += ["--protocol", protocol, "--scenario", "constant", "--concurrency", str(concurrency)]
        command += ["--stage-time", str(SETTLE_S + seconds + 1), "--report-dir", folder]
        if processes > 1:
            port = str(free_port())
            command += ["--processes", str(processes), "--master-bind-port", port, "--master-port", port]
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
            cpu_us, throughput = sample(process, target, seconds)
            code = process.wait(120)
        assert code == 0, (Path(folder) / "log").read_text()
        (stage,) = json.loads((Path(folder) / "result.json").read_text())["stages"]
    return Reading(cpu_us, throughput, stage["latency_us"]["p50"], stage["latency_us"]["p99"])


def median(readings: Sequence[Reading]) -> Reading:
    names = ("cpu_us", "throughput", "p50_us", "p99_us")
    return Reading(*(statistics.median(getattr(reading, name) for reading in readings) for name in names))


def prepare(repository: Path, model: str) -> str:
    """Put the model into the repository and return its name there."""
    if model == "tiny":
        write_version(repository)
        return "classifier"
    command = [sys.executable, "-m", "builder", "publish", str(resnet26_small()), "--repository", str(repository)]
    subprocess.run([*command, "--name", model], check=True, stdout=subprocess.DEVNULL)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--concurrency", default="1,4,16,64")
    parser.add_argument("--processes", default="1,2")
    parser.add_argument("--protocols", default="http,grpc")
    parser.add_argument("--model", choices=["tiny", "residual"], default="tiny")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(
        "protocol users processes |  CPU us: PA   ours  ratio |  req/s: PA   ours ratio "
        "|  p50 us: PA  ours |  p99 us: PA  ours"
    )
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder)
        model = prepare(repository, options.model)
        with serving(repository) as server:
            target = Target(server, repository, model)
            for protocol in options.protocols.split(","):
                for users in map(int, options.concurrency.split(",")):
                    for processes in map(int, options.processes.split(",")):
                        if processes > users:
                            continue
                        theirs, ours = [], []
                        for _ in range(options.repeats):
                            theirs.append(with_perf_analyzer(target, protocol, users, options.seconds))
                            ours.append(with_ours(target, protocol, users, options.seconds, processes))
                        print(line(protocol, users, processes, median(theirs), median(ours)), flush=True)


def line(protocol: str, users: int, processes: int, theirs: Reading, ours: Reading) -> str:
    return (
        f"{protocol:8} {users:5} {processes:9} "
        f"| {theirs.cpu_us:10.1f} {ours.cpu_us:6.1f} {ours.cpu_us / theirs.cpu_us:6.2f} "
        f"| {theirs.throughput:9.0f} {ours.throughput:6.0f} {ours.throughput / theirs.throughput:5.2f} "
        f"| {theirs.p50_us:9.0f} {ours.p50_us:6.0f} | {theirs.p99_us:9.0f} {ours.p99_us:6.0f}"
    )


if __name__ == "__main__":
    main()
