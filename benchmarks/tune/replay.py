"""Answer what a server would measure from the table of the ladder, with noise: strategies can be tried many times.

Throughput and p99 of a point are what the ladder measured, times or divided by what separates two runs of the same
point. Everything else that a run says (how long batches took, how long requests waited) is taken from the run in the
table. Calibration runs, with requests of several rows, are played likewise.
"""

import math

import numpy as np
from ladder import shared
from measured import Point
from quick_search import Trial
from truth import Truth

from builder.tuning import BatchTimes, Configuration, Interval, Load, Measurement
from builder.tuning.measurement import Z

SECONDS = 5.0
"""How long the runs take that are played."""
_US = 1e-6


class Replay:
    """A bench that plays what the ladder measured.

    Args:
        truth: What the ladder says.
        seed: The seed of the noise.
    """

    def __init__(self, truth: Truth, seed: int) -> None:
        self._truth = truth
        self._rng = np.random.default_rng(seed)
        self.runs = 0

    def trial(self, batch: int, instances: int, users: int) -> Trial:
        """Make a run of Model Analyzer's, which leaves threads to the server, and delays nothing."""
        throughput, p99_ms = self._drawn(shared(instances, batch), users)
        return Trial(batch, instances, users, throughput, p99_ms / self._truth.subject.limit_ms)

    def measure(self, configuration: Configuration, load: Load) -> Measurement:
        """Make a run of `tune`."""
        if any(rows > 1 for rows, _ in load.rows):
            return self._calibration(configuration, load)
        assert load.users is not None
        throughput, p99_ms = self._drawn(configuration, load.users)
        known = self._truth.at(configuration, load.users)
        point = known.points[0]
        requests = round(throughput * SECONDS)
        return Measurement(
            configuration,
            load,
            _wide(throughput, _of_windows(point)),
            _wide(p99_ms / 1000, _of_order(point)),
            requests=requests,
            mean_batch=point.mean_batch,
            batches=_batches(point),
            seconds=SECONDS,
            others=0.0,
            queue_s=point.stage["server"]["queue_us"] * _US,
            latency_s=load.users / throughput,
            client_cpu_s=point.stage["client_cpu_us_per_request"] * _US,
        )

    def _drawn(self, configuration: Configuration, users: int) -> tuple[float, float]:
        """Return a throughput and a p99; where one is higher, the other is lower."""
        self.runs += 1
        known, (spread, tail) = self._truth.at(configuration, users), self._truth.noise
        common, own = self._rng.standard_normal(2)
        return known.throughput * math.exp(spread * common), known.p99_ms * math.exp(tail * (0.8 * own - 0.6 * common))

    def _calibration(self, configuration: Configuration, load: Load) -> Measurement:
        """Return a run with requests of several rows: as long as it took, whatever their weights are."""
        self.runs += 1
        point = self._truth.calibration(configuration)
        noise = self._rng.normal(0, self._truth.noise[0], 2)
        latency_s = point.stage["latency_us"]["mean"] * _US * math.exp(noise[0])
        throughput = point.throughput / math.exp(noise[0])
        batches = {
            rows: BatchTimes(one.count, one.seconds * math.exp(noise[1])) for rows, one in _batches(point).items()
        }
        return Measurement(
            configuration,
            load,
            Interval(throughput, 0.95 * throughput, 1.05 * throughput),
            None,
            requests=point.requests,
            mean_batch=point.mean_batch,
            batches=batches,
            seconds=point.seconds,
            others=0.0,
            queue_s=point.stage["server"]["queue_us"] * _US,
            latency_s=latency_s,
            client_cpu_s=point.stage["client_cpu_us_per_request"] * _US,
        )


def _wide(value: float, margin: float) -> Interval:
    """Return an interval whose ends are so far from a value, as logarithms."""
    return Interval(value, value * math.exp(-margin), value * math.exp(margin))


def _of_windows(point: Point) -> float:
    """Return how wide the interval of the throughput is that a run gives by itself, in half, by its windows."""
    windows = np.array(point.windows)
    expected = SECONDS / point.seconds * len(windows)
    return float(Z * windows.std(ddof=1) / windows.mean() / math.sqrt(expected))


def _of_order(point: Point) -> float:
    """Return the same of p99, by order statistics."""
    if not point.p99_ms or not point.p99_high_ms:
        return 0.2
    return math.log(point.p99_high_ms / point.p99_ms) * math.sqrt(point.seconds / SECONDS)


def _batches(point: Point) -> dict[int, BatchTimes]:
    """Return the batches of a run, by their rows."""
    server = point.stage["server"]
    times = {int(rows): us * _US for rows, us in server["batch_times_us"].items()}
    return {int(rows): BatchTimes(count, times[int(rows)]) for rows, count in server["batch_sizes"].items()}
