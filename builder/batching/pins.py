"""What a file says of its axes, and the sizes at which it is analysed.

A dimension with a name, such as `batch` or `seq`, is a claim: the file says that any size will do there, and the body
may have another opinion. So every name is pinned to a number, and the body is walked with these numbers. Where it can
be seen afterwards that the body follows a size, the axis gets its name back.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import onnx_ir as ir

from builder.batching.layout import Shape
from builder.model import Model, TensorSpec

Axes = Mapping[str, int | None]
"""The axis of the batch, by input; None for an input without one."""

Sizes = Mapping[str, int]
"""The size of each axis that has a name."""


class Runs(Protocol):
    """Runs the original model, to see at which sizes it does; `builder.proof` has what runs it."""

    def working_sizes(self, settled: Sizes) -> Sequence[Sizes]:
        """Return choices of sizes for all names at which it runs, with the `settled` ones among them."""

    def output_shapes(self, sizes: Sizes) -> Mapping[str, Shape] | None:
        """Return the shapes of its outputs at these sizes; None if it does not run."""

    def keeps_apart(self, sizes: Sizes, axes: Axes, chunk: int) -> bool:
        """Return whether it gives `chunk` rows of a batch the answers that it gives to them alone."""


BATCH_NAMES = ("batch", "batch_size", "batchsize", "n", "b", "bs")
"""What people call the axis of the batch, in lower case."""

PRIMES = (7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97)
"""The batches to analyse a model with whose batch is dynamic; the first that divides no dimension is taken."""

MOST_NUMBERS = 64
"""A constant of up to so many whole numbers may be a shape."""

FROZEN = (*range(1, 17), 20, 24, 32, 48, 64)
"""The batches that files are frozen at."""

GUESSES = (64, 96, 160)
"""The sizes for a named axis when the caller gives none: any two of them differ, and strides divide them."""


@dataclass(frozen=True, slots=True)
class Pins:
    """The numbers that stand for the names of a file.

    Attributes:
        axes: The axis of the batch, by input.
        batch: How many samples the model is analysed with.
        sizes: The sizes of all other named axes.
    """

    axes: Axes
    batch: int
    sizes: Sizes = field(default_factory=dict)

    def shape(self, spec: TensorSpec) -> Shape:
        """Return the shape of an input, with a number on each axis."""
        batch_axis = self.axes[spec.name]
        return tuple(
            dim if isinstance(dim, int) else self.batch if axis == batch_axis else self.sizes[dim]
            for axis, dim in enumerate(spec.shape)
        )


def claimed_axes(model: Model) -> dict[str, int]:
    """Return the batch axis of each input whose names say that it is not axis 0.

    In `x [batch, time, 8]` with the state `h [2, batch, 16]`, both inputs have one name in common, which `x` has in
    front: the batch of `h` is on axis 1. In `x [time, batch, 8]`, it is the axis with a name that people give a batch.
    """
    symbol = _batch_symbol(model)
    found = {}
    for spec in model.inputs:
        if symbol in spec.shape and spec.shape[0] != symbol:
            found[spec.name] = spec.shape.index(symbol)
    return found


def _batch_symbol(model: Model) -> str | None:
    """Return the name of the batch: what people call one, or else the name that most inputs have in front."""
    names = [dim for spec in model.inputs for dim in spec.shape if isinstance(dim, str)]
    usual = next((n for wanted in BATCH_NAMES for n in names if n.lower() == wanted), None)
    if usual is not None:
        return usual
    leading = [spec.shape[0] for spec in model.inputs if spec.shape and isinstance(spec.shape[0], str)]
    return max(leading, key=leading.count, default=None)


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
    """Yield sizes for named axes: each a different one, and each another one in every set."""
    for turn in range(len(GUESSES)):
        yield {name: GUESSES[turn] + 32 * GUESSES[turn] * k for k, name in enumerate(names)}


def unrelated_batch(model: Model, sizes: Sizes) -> int:
    """Return a batch that no number of the model is a multiple of, so that none is taken for the batch by mistake."""
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
    """Return the batches that the body may have been frozen at, the likeliest first.

    A number in place of the batch is certain. Otherwise the file was most likely exported with one sample. Then come
    the numbers in front of its outputs, and all others.
    """
    fixed = [spec.shape[axis] for spec in model.inputs if (axis := axes[spec.name]) is not None]
    numbers = [dim for dim in fixed if isinstance(dim, int)]
    if numbers:
        return [min(numbers)]  # others have several rows of each sample
    in_front = [spec.shape[0] for spec in model.outputs if spec.shape and isinstance(spec.shape[0], int)]
    return list(dict.fromkeys([1, *(dim for dim in in_front if dim in FROZEN), *FROZEN]))
