"""The load that one process makes on a stateful model: each user sends one sequence at a time."""

import time
from collections.abc import Sequence

from loadtest.checking import OpenSequence, Samples, Sequences, Streams, draw_ids
from loadtest.run.traffic import Line, Traffic
from loadtest.run.windows import Window
from loadtest.server import Prepared
from loadtest.settings import Settings
from loadtest.wire import ExchangeError

_LEFT_S = 0.25
"""A sequence whose user has left waits for longer than this. Between two turns, a user is away for a moment only."""


def make_traffic(settings: Settings, prepared: Prepared, *, process: str, index: int) -> Traffic:
    """Return the load that one process makes: single requests, or sequences if the model is stateful."""
    if prepared.streams is None:
        return Traffic(settings, prepared.samples, process=process, index=index)
    return SequenceTraffic(settings, prepared.samples, prepared.streams, process=process, index=index)


class SequenceTraffic(Traffic):
    """Sends sequences. A connection has one at a time, whose steps never overlap.

    A step without an answer breaks its sequence: the server is told that it ends, and the user begins another one. When
    there are fewer users, and at the end of a run, sequences are ended early in the same way, so that none is left open
    in the server. The answers to these last requests are not counted, because nothing says what is right: a sequence
    that ends here was not to end here.
    """

    def __init__(
        self, settings: Settings, samples: Sequence[Samples], streams: Streams, *, process: str, index: int
    ) -> None:
        self._streams = streams
        self._index = index
        self._open: dict[Line, OpenSequence] = {}
        super().__init__(settings, samples, process=process, index=index)

    def _prepare_requests(self) -> None:
        client = self._client
        ids = draw_ids(self._index)
        self._sequences = Sequences(self._streams, client.encode, client.write_number, self._random, ids)

    def take(self, number: int) -> dict[int, Window]:
        """Do what `Traffic` does; there is more to come as long as a sequence is open."""
        windows = super().take(number)
        for window in windows.values():
            window.drained &= not self._open
        return windows

    def work(self) -> None:
        """Do one user's turn. First of all, end a sequence whose user has left."""
        if self._idle and self._has_been_left(self._idle[0]):
            self._end(self._idle.pop(0))
        super().work()

    def _drop(self, line: Line) -> None:
        super()._drop(line)
        self._open.pop(line, None)

    def _has_been_left(self, line: Line) -> bool:
        sequence = self._open.get(line)
        return sequence is not None and time.perf_counter() - sequence.sent_at > _LEFT_S

    def _rest(self) -> None:
        """End an open sequence if there is one, because nothing is to be sent."""
        for place, line in enumerate(self._idle):
            if line in self._open:
                self._end(self._idle.pop(place))
                return
        super()._rest()

    def _send(self, line: Line, since: float) -> None:
        """Send the next step of the line's sequence."""
        sequence = self._open.get(line)
        if sequence is None:
            sequence = self._open[line] = self._sequences.begin()
        request, encoded = sequence.next_step()
        round = self._recorder.round
        if not self._exchange(line, request, encoded, since):
            round.ended_sequence("failed")
            self._break_off(line)
        elif sequence.is_complete:
            round.ended_sequence("completed")
            del self._open[line]

    def _break_off(self, line: Line) -> None:
        """Forget a sequence after a step without an answer. The server has to be told if it was begun and not ended."""
        sequence = self._open[line]
        if sequence.step > 1 and not sequence.is_complete:
            self._say_end(line)
        else:
            del self._open[line]

    def _end(self, line: Line) -> None:
        """End a sequence early, and give the line back."""
        self._busy_users += 1
        try:
            self._recorder.round.ended_sequence("ended_early")
            self._say_end(line)
        except BaseException:
            self._drop(line)
            raise
        finally:
            self._busy_users -= 1
        self._idle.append(line)

    def _say_end(self, line: Line) -> None:
        """Send a last step. If it gets no answer, that counts as a failure like any other."""
        request, encoded = self._open.pop(line).last_step()
        since, round = time.perf_counter(), self._recorder.round
        try:
            line.connection.infer(encoded)
        except ExchangeError as error:
            round.sent += 1
            self._fail(line, request, error, since, round)
