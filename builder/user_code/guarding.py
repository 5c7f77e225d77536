"""Run code of the user's that may raise anything, and say where it failed instead of showing a traceback."""

import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from builder.errors import BuilderError, ModelError

_PACKAGE = Path(__file__).parents[1]
_NOT_FILES = ("<frozen importlib", "<string>", "<eval_with_key>")


class UserCode(contextlib.AbstractContextManager["UserCode"]):
    """Turn any exception of the user's code, or of an exporter that runs it, into a ModelError.

    That code may raise any exception at all, and none of them is a bug in this package. It may also end the program:
    `sys.exit(0)` would look like success. Only Ctrl-C still ends it. It may change the working directory, which
    the paths of the repository and of files are relative to: that is undone.
    """

    def __init__(self, where: str, what: str, fix: str) -> None:
        self.where, self.what, self.fix = where, what, fix
        self._directory = _working_directory()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._directory and _working_directory() != self._directory:
            os.chdir(self._directory)
        if error is not None and not isinstance(error, (BuilderError, KeyboardInterrupt)):
            raise ModelError(self.where, f"{self.what}: {brief(error)}", self.fix) from error


def _working_directory() -> Path | None:
    try:
        return Path.cwd()
    except OSError:  # it was removed
        return None


def brief(error: BaseException) -> str:
    """Return an exception in one line: its first paragraph, and the innermost line of the user's code."""
    while error.__cause__ is not None:
        error = error.__cause__
    # str(error) runs the user's code, and may raise an exception itself.
    paragraph = " ".join(
        str(traceback.TracebackException(type(error), error, None)).strip().partition("\n\n")[0].split()
    )
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} ({place_of(error.filename, error.lineno or 0)})"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_user_code(frame.filename)]
    last = f" ({place_of(frames[-1].filename, frames[-1].lineno or 0)}: `{frames[-1].line}`)" if frames else ""
    return ": ".join(filter(None, (type(error).__name__, paragraph[:400]))) + last


def is_user_code(file: str) -> bool:
    """Return whether a source file is the user's, rather than that of a library that calls it, or of this package."""
    return not file.startswith((*_library_folders(), *_NOT_FILES))


def _library_folders() -> Iterator[str]:
    yield from (str(Path(importlib.__file__ or "").parent), str(_PACKAGE))
    for name in ("numpy", "torch"):
        library = sys.modules.get(name)
        if library is not None and library.__file__:
            yield str(Path(library.__file__).parent)


def place_of(file: str, line: int) -> str:
    """Return `FILE:LINE`, relative to the folder of installed packages or the working directory that it is in."""
    path = Path(file)
    installed = (folder for folder in path.parents if folder.name in ("site-packages", "dist-packages"))
    folder = next(installed, Path.cwd())
    return f"{path.relative_to(folder) if path.is_relative_to(folder) else path}:{line}"
