"""Labels come with the samples: which arrays are labels, and which are refused."""

import re
from pathlib import Path

import numpy as np
import pytest

from builder.errors import ModelError
from builder.samples.labels import find_labels
from builder.tensors import Array

FILE = Path("samples.npz")
ROWS = np.arange(3)


@pytest.mark.parametrize(
    ("arrays", "used", "found", "inputs"),
    [
        (["image", "label"], {"image"}, ["label"], ()),
        (["image", "labels", "label:boxes", "other"], {"image"}, ["labels", "label:boxes"], ()),
        (["label", "labels"], {"label"}, ["labels"], ("label",)),
        (["label"], {"label"}, [], ("label",)),
        (["input:label", "label"], {"input:label"}, ["label"], ()),
        (["image"], {"image"}, [], ()),
    ],
)
def test_labels_are_found_by_name_unless_an_input_has_it(
    arrays: list[str], used: set[str], found: list[str], inputs: tuple[str, ...]
) -> None:
    labels = find_labels(FILE, dict.fromkeys(arrays, ROWS), used)
    assert (list(labels.arrays), labels.inputs, bool(labels)) == (found, inputs, bool(found))


@pytest.mark.parametrize(
    ("arrays", "used", "message"),
    [
        ({"x": ROWS}, {"x"}, "there are no labels to compare the answers with\nfix: add an array label"),
        ({"label": ROWS}, {"label"}, "'label' is the input of that name, and there are no other labels\nfix: add"),
        ({"label": ROWS[:2]}, set(), "'label' of labels has 2 rows, and the inputs have 3 rows"),
        ({"label": np.array(1)}, set(), "'label' of labels has a single value, and the inputs have 3 rows"),
    ],
)
def test_labels_that_are_missing_or_not_one_for_each_row_are_refused(
    arrays: dict[str, Array], used: set[str], message: str
) -> None:
    with pytest.raises(ModelError, match=re.escape(message)):
        find_labels(FILE, arrays, used).check(3)


def test_one_figure_needs_one_array_and_a_function_gets_all_of_them_unchangeable() -> None:
    labels = find_labels(FILE, {"label:boxes": ROWS.copy(), "label:classes": ROWS.copy()}, set())
    with pytest.raises(ModelError, match="several arrays of labels: label:boxes, label:classes"):
        labels.single()
    given = labels.for_function()
    assert isinstance(given, dict)
    assert list(given) == ["boxes", "classes"]
    with pytest.raises(ValueError, match="read-only"):
        given["boxes"][0] = 7
    alone = find_labels(FILE, {"label": ROWS.copy()}, set())
    assert alone.single()[0] == "label"
    found = alone.for_function()
    assert isinstance(found, np.ndarray)
    assert np.array_equal(found, ROWS)
