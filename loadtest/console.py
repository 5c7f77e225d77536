"""Print text on the console: the one place where the load test does so, so that it is always made safe to print."""

import json
import sys
from collections.abc import Iterable, Sequence

import click

from loadtest.errors import LoadTestError
from loadtest.printable import printable

NO_FIGURE = "–"  # noqa: RUF001
"""What is shown in place of a figure that there is not, such as p99 of five requests."""


def to_ms(time_us: float | None) -> str:
    """Return milliseconds to three digits, without the unit: `0.602`, `18.2`, `1,234`; None is no figure."""
    return NO_FIGURE if time_us is None else f"{time_us / 1000:.3g}" if time_us < 1e5 else f"{time_us / 1000:,.0f}"


def print_line(text: str) -> None:
    """Print a line of a result on stdout."""
    click.echo(printable(text))


def print_note(text: str) -> None:
    """Print a line about the work on stderr."""
    click.echo(printable(text), err=True)


def print_json(values: object) -> None:
    """Print a result as JSON on stdout; whatever is not ASCII is escaped."""
    click.echo(json.dumps(values, indent=1, allow_nan=False))


def print_table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table of a result on stdout; a cell may be any text."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*heads)
    for row in rows:
        table.add_row(*map(printable, row))
    Console(width=None if sys.stdout.isatty() else 140, markup=False, emoji=False).print(table)


def print_error(error: LoadTestError) -> None:
    """Print what is wrong and how to fix it on stderr."""
    click.echo(f"error: {error}", err=True)
