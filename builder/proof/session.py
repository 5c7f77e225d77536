"""Run a model in ONNX Runtime on the CPU, and hear what it complains about."""

import contextlib
import ctypes
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from builder.errors import ModelError, VerificationError
from builder.model.zipmap import Labels, as_tensor
from builder.tensors import Array, Arrays

_BFLOAT16 = "tensor(bfloat16)"
_STALE_SHAPE = re.compile(
    r"Expected shape from model of (\{.*?\}) does not match actual shape of (\{.*?\}) for output ([^\s\x1b]+)"
)


@dataclass(frozen=True, slots=True)
class Session:
    """An ONNX Runtime session that takes and gives arrays as they are stored: strings as unicode, BF16 as its bits.

    Attributes:
        session: ONNX Runtime's own.
        types: Of the inputs and outputs, by name, in ONNX Runtime's words.
        outputs: The names of the outputs, in order.
        zipmaps: Outputs that are lists of dictionaries: the labels of the columns they are given as.
    """

    session: Any
    types: Mapping[str, str]
    outputs: tuple[str, ...]
    zipmaps: Mapping[str, Labels] = field(default_factory=dict)

    def run(self, feeds: Arrays) -> dict[str, Array]:
        """Run one batch: from inputs by name to outputs by name."""
        if _BFLOAT16 in self.types.values():
            values = {name: _to_ortvalue(array, self.types[name]) for name, array in feeds.items()}
            answers = self.session.run_with_ort_values(self.outputs, values)
            return dict(zip(self.outputs, map(_from_ortvalue, answers), strict=True))
        answers = self.session.run(self.outputs, {name: _as_objects(array) for name, array in feeds.items()})
        named = dict(zip(self.outputs, answers, strict=True))
        # An input that is an output comes back as the caller's own memory, which may be gone later (seen with 1.23.2).
        named |= {name: answer.copy() for name, answer in named.items() if name in feeds}
        return {
            name: as_tensor(answer, self.zipmaps[name]) if name in self.zipmaps else _as_unicode(answer)
            for name, answer in named.items()
        }


def _as_objects(array: Array) -> Array:
    return array.astype(object) if array.dtype.kind == "U" else array


def _as_unicode(array: Array) -> Array:
    return array.astype(np.str_) if array.dtype.kind == "O" else array


def _to_ortvalue(array: Array, onnxruntime_type: str) -> Any:
    from onnxruntime import OrtValue

    if onnxruntime_type == _BFLOAT16:
        return OrtValue.ortvalue_from_numpy_with_onnx_type(np.ascontiguousarray(array), ir.DataType.BFLOAT16.value)
    return OrtValue.ortvalue_from_numpy(_as_objects(array))


def _from_ortvalue(value: Any) -> Array:
    """The array in an OrtValue. NumPy knows no BF16, so that is read as bits."""
    if value.data_type() != _BFLOAT16:
        return _as_unicode(np.asarray(value.numpy()))
    bits = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(bits, np.uint16).reshape(value.shape())


def open_original(path: Path, zipmaps: Mapping[str, Labels] | None = None) -> Session:
    """Open a session on the model as it came; `zipmaps` names its outputs that are lists of dictionaries.

    Raises:
        ModelError: ONNX Runtime cannot load it.
    """
    errors = onnxruntime_errors()  # imports it: an except clause that did would hide an interrupt of the import
    try:
        return replace(_open(str(path), verbose=False), zipmaps=zipmaps or {})
    except errors as error:
        what = f"ONNX Runtime cannot load it: {one_line(error)}"
        raise ModelError(path, what, "export it with operators and types that ONNX Runtime runs on the CPU") from error


def open_rewritten(
    model: bytes | Path,
    *,
    where: Path,
    folder: Path | None = None,
    keep_layout: bool = False,
    keep_mapped: bool = False,
) -> Session:
    """Open a session on what is to be, or was, published; it warns of every shape that is not as declared.

    Args:
        model: The bytes, or the file.
        where: The model, for messages.
        folder: Where the external weights of `model` are, if it is bytes.
        keep_layout: Leave out the optimizations of layout, in which ONNX Runtime crashes on a CPU when a Transpose
            leads to a MatMul in fp16 (seen with 1.31.1).
        keep_mapped: Read external weights where they are mapped, rather than packing a copy of them into memory. The
            answers are rounded differently, by about 1e-6 of their scale in fp32.

    Raises:
        VerificationError: ONNX Runtime cannot load it.
    """
    errors = onnxruntime_errors()
    try:
        source = model if isinstance(model, bytes) else str(model)
        return _open(source, verbose=True, folder=folder, keep_layout=keep_layout, keep_mapped=keep_mapped)
    except errors as error:
        what = f"ONNX Runtime cannot load the rewritten model: {one_line(error)}"
        raise VerificationError(where, what, "publish it as it is with --static, and report it") from error


def _open(
    model: bytes | str,
    *,
    verbose: bool,
    folder: Path | None = None,
    keep_layout: bool = False,
    keep_mapped: bool = False,
) -> Session:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 2 if verbose else 4  # what fails is raised too
    # Source, of the keys: onnxruntime/core/session/onnxruntime_session_options_config_keys.h
    # Threads that spin while they wait take the cores from what else runs here, such as the server published to.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if keep_layout:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    if keep_mapped:
        options.add_session_config_entry("session.disable_prepacking", "1")
    if folder is not None:
        key = "session.model_external_initializers_file_folder_path"
        options.add_session_config_entry(key, str(folder.resolve()))
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    outputs = session.get_outputs()
    types = {value.name: value.type for value in (*session.get_inputs(), *outputs)}
    return Session(session, types, tuple(value.name for value in outputs))


def onnxruntime_errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises when it cannot load or run a model."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented", "RuntimeException")
    return tuple(getattr(state, name) for name in names)


def one_line(error: Exception) -> str:
    """ONNX Runtime's message, without its own code and in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)[:500]


@contextlib.contextmanager
def onnxruntime_warnings() -> Iterator[list[str]]:
    """Collect the lines that ONNX Runtime writes to file descriptor 2; other lines are passed on at the end.

    It offers Python no other way to its warnings.
    """
    collected: list[str] = []
    sys.stderr.flush()
    with tempfile.TemporaryFile() as stream:
        kept = os.dup(2)
        os.dup2(stream.fileno(), 2)
        try:
            yield collected
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            stream.seek(0)
            for line in stream.read().decode(errors="replace").splitlines(keepends=True):
                if "onnxruntime:" in line:
                    collected.append(line)
                else:
                    sys.stderr.write(line)


def refuse_stale_shapes(where: Path, warnings: Sequence[str]) -> None:
    """Refuse a graph whose declared shapes are not those of the values.

    Raises:
        VerificationError: ONNX Runtime warned of one.
    """
    for line in warnings:
        if found := _STALE_SHAPE.search(line):
            expected, actual, name = found.groups()
            what = f"the graph declares {expected} for {name!r}, which is {actual}: ONNX Runtime warns on every call"
            raise VerificationError(
                where, what, "if the file came with that shape, declare the real one in it; if not, report it"
            )
