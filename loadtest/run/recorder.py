"""Count what one process sees.

A run is divided into rounds, which the leader ends one after the other. Every request belongs to the round in which it
was sent, even if its answer comes later. For example, a round of 2 s in which requests take 3 s ends without a single
answer. The next round returns two windows: its own, and one with the answers to the requests of the round before.
"""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from loadtest.run.busy import Busy
from loadtest.run.tallies import Tally
from loadtest.run.windows import Window

Key = tuple[str, str]
"""A model and the version that answered; the version is empty where no answer named one."""


_MOST_KEYS = 32
_LONGEST_VERSION = 64
_LONGEST_MESSAGE = 500
_OTHER = "other"


class Keys:
    """The keys that are counted apart. Later ones are counted together, as version `other` of their model.

    So a server that names another version in each answer does not fill the memory with histograms. Nor does a version
    of a million characters fill the report: it is counted there too.
    """

    def __init__(self) -> None:
        self._known: set[Key] = set()

    def find(self, key: Key) -> Key:
        """Return the key that something is counted under."""
        if key not in self._known:
            if len(self._known) >= _MOST_KEYS or len(key[1]) > _LONGEST_VERSION:
                return key[0], _OTHER
            self._known.add(key)
        return key


@dataclass(slots=True)
class Slice:
    """What came for one version of a model in a short time: counts, and how often each latency was seen, in µs."""

    rows: int = 0
    unchecked: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    answered_us: Counter[int] = field(default_factory=Counter)
    failed_us: Counter[int] = field(default_factory=Counter)

    @property
    def requests(self) -> int:
        """How many answers came."""
        return self.answered_us.total()

    def add(self, later: "Slice") -> None:
        """Add what came after it."""
        self.rows += later.rows
        self.unchecked += later.unchecked
        self.failures.update(later.failures)
        self.wrong.update(later.wrong)
        self.answered_us.update(later.answered_us)

    def to_tally(self) -> Tally:
        """Return the counts with a histogram of the latencies."""
        tally = Tally(self.requests, self.rows, self.unchecked, self.failures, self.wrong)
        tally.latency_us.record_all(self.answered_us)
        return tally


class Round:
    """Counts the requests that were sent in one round, until the last of them was answered.

    Args:
        keys: The keys that its process counts apart.

    Attributes:
        sent: How many were sent since the last window.
    """

    def __init__(self, keys: Keys) -> None:
        self.sent = 0
        self._keys = keys
        self._in_flight_before = 0
        self._fresh: dict[Key, Slice] = {}
        self._begin_window()

    def _begin_window(self) -> None:
        self._slices: dict[Key, Slice] = {}
        self._late: Counter[int] = Counter()
        self._backed_off_s = 0.0
        self._sequences: Counter[str] = Counter()
        self._messages: dict[str, str] = {}
        self._examples: list[tuple[str, bytes]] = []

    def answered(self, key: Key, rows: int, latency_us: int) -> None:
        """Count an answer."""
        fresh = self._fresh.get(key)
        if fresh is None:
            fresh = self._slice(key)
        fresh.rows += rows
        # Counting whole microseconds in a dict is cheaper than the histogram, which `take` fills.
        fresh.answered_us[latency_us] += 1

    def _slice(self, key: Key) -> Slice:
        return self._fresh.setdefault(self._keys.find(key), Slice())

    def failed(self, key: Key, kind: str, message: str, latency_us: int) -> None:
        """Count a request that got no answer, and how long it took to fail."""
        fresh = self._slice(key)
        fresh.failures[kind] += 1
        fresh.failed_us[latency_us] += 1
        self._keep_message(kind, message)

    def found_wrong(self, key: Key, kind: str, message: str) -> None:
        """Count an answer, already counted as answered, that is wrong."""
        self._slice(key).wrong[kind] += 1
        self._keep_message(kind, message)

    def _keep_message(self, kind: str, message: str) -> None:
        """Keep the first message of each kind, but no more of it than people read: the server chose its length."""
        self._messages.setdefault(kind, message[:_LONGEST_MESSAGE])

    def keep_example(self, name: str, data: bytes) -> None:
        """Pass on a file with a wrong answer."""
        self._examples.append((name, data))

    def left_unchecked(self, key: Key) -> None:
        """Count an answer, already counted as answered, that there was no reference for."""
        self._slice(key).unchecked += 1

    def sent_late(self, late_us: int) -> None:
        """Note how late a request of an open loop was sent although a user was free to send it."""
        self._late[late_us] += 1

    def backed_off(self, seconds: float) -> None:
        """Note that a user waited before it tried again, because several of its requests in a row had failed."""
        self._backed_off_s += seconds

    def ended_sequence(self, how: str) -> None:
        """Count a sequence that is over: `completed`, `failed` or `ended_early`."""
        self._sequences[how] += 1

    @property
    def has_news(self) -> bool:
        """Whether something came since the last window."""
        return bool(self._slices or self._fresh or self._sequences)

    @property
    def in_flight(self) -> int:
        """How many of its requests have no answer yet."""
        slices = [*self._slices.values(), *self._fresh.values()]
        done = sum(slice.requests + slice.failures.total() for slice in slices)
        return self._in_flight_before + self.sent - done

    def flush(self) -> dict[Key, Slice]:
        """Return what came since the last flush; the next window still contains it."""
        fresh, self._fresh = self._fresh, {}
        for key, slice in fresh.items():
            self._slices.setdefault(key, Slice()).add(slice)
        return fresh

    def take(self) -> Window:
        """Return what came since the last window, as a window without a length."""
        self.flush()
        self._in_flight_before = self.in_flight
        window = Window(sent=self.sent, backed_off_s=self._backed_off_s, sequences=self._sequences)
        window.tallies = {key: slice.to_tally() for key, slice in self._slices.items()}
        window.late_us.record_all(self._late)
        window.messages, window.examples = self._messages, self._examples
        self.sent = 0
        self._begin_window()
        return window


class Recorder:
    """The rounds of one process.

    Args:
        process: The process's name in its windows.

    Attributes:
        round: The open round, to which requests belong that are sent now.
        number: Its number.
    """

    def __init__(self, process: str) -> None:
        self.process = process
        self._keys = Keys()
        self.round = Round(self._keys)
        self.number = 0
        self._earlier: dict[int, Round] = {}
        self._restart()

    def _restart(self) -> None:
        self._started = time.perf_counter()
        self._cpu_started = time.process_time()
        self._wait_started = _cpu_wait_s()

    @property
    def in_flight(self) -> int:
        """How many requests have no answer yet."""
        return self.round.in_flight + sum(earlier.in_flight for earlier in self._earlier.values())

    def flush(self) -> Iterator[tuple[Key, Slice]]:
        """Yield what came since the last flush; the windows still contain it."""
        for each in (*self._earlier.values(), self.round):
            yield from each.flush().items()

    def take(self, number: int) -> dict[int, Window]:
        """End the open round and begin the round `number`; return a window for each round that has something new.

        Only the window of the round that ends has a length. Its surplus is what came during it to earlier requests, and
        theirs is negative. So a stage gets the same throughput whether their windows are added to it or not.
        """
        windows = {each: earlier.take() for each, earlier in self._earlier.items() if earlier.has_news}
        self._earlier = {each: earlier for each, earlier in self._earlier.items() if earlier.in_flight}
        ended = self.round.take()
        for window in windows.values():
            window.surplus_requests, window.surplus_rows = -window.requests, -window.rows
            ended.surplus_requests += window.requests
            ended.surplus_rows += window.rows
        ended.seconds = time.perf_counter() - self._started
        cpu_s = time.process_time() - self._cpu_started
        ended.busy[self.process] = Busy(ended.seconds, cpu_s, _cpu_wait_s() - self._wait_started)
        ended.in_flight = self.in_flight
        windows[self.number] = ended
        if self.round.in_flight:
            self._earlier[self.number] = self.round
        self.round, self.number = Round(self._keys), number
        self._restart()
        return windows


def _cpu_wait_s() -> float:
    """Return how long this process's main thread was ready to run but had no CPU, in seconds; 0 where unknown.

    Source: https://docs.kernel.org/scheduler/sched-stats.html
    """
    try:
        return int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0
