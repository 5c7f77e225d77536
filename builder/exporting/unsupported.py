"""Say which operator has a type that ONNX Runtime has no kernel for on the CPU, which line asks for it, and what works.

ONNX Runtime computes in float32 nearly everywhere. For float64 and bfloat16 many operators are missing, and for
integers convolutions are. Its messages name a node of the exported file, which the user has never seen.
"""

import copy
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from builder.errors import BuilderError, Listing, ModelError
from builder.exporting.frozen import Line
from builder.exporting.options import ExportOptions
from builder.exporting.subject import Diagnosis, Subject
from builder.tensors import TORCH_TYPES
from builder.user_code import is_user_code

LARGEST_BYTES = 256 << 20
"""If the weights are larger, the module is not exported again in float32."""

_MESSAGES = (
    re.compile(r"Could not find an implementation for (?P<op>\w+)\(\d+\) node with name '(?P<node>.*?)'"),
    re.compile(
        r"Type 'tensor\((?P<type>\w+)\)' of input parameter \(.*?\) of operator \((?P<op>\w+)\) in node "
        r"\((?P<node>.*?)\) is invalid"
    ),
    re.compile(
        r"running (?P<op>\w+) node\. Name:'(?P<node>.*?)' Status Message: "
        r".*not support (?P<type>double|float16|bfloat16)"
    ),
    re.compile(r"(?P<op>\w+) '(?P<node>.*?)': shape inference fails: .*unsupported type: tensor\((?P<type>\w+)\)"),
)
"""How ONNX Runtime, and ONNX's own inference, say that an operator does not take a type."""

_STACK = "pkg.torch.onnx.stack_trace"
"""Where `torch.export` keeps the lines of the user's code, for each node."""

_NAMES = {ir.DataType[onnx_name].value: name for name, onnx_name in TORCH_TYPES.items()}

Attempt = Callable[[Subject, ExportOptions], bool]
"""Exports another module with other options, and returns whether the file's answers are its answers."""


@dataclass(frozen=True, slots=True)
class Unsupported:
    """An operator that ONNX Runtime does not have for a type.

    Attributes:
        operator: Its name in ONNX.
        dtype: PyTorch's name of the type; empty if it is not known.
        line: The line of the user's code that computes it; None if it is not known.
    """

    operator: str
    dtype: str
    line: Line | None


def find_unsupported(error: BuilderError, file: Path) -> Unsupported | None:
    """Return the operator that an error is about, as the exported file has it; None if it is about something else."""
    matches = (pattern.search(text) for text in _texts(error) for pattern in _MESSAGES)
    match = next((match for match in matches if match is not None), None)
    if match is None:
        return None
    said = match.groupdict().get("type") or ""
    found = Unsupported(match["op"], {"float": "float32", "double": "float64"}.get(said, said), None)
    with Diagnosis():
        model = onnx.load(str(file), load_external_data=False)
        node = _node(model, match["op"], match["node"])
        if node is not None:
            found = replace(found, line=_line(node), dtype=found.dtype or _dtype(model, node))
    return found


def _texts(error: BuilderError) -> Iterator[str]:
    yield from error.what.lines if isinstance(error.what, Listing) else (error.what,)


def _node(model: onnx.ModelProto, operator: str, name: str) -> onnx.NodeProto | None:
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    alike = [node for node in nodes if node.op_type == operator]
    return next((node for node in alike if node.name == name), alike[0] if len(alike) == 1 else None)


def _line(node: onnx.NodeProto) -> Line | None:
    """Return the innermost line of the user's code, which is nearest to the operator."""
    stack = next((entry.value for entry in node.metadata_props if entry.key == _STACK), "")
    frames = re.findall(r'File "(.*?)", line (\d+)', stack)
    return next((Line(file, int(number)) for file, number in reversed(frames) if is_user_code(file)), None)


def _dtype(model: onnx.ModelProto, node: onnx.NodeProto) -> str:
    """Return the type of the node's inputs: the first one of a kind that ONNX Runtime may lack."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info)}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    names = [_NAMES.get(types.get(name, 0), "") for name in node.input]
    return next((name for name in names if name not in ("", "float32", "int64")), next(iter(names), ""))


class UnsupportedError(ModelError):
    """ONNX Runtime has no operator for a type. `found` is which."""

    def __init__(self, where: str, found: Unsupported) -> None:
        for_type = f" for {found.dtype}" if found.dtype else " for this type"
        lines = [f"computed at {found.line}"] if found.line else []
        what = Listing(f"ONNX Runtime has no {found.operator}{for_type} on the CPU", lines)
        super().__init__(where, what, "use operators and types in forward that ONNX Runtime supports on the CPU")
        self.found = found


def fix_for(found: Unsupported, subject: Subject, options: ExportOptions, attempt: Attempt) -> str:
    """Return what to do about it, which is tried where it can be.

    Args:
        found: What ONNX Runtime lacks.
        subject: The module.
        options: What the user asked for.
        attempt: Tries the module in float32.
    """
    here = "at that line" if found.line else f"before {found.operator}"
    if found.dtype not in ("float64", "bfloat16", "float16", ""):
        return f"convert its inputs with .float() {here}, and its answer back if it has to be {found.dtype}"
    ways = _ways(subject, options)
    if not ways:
        return f"use .float() in place of a conversion to {found.dtype or 'another type'} {here}"
    text = f"compute it in float32: {' and '.join(ways)}"
    if sum(tensor.nbytes for tensor in _weights(subject)) > LARGEST_BYTES:
        return text
    if _works(subject, options, attempt):
        return f"{text} (tried)"
    return f"{text}, and use .float() in place of the conversion to {found.dtype or 'another type'} in forward"


def _ways(subject: Subject, options: ExportOptions) -> list[str]:
    """Return what has to be in float32: the weights and the inputs that are not yet."""
    ways = []
    if any(tensor.is_floating_point() and str(tensor.dtype) != "torch.float32" for tensor in _weights(subject)):
        ways.append("return module.float() from the factory")
    if others := [spec.name for spec in options.inputs if _is_other_float(spec.dtype)]:
        ways.append(f"give {', '.join(others)} as float32 with --input")
    return ways


def _weights(subject: Subject) -> list[Any]:
    return [*subject.parameters(), *subject.buffers()]


def _is_other_float(dtype: ir.DataType) -> bool:
    return dtype.is_floating_point() and dtype != ir.DataType.FLOAT


def _works(subject: Subject, options: ExportOptions, attempt: Attempt) -> bool:
    """Return whether the module can be exported in float32."""
    with Diagnosis():
        specs = tuple(
            replace(spec, dtype=ir.DataType.FLOAT) if _is_other_float(spec.dtype) else spec for spec in options.inputs
        )
        other = copy.deepcopy(subject)
        other.module.float()
        other.specs = specs
        return attempt(other, replace(options, inputs=specs, samples=None))
    return False
