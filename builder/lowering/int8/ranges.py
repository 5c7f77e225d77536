"""Measure the ranges of the values inside a model, by running it in fp32 on calibration data."""

from collections.abc import Collection, Iterator

import numpy as np
import onnx_ir as ir

from builder.batching import BatchedModel
from builder.errors import ModelError
from builder.model import free_name, name_nodes, node_names, value_names
from builder.proof import one_line, onnxruntime_errors, onnxruntime_warnings, open_rewritten
from builder.tensors import Array, Arrays

BATCH = 8
"""How many rows run at once."""

Range = tuple[float, float]


def measure_ranges(
    batched: BatchedModel, model: ir.Model, rows: Arrays, names: Collection[str], *, leave_out: int | None = None
) -> dict[str, Range]:
    """Return the smallest and the largest of each of these values, by name.

    Args:
        batched: The model.
        model: The graph to measure, with the inputs of `batched`.
        rows: The calibration data, `[rows, *dims]` by input.
        names: The fp32 values to measure.
        leave_out: Leave out one row in so many.

    Raises:
        ModelError: The model fails on the data.
    """
    if not names:
        return {}
    path = batched.original.path
    taken = value_names(model)
    probes = {name: (free_name(f"lowest_{i}", taken), free_name(f"highest_{i}", taken)) for i, name in enumerate(names)}
    found: dict[str, Range] = {}
    with onnxruntime_warnings():
        probe = ir.to_proto(_with_probes(model, probes)).SerializeToString()
        session = open_rewritten(probe, where=path, folder=path.parent)
        for feeds in batches(rows, is_static=batched.is_static, leave_out=leave_out):
            try:
                seen = session.run(feeds)
            except onnxruntime_errors() as error:
                what = f"the model fails on the calibration data: {one_line(error)}"
                raise ModelError(path, what, "give inputs that it accepts with --calibration FILE.npz") from error
            for name, (low, high) in probes.items():
                # np.minimum keeps a NaN; min() would depend on the order.
                lows = np.minimum(found.get(name, (np.inf, 0))[0], seen[low])
                highs = np.maximum(found.get(name, (0, -np.inf))[1], seen[high])
                found[name] = (float(lows), float(highs))
    return found


def batches(
    rows: Arrays, *, is_static: bool, size: int = BATCH, leave_out: int | None = None
) -> Iterator[dict[str, Array]]:
    """Yield the rows, a few at a time; to a model without a batch, each by itself without its axis."""
    order = np.arange(min(map(len, rows.values())))
    if leave_out is not None:
        order = order[order % leave_out != leave_out - 1]
    for start in range(0, len(order), 1 if is_static else size):
        if is_static:
            yield {name: np.asarray(array[order[start]]) for name, array in rows.items()}
        else:
            yield {name: array[order[start : start + size]] for name, array in rows.items()}


def _with_probes(model: ir.Model, probes: dict[str, tuple[str, str]]) -> ir.Model:
    """Return a copy whose outputs are the smallest and the largest of some values."""
    probe = model.clone()
    graph = probe.graph
    by_name = {value.name: value for value in graph.inputs}
    by_name |= {value.name: value for node in graph for value in node.outputs}
    graph.outputs.clear()
    names = node_names(probe)
    for name, outputs in probes.items():
        nodes = [_probe(op_type, by_name[name], made) for op_type, made in zip(_EXTREMES, outputs, strict=True)]
        name_nodes(nodes, names)
        graph.extend(nodes)
        graph.outputs.extend(node.outputs[0] for node in nodes)
    return probe


_EXTREMES = ("ReduceMin", "ReduceMax")


def _probe(op_type: str, value: ir.Value, made: str) -> ir.Node:
    node = ir.node(op_type, [value], {"keepdims": 0})
    output = node.outputs[0]
    output.name, output.type, output.shape = made, ir.TensorType(ir.DataType.FLOAT), ir.Shape([])
    return node
