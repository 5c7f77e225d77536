"""The load one process makes: its users' requests, their answers held against the reference, all of it counted."""

import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import cycle
from typing import Any

import gevent
from gevent.event import Event

from loadtest.checking import examples
from loadtest.checking.answers import Answer, Expected
from loadtest.checking.reference import Reference, find_versions, read_reference
from loadtest.checking.samples import Request, Samples, from_reference, make_deck, make_pool
from loadtest.errors import SettingsError
from loadtest.run.alarm import Alarm
from loadtest.run.measure import Recorder, Window
from loadtest.scenarios.stages import PAUSE, due_times
from loadtest.settings import Settings
from loadtest.wire.exchange import Connection, ExchangeError
from loadtest.wire.grpc import GrpcWire
from loadtest.wire.http import HttpWire

_TURN_S = 0.05
_NAP_S = 0.5
_AFTER_FAILURE_S = 0.1
_EXAMPLES_PER_KIND = 3
_SWITCH_S = 1.0


class Traffic:
    """One process's load.

    Args:
        settings: The load test.
        samples: What to send, one for each model of the settings.
        process: The process's name in the windows it hands out.
        index: Which of the processes this is; with the seed it makes their choices differ.
    """

    def __init__(self, settings: Settings, samples: list[Samples], *, process: str, index: int) -> None:
        self._wire = _make_wire(settings)
        self._settings = settings
        self._samples = samples
        self._random = random.Random(f"{settings.seed}/{index}")
        self._references: dict[tuple[str, int], Reference | None] = {
            (sample.model, sample.reference.version): sample.reference for sample in samples if sample.reference
        }
        self._recorder = Recorder(process)
        self._loop = gevent.get_hub().loop
        self._idle: list[Connection] = []
        self._alarms: list[Alarm] = []
        self._examples: Counter[str] = Counter()
        self._due: Iterator[float] | None = None
        self._next_stage = Event()
        self._under_way = 0
        self._exhausted = False
        self._switched_at = 0.0
        self._deal()

    def _deal(self) -> None:
        pools = [
            (choice.weight * weight, make_pool(sample, rows, self._wire.encode, self._random))
            for choice, sample in zip(self._settings.models, self._samples, strict=True)
            for rows, weight in self._settings.rows
        ]
        self._cards = cycle(make_deck(pools, self._random))

    @property
    def protocol(self) -> str:
        """The protocol of its requests."""
        return self._wire.name

    def begin(self, arrivals: Mapping[str, Any] | None, index: int, processes: int) -> None:
        """Start a stage: in a closed loop, or at the times that `arrivals` says, for which idle users are woken."""
        self._stage_started = time.perf_counter()
        self._due = None if arrivals is None else due_times(arrivals, index, processes)
        self._exhausted = arrivals == PAUSE
        self._next_stage.set()
        self._next_stage = Event()

    def take(self) -> Window:
        """What was counted since the last call."""
        window = self._recorder.take()
        window.drained = self._exhausted and not self._under_way
        return window

    def close(self) -> None:
        """Hang up all idle connections and give the timers back."""
        while self._idle:
            self._idle.pop().close()
        while self._alarms:
            self._alarms.pop().close()

    def work(self) -> None:
        """One user's turn: requests back to back for a moment, or the open loop's next request."""
        schedule = self._due
        offset = None if schedule is None else next(schedule, None)
        if schedule is not None and offset is None:
            self._exhausted = True
            self._next_stage.wait(_NAP_S)
            return
        connection = self._idle.pop() if self._idle else self._wire.connect()
        self._under_way += 1
        try:
            if schedule is None or offset is None:
                self._send_for_a_turn(connection)
            else:
                self._send_when_due(connection, schedule, offset)
        except gevent.GreenletExit:
            connection.close()
            raise
        finally:
            self._under_way -= 1
        self._idle.append(connection)

    def _send_for_a_turn(self, connection: Connection) -> None:
        until = time.perf_counter() + _TURN_S
        while self._due is None and (now := time.perf_counter()) < until:
            turn = self._loop.iteration
            self._send(connection, now)
            if self._loop.iteration == turn:  # the answer was there at once: the others had no turn meanwhile
                gevent.sleep(0)

    def _send_when_due(self, connection: Connection, schedule: Iterator[float], offset: float) -> None:
        due = self._stage_started + offset
        was_free = False
        while (wait_s := due - time.perf_counter()) > 0:
            was_free = True
            self._wait_until(due - max(wait_s - _NAP_S, 0))
            if self._due is not schedule:
                return
        if was_free:
            self._recorder.sent_late(int(-wait_s * 1e6))
        self._send(connection, due)

    def _wait_until(self, moment: float) -> None:
        alarm = self._alarms.pop() if self._alarms else Alarm()
        try:
            alarm.wait_until(moment)
        except gevent.GreenletExit:
            alarm.close()
            raise
        self._alarms.append(alarm)

    def _send(self, connection: Connection, since: float) -> None:
        """Send one request; its latency counts from `since`."""
        request = next(self._cards)
        try:
            answer = connection.ask(request.wire)
        except ExchangeError as error:
            self._recorder.failed((request.samples.model, ""), error.kind, error.message)
            gevent.sleep(0 if error.usable else _AFTER_FAILURE_S)
            return
        latency_us = int((time.perf_counter() - since) * 1e6)
        key = (request.samples.model, answer.layout.version)
        self._recorder.answered(key, len(request.group), latency_us)
        expected = request.expect(key[1], self._find_reference)
        if expected is None:
            self._leave_unchecked(key, request)
        elif not expected.is_right(answer):
            self._found_wrong(key, request, answer, expected)

    def _leave_unchecked(self, key: tuple[str, str], request: Request) -> None:
        self._recorder.left_unchecked(key)
        own = request.samples.reference
        if own is not None and not request.samples.version and key[1].isdecimal():
            self._follow(self._find_reference(key[0], int(key[1])))

    def _follow(self, reference: Reference | None) -> None:
        """Send the samples of a version that the server has turned to, so that its answers can be checked."""
        now = time.perf_counter()
        if reference is not None and now - self._switched_at > _SWITCH_S:
            self._switched_at = now
            self._samples = [
                from_reference(reference, "", binary=sample.binary) if sample.model == reference.model else sample
                for sample in self._samples
            ]
            self._deal()

    def _find_reference(self, model: str, version: int) -> Reference | None:
        key = (model, version)
        repository = self._settings.repository
        if key not in self._references and repository is not None:
            try:
                found = version in find_versions(repository, model)
                self._references[key] = read_reference(repository, model, version) if found else None
            except SettingsError:
                self._references[key] = None
        return self._references.get(key)

    def _found_wrong(self, key: tuple[str, str], request: Request, answer: Answer, expected: Expected) -> None:
        fault = expected.fault(answer)
        kind = fault.kind.value
        self._recorder.found_wrong(key, kind, f"{fault.output}: {fault.what}")
        if self._examples[kind] < _EXAMPLES_PER_KIND:
            self._examples[kind] += 1
            name = f"{kind}-{self._recorder.process}-{self._examples[kind]}.npz"
            self._recorder.keep_example(name, examples.pack(self._wire.name, request, answer, expected, fault))


def _make_wire(settings: Settings) -> HttpWire | GrpcWire:
    if settings.protocol == "grpc":
        return GrpcWire(settings.grpc, settings.request_timeout_s)
    return HttpWire(settings.http, settings.request_timeout_s)
