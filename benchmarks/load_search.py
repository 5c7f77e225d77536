"""Compare the search for the highest load within a p99 limit with an exhaustive ladder, on a real Triton.

    python benchmarks/load_search.py [--loops closed,open] [--limits 80,100] [--range 8,64] [--stage-time 10]
                                     [--rounds 1] [--protocol http] [--residual]

The model sleeps, so that p99 comes from its queue and not from the noise of the machine; with `--residual` it is a
network that takes a millisecond per row. A closed loop has a number of users, an open one random arrivals at a rate.

In each round, the ladder measures every load of the range in steps of 5 %, or 1 user where that is more. Its answer to
a limit is the load that best divides those that kept it from those that missed it. The last column has its p99 around
the limit; where it crosses the limit several times, these are the loads between the first and the last time. Then each
limit is searched, on the same server.

One round takes about half an hour. On a busy machine, put `chrt --rr 10` in front of it, as root: neither the model nor
the load needs much of the processor, but both need it at once.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from random_networks import resnet26_small
from sleeping_model import write_sleeping_model

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from builder.server import Server  # noqa: E402

PRECISION = 0.05


@dataclass(frozen=True)
class Loop:
    """How load is made.

    Attributes:
        low: The lowest load.
        high: The highest load.
        limits: The limits on p99, in ms.
        max_batch_size: That of the sleeping model. With small batches, p99 of a closed loop is the length of the queue;
            with large ones, a queue that a disturbance left behind is soon gone.
        options: The options of a load test.
        is_open: Whether the load is a rate, in requests per second; otherwise it is a number of users.
    """

    low: float
    high: float
    limits: Sequence[float]
    max_batch_size: int
    options: Sequence[str] = ()
    is_open: bool = False

    def rungs(self) -> list[float]:
        """Return the loads of the ladder."""
        found = [self.low]
        while found[-1] < self.high:
            step = found[-1] * PRECISION
            found.append(min(found[-1] + (step if self.is_open else max(1, round(step))), self.high))
        return found


LOOPS = {
    "closed": Loop(8, 64, (90, 120, 150), max_batch_size=4),
    "open": Loop(150, 700, (80, 100), 32, options=("--max-in-flight", "256", "--arrivals", "poisson"), is_open=True),
}


@dataclass(frozen=True)
class Target:
    """A model on a server: the options that name it, and those of every run."""

    options: Sequence[str]

    def run(self, loop: Loop, scenario: str, loads: Sequence[float], *more: str) -> tuple[dict[str, Any], float]:
        """Return the result of a run, and how many seconds it took."""
        option = "--rate" if loop.is_open else "--concurrency"
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "loadtest", "run", "--only-summary", "--report-dir", folder, *self.options]
            command += ["--scenario", scenario, option, ",".join(f"{load:g}" for load in loads), *loop.options, *more]
            started = time.monotonic()
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            path = Path(folder) / "result.json"
            assert path.exists(), done.stdout + done.stderr
            return json.loads(path.read_text()), time.monotonic() - started

    def climb(self, loop: Loop) -> tuple[dict[float, float], float]:
        """Return the p99 of every rung in ms, infinite where too few requests were answered, and how long it took."""
        result, seconds = self.run(loop, "rate" if loop.is_open else "steps", loop.rungs())
        found = [stage["latency_us"]["p99"] for stage in result["stages"]]
        p99_ms = [float("inf") if p99_us is None else p99_us / 1000 for p99_us in found]
        return dict(zip(loop.rungs(), p99_ms, strict=True)), seconds


def find_edge(p99_ms: Mapping[float, float], limit_ms: float) -> float:
    """Return the load that divides best: with the fewest below it that missed the limit and above it that kept it.

    If several divide equally well, it is the one in the middle.
    """
    edges = [0.0, *p99_ms]
    mistakes = [sum((p99 <= limit_ms) == (load > edge) for load, p99 in p99_ms.items()) for edge in edges]
    best = [edge for edge, made in zip(edges, mistakes, strict=True) if made == min(mistakes)]
    return best[len(best) // 2]


def around(p99_ms: Mapping[float, float], limit_ms: float) -> str:
    """Return the loads and their p99 between the lowest that missed the limit and the highest that kept it."""
    ends = [
        max((load for load, p99 in p99_ms.items() if p99 <= limit_ms), default=min(p99_ms)),
        min((load for load, p99 in p99_ms.items() if p99 > limit_ms), default=max(p99_ms)),
    ]
    return ", ".join(f"{load:.4g}: {p99:.0f}" for load, p99 in p99_ms.items() if min(ends) <= load <= max(ends))


def rows(target: Target, name: str, loop: Loop) -> Iterator[str]:
    """Yield a line for each limit."""
    p99_ms, ladder_s = target.climb(loop)
    for limit in loop.limits:
        result, seconds = target.run(loop, "search", (loop.low, loop.high), "--max-p99-ms", f"{limit:g}")
        answer, right = result["search"]["answer"], find_edge(p99_ms, limit)
        found = answer["load"] if answer else 0.0
        difference = f"{found / right - 1:+.1%}" if right else "no load kept the limit"
        cells = [name, f"{limit:g} ms", f"{found:g}", str(len(result["stages"])), f"{seconds:.0f} s", f"{right:.4g}"]
        cells += [str(len(p99_ms)), f"{ladder_s:.0f} s", difference, around(p99_ms, limit)]
        yield f"| {' | '.join(cells)} |"


def publish_residual(repository: Path) -> Sequence[str]:
    """Publish the residual network, and return the options that name it."""
    command = [sys.executable, "-m", "builder", "publish", str(resnet26_small()), "--name", "residual"]
    command += ["--repository", str(repository)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return ["--model", "residual", "--repository", str(repository)]


@contextlib.contextmanager
def serving(loop: Loop, *, residual: bool) -> Iterator[Sequence[str]]:
    """Serve a model, and yield the options that name it."""
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder)
        if residual:
            named = publish_residual(repository)
        else:
            answers = write_sleeping_model(repository, "sleeping", max_batch_size=loop.max_batch_size)
            named = ["--model", "sleeping", "--input-data", str(answers)]
        with Server.start(repository, http_port=0, grpc_port=0, metrics_port=0) as server:
            addresses = ["--host", f"http://{server.http_address}", "--grpc-address", server.grpc_address]
            yield [*addresses, *named, "--server-metrics", "none"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loops", default="closed,open")
    parser.add_argument("--limits", default="", help="p99 limits in ms")
    parser.add_argument("--range", default="", help="the lowest and the highest load")
    parser.add_argument("--stage-time", default="10")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--protocol", default="http")
    parser.add_argument("--residual", action="store_true")
    chosen = parser.parse_args()
    print("| loop | limit | search | stages | time | ladder | stages | time | difference | p99 of the ladder, ms |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in chosen.loops.split(","):
        changes: dict[str, Any] = {}
        if chosen.limits:
            changes["limits"] = [float(limit) for limit in chosen.limits.split(",")]
        if chosen.range:
            changes["low"], changes["high"] = map(float, chosen.range.split(","))
        loop = replace(LOOPS[name], **changes)
        with serving(loop, residual=chosen.residual) as options:
            target = Target([*options, "--protocol", chosen.protocol, "--stage-time", chosen.stage_time])
            for _ in range(chosen.rounds):
                for row in rows(target, name, loop):
                    print(row, flush=True)


if __name__ == "__main__":
    main()
