"""Temporary files, and messages without their paths: they are gone when the user reads them, and mean nothing."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from builder.errors import BuilderError, HostError, Listing
from builder.progress import Report


@contextlib.contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """Make a temporary folder on the filesystem of `path`.

    Raises:
        HostError: The folder cannot be made.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        fix = "choose an output file in a folder that exists and can be written to"
        raise HostError(path, f"cannot be written: {error.strerror}", fix) from error
    with folder:
        yield Path(folder.name)


class Temporary:
    """A folder of temporary files, and what to call them.

    Args:
        folder: The folder.
        source: What the files in it are made from, for example `nets:classifier`.
    """

    def __init__(self, folder: Path, source: str) -> None:
        self._folder = folder
        self._source = source

    def shown(self, text: str) -> str:
        """Return the text with the source in place of each path in the folder."""
        for folder in {str(self._folder.resolve()), str(self._folder)}:
            while folder in text:
                before, _, after = text.partition(folder)
                rest = after[_path_end(after) :]
                text = f"{before}{self._source}{rest}"
        return text

    def error(self, error: BuilderError) -> BuilderError:
        """Return the error with the source in place of each path in the folder."""
        lines = error.what.lines if isinstance(error.what, Listing) else (error.what,)
        what = tuple(map(self.shown, lines))
        where, fix = self.shown(error.where), self.shown(error.fix)
        if (where, what, fix) == (error.where, lines, error.fix):
            return error
        text = Listing(what[0], what[1:]) if isinstance(error.what, Listing) else what[0]
        return type(error)(where, text, fix, is_about_batch=error.is_about_batch)

    def report(self, report: Report) -> Report:
        """Return a report whose lines have the source in place of each path in the folder."""
        return lambda step, what: report(step, self.shown(what))

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """Raise every error of the block with the source in place of each path in the folder."""
        try:
            yield
        except BuilderError as error:
            shown = self.error(error)
            if shown is error:
                raise
            raise shown from error


def _path_end(text: str) -> int:
    """Return where the rest of a path ends, before a space, a quote or punctuation that ends a clause."""
    end = next((i for i, c in enumerate(text) if c in " \t\n'\"`,;:)]}"), len(text))
    return end - (text[:end].endswith("."))
