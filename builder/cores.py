"""How many cores this process may use, and a server that it starts: those of its container, not of the host."""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")
_GROUPS = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Return how many cores may be used: by the affinity of this process, and by the quota of its container."""
    cores, quota = cores_by_affinity(), _quota()
    return max(1, math.ceil(quota)) if quota < cores else cores


def cores_by_affinity() -> int:
    """Return on how many cores this process may run, whatever part of their time it may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_quota() -> bool:
    """Return whether this process may use only a part of the time of its cores."""
    return _quota() < cores_by_affinity()


def _quota() -> float:
    """Return how many cores' time the control groups of this process allow, such as `docker run --cpus`; or infinity.

    Source: the kernel's Documentation/admin-guide/cgroup-v2.rst and scheduler/sched-bwc.rst.
    """
    return min((_allowed(folder) for folder in _groups()), default=math.inf)


def _groups() -> Iterator[Path]:
    """Yield the folders of the control groups for processor time that this process is in, and of those above them."""
    for line in _text(_PROC / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):
            root = _GROUPS / controllers
            # In a container, the path may be one of the host's, and the container's own group is at the root.
            yield from (root / part for part in (Path(path[1:]), *Path(path[1:]).parents))


def _allowed(folder: Path) -> float:
    """Return how many cores' time a control group allows, by its file of the second version, or those of the first."""
    old = (_text(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    with suppress(ValueError):  # it is `max`, or there is no such file
        quota, period = map(int, (_text(folder / "cpu.max") or " ".join(old)).split())
        if quota > 0 and period > 0:
            return quota / period
    return math.inf


def _text(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace")
    return ""
