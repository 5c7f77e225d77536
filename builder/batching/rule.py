"""What a rule sees and what it answers."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

import numpy as np
import onnx_ir as ir

from builder.batching.emit import Attribute, Emitter
from builder.batching.layout import Batch, Placed, Shape, View
from builder.tensors import Array

Build = Callable[[Emitter, Sequence[ir.Value | None]], Sequence[ir.Value]]

Input = TypeVar("Input")


class Refusal(Exception):  # noqa: N818 - an answer of a rule, turned into a ModelError by the walk
    """The batch cannot be carried through a node, and why."""


class Malformed(Refusal):
    """The node itself is wrong, batch or no batch."""


class DifferentRows(Refusal):
    """A constant spells out the batch and holds other values for other samples.

    Attributes:
        operand: The constant.
        rows: Its value with the samples on an axis of their own.
        axis: That axis.
    """

    def __init__(self, operand: "Operand", rows: Array, axis: int) -> None:
        count = rows.shape[axis]
        super().__init__(f"constant {operand.name!r} holds other values for other samples of the batch of {count}")
        self.operand, self.rows, self.axis = operand, rows, axis


def given(inputs: Sequence[Input | None], index: int) -> Input | None:
    """An optional input, or None where the node leaves it out."""
    return inputs[index] if index < len(inputs) else None


def required(inputs: Sequence[Input | None], index: int) -> Input:
    """An input that a node must have.

    Raises:
        Refusal: The node leaves it out.
    """
    found = given(inputs, index)
    if found is None:
        raise Refusal(f"input {index} is missing")
    return found


@dataclass(eq=False, slots=True)
class Operand:
    """A value of the original graph, and where the rewritten graph holds it.

    Attributes:
        name: In the original.
        dtype: Element type.
        shape: The static shape; the original's batch included.
        batch: Where the samples are; None for what is the same whatever the samples (weights, tables, shapes).
        value: In the rewritten graph; None while nothing needed it there.
        origin: How to compute an unbatched operand: a tensor, or a node's output.
        items: The members, when the value is a sequence.
        dropped_by: The node that dropped the batch's axis, when `batch` is Dropped.
        offset: What the original's value is more than the rewritten one's, where it counts over the samples of the
            static batch (see numbering).
        computed: The value of a constant, once it was evaluated.
    """

    name: str
    dtype: ir.DataType
    shape: Shape
    batch: Batch | None = None
    value: ir.Value | None = None
    origin: "ir.TensorProtocol | Array | Computed | None" = None
    items: "tuple[Operand, ...] | None" = None
    dropped_by: str | None = None
    offset: Array | None = field(default=None, repr=False)
    computed: Array | None = field(default=None, repr=False)

    @classmethod
    def known(cls, array: Array, name: str) -> "Operand":
        """Return a constant whose value was computed here."""
        dtype = ir.DataType.STRING if array.dtype.kind in "OUS" else ir.DataType.from_numpy(array.dtype)
        return cls(name, dtype, array.shape, origin=array)

    @property
    def rank(self) -> int:
        """Axes of the static shape."""
        return len(self.shape)

    @property
    def sample(self) -> Shape:
        """The shape of one sample's part; the whole shape when unbatched."""
        return self.shape if self.batch is None else self.batch.sample_shape(self.shape)

    @property
    def written(self) -> ir.Value:
        """The value in the rewritten graph, once it is there."""
        if self.value is None:
            raise RuntimeError(f"{self.name!r} is not in the rewritten graph yet")
        return self.value


@dataclass(eq=False, slots=True)
class Computed:
    """An output of a node whose inputs are all unbatched."""

    node: ir.Node
    opset: int
    inputs: tuple[Operand | None, ...]
    index: int


Wanted = Batch | View | Array | None


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """How a node is carried over.

    Attributes:
        outputs: For each output, where the batch is. A View says that the operator gives the value in that shape, from
            which it is reshaped to the view's batch.
        inputs: What to feed instead of an input as it stands: the input moved to a Batch (an unbatched one is repeated
            per sample), seen as a View, another constant, or nothing.
        attributes: Attributes to set; None removes one.
        build: Nodes to put in place of this one; called with the inputs as prepared.
        what: For the report: the baked constant and what stands there now.
    """

    outputs: Sequence[Batch | View | None]
    inputs: Mapping[int, Wanted] = field(default_factory=dict)
    attributes: Mapping[str, Attribute | None] = field(default_factory=dict)
    build: Build | None = None
    what: str = ""


@dataclass(frozen=True, slots=True)
class Decomposition:
    """The same computation as nodes the walk has rules for; they are walked in the node's place.

    Attributes:
        nodes: In order; they read the node's input values, those in `given`, and each other's.
        outputs: The values that stand for the node's outputs.
        given: The operands of values that are in no graph, such as the parameters of a function.
    """

    nodes: Sequence[ir.Node]
    outputs: Sequence[ir.Value]
    given: Mapping[ir.Value, Operand] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """The outputs are these constants, whatever the samples."""

    outputs: Sequence[Array]


Answer = Plan | Decomposition | Known


@dataclass(frozen=True, slots=True, eq=False)
class Op:
    """One node as a rule sees it."""

    node: ir.Node
    opset: int
    inputs: Sequence[Operand | None]
    outputs: Sequence[Shape]
    static_batch: int
    evaluate: Callable[[Operand], Array | None]

    def attribute(self, name: str, default: Any = None) -> Any:
        """The attribute's value, or `default`."""
        attr = self.node.attributes.get(name)
        return default if attr is None else attr.value

    def operand(self, index: int) -> Operand:
        """A required input."""
        return required(self.inputs, index)

    def samples(self, index: int) -> tuple[Operand, Batch]:
        """A required input that holds samples, and where they are."""
        operand = self.operand(index)
        if operand.batch is None:
            self.refuse(f"input {index} ({operand.name!r}) does not depend on the samples")
        return operand, operand.batch

    def given(self, index: int) -> Operand | None:
        """An optional input, or None where the node leaves it out."""
        return given(self.inputs, index)

    def value(self, index: int) -> ir.Value:
        """A required input as the value of the original graph, for nodes that stand in this one's place."""
        return required(self.node.inputs, index)

    def constant(self, index: int) -> Array:
        """The value of a required input that must not depend on the samples."""
        operand = self.operand(index)
        if operand.batch is not None:
            self.refuse(f"input {index} ({operand.name!r}) is computed from the samples")
        array = self.evaluate(operand)
        if array is None:
            self.refuse(f"the value of input {index} ({operand.name!r}) cannot be computed")
        return array

    def constant_or_none(self, index: int) -> Array | None:
        """The value of an optional input that must not depend on the samples, or None where the node leaves it out."""
        return None if self.given(index) is None else self.constant(index)

    def shown(self, index: int) -> Array | None:
        """The value of an input where it is known, for the report alone."""
        operand = self.given(index)
        return None if operand is None or operand.batch is not None else self.evaluate(operand)

    def batched(self) -> list[tuple[int, Operand, Batch]]:
        """The inputs that hold samples."""
        return [(i, o, o.batch) for i, o in enumerate(self.inputs) if o is not None and o.batch is not None]

    def axis(self, default: int, rank: int, name: str = "axis") -> int:
        """An axis attribute, counted from the front."""
        axis = int(self.attribute(name, default))
        return axis + rank if axis < 0 else axis

    def refuse(self, reason: str) -> NoReturn:
        """Say why the batch cannot be carried."""
        raise Refusal(reason)


Rule = Callable[[Op], Answer]

Static = list[tuple[ir.DataType, Shape]]
"""Types and static shapes of a node's outputs."""

Infer = Callable[[ir.Node, Sequence[Operand | None]], Static]


def per_sample(op: Op, operand: Operand, axis: int, batch: Placed) -> Array:
    """An unbatched operand that spells out all B samples on `axis`, cut to the rows of one.

    `[..., outer * B * inner, ...] -> [..., outer * inner, ...]`

    Raises:
        DifferentRows: It holds different values for different samples.
        Refusal: It has no row for every sample, or is too large.
    """
    array = op.evaluate(operand)
    if array is None:
        op.refuse(f"the value of constant {operand.name!r} cannot be computed")
    shape = (*array.shape[:axis], batch.outer, op.static_batch, batch.inner, *array.shape[axis + 1 :])
    if array.size != math.prod(shape):
        op.refuse(f"constant {operand.name!r} {list(array.shape)} has no row for every sample on axis {axis}")
    rows = array.reshape(shape)
    first = np.take(rows, 0, axis=axis + 1)
    if not np.array_equal(
        rows, np.broadcast_to(np.expand_dims(first, axis + 1), shape), equal_nan=rows.dtype.kind in "fc"
    ):
        raise DifferentRows(operand, rows, axis + 1)
    cut: Array = first.reshape(*array.shape[:axis], batch.rows, *array.shape[axis + 1 :])
    return cut
