"""Say why TensorRT refuses a model, cannot build its plan or cannot load it, and what to do about it.

The fix is that of the first reason's kind. A reason of no known kind is shown as TensorRT words it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from builder.errors import BuilderError, HostError, Listing, ModelError
from builder.printable import counted
from builder.tensorrt.kinds import KINDS, Asked, Complaint, Kind, without_precision

MOST_LISTED = 5
"""How many complaints are listed after the first one."""

_TENSORRT = re.compile(r"\bTensorRT\b(?! for RTX)")
_FIELD = re.compile(r"\{(\w+)(!r)?\}")


class UnbuildableError(ModelError):
    """TensorRT does not build a plan of the model.

    Args:
        nodes: The names of the ONNX nodes that it complains about, as far as they are known.
        is_about_precision: Whether the model may be built with these nodes, or others, in fp32.
    """

    def __init__(
        self, where: object, what: str, fix: str, *, nodes: Sequence[str] = (), is_about_precision: bool = False
    ) -> None:
        super().__init__(where, what, fix)
        self.nodes = tuple(nodes)
        self.is_about_precision = is_about_precision

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what it was made from."""
        made = partial(type(self), nodes=self.nodes, is_about_precision=self.is_about_precision)
        return made, (self.where, self.what, self.fix)


def diagnosed(
    where: Path, doing: str, complaints: Sequence[Complaint], asked: Asked | None = None, *, unknown_fix: str = ""
) -> BuilderError:
    """Return the error for what TensorRT complains about: the first complaint, its fix, and the other ones.

    Args:
        where: The model's file, or the plan's.
        doing: What failed, after the name of the compiler: "cannot parse the model".
        complaints: What TensorRT said, without what only follows from it.
        asked: What was asked for. Default: fp32, with all the memory there is.
        unknown_fix: The fix for a complaint of no known kind. Default: to publish the ONNX file, or for a lower
            precision also to leave that out.
    """
    asked = asked or Asked()
    found = _decisive(complaints, asked)
    what = f"{asked.compiler} {doing}"
    if found is None:
        first = next(iter(complaints), Complaint("it gives no reason"))
        fix = unknown_fix or without_precision(first, asked)
        return _unbuildable(where, _listing(what, first, complaints, asked), fix, complaints, is_about_precision=True)
    listing, fix = _listing(what, found.complaint, complaints, asked), found.fix(asked)
    if found.kind.is_host:
        return HostError(where, listing, fix)
    return _unbuildable(where, listing, fix, complaints, is_about_precision=found.kind.is_about_precision)


def _decisive(complaints: Sequence[Complaint], asked: Asked) -> "_Found | None":
    """Return the first complaint about the machine, which explains the others, or the first one of a known kind."""
    known = [found for complaint in complaints if (found := _Found.of(complaint, asked))]
    return next((found for found in known if found.kind.is_host), next(iter(known), None))


def _unbuildable(
    where: Path, what: str, fix: str, complaints: Sequence[Complaint], *, is_about_precision: bool
) -> UnbuildableError:
    nodes = dict.fromkeys(complaint.node for complaint in complaints if complaint.node)
    return UnbuildableError(where, what, fix, nodes=tuple(nodes), is_about_precision=is_about_precision)


@dataclass(frozen=True, slots=True)
class _Found:
    """A complaint whose kind is known."""

    kind: Kind
    complaint: Complaint
    words: re.Match[str]

    @classmethod
    def of(cls, complaint: Complaint, asked: Asked) -> "_Found | None":
        for kind in KINDS:
            if kind.is_about_workspace and asked.workspace_mb is None:
                continue
            if words := kind.pattern.search(complaint.reason):
                return cls(kind, complaint, words)
        return None

    def what(self, asked: Asked) -> str:
        what = _TENSORRT.sub(asked.compiler, self.kind.what)
        return self._filled(what) if what else self.complaint.reason

    def fix(self, asked: Asked) -> str:
        fix = self.kind.fix
        return self._filled(fix) if isinstance(fix, str) else fix(self.complaint, asked)

    def _filled(self, text: str) -> str:
        """Fill in the groups of the pattern. They may hold braces, which `str.format` would take for its own."""
        groups = {"reason": self.complaint.reason, **self.words.groupdict("")}
        return _FIELD.sub(lambda field: repr(groups[field[1]]) if field[2] else groups[field[1]], text)


def _listing(doing: str, first: Complaint, complaints: Sequence[Complaint], asked: Asked) -> Listing:
    """List the first complaint and the others: those of one operator with the same reason are counted."""
    alike: dict[str, list[str]] = {}
    for other in dict.fromkeys(complaints):
        if other != first:
            alike.setdefault(_line(replace(other, node="", is_added=False), asked), []).append(_line(other, asked))
    listed = [
        lines[0] if len(lines) == 1 else f"{counted(len(lines), 'other node')}: {line}" for line, lines in alike.items()
    ]
    if len(listed) > MOST_LISTED:
        listed[MOST_LISTED:] = [f"and {counted(len(listed) - MOST_LISTED, 'other reason')}"]
    clause = f"{doing}: {_line(first, asked)}"
    return Listing(f"{clause}; also:" if listed else clause, listed)


def _line(complaint: Complaint, asked: Asked) -> str:
    found = _Found.of(complaint, asked)
    reason = found.what(asked) if found else complaint.reason
    return f"{complaint.at}: {reason}" if complaint.at else reason
