"""Compare `tune` with Model Analyzer's quick search and with random search, on the table of the ladder.

    python benchmarks/tune/compare.py [--seeds 5] [--runs 10] [--table FILE] [--json FILE]

For each model, strategy and seed: which part of the optimum the result gives, by the table and not by the lucky run
that chose it, in how many runs, and whether it keeps the limit. A result that misses the limit gives nothing.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from ladder import KEPT, LARGEST, describe, shared
from measured import Table
from quick_search import QuickSearch
from replay import Replay
from truth import Key, Truth
from tune_models import SUBJECTS

from builder.tuning import Configuration, Load

CORES = 2
DEFAULT = Configuration(1, None, LARGEST)
NEAR = 0.97


@dataclass(frozen=True, slots=True)
class Try:
    """What a strategy found.

    Attributes:
        model: The model.
        strategy: The strategy.
        seed: The seed of its noise.
        runs: How many runs it made.
        found: What it chose; empty if it found nothing that keeps the limit.
        share: Its part of the optimum; 0 if it misses the limit.
        p99_of_limit: Its p99, as a part of the limit.
        overlaps: Whether its interval overlaps that of the optimum.
    """

    model: str
    strategy: str
    seed: int
    runs: int
    found: str
    share: float
    p99_of_limit: float
    overlaps: bool


Strategy = Callable[[Truth, int, int], tuple[Key | None, int]]
"""Takes what is known, a seed and the most runs; returns what it chose, and how many runs it made."""


def tune(truth: Truth, seed: int, runs: int) -> tuple[Key | None, int]:
    """Search as the command does."""
    from builder.tuning.search.goal import Goal
    from builder.tuning.search.searching import search
    from builder.tuning.search.space import Space

    limit_s = truth.subject.limit_ms / 1000
    space = Space.of(DEFAULT, cores=CORES, proven_max_batch=LARGEST, kind="cpu", max_p99_s=limit_s)
    space = replace(space, configurations=tuple(each for each in space.configurations if truth.has(each)))
    bench = Replay(truth, seed)
    found = search(bench, space, Goal(limit_s), runs=runs)
    if found.best is None or found.best.load.users is None:
        return None, bench.runs
    return (found.best.configuration, found.best.load.users), bench.runs


def quick(truth: Truth, seed: int, runs: int) -> tuple[Key | None, int]:
    """Search as Model Analyzer does, in the batches and instances of the ladder; it makes as many runs as it wants."""
    del runs
    bench = Replay(truth, seed)
    best = QuickSearch(bench.trial, batches=LARGEST, instances=CORES).run((LARGEST, 1))
    if best is None:
        return None, bench.runs
    return (shared(best.instances, best.batch), best.users), bench.runs


def at_random(truth: Truth, seed: int, runs: int) -> tuple[Key | None, int]:
    """Measure random points, and take the best one that kept the limit."""
    bench, rng = Replay(truth, seed), np.random.default_rng(seed)
    space, users = truth.configurations(), truth.subject.users
    best: tuple[float, Key | None] = (0.0, None)
    for _ in range(runs):
        key = space[rng.integers(len(space))], int(users[rng.integers(len(users))])
        measured = bench.measure(key[0], Load(users=key[1]))
        kept = measured.p99_s is not None and measured.p99_s.value * 1000 <= truth.subject.limit_ms
        if kept and measured.throughput is not None and measured.throughput.value > best[0]:
            best = measured.throughput.value, key
    return best[1], bench.runs


def as_it_is(truth: Truth, seed: int, runs: int) -> tuple[Key | None, int]:
    """Keep the default, at its best load."""
    del seed, runs
    kept = [(DEFAULT, users) for users in truth.subject.users if truth.keeps((DEFAULT, users))]
    return max(kept, key=truth.share, default=None), 0


STRATEGIES: dict[str, Strategy] = {
    "default": as_it_is,
    "random": at_random,
    "quick search": quick,
    "tune": tune,
}


def attempt(truth: Truth, strategy: str, seed: int, runs: int) -> Try:
    key, made = STRATEGIES[strategy](truth, seed, runs)
    if key is None:
        return Try(truth.subject.name, strategy, seed, made, "", 0.0, 0.0, False)
    known = truth.at(*key)
    return Try(
        model=truth.subject.name,
        strategy=strategy,
        seed=seed,
        runs=made,
        found=f"{describe(key[0])}, {key[1]} users",
        share=truth.share(key) if truth.keeps(key) else 0.0,
        p99_of_limit=known.p99_ms / truth.subject.limit_ms,
        overlaps=known.overlaps(truth.known[truth.optimum]),
    )


def table(tries: list[Try]) -> str:
    """Return a line for each model and strategy."""
    lines = ["| model | strategy | share of the optimum, mean (worst) | within 3 % | runs | misses the limit |"]
    lines += ["|---|---|---|---|---|---|"]
    for model, strategy in dict.fromkeys((one.model, one.strategy) for one in tries):
        some = [one for one in tries if (one.model, one.strategy) == (model, strategy)]
        shares = [one.share for one in some]
        near = f"{sum(share >= NEAR for share in shares)} of {len(some)}"
        runs = statistics.fmean(one.runs for one in some)
        missed = sum(one.p99_of_limit > 1 for one in some)
        share = f"{statistics.fmean(shares):.2f} ({min(shares):.2f})"
        lines.append(f"| {model} | {strategy} | {share} | {near} | {runs:.1f} | {missed} of {len(some)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(SUBJECTS))
    parser.add_argument("--strategies", default=",".join(STRATEGIES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--table", type=Path, default=KEPT, help="what ladder.py measured")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    measured = Table(options.table)
    tries = []
    for name in options.models.split(","):
        truth = Truth(SUBJECTS[name], measured)
        best = truth.optimum
        known = truth.known[best]
        interval = f"{known.throughput:.0f} ({known.low:.0f} to {known.high:.0f}) rows/s, p99 {known.p99_ms:.1f} ms"
        print(f"{name}: {describe(best[0])}, {best[1]} users, {interval}, limit {truth.subject.limit_ms:g} ms")
        for strategy in options.strategies.split(","):
            seeds = range(options.seeds if strategy != "default" else 1)
            tries += [attempt(truth, strategy, seed, options.runs) for seed in seeds]
    print(table(tries))
    if options.json:
        options.json.write_text(json.dumps([asdict(one) for one in tries], indent=1))


if __name__ == "__main__":
    main()
