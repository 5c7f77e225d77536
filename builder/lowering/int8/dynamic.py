"""Quantize the weights to int8, and let the model measure the ranges of its values while it runs."""

from collections.abc import Collection
from dataclasses import dataclass, replace

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from builder.batching import BatchedModel, Rewrite
from builder.errors import ModelError
from builder.lowering.int8.integers import BITS, Bits, IntegerProducts
from builder.lowering.int8.products import find_products
from builder.lowering.int8.raising import floats_of
from builder.lowering.int8.reasons import SENSITIVE, counted_by_reason, in_words, too_little
from builder.lowering.int8.sensitivity import BUDGET_S, Kept, keep_sensitive
from builder.lowering.magnitudes import sample_sets
from builder.lowering.request import LoweredModel, LoweringRequest
from builder.printable import counted
from builder.record import Quantization
from builder.tensors import Arrays

ENOUGH = 0.1
"""The part of the weights that must be in int8; with less, the model is refused."""

WAYS = "leave out --precision, or try --precision int8 --calibration FILE.npz"


def quantize_dynamically(batched: BatchedModel, request: LoweringRequest) -> LoweredModel:
    """Multiply values and constant weights as integers, with a scale for each row of the values.

    Weights have 7 bits. If the errors are too large then, they have 8, and the products that cause the largest errors
    stay in fp32.

    Raises:
        ModelError: Too little of the model can be computed on integers, it is quantized already, or TensorRT is to run
            it.
    """
    where = batched.original.path
    if request.runtime == "tensorrt":
        what = "TensorRT cannot quantize values while a model runs: it has no MatMulInteger"
        raise ModelError(where, what, "use --precision int8, which measures the ranges of values beforehand")
    form = _Form(floats_of(batched), request)
    found = find_products(form.floats, request.keep, request.slow)
    if not found.products:
        counts = counted_by_reason(form.floats.graph, found.reasons)
        raise too_little(where, "nothing in this model can be in int8", counts, ways=WAYS)
    bits, kept = _exact_enough(batched, form, [str(product.node.name) for product in found.products])
    return _lowered(batched, form, bits, kept)


@dataclass(frozen=True, slots=True)
class _Form:
    """The graph in fp32, and what is asked of it."""

    floats: ir.Model
    request: LoweringRequest

    def quantized(self, bits: Bits, keep: Collection[str]) -> ir.Model:
        """Return the graph with its products on integers, except for those to keep."""
        model = self.floats.clone()
        writer = IntegerProducts(model, bits)
        for product in find_products(model, {*self.request.keep, *keep}, self.request.slow).products:
            writer.replace(product)
        RemoveUnusedNodesPass()(model)
        return model


def _exact_enough(batched: BatchedModel, form: _Form, names: list[str]) -> tuple[Bits, Kept]:
    """Return how many bits the weights need, and the products that stay in fp32 even so."""
    units = [(name,) for name in names]
    bits, kept = BITS[0], Kept(frozenset(), {}, False, 0.0)
    for rows in sample_sets(batched, _given(form.request)):
        for bits in BITS:
            try:
                kept = keep_sensitive(
                    batched,
                    units,
                    lambda keep, bits=bits: form.quantized(bits, keep),  # type: ignore[misc]
                    rows,
                    max_error=form.request.max_error,
                    budget_s=0.0 if bits != BITS[-1] else BUDGET_S,
                )
            except ModelError:
                break  # the model fails on these samples
            if not kept.names:
                return bits, kept
        else:
            return bits, kept
    return bits, kept


def _given(request: LoweringRequest) -> Arrays | None:
    return request.calibration if request.samples is None else request.samples


def _lowered(batched: BatchedModel, form: _Form, bits: Bits, kept: Kept) -> LoweredModel:
    graph = form.floats.graph
    found = find_products(form.floats, {*form.request.keep, *kept.names}, form.request.slow)
    reasons = {node: SENSITIVE if node.name in kept.names else reason for node, reason in found.reasons.items()}
    counts = counted_by_reason(graph, reasons)
    if found.part < ENOUGH:
        what = f"only {found.part:.0%} of the weights can be in int8"
        raise too_little(batched.original.path, what, counts, kept, ways=WAYS)
    products = counted(len(found.products), "product")
    what = f"{products} and {found.part:.0%} of the weights in int8 ({bits} bits), with a scale for each row of values"
    if counts:
        what += f"; still in fp32: {in_words(counts)}"
    if kept.is_over:
        what += "; the time was up before single nodes were told apart"
    facts = Quantization(
        "cpu", len(found.products), round(found.part, 3), 0, counts, tuple(sorted(kept.names)), kept.is_over
    )
    rewrites = (*batched.rewrites, Rewrite("", "MatMulInteger", what))
    rewrites += tuple(Rewrite(str(n.name), n.op_type, f"stays in fp32: {why}") for n, why in reasons.items())
    model = form.quantized(bits, kept.names)
    return LoweredModel(
        replace(batched, ir=model, rewrites=rewrites), description=what, kept=counts, quantization=facts
    )
