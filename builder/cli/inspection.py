"""What `inspect` says of a model: its tensors, where the batch is, what would change or stands in the way."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.batching import BatchedModel, BatchedTensor, add_batch_axis
from builder.errors import ModelError
from builder.model import Model, fix_inputs, load
from builder.record import check_served


@dataclass(frozen=True, slots=True)
class Inspection:
    """A model, and either how it would be batched or why it cannot be."""

    model: Model
    batched: BatchedModel | None
    refusal: ModelError | None

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        batched = self.batched
        by_name = {} if batched is None else {t.original: t for t in (*batched.inputs, *batched.outputs)}
        return {
            "file": str(self.model.path),
            "sha256": self.model.sha256,
            "opset": {domain or "ai.onnx": version for domain, version in self.model.ir.opset_imports.items()},
            "nodes": len(self.model.ir.graph),
            "batchable": batched is not None,
            "static_batch": None if batched is None else batched.static_batch,
            "refusal": None if self.refusal is None else self.refusal.what,
            "fix": None if self.refusal is None else self.refusal.fix,
            "rewrites": []
            if batched is None
            else [{"node": r.node, "op_type": r.op_type, "what": r.what} for r in batched.rewrites],
            **{
                side: [
                    {
                        "name": spec.name,
                        "data_type": spec.dtype.name,
                        "shape": list(spec.shape),
                        "batch_axis": by_name[spec.name].batch_axis if batched is not None else None,
                        "rows_per_sample": by_name[spec.name].rows if batched is not None else None,
                        "dims": list(by_name[spec.name].dims) if batched is not None else None,
                    }
                    for spec in specs
                ]
                for side, specs in (("inputs", self.model.inputs), ("outputs", self.model.outputs))
            },
        }


def inspect(
    path: Path, *, batch_axes: Mapping[str, int | None], constants: Mapping[str, float | Path] | None = None
) -> Inspection:
    """Load the model and try to batch it; nothing is run or written.

    Raises:
        ModelError: It cannot be read. That it cannot be batched is a finding, not an error.
    """
    model = fix_inputs(load(path), constants or {})
    try:
        batched = add_batch_axis(model, batch_axes=batch_axes)
        check_served(batched)
        return Inspection(model, batched, None)
    except ModelError as refusal:
        return Inspection(model, None, refusal)


def show(found: Inspection) -> None:
    """Print the finding as tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    tensors = Table("", "tensor", "type", "shape in the file", "becomes", title=found.model.path.name)
    batched = {} if found.batched is None else {t.original: t for t in (*found.batched.inputs, *found.batched.outputs)}
    for side, specs in (("input", found.model.inputs), ("output", found.model.outputs)):
        for spec in specs:
            shape = f"[{', '.join(map(str, spec.shape))}]"
            tensors.add_row(side, spec.name, spec.dtype.name, shape, _becomes(batched.get(spec.name)))
    console.print(tensors)
    if found.batched is None:
        return
    rewrites = Table("node", "operator", "rewritten", title=f"static batch {found.batched.static_batch}")
    for rewrite in found.batched.rewrites:
        rewrites.add_row(rewrite.node, rewrite.op_type, rewrite.what)
    if found.batched.rewrites:
        console.print(rewrites)
    else:
        console.print("no constant holds the batch")


def _becomes(tensor: BatchedTensor | None) -> str:
    if tensor is None:
        return "-"
    rows = f" ({tensor.rows} rows per sample)" if tensor.rows > 1 else ""
    moved = f" (batch from axis {tensor.batch_axis})" if tensor.batch_axis else ""
    return f"[{', '.join(['N', *map(str, tensor.dims)])}]{rows}{moved}"
