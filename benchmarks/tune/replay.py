"""Answer what a server would measure from the table of the ladder, with noise: strategies can be tried many times.

Throughput and p99 of a point are what the ladder measured, times or divided by what separates two runs of the same
point. Everything else that a run says (how long batches took, how long requests waited) is taken from the run in the
table. Calibration runs, with requests of several rows, were not part of the ladder: the time of a batch is a line
through what the table says of it, for each number of instances and threads.
"""

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from ladder import LARGEST
from measured import Point
from quick_search import Trial
from truth import Truth

from builder.tuning import BatchTimes, Configuration, Interval, Load, Measurement

SECONDS = 5.0
"""How long the runs take that are played."""
_US = 1e-6

Line = tuple[float, float]
"""The time of a batch in seconds: a constant, and what each row adds."""


class Replay:
    """A bench that plays what the ladder measured.

    Args:
        truth: What the ladder says.
        seed: The seed of the noise.
    """

    def __init__(self, truth: Truth, seed: int) -> None:
        self._truth = truth
        self._rng = np.random.default_rng(seed)
        self._lines = _lines(truth)
        self.runs = 0

    def trial(self, batch: int, instances: int, users: int) -> Trial:
        """Make a run of Model Analyzer's, which leaves threads to the server, and delays nothing."""
        threads = None if instances == 1 else 1
        preferred = (batch,) if batch < LARGEST else ()
        throughput, p99_ms = self._drawn(Configuration(instances, threads, LARGEST, preferred), users)
        return Trial(batch, instances, users, throughput, p99_ms / self._truth.subject.limit_ms)

    def measure(self, configuration: Configuration, load: Load) -> Measurement:
        """Make a run of `tune`."""
        if any(rows > 1 for rows, _ in load.rows):
            return self._calibration(configuration, load)
        assert load.users is not None
        throughput, p99_ms = self._drawn(configuration, load.users)
        known = self._truth.at(configuration, load.users)
        point = known.points[0]
        spread, tail = self._truth.noise
        requests = round(throughput * SECONDS)
        return Measurement(
            configuration,
            load,
            Interval(throughput, throughput * math.exp(-2 * spread), throughput * math.exp(2 * spread)),
            Interval(p99_ms / 1000, p99_ms / 1000 * math.exp(-2 * tail), p99_ms / 1000 * math.exp(2 * tail)),
            requests=requests,
            mean_batch=point.mean_batch,
            batches=self._batches(configuration, point),
            seconds=SECONDS,
            others=0.0,
            **_from_stage(point.stage, load.users / throughput),
        )

    def _drawn(self, configuration: Configuration, users: int) -> tuple[float, float]:
        """Return a throughput and a p99; where one is higher, the other is lower."""
        self.runs += 1
        known, (spread, tail) = self._truth.at(configuration, users), self._truth.noise
        common, own = self._rng.standard_normal(2)
        return known.throughput * math.exp(spread * common), known.p99_ms * math.exp(tail * (0.8 * own - 0.6 * common))

    def _line(self, configuration: Configuration) -> Line:
        instances = configuration.instances
        threads = configuration.threads or max(1, 2 // instances)
        return self._lines[instances, threads]

    def _batches(self, configuration: Configuration, point: Point) -> dict[int, BatchTimes]:
        """Return the batches of a run, whose times add up to what was measured."""
        constant, slope = self._line(configuration)
        sizes = {int(rows): count for rows, count in point.stage["server"]["batch_sizes"].items()}
        measured = _compute_s(point)
        predicted = _mean_for_a_row(sizes, (constant, slope))
        return {
            rows: BatchTimes(count, (constant + slope * rows) * measured / predicted) for rows, count in sizes.items()
        }

    def _calibration(self, configuration: Configuration, load: Load) -> Measurement:
        self.runs += 1
        constant, slope = self._line(configuration)
        one = self._truth.at(configuration, 1).points[0]
        overhead = max(1e-5, one.stage["latency_us"]["mean"] * _US - _compute_s(one))
        total = sum(weight for _, weight in load.rows)
        noise = np.exp(self._rng.normal(0, self._truth.noise[0], len(load.rows)))
        times = {rows: (constant + slope * rows) * factor for (rows, _), factor in zip(load.rows, noise, strict=True)}
        latency = overhead + sum(weight * times[rows] for rows, weight in load.rows) / total
        requests = SECONDS / latency
        mean_rows = sum(rows * weight for rows, weight in load.rows) / total
        throughput = mean_rows * requests
        batches = {
            rows: BatchTimes(max(1, round(requests * weight / total)), times[rows]) for rows, weight in load.rows
        }
        return Measurement(
            configuration,
            load,
            Interval(throughput / SECONDS, 0.95 * throughput / SECONDS, 1.05 * throughput / SECONDS),
            None,
            requests=round(requests),
            mean_batch=mean_rows,
            batches=batches,
            seconds=SECONDS,
            others=0.0,
            **_from_stage(one.stage, latency),
        )


def _from_stage(stage: Mapping[str, Any], latency_s: float) -> dict[str, float | None]:
    return {
        "queue_s": stage["server"]["queue_us"] * _US,
        "latency_s": latency_s,
        "client_cpu_s": stage["client_cpu_us_per_request"] * _US,
        "server_cpu_s": None,
    }


def _compute_s(point: Point) -> float:
    server = point.stage["server"]
    return float(server["compute_input_us"] + server["compute_infer_us"] + server["compute_output_us"]) * _US


def _mean_for_a_row(sizes: Mapping[int, int], line: Line) -> float:
    """Return how long the batch of a row takes, on average: larger batches are those of more rows."""
    rows = sum(size * count for size, count in sizes.items())
    return sum(size * count * (line[0] + line[1] * size) for size, count in sizes.items()) / rows


def _lines(truth: Truth) -> dict[tuple[int, int], Line]:
    """Fit a line to the mean times in the table, for each number of instances and threads."""
    found: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for point in itertools.chain.from_iterable(known.points for known in truth.known.values()):
        configuration = point.configuration
        threads = configuration.threads or max(1, 2 // configuration.instances)
        sizes = {int(rows): count for rows, count in point.stage["server"]["batch_sizes"].items()}
        if sizes:
            mean_size = _mean_for_a_row(sizes, (0.0, 1.0))
            found.setdefault((configuration.instances, threads), []).append((mean_size, _compute_s(point)))
    lines = {}
    for pair, means in found.items():
        sizes_, times = np.array(means).T
        weights = 1 / times  # relative errors
        design = np.stack([weights, sizes_ * weights], axis=1)
        (constant, slope), *_ = np.linalg.lstsq(design, times * weights, rcond=None)
        lines[pair] = (max(float(constant), 1e-5), max(float(slope), 1e-6))
    for pair in itertools.product((1, 2), (1, 2)):
        lines.setdefault(pair, next(iter(lines.values())))
    return lines
