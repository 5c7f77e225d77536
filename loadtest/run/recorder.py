"""Count what one process sees, and return the counts window by window."""

import time
from collections import Counter
from pathlib import Path

from loadtest.run.windows import Busy, Tally, Window

Key = tuple[str, str]
"""A model and the version that answered; the version is empty where no answer named one."""


class Recorder:
    """Counts one process's requests; `take` returns the counts since the last call and starts again from 0.

    Args:
        process: The process's name in its windows.
    """

    def __init__(self, process: str) -> None:
        self.process = process
        self._restart()

    def _restart(self) -> None:
        self._tallies: dict[Key, Tally] = {}
        self._latencies: dict[Key, Counter[int]] = {}
        self._late: Counter[int] = Counter()
        self._messages: dict[str, str] = {}
        self._examples: list[tuple[str, bytes]] = []
        self._started = time.perf_counter()
        self._cpu_started = time.process_time()
        self._wait_started = _cpu_wait_s()

    def answered(self, key: Key, rows: int, latency_us: int) -> None:
        """Count an answer."""
        tally = self._tallies.get(key)
        if tally is None:
            tally = self._tally(key)
        tally.requests += 1
        tally.rows += rows
        # Counting whole microseconds in a dict is cheaper than the histogram, which `take` fills.
        self._latencies[key][latency_us] += 1

    def _tally(self, key: Key) -> Tally:
        self._latencies.setdefault(key, Counter())
        return self._tallies.setdefault(key, Tally())

    def failed(self, key: Key, kind: str, message: str) -> None:
        """Count a request that got no answer."""
        self._tally(key).failures[kind] += 1
        self._messages.setdefault(kind, message)

    def found_wrong(self, key: Key, kind: str, message: str) -> None:
        """Count an answer, already counted as answered, that is wrong."""
        self._tally(key).wrong[kind] += 1
        self._messages.setdefault(kind, message)

    def keep_example(self, name: str, data: bytes) -> None:
        """Pass on a file with a wrong answer."""
        self._examples.append((name, data))

    def left_unchecked(self, key: Key) -> None:
        """Count an answer, already counted as answered, that there was no reference for."""
        self._tally(key).unchecked += 1

    def sent_late(self, late_us: int) -> None:
        """Note how late a request of an open loop was sent although a user was free to send it."""
        self._late[late_us] += 1

    def take(self) -> Window:
        """Return the counts since the last call."""
        window = Window(time.perf_counter() - self._started, self._tallies)
        window.messages, window.examples = self._messages, self._examples
        for key, counts in self._latencies.items():
            window.tallies[key].latency_us.record_all(counts)
        window.late_us.record_all(self._late)
        cpu_s = time.process_time() - self._cpu_started
        window.busy[self.process] = Busy(window.seconds, cpu_s, _cpu_wait_s() - self._wait_started)
        self._restart()
        return window


def _cpu_wait_s() -> float:
    """Return how long this process's main thread was ready to run but had no CPU, in seconds; 0 where unknown.

    Source: https://docs.kernel.org/scheduler/sched-stats.html
    """
    try:
        return int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0
