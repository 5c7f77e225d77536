"""Metrics for `--metric`: functions that judge all answers of a model by the labels of the samples.

Such a function gets the outputs by name, `[rows, ...]` each, and the labels: the array `label`, or a dictionary of the
arrays `label:NAME`. It returns a number of at most 1; higher is better. Run the command in the folder of this file.

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
    """Judge a detector that answers `boxes` `[rows, found, 4]` and `scores` `[rows, found, classes]`.

    Args:
        outputs: Its answers.
        labels: The right boxes with their class, `class, x1, y1, x2, y2`, `[rows, most, 5]`. Rows with fewer boxes are
            filled up with the class -1.
        overlap: From which intersection over union on a box is found.

    Returns:
        The mean over the classes of the area below the curve of precision over recall, from 0 to 1.
    """
    classes = range(outputs["scores"].shape[-1])
    return float(np.mean([_of_class(outputs, labels, number, overlap) for number in classes]))


def _of_class(outputs: Mapping[str, Array], labels: Array, number: int, overlap: float) -> float:
    """Return the average precision of one class."""
    boxes, scores = outputs["boxes"], outputs["scores"][..., number]
    overlaps = intersection_over_union(boxes[:, :, np.newaxis], labels[:, np.newaxis, :, 1:])  # [rows, found, most]
    is_right = labels[..., 0] == number
    is_left = is_right.copy()  # which of them were not found yet
    hits = []
    for place in np.argsort(-scores, axis=None, kind="stable"):  # the surest box first
        row, box = divmod(int(place), scores.shape[1])
        best = int((overlaps[row, box] * is_left[row]).argmax())
        hits.append(bool(is_left[row, best] and overlaps[row, box, best] >= overlap))
        is_left[row, best] &= not hits[-1]
    found = np.cumsum(hits)
    precision = found / np.arange(1, len(hits) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]  # the best that any lower threshold reaches
    recall = np.concatenate([[0], found / max(1, is_right.sum())])
    return float((np.diff(recall) * precision).sum())
