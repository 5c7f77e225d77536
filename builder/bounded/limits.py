"""How much time and memory the work on a file may take, and the errors when that is not enough."""

import math
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from builder.bounded.memory import available_bytes
from builder.errors import HostError, ModelError
from builder.progress import format_bytes

PART_OF_MEMORY = 0.9
"""How much of the free memory may be used, unless the caller says."""

BASE_S = 600.0
"""How long the work may take, unless the caller says, in seconds; more for a large file."""

S_PER_BYTE = 60 / 100e6

ALL_SIZES = 10
"""How many times as long it may take to prove every batch size."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that the work on a file may take. What is left out depends on the machine and the file.

    Attributes:
        prove_timeout: The longest time, seconds. By default 10 minutes and a minute for every 100 MB of the model.
        prove_memory: The most memory, bytes. By default nine tenths of what is free at the start.
    """

    prove_timeout: float | None = None
    prove_memory: int | None = None


class LimitError(HostError):
    """The work on a file needs more time or memory than it may take."""


class OutOfTimeError(LimitError):
    """It takes longer than it may."""


class OutOfMemoryError(LimitError):
    """It needs more memory than it may use."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The limits of one piece of work, and the errors when they are reached.

    Attributes:
        where: The file.
        seconds: The longest time, before the size of the model is known.
        memory: The most memory, bytes.
        free_memory: The most memory that this machine could give at the start, bytes.
        grows: Whether the time grows with the model's size, because the caller did not set it.
    """

    where: Path
    seconds: float
    memory: int
    free_memory: int
    grows: bool

    @classmethod
    def of(cls, where: Path, limits: Limits) -> "Bounds":
        """Return the limits that the caller asked for, or those that suit the machine."""
        seconds, memory = limits.prove_timeout, limits.prove_memory
        free = int(available_bytes() * PART_OF_MEMORY)
        return cls(
            where=where,
            seconds=BASE_S if seconds is None else seconds,
            memory=free if memory is None else memory,
            free_memory=free,
            grows=seconds is None,
        )

    def out_of_time(self, seconds: float, doing: str) -> OutOfTimeError:
        """Return the error when the time is up, so many seconds after the start."""
        what = f"it was stopped after {format_seconds(seconds)}{_while(doing)}"
        longer = format_seconds(max(1.0, 10 * seconds))
        return OutOfTimeError(
            self.where, what, f"allow more time with --prove-timeout {longer}, or correct the model if it never ends"
        )

    def out_of_memory(self, doing: str) -> OutOfMemoryError:
        """Return the error when the memory is used up."""
        what = f"it needs more than the {format_bytes(self.memory)} of memory that it may use{_while(doing)}"
        fix = "use a machine with more memory, or correct the model if it should not need so much"
        if self.free_memory > self.memory:
            most = f"{self.free_memory // 10**6}MB"
            fix = f"allow more with --prove-memory {most}, which is what this machine can give; or {fix}"
        return OutOfMemoryError(self.where, what, fix)

    def too_deep(self, doing: str) -> ModelError:
        """Return the error when Python's recursion ends."""
        what = f"it nests deeper than builder can follow{_while(doing)}"
        return ModelError(self.where, what, "export the model with less nesting")

    def crashed(self, status: int | None, doing: str) -> HostError | ModelError:
        """Return the error when the process ended by itself. Nobody but the system kills it, to get memory back."""
        code = -signal.SIGKILL if status is None else os.waitstatus_to_exitcode(status)
        if code == -signal.SIGKILL:
            what = f"the system killed it, most likely because memory ran out{_while(doing)}"
            most = f"{min(self.memory, self.free_memory) // 2 // 10**6}MB"
            fix = f"use a machine with more memory, or see which node needs it with --prove-memory {most}"
            return OutOfMemoryError(self.where, what, fix)
        how = f"exit code {code}" if code >= 0 else signal.strsignal(-code) or f"signal {-code}"
        what = f"the process that works on it crashed ({how}){_while(doing)}"
        return ModelError(
            self.where, what, "export the model again: a damaged file can crash the libraries that read it"
        )


def out_of_memory_here(where: object, doing: str) -> OutOfMemoryError:
    """Return the error when this machine's memory is used up, and nobody set a limit."""
    fix = "close other programs, or use a machine with more memory"
    return OutOfMemoryError(where, f"there is not enough memory{_while(doing)}", fix)


def format_seconds(seconds: float) -> str:
    """Write a duration as options take it: `1.5s`, `90s`, `10m` or `2h`."""
    for unit, letter in ((3600, "h"), (60, "m")):
        if seconds >= unit and math.isclose(seconds % unit, 0, abs_tol=1e-9):
            return f"{seconds // unit:.0f}{letter}"
    return f"{seconds:.6g}s"


def _while(doing: str) -> str:
    return f", while {doing}" if doing else ""
