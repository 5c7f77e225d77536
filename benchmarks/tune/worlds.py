"""Try the search on simulated servers, and say how near to the optimum it comes, beside random search.

    python benchmarks/tune/worlds.py [--worlds 20] [--first 0] [--runs 10] [--rate]

The servers are those of tests/support/batching_worlds.py; nothing of how they are built is known to the search. The
optimum is the highest throughput of any configuration under any load that keeps the limit of p99, in long runs. The
share of a strategy is the throughput of what it recommends, in a long run as well, over the optimum; it is 0 if p99 is
beyond the limit there. With `--rate`, there is a rate to keep up with, and the share is the optimum's p99 over that of
what is recommended.
"""

import argparse
import random
import statistics
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from support.batching_worlds import World

from builder.tuning import Configuration, Load
from builder.tuning.search.searching import search
from builder.tuning.wording import say_configuration, say_load

Trial = tuple[Configuration, Load]
Truth = tuple[float, float]  # rows each second, and p99 in seconds

_ROUGH, _LONG = 1500, 8000  # requests
_FINALISTS = 8


class Exact:
    """What long runs say of a world.

    Attributes:
        world: The world.
        optimum: How good the best case is.
    """

    def __init__(self, world: World) -> None:
        self.world, self.goal = world, world.goal
        self._long: dict[Trial, Truth] = {}
        rough = {trial: truth for one in world.space.configurations for trial, truth in self._rough(one)}
        usual = sorted(rough, key=lambda trial: -self._value(rough[trial], slack=1.05))[:_FINALISTS]
        self.optimum = max(self.value(trial) for trial in usual)
        mine = [trial for trial in rough if trial[0] == world.current]
        self.current = max(self.value(trial) for trial in mine)

    def _rough(self, one: Configuration) -> Iterator[tuple[Trial, Truth]]:
        for load in self.goal.loads:
            truth = self.world.truth(one, load, _ROUGH)
            yield (one, load), truth
            if truth[1] > 1.3 * self.goal.max_p99_s:
                return

    def _value(self, truth: Truth, slack: float = 1.0) -> float:
        if truth[1] > slack * self.goal.max_p99_s or not self.goal.keeps_up(truth[0] * slack):
            return 0.0
        return self.goal.value(*truth)

    def value(self, trial: Trial) -> float:
        """Return how good a case is in a long run; 0 if it misses the limit."""
        if trial not in self._long:
            self._long[trial] = self.world.truth(*trial, _LONG)
        return self._value(self._long[trial])


def tuned(world: World, runs: int) -> tuple[Trial | None, int, str]:
    found = search(world, world.space, world.goal, runs=runs)
    return (found.best.trial if found.best else None), len(found.steps), found.verdict


def drawn(world: World, runs: int) -> tuple[Trial | None, int, str]:
    """Random search: the best of so many runs, of those that keep the limit."""
    draw, best, value = random.Random(world.seed), None, 0.0
    for _ in range(runs):
        trial = draw.choice(world.space.configurations), draw.choice(world.goal.loads)
        run = world.measure(*trial)
        if world.goal.is_kept(run) and run.throughput and run.p99_s:
            now = world.goal.value(run.throughput.value, run.p99_s.value)
            best, value = (trial, now) if now > value else (best, value)
    return best, runs, ""


def say(trial: Trial | None) -> str:
    return f"{say_configuration(trial[0])} at {say_load(trial[1])}" if trial else "nothing"


def report(shares: Mapping[str, list[tuple[float, int]]]) -> None:
    print("\n| strategy | runs | mean share of the optimum | worst | within 3 % |\n|---|---|---|---|---|")
    for name, found in shares.items():
        values = [share for share, _ in found]
        runs = f"{statistics.fmean(number for _, number in found):.1f}" if any(n for _, n in found) else "-"
        near = f"{sum(value >= 0.97 for value in values)} of {len(values)}"
        print(f"| {name} | {runs} | {statistics.fmean(values):.2f} | {min(values):.2f} | {near} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worlds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--rate", action="store_true")
    options = parser.parse_args()
    shares: dict[str, list[tuple[float, int]]] = {}
    for seed in range(options.first, options.first + options.worlds):
        world = World(seed, open_loop=options.rate)
        exact = Exact(world)
        if not exact.optimum:
            print(f"world {seed}: nothing keeps the limit; tune: {tuned(world, options.runs)[2]}", flush=True)
            continue
        shares.setdefault("as it is, best load", []).append((exact.current / exact.optimum, 0))
        said = [f"as it is {exact.current / exact.optimum:.2f}"]
        for name, strategy in {"tune": tuned, "random": drawn}.items():
            world.runs = 0
            trial, runs, verdict = strategy(world, options.runs)
            share = exact.value(trial) / exact.optimum if trial else 0.0
            shares.setdefault(name, []).append((share, runs))
            said.append(f"{name} {share:.2f} in {runs} ({say(trial)}) {verdict}".strip())
        print(f"world {seed}: optimum {exact.optimum:.5g}; {'; '.join(said)}", flush=True)
    report(shares)


if __name__ == "__main__":
    main()
