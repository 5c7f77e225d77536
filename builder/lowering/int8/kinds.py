"""Which kinds of nodes may be slower on integers than in fp32, so that both can be measured."""

from collections.abc import Mapping

from builder.batching import BatchedModel
from builder.lowering.int8.products import Product, find_products
from builder.lowering.int8.raising import floats_of
from builder.lowering.request import LoweringRequest
from builder.model import operator

SMALL = 160.0
"""A product of `[M, K] @ [K, n]` is small if `K * n / (K + n)` is less than this.

To quantize a row takes time in proportion to K, and to rescale its sums in proportion to n; the product itself takes
K * n. With 256 for both, that is 128, and integers were slower than fp32; with 768, it is 384, and they were 1.5 to 1.9
times as fast (ONNX Runtime 1.31.1, AVX2).
"""


def slow_kinds(batched: BatchedModel, request: LoweringRequest) -> Mapping[str, frozenset[str]]:
    """Return the names of nodes that may be slower on integers, by kind; a kind that all nodes are of is left out."""
    model = floats_of(batched)
    if request.precision == "int8-dynamic":
        products = find_products(model, request.keep).products
        names = {str(product.node.name) for product in products}
        kinds = {"small products": {str(product.node.name) for product in products if _is_small(product)}}
    else:
        by_type = {str(node.name): operator(node)[1] for node in model.graph}
        convolutions = {name for name, op_type in by_type.items() if op_type in ("Conv", "ConvTranspose")}
        others = {name for name, op_type in by_type.items() if op_type in ("MatMul", "Gemm")}
        names = convolutions | others
        kinds = {"convolutions": convolutions, "products of matrices": others}
    return {kind: frozenset(found) for kind, found in kinds.items() if found and found != names}


def _is_small(product: Product) -> bool:
    rows, columns = product.weights.shape[-2:]
    return rows * columns / (rows + columns) < SMALL
