"""Models as ONNX text, and batched graphs written by hand beside them: right ones, and deliberately wrong ones."""

from collections.abc import Mapping
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx import parser

from builder.batching import BatchedModel, BatchedTensor
from builder.model import Model, TensorSpec, load

HEADER = '<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3, "com.microsoft" : 1]>\n'


def original(folder: Path, text: str) -> Model:
    """Save the graph in `text` and load it."""
    path = folder / "model.onnx"
    onnx.save(parser.parse_model(HEADER + text), path)
    return load(path)


def by_hand(
    model: Model,
    text: str | None = None,
    *,
    static_batch: int = 1,
    rows: Mapping[str, int] | None = None,
    axes: Mapping[str, int] | None = None,
) -> BatchedModel:
    """Declare the graph in `text` to be `model` with a batch on axis 0, whether or not that is true."""
    rows, axes = rows or {}, axes or {}

    def tensor(spec: TensorSpec) -> BatchedTensor:
        axis, count = axes.get(spec.name, 0), rows.get(spec.name, 1)
        dims = tuple(dim for i, dim in enumerate(spec.shape) if i != axis)
        if count > 1:
            dims = (*dims[:axis], count, *dims[axis:])
        return BatchedTensor(spec.name, spec.name, spec.dtype, dims, spec.shape, axis, count)

    return BatchedModel(
        original=model,
        ir=model.ir.clone() if text is None else ir.from_proto(parser.parse_model(HEADER + text)),
        inputs=tuple(map(tensor, model.inputs)),
        outputs=tuple(map(tensor, model.outputs)),
        static_batch=static_batch,
        is_static=False,
        rewrites=(),
    )
