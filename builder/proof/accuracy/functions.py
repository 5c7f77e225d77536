"""Judge answers with a function of the user's: `--metric package.module:function`."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from builder.errors import ModelError
from builder.proof.accuracy.scoring import Scoring
from builder.tensors import Array, Arrays
from builder.user_code import UserCode, import_from, parse, stdout_on_stderr

FORM = "package.module:function"
EXAMPLE = "metrics:mean_average_precision or 'metrics:top_k(k=3)'"

_FIX = "return a number, such as float(correct.mean()): at most 1, where higher is better"


@dataclass(frozen=True, slots=True)
class Function(Scoring):
    """A function of the user's that judges all answers at once.

    Attributes:
        text: How the user names it.
        function: Called with the outputs by name, `[rows, *dims]` each, and the labels. If the answers differ in shape,
            an output is a list of `[*dims]`.
        labels: The labels.
    """

    text: str
    function: Callable[..., Any]
    labels: Array | Mapping[str, Array]

    def keep(self, answers: Arrays, start: int) -> Arrays:
        """Keep all answers."""
        return answers

    def scores(self, kept: Arrays) -> Mapping[str, float]:
        """Call the function, and return what it says.

        Raises:
            ModelError: It fails, or does not return a number of at most 1.
        """
        outputs = {name: list(array) if array.dtype == object else array for name, array in kept.items()}
        what, fix = "the metric fails", "correct the function; it is called with (outputs, labels)"
        with UserCode(self.text, what, fix), stdout_on_stderr():
            found = _number(self.function(outputs, self.labels))
        return {self.text: self._checked(found)}

    def settled(self, kept: Arrays) -> "Function":
        """Check that the function says the same of the same answers.

        Raises:
            ModelError: It does not.
        """
        first, second = (self.scores(kept)[self.text] for _ in range(2))
        if first != second:
            what = f"the metric says {first:g} and then {second:g} of the same answers"
            raise ModelError(self.text, what, "use no random numbers in it, or always the same seed")
        return self

    def _checked(self, found: object) -> float:
        if isinstance(found, bool | np.bool_) or not isinstance(found, Real):
            raise ModelError(self.text, f"the metric returns an object of type {type(found).__name__}", _FIX)
        number = float(found) + 0.0  # -0.0 would be written as -0
        if not math.isfinite(number):
            raise ModelError(self.text, f"the metric returns {number}", _FIX)
        if number > 1:
            fix = f"{_FIX}; divide percentages by 100, and turn a loss into a negative number"
            raise ModelError(self.text, f"the metric returns {number:g}, which is more than 1", fix)
        return number


def find_function(text: str) -> Callable[..., Any]:
    """Import the function that the user names.

    `package.module:function(NAME=VALUE)` adds arguments, which are literals.

    Raises:
        ModelError: It cannot be imported, or is not a function.
    """
    call = parse(text, form=FORM, example=EXAMPLE)
    with stdout_on_stderr():
        function = import_from(text, call)
    if not callable(function):
        what = f"{call.name} is of type {type(function).__name__}, and cannot be called"
        raise ModelError(text, what, "name a function that takes (outputs, labels) and returns a number")
    if call.args:
        what = "the first two arguments of a metric are the outputs and the labels"
        raise ModelError(text, what, "give other arguments by name, as in 'metrics:top_k(k=3)'")
    if not call.kwargs:
        return function  # type: ignore[no-any-return]

    def with_arguments(outputs: object, labels: object) -> object:
        return function(outputs, labels, **call.kwargs)

    return with_arguments


def _number(found: Any) -> Any:
    """Return the number in an array or a tensor that holds only one; others stay as they are."""
    if getattr(found, "ndim", None) == 0 and hasattr(found, "item"):
        return found.item()
    return found
