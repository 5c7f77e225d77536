"""Try the search for the highest load within a p99 limit on simulated servers, and say how often it was right.

    python benchmarks/search_simulation.py [--searches 200] [NAME ...]

For each kind of server: the right answer, from long measurements; how many of the searches came within 5 % of it (or 1
user); the lowest and highest answer as a share of it; the mean and highest number of stages; and the mean time. A
ladder with steps of 5 % over the same range would take as many stages as the last column says.
"""

import argparse
import math
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.simulated_servers import CASES, Case, find


def row(case: Case, searches: int) -> Iterator[str]:
    right = case.find_answer()
    found = [find(case, seed) for seed in range(searches)]
    shares = [(one.load or 0.0) / right for one in found]
    slack = max(0.05, 0.0 if case.is_open_loop else 1 / right) + 0.002
    stages = [len(one.trials) for one in found]
    yield f"{right:.4g}"
    yield f"{statistics.fmean(abs(share - 1) <= slack for share in shares):.1%}"
    yield f"{min(shares):.2f} to {max(shares):.2f}"
    yield f"{statistics.fmean(stages):.1f}, at most {max(stages)}"
    yield f"{statistics.fmean(one.seconds for one in found):.0f} s"
    yield f"{math.ceil(math.log(case.high / case.low) / math.log(1.05)) + 1}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="kinds of servers (all by default)")
    parser.add_argument("--searches", type=int, default=200)
    options = parser.parse_args()
    print("| server | right | within 5 % | answer ÷ right | stages | time | ladder |\n|---|---|---|---|---|---|---|")
    for name in options.names or CASES:
        print(f"| {name} | {' | '.join(row(CASES[name], options.searches))} |", flush=True)


if __name__ == "__main__":
    main()
