"""Let messages name the bucket instead of the local copy, which will be gone."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

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
            raise self._error(error) from error

    def in_reports(self, report: Report) -> Report:
        """Return a report that names the bucket."""
        return lambda step, what: report(step, self.renamed(what))

    def in_result(self, value: Any) -> Any:
        """Return a result whose texts name the bucket. What is no text, such as a `Path`, stays as it is."""
        if isinstance(value, str):
            return self.renamed(value)
        if isinstance(value, tuple) and type(value) is tuple:
            return tuple(map(self.in_result, value))
        if isinstance(value, dict):
            return {key: self.in_result(item) for key, item in value.items()}
        if isinstance(value, BuilderError):
            return self._error(value)
        if not is_dataclass(value) or isinstance(value, type):
            return value
        changed = {each.name: self.in_result(getattr(value, each.name)) for each in fields(value) if each.init}
        new = {name: item for name, item in changed.items() if item != getattr(value, name)}
        return replace(value, **new) if new else value

    def _error(self, error: BuilderError) -> BuilderError:
        where, what, fix = map(self.renamed, (error.where, error.what, error.fix))
        return type(error)(where, what, fix, is_about_batch=error.is_about_batch)

    def _replaced(self, text: str) -> str:
        return text.replace(str(self.copy), self.url)
