"""Run `tune` on the real embedded server, as a user does, and measure afresh what it wrote back.

    python benchmarks/tune/real.py [--strategy tune] [--models digits] [--tries 5] [--runs 10] [--table] [--lock FILE]

Each try is the command `tune NAME --max-p99-ms LIMIT --apply --fresh --json`. Then another server serves what it wrote,
and load tests measure it at the load that it named, beside the optimum of the ladder, in turns: `share` is the ratio of
the two, measured within half a minute. At the end, `tune NAME --undo` has to bring back the config, byte by byte.

Two runs of the same point differ by 4 to 8 % here, so six of them say the ratio within 4 to 7 %. Most tries choose one
of a few points; the table therefore also says each share by all runs of these points together, in all tries.

`--strategy quick` and `random` run Model Analyzer's quick search and random search on the same server instead, with
runs of as many seconds as those of `tune`.

The tries go into benchmarks/.cache/tune/real.jsonl, one after the other, and what each tuning wrote into files beside
it; `--table` only prints the tries.
"""

import argparse
import json
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ladder import FOLDER, LARGEST, REPOSITORY, TABLE, canonical, describe, keeps, shared
from measured import Measuring, Point, Table, Turns, measuring
from quick_search import QuickSearch, Trial
from truth import Key, Truth
from tune_models import ROOT, SUBJECTS, Subject, publish

from builder.config import pbtxt
from builder.tuning import Configuration

TRIES = FOLDER / "real.jsonl"
AIM, RUNS, SECONDS = 0.97, 10, 120.0
ROUNDS, FRESH_S = 3, 4.0
RUN_S = 8.0
"""How long the runs of a strategy take, so that ten of `tune` fit into the two minutes."""


@dataclass(frozen=True, slots=True)
class Try:
    """One tuning, and the fresh runs of what it wrote.

    Attributes:
        strategy: `tune`, `quick` or `random`.
        model: The model.
        number: Which try of this model.
        verdict: What the tuning says.
        configuration: The configuration that it chose; None if it chose none.
        users: The load that it named.
        runs: How many runs it made.
        seconds: How long the command took.
        throughput: The mean rows per second of the fresh runs.
        optimum: The mean of those of the ladder's optimum, measured in turns with them.
        low: The lower end of the 95 % interval of their ratio, from the windows.
        high: The upper end.
        p99_ms: The p99 of each fresh run.
        limit_ms: The limit.
        wrong: How many answers of the fresh runs were wrong, or not there.
        restored: Whether `--undo` brought the config back; None if nothing was applied.
    """

    strategy: str
    model: str
    number: int
    verdict: str
    configuration: Configuration | None
    users: int
    runs: int
    seconds: float
    throughput: float
    optimum: float
    low: float
    high: float
    p99_ms: tuple[float, ...]
    limit_ms: float
    wrong: int
    restored: bool | None

    @property
    def chosen(self) -> str:
        """What it chose, in a few letters."""
        return f"{describe(self.configuration)}, {self.users} users" if self.configuration else "nothing"

    @property
    def share(self) -> float:
        """Which part of the optimum it gives."""
        return self.throughput / self.optimum if self.optimum else 0.0

    @property
    def keeps(self) -> bool:
        """Whether every fresh run kept the limit."""
        return not self.wrong and bool(self.p99_ms) and max(self.p99_ms) <= self.limit_ms

    @property
    def succeeds(self) -> bool:
        """Whether it reaches the aim: within 3 % of the optimum, in 10 runs and 2 minutes, within the limit."""
        return self.share >= AIM and self.keeps and self.runs <= RUNS and self.seconds <= SECONDS


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a strategy came to: its verdict, what it chose, its runs, and whether what it wrote was taken back."""

    verdict: str
    key: Key | None
    runs: int
    seconds: float
    fresh: Mapping[Key, Sequence[Point]]
    restored: bool | None = None


def attempt(server: Measuring, truth: Truth, strategy: str, number: int, runs: int) -> Try:
    """Tune, measure afresh, and bring the config back."""
    outcome = STRATEGIES[strategy](server, truth, number, runs)
    key = outcome.key
    mine, best = outcome.fresh.get(key, []) if key else [], outcome.fresh.get(truth.optimum, [])
    low, high = _interval(mine, best)
    return Try(
        strategy=strategy,
        model=truth.subject.name,
        number=number,
        verdict=outcome.verdict,
        configuration=key[0] if key else None,
        users=key[1] if key else 0,
        runs=outcome.runs,
        seconds=outcome.seconds,
        throughput=_mean(mine),
        optimum=_mean(best) or truth.known[truth.optimum].throughput,
        low=low,
        high=high,
        p99_ms=tuple(point.p99_ms or float("inf") for point in mine),
        limit_ms=truth.subject.limit_ms,
        wrong=sum(point.wrong for point in mine),
        restored=outcome.restored,
    )


def tune(server: Measuring, truth: Truth, number: int, runs: int) -> Outcome:
    """Run the command."""
    subject, config = truth.subject, REPOSITORY / truth.subject.name / pbtxt.FILE
    before = config.read_bytes()
    command = ["--max-p99-ms", f"{subject.limit_ms:g}", "--protocol", "http", "--runs", str(runs)]
    command += ["--stage-time", f"{RUN_S:g}"]
    started = time.monotonic()
    document = _tune(subject, *command, "--apply", "--fresh", "--json")
    seconds = time.monotonic() - started
    (FOLDER / f"{subject.name}.{number}.json").write_text(json.dumps(document))
    found = document["found"] or {"verdict": "none", "best": None}
    is_applied = config.read_bytes() != before
    key = _key(found["best"])
    fresh = _in_turns(server, subject, [key, truth.optimum]) if key else {}
    restored = None
    if is_applied:
        _tune(subject, "--undo", "--json")
        restored = config.read_bytes() == before
        config.write_bytes(before)
    return Outcome(found["verdict"], key, len(document["steps"]), seconds, fresh, restored)


def quick(server: Measuring, truth: Truth, number: int, runs: int) -> Outcome:
    """Run Model Analyzer's quick search."""
    del number, runs
    started, subject = time.monotonic(), truth.subject

    def measure(batch: int, instances: int, users: int) -> Trial:
        (point,) = server.measure(subject.name, shared(instances, batch), [users], RUN_S, "quick")
        p99 = (point.p99_ms or float("inf")) / subject.limit_ms
        return Trial(batch, instances, users, point.throughput, float("inf") if point.wrong else p99)

    search = QuickSearch(measure, batches=LARGEST, instances=2)
    best = search.run((LARGEST, 1))
    seconds = time.monotonic() - started
    key = (shared(best.instances, best.batch), best.users) if best else None
    fresh = _in_turns(server, subject, [key, truth.optimum]) if key else {}
    return Outcome("", key, len(search.trials), seconds, fresh)


def at_random(server: Measuring, truth: Truth, number: int, runs: int) -> Outcome:
    """Measure random points, and take the best one that kept the limit."""
    started, subject, rng = time.monotonic(), truth.subject, random.Random(number)
    chosen = [(rng.choice(truth.configurations()), rng.choice(subject.users)) for _ in range(runs)]
    points = [point for key in chosen for point in server.measure(subject.name, key[0], [key[1]], RUN_S, "random")]
    seconds = time.monotonic() - started
    kept = [point for point in points if keeps(point, subject)]
    best = max(kept, key=lambda point: point.throughput, default=None)
    key = (best.configuration, best.users) if best else None
    fresh = _in_turns(server, subject, [key, truth.optimum]) if key else {}
    return Outcome("", key, runs, seconds, fresh)


STRATEGIES = {"tune": tune, "quick": quick, "random": at_random}


def _tune(subject: Subject, *options: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "builder", "tune", subject.name, "--repository", str(REPOSITORY), *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            out, said = process.communicate()
        except KeyboardInterrupt:  # `subprocess.run` would kill it, and a killed tuning cannot clean up
            process.send_signal(signal.SIGINT)
            process.communicate()
            raise
    try:
        return dict(json.loads(out))
    except ValueError:
        raise SystemExit(f"{' '.join(command)}\n{out}\n{said}") from None


def _key(best: dict[str, Any] | None) -> Key | None:
    """Return the configuration and the users of a result."""
    if best is None or best["load"]["users"] is None:
        return None
    return _configuration(best["configuration"]), best["load"]["users"]


def _configuration(given: dict[str, Any]) -> Configuration:
    return Configuration(**{**given, **{name: tuple(given[name]) for name in ("preferred", "profiles")}})


def _in_turns(server: Measuring, subject: Subject, keys: Sequence[Key]) -> dict[Key, list[Point]]:
    """Measure points in turns."""
    found: dict[Key, list[Point]] = {key: [] for key in keys}
    for _ in range(ROUNDS):
        for key in found:
            found[key] += server.measure(subject.name, key[0], [key[1]], FRESH_S, "again")
    kept = Table(TABLE)
    for points in found.values():
        kept.add([replace(point, configuration=canonical(point.configuration, point.users)) for point in points])
    return found


def _mean(points: Sequence[Point]) -> float:
    return statistics.fmean(point.throughput for point in points) if points else 0.0


def _interval(mine: Sequence[Point], best: Sequence[Point]) -> tuple[float, float]:
    """Return the 95 % interval of the ratio of two means, from how much their windows differ."""
    if not mine or not best:
        return 0.0, 0.0
    windows = [[rows for point in points for rows in point.windows] for points in (mine, best)]
    means = [statistics.fmean(rows) for rows in windows]
    errors = [statistics.stdev(rows) / len(rows) ** 0.5 / mean for rows, mean in zip(windows, means, strict=True)]
    ratio, margin = means[0] / means[1], 2.1 * (errors[0] ** 2 + errors[1] ** 2) ** 0.5
    return ratio * (1 - margin), ratio * (1 + margin)


def read_tries() -> list[Try]:
    """Return the tries so far."""
    lines = TRIES.read_text().splitlines() if TRIES.exists() else []
    return [_read(json.loads(line)) for line in lines]


def _read(record: dict[str, Any]) -> Try:
    given = record["configuration"]
    return Try(**{**record, "p99_ms": tuple(record["p99_ms"]), "configuration": given and _configuration(given)})


def table(tries: Sequence[Try], truths: Mapping[str, Truth]) -> Iterator[str]:
    """Yield a line for each try, and what they come to."""
    yield (
        "| model | try | chosen | verdict | runs | seconds | share of the optimum (95 %) | by all runs | p99, limit "
        "| reaches the aim |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for one in tries:
        share = f"{one.share:.2f} ({one.low:.2f} to {one.high:.2f})"
        p99 = f"{max(one.p99_ms, default=float('nan')):.1f} ms, {one.limit_ms:g} ms"
        cells = [one.model, one.number + 1, one.chosen, one.verdict, one.runs, f"{one.seconds:.0f}", share]
        cells += [f"{by_all_runs(one, truths):.2f}", p99]
        yield f"| {' | '.join(str(cell) for cell in cells)} | {'yes' if one.succeeds else 'no'} |"
    near, near_by_all = sum(one.share >= AIM for one in tries), sum(by_all_runs(one, truths) >= AIM for one in tries)
    kept, quick = sum(one.keeps for one in tries), sum(one.seconds <= SECONDS and one.runs <= RUNS for one in tries)
    yield f"\nOf {len(tries)} tries, {sum(one.succeeds for one in tries)} reach the aim."
    yield f"{near} are within 3 % of the optimum by their own fresh runs, and {near_by_all} by all runs together;"
    yield f"{kept} keep the limit in all fresh runs, {quick} take at most {RUNS} runs and {SECONDS:g} s."


def by_all_runs(one: Try, truths: Mapping[str, Truth]) -> float:
    """Return the share of the optimum by all runs of both points that nothing disturbed, in whichever try."""
    if one.configuration is None:
        return 0.0
    return truths[one.model].share((one.configuration, one.users))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(SUBJECTS))
    parser.add_argument("--strategy", choices=list(STRATEGIES), default="tune")
    parser.add_argument("--tries", type=int, default=5)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--lock", type=Path, help="a file to lock while something is measured")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell turns off for what runs in the background
    subjects = [SUBJECTS[name] for name in options.models.split(",")]
    if not options.table:
        for subject in subjects:
            publish(subject, REPOSITORY)
        with measuring(REPOSITORY, None) as server:
            for number in range(options.tries):
                for subject in subjects:
                    this = (options.strategy, subject.name, number)
                    if any((one.strategy, one.model, one.number) == this for one in read_tries()):
                        continue
                    with Turns(options.lock, 0).taken():
                        one = attempt(server, Truth(subject, Table(TABLE)), options.strategy, number, options.runs)
                    with TRIES.open("a") as file:
                        file.write(json.dumps(asdict(one)) + "\n")
                    print(one, file=sys.stderr, flush=True)
    tries = [one for one in read_tries() if one.strategy == options.strategy]
    known = Table(TABLE)
    print("\n".join(table(tries, {name: Truth(subject, known) for name, subject in SUBJECTS.items()})))


if __name__ == "__main__":
    main()
