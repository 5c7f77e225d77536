"""The rows that a load test sends to a model: the samples of its reference, those of a file, or random ones."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from loadtest.checking.input_data import Entry, Signature
from loadtest.checking.reference import Reference, Tolerance
from loadtest.checking.view import View
from loadtest.errors import SettingsError
from loadtest.wire import DTYPES, FLOATS, Array, Parameters, TensorSpec, widen

_DRAWN_ROWS = 32
_DRAWN_BYTES = 64 << 20
_TEXT_BYTES = 16
_ROW_BYTES = 1 << 31
"""A gRPC message cannot be larger."""

_PRECISION = {"FP16": (1e-2, 1e-2), "BF16": (2e-2, 2e-2)}
"""Of types that are rounded more than FP32: the part of each value, and of the largest one, that an answer may differ
by. Eleven and eight bits of precision make one rounding up to 5e-4 and 4e-3 of a value, and a few of them add up."""

_MEDIAN_PART = 1e-2


@dataclass(frozen=True, slots=True)
class Samples:
    """Rows to send to a model.

    Attributes:
        model: The model's name.
        version: The version to ask for; empty lets the server choose.
        max_batch_size: 0 means that the model takes no batches: a row is a whole request.
        inputs: The tensors, in the order they are sent.
        outputs: The names of the outputs to ask for.
        arrays: Per input, `[rows, *dims]`.
        reference: The right answers to the rows, None if there are none.
        binary: Whether the server takes tensors as raw bytes over HTTP. A server without that extension gets JSON.
        parameters: What every request carries beside its tensors.
        weight: The share of these rows among all that is sent, compared with the weights of other samples.
        view: What the server shows of the model; None if it does not say.
        left_out: The outputs with a right answer that the server does not give, so that nothing checks them.
    """

    model: str
    version: str
    max_batch_size: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...]
    arrays: Mapping[str, Array]
    reference: Reference | None
    binary: bool = True
    parameters: Parameters = field(default_factory=dict)
    weight: float = 1.0
    view: View | None = None
    left_out: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.arrays[self.inputs[0].name])

    def with_reference(self, reference: Reference) -> "Samples":
        """Return the samples of another version's reference, to be sent in place of these."""
        made = from_reference(reference, self.version)
        return replace(
            made,
            binary=self.binary,
            parameters=self.parameters,
            weight=self.weight,
            view=self.view,
            left_out=self.left_out,
        )


def from_reference(reference: Reference, version: str) -> Samples:
    """Return the samples of a reference, to be sent to `version` (empty: the server's choice)."""
    return Samples(
        model=reference.model,
        version=version,
        max_batch_size=reference.max_batch_size,
        inputs=reference.inputs,
        outputs=tuple(spec.name for spec in reference.outputs),
        arrays=reference.samples,
        reference=reference,
    )


def draw(
    model: str, version: str, *, max_batch_size: int, signature: Signature, seed: int = 0, zero: bool = False
) -> Samples:
    """Draw random rows, or take zeros, for a model without a reference; random integers are 0 or 1.

    Raises:
        SettingsError: The model's metadata leaves a shape open that was not given, or a row is too large.
    """
    rng = np.random.default_rng(seed)
    shapes = {spec.name: _closed(spec, signature.dims(spec)) for spec in signature.inputs}
    count = _count_rows(signature.inputs, shapes)
    arrays = {
        spec.name: _zeros(spec.datatype, (1, *shapes[spec.name]))
        if zero
        else _draw(rng, spec.datatype, (count, *shapes[spec.name]))
        for spec in signature.inputs
    }
    outputs = tuple(spec.name for spec in signature.outputs)
    return Samples(model, version, max_batch_size, signature.inputs, outputs, arrays, None)


def _closed(spec: TensorSpec, dims: tuple[int, ...]) -> tuple[int, ...]:
    if -1 not in dims:
        return dims
    shown = ",".join("N" if dim == -1 else str(dim) for dim in dims)
    example = f"--shape {spec.name}:{shown.replace('N', '64')}"
    fix = f"give the sizes that your clients send, as in {example}, or a file with --input-data"
    raise SettingsError("--shape", f"the dims of input {spec.name} are [{shown}], with any size for N", fix)


def _count_rows(inputs: Sequence[TensorSpec], shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Return how many rows to draw: 32, or fewer if they are large, but at least one."""
    row_bytes = sum(
        math.prod(shapes[spec.name]) * (_TEXT_BYTES if spec.datatype == "BYTES" else DTYPES[spec.datatype].itemsize)
        for spec in inputs
    )
    if row_bytes > _ROW_BYTES:
        what = f"a row of inputs takes {row_bytes / 1e9:.1f} GB, more than a request can carry"
        raise SettingsError("--shape", what, "give smaller sizes")
    return max(1, min(_DRAWN_ROWS, _DRAWN_BYTES // max(row_bytes, 1)))


def _zeros(datatype: str, shape: tuple[int, ...]) -> Array:
    return np.full(shape, "") if datatype == "BYTES" else np.zeros(shape, DTYPES[datatype])


def _draw(rng: np.random.Generator, datatype: str, shape: tuple[int, ...]) -> Array:
    if datatype == "BYTES":
        return rng.integers(0, 1000, shape).astype(np.str_)
    if datatype == "BF16":
        return (rng.standard_normal(shape, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    if datatype in FLOATS:
        return rng.standard_normal(shape).astype(DTYPES[datatype])
    return rng.integers(0, 2, shape).astype(DTYPES[datatype])


def from_entries(
    model: str, version: str, *, max_batch_size: int, entries: Sequence[Entry], tolerance: Tolerance | None
) -> tuple[list[Samples], list[tuple[int, int]]]:
    """Return the rows of a file as samples, one for each combination of shapes, and where each row went.

    Three rows with shapes [4], [6] and [4] make two `Samples`, the first with two rows. The places are then
    (0, 0), (1, 0) and (0, 1).

    The tolerance is that of floats in right answers; None takes one that fits their type.
    """
    groups: dict[object, list[Entry]] = {}
    places = []
    for entry in entries:
        group = groups.setdefault(_shapes(entry), [])
        places.append((_shapes(entry), len(group)))
        group.append(entry)
    numbers = {key: number for number, key in enumerate(groups)}
    made = [_stack(model, version, max_batch_size, group, tolerance) for group in groups.values()]
    return made, [(numbers[key], row) for key, row in places]


def _shapes(entry: Entry) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((name, array.shape) for name, (_, array) in (*entry.inputs.items(), *entry.outputs.items()))


def _stack(
    model: str, version: str, max_batch_size: int, entries: Sequence[Entry], tolerance: Tolerance | None
) -> Samples:
    first = entries[0]
    inputs, outputs = (tuple(spec for spec, _ in side.values()) for side in (first.inputs, first.outputs))
    arrays = {name: np.stack([entry.inputs[name][1] for entry in entries]) for name in first.inputs}
    answers = {name: np.stack([entry.outputs[name][1] for entry in entries]) for name in first.outputs}
    reference = Reference(
        model=model,
        version=None,
        max_batch_size=max_batch_size,
        inputs=inputs,
        outputs=outputs,
        samples=arrays,
        answers=answers,
        tolerances={
            spec.name: tolerance or _tolerance(spec.datatype, answers[spec.name])
            for spec in outputs
            if spec.datatype in FLOATS
        },
    )
    names = tuple(spec.name for spec in outputs)
    return Samples(model, version, max_batch_size, inputs, names, arrays, reference if names else None)


def _tolerance(datatype: str, answers: Array) -> Tolerance:
    """Return how far floats may be off: a part of each value, plus a part of the largest one.

    FP32 answers whose largest value is 20 may differ by 1e-4 of each value, plus 1e-5 * 20 = 2e-4. A few values may be
    far above all others, such as the -1e9 that stands for "not allowed". A part of that would hide every error, so the
    second number is at most a hundredth of the median: of 0.5, 2, 3 and -1e9, that is 0.02 rather than 10,000. Zeros
    are left out, equal values count once, and of two in the middle the lower one is the median.
    """
    rtol, part = _PRECISION.get(datatype, (1e-4, 1e-5))
    values = widen(answers, datatype)
    sizes = np.unique(np.abs(values[np.isfinite(values) & (values != 0)].astype(np.float64)))
    if not sizes.size:
        return Tolerance(rtol, part)
    return Tolerance(rtol, min(part * float(sizes[-1]), max(part, _MEDIAN_PART) * float(sizes[(sizes.size - 1) // 2])))
