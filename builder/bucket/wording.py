"""Let messages name the bucket instead of the local copy, which will be gone."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from builder.errors import BuilderError, Listing
from builder.progress import Report


@dataclass(frozen=True, slots=True)
class Names:
    """The two names of a repository.

    Attributes:
        copy: The folder of the local copy.
        url: The URL in the bucket.
    """

    copy: Path
    url: str

    def renamed(self, text: str) -> str:
        """Return a text in which the path of the copy is the URL."""
        if isinstance(text, Listing):
            clause, *items = map(self._replaced, text.lines)
            return Listing(clause, items)
        return self._replaced(text)

    @contextmanager
    def in_errors(self) -> Iterator[None]:
        """Let the errors of the block name the bucket."""
        try:
            yield
        except BuilderError as error:
            if str(self.copy) not in f"{error.where}{error.what}{error.fix}":
                raise
            where, what, fix = map(self.renamed, (error.where, error.what, error.fix))
            raise type(error)(where, what, fix, is_about_batch=error.is_about_batch) from error

    def in_reports(self, report: Report) -> Report:
        """Return a report that names the bucket."""
        return lambda step, what: report(step, self.renamed(what))

    def _replaced(self, text: str) -> str:
        return text.replace(str(self.copy), self.url)
