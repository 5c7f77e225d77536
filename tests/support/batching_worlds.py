"""Servers with a dynamic batcher that exist only as a simulation, to try the tuning on many of them.

They are built differently from the simulator with which the tuning predicts. Cores are shared in proportion to what
wants to run at every moment, the work of Triton's front end and of the client included; memory slows instances down
that run together; now and then everything stands still for some milliseconds; and each run is slower or faster than the
last. Nothing of that is known to what tunes: it sees only measurements.
"""

import heapq
import math
import random
from collections import defaultdict, deque
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count

from builder.tuning import BatchTimes, Configuration, Goal, Interval, Load, Measurement, Space

_BETWEEN_WINDOWS = 20
_LATE = 0.01


@dataclass(slots=True)
class _Request:
    rows: int
    arrived: float
    queued: float = 0.0


@dataclass(slots=True)
class _Run:
    """What happened in one run, after its warm-up."""

    latencies: list[tuple[float, float]] = field(default_factory=list)  # when answered, and how long it took
    rows: int = 0
    batches: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    queued: float = 0.0
    worked: float = 0.0  # processor time of all batches
    answered: int = 0
    began: float = 0.0
    ended: float = 0.0


@dataclass
class World:
    """A machine, a model and a goal, drawn from a seed.

    Attributes:
        seed: What they are drawn from.
        cores: The cores of the machine.
        largest: The largest batch at which the model was proven.
        requests: How many requests a run has.
        open_loop: Whether the goal has a rate instead of any number of users.
        spread: The standard deviation of the logarithm of a run's speed.
        broken: Configurations that answer wrongly.
        dead: Configurations that do not load.
        disturbed: The numbers of runs, from 0, in which another program takes most of the machine.
    """

    seed: int
    cores: int = 2
    largest: int = 32
    requests: int = 2500
    open_loop: bool = False
    spread: float = 0.015
    broken: frozenset[Configuration] = frozenset()
    dead: frozenset[Configuration] = frozenset()
    disturbed: frozenset[int] = frozenset()
    limit_s: float | None = None
    default: Configuration | None = None

    def __post_init__(self) -> None:
        draw = random.Random(f"world {self.seed}")
        row = 10 ** draw.uniform(-4.2, -2.5)
        self.fixed_s, self.row_s = row * draw.uniform(0.2, 2.5), row * draw.uniform(0.15, 0.9)
        self.bend = draw.uniform(0.92, 1.06)
        self.parallel = draw.uniform(0.15, 0.9)  # how much of the second core a second thread uses
        self.memory = draw.uniform(0.0, 0.25)
        self.front_s, self.client_s = draw.uniform(30e-6, 150e-6), draw.uniform(60e-6, 200e-6)
        self.wire_s = draw.uniform(80e-6, 300e-6)
        self.noise = draw.uniform(0.03, 0.15)
        self.stalls = draw.uniform(0.0, 0.6)  # each second
        self.runs = 0
        alone = self.fixed_s + self.row_s
        self.max_p99_s = self.limit_s or max(4 * alone + 4 * self.wire_s, draw.choice((4, 7, 13, 25)) * alone)
        self.rate = draw.uniform(0.3, 0.75) / (self.row_s + self.fixed_s / 8)

    @property
    def goal(self) -> Goal:
        return Goal(self.max_p99_s, rate=self.rate if self.open_loop else None)

    @property
    def current(self) -> Configuration:
        return self.default or Configuration(1, None, self.largest)

    @cached_property
    def space(self) -> Space:
        return Space.of(
            self.current, cores=self.cores, proven_max_batch=self.largest, max_p99_s=self.max_p99_s, kind="cpu"
        )

    def alone_s(self, rows: int, threads: int) -> float:
        """Return how long a batch takes on an idle machine."""
        faster = 1 + self.parallel * (min(threads, self.cores) - 1)
        return (self.fixed_s + self.row_s * math.pow(rows, self.bend)) / faster

    def measure(self, configuration: Configuration, load: Load) -> Measurement:
        """Measure as a bench does: each run is another one."""
        seed, self.runs = self.runs, self.runs + 1
        if configuration in self.dead:
            return Measurement(configuration, load, None, None, error="the server did not load it: no such thing")
        slow = math.exp(self.spread * random.Random(f"{self.seed} run {seed}").gauss(0, 1))
        is_disturbed = seed in self.disturbed
        run = self.run(configuration, load, f"{self.seed} {seed}", self.requests, slow * (2.5 if is_disturbed else 1))
        return self.measurement(configuration, load, run, 0.6 if is_disturbed else 0.02)

    def measurement(self, configuration: Configuration, load: Load, run: _Run, others: float = 0.0) -> Measurement:
        """Return what a load test says of a run."""
        seconds, latencies = run.ended - run.began, sorted(latency for _, latency in run.latencies)
        number = len(latencies)
        rows = [size for size, times in run.batches.items() for _ in times]
        return Measurement(
            configuration,
            load,
            throughput=_throughput(run),
            p99_s=_p99(latencies),
            requests=number,
            wrong=3 if configuration in self.broken else 0,
            mean_batch=sum(rows) / max(1, len(rows)),
            batches={size: BatchTimes(len(times), sum(times) / len(times)) for size, times in run.batches.items()},
            queue_s=run.queued / max(1, number),
            latency_s=sum(latencies) / max(1, number),
            client_cpu_s=self.client_s,
            server_cpu_s=self.front_s + run.worked / max(1, run.answered),
            others=others,
            seconds=seconds,
        )

    def run(self, configuration: Configuration, load: Load, seed: str, requests: int, slow: float) -> _Run:
        """Simulate one run."""
        return _Batcher(self, configuration, load, seed, slow).run(requests)

    def truth(self, configuration: Configuration, load: Load, requests: int = 5000) -> tuple[float, float]:
        """Return the throughput and the p99 of a long run at the usual speed."""
        run = self.run(configuration, load, f"{self.seed} truth", requests, 1.0)
        latencies = sorted(latency for _, latency in run.latencies)
        return run.rows / (run.ended - run.began), latencies[int(0.99 * len(latencies))]


class _Batcher:
    """Triton's dynamic batcher, its instances and its clients."""

    def __init__(self, world: World, configuration: Configuration, load: Load, seed: str, slow: float) -> None:
        self.world, self.configuration, self.load, self.slow = world, configuration, load, slow
        self.random = random.Random(seed)
        self.threads = configuration.threads or max(1, world.cores // configuration.instances)
        self.events: list[tuple[float, int, str, object]] = []
        self.number = count()
        self.queue: deque[_Request] = deque()
        self.waiting = 0  # rows
        self.busy = self.done = 0
        self.worked = 0.0
        self.front = 0.0  # when the front end and the client have done what they have to do
        self.timer = -1.0
        self.stall_at = self.random.expovariate(world.stalls) if world.stalls > 0.01 else math.inf
        self.stalled_until = 0.0
        sizes, weights = zip(*load.rows, strict=True)
        self.sizes, self.weights = list(sizes), list(weights)

    def run(self, requests: int) -> _Run:
        run, warm = _Run(), requests // 6
        if self.load.users is None:
            self.at(0.0, "arrive", None)
        for _ in range(self.load.users or 0):
            self.at(1e-3 * self.random.random(), "send", None)
        while self.done < requests:
            now, _, kind, what = heapq.heappop(self.events)
            if kind == "arrive":
                self.at(now + self.random.expovariate(self.load.rate or 1.0), "arrive", None)
            if kind in ("send", "arrive"):
                rows = self.sizes[0] if len(self.sizes) == 1 else self.random.choices(self.sizes, self.weights)[0]
                self.at(self.through_front(now), "queue", _Request(rows, now))
            elif isinstance(what, _Request):
                what.queued = now
                self.queue.append(what)
                self.waiting += what.rows
            elif isinstance(what, tuple):
                self.answer(run, warm, now, *what)
            self.schedule(now)
            run.ended = now
        run.worked, run.answered = self.worked, self.done
        return run

    def answer(self, run: _Run, warm: int, now: float, started: float, batch: list[_Request]) -> None:
        self.busy -= 1
        for request in batch:
            self.done += 1
            answered = now + self.world.wire_s * self.random.uniform(0.3, 0.7) + self.world.client_s * 0.5
            if self.done == warm:
                run.began = now
            if self.done > warm:
                run.latencies.append((now, answered - request.arrived))
                run.rows += request.rows
                run.queued += started - request.queued
            if self.load.users is not None:
                self.at(answered, "send", None)
        if self.done > warm:
            run.batches[sum(request.rows for request in batch)].append(now - started)

    def at(self, when: float, kind: str, what: object) -> None:
        heapq.heappush(self.events, (when, next(self.number), kind, what))

    def through_front(self, now: float) -> float:
        """Return when a request is in the queue: one after the other through client and server, and over the wire."""
        share = max(1.0, (1 + self.busy * self.threads) / self.world.cores)
        work = (0.5 * self.world.client_s + self.world.front_s) * math.exp(0.2 * self.random.gauss(0, 1)) * share**0.5
        self.front = max(now, self.front) + work
        return self.front + self.world.wire_s * self.random.uniform(0.3, 0.7)

    def schedule(self, now: float) -> None:
        while self.queue and self.busy < self.configuration.instances:
            batch = self.take(now)
            if not batch:
                return
            rows = sum(request.rows for request in batch)
            self.waiting -= rows
            self.busy += 1
            self.at(now + self.seconds(rows, now), "done", (now, batch))

    def take(self, now: float) -> list[_Request]:
        """Take the next batch from the queue; nothing if it waits for more.

        Source: DynamicBatchScheduler::GetDynamicBatch, dynamic_batch_scheduler.cc of Triton's core.
        """
        one = self.configuration
        fits, best, is_full = self.look(set(one.preferred), max(one.preferred, default=0))
        due = self.queue[0].queued + one.delay_us * 1e-6
        if best and (not one.delay_us or now < due):
            fits = best
        elif one.delay_us and now < due - 1e-12 and not is_full:
            if not now < self.timer <= due:
                self.timer = due
                self.at(due, "timer", None)
            return []
        return [self.queue.popleft() for _ in range(max(1, fits))]

    def look(self, preferred: set[int], cap: int) -> tuple[int, int, bool]:
        """Return how many requests fit into a batch, how many make the best preferred one, and whether it is full."""
        rows, best, largest = 0, 0, max(1, self.configuration.max_batch_size)
        for number, request in enumerate(self.queue):
            if rows + request.rows > largest:
                return number, best, True
            if cap and rows and rows + request.rows > cap and not best:
                best = number
            rows += request.rows
            if rows in preferred:
                best = number + 1
        return len(self.queue), best, rows >= largest

    def seconds(self, rows: int, now: float) -> float:
        """Return how long a batch takes that begins now."""
        world = self.world
        talking = min(1.0, 0.15 + (self.front - now) / 1e-3) if self.front > now else 0.1
        crowded = max(1.0, (self.busy * self.threads + talking) / world.cores)
        alone = world.alone_s(rows, self.threads)
        self.worked += self.threads * alone  # threads without work spin
        together = 1 + world.memory * (self.busy - 1)
        seconds = alone * crowded * together * self.slow
        seconds *= math.exp(world.noise * self.random.gauss(0, 1))
        if now >= self.stall_at:
            self.stalled_until = now + self.random.uniform(0.003, 0.02)
            self.stall_at = now + self.random.expovariate(world.stalls)
        return seconds + max(0.0, self.stalled_until - now)


def _throughput(run: _Run) -> Interval:
    """Return the throughput with the interval that its windows give."""
    seconds = run.ended - run.began
    width = seconds / _BETWEEN_WINDOWS
    windows = [0.0] * _BETWEEN_WINDOWS
    for when, _ in run.latencies:
        windows[min(_BETWEEN_WINDOWS - 1, int((when - run.began) / width))] += 1 / width
    mean = sum(windows) / _BETWEEN_WINDOWS
    variance = sum((window - mean) ** 2 for window in windows) / (_BETWEEN_WINDOWS - 1)
    value = run.rows / seconds
    half = 1.96 * math.sqrt(variance / _BETWEEN_WINDOWS) * value / mean
    return Interval(value, value - half, value + half)


def _p99(latencies: list[float]) -> Interval | None:
    """Return p99 between order statistics, with 95 %; None if there are too few requests."""
    number = len(latencies)
    late, half = _LATE * number, 1.96 * math.sqrt(number * _LATE * (1 - _LATE))
    if late - half < 1:
        return None
    low, middle, high = (latencies[min(int(number - late + off), number - 1)] for off in (-half, 0, half))
    return Interval(middle, low, high)
