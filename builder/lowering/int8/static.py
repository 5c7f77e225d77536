"""Quantize weights and values to int8, with ranges that were measured on calibration data."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from builder.batching import BatchedModel, Rewrite
from builder.errors import ModelError
from builder.lowering.edges import Edges
from builder.lowering.int8.folding import fold_normalization, fold_weights
from builder.lowering.int8.inserting import Quantized, quantize
from builder.lowering.int8.places import UNBOUNDED, Places, find_places, weights_of_products
from builder.lowering.int8.raising import floats_of
from builder.lowering.int8.ranges import measure_ranges
from builder.lowering.int8.reasons import KEPT, SENSITIVE, SLOW, counted_by_reason, in_words, too_little
from builder.lowering.int8.sensitivity import MOST_ROWS, Kept, keep_sensitive
from builder.lowering.precision import ENOUGH
from builder.lowering.request import LoweredModel, LoweringRequest
from builder.model import free_name, name_nodes, node_names, value_names
from builder.printable import counted
from builder.progress import format_bytes
from builder.record import Quantization
from builder.tensors import Arrays

HELD_OUT = 5
"""One row in so many of the calibration data is not used for the ranges, but to measure the error only."""

OTHER_WAYS = "leave out --precision, or try --precision fp16"

LARGEST_VALUE = 1e30
"""Values beyond it have no scale: the difference of two of them may be infinite in fp32."""

LARGEST_BYTES = 2_000_000_000
"""The largest model. Protocol buffers end at 2 GiB."""


def quantize_statically(batched: BatchedModel, request: LoweringRequest) -> LoweredModel:
    """Quantize the model, with the ranges of its values on the calibration data.

    Args:
        batched: The model, with its final names.
        request: What the caller asks for. The ranges are measured on its calibration data, or else on its samples.

    Raises:
        ModelError: There are no data, the model is quantized already, or too little of it can compute on integers
            without too large an error.
    """
    where = batched.original.path
    rows = _rows(request, where)
    model = _prepare(batched)
    places = find_places(model.graph, request.runtime)
    _apart(model, places)
    count = min(map(len, rows.values()))
    leave_out = HELD_OUT if count >= 2 * HELD_OUT else None
    ranges = measure_ranges(batched, model, rows, places.values(model.graph), leave_out=leave_out)
    places = places.without(model.graph, {name for name, ends in ranges.items() if not _is_bounded(*ends)})
    if not places.units:
        counts = counted_by_reason(model.graph, places.reasons)
        raise too_little(where, "nothing in this model can be in int8", counts, ways=_ways(counts))
    quantized = quantize(model, places, ranges, request.runtime)
    asked = {
        name: why
        for names, why in ((request.sensitive, SENSITIVE), (request.slow, SLOW), (request.keep, KEPT))
        for name in _whole(names, places)
    }
    units = [unit for unit in dict.fromkeys(places.units.values()) if not asked.keys() & set(unit)]
    kept = keep_sensitive(
        batched,
        units,
        lambda names: quantized.keeping(names | asked.keys()),
        _to_compare(request, rows),
        max_error=request.max_error,
    )
    measured = count if leave_out is None else count - count // leave_out
    return _lowered(batched, request, quantized, kept, asked, measured)


def _rows(request: LoweringRequest, where: Path) -> Arrays:
    """Return the data to measure on.

    Raises:
        ModelError: There are none, or they cannot be used.
    """
    rows = request.samples if request.calibration is None else request.calibration
    if rows is None:
        what = "int8 needs real inputs, to measure the ranges of the values inside the model"
        fix = "give some with --calibration FILE.npz, or use --precision int8-dynamic, which needs none"
        raise ModelError(where, what, fix)
    if min(map(len, rows.values())) < 2:
        what = "one row of calibration data does not show the ranges of values"
        raise ModelError(where, what, "give at least 2 rows; 100 to 500 are usual")
    if all((array[1:] == array[:1]).all() for array in rows.values()):
        what = "all rows of the calibration data are equal, so they do not show the ranges of values"
        raise ModelError(where, what, "give different rows, as clients will send them; 100 to 500 are usual")
    for name, array in rows.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            row = int(np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))[0])
            what = f"row {row} of the calibration data has values in input {name!r} that are infinite or NaN"
            raise ModelError(where, what, "leave such rows out of the calibration data")
    return rows


def _is_bounded(low: float, high: float) -> bool:
    return bool(np.isfinite([low, high]).all()) and max(abs(low), abs(high)) < LARGEST_VALUE


def _prepare(batched: BatchedModel) -> ir.Model:
    """Return the graph to quantize, with all weights in memory.

    Raises:
        ModelError: It is quantized already, or has more weights than fit into one ONNX file, which is what the
            quantizer works on.
    """
    size = sum(file.stat().st_size for file in batched.original.files)
    if size > LARGEST_BYTES:
        what = f"int8 needs all weights in one ONNX file of at most 2 GB, and the model has {format_bytes(size)}"
        raise ModelError(batched.original.path, what, "use --precision fp16")
    model = floats_of(batched)
    ir.external_data.load_to_model(model)
    fold_weights(model)
    fold_normalization(model)
    return model


def _to_compare(request: LoweringRequest, rows: Arrays) -> Arrays:
    """Return the rows on which to measure the error: those of the proof, which are the first of the caller's samples.

    Without samples they are the calibration data, of which one row in five was left out when ranges were measured.
    """
    compared = rows if request.samples is None else request.samples
    return {name: array[:MOST_ROWS] for name, array in compared.items()}


def _apart(model: ir.Model, places: Places) -> None:
    """Give outputs of the graph that are quantized a value of their own, and weights that others take too a copy."""
    edges, names, taken = Edges(model), node_names(model), value_names(model)
    for value in places.values(model.graph).values():
        if value.is_graph_output():
            node = ir.node("Identity", [value])
            name_nodes([node], names)
            model.graph.append(node)
            made = node.outputs[0]
            made.name, made.type, made.shape = free_name(f"{value.name}_output", taken), value.type, value.shape
            edges.replace(value, made, [])
    for node in model.graph:
        for position, shared in enumerate(node.inputs if node.name in places.units else ()):
            if shared is not None and shared.const_value is not None and _is_taken_elsewhere(shared, places):
                node.replace_input_with(position, edges.constant(shared, shared.const_value.numpy()))


def _is_taken_elsewhere(value: ir.Value, places: Places) -> bool:
    return any(user.name not in places.units for user, _ in value.uses())


def _whole(keep: Collection[str], places: Places) -> frozenset[str]:
    """Return the nodes to keep, with those that share weights with them."""
    return frozenset(name for asked in keep if asked in places.units for name in places.units[asked])


def _lowered(
    batched: BatchedModel,
    request: LoweringRequest,
    quantized: Quantized,
    kept: Kept,
    asked: Mapping[str, str],
    rows: int,
) -> LoweredModel:
    where, graph = batched.original.path, quantized.floats.graph
    stays = {**asked, **dict.fromkeys(kept.names, SENSITIVE)}
    reasons = dict(quantized.places.reasons)
    reasons |= {node: stays[str(node.name)] for node in graph if node.name in stays}
    counts = counted_by_reason(graph, reasons)
    chosen = quantized.places.units.keys() - stays.keys()
    part = _part_of_weights(graph, chosen)
    if part < ENOUGH:
        ways = f"give more calibration data, or {_ways(counts)}" if kept.names else _ways(counts)
        raise too_little(where, f"only {part:.0%} of the weights can be in int8", counts, kept, ways=ways)
    nodes = counted(len(chosen), "node")
    what = f"{nodes} and {part:.0%} of the weights in int8, for {request.runtime}, calibrated on {counted(rows, 'row')}"
    if counts:
        what += f"; still in fp32: {in_words(counts)}"
    if kept.is_over:
        what += "; the time was up before single nodes were told apart"
    sensitive = tuple(sorted(name for name, why in stays.items() if why == SENSITIVE))
    facts = Quantization(request.runtime, len(chosen), round(part, 3), rows, counts, sensitive, kept.is_over)
    rewrites = (*batched.rewrites, Rewrite("", "QuantizeLinear", what))
    rewrites += tuple(Rewrite(str(n.name), n.op_type, f"stays in fp32: {why}") for n, why in reasons.items())
    return LoweredModel(
        replace(batched, ir=quantized.keeping(stays), rewrites=rewrites),
        description=what,
        kept=counts,
        quantization=facts,
    )


def _ways(counts: Mapping[str, Mapping[str, int]]) -> str:
    """Return what the user can do."""
    rows = "leave out rows of the calibration data that give such values, or "
    return f"{rows if UNBOUNDED in counts else ''}{OTHER_WAYS}"


def _part_of_weights(graph: ir.Graph, chosen: Collection[str]) -> float:
    """Return the part of the constants that nodes compute with which are in int8."""
    sizes: dict[ir.Value, int] = {}
    lowered: set[ir.Value] = set()
    for node, value in weights_of_products(graph):
        sizes[value] = 0 if value.const_value is None else value.const_value.size
        if node.name in chosen:
            lowered.add(value)
    total = sum(sizes.values())
    return sum(sizes[value] for value in lowered) / total if total else 0.0
