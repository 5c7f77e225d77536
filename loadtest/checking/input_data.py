"""Read what to send from a file: perf_analyzer's JSON, or an archive of arrays.

Source: https://github.com/triton-inference-server/perf_analyzer/blob/main/docs/input_data.md
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from loadtest.checking.archives import read_arrays
from loadtest.checking.json_tensors import as_text, read_tensor
from loadtest.errors import SettingsError, reason
from loadtest.files import read_json
from loadtest.wire import DTYPES, Array, TensorSpec

_EXAMPLE = '{"data": [{"INPUT": [1, 2, 3]}]}'
_LISTED = 8
_INPUT, _OUTPUT = "input:", "output:"
_SAVE = "save one array for each input, as in numpy.savez('inputs.npz', INPUT=rows)"

Tensors: TypeAlias = Mapping[str, tuple[TensorSpec, Array]]
"""Tensors of one row by their names, each with its description."""


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model takes and gives.

    Attributes:
        inputs: The tensors it takes; empty if the server does not say.
        outputs: The tensors it gives; empty if the server does not say.
        shapes: Shapes that the user gave for inputs whose dims are of any size.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def dims(self, spec: TensorSpec) -> tuple[int, ...]:
        """Return the shape that was given for a tensor, or else the dims that the server says."""
        return self.shapes.get(spec.name, spec.dims)


@dataclass(frozen=True, slots=True)
class Entry:
    """One row to send, and the right answer to it; the answer is empty if the file has none.

    Attributes:
        inputs: What is sent.
        outputs: What is right.
    """

    inputs: Tensors
    outputs: Tensors


@dataclass(frozen=True, slots=True)
class InputData:
    """What a file says.

    Attributes:
        streams: The rows in the order of the file. In a JSON file with a list of lists, each list is a stream, which
            is a sequence to a stateful model. Otherwise all rows are one stream.
        has_streams: Whether the file has a list of lists.
        is_batch: Whether the rows may be sent together in one request even if the server does not say so.
    """

    streams: tuple[tuple[Entry, ...], ...]
    has_streams: bool
    is_batch: bool


def read_input_data(path: Path, signature: Signature) -> InputData:
    """Read rows to send from a `.json` or `.npz` file.

    Raises:
        SettingsError: The file cannot be read, or does not fit the model.
    """
    if path.suffix == ".npz":
        return _read_archive(path, signature)
    if path.suffix == ".json":
        return _read_document(path, signature)
    what = f"{path.name} is neither a .json nor a .npz file"
    raise SettingsError("--input-data", what, "name a file of perf_analyzer's JSON, or of arrays that NumPy saved")


# ---- JSON


def _read_document(path: Path, signature: Signature) -> InputData:
    try:
        document = read_json(path)
    except (OSError, ValueError) as error:
        raise SettingsError(path, f"the file cannot be read: {reason(error)}", "name a JSON file of inputs") from error
    where = str(path)
    data = _streams(_member(document, "data", where), f"{where}, data")
    has_streams = isinstance(document["data"][0], list)
    inputs = _read_each(data, has_streams, f"{where}, data", partial(_inputs, signature=signature))
    if "validation_data" in document:
        answers = _streams(document["validation_data"], f"{where}, validation_data")
        if [*map(len, answers)] != [*map(len, data)]:
            what = f"validation_data has {_count(answers)}, but data has {_count(data)}"
            raise SettingsError(path, what, "write one answer for each entry of data, in the same order")
        read = partial(_answers, signature=signature)
        outputs = _read_each(answers, has_streams, f"{where}, validation_data", read)
    else:
        outputs = [[{} for _ in stream] for stream in data]
    streams = tuple(tuple(map(Entry, *pair)) for pair in zip(inputs, outputs, strict=True))
    _check_alike(path, streams)
    return InputData(streams, has_streams, is_batch=False)


def _read_each(
    streams: Sequence[Sequence[dict[str, Any]]], has_streams: bool, where: str, read: Callable[..., Tensors]
) -> list[list[Tensors]]:
    """Read each entry of each stream; `data[2][0]` is the first one of the third stream."""

    def place(stream: int, step: int) -> str:
        return f"{where}[{stream}][{step}]" if has_streams else f"{where}[{step}]"

    return [
        [read(entry, where=place(number, step)) for step, entry in enumerate(stream)]
        for number, stream in enumerate(streams)
    ]


def _member(document: Any, key: str, where: str) -> Any:
    if not isinstance(document, dict) or key not in document:
        raise SettingsError(where, f"it is not a JSON object with the key {key!r}", f"write it as in {_EXAMPLE}")
    return document[key]


def _streams(value: Any, where: str) -> list[list[dict[str, Any]]]:
    """Return a list of objects as one stream, and a list of lists of objects as it is."""
    fix = f"write a list of objects, as in {_EXAMPLE}, or a list of lists of objects"
    if not isinstance(value, list) or not value:
        raise SettingsError(where, "it is not a list, or is empty", fix)
    streams = value if isinstance(value[0], list) else [value]
    for stream in streams:
        if not isinstance(stream, list) or not stream or not all(isinstance(entry, dict) for entry in stream):
            raise SettingsError(where, "not every entry is an object, or a stream is empty", fix)
    return streams


def _count(streams: Sequence[Sequence[Any]]) -> str:
    lengths = ", ".join(str(len(stream)) for stream in streams[:_LISTED])
    entries = "entry" if lengths == "1" else "entries"
    return f"{len(streams):,} streams of {lengths} entries" if len(streams) > 1 else f"{lengths} {entries}"


def _inputs(entry: Mapping[str, Any], signature: Signature, where: str) -> Tensors:
    """Read every input of an entry: all that the model takes, and no others."""
    known = {spec.name: spec for spec in signature.inputs}
    if known and known.keys() != entry.keys():
        different = sorted(known.keys() ^ entry.keys())[:_LISTED]
        what = f"it must have the inputs {', '.join(known)}, but differs in {', '.join(different)}"
        raise SettingsError(where, what, "give each input of the model, by its name")
    return {
        name: read_tensor(entry[name], name, known.get(name), signature.shapes.get(name), f"{where}, {name}")
        for name in (known or entry)
    }


def _answers(entry: Mapping[str, Any], signature: Signature, where: str) -> Tensors:
    known = {spec.name: spec for spec in signature.outputs}
    unknown = sorted(entry.keys() - known.keys())[:_LISTED] if known else []
    if unknown or not entry:
        what = f"the model has no output {', '.join(unknown)}" if unknown else "it has no outputs"
        raise SettingsError(where, what, f"give outputs of the model: {', '.join(known) or 'by their names'}")
    return {name: read_tensor(entry[name], name, known.get(name), None, f"{where}, {name}") for name in entry}


def _check_alike(path: Path, streams: Sequence[Sequence[Entry]]) -> None:
    """Check that all entries have the same tensors of the same types, as requests to one model do."""

    def kinds(tensors: Tensors) -> dict[str, tuple[str, int]]:
        return {name: (spec.datatype, len(spec.dims)) for name, (spec, _) in tensors.items()}

    first = streams[0][0]
    for stream in streams:
        for entry in stream:
            if kinds(entry.inputs) != kinds(first.inputs) or kinds(entry.outputs) != kinds(first.outputs):
                what = "its entries differ in their tensors, in the types of these or in their number of dims"
                raise SettingsError(path, what, "give each entry the same tensors; only the sizes of dims may differ")


# ---- archives


def _read_archive(path: Path, signature: Signature) -> InputData:
    """Read arrays `[rows, *dims]` called NAME or `input:NAME`, and right answers called `output:NAME`."""
    try:
        arrays = read_arrays(path)
    except (OSError, ValueError) as error:
        raise SettingsError(path, f"the file cannot be read: {reason(error)}", _SAVE) from error
    answers = {name.removeprefix(_OUTPUT): array for name, array in arrays.items() if name.startswith(_OUTPUT)}
    inputs = {name.removeprefix(_INPUT): array for name, array in arrays.items() if not name.startswith(_OUTPUT)}
    _check_names(path, inputs, answers, signature)
    count = _count_rows(path, inputs, answers)
    taken = _describe_all(path, inputs, signature.inputs)
    given = _describe_all(path, answers, signature.outputs)
    rows = tuple(Entry(_take(taken, row), _take(given, row)) for row in range(count))
    return InputData((rows,), has_streams=False, is_batch=True)


def _check_names(path: Path, inputs: Mapping[str, Array], answers: Mapping[str, Array], signature: Signature) -> None:
    takes = {spec.name for spec in signature.inputs}
    gives = {spec.name for spec in signature.outputs}
    if takes and takes != inputs.keys():
        different = ", ".join(sorted(takes ^ inputs.keys())[:_LISTED])
        what = f"it must have the inputs {', '.join(sorted(takes))}, but differs in {different}"
        raise SettingsError(path, what, "save one array for each input, under its name")
    if gives and answers.keys() - gives:
        what = f"the model has no output {', '.join(sorted(answers.keys() - gives)[:_LISTED])}"
        raise SettingsError(path, what, f"name the arrays of answers output:NAME, for {', '.join(sorted(gives))}")


def _count_rows(path: Path, inputs: Mapping[str, Array], answers: Mapping[str, Array]) -> int:
    counts = {name: len(array) if array.ndim else 0 for name, array in (*inputs.items(), *answers.items())}
    if not inputs or len(set(counts.values())) != 1 or 0 in counts.values():
        listed = ", ".join(f"{name} {count}" for name, count in [*counts.items()][:_LISTED])
        raise SettingsError(path, f"its arrays have different numbers of rows, or none: {listed or 'no arrays'}", _SAVE)
    return next(iter(counts.values()))


def _take(arrays: Tensors, row: int) -> Tensors:
    return {name: (spec, array[row, ...]) for name, (spec, array) in arrays.items()}


def _describe_all(path: Path, arrays: Mapping[str, Array], specs: Sequence[TensorSpec]) -> Tensors:
    """Return the arrays in the order of the model's tensors, each with the type and dims of one row."""
    known = {spec.name: spec for spec in specs}
    names = [name for name in (known or arrays) if name in arrays]
    return {name: _describe(path, arrays[name], known.get(name) or _guess(path, name, arrays[name])) for name in names}


def _guess(path: Path, name: str, array: Array) -> TensorSpec:
    """Describe a tensor by the array alone."""
    is_text = array.dtype.kind in "US"
    datatype = "BYTES" if is_text else next((key for key, dtype in DTYPES.items() if dtype == array.dtype), None)
    if datatype is None:
        what = f"{name} is an array of {array.dtype}, which the protocol does not have"
        raise SettingsError(path, what, "save it as one of float16 to float64, int8 to uint64, bool or text")
    return TensorSpec(name, datatype, array.shape[1:])


def _describe(path: Path, array: Array, spec: TensorSpec) -> tuple[TensorSpec, Array]:
    """Return an array of the model's type and dims: text as Python's strings, a missing dim of 1 added."""
    if spec.datatype == "BYTES" and array.dtype.kind in "US":
        words = [value if isinstance(value, bytes) else value.encode() for value in array.ravel().tolist()]
        array = as_text(words, array.shape)
    elif spec.datatype == "BYTES" or array.dtype != DTYPES[spec.datatype]:
        wanted = "text" if spec.datatype == "BYTES" else str(DTYPES[spec.datatype])
        what = f"{spec.name} is an array of {array.dtype}, but the model has {spec.datatype}"
        raise SettingsError(path, what, f"save it as {wanted}")
    if spec.dims == (1,) and array.ndim == 1:
        array = array[:, np.newaxis]
    if not spec.takes(array.shape[1:]):
        what = f"the rows of {spec.name} have the shape {list(array.shape[1:])}, but the model has {list(spec.dims)}"
        raise SettingsError(path, what, "save an array of shape [rows, *dims], with the dims of the model")
    return spec, array
