"""Compare ways to multiply by constant weights on integers, on this CPU: their speed beside fp32, and their error.

    python benchmarks/int8_products.py [--threads 1] [--rows 1 8 32 256] [--json]

    row scales       what `--precision int8-dynamic` publishes: a scale for each row, with weights of 7 or of 8 bits
    one scale        `DynamicQuantizeMatMul` with weights of 7 bits, as `quantize_dynamic` and ONNX Runtime's optimizer
                     make it: one scale for the whole batch
    8 bits           the same with weights of 8 bits, whose sums a processor without VNNI cuts off
    blocks           `MatMulNBits` with 8 bits and accuracy level 4: a scale for each block of 128 values of a row
    convolution      `ConvInteger` with a scale for each image, beside `Conv`

Times are medians of ratios: the models take turns. The error is the root mean square of the differences from fp64, as a
part of the answers' standard deviation. Inputs and weights are normal, so that no column is much larger than the rest.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper
from onnx_ir.passes.common import RemoveUnusedNodesPass

from builder.lowering.int8.integers import Bits, IntegerProducts
from builder.lowering.int8.products import find_products
from builder.proof.session import Session, open_rewritten
from builder.proof.speed import compare, take_turns

Array = np.ndarray[Any, Any]

SHAPES = ((256, 256), (768, 768), (768, 3072), (3072, 768))
IMAGES = ((3, 32, 3, 112), (64, 64, 3, 28), (128, 256, 1, 14))
"""Channels in and out, size of the kernel, height and width."""


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32, 256])
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = [*_products(given.threads, given.rows), *_convolutions(given.threads)]
    if given.json:
        print(json.dumps(found, indent=2))
        return
    for each in found:
        ways = "  ".join(f"{way} {ratio:.2f}x {error:.1%}" for way, (ratio, error) in each["ways"].items())
        print(f"{each['what']}  fp32 {each['fp32_ms']:.3f} ms  {ways}")


def _products(threads: int, counts: Sequence[int]) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    found = []
    for inner, columns in SHAPES:
        w = (rng.standard_normal((inner, columns)) / np.sqrt(inner)).astype(np.float32)
        plain = _model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": w}, ["n", inner])
        ways = {
            "fp32": plain,
            "row scales": _row_scales(plain, 7),
            "row scales, 8 bits": _row_scales(plain, 8),
            "one scale": _one_scale(w, 63),
            "8 bits": _one_scale(w, 127),
            "blocks": _blocks(w),
        }
        for rows in counts:
            x = rng.standard_normal((rows, inner)).astype(np.float32)
            wanted = x.astype(np.float64) @ w
            found.append(_measured(f"[{rows}, {inner}] @ [{inner}, {columns}]", ways, x, wanted, threads))
    return found


def _convolutions(threads: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    found = []
    for taken, made, kernel, size in IMAGES:
        w = rng.standard_normal((made, taken, kernel, kernel)).astype(np.float32)
        pads = [kernel // 2] * 4
        plain = _model([helper.make_node("Conv", ["x", "w"], ["y"], pads=pads)], {"w": w}, ["n", taken, size, size])
        x = rng.standard_normal((8, taken, size, size)).astype(np.float32)
        wanted = _session(plain, 1).run({"x": x})["y"].astype(np.float64)
        ways = {"fp32": plain, "convolution": _convolution(w, pads, size)}
        what = f"[8, {taken}, {size}, {size}], {made} kernels of {kernel} x {kernel}"
        found.append(_measured(what, ways, x, wanted, threads))
    return found


def _measured(what: str, ways: Mapping[str, bytes], x: Array, wanted: Array, threads: int) -> dict[str, Any]:
    sessions = {way: _session(data, threads) for way, data in ways.items()}
    runs = [partial(session.run, {"x": x}) for session in sessions.values()]
    fp32, *others = take_turns(runs)
    speeds = [compare(len(x), fp32, times) for times in others]
    figures = {}
    for (way, session), speed in zip(list(sessions.items())[1:], speeds, strict=True):
        error = np.sqrt(np.mean((session.run({"x": x})["y"] - wanted) ** 2)) / wanted.std()
        figures[way] = (speed.ratio, float(error))
    return {"what": what, "fp32_ms": speeds[0].fp32_ms, "ways": figures}


def _session(data: bytes, threads: int) -> Session:
    return open_rewritten(data, where=Path("model.onnx"), threads=threads)


def _model(nodes: Sequence[onnx.NodeProto], constants: Mapping[str, Array], shape: Sequence[int | str]) -> bytes:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    inferred = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=opsets, ir_version=10))
    return bytes(inferred.SerializeToString())


def _row_scales(data: bytes, bits: Bits) -> bytes:
    model = ir.from_proto(onnx.load_model_from_string(data))
    writer = IntegerProducts(model, bits)
    for product in find_products(model).products:
        writer.replace(product)
    RemoveUnusedNodesPass()(model)
    return bytes(ir.to_proto(model).SerializeToString())


def _one_scale(w: Array, largest: int) -> bytes:
    scales = (np.abs(w).max(axis=0) / largest).astype(np.float32)
    node = helper.make_node("DynamicQuantizeMatMul", ["x", "w", "s"], ["y"], domain="com.microsoft")
    return _model([node], {"w": np.rint(w / scales).astype(np.int8), "s": scales}, ["n", len(w)])


def _blocks(w: Array, size: int = 128) -> bytes:
    inner, columns = w.shape
    blocks = w.T.reshape(columns, inner // size, size)
    scales = (np.abs(blocks).max(axis=2) / 127).astype(np.float32)
    packed = (np.rint(blocks / scales[..., None]) + 128).astype(np.uint8)
    facts: dict[str, Any] = {"K": inner, "N": columns, "bits": 8, "block_size": size, "accuracy_level": 4}
    node = helper.make_node("MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", **facts)
    return _model([node], {"w": packed, "s": scales}, ["n", inner])


def _convolution(w: Array, pads: Sequence[int], size: int) -> bytes:
    scales = (np.abs(w).max(axis=(1, 2, 3)) / 63).astype(np.float32)
    zero = numpy_helper.from_array(np.array([128], np.uint8))
    nodes = [
        helper.make_node("Abs", ["x"], ["a"]),
        helper.make_node("ReduceMax", ["a", "axes"], ["m"], keepdims=1),
        helper.make_node("Mul", ["m", "levels"], ["s"]),
        helper.make_node("Reshape", ["s", "flat"], ["f"]),
        helper.make_node("Shape", ["f"], ["c"]),
        helper.make_node("ConstantOfShape", ["c"], ["z"], value=zero),
        helper.make_node("QuantizeLinear", ["x", "f", "z"], ["q"], axis=0),
        helper.make_node("ConvInteger", ["q", "w", "zero"], ["i"], pads=pads),
        helper.make_node("Cast", ["i"], ["n"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["n", "s"], ["r"]),
        helper.make_node("Mul", ["r", "columns"], ["y"]),
    ]
    constants = {
        "w": np.rint(w / scales[:, None, None, None]).astype(np.int8),
        "columns": scales.reshape(1, -1, 1, 1),
        "axes": np.array([1, 2, 3], np.int64),
        "levels": np.array(1 / 127, np.float32),
        "flat": np.array([-1], np.int64),
        "zero": np.array(128, np.uint8),
    }
    return _model(nodes, constants, ["n", w.shape[1], size, size])


if __name__ == "__main__":
    main()
