"""PyTorch's two ONNX exporters behind one signature: a subject and example inputs in, an .onnx file out."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from builder.errors import ModelError
from builder.exporting.options import EXPORTERS, ExportOptions
from builder.exporting.quiet import exporter_quiet
from builder.exporting.subject import Subject
from builder.tensors import Arrays
from builder.user_code import UserCode

Axes = Mapping[str, Mapping[int, str]]
"""The names of the dynamic axes, by input and axis."""

INLINE_BYTES = 1 << 26
"""Weights larger than this are written to a file of their own, as PyTorch does with all weights.

A protobuf message is limited to 2 GiB, and each step that reads or writes one copies all of it: with 1 GB of weights in
the file itself, publishing took 2.8 times as long, and 2.6 times as much memory.
"""


def by_torch_export(subject: Subject, example: Arrays, axes: Axes, path: Path, asked: ExportOptions) -> None:
    """Export through `torch.export`, which follows shapes as symbols and refuses what it cannot follow.

    Source: https://docs.pytorch.org/docs/stable/onnx_export.html
    """
    shapes = tuple(dict(axes.get(spec.name, {})) for spec in subject.specs)
    program = torch.onnx.export(
        subject,
        subject.tensors(example),
        dynamo=True,
        dynamic_shapes=(shapes,) if any(shapes) else None,
        input_names=[spec.name for spec in subject.specs],
        output_names=list(subject.outputs),
        opset_version=asked.opset,
        verbose=asked.is_verbose,
    )
    assert program is not None
    program.save(path, external_data=_weight_bytes(subject) > INLINE_BYTES)


def by_torchscript(subject: Subject, example: Arrays, axes: Axes, path: Path, asked: ExportOptions) -> None:
    """Export through TorchScript, which records one run: whatever Python decides in that run is frozen.

    Source: https://docs.pytorch.org/docs/stable/onnx_torchscript.html
    """
    tensors = subject.tensors(example)
    torch.onnx.export(
        torch.jit.trace(subject, tensors, check_trace=False) if _has_script(subject) else subject,
        tensors,
        str(path),
        dynamo=False,
        dynamic_axes={name: dict(named) for name, named in axes.items()},
        input_names=[spec.name for spec in subject.specs],
        output_names=list(subject.outputs),
        opset_version=asked.opset,
        verbose=asked.is_verbose,
    )


def _has_script(subject: Subject) -> bool:
    """Return whether a part of it is TorchScript already, which this exporter takes only inside of a finished trace."""
    return any(isinstance(module, torch.jit.ScriptModule) for module in subject.modules())


Exporter = Callable[[Subject, Arrays, Axes, Path, ExportOptions], None]
_BY_NAME: Mapping[str, Exporter] = dict(zip(EXPORTERS, (by_torch_export, by_torchscript), strict=True))


def run(exporter: str, subject: Subject, example: Arrays, axes: Axes, path: Path, asked: ExportOptions) -> None:
    """Export `subject` to `path` without printing anything, unless that was asked for.

    Raises:
        ModelError: The exporter cannot export it.
    """
    fix = "rewrite forward with operators that the exporter supports, or try another --opset"
    try:
        with (
            exporter_quiet(is_verbose=asked.is_verbose),
            torch.no_grad(),
            UserCode(subject.where, "the exporter fails", fix),
        ):
            _BY_NAME[exporter](subject, example, axes, path, asked)
    except ModelError as error:
        raise ModelError(subject.where, _with_input_names(error.what, subject), fix) from error.__cause__


_INPUT = re.compile(r"inputs(?:\['tensors'\])?\[(\d+)\]")
"""How `torch.export` refers to an input; before PyTorch 2.14 with the name of our `forward`'s parameter."""


def _with_input_names(text: str, subject: Subject) -> str:
    """Return a message of `torch.export` with the user's names for the inputs: `signal` for `inputs[0]`."""

    def name_of(match: re.Match[str]) -> str:
        position = int(match[1])
        return subject.specs[position].name if position < len(subject.specs) else match[0]

    return _INPUT.sub(name_of, text)


def _weight_bytes(subject: Subject) -> int:
    return sum(tensor.nbytes for tensor in (*subject.parameters(), *subject.buffers()))
