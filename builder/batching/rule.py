"""What a rule sees, and what it returns.

A rule is a function from an `Op`, one node that reads samples, to an `Answer`: a `Plan` for the node, a `Decomposition`
into other nodes, or `Known` outputs. It raises `Refusal` (through `op.refuse`) if the node would mix the samples.
"""

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
"""Writes nodes that read these inputs; returns the values that are the node's outputs."""

Input = TypeVar("Input")

ROUNDING = 4
"""The same sum may differ by this many units in the last place when it is added up in another order."""


class Refusal(Exception):  # noqa: N818 - an answer of a rule; the walk collects them for one ModelError
    """The batch cannot be carried through a node, and why."""


class Malformed(Refusal):
    """The node is wrong even without a batch: its inputs do not fit it."""


class Mixing(Refusal):
    """The node computes something of the elements along an axis, and the samples are on that axis."""


class SharedScale(Refusal):
    """The node quantizes the whole batch with one scale. With a scale for each row, the answers are as good."""


class SharedSteps(Refusal):
    """The node quantizes the whole batch with one scale in every step, for which there is no other form."""


class Random(Refusal):
    """The node draws random numbers, so no answer can be compared with another."""


class Undecided(Refusal):
    """The operator is unknown, so the node may or may not mix the samples."""


class DifferentRows(Refusal):
    """A constant has a row for each sample of the static batch, and the rows differ.

    Attributes:
        operand: The constant.
        rows: Its value, with an axis that holds nothing but the samples.
        axis: That axis.
    """

    def __init__(self, operand: "Operand", rows: Array, axis: int) -> None:
        count = rows.shape[axis]
        super().__init__(f"constant {operand.name!r} holds different values for the {count} samples of the batch")
        self.operand, self.rows, self.axis = operand, rows, axis


def given(inputs: Sequence[Input | None], index: int) -> Input | None:
    """Return an optional input; None where the node leaves it out."""
    return inputs[index] if index < len(inputs) else None


def required(inputs: Sequence[Input | None], index: int) -> Input:
    """Return an input that a node must have.

    Raises:
        Refusal: The node leaves it out.
    """
    found = given(inputs, index)
    if found is None:
        raise Refusal(f"input {index} is missing")
    return found


@dataclass(eq=False, slots=True)
class Operand:
    """A value of the original graph, and what holds it in the rewritten one.

    Attributes:
        name: Its name in the original.
        dtype: Its element type.
        shape: Its static shape, with the original's batch.
        batch: Where the samples are; None for a constant, which is the same for all samples (weights, tables, shapes).
        value: Its value in the rewritten graph; None for a constant that has not been needed there yet.
        origin: Where a constant comes from: a tensor, or a node.
        items: The members, if the value is a sequence.
        dropped_by: The node that dropped the batch's axis, when `batch` is Dropped.
        offset: By how much the original's value exceeds the rewritten one's, if it counts over the samples of the
            static batch (see `numbering`).
        only: The one sample of the static batch that the value holds, of all B of them (see `unrolled`). Its shape and
            its batch are then those of a graph with B = 1.
        computed: The value of a constant, once it has been evaluated.
        counts: Which elements of a constant depend on how many samples there are (see `counting`): none if it is None,
            all if it is empty.
        is_sized: Whether a constant depends on the size of a dynamic axis: `computed` holds for one size only.
        is_dequantized: Whether a constant comes from a quantized one. Its nodes stay as they are, because ONNX Runtime
            makes integer kernels of them, which it does not of the same numbers stored as floats.
    """

    name: str
    dtype: ir.DataType
    shape: Shape
    batch: Batch | None = None
    value: ir.Value | None = None
    origin: "ir.TensorProtocol | Array | Computed | Measured | None" = None
    items: "tuple[Operand, ...] | None" = None
    dropped_by: str | None = None
    offset: Array | None = field(default=None, repr=False)
    only: int | None = None
    computed: Array | None = field(default=None, repr=False)
    counts: tuple[int, ...] | None = None
    is_sized: bool = False
    is_dequantized: bool = False

    @classmethod
    def known(cls, array: Array, name: str) -> "Operand":
        """Return a constant whose value was computed here."""
        dtype = ir.DataType.STRING if array.dtype.kind in "OUS" else ir.DataType.from_numpy(array.dtype)
        return cls(name, dtype, array.shape, origin=array)

    @property
    def rank(self) -> int:
        """How many axes the static shape has."""
        return len(self.shape)

    @property
    def sample(self) -> Shape:
        """The shape of one sample's part; the whole shape of a constant."""
        return self.shape if self.batch is None else self.batch.sample_shape(self.shape)

    @property
    def written(self) -> ir.Value:
        """The value in the rewritten graph, which must exist by now."""
        if self.value is None:
            raise RuntimeError(f"{self.name!r} is not in the rewritten graph yet")
        return self.value


@dataclass(eq=False, slots=True)
class Computed:
    """An output of a node whose inputs are all constants."""

    node: ir.Node
    opset: int
    inputs: tuple[Operand | None, ...]
    index: int


@dataclass(eq=False, slots=True)
class Measured:
    """The shape of a value that holds samples, or a part of it, read at run time because an axis is dynamic.

    Attributes:
        operand: The value. On the axis of its batch, the size is the static model's.
        axes: The axes whose sizes are read.
        varying: Those of them that are dynamic.
    """

    operand: Operand
    axes: Sequence[int]
    varying: frozenset[int]


Wanted = Batch | View | Array | None
"""What a plan reads in place of an input (see `Plan.inputs`)."""


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """How a node is rewritten: what it reads, which attributes change, and where its outputs have the batch.

    Attributes:
        outputs: Where the batch of each output is. A View says that the operator gives the value in that shape; it is
            then reshaped to the view's batch. None means a constant.
        inputs: What the node reads in place of an input as it is: the input moved to a Batch (a constant is repeated
            for every sample), the input seen as a View, another constant, or nothing.
        attributes: Attributes to set; None removes one.
        build: Writes other nodes in place of this one; it is called with the inputs as `inputs` says.
        what: For the report: the baked-in constant, and what replaced it.
        offsets: By how much an output of the original exceeds the plan's, by its index, if it counts over the samples
            of the static batch (see `numbering`).
    """

    outputs: Sequence[Batch | View | None]
    inputs: Mapping[int, Wanted] = field(default_factory=dict)
    attributes: Mapping[str, Attribute | None] = field(default_factory=dict)
    build: Build | None = None
    what: str = ""
    offsets: Mapping[int, Array] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decomposition:
    """The same computation by other nodes, which are walked in the node's place.

    Attributes:
        nodes: In order; they read the node's input values, those in `given`, and each other's.
        outputs: The values that replace the node's outputs.
        given: The operands of values that are in no graph, such as the parameters of a function.
    """

    nodes: Sequence[ir.Node]
    outputs: Sequence[ir.Value]
    given: Mapping[ir.Value, Operand] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """The outputs are these constants, for any samples."""

    outputs: Sequence[Array]


Answer = Plan | Decomposition | Known
"""What a rule returns."""


@dataclass(frozen=True, slots=True, eq=False)
class Op:
    """One node as a rule sees it.

    Attributes:
        node: The node of the original graph.
        opset: The version of the operator set it belongs to.
        inputs: Its operands; None for an input that it leaves out.
        outputs: The static shapes of its outputs.
        static_batch: How many samples the original runs on at once.
        evaluate: Computes the value of a constant; None where it cannot be computed.
    """

    node: ir.Node
    opset: int
    inputs: Sequence[Operand | None]
    outputs: Sequence[Shape]
    static_batch: int
    evaluate: Callable[[Operand], Array | None]

    def attribute(self, name: str, default: Any = None) -> Any:
        """Return an attribute's value, or `default`."""
        attr = self.node.attributes.get(name)
        return default if attr is None else attr.value

    def operand(self, index: int) -> Operand:
        """Return a required input."""
        return required(self.inputs, index)

    def samples(self, index: int) -> tuple[Operand, Batch]:
        """Return a required input that holds samples, and where they are."""
        operand = self.operand(index)
        if operand.batch is None:
            self.refuse(f"input {index} ({operand.name!r}) does not depend on the samples")
        return operand, operand.batch

    def given(self, index: int) -> Operand | None:
        """Return an optional input; None where the node leaves it out."""
        return given(self.inputs, index)

    def value(self, index: int) -> ir.Value:
        """Return a required input as a value of the original graph, for the nodes of a decomposition to read."""
        return required(self.node.inputs, index)

    def constant(self, index: int) -> Array:
        """Return the value of a required input that must be a constant."""
        operand = self.operand(index)
        if operand.batch is not None:
            self.refuse(f"input {index} ({operand.name!r}) depends on the samples")
        array = self.evaluate(operand)
        if array is None:
            self.refuse(f"the value of input {index} ({operand.name!r}) cannot be computed")
        return array

    def constant_or_none(self, index: int) -> Array | None:
        """Return the value of an optional input that must be a constant; None where the node leaves it out."""
        return None if self.given(index) is None else self.constant(index)

    def shown(self, index: int) -> Array | None:
        """Return the value of an input for the report; None where it is not a constant or cannot be computed."""
        operand = self.given(index)
        return None if operand is None or operand.batch is not None else self.evaluate(operand)

    def batched(self) -> list[tuple[int, Operand, Batch]]:
        """Return the inputs that hold samples: their index, the operand and its batch."""
        return [(i, o, o.batch) for i, o in enumerate(self.inputs) if o is not None and o.batch is not None]

    def axis(self, default: int, rank: int, name: str = "axis") -> int:
        """Return an attribute that is an axis, counted from the front."""
        axis = int(self.attribute(name, default))
        return axis + rank if axis < 0 else axis

    def refuse(self, reason: str) -> NoReturn:
        """Say why the batch cannot be carried through this node."""
        raise Refusal(reason)


Rule = Callable[[Op], Answer]
"""Says how one node is rewritten; raises Refusal if it cannot be."""

Static = list[tuple[ir.DataType, Shape]]
"""Types and static shapes of a node's outputs."""

Infer = Callable[[ir.Node, Sequence[Operand | None]], Static]
"""Finds them for an operator for which ONNX does not infer them."""


def per_sample(op: Op, operand: Operand, axis: int, batch: Placed) -> Array:
    """Cut a constant that has rows for all B samples on `axis` to the rows of one sample.

    `[..., outer * B * inner, ...] -> [..., outer * inner, ...]`: with B = 3 and inner = 2, `[7, 8, 7, 8, 7, 8]` becomes
    `[7, 8]`. Floats may differ by rounding: an optimizer that computed the constant may have summed up the rows of one
    sample in another order than those of the next.

    Raises:
        DifferentRows: The rows differ from sample to sample.
        Refusal: It does not have a row for each sample, or cannot be computed.
    """
    array = op.evaluate(operand)
    if array is None:
        op.refuse(f"the value of constant {operand.name!r} cannot be computed")
    shape = (*array.shape[:axis], batch.outer, op.static_batch, batch.inner, *array.shape[axis + 1 :])
    if array.size != math.prod(shape):
        op.refuse(f"constant {operand.name!r} {list(array.shape)} does not have a row for each sample on axis {axis}")
    rows = array.reshape(shape)
    first = np.take(rows, 0, axis=axis + 1)
    repeated = np.broadcast_to(np.expand_dims(first, axis + 1), shape)
    if not _agree(rows, repeated):
        raise DifferentRows(operand, rows, axis + 1)
    cut: Array = first.reshape(*array.shape[:axis], batch.rows, *array.shape[axis + 1 :])
    return cut


def _agree(rows: Array, others: Array) -> bool:
    """Return whether two constants are equal, floats up to rounding."""
    if rows.dtype.kind != "f":
        return np.array_equal(rows, others, equal_nan=rows.dtype.kind == "c")
    with np.errstate(invalid="ignore"):
        are_close = np.abs(rows - others) <= ROUNDING * np.spacing(np.abs(others))
    return bool((are_close | (rows == others) | (np.isnan(rows) & np.isnan(others))).all())
