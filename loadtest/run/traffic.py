"""The load that one process makes: it sends its users' requests, checks the answers, and counts everything."""

import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import gevent
from gevent.event import Event

from loadtest.checking import (
    Expected,
    Reference,
    Request,
    Samples,
    Wrong,
    find_mismatch,
    find_versions,
    make_order,
    make_pool,
    read_reference,
    wrong_answers,
)
from loadtest.errors import SettingsError, describe_bug
from loadtest.run.alarm import Alarm
from loadtest.run.recorder import Key, Recorder, Round, Slice
from loadtest.run.windows import Window
from loadtest.scenarios import PAUSE, Arrivals
from loadtest.settings import Settings
from loadtest.wire import Answer, Connection, ExchangeError, is_version, make_client

_TURN_S = 0.05
"""How long a user sends before it returns to Locust, which may then stop it."""

_LONGEST_SLEEP_S = 0.5
"""The longest time that a user of an open loop sleeps before it checks whether a new stage has begun."""

_BACK_OFF_S = 0.1
"""How long a user waits after its second lost connection in a row, and after each further one."""

_EXAMPLES_PER_KIND = 3
_SWITCH_S = 1.0
_REFERENCES_LIMIT = 256
"""The most versions whose references are kept. When there are more, they are forgotten and read again."""


@dataclass(slots=True, eq=False)
class Line:
    """A connection that one user at a time uses, and how often in a row it was lost."""

    connection: Connection
    losses: int = 0


class Traffic:
    """One process's load.

    Args:
        settings: The load test.
        samples: What to send, each by its weight.
        process: The process's name in the windows it returns.
        index: Which of the processes this is, from 0. Together with the seed, it makes their random choices differ.
    """

    def __init__(self, settings: Settings, samples: Sequence[Samples], *, process: str, index: int) -> None:
        self._client = make_client(settings.protocol, settings.address, settings.load.request_timeout_s)
        self._settings = settings
        self._samples = samples
        self._random = random.Random(f"{settings.load.seed}/{index}")
        self._references: dict[Key, Reference | None] = {
            (sample.model, str(sample.reference.version)): sample.reference for sample in samples if sample.reference
        }
        self._recorder = Recorder(process)
        self._loop = gevent.get_hub().loop
        self._idle: list[Line] = []
        self._alarms: list[Alarm] = []
        self._examples: Counter[str] = Counter()
        self._due: Iterator[float] | None = iter(())
        self._next_stage = Event()
        self._busy_users = 0
        self._is_gathering = False
        self._exhausted = True
        self._switched_at = 0.0
        self._prepare_requests()

    def _prepare_requests(self) -> None:
        """Encode the requests and decide on the order to send them in; after the last comes the first again."""
        pools = [
            (sample.weight * weight, make_pool(sample, rows, self._client.encode, self._random))
            for sample in self._samples
            for rows, weight in self._settings.rows
        ]
        self._requests = cycle(make_order(pools, self._random))

    @property
    def protocol(self) -> str:
        """The protocol of its requests."""
        return self._client.protocol

    def count_users(self, users: int) -> int:
        """Return how many of its users Locust shows.

        These are all of them in a closed loop, and while they gather for a stage. In an open loop, they are those that
        wait for an answer: the others only wait for a request that is due.
        """
        return users if self._due is None or self._is_gathering else self._recorder.in_flight

    def gather(self) -> None:
        """Let new users wait for the next stage, while those that are there send on."""
        self._is_gathering = True

    def admit(self) -> bool:
        """Return whether a new user may begin; wait a moment if the next stage has not begun yet."""
        if self._is_gathering:
            self._next_stage.wait(_LONGEST_SLEEP_S)
        return not self._is_gathering

    def begin(self, arrivals: Arrivals | None, index: int, processes: int, *, round: int = 0) -> None:
        """Start a stage as process `index` of `processes`; `arrivals` says when requests are due in an open loop.

        All users that wait for it begin at once. `round` is the number of the open round, which a process that came
        late does not know yet.
        """
        self._recorder.number = round
        self._stage_started = time.perf_counter()
        self._is_gathering = False
        self._due = None if arrivals is None else arrivals.due_times(index, processes)
        self._exhausted = arrivals == PAUSE
        self._next_stage.set()
        self._next_stage = Event()

    def flush(self) -> Iterator[tuple[Key, Slice]]:
        """Yield what came since the last flush; the windows still contain it."""
        return self._recorder.flush()

    def take(self, number: int) -> dict[int, Window]:
        """End the round and begin the round `number`; return a window for each round that has something new."""
        windows = self._recorder.take(number)
        for window in windows.values():
            window.drained = self._exhausted and not self._busy_users
        return windows

    def close(self) -> None:
        """Close all idle connections and timers."""
        while self._idle:
            self._idle.pop().connection.close()
        while self._alarms:
            self._alarms.pop().close()

    def work(self) -> None:
        """Do one user's turn: send requests for a moment, or the open loop's next request when it is due."""
        due_times = self._due
        offset = None if due_times is None else next(due_times, None)
        if due_times is not None and offset is None:
            self._exhausted = True
            self._rest()
            return
        line = self._idle.pop() if self._idle else Line(self._client.connect())
        self._busy_users += 1
        try:
            if due_times is None or offset is None:
                self._send_for_a_turn(line)
            else:
                self._send_when_due(line, due_times, offset)
        except BaseException:
            self._drop(line)
            raise
        finally:
            self._busy_users -= 1
        self._idle.append(line)

    def _drop(self, line: Line) -> None:
        """Give up the line of a user that was stopped in the middle of a request."""
        line.connection.close()

    def _rest(self) -> None:
        """Wait a moment for the next stage, because nothing is due."""
        self._next_stage.wait(_LONGEST_SLEEP_S)

    def _send_for_a_turn(self, line: Line) -> None:
        until = time.perf_counter() + _TURN_S
        while self._due is None and (now := time.perf_counter()) < until:
            iteration = self._loop.iteration
            self._send(line, now)
            if self._loop.iteration == iteration:
                gevent.sleep(0)  # the answer was there immediately, so no other user has had a chance to run

    def _send_when_due(self, line: Line, due_times: Iterator[float], offset: float) -> None:
        """Send a request when it is due, `offset` seconds into the stage; latency counts from then.

        A user that is free before then sleeps. If it wakes late, that is the load generator's own delay. If no user
        becomes free until later, all of them were waiting for answers, and the delay is the server's.
        For example, a request is due at 2.000 s. A user that slept until 2.0003 s and gets its answer at 2.010 s
        counts 300 µs of lateness and 10 ms of latency. One that came free only at 2.050 s and gets its answer at
        2.060 s counts no lateness, and 60 ms of latency.
        """
        due = self._stage_started + offset
        was_free = False
        while (wait_s := due - time.perf_counter()) > 0:
            was_free = True
            self._wait_until(due - max(wait_s - _LONGEST_SLEEP_S, 0))
            if self._due is not due_times:
                return
        if was_free:
            self._recorder.round.sent_late(int(-wait_s * 1e6))
        self._send(line, due)

    def _wait_until(self, moment: float) -> None:
        alarm = self._alarms.pop() if self._alarms else Alarm()
        try:
            alarm.wait_until(moment)
        except gevent.GreenletExit:
            alarm.close()
            raise
        self._alarms.append(alarm)

    def _send(self, line: Line, since: float) -> None:
        """Send the next request."""
        request = next(self._requests)
        self._exchange(line, request, request.encoded, since)

    def _exchange(self, line: Line, request: Request, encoded: bytes, since: float) -> bool:
        """Send a request and check its answer, if there is one; the latency counts from `since`."""
        round = self._recorder.round
        round.sent += 1
        try:
            answer = line.connection.infer(encoded)
        except ExchangeError as error:
            self._fail(line, request, error, since, round)
            return False
        latency_us = int((time.perf_counter() - since) * 1e6)
        line.losses = 0
        key = (request.samples.model, answer.layout.version)
        round.answered(key, len(request.group), latency_us)
        try:
            expected = request.expect(key[1], self._find_reference)
            if expected is None:
                self._look_at_unchecked(key, request, answer, round)
            elif not expected.is_right(answer):
                kind = self._examine_wrong(key, request, answer, expected, round)
                if kind is Wrong.ROWS_MIXED_UP:  # maybe an answer came twice; then all others would be one too late
                    line.connection.close()
        except Exception as error:  # an answer whose check did not end is not right
            round.found_wrong(key, Wrong.CHECK_FAILED.value, describe_bug(error))
        return True

    def _fail(self, line: Line, request: Request, error: ExchangeError, since: float, round: Round) -> None:
        """Count a request that got no answer."""
        latency_us = int((time.perf_counter() - since) * 1e6)
        message = self._settings.address.conceal(error.message)
        round.failed((request.samples.model, ""), error.kind, message, latency_us)
        self._recover(line, round, error)

    def _recover(self, line: Line, round: Round, error: ExchangeError) -> None:
        """Let the user try again at once, or after a moment if its connection was lost several times in a row.

        A server that is gone refuses connections within microseconds. Without the wait, all users would do nothing but
        ask for new ones.
        """
        line.losses = 0 if error.usable else line.losses + 1
        pause_s = _BACK_OFF_S if line.losses > 1 else 0.0
        if pause_s:
            round.backed_off(pause_s)
        gevent.sleep(pause_s)

    def _look_at_unchecked(self, key: Key, request: Request, answer: Answer, round: Round) -> None:
        """Count an answer without a reference, unless it comes from another model or version than was asked for."""
        mismatch = find_mismatch(request.samples.model, request.samples.version, answer.layout)
        if mismatch is not None:
            round.found_wrong(key, mismatch.kind.value, str(mismatch))
            return
        is_servers_choice = request.samples.reference is not None and not request.samples.version
        if is_servers_choice and is_version(key[1]):
            self._switch_to(self._find_reference(key[0], int(key[1])))
        round.left_unchecked(key)

    def _switch_to(self, reference: Reference | None) -> None:
        """Send the samples of the version that the server now serves, so that its answers can be checked."""
        now = time.perf_counter()
        if reference is not None and now - self._switched_at > _SWITCH_S:
            self._switched_at = now
            self._samples = [
                sample.with_reference(reference) if sample.model == reference.model and not sample.version else sample
                for sample in self._samples
            ]
            self._prepare_requests()

    def _find_reference(self, model: str, version: int) -> Reference | None:
        key = (model, str(version))
        repository = self._settings.repository
        if key not in self._references and repository is not None:
            if len(self._references) >= _REFERENCES_LIMIT:
                self._references.clear()
            try:
                found = version in find_versions(repository, model)
                self._references[key] = self._read_reference(repository, model, version) if found else None
            except (SettingsError, ValueError):
                self._references[key] = None
        return self._references.get(key)

    def _read_reference(self, repository: Path, model: str, version: int) -> Reference:
        """Read a reference as the server shows its model.

        Raises:
            SettingsError: It is damaged.
            ValueError: The server shows something else.
        """
        reference = read_reference(repository, model, version)
        view = next((sample.view for sample in self._samples if sample.model == model), None)
        return reference if view is None else view.of(reference)

    def _examine_wrong(self, key: Key, request: Request, answer: Answer, expected: Expected, round: Round) -> Wrong:
        """Count a wrong answer last, so that one whose check fails on the way is not counted twice; return its kind."""
        fault = expected.find_fault(answer)
        kind = fault.kind.value
        if self._examples[kind] < _EXAMPLES_PER_KIND:
            self._examples[kind] += 1
            name = f"{kind}-{self._recorder.process}-{self._examples[kind]}.npz"
            round.keep_example(name, wrong_answers.pack(self.protocol, request, answer, expected, fault))
        round.found_wrong(key, kind, str(fault))
        return fault.kind
