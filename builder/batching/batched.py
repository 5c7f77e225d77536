"""The result of every way of batching: a new graph, and where the samples are in the tensors of the original."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from builder.model import Dim, Model
from builder.tensors import Array

OLDEST_IR_VERSION = 4
"""Before this IR version, every initializer had to be listed as an input too."""


@dataclass(frozen=True, slots=True)
class Rewrite:
    """One node in which the exporter baked in the batch, and what replaced it."""

    node: str
    op_type: str
    what: str


@dataclass(frozen=True, slots=True)
class BatchedTensor:
    """A served input or output, and where its samples are in the original's tensor.

    Attributes:
        name: The name in the batched graph.
        original: The name in the original.
        dtype: The element type, the same in both.
        dims: The shape of one sample, without the batch.
        original_shape: The shape in the original, its static batch included.
        batch_axis: The axis of `original_shape` that holds the batch. None if the model is kept static, or if the
            whole tensor belongs to the one sample that the original takes.
        rows: How many rows of that axis belong to one sample; if there are several, they are an axis of `dims`.
        outer: How many of them are slower than the batch: with B for the static batch, the axis is
            `outer * B * (rows / outer)`.
    """

    name: str
    original: str
    dtype: ir.DataType
    dims: tuple[Dim, ...]
    original_shape: tuple[Dim, ...]
    batch_axis: int | None
    rows: int = 1
    outer: int = 1

    @property
    def static_dims(self) -> tuple[Dim, ...]:
        """`dims`, but with the original's sizes on axes that were made dynamic: the shape that the original accepts."""
        if self.batch_axis is None or len(self.dims) != len(self.original_shape) - 1:
            return self.dims
        return (*self.original_shape[: self.batch_axis], *self.original_shape[self.batch_axis + 1 :])

    def split(self, array: Array) -> Array:
        """Cut the original's tensor into samples: `[..., B * rows, ...] -> [B, *dims]`.

        A tensor without a batch is one sample: `[*shape] -> [1, *shape]`. With B = 3, rows = 2 and outer = 1,
        `[6, C]` of `a0 a1 b0 b1 c0 c1` becomes `[3, 2, C]`.
        """
        if self.batch_axis is None:
            return array[np.newaxis]
        axis, inner = self.batch_axis, self.rows // self.outer
        before, after = array.shape[:axis], array.shape[axis + 1 :]
        count = array.shape[axis] // self.rows
        grid = array.reshape(*before, self.outer, count, inner, *after)
        rows = (self.rows,) if self.rows > 1 else ()
        return np.moveaxis(grid, axis + 1, 0).reshape(count, *before, *rows, *after)

    def join(self, samples: Array) -> Array:
        """Join samples to the original's tensor, the inverse of `split`: `[B, *dims] -> [..., B * rows, ...]`."""
        if self.batch_axis is None:
            whole: Array = np.asarray(samples[0])
            return whole
        axis, inner = self.batch_axis, self.rows // self.outer
        before, after = samples.shape[1 : axis + 1], samples.shape[axis + 1 + (self.rows > 1) :]
        grid = samples.reshape(len(samples), *before, self.outer, inner, *after)
        return np.moveaxis(grid, 0, axis + 1).reshape(*before, len(samples) * self.rows, *after)


@dataclass(frozen=True, slots=True)
class BatchedModel:
    """A graph whose inputs and outputs are `[batch, *dims]`, beside the original it came from.

    Attributes:
        original: The model as it was loaded; the proof compares with it.
        ir: The rewritten graph; it shares no node with the original's.
        inputs: In the original's order.
        outputs: In the original's order.
        static_batch: How many samples the original takes per run; 1 when it is kept static.
        is_static: Whether the model is kept without a batch axis: `max_batch_size` 0.
        rewrites: What was changed in the nodes.
        is_kept: Whether the graph is the original's, because its batch is dynamic already.
        undecided: Nodes of which the analysis cannot tell whether they mix the samples, and why; only the proof can.
    """

    original: Model
    ir: ir.Model
    inputs: tuple[BatchedTensor, ...]
    outputs: tuple[BatchedTensor, ...]
    static_batch: int
    is_static: bool
    rewrites: tuple[Rewrite, ...]
    is_kept: bool = False
    undecided: tuple[str, ...] = ()

    def renamed(self, names: Mapping[str, str]) -> "BatchedModel":
        """Return the same model with other names for its inputs and outputs; the graph keeps its own."""

        def rename(tensors: tuple[BatchedTensor, ...]) -> tuple[BatchedTensor, ...]:
            return tuple(replace(t, name=names.get(t.name, t.name)) for t in tensors)

        return replace(self, inputs=rename(self.inputs), outputs=rename(self.outputs))
