"""The record of a model's accuracy on the user's own data, for the manifest."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from builder.printable import counted

_NUMBERS = ("R²",)


def accuracy_figure(name: str, value: float) -> str:
    """Write the value of a figure: `97.22%` for a part of all answers, or else `0.9312`."""
    return f"{value:.2%}" if _is_part(name) else f"{value:.4g}"


def accuracy_points(name: str, difference: float) -> str:
    """Write a difference of two values of a figure: `0.5 points` for parts, where 1 point is 1%, or else `0.005`."""
    return f"{100 * difference:.3g} points" if _is_part(name) else f"{difference:.3g}"


def accuracy_limit(name: str, difference: float) -> str:
    """Write the smallest limit that allows a difference, as the command line takes it: `0.4%` for parts, or `0.004`."""
    rounded = math.ceil(difference * 1e4 - 1e-6) / 1e4
    return f"{100 * rounded:g}%" if _is_part(name) else f"{rounded:g}"


def _is_part(name: str) -> bool:
    """Return whether a figure is a part, and neither R² nor what a function of the user's returns."""
    return name not in _NUMBERS and ":" not in name


@dataclass(frozen=True, slots=True)
class Score:
    """A figure of the original, and of the published model."""

    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How right the answers are by the labels of the user's samples, before and after the model was changed.

    Attributes:
        metric: The main figure, such as `top-1`, or the function that the user gave. It is at most 1, and higher is
            better.
        rows: On how many rows it was measured.
        before: The original's value.
        after: The published model's value.
        max_drop: How much lower than the original's any figure may be; None if that was not limited.
        output: The output that was judged; None if a function judged all of them.
        changed: On how many rows the model decides otherwise than the original; None if it decides nothing.
        ignored: How many labels say that they are not to be looked at.
        others: Further figures by name.
    """

    metric: str
    rows: int
    before: float
    after: float
    max_drop: float | None = None
    output: str | None = None
    changed: int | None = None
    ignored: int = 0
    others: Mapping[str, Score] = field(default_factory=dict)

    @property
    def scores(self) -> Mapping[str, Score]:
        """All figures by name, the main one first."""
        return {self.metric: Score(self.before, self.after), **self.others}

    def __str__(self) -> str:
        """Say what was found: `top-1 97.22% → 96.94% on 360 rows, at most 0.5 points lower allowed`."""
        figures = ", ".join(
            f"{name} {accuracy_figure(name, score.before)} → {accuracy_figure(name, score.after)}"
            for name, score in self.scores.items()
        )
        most = "" if self.max_drop is None else accuracy_points(self.metric, self.max_drop)
        limit = f", at most {most} lower allowed" if most else ""
        limit = ", no loss allowed" if self.max_drop == 0 else limit
        changed = "" if self.changed is None else f"; {counted(self.changed, 'row')} decided otherwise"
        ignored = f"; {counted(self.ignored, 'label')} left out" if self.ignored else ""
        return f"{figures} on {counted(self.rows, 'row')}{limit}{changed}{ignored}"
