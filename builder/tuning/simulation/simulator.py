"""Predict the throughput and latency of a configuration: simulate Triton's batcher, its instances and its clients.

A request goes from the load generator, which is one process and does one thing at a time, to Triton's front end, waits
in the batcher, and runs in an instance. The load generator, the front end and the instances share the cores.
"""

import math
import random
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from builder.tuning.measurement import Configuration, Load
from builder.tuning.simulation.batcher import Batcher, Payload
from builder.tuning.simulation.cores import Cores
from builder.tuning.simulation.curves import Curve, Engine, engine_of

_ROUNDS = 6
"""How many requests each user sends at least."""

_WARM_UP = 0.2
"""Which share of the requests comes before the figures."""

_RECEIVING, _SENDING = 0.4, 0.3
"""Which shares of the load generator's work are part of the latency: reading an answer, and sending a request."""

_NONE = -1
"""No request."""

_GROWTH = 0.03
"""A latency that grows by this share of the time that passes is that of a server which does not keep up."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What is known of the server, the load generator and the machine that they run on.

    Attributes:
        curve: The time of a batch that runs alone.
        cores: The cores that the model, Triton and the load generator share; None if the server runs elsewhere. Then
            nothing is known of its processors, and it is taken to have enough of them.
        client_cpu_s: The processor time of the load generator for each request, in seconds, while it is busy.
        client_wake_s: How much more a request costs the load generator if it had nothing to do before, in seconds.
        client_row_s: How much more a request costs the load generator for each row but the first, in seconds.
        front_cpu_s: The processor time of the server for each request, without the model, in seconds.
        front_row_s: How much more that is for each row but the first, in seconds.
        latency_s: What else a request takes when nobody else is there, in seconds: the network, and waking up programs.
        batch_s: How much longer than its batch an instance is busy, in seconds.
        request_s: How much longer a batch takes for each request but the first, in seconds: one of 8 requests of one
            row takes longer than a single request of 8 rows.
        contention: By which share each further busy core slows the others down.
        tail: How many times longer than simulated the slowest 1 % of the requests take: programs that run for a moment,
            and a core that is given to something else, are not simulated.
        background: How many cores other programs keep busy.
        busy: How many cores an instance of each engine keeps busy; an engine that is missing keeps one busy for each
            of its threads.
    """

    curve: Curve
    cores: int | None
    client_cpu_s: float = 0.0
    client_wake_s: float = 0.0
    client_row_s: float = 0.0
    front_cpu_s: float = 0.0
    front_row_s: float = 0.0
    latency_s: float = 0.0
    batch_s: float = 0.0
    request_s: float = 0.0
    contention: float = 0.0
    tail: float = 1.0
    background: float = 0.0
    busy: tuple[tuple[Engine, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Predicted:
    """What a configuration will do under a load.

    Attributes:
        throughput: Rows answered each second.
        p99_s: The time within which 99 % of the requests are answered, in seconds.
        mean_batch: The mean number of rows in a batch.
        latency_s: The mean latency, in seconds.
        client_cpu_s: The processor time of the load generator for each request, in seconds.
        server_cpu_s: The processor time of the server for each request, in seconds.
        slowdown: How many times longer batches took than they take alone.
    """

    throughput: float
    p99_s: float
    mean_batch: float
    latency_s: float = 0.0
    client_cpu_s: float = 0.0
    server_cpu_s: float = 0.0
    slowdown: float = 1.0


def simulate(
    configuration: Configuration, load: Load, machine: Machine, *, requests: int = 400, seed: int = 0
) -> Predicted:
    """Simulate a configuration under a load.

    Args:
        configuration: The configuration.
        load: The load.
        machine: The server, the load generator and their machine.
        requests: How many requests are simulated; more of them if there are many users.
        seed: What the random numbers begin with; equal seeds give equal results.

    Raises:
        ValueError: The machine's curve has no times, or the load neither users nor a rate.
    """
    return _Run(configuration, load, machine, max(requests, _ROUNDS * (load.users or 0)), seed).result()


def simulate_all(
    cases: Iterable[tuple[Configuration, Load]], machine: Machine, *, requests: int = 400, seed: int = 0
) -> list[Predicted]:
    """Simulate many configurations and loads, as `simulate` does for each; return the results in the same order."""
    return [simulate(configuration, load, machine, requests=requests, seed=seed) for configuration, load in cases]


@lru_cache(maxsize=64)
def _rows(mix: tuple[tuple[int, float], ...], count: int, seed: int) -> tuple[int, ...]:
    """Return the rows of so many requests."""
    sizes, weights = zip(*mix, strict=True)
    return tuple(random.Random(seed).choices(sizes, weights, k=count))


@lru_cache(maxsize=64)
def _factors(noise: float, count: int, seed: int) -> tuple[float, ...]:
    """Return by which factors the times of batches differ from their mean."""
    draw = random.Random(seed + 1).gauss
    return tuple(math.exp(noise * draw(0.0, 1.0) - noise * noise / 2) for _ in range(count))


@lru_cache(maxsize=64)
def _arrivals(count: int, seed: int) -> tuple[float, ...]:
    """Return when the requests of a Poisson process come, in units of its mean gap, which is exact."""
    draw = random.Random(seed + 2).expovariate
    times = [0.0]
    for _ in range(count):
        times.append(times[-1] + draw(1.0))
    return tuple(count * time / times[-1] for time in times[:-1])


class _Run:
    """One simulation. Requests are numbered as they are sent."""

    def __init__(self, configuration: Configuration, load: Load, machine: Machine, wanted: int, seed: int) -> None:
        if load.users is None and load.rate is None:
            raise ValueError("a load needs users or a rate")
        self._load, self._wanted = load, wanted
        self._is_closed = load.rate is None
        self._warm = int(_WARM_UP * wanted)
        self._cores = Cores(machine.cores, machine.contention)
        self._batcher = Batcher(configuration)
        self._idle = configuration.instances
        self._rows = _rows(load.rows, wanted + 2 * (load.users or 0), seed)
        self._mean_rows = sum(self._rows) / len(self._rows)
        self._factors = _factors(machine.curve.noise, wanted, seed)
        self._since = [0.0] * len(self._rows)
        self._latencies: list[float] = []
        self._sizes: list[int] = []
        self._sent = self._turns = self._ended = self._wakes = 0
        self._alone_s = self._ran_s = 0.0
        self._turned_s = 0.0
        self._rings_at: float | None = None
        self._set_costs(configuration, machine)
        self._begin(seed)

    def _set_costs(self, configuration: Configuration, machine: Machine) -> None:
        engine = engine_of(configuration, machine.cores)
        self._demand = dict(machine.busy).get(engine, float(engine[0] or 1))
        own_speed = self._cores.speed_at(self._demand)  # its time was measured at this speed
        self._cores.free(-machine.background)
        largest = max(configuration.max_batch_size, *(rows for rows, _ in self._load.rows))
        self._seconds = [
            (machine.batch_s + machine.curve.seconds(engine, max(1, rows))) * own_speed for rows in range(largest + 1)
        ]
        self._front_s = machine.front_cpu_s + machine.latency_s
        self._front_demand = machine.front_cpu_s / self._front_s if self._front_s else 0.0
        # in an open loop, a request is sent when it is due, and so not in one go with reading an answer
        self._tail = machine.tail
        self._request_s = machine.request_s * own_speed
        self._client_s = machine.client_cpu_s * (1.0 if self._is_closed else 0.5)
        self._wake_s = machine.client_wake_s
        self._client_row_s = machine.client_row_s * (1.0 if self._is_closed else 0.5)
        self._front_row_s = machine.front_row_s
        self._own_speed = own_speed
        self._receiving = _RECEIVING * (1.0 if self._is_closed else 2.0)
        self._jobs: deque[tuple[int, int]] = deque()
        self._job_since: float | None = None

    def _begin(self, seed: int) -> None:
        if self._load.rate is None:
            for request in range(self._load.users or 0):
                self._ask_client(_NONE, request)
            self._sent = self._load.users or 0
        else:
            for request, at in enumerate(_arrivals(self._wanted, seed)):
                self._since[request] = at / self._load.rate
                self._cores.ring(self._since[request], self._send_when_due, request)

    def _send_when_due(self, request: int) -> None:
        self._ask_client(_NONE, request)

    def _ask_client(self, answered: int, request: int) -> None:
        """Let the load generator read an answer, send a request, or do one after the other."""
        self._jobs.append((answered, request))
        if self._job_since is None:
            self._wakes += 1
            self._start_job(self._client_s + self._wake_s)

    def _start_job(self, seconds: float) -> None:
        job = self._jobs.popleft()
        self._job_since = self._cores.now
        if self._client_row_s:
            seconds += self._client_row_s * (self._rows[job[1] if job[1] != _NONE else job[0]] - 1)
        self._cores.start(seconds, 1.0, self._end_job, job)

    def _end_job(self, job: tuple[int, int]) -> None:
        cores, began = self._cores, self._job_since or 0.0
        cores.free(1.0)
        answered, request = job
        took = cores.now - began
        if answered != _NONE:
            self._latencies.append(began + self._receiving * took - self._since[answered])
        if request != _NONE:
            if self._is_closed:
                self._since[request] = cores.now - _SENDING * took
                if answered != _NONE and len(self._latencies) > self._warm:
                    self._turns += 1
                    self._turned_s += self._since[request] - self._since[answered]
            seconds = self._front_s + self._front_row_s * (self._rows[request] - 1)
            cores.start(seconds, self._front_demand, self._arrive, request)
        self._job_since = None
        if self._jobs:
            self._start_job(self._client_s)

    def _arrive(self, request: int) -> None:
        self._cores.free(self._front_demand)
        self._batcher.add(self._cores.now, request, self._rows[request])
        self._dispatch()

    def _dispatch(self) -> None:
        """Give payloads to idle instances, and let the batcher go on, which sees each time that one is taken."""
        batcher, cores = self._batcher, self._cores
        while self._idle and (payload := batcher.take(cores.now)) is not None:
            self._idle -= 1
            seconds = self._seconds[payload.rows] + self._request_s * (len(payload.requests) - 1)
            factor = self._factors[len(self._sizes) % len(self._factors)]
            self._sizes.append(payload.rows)
            self._alone_s += seconds
            cores.start(seconds * factor, self._demand, self._end_batch, (payload, cores.now))
            batcher.run(cores.now)
        rings_at = batcher.rings_at
        if rings_at is not None and rings_at != self._rings_at:
            self._rings_at = rings_at
            cores.ring(rings_at, self._ring, rings_at)

    def _ring(self, at: float) -> None:
        if at == self._batcher.rings_at:
            self._batcher.run(self._cores.now)
            self._dispatch()

    def _end_batch(self, ended: tuple[Payload, float]) -> None:
        """The instance takes what waits at once, before the clients have read their answers."""
        payload, began = ended
        self._ran_s += self._cores.now - began
        self._cores.free(self._demand)
        self._idle += 1
        self._batcher.run(self._cores.now)
        self._dispatch()
        self._ended += len(payload.requests)
        for answered in payload.requests:
            request = self._sent if self._is_closed else _NONE
            self._sent += 1
            self._ask_client(answered, request)

    def result(self) -> Predicted:
        """Simulate until enough requests were answered."""
        while len(self._latencies) < self._wanted and self._cores.step():
            pass
        measured = self._latencies[self._warm :]
        sizes = self._sizes[int(_WARM_UP * len(self._sizes)) :]
        ended = max(1, self._ended)
        jobs = 1 if self._is_closed else 2
        return Predicted(
            throughput=self._requests_per_s() * self._mean_rows,
            p99_s=_quantile(sorted(measured), 0.99) * self._tail,
            mean_batch=sum(sizes) / max(1, len(sizes)),
            latency_s=sum(measured) / max(1, len(measured)),
            client_cpu_s=jobs * (self._client_s + self._client_row_s * (self._mean_rows - 1))
            + self._wake_s * self._wakes / ended,
            server_cpu_s=(self._front_s + self._front_row_s * (self._mean_rows - 1)) * self._front_demand
            + self._demand * self._alone_s / self._own_speed / ended,
            slowdown=self._ran_s * self._own_speed / self._alone_s if self._alone_s else 1.0,
        )

    def _requests_per_s(self) -> float:
        """Return the throughput.

        Each user sends one request in each of its turns, so the mean turn says it better than the number of answers in
        a time, which depends on whether the last batch is just within it. In an open loop, all requests are answered
        as they come, unless the latency grows: if a request that comes a second later waits 0.25 s longer, then the
        requests of one second are answered in 1.25 s.
        """
        if self._is_closed:
            return (self._load.users or 0) * self._turns / self._turned_s if self._turned_s else 0.0
        quarter = max(1, len(self._latencies) // 4)
        first, last = self._latencies[quarter : 2 * quarter], self._latencies[-quarter:]
        rate = self._load.rate or 0.0
        growth = (sum(last) / len(last) - sum(first) / max(1, len(first))) * rate / (2 * quarter)
        return rate / (1.0 + growth) if growth > _GROWTH else rate


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Return the value below which a share of the values are, between the two that are nearest to it."""
    if not ordered:
        return math.inf
    at = share * (len(ordered) - 1)
    below = int(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (at - below)
