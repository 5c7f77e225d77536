"""PyTorch's two exporters, called alike: a subject and example inputs in, an .onnx file out."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch

from builder.errors import ModelError
from builder.exporting.export import EXPORTERS
from builder.exporting.subject import Subject, TheirCode
from builder.tensors import Arrays

Axes = Mapping[str, Mapping[int, str]]
"""The dynamic axes: by input, axis and name."""

INLINE_BYTES = 1 << 30
"""Weights beyond this go into a file of their own: protobuf ends at 2 GiB."""


def by_torch_export(subject: Subject, example: Arrays, axes: Axes, path: Path, opset: int | None) -> None:
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
        opset_version=opset,
        verbose=False,
    )
    assert program is not None
    program.save(path, external_data=_weight_bytes(subject) > INLINE_BYTES)


def by_torchscript(subject: Subject, example: Arrays, axes: Axes, path: Path, opset: int | None) -> None:
    """Export through TorchScript, which records one run: what Python decides in it is frozen.

    Source: https://docs.pytorch.org/docs/stable/onnx_torchscript.html
    """
    torch.onnx.export(
        subject,
        subject.tensors(example),
        str(path),
        dynamo=False,
        dynamic_axes={name: dict(named) for name, named in axes.items()},
        input_names=[spec.name for spec in subject.specs],
        output_names=list(subject.outputs),
        opset_version=opset,
        verbose=False,
    )


Exporter = Callable[[Subject, Arrays, Axes, Path, int | None], None]
_BY_NAME: Mapping[str, Exporter] = dict(zip(EXPORTERS, (by_torch_export, by_torchscript), strict=True))


def run(exporter: str, subject: Subject, example: Arrays, axes: Axes, path: Path, opset: int | None) -> None:
    """Export `subject` to `path`, quietly.

    Raises:
        ModelError: The exporter does not take it.
    """
    fix = "write forward in operators that it takes, or try another --opset"
    try:
        with _quiet(), torch.no_grad(), TheirCode(subject.where, "it fails", fix):
            _BY_NAME[exporter](subject, example, axes, path, opset)
    except ModelError as error:
        raise ModelError(subject.where, _with_names(error.what, subject), fix) from error.__cause__


def _with_names(text: str, subject: Subject) -> str:
    """The text of `torch.export` with the inputs called as the user knows them."""
    for position, spec in enumerate(subject.specs):
        text = text.replace(f"inputs['tensors'][{position}]", spec.name)
    return text


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nothing printed, logged or warned of: exporters do all three, of every model."""
    before, hidden = logging.root.manager.disable, io.StringIO()
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(hidden), contextlib.redirect_stdout(hidden):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _weight_bytes(subject: Subject) -> int:
    return sum(tensor.nbytes for tensor in (*subject.parameters(), *subject.buffers()))
