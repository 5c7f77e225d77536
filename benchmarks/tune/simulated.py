"""Compare what the simulation predicts with what the ladder measured, and say what a prediction costs.

    python benchmarks/tune/simulated.py [--loaded 2] [--seeds 5] [--markdown]

The simulation is fitted to the runs with requests of 1 to 32 rows by one user, and to a few points of the ladder that
are chosen at random. It predicts all other points that nothing disturbed. How far it is off is given for each model,
over all seeds: the median, and what 90 % of the predictions are within.
"""

import argparse
import math
import random
import statistics
import time
from collections.abc import Sequence

from ladder import KEPT, ROWS, describe, is_undisturbed
from measured import Point, Table
from tune_models import SUBJECTS

from builder.tuning import BatchTimes, Configuration, Interval, Load, Measurement
from builder.tuning.simulation.curves import Curve
from builder.tuning.simulation.fitting import fit
from builder.tuning.simulation.simulator import Machine, Predicted, simulate

CORES = 2
_US = 1e-6
_MIXED = tuple((int(rows), float(weight)) for rows, _, weight in (part.partition("=") for part in ROWS.split(",")))


def measurement(point: Point) -> Measurement:
    """Return a point of the ladder as a measurement of `tune`."""
    server, throughput, p99_s = point.stage["server"], point.throughput, (point.p99_ms or 0.0) / 1000
    times = {rows: us * _US for rows, us in server["batch_times_us"].items()}
    return Measurement(
        point.configuration,
        Load(users=point.users, rows=_MIXED if point.kind == "calibration" else ((1, 1.0),)),
        Interval(throughput, 0.95 * throughput, 1.05 * throughput),
        Interval(p99_s, p99_s, p99_s) if p99_s else None,
        requests=point.requests,
        mean_batch=point.mean_batch,
        batches={int(rows): BatchTimes(count, times[rows]) for rows, count in server["batch_sizes"].items()},
        queue_s=server["queue_us"] * _US,
        latency_s=point.stage["latency_us"]["mean"] * _US,
        client_cpu_s=point.stage["client_cpu_us_per_request"] * _US,
        others=point.others,
    )


def compare(points: Sequence[Point], loaded: int, seed: int) -> list[tuple[Point, Predicted]]:
    """Fit the simulation to the calibration and to so many other points; return the rest with its predictions."""
    calibration = [measurement(point) for point in points if point.kind == "calibration"]
    others = [point for point in points if point.kind != "calibration" and point.p99_ms]
    chosen = random.Random(seed).sample(others, loaded)
    machine = fit([*calibration, *map(measurement, chosen)], cores=CORES)
    rest = [point for point in others if point not in chosen]
    return [(one, simulate(one.configuration, Load(users=one.users), machine, requests=600)) for one in rest]


def off(compared: Sequence[tuple[Point, Predicted]]) -> str:
    """Return how far the predictions are off."""
    parts = []
    for name, errors in (
        ("throughput", [math.log(predicted.throughput / point.throughput) for point, predicted in compared]),
        ("mean batch", [math.log(predicted.mean_batch / point.mean_batch) for point, predicted in compared]),
        ("p99", [math.log(predicted.p99_s * 1000 / (point.p99_ms or 1.0)) for point, predicted in compared]),
    ):
        sizes = sorted(map(abs, errors))
        parts.append(f"{name} {statistics.median(sizes):.0%} (90 % within {sizes[int(0.9 * len(sizes))]:.0%})")
    return ", ".join(parts)


def print_table(compared: Sequence[tuple[Point, Predicted]]) -> None:
    """Print points and predictions as a table of Markdown."""
    print("| configuration | users | rows/s | predicted | mean batch | predicted | p99, ms | predicted |")
    print("|---|---|---|---|---|---|---|---|")
    for point, predicted in compared:
        cells = (describe(point.configuration), point.users, f"{point.throughput:.0f}", f"{predicted.throughput:.0f}")
        tail = (f"{point.mean_batch:.1f}", f"{predicted.mean_batch:.1f}")
        p99 = (f"{point.p99_ms:.1f}", f"{predicted.p99_s * 1000:.1f}")
        print(f"| {' | '.join(map(str, (*cells, *tail, *p99)))} |")


def cost() -> str:
    """Return how the time of a prediction grows with the requests and with the users."""
    curve = Curve({(1, (), False): ((1, 0.001), (32, 0.01))})
    machine = Machine(curve, CORES, client_cpu_s=1e-4, front_cpu_s=1e-4, latency_s=1e-4)
    seconds = {}
    for requests, users in ((400, 16), (4000, 16), (4000, 256)):
        began = time.perf_counter()
        for seed in range(20):
            simulate(Configuration(1, 1, 32), Load(users=users), machine, requests=requests, seed=seed)
        seconds[requests, users] = (time.perf_counter() - began) / 20
    few, many, crowd = seconds.values()
    return (
        f"{few * 1000:.1f} ms for 400 requests of 16 users; ten times as many take {many / few:.1f} times as long, "
        f"and with 256 users {crowd / many:.1f} times as long as with 16"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loaded", type=int, default=2, help="how many points the simulation is fitted to")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--markdown", action="store_true", help="print the points of the first seed, too")
    options = parser.parse_args()
    table = Table(KEPT)
    for name in SUBJECTS:
        points = [point for point in table.of(name) if is_undisturbed(point)]
        if not any(point.kind == "calibration" for point in points):
            continue
        runs = [compare(points, options.loaded, seed) for seed in range(options.seeds)]
        if options.markdown:
            print_table(runs[0])
        print(f"{name}: {len(points)} points: {off([pair for run in runs for pair in run])}")
    print(cost())


if __name__ == "__main__":
    main()
