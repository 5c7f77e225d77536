"""How a step tells its caller what it is doing."""

from collections.abc import Callable

Report = Callable[[str, str], None]
"""Called with a step's name and what it found, in one line."""


def silent(step: str, what: str) -> None:
    """Report nothing."""
