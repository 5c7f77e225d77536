"""Where a command's output goes: progress to stderr, the result to stdout.

This is the one place where text leaves the program, so that text from models and other files is always made safe to
print. It is lost if nothing reads it any more, as in `list | head -1`: the command still does its work.
"""

import contextlib
import io
import json
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import click

from builder.cli.machine import find_fault
from builder.errors import HostError
from builder.printable import escape, printable

_TABLE_WIDTH = 100
"""The fewest columns of a table, also where no terminal says how wide it is."""

_DENSE_WIDTH = 80
"""The same of a table with many columns, which folds its long cells."""

_SHORT = 13
"""Cells of at most this many characters are never folded there."""


class UnwrittenError(HostError):
    """A result that could not be written to stdout.

    Args:
        error: Why.
        text: The result, safe to print.
    """

    def __init__(self, error: OSError, text: str) -> None:
        fault = find_fault(error)
        fix = "write the output to another file or device" if fault is None else fault.fix
        super().__init__("stdout", error.strerror or str(error), fix)
        self.text = text


def prepare() -> None:
    """Let stdout and stderr take any character, whatever the locale, and escape names in tracebacks.

    What libraries log is left out: onnx-ir logs the traceback of each failure that it goes on after.
    """
    logging.lastResort = None
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # the caller closed it: the next file would take its number, and get its text
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), "r+"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.excepthook = show_bug


def report(step: str, what: str) -> None:
    """Print what a step found, as one line on stderr."""
    _write(f"{step:<8} {printable(what)}", sys.stderr)


def print_message(text: str) -> None:
    """Print lines on stderr. What they quote was made safe to print when they were put together."""
    _write(text, sys.stderr)


def print_result(text: str) -> None:
    """Print a result as one line."""
    _write(printable(text), sys.stdout)


def print_diff(diff: str, *, is_result: bool = False) -> None:
    """Print a unified diff, if there is any difference: on stderr, unless it is the result."""
    if diff:
        _write("\n".join(map(escape, diff.split("\n"))), sys.stdout if is_result else sys.stderr)


def print_path(path: object) -> None:
    """Print a path or URL for scripts: never cut short."""
    _write(escape(str(path)), sys.stdout)


def print_json(result: Any) -> None:
    """Print a result for scripts: JSON with every name as it is, in which unsafe characters are written as escapes."""
    text = json.dumps(result, indent=2, ensure_ascii=False)
    lines = "\n".join(map(_escape_json, text.split("\n")))
    try:
        lines.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        lines = json.dumps(result, indent=2)
    _write(lines, sys.stdout)


def print_table(
    heads: Sequence[str], rows: Sequence[Sequence[object]], *, title: str | None = None, is_dense: bool = False
) -> None:
    """Print a table; a cell may be any text.

    Args:
        heads: The heads of the columns.
        rows: The rows.
        title: What stands above it.
        is_dense: Whether it has many columns: it is then drawn with few lines, and fits 80 columns.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False, emoji=False)
    console.width = max(console.width, _DENSE_WIDTH if is_dense else _TABLE_WIDTH)
    style: dict[str, Any] = {"box": box.SIMPLE_HEAD, "padding": 0, "pad_edge": False, "collapse_padding": True}
    table = Table(title=None if title is None else printable(title), **(style if is_dense else {}))
    for place, head in enumerate(heads):
        is_whole = is_dense and all(len(str(row[place])) <= _SHORT for row in rows)
        table.add_column(head, overflow="fold", no_wrap=is_whole)  # by default, a long name would lose its end
    for row in rows:
        table.add_row(*map(printable, row))
    with console.capture() as captured:
        console.print(table)
    _write("\n".join(line.rstrip() for line in captured.get().rstrip("\n").split("\n")), sys.stdout)


def _escape_json(line: str) -> str:
    r"""Write unsafe characters of JSON text as JSON does: `\u001b`."""
    if line.isprintable():
        return line
    return "".join(character if escape(character) == character else json.dumps(character)[1:-1] for character in line)


def show_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a traceback in which a message of several lines is indented: it may quote a model."""
    for part in traceback.format_exception(kind, error, trace):
        first, *others = part.rstrip("\n").split("\n")
        _write("\n".join([escape(first), *(f"    {escape(line)}" for line in others)]), sys.stderr)


def _write(text: str, stream: IO[str]) -> None:
    try:
        click.echo(text, stream)
    except OSError as error:
        _discard(stream)
        if stream is sys.stdout and not isinstance(error, BrokenPipeError):
            raise UnwrittenError(error, text) from error


def _discard(stream: IO[str]) -> None:
    """Let a stream that cannot be written to take everything else, also what Python flushes at the end."""
    with contextlib.suppress(OSError), Path(os.devnull).open("w") as nothing:
        os.dup2(nothing.fileno(), stream.fileno())
