"""Check that a module gives the same answer to the same input, and name what changes it: random numbers, or a state.

A file whose answers are drawn at random cannot be compared with anything, and a state that `forward` changes is not in
the file at all. Both show when the module runs twice on the same input. What did it is found in a further run, in which
Python calls back at every line: the generators of random numbers and the state of the module are compared with what
they were a line before.
"""

import contextlib
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import numpy as np
import torch

from builder.errors import Listing, ModelError
from builder.exporting.asking import ModuleError
from builder.exporting.frozen import Line
from builder.exporting.state import Snapshot, changed_between, state_of
from builder.exporting.subject import Diagnosis, Subject
from builder.tensors import Array, Arrays
from builder.user_code import is_user_code

TRIES = 6
"""How often a module that draws random numbers is asked again: dropout may drop none of a few values."""

ROUNDING = 1e-4
"""How much answers may differ if no random numbers are drawn: sums of several threads are added in any order."""

MOST_LINES = 8
"""How many lines are named."""

OFF_IN_EVALUATION = {"dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout", "native_dropout", "rrelu"}
"""Functions that draw nothing when they are told that the module is not in training."""


@dataclass(frozen=True, slots=True, order=True)
class Draw:
    """A place where random numbers are drawn.

    Attributes:
        line: The line of the user's code; None if none is known, as in TorchScript.
        call: The function of PyTorch that draws them, or whose random numbers they are.
    """

    line: Line | None
    call: str

    def __str__(self) -> str:
        return f"{self.line} draws random numbers ({self.call})" if self.line else f"{self.call} draws random numbers"


@dataclass(frozen=True, slots=True)
class _Found:
    """What changes the answers."""

    draws: tuple[Draw, ...] = ()
    changes: tuple[str, ...] = ()
    training: tuple[str, ...] = ()
    failure: str = ""


def refuse_changing(subject: Subject, feeds: Arrays, first: Arrays, other: Arrays) -> tuple[str, ...]:
    """Run the module again on the same inputs, also after others, and compare its answers with the first.

    Args:
        subject: The module.
        feeds: Inputs that it has answered.
        first: Its answers to them.
        other: Other inputs of the same shapes, which it may fail on.

    Returns:
        The buffers that `forward` changes, although its answers stay the same.

    Raises:
        ModuleError: The answers differ. The message names the random numbers or the state.
    """
    before, generators = state_of(subject.module), _generators()
    again = subject.run(feeds)
    is_random = bool(_moved(generators, _generators()))
    tries = TRIES if is_random else 1
    while tries > 1 and not _differ(first, again, exactly=is_random):
        again, tries = subject.run(feeds), tries - 1
    if not _differ(first, again, exactly=is_random):
        with contextlib.suppress(ModelError):
            subject.run(other)
        again = subject.run(feeds)
    if _differ(first, again, exactly=is_random):
        raise verdict(subject, feeds)
    changes = changed_between(before, state_of(subject.module))
    return tuple(name for name, kind in changes.items() if kind == "buffer")


def refuse_kept(subject: Subject, feeds: Arrays, first: Arrays, others: Sequence[Arrays], fresh: Snapshot) -> None:
    """Refuse a module that keeps something of the first inputs that it gets, and uses it for all others.

    Example: `if self.scale is None: self.scale = x.max()` answers every later input by the scale of the first one. If
    what is kept depends on the sizes alone, such as a table of positions, the answers are the same.

    Args:
        subject: The module.
        feeds: Inputs that it has answered first of all.
        first: Its answers to them.
        others: Other inputs of the same shapes, which it may fail on.
        fresh: Its state before that.

    Raises:
        ModuleError: It gives other answers to them after others.
    """
    if not fresh.has_changed():
        return
    fresh.restore()
    before = state_of(subject.module)
    for other in others:
        with contextlib.suppress(ModelError):
            subject.run(other)
            break
    kept = changed_between(before, state_of(subject.module))
    again = subject.run(feeds) if kept else first
    fresh.restore()
    subject.run(feeds)
    if _differ(first, again, exactly=False):
        named = ", ".join(f"the {kind} {name!r}" for name, kind in kept.items())
        what = f"its answers depend on the inputs that it is given first: forward keeps something of them in {named}"
        raise ModuleError(subject.where, what, "compute it in forward each time, or when the module is made")


def refuse_other_answers(subject: Subject, feeds: Arrays, answers: Arrays) -> None:
    """Refuse a module that answers inputs otherwise than it did before, and name the reason.

    Raises:
        ModuleError: It does.
        ModelError: `forward` fails.
    """
    generators = _generators()
    again = subject.run(feeds)
    if _differ(answers, again, exactly=bool(_moved(generators, _generators()))):
        raise verdict(subject, feeds)


def verdict(subject: Subject, feeds: Arrays) -> ModuleError:
    """Return the error that says what changes the answers to these inputs."""
    found = _search(subject, feeds)
    lines = [*map(str, found.draws), *found.changes]
    if found.failure:
        lines.append(f"what changes it could not be searched for: {found.failure}")
    elif not lines:
        lines.append("no random numbers of PyTorch, NumPy or Python, and no changed state of the module, were found")
    what = Listing("it gives another answer each time it runs on the same input:", lines)
    return ModuleError(subject.where, what, _fix(found))


def _fix(found: _Found) -> str:
    calls = {draw.call for draw in found.draws}
    ways = []
    if calls and found.training:
        ways.append(f"leave {', '.join(found.training)} in evaluation mode: forward switches training on")
    elif calls & OFF_IN_EVALUATION:
        ways.append("give it training=self.training, so that evaluation mode switches it off")
        calls -= OFF_IN_EVALUATION
    if "scaled_dot_product_attention" in calls:
        ways.append("give it dropout_p=0.0 unless self.training")
    elif "multinomial" in calls:
        ways.append("return the probabilities, and let clients draw, or take the random numbers as an input of forward")
    elif calls and not found.training:
        ways.append("take the random numbers as an input of forward, so that each request brings its own")
    if found.changes:
        ways.append("take what changes as an input of forward and return its new value, or change it in training only")
    return ", and ".join(ways) or "make forward depend on its inputs alone, not on a clock, a file or a global variable"


def _differ(first: Arrays, again: Arrays, *, exactly: bool) -> bool:
    """Return whether answers differ: at all, or by more than rounding, as sums of several threads do."""
    return any(name not in again or not _equal(array, again[name], exactly=exactly) for name, array in first.items())


def _equal(first: Array, again: Array, *, exactly: bool) -> bool:
    if first.shape != again.shape or first.dtype != again.dtype:
        return False
    if np.array_equal(first, again, equal_nan=first.dtype.kind == "f"):
        return True
    if exactly or first.dtype.kind != "f":
        return False
    scale = np.abs(first[np.isfinite(first)]).max(initial=0)
    return np.allclose(again, first, rtol=ROUNDING, atol=ROUNDING * float(scale), equal_nan=True)


# ---------------------------------------------------------------- generators


def _generators() -> dict[str, Any]:
    """Return the states of the generators that everybody shares."""
    return {
        "PyTorch": torch.default_generator.get_state(),
        "NumPy's generator": np.random.get_state(),
        "Python's generator": random.getstate(),
    }


def _moved(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Return the generator that has drawn numbers; "" if none has."""
    for name, state in now.items():
        was = before[name]
        if name == "PyTorch":
            same = torch.equal(state, was)
        elif isinstance(state, tuple) and isinstance(state[1], np.ndarray):
            same = state[2:] == was[2:] and np.array_equal(state[1], was[1])
        else:
            same = state == was
        if not same:
            return name
    return ""


@contextlib.contextmanager
def _generators_kept() -> Iterator[None]:
    """Put the generators back afterwards: a program that calls this draws what it would have drawn."""
    kept = _generators()
    try:
        yield
    finally:
        torch.default_generator.set_state(kept["PyTorch"])
        np.random.set_state(kept["NumPy's generator"])
        random.setstate(kept["Python's generator"])


# ---------------------------------------------------------------- the search


def _search(subject: Subject, feeds: Arrays) -> _Found:
    """Run the module once more, and watch it line by line. Nothing that goes wrong here is an error."""
    with Diagnosis() as diagnosis:
        before = state_of(subject.module)
        with _generators_kept():
            subject.run(feeds)
        changes = changed_between(before, state_of(subject.module))
        watch = _Watch(lambda: state_of(subject.module, only=changes) if changes else {})
        with _generators_kept(), watch:
            subject.run(feeds)
        training = tuple(name for name, module in subject.module.named_modules() if module.training and name)
        named = tuple(
            f"{place}forward changes the {kind} {name!r} at each call"
            for name, kind in list(changes.items())[:MOST_LINES]
            for place in [f"{watch.changes[name]}: " if name in watch.changes else ""]
        )
        draws = tuple(sorted(dict.fromkeys(watch.draws), key=str)[:MOST_LINES])
        return _Found(draws, named, training[:MOST_LINES])
    return _Found(failure=diagnosis.failure)


@dataclass(slots=True)
class _Watch(contextlib.AbstractContextManager["_Watch"]):
    """Notes the lines of the user's code at which a generator or a part of the state changes.

    Python's profiler reports the return of every C function, so that the one which drew is known by its name. What it
    does not see, such as NumPy's functions, shows at the next line.
    """

    state: Callable[[], dict[str, Any]]
    draws: list[Draw] = field(default_factory=list)
    changes: dict[str, Line] = field(default_factory=dict)
    _generators: dict[str, Any] = field(default_factory=dict)
    _state: dict[str, Any] = field(default_factory=dict)
    _line: Line | None = None
    _before: tuple[Any, Any] = (None, None)

    def __enter__(self) -> "_Watch":
        self._generators, self._state = _generators(), self.state()
        self._before = (sys.gettrace(), sys.getprofile())
        sys.setprofile(self._profile)
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before[0])
        sys.setprofile(self._before[1])

    def _profile(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "c_return":
            self._note_draw(getattr(argument, "__name__", ""), _user_line(frame))

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not is_user_code(frame.f_code.co_filename):
            return None
        self._note_draw("", self._line)
        self._note_changes()
        self._line = Line(frame.f_code.co_filename, frame.f_lineno)
        return self._trace

    def _note_draw(self, call: str, line: Line | None) -> None:
        now = _generators()
        if moved := _moved(self._generators, now):
            self.draws.append(Draw(line, call if call and moved == "PyTorch" else moved))
        self._generators = now

    def _note_changes(self) -> None:
        now = self.state()
        for name, value in now.items():
            if value != self._state.get(name) and self._line is not None:
                self.changes.setdefault(name, self._line)
        self._state = now


def _user_line(frame: FrameType | None) -> Line | None:
    """Return the innermost running line of the user's code."""
    while frame is not None and not is_user_code(frame.f_code.co_filename):
        frame = frame.f_back
    return None if frame is None else Line(frame.f_code.co_filename, frame.f_lineno)
