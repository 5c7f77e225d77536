"""Compare the search for the highest load within a p99 limit with an exhaustive ladder, on a real Triton.

    python benchmarks/load_search.py [--limits 10,20,40] [--protocols http] [--stage-time 5] [--rounds 1] [--rates]

The model is a residual network that takes a millisecond per row. The ladder measures every number of users, or from 20
up every 5 %, so its answer is the load that best divides those that kept the limit from those that missed it. Both are
run in turn, against the same server. `--rates` searches the highest rate of an open loop instead of the highest number
of users. Each line takes about six minutes, most of it for the ladder.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from random_networks import resnet26_small

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from builder.server import Server  # noqa: E402

PRECISION = 0.05
MODEL = "residual"


@dataclass(frozen=True)
class Measured:
    """What a run found: the highest load within the limit, its stages, and how many seconds it took."""

    answer: float
    stages: list[dict[str, Any]]
    seconds: float


def rungs(low: float, high: float, *, whole: bool) -> list[float]:
    """Return loads with steps of 5 %, or 1 user where that is more."""
    found = [low]
    while found[-1] < high:
        step = found[-1] * PRECISION
        found.append(min(found[-1] + (max(1, round(step)) if whole else step), high))
    return found


def dividing(kept: Sequence[tuple[float, bool]]) -> float:
    """Return the load that divides best: with the fewest below it that missed the limit and above it that kept it."""
    loads = [0.0, *(load for load, _ in kept)]
    return min(loads, key=lambda edge: sum(is_kept == (load > edge) for load, is_kept in kept))


def run(server: Server, repository: Path, limit_ms: str, *more: str) -> tuple[dict[str, Any], float]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "loadtest", "run", "--only-summary", "--host", f"http://{server.http_address}"]
        command += ["--grpc-address", server.grpc_address, "--server-metrics", "none", "--model", MODEL]
        command += ["--repository", str(repository), "--max-p99-ms", limit_ms, "--report-dir", folder, *more]
        started = time.monotonic()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        path = Path(folder) / "result.json"
        assert path.exists(), done.stdout + done.stderr
        return json.loads(path.read_text()), time.monotonic() - started


def search(server: Server, repository: Path, limit_ms: str, low_high: Sequence[float], *more: str) -> Measured:
    option = "--rate" if "--max-in-flight" in more else "--concurrency"
    loads = ",".join(f"{load:g}" for load in low_high)
    result, seconds = run(server, repository, limit_ms, "--scenario", "search", option, loads, *more)
    answer = result["search"]["answer"]
    return Measured(answer["load"] if answer else 0.0, result["stages"], seconds)


def ladder(server: Server, repository: Path, limit_ms: str, low_high: Sequence[float], *more: str) -> Measured:
    is_open_loop = "--max-in-flight" in more
    loads = rungs(*low_high, whole=not is_open_loop)
    scenario = ["--scenario", "rate", "--rate"] if is_open_loop else ["--scenario", "steps", "--concurrency"]
    scenario.append(",".join(f"{load:g}" for load in loads))
    result, seconds = run(server, repository, limit_ms, *scenario, *more)
    kept = [(load, bool(stage["keeps_p99"])) for load, stage in zip(loads, result["stages"], strict=True)]
    return Measured(dividing(kept), result["stages"], seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limits", default="10,20,40", help="p99 limits in ms")
    parser.add_argument("--protocols", default="http")
    parser.add_argument("--stage-time", default="5")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--range", default="", help="LOW,HIGH; 1,64 users or 200,2000 requests/s by default")
    parser.add_argument("--rates", action="store_true")
    options = parser.parse_args()
    more = ["--stage-time", options.stage_time, *(["--max-in-flight", "256", "--arrivals", "poisson"] * options.rates)]
    low_high = [float(load) for load in (options.range or ("200,2000" if options.rates else "1,64")).split(",")]
    print("| protocol | limit | search | its stages | its time | ladder | its stages | its time | search ÷ ladder |")
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder)
        command = [sys.executable, "-m", "builder", "publish", str(resnet26_small()), "--repository", str(repository)]
        subprocess.run([*command, "--name", MODEL], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        with Server.start(repository, http_port=0, grpc_port=0, metrics_port=0) as server:
            for protocol in options.protocols.split(","):
                for limit_ms in options.limits.split(",") * options.rounds:
                    found = [
                        measure(server, repository, limit_ms, low_high, "--protocol", protocol, *more)
                        for measure in (search, ladder)
                    ]
                    print(f"| {protocol} | {limit_ms} ms | {cells(*found)} |", flush=True)


def cells(first: Measured, second: Measured) -> str:
    shown = [f"{one.answer:g} | {len(one.stages)} | {one.seconds:.0f} s" for one in (first, second)]
    ratio = f"{first.answer / second.answer:.2f}" if second.answer else "no load kept the limit"
    return f"{shown[0]} | {shown[1]} | {ratio}"


if __name__ == "__main__":
    main()
