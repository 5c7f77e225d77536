"""A stage: a stretch of the run under one load."""

from dataclasses import dataclass

from loadtest.scenarios.arrivals import Arrivals

_WINDOWS_PER_STAGE = 5
_SHORTEST_WINDOW_S = 0.5
_WINDOWS_AFTER_A_JUMP = 40
_SHORTEST_AFTER_A_JUMP_S = 0.1
_WINDOWS_UNTIL_DECIDED = 20
_REPLAY_WINDOW_S = 1.0

LONGEST = 10
"""How many times its usual length a stage may last to get the answers that it needs."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A stretch of the run under one load.

    Attributes:
        name: What the report calls it.
        users: How many users there are: the concurrency, or in an open loop the most requests in flight.
        seconds: The longest it lasts, not counting the warm-up.
        warm_up_s: How long at its start nothing is measured.
        follows_on: Whether it goes on from the stage before without a break: users of both stages go on sending, and it
            is measured from the moment in which the others come or go. Otherwise, the requests of the stage before are
            answered first.
        has_jump: Whether it is about a jump of the load, which short windows show.
        until_stable: Whether it ends as soon as three windows in a row agree.
        sought_p99_us: The p99 limit of a search; the stage ends as soon as it is clear whether its load keeps it.
        arrivals: When an open loop's requests are due; None in a closed loop, where each user sends its next request
            when the last one was answered.
    """

    name: str
    users: int
    seconds: float
    warm_up_s: float
    follows_on: bool = False
    has_jump: bool = False
    until_stable: bool = False
    sought_p99_us: float | None = None
    arrivals: Arrivals | None = None

    @property
    def window_s(self) -> float:
        """The length of one measured window: a fifth of the stage, at least half a second.

        A stage of 10 s has windows of 2 s; one of 1.2 s has windows of 0.5 s, and one of 0.3 s a single window. Where
        the load jumps, the windows of a stage of 10 s take 0.25 s. A stage of a search seldom needs all of its time, so
        it has more windows: 2 s in 40 s.
        """
        if self.until_drained:
            return _REPLAY_WINDOW_S
        if self.has_jump:
            return min(max(self.seconds / _WINDOWS_AFTER_A_JUMP, _SHORTEST_AFTER_A_JUMP_S), self.seconds)
        windows = _WINDOWS_UNTIL_DECIDED if self.sought_p99_us is not None else _WINDOWS_PER_STAGE
        return min(max(self.seconds / windows, _SHORTEST_WINDOW_S), self.seconds)

    @property
    def until_drained(self) -> bool:
        """Whether it ends once every request of a recorded schedule was answered."""
        return self.arrivals is not None and self.arrivals.is_recorded

    @property
    def rate(self) -> float | None:
        """The requests per second asked for, None in a closed loop."""
        return None if self.arrivals is None else self.arrivals.rate

    @property
    def load(self) -> float:
        """What is raised to load the server more: the rate of an open loop, otherwise the users."""
        return self.users if self.rate is None else self.rate


def name_users(users: int) -> str:
    """Return the name of a stage with so many users."""
    return "1 user" if users == 1 else f"{users} users"


def name_rate(rate: float) -> str:
    """Return the name of a stage with so many requests per second."""
    return f"{rate:g} requests/s"
