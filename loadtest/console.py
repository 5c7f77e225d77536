"""Print text on the console: the one place where the load test does so, so that it is always made safe to print.

It is lost if nothing reads it any more, as in `run | head -1`: the load test goes on, and its exit code stays the same.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import IO

import click

from loadtest.errors import LoadTestError, reason
from loadtest.printable import printable

NO_FIGURE = "–"  # noqa: RUF001
"""What is shown in place of a figure that there is not, such as p99 of five requests."""


def to_ms(time_us: float | None) -> str:
    """Return milliseconds to three digits, without the unit: `0.602`, `18.2`, `1,234`; None is no figure."""
    return NO_FIGURE if time_us is None else f"{time_us / 1000:.3g}" if time_us < 1e5 else f"{time_us / 1000:,.0f}"


def print_line(text: str) -> None:
    """Print a line of a result on stdout."""
    _write(printable(text), sys.stdout)


def print_note(text: str) -> None:
    """Print a line about the work on stderr."""
    _write(printable(text), sys.stderr)


def print_json(values: object) -> None:
    """Print a result as JSON on stdout; whatever is not ASCII is escaped."""
    _write(json.dumps(values, indent=1, allow_nan=False), sys.stdout)


def print_table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table of a result on stdout; a cell may be any text."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*heads)
    for row in rows:
        table.add_row(*map(printable, row))
    console = Console(width=None if sys.stdout.isatty() else 140, markup=False, emoji=False)
    with console.capture() as captured:
        console.print(table)
    _write(captured.get().rstrip("\n"), sys.stdout)


def print_error(error: LoadTestError) -> None:
    """Print what is wrong and how to fix it on stderr."""
    _write(f"error: {error}", sys.stderr)


def _write(text: str, stream: IO[str]) -> None:
    """Write lines that are safe to print.

    Raises:
        LoadTestError: A result cannot be written, such as to a full disk.
    """
    try:
        click.echo(text, stream)
    except OSError as error:
        if stream is sys.stdout and not isinstance(error, BrokenPipeError):
            raise LoadTestError("stdout", reason(error), "write the output to another file or device") from error
