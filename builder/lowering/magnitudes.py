"""Measure how large the values inside a model become, by running it in fp32 on samples."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from builder.batching import BatchedModel
from builder.errors import ModelError
from builder.model import free_name, name_nodes, node_names, value_names
from builder.proof import free_sizes, one_line, onnxruntime_errors, onnxruntime_warnings, open_rewritten
from builder.samples import draw
from builder.tensors import Arrays

SAMPLE_ROWS = 8
"""The number of samples that are run."""


def largest_values(batched: BatchedModel, model: ir.Model, samples: Arrays | None) -> dict[str, float]:
    """Return the largest magnitude of every fp32 value that a node makes, by the value's name.

    Args:
        batched: The model that the samples are for.
        model: The graph to measure, with the inputs of `batched`.
        samples: The user's samples, `[rows, *dims]` by input. Random ones are drawn if it is None.

    Raises:
        ModelError: The model fails on every sample.
    """
    measured = [str(v.name) for node in model.graph for v in node.outputs if v.name and v.dtype == ir.DataType.FLOAT]
    if not measured:
        return {}
    taken = value_names(model)
    probes = {free_name(f"largest_magnitude_{i}", taken): name for i, name in enumerate(measured)}
    path = batched.original.path
    reason = ""
    with onnxruntime_warnings():
        probe = ir.to_proto(_with_probes(model, probes)).SerializeToString()
        session = open_rewritten(probe, where=path, folder=path.parent)
        for inputs in sample_sets(batched, samples):
            feeds = {name: rows[0] for name, rows in inputs.items()} if batched.is_static else inputs
            try:
                found = session.run(feeds)
            except onnxruntime_errors() as error:
                reason = reason or one_line(error)
                continue
            return {probes[output]: float(magnitude) for output, magnitude in found.items()}
    what = f"the model fails on every sample, so the size of its values cannot be measured: {reason}"
    raise ModelError(path, what, "give inputs that it accepts with --samples FILE.npz")


def sample_sets(batched: BatchedModel, samples: Arrays | None) -> Iterable[Arrays]:
    """Return choices of samples, `[rows, *dims]` by input: the user's, or sets of random ones, the usual ones first."""
    if samples is None:
        # A NaN or an infinity that the model tests for says nothing about the others.
        return filter(_are_finite, draw(batched, rows=SAMPLE_ROWS, sizes=next(iter(free_sizes(batched)), None)))
    return [{name: rows[:SAMPLE_ROWS] for name, rows in samples.items()}]


def _are_finite(inputs: Arrays) -> bool:
    return all(np.isfinite(rows).all() for rows in inputs.values() if rows.dtype.kind == "f")


def _with_probes(model: ir.Model, probes: Mapping[str, str]) -> ir.Model:
    """Return a copy whose outputs are the largest magnitudes of some values.

    `probes` gives the name of the measured value for each new output: the output is `ReduceMax(Abs(value))`.
    """
    probe = model.clone()
    by_name = {value.name: value for node in probe.graph for value in node.outputs}
    probe.graph.outputs.clear()
    values, names = value_names(model) | probes.keys(), node_names(model)
    for output, name in probes.items():
        nodes = _probe(by_name[name], free_name(f"{output}_abs", values), output)
        name_nodes(nodes, names)
        probe.graph.extend(nodes)
        probe.graph.outputs.append(nodes[-1].outputs[0])
    return probe


def _probe(value: ir.Value, magnitudes: str, output: str) -> Sequence[ir.Node]:
    magnitude = ir.node("Abs", [value])
    magnitude.outputs[0].name = magnitudes
    largest = ir.node("ReduceMax", [magnitude.outputs[0]], {"keepdims": 0})
    largest.outputs[0].name = output
    largest.outputs[0].type, largest.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([])
    return [magnitude, largest]
