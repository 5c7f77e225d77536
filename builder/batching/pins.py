"""What a file says about its axes, and the sizes at which it is analysed.

A symbolic dimension, such as `batch` or `seq`, is a claim: the file says that any size works there, but its body may
need a certain one. So every name is pinned to a number, and the body is walked with these numbers. An axis gets its
name back if the walk shows that the body works at every size of it.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import onnx_ir as ir

from builder.batching.layout import Shape
from builder.model import Dim, Model, TensorSpec

Axes = Mapping[str, int | None]
"""The axis of the batch, by input; None for an input without one."""

Sizes = Mapping[str, int]
"""The size of each axis that has a name."""


class Runs(Protocol):
    """Runs the original model at chosen sizes. The implementation is `builder.proof.OriginalRuns`."""

    def working_sizes(self, settled: Sizes) -> Sequence[Sizes]:
        """Return several choices of sizes for all names at which the model runs; each includes the `settled` sizes."""

    def output_shapes(self, sizes: Sizes, *, is_needed: bool = False) -> Mapping[str, Shape] | None:
        """Return the shapes of the outputs at these sizes, by name; None if the model does not run.

        Unless it `is_needed`, the answer is also None after the time for a search is used up.
        """

    def keeps_apart(self, sizes: Sizes, axes: Axes, chunk: int) -> bool:
        """Return whether every `chunk` rows of a batch get the same answers as without the other rows."""


SURE_NAMES = ("batch", "batch_size", "batchsize", "bs")
"""Names that only the batch has, in lower case."""

BATCH_NAMES = (*SURE_NAMES, "n", "b")
"""Names that the batch has beside an axis of time."""

TIME_NAMES = (
    "t", "time", "times", "timesteps", "time_steps", "seq", "seq_len", "seqlen", "sequence", "sequence_length",
    "length", "len", "frames", "num_frames", "steps",
)  # fmt: skip
"""Names of the axis of time."""

RANK_OF_STATES = 3
"""The rank of a state of recurrent networks: layers, batch, features."""

PRIMES = (7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97)
"""Batch sizes to analyse a model at that may be dynamic; the first that divides no dimension is taken."""

MOST_NUMBERS = 64
"""A constant with up to this many whole numbers may be a shape."""

FROZEN = (*range(1, 17), 20, 24, 32, 48, 64)
"""The batch sizes that files are usually frozen at."""

SMALL = (1, 2, 3)
"""The sizes of an axis that show what is no longer than some number, such as the last 8 steps."""

GUESSES = (64, 96, 160)
"""The sizes of the first symbolic axis if no working sizes are known: all different, and divisible by usual strides."""


@dataclass(frozen=True, slots=True)
class Pins:
    """The numbers that stand for the names of a file.

    Attributes:
        axes: The axis of the batch, by input.
        batch: The batch size that the model is analysed with.
        sizes: The sizes of all other named axes.
    """

    axes: Axes
    batch: int
    sizes: Sizes = field(default_factory=dict)

    def shape(self, spec: TensorSpec) -> Shape:
        """Return the shape of an input with a number on each axis."""
        batch_axis = self.axes[spec.name]
        return tuple(
            dim if isinstance(dim, int) else self.batch if axis == batch_axis else self.sizes[dim]
            for axis, dim in enumerate(spec.shape)
        )


def claimed_axes(model: Model) -> dict[str, int]:
    """Return the batch axis of each input whose names say that it is not axis 0.

    The batch is on axis 0, unless names say otherwise:

        x [batch, time, 8], h [2, batch, 16]    on axis 1 of `h`, because `x` has that name on axis 0
        x [time, batch, 8]                      on axis 1, because both names are unambiguous
        h [2, batch, 16]                        on axis 1, because of its name; the 2 is something else
        points [1, N, 3], boxes [b, n, 4]       on axis 0, because many things are called N
    """
    found = {}
    for spec in model.inputs:
        in_front = {s.shape[0] for s in model.inputs if s is not spec and s.shape and isinstance(s.shape[0], str)}
        axis = _claimed_axis(spec.shape, in_front)
        if axis is not None:
            found[spec.name] = axis
    return found


def _claimed_axis(shape: Sequence[Dim], in_front: Collection[Dim]) -> int | None:
    """Return the axis that is called the batch if it is not axis 0; other inputs have `in_front` on their axis 0."""
    if not shape or shape[0] in in_front:
        return None
    axis = _first_of(shape, in_front)
    if axis is not None and (shape[0] != 1 or (axis == 1 and len(shape) == RANK_OF_STATES)):
        return axis
    if isinstance(shape[0], str):
        return _first_of(shape, BATCH_NAMES) if shape[0].lower() in TIME_NAMES else None
    return _first_of(shape, SURE_NAMES) if shape[0] > 1 else None


def _first_of(shape: Sequence[Dim], names: Collection[Dim]) -> int | None:
    """Return the first axis but axis 0 that has one of these names, in any case."""
    found = (k for k, dim in enumerate(shape) if isinstance(dim, str) and (dim in names or dim.lower() in names))
    return next((axis for axis in found if axis), None)


def batch_names(model: Model, axes: Axes) -> set[str]:
    """Return the names that the inputs have on the axis of their batch."""
    dims = [spec.shape[axis] for spec in model.inputs if (axis := axes[spec.name]) is not None]
    return {dim for dim in dims if isinstance(dim, str)}


def free_names(model: Model, axes: Axes) -> list[str]:
    """Return the names of the other axes of the inputs, each once, in order."""
    found = [
        dim
        for spec in model.inputs
        for axis, dim in enumerate(spec.shape)
        if isinstance(dim, str) and axis != axes[spec.name]
    ]
    return list(dict.fromkeys(found))


def has_names(model: Model) -> bool:
    """Return whether any dimension of an input or output has a name in place of a number."""
    return any(isinstance(dim, str) for spec in (*model.inputs, *model.outputs) for dim in spec.shape)


def guessed_sizes(names: Sequence[str]) -> Iterator[Sizes]:
    """Yield sets of sizes for symbolic axes. All sizes in a set differ, and no axis has the same size in two sets."""
    for guess in GUESSES:
        yield {name: guess * (1 + 32 * k) for k, name in enumerate(names)}


def unrelated_batch(model: Model, sizes: Sizes) -> int:
    """Return a batch size that divides no number in the model, so that none is taken for the batch by mistake."""
    specs = (*model.inputs, *model.outputs)
    numbers = {dim for spec in specs for dim in spec.shape if isinstance(dim, int)} | set(sizes.values())
    for value in _constants(model):
        numbers.update(_numbers_of(value))
    return next((p for p in PRIMES if all(number % p for number in numbers if number)), PRIMES[-1])


def _numbers_of(value: ir.Value) -> Iterator[int]:
    """Yield the dimensions of a constant, and the numbers in it if it may be a shape."""
    yield from (dim for dim in value.shape or () if isinstance(dim, int))
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is not None and tensor.dtype == ir.DataType.INT64 and tensor.size <= MOST_NUMBERS:
        yield from tensor.numpy().ravel().tolist()


def _constants(model: Model) -> Iterator[ir.Value]:
    yield from model.ir.graph.initializers.values()
    for node in model.ir.graph.all_nodes():
        if node.op_type == "Constant":
            yield from node.outputs


def baked_batches(model: Model, axes: Axes) -> list[int]:
    """Return the batch sizes that the body may have been frozen at, the most likely first.

    A number on the batch axis of an input settles it. Otherwise the file was most likely exported with one sample. Next
    come the numbers on axis 0 of its outputs, then all others.
    """
    fixed = [spec.shape[axis] for spec in model.inputs if (axis := axes[spec.name]) is not None]
    numbers = [dim for dim in fixed if isinstance(dim, int)]
    if numbers:
        return [min(numbers)]  # a larger number means several rows of each sample
    in_front = [spec.shape[0] for spec in model.outputs if spec.shape and isinstance(spec.shape[0], int)]
    return list(dict.fromkeys([1, *(dim for dim in in_front if dim in FROZEN), *FROZEN]))
