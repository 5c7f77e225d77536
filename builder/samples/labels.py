"""Read the right answers that a file of samples has: its labels."""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from builder.errors import ModelError
from builder.tensors import Array, Arrays

NAMES = ("label", "labels")
"""What an array of labels is called, unless an input has that name."""

PREFIX = "label:"
"""How the name of one of several arrays of labels begins, as in `label:boxes`, or as in `label:OUTPUT`."""


@dataclass(frozen=True, slots=True)
class Labels:
    """The right answers to samples.

    Attributes:
        where: The file.
        arrays: The arrays of labels by their names in the file, `[rows, ...]` each. It can be empty.
        inputs: The names of arrays that would be labels, but belong to an input.
    """

    where: Path
    arrays: Arrays
    inputs: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self.arrays)

    def check(self, rows: int) -> None:
        """Check that there are labels, one for each sample.

        Raises:
            ModelError: There are none, or another number.
        """
        self.check_present()
        for name, array in self.arrays.items():
            if array.ndim == 0 or len(array) != rows:
                count = "a single value" if array.ndim == 0 else f"{len(array)} rows"
                what = f"the array {name!r} of labels has {count}, and the inputs have {rows} rows"
                raise ModelError(self.where, what, f"give {name} a row for each sample, {rows} in all")

    def check_present(self) -> None:
        """Check that there are labels.

        Raises:
            ModelError: There are none.
        """
        if self.arrays:
            return
        what = "there are no labels to compare the answers with"
        fix = "add an array label: the right answer to each sample, such as the number of its class"
        if self.inputs:
            what = f"the array {self.inputs[0]!r} is the input of that name, and there are no other labels"
            fix = f"add the labels as an array with the name {PREFIX}OUTPUT, where OUTPUT is that of an output"
        raise ModelError(self.where, what, fix)

    def single(self) -> tuple[str, Array]:
        """Return the only array of labels, with its name.

        Raises:
            ModelError: There are several.
        """
        if len(self.arrays) > 1:
            what = f"there are several arrays of labels: {', '.join(self.arrays)}"
            fix = "keep one of them, or give a function that uses them all, with --metric PACKAGE.MODULE:FUNCTION"
            raise ModelError(self.where, what, fix)
        return next(iter(self.arrays.items()))

    def for_function(self) -> Array | dict[str, Array]:
        """Return the only array of labels, or all of them by their names without the prefix; they cannot be changed."""
        arrays = {name.removeprefix(PREFIX): array.view() for name, array in self.arrays.items()}
        for array in arrays.values():
            array.flags.writeable = False
        return next(iter(arrays.values())) if len(arrays) == 1 else arrays


def find_labels(path: Path, arrays: Mapping[str, Array], used: Set[str]) -> Labels:
    """Return the labels among the arrays of a file.

    Args:
        path: The file.
        arrays: All of its arrays, by name.
        used: The names of those that are inputs.
    """
    named = [name for name in arrays if name in NAMES or name.startswith(PREFIX)]
    found = {name: arrays[name] for name in named if name not in used}
    return Labels(path, found, tuple(name for name in named if name in used))
