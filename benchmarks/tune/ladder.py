"""Measure every configuration under every load once, and the best ones again: the truth for `tune`, on a real Triton.

    python benchmarks/tune/ladder.py [--models digits,residual] [--stage-time 1.2] [--again 0] [--lock FILE] [--save]

The configurations are those that `tune` chooses from: 1 and 2 instances, 1 and 2 threads each, batches of at most 1, 2,
4 … 32 rows, and a queue delay of 0, 100, 500 and 2000 µs; the loads are 1, 2, 4 … 16 users. A load at which p99 must
miss twice the limit is left out: n users of a server that answers no more than X requests a second wait n / X seconds
each. Configurations that are the same under a load are measured once (`canonical`).

The points go into benchmarks/.cache/tune/ladder.jsonl, one after the other, so that a run that was cut off goes on
where it was. `--again 3` then measures the best points of each model three times more, for 4 s each, in turns: the best
of several hundred noisy points is too good to be true, and its second measurement is not. `--save` writes what counts
beside this file, where `compare.py` finds it.
"""

import argparse
import random
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

from measured import Measuring, Point, Table, measuring
from random_networks import CACHE
from tune_models import SUBJECTS, Subject, publish

from builder.tuning import Configuration

FOLDER = CACHE / "tune"
REPOSITORY = FOLDER / "repository"
TABLE = FOLDER / "ladder.jsonl"
KEPT = Path(__file__).with_name("ladder.jsonl")
"""What was measured for docs/tuning-figures.md, so that strategies can be compared without measuring for hours."""

LARGEST = 32
DELAYS_US = (0, 500, 2000, 100)
CAPS = (1, 2, 4, 8, 16, 32)
PAIRS: tuple[tuple[int, int | None], ...] = ((1, 1), (1, None), (2, 1), (2, 2))
"""Instances and threads of each; without a number, an instance alone takes one for each core."""
DEFAULT = Configuration(1, None, LARGEST)
ROWS = "1=6,2=4,4=3,8=2,16=1.5,32=1"
BUSY = 0.1
"""The share of the machine that other programs may take before a measurement is made again."""
SLOW = 1.25
"""How many times as long as usual the probe may take."""
_ATTEMPTS = 1


def capped(instances: int, threads: int | None, cap: int, delay_us: int) -> Configuration:
    """Return a configuration whose batches have at most `cap` rows, without refusing larger requests."""
    return Configuration(instances, threads, LARGEST, (cap,) if cap < LARGEST else (), delay_us)


def shared(instances: int, cap: int) -> Configuration:
    """Return a configuration of Model Analyzer's, which leaves threads to the server, and delays nothing.

    The embedded server shares the cores among the instances.
    """
    return capped(instances, None if instances == 1 else 1, cap, 0)


def space(delay_us: int) -> list[Configuration]:
    """Return every configuration with a delay, in no order, so that what drifts meanwhile is nobody's fault."""
    caps = [cap for cap in CAPS if cap > 1 or not delay_us]
    found = [capped(*pair, cap, delay_us) for pair, cap in product(PAIRS, caps)]
    return random.Random(delay_us).sample(found, len(found))


def canonical(configuration: Configuration, users: int) -> Configuration:
    """Return the configuration that stands for this one under a load: no batch has more rows than there are users.

    Of 8 users with one row each, no batch gets more than 8 rows: caps of 8, 16 and 32 are the same, if nothing waits.
    With a delay, a cap of 8 is another one, as a batch of 8 rows goes without waiting, and the others wait for more.
    """
    cap = max(configuration.preferred, default=LARGEST)
    is_out_of_reach = cap > users if configuration.delay_us else cap >= users
    return replace(configuration, preferred=()) if is_out_of_reach else configuration


def loads(subject: Subject, configuration: Configuration, points: Sequence[Point]) -> list[int]:
    """Return the loads at which a configuration has to be measured.

    Left out are those at which another one stands for it, those that must miss twice the limit by the best throughput
    that the model ever gave, and a single user who would only wait for others.
    """
    best = max((point.throughput for point in points), default=float("inf"))
    least = 2 if configuration.delay_us else 1
    wanted = [users for users in subject.users if users >= least and users / best <= 2 * subject.limit_ms / 1000]
    return [users for users in wanted if canonical(configuration, users) == configuration]


def measure(server: Measuring, subject: Subject, table: Table, delay_us: int, stage_s: float) -> Iterator[str]:
    """Measure what the table lacks of the configurations with a delay, and yield a line for each."""
    for configuration in space(delay_us):
        known = {p.key for p in table.of(subject.name, "ladder") if is_undisturbed(p)}
        wanted = loads(subject, configuration, table.of(subject.name, "ladder"))
        users = [count for count in wanted if (subject.name, configuration, count) not in known]
        if not users:
            continue
        points = _undisturbed(server, subject, configuration, users, stage_s, "ladder")
        table.add(points)
        yield f"{subject.name} {describe(configuration)}: " + ", ".join(map(say, points))


def calibrate(server: Measuring, subject: Subject, table: Table) -> Iterator[str]:
    """Measure how long batches of every size take one user, for the replay of calibration runs."""
    known = {point.configuration for point in table.of(subject.name, "calibration")}
    for pair in PAIRS:
        configuration = capped(*pair, LARGEST, 0)
        if configuration not in known:
            table.add(server.measure(subject.name, configuration, [1], 4.0, "calibration", ROWS))
            yield f"{subject.name} {describe(configuration)}: batches"


def repeat(server: Measuring, subject: Subject, table: Table, rounds: int, stage_s: float) -> Iterator[str]:
    """Measure the best points of the ladder, and the default, again in turns."""
    for turn in range(rounds):
        chosen = leaders(subject, table)
        for key in random.Random(turn).sample(chosen, len(chosen)):
            table.add(_undisturbed(server, subject, key[1], [key[2]], stage_s, "again"))
            yield f"{subject.name} again {turn + 1} {describe(key[1])}: {say(table.points[-1])}"


def describe(configuration: Configuration) -> str:
    """Return a configuration in a few letters: `2x1 cap 8 500us`."""
    cap = max(configuration.preferred, default=LARGEST)
    return f"{configuration.instances}x{configuration.threads or 2} cap {cap} {configuration.delay_us}us"


def say(point: Point) -> str:
    """Return a load, and what it gave."""
    return f"{point.users} users {point.throughput:.0f}/s {point.p99_ms} ms (others {point.others})"


def leaders(subject: Subject, table: Table, count: int = 5) -> list[tuple[str, Configuration, int]]:
    """Return the best points of the ladder, one for each configuration, and the best one of the default."""
    points = [point for point in table.of(subject.name, "ladder") if keeps(point, subject, slack=1.1)]
    points.sort(key=lambda point: -point.throughput)
    first: dict[Configuration, Point] = {}
    for point in points:
        first.setdefault(point.configuration, point)
    found = list(first.values())[:count]
    found += [first[DEFAULT]] if DEFAULT in first and first[DEFAULT] not in found else []
    return [point.key for point in found]


def keeps(point: Point, subject: Subject, *, slack: float = 1.0) -> bool:
    """Return whether a point answered everything right, within the limit."""
    return not point.wrong and point.p99_ms is not None and point.p99_ms <= slack * subject.limit_ms


def chosen(points: Sequence[Point]) -> list[Point]:
    """Return the runs that count of one kind and one point: the undisturbed ones, or else the least disturbed one."""
    return [point for point in points if is_undisturbed(point)] or [min(points, key=lambda p: disturbance([p]))]


def save(table: Table) -> None:
    """Write what counts to the file that is kept: all points of configurations that the ladder has.

    The tries on the real server also measure configurations with other delays, at one load each. A replay would need
    them at the others too.
    """
    groups: dict[object, list[Point]] = {}
    known = {point.configuration.delay_us for point in table.points if point.kind == "ladder"}
    for point in (point for point in table.points if point.configuration.delay_us in known):
        groups.setdefault((point.key, point.kind), []).append(point)
    table.save(KEPT, [point for points in groups.values() for point in chosen(points)])


def is_undisturbed(point: Point) -> bool:
    """Return whether neither other programs nor neighbours of the machine disturbed a measurement."""
    return point.others <= BUSY and point.slowdown <= SLOW


def disturbance(points: Sequence[Point]) -> float:
    """Return how much a measurement was disturbed, to choose the least of several."""
    return points[0].others + points[0].slowdown


def _undisturbed(
    server: Measuring, subject: Subject, configuration: Configuration, users: Sequence[int], stage_s: float, kind: str
) -> list[Point]:
    """Measure again what other programs disturbed."""
    tries = []
    for _ in range(_ATTEMPTS):
        tries.append(server.measure(subject.name, configuration, users, stage_s, kind))
        if is_undisturbed(tries[-1][0]):
            break
        print(f"again: others {tries[-1][0].others}, slowdown {tries[-1][0].slowdown}", file=sys.stderr, flush=True)
    return min(tries, key=disturbance)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(SUBJECTS))
    parser.add_argument("--stage-time", type=float, default=1.2)
    parser.add_argument("--delays", type=lambda text: [int(part) for part in text.split(",")], default=DELAYS_US)
    parser.add_argument("--again", type=int, default=0)
    parser.add_argument("--save", action="store_true", help="write what was measured to the file beside this one")
    parser.add_argument("--lock", type=Path, help="a file to lock while something is measured")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell turns off for what runs in the background
    FOLDER.mkdir(parents=True, exist_ok=True)
    table = Table(TABLE)
    if options.save:
        save(table)
        return
    subjects = [replace(SUBJECTS[name]) for name in options.models.split(",")]
    for subject in subjects:
        publish(subject, REPOSITORY)
    started = time.monotonic()
    with measuring(REPOSITORY, options.lock) as server:
        for delay_us, subject in product(options.delays, subjects):
            for line in measure(server, subject, table, delay_us, options.stage_time):
                print(f"{time.monotonic() - started:6.0f} s {line}", file=sys.stderr, flush=True)
        for subject in subjects:
            for line in calibrate(server, subject, table):
                print(f"{time.monotonic() - started:6.0f} s {line}", file=sys.stderr, flush=True)
        for subject in subjects if options.again else []:
            for line in repeat(server, subject, table, options.again, 4.0):
                print(f"{time.monotonic() - started:6.0f} s {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
