"""How good a detector's answers are: what a user passes with `--metric int8_metric:average_precision`."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

OVERLAP = 0.5
"""How much of the union of two boxes they have to share to be the same object."""


def overlaps(boxes: Array, others: Array) -> Array:
    """Return the intersection over the union of pairs of boxes, `[..., 4]` as left, top, right and bottom."""
    corners = np.maximum(boxes[..., :2], others[..., :2]), np.minimum(boxes[..., 2:], others[..., 2:])
    shared = np.clip(corners[1] - corners[0], 0, None).prod(-1)
    areas = [np.clip(one[..., 2:] - one[..., :2], 0, None).prod(-1) for one in (boxes, others)]
    return np.asarray(shared / np.maximum(areas[0] + areas[1] - shared, 1e-9))


def average_precision(outputs: Mapping[str, Array], labels: Array) -> float:
    """Return the mean over the kinds of shapes of the average precision at an overlap of 0.5.

    Args:
        outputs: `boxes`, `[rows, cells, 4]`, and `scores`, `[rows, cells, kinds]`. There is one box for each cell.
        labels: `[rows, cells, 5]`: the kind of the shape in the cell, or -1 for none, and its box.
    """
    is_hit = overlaps(outputs["boxes"], labels[..., 1:]) > OVERLAP
    found = []
    for kind in range(outputs["scores"].shape[-1]):
        is_there = labels[..., 0] == kind
        order = np.argsort(-outputs["scores"][..., kind].ravel(), kind="stable")
        hits = (is_there & is_hit).ravel()[order]
        recall = np.cumsum(hits) / is_there.sum()
        precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
        found.append(float(np.sum(np.diff(recall, prepend=0) * best_from_here)))
    return float(np.mean(found))
