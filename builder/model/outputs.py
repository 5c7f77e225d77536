"""Keep only some outputs of a model."""

from collections.abc import Sequence
from dataclasses import replace

from onnx_ir.passes.common import RemoveUnusedNodesPass

from builder.errors import ModelError
from builder.model.loading import Model


def keep_outputs(model: Model, names: Sequence[str]) -> Model:
    """Return the model with only these outputs, in the file's order, and without the nodes that only others need.

    Its inputs stay, also one that no node uses any more.

    Raises:
        ModelError: There is no such output.
    """
    if not names:
        return model
    _check_names(model, names)
    kept = model.ir.clone()
    for value in [value for value in kept.graph.outputs if value.name not in names]:
        kept.graph.outputs.remove(value)
    RemoveUnusedNodesPass()(kept)
    return replace(
        model,
        ir=kept,
        outputs=tuple(spec for spec in model.outputs if spec.name in names),
        zipmaps={name: labels for name, labels in model.zipmaps.items() if name in names},
        left_out=tuple(spec.name for spec in model.outputs if spec.name not in names),
    )


def _check_names(model: Model, names: Sequence[str]) -> None:
    unknown = [name for name in names if name not in model.output_names]
    if unknown:
        listed = ", ".join(f"{spec.name} {list(spec.shape)}" for spec in model.outputs)
        what = f"--output names {', '.join(unknown)}, but there is no such output"
        raise ModelError(model.path, what, f"use the name of an output: {listed}")
