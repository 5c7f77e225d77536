"""How much memory this machine can still give, and how much a process and its children use."""

import os
import re
import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")

_CGROUPS = Path("/sys/fs/cgroup")


def available_bytes() -> int:
    """Return how much memory this process can still get: from the machine, its control groups and its own limits."""
    return max(0, min((_machine_bytes(), *_cgroup_bytes(), *_limit_bytes())))


def _machine_bytes() -> int:
    with suppress(OSError):
        if found := re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text()):
            return int(found[1]) << 10
    return sys.maxsize


def _limit_bytes() -> Iterator[int]:
    """Yield what is left of the limits that `ulimit` sets."""
    pages = _statm("self")
    for limit, used in ((resource.RLIMIT_AS, pages[0]), (resource.RLIMIT_DATA, pages[5])):
        soft, _ = resource.getrlimit(limit)
        if soft != resource.RLIM_INFINITY:
            yield soft - int(used) * PAGE


def _cgroup_bytes() -> Iterator[int]:
    """Yield what is left of the limit of each control group that this process is in.

    Pages of files that were read and can be dropped count as free.

    Source: the kernel's Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
    """
    for folder in _cgroup_folders():
        for limit, usage in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            with suppress(OSError, ValueError):
                most = int((folder / limit).read_text())  # `max` if there is no limit, which is a ValueError
                used = int((folder / usage).read_text())
                found = re.search(r"^(?:total_)?inactive_file (\d+)$", (folder / "memory.stat").read_text(), re.M)
                yield most - used + (int(found[1]) if found else 0)


def _cgroup_folders() -> Iterator[Path]:
    """Yield the folder of each control group that limits this process's memory, with those it is in."""
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "memory"):
                root = _CGROUPS / controllers
                # In a container, the path may be one of the host's, and the container's own group is at the root.
                yield from {root, *(root / part for part in (Path(path[1:]), *Path(path[1:]).parents))}


def data_bytes(pid: int | str = "self") -> int:
    """Return what counts towards RLIMIT_DATA: the private memory that a process has asked for."""
    return int(_statm(pid)[5]) * PAGE


def used_bytes(pid: int, *, with_children: bool = True) -> int:
    """Return how much memory a process uses, and its children if asked, without what is mapped from files.

    Memory that a child has had since it was forked, and shares with this process, is counted once.
    """
    pids = list(_with_children(pid)) if with_children else [pid]
    used = sum(map(_private_bytes, pids))
    return used if len(pids) == 1 else min(used, sum(map(_proportional_bytes, pids)))


def _with_children(pid: int) -> Iterator[int]:
    yield pid
    with suppress(OSError):  # it may have ended
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            yield from _with_children(int(child))


def _private_bytes(pid: int) -> int:
    fields = _statm(pid)
    return (int(fields[1]) - int(fields[2])) * PAGE


def _proportional_bytes(pid: int) -> int:
    with suppress(OSError):
        if found := re.search(r"^Pss_Anon:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M):
            return int(found[1]) << 10
    return _private_bytes(pid)


def _statm(pid: int | str) -> list[str]:
    """Return /proc/PID/statm: pages in all, resident, shared with files, code, 0, data. Source: proc_pid_statm(5)."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/statm").read_text().split() or ["0"] * 7
    return ["0"] * 7
