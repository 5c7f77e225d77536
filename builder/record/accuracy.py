"""The record of a model's accuracy on the user's own data, for the manifest."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How often the model is right, before and after its precision was lowered.

    Attributes:
        metric: What was measured.
        rows: On how many rows.
        before: The original's value.
        after: The published model's value.
    """

    metric: str
    rows: int
    before: float
    after: float
