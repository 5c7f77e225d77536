"""Holding every answer against the reference, cheaply when it is right and thoroughly when it is wrong."""

from dataclasses import dataclass
from enum import Enum
from functools import cached_property

import numpy as np

from loadtest.checking.reference import Reference, Tensor, Tolerance
from loadtest.wire.tensors import DTYPES, FLOATS, Array, from_wire, to_wire, widen

_SEEN_LIMIT = 4
_SEEN_BYTES = 1 << 16


class Wrong(Enum):
    """How an answer is wrong."""

    ROWS_MIXED_UP = "rows_mixed_up"
    SHAPE_OR_TYPE = "shape_or_type"
    NAN = "nan"
    TOLERANCE = "tolerance"


@dataclass(frozen=True, slots=True)
class Slot:
    """Where in an answer's bytes one output lies, and what the server says it is."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """What the head of an answer says. Equal heads give the same object, so `is` compares layouts."""

    model: str
    version: str
    slots: tuple[Slot, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer as it came: `body` holds the outputs at the layout's slots."""

    layout: Layout
    body: bytes


@dataclass(frozen=True, slots=True)
class Fault:
    """Why an answer is wrong: the output, the row of the request (None for all) and the finding in words."""

    kind: Wrong
    output: str
    row: int | None
    what: str


class ExpectedOutput:
    """The right values of one output for one request: `[rows, *dims]`, or `[*shape]` without batching."""

    def __init__(self, tensor: Tensor, right: Array, tolerance: Tolerance) -> None:
        self.tensor = tensor
        self.right = right
        self._tolerance = tolerance
        self._seen: tuple[bytes, ...] = (to_wire(right, tensor.datatype),)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape the server must say."""
        return self.right.shape

    def matches(self, body: bytes, start: int, stop: int) -> bool:
        """Tell whether `body[start:stop]` is right: bits seen to be right before, or within the tolerance."""
        if body.startswith(self._seen, start):
            return len(self._seen[0]) == stop - start
        if self.tensor.datatype not in FLOATS or not self._within(body, start, stop):
            return False
        if len(self._seen) < _SEEN_LIMIT and stop - start <= _SEEN_BYTES:
            self._seen += (body[start:stop],)
        return True

    def _within(self, body: bytes, start: int, stop: int) -> bool:
        dtype = DTYPES[self.tensor.datatype]
        if stop - start != self.right.size * dtype.itemsize:
            return False
        values = widen(np.frombuffer(body, dtype, self.right.size, start), self.tensor.datatype)
        return bool(self.is_right(values.reshape(self.right.shape)).all())

    def is_right(self, values: Array) -> Array:
        """Tell for each value whether it is within `atol + rtol * |reference|`; NaN only answers NaN."""
        low, high, nan = self._bounds
        within = (values >= low) & (values <= high)
        return within if nan is None else within | (nan & np.isnan(values))

    @cached_property
    def _bounds(self) -> tuple[Array, Array, Array | None]:
        right = widen(self.right, self.tensor.datatype).astype(np.float64)
        margin = self._tolerance.atol + self._tolerance.rtol * np.abs(right)
        margin[~np.isfinite(right)] = 0
        nan = np.isnan(right)
        return right - margin, right + margin, nan if nan.any() else None


class Expected:
    """The right answer to one request from one version."""

    def __init__(self, reference: Reference, group: tuple[int, ...]) -> None:
        self.reference = reference
        self.group = group
        self.outputs = {
            tensor.name: ExpectedOutput(
                tensor,
                take_rows(reference.answers[tensor.name], group, reference.max_batch_size),
                reference.tolerances.get(tensor.name, Tolerance()),
            )
            for tensor in reference.outputs
        }
        self._layout: Layout | None = None
        self._plan: tuple[tuple[ExpectedOutput, int, int], ...] = ()

    def is_right(self, answer: Answer) -> bool:
        """Tell whether every output of `answer` is right."""
        if answer.layout is not self._layout and not self._learn(answer.layout):
            return False
        body = answer.body
        return all(output.matches(body, start, stop) for output, start, stop in self._plan)

    def _learn(self, layout: Layout) -> bool:
        if self._misfit(layout) is not None:
            return False
        self._layout = layout
        self._plan = tuple((self.outputs[slot.name], slot.start, slot.stop) for slot in layout.slots)
        return True

    def _misfit(self, layout: Layout) -> Fault | None:
        slots = {slot.name: slot for slot in layout.slots}
        for name, output in self.outputs.items():
            slot = slots.get(name)
            if slot is None:
                return Fault(Wrong.SHAPE_OR_TYPE, name, None, "the output is missing")
            if (slot.datatype, slot.shape) != (output.tensor.datatype, output.shape):
                what = f"{slot.datatype}{list(slot.shape)} came for {output.tensor.datatype}{list(output.shape)}"
                return Fault(Wrong.SHAPE_OR_TYPE, name, None, what)
        extra = slots.keys() - self.outputs.keys()
        if extra or len(slots) != len(layout.slots):
            return Fault(Wrong.SHAPE_OR_TYPE, ", ".join(sorted(extra)), None, "the output was not asked for")
        return None

    def fault(self, answer: Answer) -> Fault:
        """Say why an answer that is not right is wrong."""
        misfit = self._misfit(answer.layout)
        if misfit is not None:
            return misfit
        faults = [
            fault
            for slot in answer.layout.slots
            if (fault := self._output_fault(self.outputs[slot.name], answer.body[slot.start : slot.stop]))
        ]
        return faults[0]

    def _output_fault(self, output: ExpectedOutput, data: bytes) -> Fault | None:
        name, datatype = output.tensor.name, output.tensor.datatype
        try:
            came = from_wire(data, datatype, output.shape)
        except ValueError:
            what = f"{len(data)} bytes came for {datatype}{list(output.shape)}"
            return Fault(Wrong.SHAPE_OR_TYPE, name, None, what)
        if datatype in FLOATS:
            came = widen(came, datatype)
            right = output.is_right(came)
        else:
            right = np.asarray(came == output.right)
        if right.all():
            return None
        return self._value_fault(output, came, right)

    def _value_fault(self, output: ExpectedOutput, came: Array, right: Array) -> Fault:
        name = output.tensor.name
        place = tuple(int(axis[0]) for axis in np.nonzero(~right)) if right.ndim else ()
        row = place[0] if self.reference.max_batch_size and place else None
        if self._is_another_row(output, came, 0 if row is None else row):
            return Fault(Wrong.ROWS_MIXED_UP, name, row, "the answer is another row's")
        if output.tensor.datatype in FLOATS and np.isnan(came[~right]).any():
            return Fault(Wrong.NAN, name, row, "NaN came where the reference has a number")
        at = f"at {list(place)}, {came[place]!s} came for {output.right[place]!s}"
        return Fault(Wrong.TOLERANCE, name, row, f"{at}; {int((~right).sum())} of {right.size} values are off")

    def _is_another_row(self, output: ExpectedOutput, came: Array, row: int) -> bool:
        """Tell whether what came for `row` is right for some other row of the reference, whose answer differs."""
        name, datatype = output.tensor.name, output.tensor.datatype
        answers = self.reference.answers[name]
        mine = came[row] if self.reference.max_batch_size else came
        if mine.shape != answers.shape[1:]:
            return False
        if datatype in FLOATS:
            everyone = ExpectedOutput(output.tensor, answers, self.reference.tolerances.get(name, Tolerance()))
            same = everyone.is_right(mine)
        else:
            same = np.asarray(answers == mine)
        rows = same.reshape(len(answers), -1).all(axis=1)
        rows[self.group[row]] = False
        return bool(rows.any())


def take_rows(array: Array, group: tuple[int, ...], max_batch_size: int) -> Array:
    """The group's rows as one request carries them: `[len(group), *dims]`, or the one row itself."""
    return array[list(group)] if max_batch_size else array[group[0]]
