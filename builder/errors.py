"""All errors that a user can fix.

BuilderError                 1
├─ (usage, from click)       2
├─ ModelError                3   the model cannot be read, is not supported or cannot be batched
├─ VerificationError         4   the answers differ from the original model's
├─ RepositoryError           5   the repository cannot be changed; nothing on disk changed, or it says what
└─ HostError                 6   this machine has no GPU, no TensorRT, no free port, no ready server, or not enough time
                                 or memory

The number is the exit code of the process. Bugs are not among these errors: on a model, they end in the error that
`bug` makes, elsewhere in a traceback.
"""

import traceback
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from builder.printable import printable


class Listing(str):
    """What is wrong, as a clause and a list: one indented line for each item.

    The lines are kept apart, so that an error can show which line breaks are its own and which are part of a name.

    Args:
        clause: The first line.
        items: What is listed below it.
    """

    lines: tuple[str, ...]

    def __new__(cls, clause: str, items: Iterable[object] = ()) -> "Listing":
        """Join the lines."""
        lines = (clause, *map(str, items))
        listing = super().__new__(cls, "\n    ".join(lines))
        listing.lines = lines
        return listing


class BuilderError(Exception):
    """An error that the user can fix, shown as `error: WHERE: WHAT` and `fix: FIX`.

    Its text is safe to print; the attributes are as they were given.

    Args:
        where: The file, node, model or address where the error is.
        what: What is wrong, as a short clause without a full stop, or as a `Listing`.
        fix: What to do about it, starting with a verb, without a full stop.
        is_about_batch: Whether this way to a dynamic batch fails, so that another may work. `fix` then says what to do
            with the model itself; `publish` tries the other ways and names those that work.
    """

    exit_code = 1

    def __init__(self, where: object, what: str, fix: str, *, is_about_batch: bool = False) -> None:
        lines = what.lines if isinstance(what, Listing) else (what,)
        shown = "\n    ".join(map(printable, lines))
        super().__init__(f"{printable(where)}: {shown}\nfix: {printable(fix)}")
        self.where = str(where)
        self.what = what
        self.fix = fix
        self.is_about_batch = is_about_batch

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what it was made from: an error may come from another process."""
        return partial(type(self), is_about_batch=self.is_about_batch), (self.where, self.what, self.fix)


class ModelError(BuilderError):
    """The model cannot be read, is not supported or cannot be batched."""

    exit_code = 3


class VerificationError(BuilderError):
    """The answers differ from the original model's."""

    exit_code = 4


class RepositoryError(BuilderError):
    """The model repository cannot be changed; nothing on disk changed, or the message says what did."""

    exit_code = 5


class HostError(BuilderError):
    """This machine does not have what was asked for: a GPU, a free port, a ready server, enough memory or time."""

    exit_code = 6


def bug(where: object, error: Exception, *, is_node: bool = False) -> BuilderError:
    """Return the error for an exception that nobody expected: it says what failed, and asks for a report.

    Args:
        where: The file or the node that was being worked on.
        error: The exception, which should become the cause of the returned error.
        is_node: Whether it is a node. With `--static`, nodes stay as they are.
    """
    what = f"builder fails on this {'node' if is_node else 'model'}, which is a bug: {cause(error)}"
    fix = "report it with this message and, if you can, the model"
    return BuilderError(where, what, f"{fix}; until it is fixed, publish the model with --static" if is_node else fix)


def cause(error: Exception) -> str:
    """Return what an exception says and where it was raised, in one line."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return f"{what} ({Path(frame.filename).name}, line {frame.lineno})"
