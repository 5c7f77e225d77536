"""How a step tells its caller what it is doing."""

from collections.abc import Callable

Report = Callable[[str, str], None]
"""Called with a step's name and what it found, in one line."""


def silent(step: str, what: str) -> None:
    """Report nothing."""


def format_bytes(count: int) -> str:
    """Write a number of bytes as a person reads it, in decimal units.

    512 is `512 B`, 2,130 is `2.1 kB`, 999,960 is `1.0 MB` and 3,000,000,000 is `3.0 GB`.
    """
    if count < 1000:
        return f"{count} B"
    size = float(count)
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if round(size, 1) < 1000:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} TB"
