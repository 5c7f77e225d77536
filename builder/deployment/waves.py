"""Which servers are deployed to at once: a few first, and the others only when those answer as they should."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

Server = TypeVar("Server")


@dataclass(frozen=True, slots=True)
class Reach:
    """How many servers have been deployed to when a wave is done: a number of them, or a share.

    Attributes:
        amount: The number, or the percentage.
        is_percentage: Which of the two it is.
    """

    amount: int
    is_percentage: bool

    def count(self, servers: int) -> int:
        """Return the number of servers, from 1 up to all of them; a share is rounded up."""
        wanted = -(-servers * self.amount // 100) if self.is_percentage else self.amount
        return min(max(1, wanted), servers)

    def __str__(self) -> str:
        return f"{self.amount}{'%' if self.is_percentage else ''}"


EVERY = Reach(100, is_percentage=True)

DEFAULT = (Reach(1, is_percentage=False), EVERY)
"""One server first, and then all others at once."""


def parse(text: str) -> tuple[Reach, ...]:
    """Read numbers and percentages of servers, each of which includes those before it: `1,25%,100%`.

    Raises:
        ValueError: It is anything else, or a step is not larger than the one before.
    """
    found: list[Reach] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([1-9][0-9]{0,8})\s*(%?)\s*", part, re.ASCII)
        if match is None:
            raise ValueError(f"{part.strip()!r} is neither a number of servers nor a percentage from 1% to 100%")
        step = Reach(int(match[1]), bool(match[2]))
        if step.is_percentage and step.amount > 100:
            raise ValueError(f"{step} is more than all servers")
        if found and found[-1].is_percentage == step.is_percentage and found[-1].amount >= step.amount:
            raise ValueError(f"{step} comes after {found[-1]}, but each step includes those before it")
        found.append(step)
    return tuple(found)


def split(servers: Sequence[Server], steps: Sequence[Reach]) -> list[Sequence[Server]]:
    """Return the servers of each wave. Whoever is left after the last step is in a wave of their own.

    For example, ten servers in the steps `1,25%,100%` make waves of 1, 2 and 7; in the step `3`, of 3 and 7.
    """
    ends = [step.count(len(servers)) for step in steps]
    waves, start = [], 0
    for end in [*ends, len(servers)]:
        if end > start:
            waves.append(servers[start:end])
            start = end
    return waves
