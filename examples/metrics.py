"""Metrics for `--metric`: functions that judge all answers of a model by the labels of the samples.

Such a function gets the outputs by name, `[rows, ...]` each, and the labels: the array `label`, or a dictionary of the
arrays `label:NAME`. It returns a number of at most 1; higher is better.

    python -m builder publish detector.onnx --samples images.npz --metric 'metrics:average_precision(overlap=0.5)'

Both functions here take boxes as `x1, y1, x2, y2`.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def intersection_over_union(boxes: Array, others: Array) -> Array:
    """Return how much boxes `[..., 4]` overlap with others of the same shape: 0 for nothing, 1 for equal boxes."""
    low = np.maximum(boxes[..., :2], others[..., :2])
    high = np.minimum(boxes[..., 2:], others[..., 2:])
    shared = np.clip(high - low, 0, None).prod(axis=-1)
    sizes = [np.clip(each[..., 2:] - each[..., :2], 0, None).prod(axis=-1) for each in (boxes, others)]
    union = sizes[0] + sizes[1] - shared
    return np.asarray(shared / np.where(union > 0, union, 1))


def mean_overlap(outputs: Mapping[str, Array], labels: Array) -> float:
    """Judge a model that answers one box for each image, `boxes` `[rows, 4]`; the labels are the right boxes."""
    return float(intersection_over_union(outputs["boxes"], labels).mean())


def average_precision(outputs: Mapping[str, Array], labels: Array, overlap: float = 0.5) -> float:
    """Judge a detector of one class: `boxes` `[rows, found, 4]` and `scores` `[rows, found]`.

    Args:
        outputs: Its answers.
        labels: The right boxes, `[rows, most, 4]`; boxes without an area fill up the rows that have fewer.
        overlap: From which intersection over union on a box is found.

    Returns:
        The area below the curve of precision over recall, from 0 to 1.
    """
    boxes, scores = np.asarray(outputs["boxes"]), np.asarray(outputs["scores"])
    is_real = (labels[..., 2:] > labels[..., :2]).all(axis=-1)
    is_found = np.zeros(is_real.shape, bool)
    hits = []
    for place in np.argsort(-scores, axis=None, kind="stable"):  # the surest box first
        row, box = np.unravel_index(place, scores.shape)
        overlaps = intersection_over_union(boxes[row, box], labels[row]) * (is_real[row] & ~is_found[row])
        best = int(overlaps.argmax())
        hits.append(bool(overlaps[best] >= overlap))
        is_found[row, best] |= hits[-1]
    right = np.cumsum(hits)
    precision = right / np.arange(1, len(hits) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]  # the best that any lower threshold reaches
    recall = np.concatenate([[0], right / max(1, is_real.sum())])
    return float((np.diff(recall) * precision).sum())
