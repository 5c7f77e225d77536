"""Find the values that Python takes out of tensors while a module is traced: a trace keeps them for good.

A loop's count, `.item()`, an index into a list, the condition of an `if`: what they were for the example inputs
is what they are for every input of an exported trace. PyTorch warns of some with a TracerWarning and of others,
such as `range(x.shape[1])`, not at all. So the module is traced again, on the inputs whose answers differ; where
another value is taken than before, and where the earlier value in its place changes the output, it was frozen.
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
from builder.exporting.subject import Subject, TheirCode, is_theirs, place_of, to_array
from builder.tensors import Array, Arrays

Taken = bool | int | float | list[Any]
"""A Python value out of a tensor; of several tensors, such as the rows that a loop goes over, how many."""


@dataclass(frozen=True, slots=True, order=True)
class Line:
    """A line of source code."""

    file: str
    number: int

    def __str__(self) -> str:
        return f"{place_of(self.file, self.number)}: `{linecache.getline(self.file, self.number).strip()}`"


@dataclass(frozen=True, slots=True)
class Frozen:
    """A line that takes something else out of a tensor for these inputs than it took when it was traced.

    Attributes:
        line: Of the user's own code, or of PyTorch's if none of the user's called it.
        traced: The values taken for the example, in order.
        here: The values taken for the inputs that are answered wrongly.
        warning: What PyTorch warned of there, if it did.
        outputs: The outputs that the traced values change.
    """

    line: Line
    traced: tuple[Taken, ...]
    here: tuple[Taken, ...]
    warning: str
    outputs: tuple[str, ...]

    def describe(self, before: str, now: str) -> str:
        """One line: where, what it took `before` and `now`, what this changes, what PyTorch said of it."""
        said = f"TracerWarning: {self.warning}" if self.warning else "PyTorch gives no TracerWarning for it"
        changed = ", ".join(map(repr, self.outputs))
        taken = f"takes {_shown(self.traced)} {before}, {_shown(self.here)} {now}"
        return f"{self.line} {taken}; changes {changed} ({said})"


@dataclass(slots=True)
class _Trace:
    """What one traced run took out of tensors, line by line, and what it answered."""

    taken: dict[Line, list[Taken]] = field(default_factory=lambda: defaultdict(list))
    warnings: dict[Line, str] = field(default_factory=dict)
    answers: dict[str, Array] = field(default_factory=dict)


def find_frozen(subject: Subject, traced: Arrays, failing: Iterable[Arrays], outputs: AbstractSet[str]) -> list[Frozen]:
    """Find what makes `outputs` differ for the first of the `failing` inputs that shows it.

    Args:
        subject: The module.
        traced: The inputs it was traced with.
        failing: Inputs that are answered wrongly, each as `forward` takes them.
        outputs: Which of its outputs are wrong.
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
    """Every line that a trace warns of."""
    trace = _trace(subject, traced, {})
    return [f"{line} (TracerWarning: {text})" for line, text in trace.warnings.items()]


def _differ(before: Sequence[Taken], now: Sequence[Taken]) -> bool:
    """Whether other values were taken; one more of the same kind is only another turn of a loop."""
    return any(a != b for a, b in zip(before, now, strict=False))


def _changed(subject: Subject, feeds: Arrays, now: _Trace, forced: Mapping[Line, Sequence[Taken]]) -> tuple[str, ...]:
    """The outputs that differ when a line takes the values that it took before."""
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
    """Notes each value that is taken out of a tensor, and hands out another where told to."""

    def __init__(self, trace: _Trace, forced: Mapping[Line, Sequence[Taken]]) -> None:
        super().__init__()
        self._trace = trace
        self._forced = {line: iter(values) for line, values in forced.items()}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        with _heard() as heard:
            result = func(*args, **(kwargs or {}))
        taken = _taken(result)
        if taken is None:
            return result
        line = _calling_line()
        self._trace.taken[line].append(taken)
        self._trace.warnings.update((line, text) for _, text in heard)
        instead = next(self._forced.get(line, iter(())), None)
        if instead is None:
            return result
        return result[:instead] if isinstance(result, tuple) and isinstance(instead, int) else instead


class _Recorded(nn.Module):
    """The subject as it is traced, the recorder on while its code runs."""

    def __init__(self, subject: Subject, recorder: _Recorder) -> None:
        super().__init__()
        self.subject, self.recorder = subject, recorder
        self.answers: tuple[torch.Tensor, ...] = ()
        self.eval()

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Answer as the subject does."""
        with self.recorder:
            self.answers = self.subject(*tensors)
        return self.answers


def _trace(subject: Subject, feeds: Arrays, forced: Mapping[Line, Sequence[Taken]]) -> _Trace:
    """Trace one run: only there are sizes tensors too, so that what is made of them is seen.

    Raises:
        ModelError: It cannot run.
    """
    found = _Trace()
    recorded = _Recorded(subject, _Recorder(found, forced))
    with TheirCode(subject.where, "it cannot be traced", "fix forward"), torch.no_grad(), _heard() as heard:
        torch.jit.trace(recorded, subject.tensors(feeds), check_trace=False)
    for line, text in heard:
        if is_theirs(line.file):
            found.warnings.setdefault(line, text)
    found.answers = {name: to_array(t) for name, t in zip(subject.outputs, recorded.answers, strict=True)}
    return found


@contextlib.contextmanager
def _heard() -> Iterator[list[tuple[Line, str]]]:
    """Collect the first sentences of TracerWarnings, with where each points to."""
    heard: list[tuple[Line, str]] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield heard
    for warning in caught:
        if issubclass(warning.category, torch.jit.TracerWarning):
            heard.append((Line(warning.filename, warning.lineno), str(warning.message).partition(". ")[0].strip(".")))


def _taken(result: object) -> Taken | None:
    """The Python value that a function of PyTorch returns; None for tensors and what describes them."""
    if isinstance(result, torch.Size):
        return None  # its sizes are tensors while it is traced
    if isinstance(result, bool | int | float):
        return result
    if isinstance(result, list | tuple) and any(isinstance(item, torch.Tensor) for item in result):
        return len(result)
    return result if isinstance(result, list) else None


def _calling_line() -> Line:
    """The innermost line of the user's code that is running, or of PyTorch's."""
    frame = inner = sys._getframe(2)
    while frame is not None and not is_theirs(frame.f_code.co_filename):
        frame = frame.f_back  # type: ignore[assignment]
    found = frame or inner
    return Line(found.f_code.co_filename, found.f_lineno)


def _shown(values: Sequence[Taken]) -> str:
    listed = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]
    return ", ".join(listed[:8]) + (", …" if len(listed) > 8 else "")
