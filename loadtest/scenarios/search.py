"""Find the highest load that keeps p99 within a limit, in few stages.

The load grows until it misses the limit. The highest load that kept the limit and the lowest that missed it are then a
bracket around the answer, which loads between them narrow. Where p99 will reach the limit is guessed from the p99 at
both ends. When the bracket is narrow enough, both ends are measured a second time, and if the two stages of a load
disagree, a third decides. A load that missed the limit by surprise, because p99 was low just below it, is measured at
least three times. So a disturbance during one stage cannot lead the search to a wrong answer.

For example, a server has a p99 of 0.8 ms for each user, and the limit is 20 ms:

    users   1     4     16     32     24     26     25     25     26
    ms     0.8   3.2   12.8   25.6   19.2   20.8   20.0   20.0   20.8

16 and 32 users are the first bracket. The line through their p99 reaches 20 ms at 25 users, so 24 and 26 are tried,
half of the precision of 5 % below and above that. As 26 is more than 5 % above 24, 25 comes next. Now 25 and 26 are the
bracket, both are measured again, and the answer is 25 users.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

_GUESSES = 3
"""So many loads in the bracket are guessed from p99. If that was not enough, the next ones are in its middle."""

_REPEATS = 6
"""How many stages may repeat a load."""

_DIGITS = 4
"""How exact the rates are: 1234.56 requests/s are tried as 1235."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What one stage tells a search.

    Attributes:
        load: Its load.
        within: Whether it kept the limit.
        p99_us: The p99 of its requests; infinite if too few were answered.
        wrong: Whether an answer was wrong. That ends the search, because no load is worth it.
    """

    load: float
    within: bool
    p99_us: float
    wrong: bool = False


@dataclass(frozen=True, slots=True)
class Search:
    """What is searched, and the choice of each load from the stages before it.

    Attributes:
        low: The load to begin with.
        high: The highest load to try.
        limit_us: The limit on p99.
        precision: How narrow the bracket must become, as a share of the load: 0.05 for 5 %.
        is_open_loop: Whether the load is a rate, in requests per second; otherwise it is a number of users.
    """

    low: float
    high: float
    limit_us: float
    precision: float
    is_open_loop: bool = False

    @property
    def most_stages(self) -> int:
        """The most stages that the search takes.

        From 1 to 256 users, doubling takes 9 stages. The bracket may then be 4 times as high as it is low. With a
        precision of 5 %, that is 28 steps of 5 %, which are halved 5 times: 9 + 3 + 5 + 6 = 23.
        """
        doublings = math.ceil(math.log2(self.high / self.low)) + 1
        halvings = math.ceil(math.log2(max(math.log(4) / math.log1p(self.precision), 1)))
        return doublings + _GUESSES + halvings + _REPEATS

    def next_load(self, trials: Sequence[Trial]) -> float | None:
        """Return the load to measure next; None at the end."""
        if len(trials) >= self.most_stages or any(trial.wrong for trial in trials):
            return None
        return self._find_next(trials)

    def is_settled(self, trials: Sequence[Trial]) -> bool:
        """Return whether the search has its answer, rather than too many stages or a wrong answer behind it."""
        return self._find_next(trials) is None and not any(trial.wrong for trial in trials)

    def _find_next(self, trials: Sequence[Trial]) -> float | None:
        tied = [load for load in loads_of(trials) if _balance(trials, load) == 0]
        if tied:
            return tied[0]
        kept, missed = find_bracket(trials)
        if missed is None and kept != self.high:
            return self.low if kept is None else self._grow(trials, kept)
        if kept is not None and missed is not None and not self._is_narrow(kept, missed):
            return self._narrow(trials, kept, missed)
        if kept is not None and _count(trials, kept) < 2:
            return kept
        return missed if missed is not None and not self._is_confirmed(trials, kept, missed) else None

    def _is_confirmed(self, trials: Sequence[Trial], kept: float | None, missed: float) -> bool:
        """Return whether the load that missed the limit was measured often enough.

        Two stages are enough if p99 was near the limit just below this load. If it was not even half the limit there,
        or if this is the lowest load, then either p99 jumps or the server was disturbed: that takes three stages, and
        two more that missed the limit than kept it.
        """
        if kept is not None and 2 * _p99_us(trials, kept) > self.limit_us:
            return _count(trials, missed) >= 2
        return _count(trials, missed) >= 3 and _balance(trials, missed) <= -2

    def _grow(self, trials: Sequence[Trial], kept: float) -> float:
        """Double the load. Users are quadrupled if p99 has room for that, as it grows no faster than they do."""
        has_room = not self.is_open_loop and 4 * _p99_us(trials, kept) <= self.limit_us
        return min(kept * (4 if has_room else 2), self.high)

    def _is_narrow(self, kept: float, missed: float) -> bool:
        return missed <= kept * (1 + self.precision) or (not self.is_open_loop and missed - kept <= 1)

    def _narrow(self, trials: Sequence[Trial], kept: float, missed: float) -> float:
        """Return a load between the ends: one that is guessed from p99 at first, later one in the middle."""
        first_miss = next(number for number, trial in enumerate(trials) if not trial.within)
        before = loads_of(trials[: first_miss + 1])
        is_guessed = len(loads_of(trials)) - len(before) < _GUESSES
        load = self._guess(trials, kept, missed) if is_guessed else math.sqrt(kept * missed)
        if self.is_open_loop:
            return float(f"{load:.{_DIGITS}g}")
        return min(max(round(load), kept + 1), missed - 1)

    def _guess(self, trials: Sequence[Trial], kept: float, missed: float) -> float:
        """Return a load half the precision below the one whose p99 is the limit; or above it, if that much is known."""
        low, limit, high = map(self._straighten, (_p99_us(trials, kept), self.limit_us, _p99_us(trials, missed)))
        half = math.sqrt(1 + self.precision)
        if low <= limit < high < math.inf:
            crossing = kept + (missed - kept) * (limit - low) / (high - low)
            for load in (crossing / half, crossing * half):
                if kept * half <= load <= missed / half:
                    return load
        return math.sqrt(kept * missed)

    def _straighten(self, p99_us: float) -> float:
        """Return p99 on a scale on which it grows in proportion to the load.

        Users of a closed loop wait for each other, so p99 itself does. In an open loop, it grows like
        1 / (capacity - rate), so that -1 / p99 does.
        """
        return -1 / max(p99_us, 1.0) if self.is_open_loop else p99_us


def find_bracket(trials: Sequence[Trial]) -> tuple[float | None, float | None]:
    """Return the highest load that kept the limit and the lowest that missed it; None where there is none.

    If 8 users kept it, 16 missed it and 32 kept it, the bracket is 8 and 16: p99 grows with the load, so 32 users are
    taken for a mistake.
    """
    loads = loads_of(trials)
    missed = min((load for load in loads if _balance(trials, load) < 0), default=None)
    kept = [load for load in loads if _balance(trials, load) > 0 and (missed is None or load < missed)]
    return max(kept, default=None), missed


def loads_of(trials: Sequence[Trial]) -> list[float]:
    """Return the loads that were tried, in ascending order."""
    return sorted({trial.load for trial in trials})


def _balance(trials: Sequence[Trial], load: float) -> int:
    """Return how many more stages of the load kept the limit than missed it."""
    return sum(1 if trial.within else -1 for trial in trials if trial.load == load)


def _count(trials: Sequence[Trial], load: float) -> int:
    return sum(trial.load == load for trial in trials)


def _p99_us(trials: Sequence[Trial], load: float) -> float:
    return next(trial.p99_us for trial in reversed(trials) if trial.load == load)
