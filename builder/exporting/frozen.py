"""Find the values that Python takes out of tensors while a module is traced, which the trace then keeps forever.

A loop count, a number from `.item()`, an index into a list, the condition of an `if`: in an exported trace they have
the values of the example inputs, whatever the inputs are. PyTorch gives a TracerWarning for some of them, and for
others, such as `range(x.shape[1])`, nothing at all. So the module is traced again with inputs that the export answers
wrongly. Where it now takes another value than before, and putting the earlier value back changes a wrong output, the
value was frozen.

For example, `for step in range(1, x.shape[1])` was traced with 5 steps. Traced again with 10 steps, the line takes 10.
A third trace runs on the same inputs but makes the line take 5. Its answer differs, so the line is reported.
"""

import contextlib
import linecache
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from builder.errors import ModelError
from builder.exporting.subject import Subject, to_array
from builder.tensors import Array, Arrays
from builder.user_code import UserCode, is_user_code, place_of

FROZEN, UNKNOWN = "frozen at", "the frozen line could not be searched for"
"""How what is said about frozen values starts."""

Taken = bool | int | float | list[Any]
"""A Python value taken out of a tensor; for several tensors, such as the rows that a loop goes over, their number."""


@dataclass(frozen=True, slots=True, order=True)
class Line:
    """A line of source code."""

    file: str
    number: int

    def __str__(self) -> str:
        return f"{place_of(self.file, self.number)}: `{linecache.getline(self.file, self.number).strip()}`"


@dataclass(frozen=True, slots=True)
class Frozen:
    """A line that takes another value out of a tensor for these inputs than it took during the export.

    Attributes:
        line: The line of the user's code, or of PyTorch's if no user code called it.
        traced: The values taken for the example inputs, in order.
        here: The values taken for the inputs that are answered wrongly.
        warning: PyTorch's warning about the line; empty if there was none.
        outputs: The outputs that the traced values change.
    """

    line: Line
    traced: tuple[Taken, ...]
    here: tuple[Taken, ...]
    warning: str
    outputs: tuple[str, ...]

    def describe(self, before: str, now: str) -> str:
        """Describe it in one line, where `before` and `now` say when the two values were taken."""
        warning = f"TracerWarning: {self.warning}" if self.warning else "PyTorch gives no TracerWarning for it"
        changed = ", ".join(map(repr, self.outputs))
        values = f"uses {_shown(self.traced)} {before} but {_shown(self.here)} {now}"
        return f"{self.line} {values}, which changes {changed} ({warning})"


@dataclass(slots=True)
class _Trace:
    """The values that one traced run took out of tensors, by line, and its answers."""

    taken: dict[Line, list[Taken]] = field(default_factory=lambda: defaultdict(list))
    warnings: dict[Line, str] = field(default_factory=dict)
    answers: dict[str, Array] = field(default_factory=dict)


def find_frozen(subject: Subject, traced: Arrays, failing: Iterable[Arrays], outputs: AbstractSet[str]) -> list[Frozen]:
    """Find what makes `outputs` wrong, using the first of the `failing` inputs that shows it.

    Args:
        subject: The module.
        traced: The inputs that it was traced with.
        failing: Inputs that the export answers wrongly, each as `forward` takes them.
        outputs: The outputs that are wrong.
    """
    before = _trace(subject, traced, {})
    for feeds in failing:
        try:
            now = _trace(subject, feeds, {})
        except ModelError:
            continue
        candidates = [
            Frozen(line, tuple(values), tuple(now.taken[line]), now.warnings.get(line, ""), changed)
            for line, values in before.taken.items()
            if _differ(values, now.taken.get(line, []))
            and (changed := _changed(subject, feeds, now, {line: values}))
            and not outputs.isdisjoint(changed)
        ]
        if candidates:
            return candidates
    return []


def find_warned(subject: Subject, traced: Arrays) -> list[str]:
    """Return every line that PyTorch warns about during a trace, with its warning."""
    trace = _trace(subject, traced, {})
    return [f"{line} (TracerWarning: {text})" for line, text in trace.warnings.items()]


def _differ(before: Sequence[Taken], now: Sequence[Taken]) -> bool:
    """Return whether a value differs; additional values at the end only mean that a loop ran more often."""
    return any(a != b for a, b in zip(before, now, strict=False))


def _changed(subject: Subject, feeds: Arrays, now: _Trace, forced: Mapping[Line, Sequence[Taken]]) -> tuple[str, ...]:
    """Return the outputs that change when a line takes the values that it took before."""
    try:
        otherwise = _trace(subject, feeds, forced).answers
    except ModelError:
        return tuple(now.answers)
    return tuple(
        name
        for name, answer in now.answers.items()
        if name not in otherwise or not np.array_equal(answer, otherwise[name], equal_nan=True)
    )


class _Recorder(TorchFunctionMode):
    """Records each value that is taken out of a tensor, and replaces the values of the lines in `forced`."""

    def __init__(self, trace: _Trace, forced: Mapping[Line, Sequence[Taken]]) -> None:
        super().__init__()
        self._trace = trace
        self._forced = {line: iter(values) for line, values in forced.items()}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        with _tracer_warnings() as found:
            result = func(*args, **(kwargs or {}))
        taken = taken_from(result)
        if taken is None:
            return result
        line = _calling_line()
        self._trace.taken[line].append(taken)
        self._trace.warnings.update((line, text) for _, text in found)
        instead = next(self._forced.get(line, iter(())), None)
        if instead is None:
            return result
        if isinstance(result, np.ndarray):
            return np.array(instead, result.dtype)
        return result[:instead] if isinstance(result, tuple) and isinstance(instead, int) else instead


class _Recorded(nn.Module):
    """The subject with the recorder switched on while it runs."""

    def __init__(self, subject: Subject, recorder: _Recorder) -> None:
        super().__init__()
        self.subject, self.recorder = subject, recorder
        self.answers: tuple[torch.Tensor, ...] = ()
        self.eval()

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Give the subject's answers."""
        with self.recorder:
            self.answers = self.subject(*tensors)
        return self.answers


def _trace(subject: Subject, feeds: Arrays, forced: Mapping[Line, Sequence[Taken]]) -> _Trace:
    """Trace one run. During a trace sizes are tensors too, so that the values made of them are recorded.

    Raises:
        ModelError: The module cannot run.
    """
    found = _Trace()
    recorded = _Recorded(subject, _Recorder(found, forced))
    with UserCode(subject.where, "it cannot be traced", "correct forward"), torch.no_grad(), _tracer_warnings() as said:
        torch.jit.trace(recorded, subject.tensors(feeds), check_trace=False)
    for line, text in said:
        if is_user_code(line.file):
            found.warnings.setdefault(line, text)
    found.answers = {name: to_array(t) for name, t in zip(subject.outputs, recorded.answers, strict=True)}
    return found


@contextlib.contextmanager
def _tracer_warnings() -> Iterator[list[tuple[Line, str]]]:
    """Collect TracerWarnings: the line that each one points to, and its first sentence."""
    found: list[tuple[Line, str]] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield found
    for warning in caught:
        if issubclass(warning.category, torch.jit.TracerWarning):
            found.append((Line(warning.filename, warning.lineno), str(warning.message).partition(". ")[0].strip(".")))


def taken_from(result: object) -> Taken | None:
    """Return the Python value or array that a function of PyTorch returned, or None for tensors and descriptions."""
    if isinstance(result, torch.Size):
        return None  # during a trace its sizes are tensors
    if isinstance(result, bool | int | float):
        return result
    if isinstance(result, np.ndarray):
        values: Taken = result.tolist()
        return values
    if isinstance(result, list | tuple) and any(isinstance(item, torch.Tensor) for item in result):
        return len(result)
    return result if isinstance(result, list) else None


def _calling_line() -> Line:
    """Return the innermost running line of the user's code, or of PyTorch's if there is none."""
    frame = inner = sys._getframe(2)
    while frame is not None and not is_user_code(frame.f_code.co_filename):
        frame = frame.f_back  # type: ignore[assignment]
    found = frame or inner
    return Line(found.f_code.co_filename, found.f_lineno)


def _shown(values: Sequence[Taken]) -> str:
    listed = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]
    return ", ".join(listed[:8]) + (", …" if len(listed) > 8 else "")
