"""This machine: what it is, and what its processor did for the server, the load generator and everybody else.

Source: proc(5): /proc/stat and /proc/PID/stat count in ticks of `SC_CLK_TCK`.
"""

import os
import platform
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from builder.cores import has_quota, usable_cores

_TICKS = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")
_PARENT, _USER, _SYSTEM, _WAITED_USER, _WAITED_SYSTEM = 1, 11, 12, 13, 14
"""Positions in /proc/PID/stat, counted from the state, which is its third field."""
_IDLE = (3, 4)
"""Positions of the idle time and of the wait for disks in a line of /proc/stat. All others are busy."""
_COUNTED = 8
"""How many of its numbers are counted: the time of guests, which follows, is part of the user time."""


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """What figures depend on that were measured here.

    Attributes:
        cpu: The name of the CPU's model.
        cores: How many cores this process may use.
        memory: The memory, in bytes.
        kernel: The operating system's name and release.
        virtual: Whether it is a virtual machine; None if that is not known.
    """

    cpu: str
    cores: int
    memory: int
    kernel: str
    virtual: bool | None = None


def read_machine() -> MachineFacts:
    """Return the facts about this machine; what cannot be read is empty or 0."""
    about = _text(_PROC / "cpuinfo")
    name = re.search(r"^model name\s*:\s*(.+)$", about, re.M)
    flags = re.search(r"^flags\s*:\s*(.+)$", about, re.M)
    memory = re.search(r"^MemTotal:\s+(\d+) kB", _text(_PROC / "meminfo"), re.M)
    return MachineFacts(
        cpu=name[1].strip() if name else platform.processor() or platform.machine(),
        cores=usable_cores(),
        memory=int(memory[1]) << 10 if memory else 0,
        kernel=f"{platform.system()} {platform.release()}",
        virtual="hypervisor" in flags[1].split() if flags else None,
    )


def process_seconds(pid: int) -> float:
    """Return the processor time of a process and of its children that have ended, in seconds; 0 if it is gone."""
    fields = _stat(pid)
    return sum(int(fields[place]) for place in (_USER, _SYSTEM, _WAITED_USER, _WAITED_SYSTEM)) / _TICKS if fields else 0


def tree_seconds(root: int) -> float:
    """Return the processor time of a process and of all processes below it, in seconds."""
    return sum(map(process_seconds, _tree(root)))


def find_below(root: int, name: str) -> Iterator[int]:
    """Yield the processes below one, and itself, whose program has this name."""
    return (pid for pid in _tree(root) if _text(_PROC / str(pid) / "comm").strip() == name)


def _tree(root: int) -> Iterator[int]:
    """Yield a process and all below it."""
    parents: dict[int, int] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            parents[int(entry.name)] = int(fields[_PARENT])
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        yield pid
        waiting += [child for child, parent in parents.items() if parent == pid]


@dataclass(frozen=True, slots=True)
class Busy:
    """What the cores that this process may use did, over a time.

    Attributes:
        seconds: How long that was.
        cores: How many cores there are.
        server_s: The processor time of the server, in seconds; None if it is elsewhere.
        ours_s: The processor time of the load generator and of this process, in seconds.
        total_s: The time that the cores were busy, or taken away by the hypervisor, in seconds; None if not known.
    """

    seconds: float
    cores: int
    server_s: float | None
    ours_s: float
    total_s: float | None

    @property
    def share(self) -> float | None:
        """The share of the cores' time that was used by anybody."""
        return None if self.total_s is None else min(self.total_s / (self.cores * self.seconds), 1.0)

    @property
    def others(self) -> float | None:
        """The share of the cores' time that other programs took, or the hypervisor; None if that is not known.

        It is not known without the server's part, as for a Triton in a container on this machine.
        """
        if self.total_s is None or self.server_s is None:
            return None
        rest = self.total_s - self.ours_s - self.server_s
        return min(max(rest / (self.cores * self.seconds), 0.0), 1.0)


class Stopwatch:
    """Counts what the cores do from now on.

    Args:
        server: The process of the server on this machine; None if it is elsewhere.
    """

    def __init__(self, server: int | None) -> None:
        self._server = server
        self._begun = time.monotonic()
        self._counted = self._count()

    def stop(self, *, children_s: float) -> Busy:
        """Return what they have done until now.

        Args:
            children_s: The processor time of the load generator meanwhile, in seconds.
        """
        seconds = max(time.monotonic() - self._begun, 1 / _TICKS)
        (total, server, own), (total_before, server_before, own_before) = self._count(), self._counted
        return Busy(
            seconds=seconds,
            cores=usable_cores(),
            server_s=None if self._server is None else max(server - server_before, 0.0),
            ours_s=children_s + own - own_before,
            total_s=None if total is None or total_before is None else total - total_before,
        )

    def _count(self) -> tuple[float | None, float, float]:
        server = 0.0 if self._server is None else tree_seconds(self._server)
        return busy_seconds(), server, time.process_time()


def busy_seconds() -> float | None:
    """Return how long the cores that this process may use were busy since the machine started; None if not known.

    It is not known under a quota, which is a part of the cores, and nobody says which part others took of the rest.
    """
    if has_quota():
        return None
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    ticks = 0
    for core, *numbers in (line.split() for line in _text(_PROC / "stat").splitlines()):
        if (number := re.fullmatch(r"cpu(\d+)", core)) and (usable is None or int(number[1]) in usable):
            ticks += sum(int(each) for place, each in enumerate(numbers[:_COUNTED]) if place not in _IDLE)
    return ticks / _TICKS if ticks else None


def _stat(pid: int) -> list[bytes]:
    """Return the fields of /proc/PID/stat from the state on; none if the process is gone."""
    with suppress(OSError):
        return (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
    return []


def _text(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace")
    return ""
