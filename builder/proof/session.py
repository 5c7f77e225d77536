"""Run a model in ONNX Runtime on the CPU, and collect its warnings."""

import contextlib
import ctypes
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from builder.bounded import OutOfMemoryError, during, out_of_memory, out_of_time, stoppable
from builder.errors import ModelError, VerificationError
from builder.model import zipmap
from builder.printable import escape
from builder.tensors import Array, Arrays

# Set before ONNX Runtime is imported: otherwise it reports its use to Microsoft, and writes to $TMPDIR/.ses, also if
# somebody put a link there (seen with 1.31.1).
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_BFLOAT16 = "tensor(bfloat16)"

SUPERLINEAR = ("ConstantSharing", "MatMulAddFusion")
"""Optimizations of ONNX Runtime that take time which grows with the square of the nodes.

The first shares equal small constants, of which an exporter writes one for each node, and a rewritten model one for
all. The second works only if all shapes are static. Each can take 20 of the 30 s that ONNX Runtime needs to open a
chain of 44,800 nodes (seen with 1.31.1).
"""

RESET = "\x1b[m"
"""What ONNX Runtime writes on a line of its own after a coloured message that ends in a line break."""

_STALE_SHAPE = re.compile(
    r"Expected shape from model of (\{.*?\}) does not match actual shape of (\{.*?\}) for output ([^\s\x1b]+)"
)


@dataclass(frozen=True, slots=True)
class Session:
    """An ONNX Runtime session whose arrays are as this package stores them: strings as unicode, BF16 as its bits.

    Attributes:
        session: ONNX Runtime's own session.
        path: The model, for messages.
        types: ONNX Runtime's type names of the inputs and outputs, by name.
        shapes: Their shapes, by name; -1 for a size that varies.
        outputs: The names of the outputs, in order.
        zipmaps: For each output that is a list of dictionaries and is returned as a tensor, the labels of its columns.
    """

    session: Any
    path: Path
    types: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    outputs: tuple[str, ...]
    zipmaps: Mapping[str, zipmap.Labels] = field(default_factory=dict)

    def run(self, feeds: Arrays) -> dict[str, Array]:
        """Run one batch: take inputs by name, and return outputs by name.

        Raises:
            OutOfTimeError: The time is up.
            OutOfMemoryError: There is not enough memory.
        """
        errors = _failures()  # this imports ONNX Runtime; in an except clause, that would hide a Ctrl-C
        options = _run_options()
        with during("ONNX Runtime runs it"):
            try:
                with stoppable(lambda: setattr(options, "terminate", True)):
                    return self._run(feeds, options)
            except errors as error:
                refuse_limits(self.path, error)
                raise

    def _run(self, feeds: Arrays, options: Any) -> dict[str, Array]:
        if _BFLOAT16 in self.types.values():
            values = {name: _to_ortvalue(array, self.types[name]) for name, array in feeds.items()}
            answers = self.session.run_with_ort_values(self.outputs, values, options)
            return dict(zip(self.outputs, map(_from_ortvalue, answers), strict=True))
        answers = self.session.run(self.outputs, {name: _as_objects(array) for name, array in feeds.items()}, options)
        named = dict(zip(self.outputs, answers, strict=True))
        # An input that is also an output comes back in the caller's memory, which may be freed (seen with 1.23.2).
        named |= {name: answer.copy() for name, answer in named.items() if name in feeds}
        return {
            name: zipmap.as_tensor(answer, self.zipmaps[name]) if name in self.zipmaps else _as_unicode(answer)
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
    """Return the array in an OrtValue; NumPy has no BF16, so its bits are read."""
    if value.data_type() != _BFLOAT16:
        return _as_unicode(np.asarray(value.numpy()))
    bits = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(bits, np.uint16).reshape(value.shape())


def open_original(
    path: Path,
    zipmaps: Mapping[str, zipmap.Labels] | None = None,
    *,
    outputs: Sequence[str] | None = None,
    is_trial: bool = False,
) -> Session:
    """Open a session on the original model.

    Args:
        path: The file.
        zipmaps: The labels of outputs that are lists of dictionaries.
        outputs: The outputs to ask for; by default all of them.
        is_trial: The model may fail at the sizes it is run at. It then runs on one thread, because ONNX Runtime ends
            the process if a kernel throws on another one (seen with 1.31.1, Resize of a batch that is not 1).

    Raises:
        ModelError: ONNX Runtime cannot load the model.
    """
    errors = _failures()
    try:
        session = _open(str(path), where=path, verbose=False, without=SUPERLINEAR, threads=1 if is_trial else None)
        return replace(session, zipmaps=zipmaps or {}, outputs=session.outputs if outputs is None else tuple(outputs))
    except errors as error:
        refuse_limits(path, error)
        what = f"ONNX Runtime cannot load it: {one_line(error)}"
        fix = "export the model with operators and types that ONNX Runtime supports on the CPU"
        raise ModelError(path, what, fix) from error


def open_rewritten(
    model: bytes | Path,
    *,
    where: Path,
    folder: Path | None = None,
    keep_layout: bool = False,
    keep_mapped: bool = False,
    as_written: bool = False,
    is_trial: bool = False,
    threads: int | None = None,
    fix: str = "report this error",
) -> Session:
    """Open a session on a rewritten model; it warns of every shape that is not as declared.

    Args:
        model: The bytes, or the file.
        where: The model, for messages.
        folder: If `model` is bytes, the folder of its external weights.
        keep_layout: Turn off the optimizations of layout. With them, ONNX Runtime crashes on a CPU when a Transpose
            is followed by a MatMul in fp16 (seen with 1.31.1).
        keep_mapped: Read external weights where they are mapped into memory, instead of copying them in packed form.
            This changes the rounding of fp32 answers by about 1e-6 of their scale.
        as_written: Turn off all optimizations. A quantized model then computes in fp32 between its QuantizeLinear
            nodes, exactly as it is written. With them, it runs on integers, and some CPUs add those in 16 bits.
        is_trial: See `open_original`.
        threads: The number of threads. Default: one for each core.
        fix: What to do if it cannot be loaded.

    Raises:
        VerificationError: ONNX Runtime cannot load the model.
    """
    errors = _failures()
    try:
        source = model if isinstance(model, bytes) else str(model)
        return _open(
            source,
            where=where,
            verbose=True,
            folder=folder,
            keep_layout=keep_layout,
            keep_mapped=keep_mapped,
            as_written=as_written,
            threads=1 if is_trial else threads,
        )
    except errors as error:
        refuse_limits(where, error)
        what = f"ONNX Runtime cannot load the rewritten model: {one_line(error)}"
        raise VerificationError(where, what, fix, is_about_batch=True) from error


def _open(
    model: bytes | str,
    *,
    where: Path,
    verbose: bool,
    folder: Path | None = None,
    keep_layout: bool = False,
    keep_mapped: bool = False,
    as_written: bool = False,
    without: Sequence[str] = (),
    threads: int | None = None,
) -> Session:
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)  # what belongs to no session is printed at once, in colour
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 2 if verbose else 4  # errors are raised anyway
    onnxruntime.set_default_logger_severity(4)
    # Source of the keys: onnxruntime/core/session/onnxruntime_session_options_config_keys.h
    # Threads that spin while they wait would take processor time from others, such as a server on this machine.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.intra_op_num_threads = threads or 0  # 0 is for one for each core
    if keep_layout:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    if as_written:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if keep_mapped:
        options.add_session_config_entry("session.disable_prepacking", "1")
    if folder is not None:
        key = "session.model_external_initializers_file_folder_path"
        options.add_session_config_entry(key, str(folder.resolve()))
    with during("ONNX Runtime opens it"):
        session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"], disabled_optimizers=list(without)
        )
    outputs = session.get_outputs()
    values = (*session.get_inputs(), *outputs)
    types = {value.name: value.type for value in values}
    shapes = {value.name: tuple(d if isinstance(d, int) else -1 for d in value.shape) for value in values}
    return Session(session, where, types, shapes, tuple(value.name for value in outputs))


def _run_options() -> Any:
    import onnxruntime

    return onnxruntime.RunOptions()


def onnxruntime_version() -> str:
    """Return the version of ONNX Runtime."""
    import onnxruntime

    return str(onnxruntime.__version__)


@cache
def onnxruntime_errors() -> tuple[type[Exception], ...]:
    """Return the errors that ONNX Runtime raises when it cannot load or run a model."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented", "RuntimeException")
    # The last one is raised by its Python code, for a string in an output that is not UTF-8.
    return (*(getattr(state, name) for name in names), UnicodeDecodeError)


def run_errors() -> tuple[type[Exception], ...]:
    """Return what a run raises that may succeed with other inputs, also because it then needs less memory."""
    return (*onnxruntime_errors(), OutOfMemoryError)


def _failures() -> tuple[type[Exception], ...]:
    return (*onnxruntime_errors(), MemoryError)


_NODE = re.compile(r"running (\S+) node\. Name:'(.*?)' Status", re.DOTALL)

_WANTS_MEMORY = re.compile(
    r"Failed to allocate memory|bad[_ ]alloc|exceeds the supported maximum of \d+ bytes|storage size overflowed"
)


def refuse_limits(where: Path, error: Exception) -> None:
    """Refuse a model for which the time or the memory did not suffice, if that is what this error is about.

    Raises:
        OutOfTimeError: The time is up.
        OutOfMemoryError: There is not enough memory.
    """
    text = str(error)
    # A node that has others inside names them too, after itself.
    nodes = [f"node {kind} {name!r}" if name else f"a node {kind}" for kind, name in _NODE.findall(text)]
    node = nodes[-1] if nodes else ""
    if late := out_of_time(node):
        raise late from error
    if isinstance(error, MemoryError) or _WANTS_MEMORY.search(text):
        raise out_of_memory(where, node) from error


def one_line(error: Exception) -> str:
    """Return ONNX Runtime's message in one line, without its error code."""
    text = " ".join(str(error).split()) or type(error).__name__
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)[:500]


@contextlib.contextmanager
def onnxruntime_warnings() -> Iterator[list[str]]:
    """Collect the lines that ONNX Runtime writes to file descriptor 2 during the block; it has no other way to warn.

    Other lines written there are printed at the end of the block.
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
                elif line.strip() != RESET:
                    sys.stderr.write(f"{escape(line.rstrip())}\n")


def stale_shapes(warnings: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Yield where a model declares another shape than a value has: the declared one, the right one, and its name."""
    for line in warnings:
        if found := _STALE_SHAPE.search(line):
            yield found[1], found[2], found[3]


def refuse_stale_shapes(where: Path, warnings: Sequence[str]) -> None:
    """Refuse a model that declares other shapes than its values have.

    Raises:
        VerificationError: ONNX Runtime warned of such a shape.
    """
    for expected, actual, name in stale_shapes(warnings):
        what = (
            f"the model declares the shape {expected} for {name!r}, but it is {actual}, "
            "so ONNX Runtime warns at every request"
        )
        fix = "declare the right shape in the original file; if it is right there, report this error"
        raise VerificationError(where, what, fix)
