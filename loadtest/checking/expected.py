"""The right answer to each request. Recognizing a right answer is cheap; a wrong one is examined in detail."""

from dataclasses import dataclass
from enum import Enum
from functools import cached_property

import numpy as np

from loadtest.checking.reference import Reference, Tolerance
from loadtest.printable import counted, was
from loadtest.wire import DTYPES, FLOATS, Answer, Array, Layout, Slot, TensorSpec, from_wire, to_wire, widen

_SEEN_LIMIT = 4
_SEEN_BYTES = 1 << 16


class Wrong(Enum):
    """The way in which an answer is wrong."""

    WRONG_MODEL = "wrong_model"
    WRONG_VERSION = "wrong_version"
    ROWS_MIXED_UP = "rows_mixed_up"
    SHAPE_OR_TYPE = "shape_or_type"
    UNREADABLE = "unreadable"
    NAN = "nan"
    TOLERANCE = "tolerance"
    CHECK_FAILED = "check_failed"


@dataclass(frozen=True, slots=True)
class Fault:
    """Why an answer is wrong: in which way, in which output and row of the request, and what was found.

    Attributes:
        kind: In which way.
        output: In which output; empty if it is not about one of them.
        row: In which row of the request; None if it is about all of them.
        what: What was found.
    """

    kind: Wrong
    output: str
    row: int | None
    what: str

    def __str__(self) -> str:
        return f"{self.output}: {self.what}" if self.output else self.what


def find_mismatch(model: str, version: str, layout: Layout) -> Fault | None:
    """Say which other model or version an answer names than the one that was asked for.

    Args:
        model: The model that was asked for.
        version: The version that was asked for; empty if it was the server's choice.
        layout: What the answer says about itself. It need not name a version, and over gRPC not even a model.
    """
    if layout.model not in ("", model):
        return Fault(Wrong.WRONG_MODEL, "", None, f"model {model} was asked for, but {layout.model} answered")
    if version and layout.version not in ("", version):
        return Fault(Wrong.WRONG_VERSION, "", None, f"version {version} was asked for, but {layout.version} answered")
    return None


class ExpectedOutput:
    """The right values of one output for one request: `[rows, *dims]`, or `[*dims]` for a model without batching."""

    def __init__(self, spec: TensorSpec, right: Array, tolerance: Tolerance) -> None:
        self.spec = spec
        self.right = right
        self._tolerance = tolerance
        self._seen: tuple[bytes, ...] = (to_wire(right, spec.datatype),)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape the server must give."""
        return self.right.shape

    def matches(self, body: bytes, start: int, stop: int) -> bool:
        """Return whether `body[start:stop]` is right: bytes that were right before, or values within the tolerance."""
        if body.startswith(self._seen, start):
            return len(self._seen[0]) == stop - start
        if self.spec.datatype not in FLOATS or not self._within(body, start, stop):
            return False
        if len(self._seen) < _SEEN_LIMIT and stop - start <= _SEEN_BYTES:
            self._seen += (body[start:stop],)
        return True

    def _within(self, body: bytes, start: int, stop: int) -> bool:
        dtype = DTYPES[self.spec.datatype]
        if stop - start != self.right.size * dtype.itemsize:
            return False
        values = widen(np.frombuffer(body, dtype, self.right.size, start), self.spec.datatype)
        return bool(self.is_right(values.reshape(self.right.shape)).all())

    def is_right(self, values: Array) -> Array:
        """Return for each value whether it is within `atol + rtol * |reference|`.

        With rtol 0.001 and atol 0.01, a reference of 20 allows 0.001 * 20 + 0.01 = 0.03, so 19.97 to 20.03 is right.
        An infinity must be the same infinity, and NaN is right only where the reference is NaN.
        """
        low, high, nan = self._bounds
        within = (values >= low) & (values <= high)
        return within if nan is None else within | (nan & np.isnan(values))

    @cached_property
    def _bounds(self) -> tuple[Array, Array, Array | None]:
        """The lowest and the highest right value, and where the reference is NaN; None if it never is."""
        right = widen(self.right, self.spec.datatype).astype(np.float64)
        margin = np.where(np.isfinite(right), self._tolerance.atol + self._tolerance.rtol * np.abs(right), 0)
        nan = np.isnan(right)
        return right - margin, right + margin, nan if nan.any() else None


class Expected:
    """The right answer of one version to one request.

    Args:
        reference: The version's reference.
        group: The rows of the reference that the request carries.
        asked: The version that the request asks for; empty for the server's choice.
    """

    def __init__(self, reference: Reference, group: tuple[int, ...], asked: str = "") -> None:
        self.reference = reference
        self.group = group
        self._asked = asked
        self.outputs = {
            spec.name: ExpectedOutput(
                spec,
                take_rows(reference.answers[spec.name], group, reference.max_batch_size),
                reference.tolerances.get(spec.name, Tolerance()),
            )
            for spec in reference.outputs
        }
        self._layout: Layout | None = None
        self._plan: tuple[tuple[ExpectedOutput, int, int], ...] = ()

    def is_right(self, answer: Answer) -> bool:
        """Return whether every output of `answer` is right."""
        if answer.layout is not self._layout and not self._learn(answer.layout):
            return False
        body = answer.body
        for output, start, stop in self._plan:  # noqa: SIM110 - `all` with a generator takes twice as long
            if not output.matches(body, start, stop):
                return False
        return True

    def _learn(self, layout: Layout) -> bool:
        """Record which bytes to compare in answers with this layout; return False if the layout itself is wrong."""
        if self._layout_fault(layout) is not None:
            return False
        self._layout = layout
        self._plan = tuple((self.outputs[slot.name], slot.start, slot.stop) for slot in layout.slots)
        return True

    def _layout_fault(self, layout: Layout) -> Fault | None:
        mismatch = find_mismatch(self.reference.model, self._asked, layout)
        if mismatch is not None:
            return mismatch
        slots = {slot.name: slot for slot in layout.slots}
        for name, output in self.outputs.items():
            slot = slots.get(name)
            if slot is None:
                return Fault(Wrong.SHAPE_OR_TYPE, name, None, "the output is missing")
            if (slot.datatype, slot.shape) != (output.spec.datatype, output.shape):
                what = f"expected {output.spec.datatype}{list(output.shape)}, got {slot.datatype}{list(slot.shape)}"
                return Fault(Wrong.SHAPE_OR_TYPE, name, None, what)
            if slot.unreadable:
                return Fault(Wrong.UNREADABLE, name, None, slot.unreadable)
        extra = slots.keys() - self.outputs.keys()
        if extra or len(slots) != len(layout.slots):
            return Fault(Wrong.SHAPE_OR_TYPE, ", ".join(sorted(extra)), None, "the output was not asked for")
        return None

    def find_fault(self, answer: Answer) -> Fault:
        """Say why an answer that is not right is wrong.

        Raises:
            ValueError: It is right.
        """
        fault = self._layout_fault(answer.layout)
        if fault is not None:
            return fault
        body = answer.body
        for slot in answer.layout.slots:
            output = self.outputs[slot.name]
            if not output.matches(body, slot.start, slot.stop):
                return self._output_fault(output, answer, slot)
        raise ValueError("the answer is right")

    def _output_fault(self, output: ExpectedOutput, answer: Answer, slot: Slot) -> Fault:
        name, datatype = output.spec.name, output.spec.datatype
        try:
            got = _read(answer, slot)
        except ValueError as error:
            size = counted(slot.stop - slot.start, "byte")
            what = f"{size} cannot be read as {datatype}{list(output.shape)}: {error}"
            return Fault(Wrong.UNREADABLE, name, None, what)
        right = output.is_right(got) if datatype in FLOATS else np.asarray(got == output.right)
        return self._value_fault(output, answer, got, right)

    def _value_fault(self, output: ExpectedOutput, answer: Answer, got: Array, right: Array) -> Fault:
        """Say what is wrong with the values `got` of an output, at least one of which is not `right`."""
        name = output.spec.name
        place = tuple(int(axis[0]) for axis in np.nonzero(~right)) if right.ndim else ()
        row = place[0] if self.reference.max_batch_size and place else None
        if self._belongs_to_another_row(output, answer, got, 0 if row is None else row):
            return Fault(Wrong.ROWS_MIXED_UP, name, row, "this is the right answer to another row")
        if output.spec.datatype in FLOATS and np.isnan(got[~right]).any():
            return Fault(Wrong.NAN, name, row, "NaN where the reference has a number")
        expected = widen(output.right, output.spec.datatype)[place]
        values = f"expected {expected!s} at {list(place)}, got {got[place]!s}"
        wrong = int((~right).sum())
        what = f"{values}; {wrong:,} of {counted(right.size, 'value')} {was(wrong)} wrong"
        return Fault(Wrong.TOLERANCE, name, row, what)

    def _belongs_to_another_row(self, output: ExpectedOutput, answer: Answer, got: Array, row: int) -> bool:
        """Return whether the answer to `row` is the right answer to another row of the reference.

        If several rows have what this output holds, such as the number of a class, that says little: the row's other
        outputs must then be those of one of these rows as well.
        """
        rows = self._find_rows(output, got, row)
        for slot in answer.layout.slots if rows.sum() > 1 else ():
            if slot.name != output.spec.name:
                try:
                    rows &= self._find_rows(self.outputs[slot.name], _read(answer, slot), row)
                except ValueError:
                    return False
        return bool(rows.any())

    def _find_rows(self, output: ExpectedOutput, got: Array, row: int) -> Array:
        """Return for each row of the reference, except its own, whether `got` is the right answer to it at `row`."""
        name, datatype = output.spec.name, output.spec.datatype
        answers = self.reference.answers[name]
        mine = got[row] if self.reference.max_batch_size else got
        if mine.shape != answers.shape[1:]:
            return np.zeros(len(answers), np.bool_)
        if datatype in FLOATS:
            all_rows = ExpectedOutput(output.spec, answers, self.reference.tolerances.get(name, Tolerance()))
            same = all_rows.is_right(mine)
        else:
            same = np.asarray(answers == mine)
        rows: Array = same.reshape(len(answers), -1).all(axis=1)
        rows[self.group[row]] = False
        return rows


def _read(answer: Answer, slot: Slot) -> Array:
    """Return the values of an output; a ValueError says why there are none."""
    return widen(from_wire(answer.body[slot.start : slot.stop], slot.datatype, slot.shape), slot.datatype)


def take_rows(array: Array, group: tuple[int, ...], max_batch_size: int) -> Array:
    """Return the rows of `group` as a request carries them: `[len(group), *dims]`, or without batching the row."""
    return array[list(group)] if max_batch_size else array[group[0], ...]
