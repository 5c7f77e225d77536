"""Quantize the weights to int8, and let the model measure the ranges of its values while it runs."""

from collections import Counter
from dataclasses import replace

from onnx_ir.passes.common import RemoveUnusedNodesPass

from builder.batching import BatchedModel, Rewrite
from builder.errors import ModelError
from builder.lowering.int8.integers import IntegerProducts
from builder.lowering.int8.products import Found, find_products
from builder.lowering.preparing import prepared
from builder.lowering.request import LoweredModel, LoweringRequest
from builder.printable import counted
from builder.record import Quantization

OLDEST_OPSET = 13
"""The first opset whose QuantizeLinear takes a scale for each index of an axis."""


def quantize_dynamically(batched: BatchedModel, request: LoweringRequest) -> LoweredModel:
    """Multiply values and constant weights as integers, with a scale for each row of the values.

    Raises:
        ModelError: No product of the model can be computed on integers, or TensorRT is to run it.
    """
    where = batched.original.path
    if request.runtime == "tensorrt":
        what = "TensorRT cannot quantize values while a model runs: it has no MatMulInteger"
        raise ModelError(where, what, "use --precision int8, which measures the ranges of values beforehand")
    model = prepared(batched.ir, where)
    if model.opset_imports.get("", 0) < OLDEST_OPSET:
        what = f"opset {model.opset_imports.get('', 0)} cannot quantize with a scale for each row"
        raise ModelError(where, what, f"export the model with opset {OLDEST_OPSET} or higher")
    found = find_products(model, request.keep, request.slow)
    quantization = _describe(found)
    if not found.products:
        what = f"nothing in this model can be in int8: {_list(quantization) or 'it has no products of matrices'}"
        raise ModelError(where, what, "leave out --precision")
    writer = IntegerProducts(model)
    for product in found.products:
        writer.replace(product)
    RemoveUnusedNodesPass()(model)
    description = _in_words(quantization)
    rewrites = (*batched.rewrites, Rewrite("", "MatMulInteger", description))
    lowered = replace(batched, ir=model, rewrites=rewrites)
    return LoweredModel(lowered, None, description, quantization.kept, quantization)


def _describe(found: Found) -> Quantization:
    kept: dict[str, Counter[str]] = {}
    for node, reason in found.reasons.items():
        kept.setdefault(reason, Counter())[node.op_type] += 1
    # Plain dictionaries: `dataclasses.asdict` makes something else of a Counter.
    counts = {reason: dict(counter) for reason, counter in kept.items()}
    return Quantization("cpu", len(found.products), round(found.part, 4), 0, counts)


def _in_words(quantization: Quantization) -> str:
    stayed = f"; still in fp32: {_list(quantization)}" if quantization.kept else ""
    done = f"{counted(quantization.nodes, 'product')} and {quantization.weights:.0%} of the weights in int8"
    return f"{done}, with a scale for each row of values{stayed}"


def _list(quantization: Quantization) -> str:
    """List the nodes that stay in fp32: `2 MatMul (both factors depend on the input); 1 Conv (…)`."""
    return "; ".join(
        f"{', '.join(f'{n} {op_type}' for op_type, n in found.items())} ({reason})"
        for reason, found in quantization.kept.items()
    )
