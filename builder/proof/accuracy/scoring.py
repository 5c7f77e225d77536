"""Ways to judge answers by labels: what to keep of each answer, and the figures over all rows.

Of an answer with a score for every class, only the class that was chosen is kept, so that a proof over all rows needs
little more memory than the labels do.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from builder.proof.accuracy import figures
from builder.proof.accuracy.unclear import UnclearLabelsError
from builder.tensors import Array, Arrays

TOP = 5
"""How many classes top-5 accuracy looks at."""

CLASSES_FOR_TOP = 10
"""From how many classes on top-5 accuracy is told: with fewer, nearly every answer is among the five best."""

VALUES = "values"
"""What is kept of each answer: the chosen class, or the value itself."""

AMONG_TOP = "among the best"
"""Whether the right class is among the best ones."""

NEITHER = -1
"""The decision where a score is NaN: it is never right."""

SURELY_LOGITS = (-1.0, 2.0)
"""Scores beyond one of these are logits, and no answers near 0 and 1."""


class Scoring(ABC):
    """A way to judge answers by labels."""

    @property
    def output(self) -> str | None:
        """The output that is judged; None if all are."""
        return None

    @property
    def ignored(self) -> int:
        """How many labels are not looked at."""
        return 0

    @property
    def smallest_step(self) -> float | None:
        """By how much one more wrong answer lowers the accuracy; None if nothing is right or wrong."""
        return None

    @abstractmethod
    def keep(self, answers: Arrays, start: int) -> Arrays:
        """Return what has to be kept of the answers `[rows, *dims]` to the samples from row `start` on."""

    @abstractmethod
    def scores(self, kept: Arrays) -> Mapping[str, float]:
        """Return the figures over all rows by name; the first one is the main one."""

    def settled(self, kept: Arrays) -> "Scoring":
        """Return this scoring with what only the original's answers to all rows can show.

        Raises:
            UnclearLabelsError: They do not show it.
        """
        return self

    def changed(self, before: Arrays, after: Arrays) -> int | None:
        """Return how many rows are decided otherwise; None if nothing is decided."""
        return None

    def doubt(self, kept: Arrays) -> str | None:
        """Return why the labels seem not to belong to the original's answers, as a clause, or None."""
        return None


@dataclass(frozen=True, slots=True)
class Labelled(Scoring):
    """Labels for one output.

    Attributes:
        tensor: The output.
        labels: The right answers, `[rows, *dims]`.
    """

    tensor: str
    labels: Array

    @property
    def output(self) -> str:
        """The output that is judged."""
        return self.tensor

    def keep(self, answers: Arrays, start: int) -> Arrays:
        """Keep the values, which are as many as the labels."""
        found = answers[self.tensor]
        return {VALUES: found.reshape(len(found), *self.labels.shape[1:])}


@dataclass(frozen=True, slots=True)
class Decisions(Labelled):
    """Labels that answers are equal to or not.

    Attributes:
        counted: Which labels count, of the shape of the labels.
    """

    counted: Array

    @property
    def ignored(self) -> int:
        """How many labels are not looked at."""
        return int(self.counted.size - self.counted.sum())

    @property
    def smallest_step(self) -> float:
        """By how much one more wrong answer lowers the accuracy."""
        return 1 / int(self.counted.sum())

    def decisions(self, kept: Arrays) -> Array:
        """Return what was decided, `[rows, *dims]`, comparable with the labels."""
        return kept[VALUES]

    def pairs(self, kept: Arrays) -> tuple[Array, Array]:
        """Return the decisions that count, and the labels that they should be."""
        return self.decisions(kept)[self.counted], self.labels[self.counted]

    def changed(self, before: Arrays, after: Arrays) -> int:
        """Return how many rows are decided otherwise at a place that counts."""
        differ = (self.decisions(before) != self.decisions(after)) & self.counted
        return int(differ.reshape(len(differ), -1).any(axis=1).sum())

    def doubt(self, kept: Arrays) -> str | None:
        """Say if the original is right no more often than by chance."""
        decided, right = self.pairs(kept)
        found, chance = figures.accuracy(decided, right), figures.by_chance(decided, right)
        if found == 1.0 or found > chance:
            return None
        return f"the original agrees with {found:.1%} of them, and would agree with {chance:.1%} by chance"


@dataclass(frozen=True, slots=True)
class Classes(Decisions):
    """A score for each class, and the number of the right class for each row or position.

    Attributes:
        classes: How many classes there are.
        axis: The axis of the classes in the output; the others are those of the labels, apart from sizes of 1.
        metric: The main figure: `accuracy`, `top-5`, `f1` or `mean-iou`.
    """

    classes: int
    axis: int
    metric: str

    def keep(self, answers: Arrays, start: int) -> Arrays:
        """Keep the class with the highest score, and whether the right one is among the best."""
        scores = np.moveaxis(answers[self.tensor], self.axis, -1)
        rows = slice(start, start + len(scores))
        labels, counted = self.labels[rows], self.counted[rows]
        scores = scores.reshape(*labels.shape, self.classes)
        is_known = ~np.isnan(scores).any(axis=-1)
        kept = {VALUES: np.where(is_known, scores.argmax(axis=-1), NEITHER).astype(np.int32)}
        if self._has_top:
            right = np.take_along_axis(scores, np.where(counted, labels, 0)[..., np.newaxis], axis=-1)
            kept[AMONG_TOP] = is_known & ((scores > right).sum(axis=-1) < TOP)
        return kept

    def scores(self, kept: Arrays) -> Mapping[str, float]:
        """Return the figure that was asked for, accuracy, and top-5 for many classes."""
        decided, right = self.pairs(kept)
        name = "top-1" if self.labels.ndim == 1 else "accuracy per position"
        found = {name: figures.accuracy(decided, right)}
        if self._has_top:
            top = {"top-5": float(kept[AMONG_TOP][self.counted].mean())}
            found = {**top, **found} if self.metric == "top-5" else {**found, **top}
        if self.metric == "f1":
            found = {"macro F1": figures.macro_f1(decided, right), **found}
        if self.metric == "mean-iou":
            found = {"mean IoU": figures.mean_iou(decided, right), **found}
        return found

    @property
    def _has_top(self) -> bool:
        return self.metric == "top-5" or (self.labels.ndim == 1 and self.classes >= CLASSES_FOR_TOP)


@dataclass(frozen=True, slots=True)
class Same(Decisions):
    """Answers that are classes themselves: numbers or texts that have to equal the labels.

    Attributes:
        metric: The main figure: `accuracy` or `f1`.
    """

    metric: str

    def scores(self, kept: Arrays) -> Mapping[str, float]:
        """Return which part of the answers is right, behind F1 if that was asked for."""
        found = {"exact match": figures.accuracy(*self.pairs(kept))}
        return {"macro F1": figures.macro_f1(*self.pairs(kept)), **found} if self.metric == "f1" else found


@dataclass(frozen=True, slots=True)
class Flags(Decisions):
    """A score for each thing that is there or not, and labels that are true or false.

    Attributes:
        metric: The main figure: `accuracy` or `f1`.
        threshold: The score above which the answer is yes; NaN until the original's answers show it.
    """

    metric: str
    threshold: float = math.nan

    def decisions(self, kept: Arrays) -> Array:
        """Return 1 where the score is above the threshold, 0 where it is not, and -1 where it is NaN."""
        values = kept[VALUES]
        return np.where(np.isnan(values), NEITHER, values > self.threshold).astype(np.int8)

    def settled(self, kept: Arrays) -> "Flags":
        """Return this with a threshold: 0.5 for probabilities, and 0 for logits.

        Raises:
            UnclearLabelsError: The scores could be either.
        """
        if not math.isnan(self.threshold):
            return self
        values = kept[VALUES]
        low, high = float(np.nanmin(values, initial=0.0)), float(np.nanmax(values, initial=0.0))
        if low >= 0 and high <= 1:
            return replace(self, threshold=0.5)
        if low < SURELY_LOGITS[0] or high > SURELY_LOGITS[1]:
            return replace(self, threshold=0.0)
        what = (
            f"the scores of output {self.tensor!r} go from {low:.3g} to {high:.3g}, which can be logits as well as "
            "numbers near 0 and 1"
        )
        fix = f"say which score means yes: --metric {self.metric}@0 for logits, or --metric {self.metric}@0.5"
        raise UnclearLabelsError(what, fix)

    def scores(self, kept: Arrays) -> Mapping[str, float]:
        """Return accuracy, behind F1 if that is the main figure."""
        decided, right = self.pairs(kept)
        at = f"at {self.threshold:g}"
        found = {f"accuracy {at}": figures.accuracy(decided, right)}
        if self.metric == "f1":
            wrong_if_unknown = np.where(decided == NEITHER, ~right, decided == 1)
            found = {f"F1 {at}": figures.f1(wrong_if_unknown, right), **found}
        return found


@dataclass(frozen=True, slots=True)
class Numbers(Labelled):
    """Numbers that have to be near the labels."""

    def scores(self, kept: Arrays) -> Mapping[str, float]:
        """Return R²."""
        rows = len(self.labels)
        return {"R²": figures.r2(kept[VALUES].reshape(rows, -1), self.labels.reshape(rows, -1))}

    def doubt(self, kept: Arrays) -> str | None:
        """Say if the original is no better than the mean of the labels."""
        found = self.scores(kept)["R²"]
        if found > 0:
            return None
        return f"the original's R² is {found:.3g}, so that always answering the mean of all labels would be as good"
