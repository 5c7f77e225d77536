"""Find the fields of a config that this release does not know, and tell misspelled ones from newer ones."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from builder.config.editing import TOKEN
from builder.config.pbtxt import messages
from builder.config.spelling import closest
from builder.errors import RepositoryError


@dataclass(frozen=True, slots=True)
class UnknownField:
    """A field that this release does not know.

    Attributes:
        path: Its name after those of the fields that it is in, such as `dynamic_batching.max_delay`.
        line: The number of its line, from 1 up.
        meant: The field that is probably meant; None when none has a similar name, as in a newer release of Triton.
    """

    path: str
    line: int
    meant: str | None

    def __str__(self) -> str:
        meant = "" if self.meant is None else f"; did you mean {self.meant!r}?"
        return f"line {self.line}: there is no field {self.path!r}{meant}"


def unknown_fields(text: str) -> tuple[UnknownField, ...]:
    """Return the fields of a valid text that this release does not know, in order; none of those inside of them."""
    return tuple(_Reader(text).fields(messages().ModelConfig.DESCRIPTOR, ""))


def check_spelling(text: str, *, where: object) -> None:
    """Refuse a valid text with a field whose name is almost one that exists.

    Raises:
        RepositoryError: It has such a field.
    """
    if found := [str(field) for field in unknown_fields(text) if field.meant is not None]:
        fix = "correct this file; if your Triton knows such a field, upgrade tritonclient"
        raise RepositoryError(where, "; ".join(found[:10]), fix)


class _Reader:
    """Reads the names of a valid text, beside the descriptors of the messages that they are in."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = [match for match in TOKEN.finditer(text) if match.lastgroup != "space"]
        self._at = 0

    def fields(self, descriptor: Any, inside: str) -> Iterator[UnknownField]:
        """Read fields up to the end of the message; inside an unknown field, there is no descriptor."""
        while (token := self._peek()) is not None and token.lastgroup != "close":
            self._at += 1
            if token.lastgroup == "mark":
                continue
            name = token.group()
            field = None if descriptor is None else descriptor.fields_by_name.get(name)
            if descriptor is not None and field is None:
                line = self._text.count("\n", 0, token.start()) + 1
                yield UnknownField(f"{inside}{name}", line, closest(name, descriptor.fields_by_name))
            if (mark := self._peek()) is not None and mark.group() == ":":
                self._at += 1
            yield from self._value(None if field is None else field.message_type, f"{inside}{name}.")

    def _value(self, descriptor: Any, inside: str) -> Iterator[UnknownField]:
        token = self._peek()
        self._at += 1
        if token is None:
            return
        if token.group() == "[":
            while (item := self._peek()) is not None and item.lastgroup != "close":
                if item.lastgroup == "mark":
                    self._at += 1
                else:
                    yield from self._value(descriptor, inside)
            self._at += 1
        elif token.lastgroup == "open":
            yield from self.fields(descriptor, inside)
            self._at += 1
        elif token.lastgroup == "string":  # strings side by side are one
            while (more := self._peek()) is not None and more.lastgroup == "string":
                self._at += 1

    def _peek(self) -> re.Match[str] | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None
