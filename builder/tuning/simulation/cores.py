"""The cores of a simulated machine, and its clock.

If more is to be done than there are cores, everything that runs at the same moment slows down equally. So *work time*
goes on at the speed at which everything runs, and the work time at which a task ends is known when it begins. For
example, two cores run a task of 3 ms, and after 1 ms two more tasks begin. Three tasks on two cores run at 2/3 of their
speed. The first one ends when the work time is 3 ms: 1 ms at full speed, and 2 ms at 2/3 of it, which take 3 ms more.
"""

import heapq
import math
from collections.abc import Callable
from typing import Any

Then = Callable[[Any], None]
"""What is called when a task ends or a timer rings, with what was given for it."""


class Cores:
    """Cores that are shared by everything that runs.

    Args:
        count: How many there are; None if there are always enough.
        contention: By which share each busy core beyond the first slows everything down.

    Attributes:
        now: The time, in seconds.
    """

    __slots__ = ("_contention", "_count", "_demand", "_number", "_speed", "_tasks", "_timers", "_worked", "now")

    def __init__(self, count: int | None, contention: float) -> None:
        self.now = 0.0
        self._count = math.inf if count is None else float(count)
        self._contention = 0.0 if count is None else contention
        self._demand = 0.0
        self._speed = 1.0
        self._worked = 0.0
        self._number = 0
        self._tasks: list[tuple[float, int, Then, Any]] = []
        self._timers: list[tuple[float, int, Then, Any]] = []

    def speed_at(self, demand: float) -> float:
        """Return how fast everything runs when it would use so many cores, between 0 and 1."""
        if demand <= 1.0:
            return 1.0
        busy = min(demand, self._count)
        return busy / demand / (1.0 + self._contention * (busy - 1.0))

    def start(self, seconds: float, demand: float, then: Then, what: Any) -> None:
        """Begin a task that takes so many seconds at full speed and uses `demand` cores; `free` must follow its end."""
        self.free(-demand)
        self._number += 1
        heapq.heappush(self._tasks, (self._worked + seconds, self._number, then, what))

    def free(self, demand: float) -> None:
        """Give back the cores of a task that has ended."""
        self._demand = demand = self._demand - demand
        self._speed = 1.0 if demand <= 1.0 else self.speed_at(demand)

    def ring(self, at: float, then: Then, what: Any) -> None:
        """Set a timer."""
        self._number += 1
        heapq.heappush(self._timers, (at, self._number, then, what))

    def step(self) -> bool:
        """Go on to what comes next; return whether there was something."""
        tasks, timers = self._tasks, self._timers
        ends_at = self.now + (tasks[0][0] - self._worked) / self._speed if tasks else math.inf
        if timers and timers[0][0] < ends_at:
            at, _, then, what = heapq.heappop(timers)
            self._worked += (at - self.now) * self._speed
            self.now = at
        elif tasks:
            self._worked, _, then, what = heapq.heappop(tasks)
            self.now = ends_at
        else:
            return False
        then(what)
        return True
