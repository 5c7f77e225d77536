"""Quantized operators: with scales of the tensor, of an axis, and of each sample."""

from pathlib import Path

import pytest
from support.batched import Case, proofs, prove, refusals, refuse

UINT8 = "uint8 z = {128}"
ROUNDED = 1e-4

CASES = [
    Case("QuantizeLinear", "float[B, 4] x", "y = QuantizeLinear(x, s, z)", f"float s = {{0.02}}; {UINT8}"),
    Case("QuantizeLinear by channel", "float[B, 3, 4] x", "y = QuantizeLinear(x, s, z)",
         "float[3] s = {0.02, 0.03, 0.04}; int8[3] z = {0, 1, 2}"),
    Case("QuantizeLinear by channel of a sample without an axis", "float[B, 3, 4] x",
         "q = Squeeze(x) r = QuantizeLinear <axis = -2> (q, s, z) y = Unsqueeze(r, a)",
         "float[3] s = {0.02, 0.03, 0.04}; int8[3] z = {0, 1, 2}; int64[1] a = {0}", batches=[1]),
    Case("QuantizeLinear by sample", "float[B, 4] x", "y = QuantizeLinear <axis = 0> (x, s, z)",
         "float[3] s = {0.02, 0.03, 0.04}; int8[3] z = {0, 1, 2}", batches=[3],
         refused={3: "has a scale for each sample of the batch"}),
    Case("DequantizeLinear", "uint8[B, 4] x", "y = DequantizeLinear(x, s, z)", f"float s = {{0.02}}; {UINT8}",
         below={"x": 256}),
    Case("DequantizeLinear by blocks", "int8[B, 4] x", "y = DequantizeLinear <axis = 1, block_size = 2> (x, s)",
         "float[B, 2] s", equal={"s": 0}, opset=21, refused={1: "a scale for each block", 3: "a scale for each block"}),
    Case("com.microsoft QuantizeLinear", "float[B, 4] x", "y = com.microsoft.QuantizeLinear(x, s, z)",
         f"float s = {{0.02}}; {UINT8}"),
    Case("com.microsoft DequantizeLinear", "uint8[B, 4] x", "y = com.microsoft.DequantizeLinear(x, s, z)",
         f"float s = {{0.02}}; {UINT8}", below={"x": 256}),
    Case("DynamicQuantizeLinear", "float[B, 3, 4] x",
         "q, s, z = DynamicQuantizeLinear(x) y = DequantizeLinear(q, s, z)",
         outputs=["y", "q"], rtol=ROUNDED, refused={3: "takes its scale over the whole batch"}),
    Case("DynamicQuantizeLinear of opset 18", "float[B, 3, 4] x",
         "q, s, z = DynamicQuantizeLinear(x) y = DequantizeLinear(q, s, z)", opset=18, batches=[1], rtol=ROUNDED),
    Case("DynamicQuantizeLinear and MatMulInteger", "float[B, 3, 4] x",
         "q, s, z = DynamicQuantizeLinear(x) m = MatMulInteger(q, w, z, p) f = Cast <to = 1> (m) t = Mul(s, r) "
         "y = Mul(f, t)", "int8[4, 5] w; int8[5] p; float[5] r", below={"w": (-99, 99), "p": (-3, 3)}, batches=[1],
         rtol=ROUNDED),
    Case("DynamicQuantizeLinear of both factors", "float[B, 3, 4] a; float[B, 4, 5] b",
         "q, s, z = DynamicQuantizeLinear(a) r, t, p = DynamicQuantizeLinear(b) y = MatMulInteger(q, r, z, p)",
         batches=[1]),
    Case("DynamicQuantizeLinear and ConvInteger", "float[B, 2, 5, 5] x",
         "q, s, z = DynamicQuantizeLinear(x) c = ConvInteger <pads = [1, 1, 1, 1], strides = [2, 2]> (q, w, z, p) "
         "f = Cast <to = 1> (c) y = Mul(f, s)", "uint8[3, 2, 3, 3] w; uint8 p = {7}", below={"w": 200}, batches=[1],
         rtol=ROUNDED),
    Case("MatMulInteger", "uint8[B, 3, 4] x", "y = MatMulInteger(x, w, z)", f"int8[4, 5] w; {UINT8}",
         below={"x": 256, "w": (-99, 99)}),
    Case("ConvInteger", "uint8[B, 2, 5, 5] x", "y = ConvInteger(x, w, z)", f"uint8[3, 2, 3, 3] w; {UINT8}",
         below={"x": 256, "w": 200}),
    Case("QLinearMatMul", "uint8[B, 3, 4] x", "y = QLinearMatMul(x, s, z, w, t, v, r, z)",
         f"uint8[4, 5] w; float s = {{0.02}}; float[5] t = {{0.1, 0.2, 0.3, 0.1, 0.2}}; uint8[5] v; float r = "
         f"{{0.5}}; {UINT8}",
         below={"x": 256, "w": 200}),
    Case("QLinearConv", "uint8[B, 2, 5, 5] x", "y = QLinearConv(x, s, z, w, t, v, r, z)",
         f"uint8[3, 2, 3, 3] w; float s = {{0.02}}; float t = {{0.1}}; uint8 v = {{9}}; float r = {{0.5}}; {UINT8}",
         below={"x": 256, "w": 200}),
    Case("com.microsoft QLinearConv in NHWC order", "uint8[B, 5, 5, 2] x",
         "y = com.microsoft.QLinearConv <channels_last = 1, kernel_shape = [3, 3]> (x, s, z, w, t, v, r, z)",
         f"uint8[3, 2, 3, 3] w; float s = {{0.02}}; float t = {{0.1}}; uint8 v = {{9}}; float r = {{0.5}}; {UINT8}",
         below={"x": 256, "w": 200}),
    *(
        Case(name, "uint8[B, 3, 4] a; uint8[B, 3, 4] b", f"y = com.microsoft.{name}(a, s, z, b, t, z, r, z)",
             f"float s = {{0.02}}; float t = {{0.03}}; float r = {{0.04}}; {UINT8}", below={"a": 256, "b": 256})
        for name in ("QLinearAdd", "QLinearMul")
    ),
    Case("QLinearAdd of samples without an axis", "uint8[B, 3, 4] a",
         "q = Squeeze(a) c = com.microsoft.QLinearAdd(q, s, z, b, s, z, s, z) y = Unsqueeze(c, o)",
         f"uint8[2, 1, 4] b; float s = {{0.02}}; int64[1] o = {{0}}; {UINT8}", below={"a": 256, "b": 256}, batches=[1]),
    *(
        Case(name, "uint8[B, 3, 4] x", f"y = com.microsoft.{name}(x, s, z, t, z)",
             f"float s = {{0.02}}; float t = {{0.01}}; {UINT8}", below={"x": 256})
        for name in ("QLinearSigmoid", "QLinearLeakyRelu")
    ),
    Case("QLinearWhere", "bool[B, 4] c; uint8[B, 4] a; uint8[B, 4] b",
         "y = com.microsoft.QLinearWhere(c, a, s, z, b, t, z, s, z)",
         f"float s = {{0.02}}; float t = {{0.03}}; {UINT8}", below={"a": 256, "b": 256}),
    Case("QLinearSoftmax", "uint8[B, 3, 4] x",
         "y = com.microsoft.QLinearSoftmax <axis = -1, opset = 13> (x, s, z, t, o)",
         f"float s = {{0.02}}; float t = {{0.004}}; uint8 o = {{0}}; {UINT8}", below={"x": 256}),
    Case("QLinearSoftmax of opset 12 over everything", "uint8[B, 3, 4] x",
         "y = com.microsoft.QLinearSoftmax <axis = 0, opset = 12> (x, s, z, t, o)",
         f"float s = {{0.02}}; float t = {{0.004}}; uint8 o = {{0}}; {UINT8}", below={"x": 256},
         refused={1: "normalizes over axis 0", 3: "normalizes over axis 0"}),
    Case("QLinearConcat", "uint8[B, 3] a; uint8[B, 2] b",
         "y = com.microsoft.QLinearConcat <axis = 1> (s, z, a, s, z, b, t, z)",
         f"float s = {{0.02}}; float t = {{0.03}}; {UINT8}", below={"a": 256, "b": 256}),
    Case("QLinearConcat with a constant", "uint8[B, 3] a",
         "y = com.microsoft.QLinearConcat <axis = 1> (s, z, a, s, z, b, t, z)",
         f"uint8[B, 2] b; float s = {{0.02}}; float t = {{0.03}}; {UINT8}", below={"a": 256, "b": 256}, equal={"b": 0}),
    Case("QLinearAveragePool", "uint8[B, 2, 5, 5] x",
         "y = com.microsoft.QLinearAveragePool <kernel_shape = [2, 2]> (x, s, z, s, z)", f"float s = {{0.02}}; {UINT8}",
         below={"x": 256}),
    Case("QLinearAveragePool in NHWC order", "uint8[B, 5, 5, 2] x",
         "y = com.microsoft.QLinearAveragePool <kernel_shape = [2, 2], channels_last = 1> (x, s, z, s, z)",
         f"float s = {{0.02}}; {UINT8}", below={"x": 256}),
    Case("QLinearGlobalAveragePool", "uint8[B, 2, 5, 5] x",
         "y = com.microsoft.QLinearGlobalAveragePool(x, s, z, s, z)", f"float s = {{0.02}}; {UINT8}", below={"x": 256}),
    Case("QGemm", "uint8[B, 4] x", "y = com.microsoft.QGemm <transB = 1> (x, s, z, w, t, v, c, r, z)",
         f"uint8[3, 4] w; float s = {{0.02}}; float t = {{0.1}}; uint8 v = {{9}}; int32[3] c; float r = {{0.5}}; "
         f"{UINT8}",
         below={"x": 256, "w": 200}),
    Case("QGemm to floats", "uint8[B, 4] x", "y = com.microsoft.QGemm(x, s, z, w, t, v)",
         f"uint8[4, 3] w; float s = {{0.02}}; float t = {{0.1}}; uint8 v = {{9}}; {UINT8}", below={"x": 256, "w": 200},
         rtol=ROUNDED),
    Case("MatMulIntegerToFloat", "uint8[B, 3, 4] x", "y = com.microsoft.MatMulIntegerToFloat(x, w, s, t, z, v)",
         f"uint8[4, 5] w; float s = {{0.02}}; float t = {{0.1}}; uint8 v = {{9}}; {UINT8}", below={"x": 256, "w": 200},
         rtol=ROUNDED),
    Case("MatMulIntegerToFloat of what was quantized dynamically", "float[B, 3, 4] x",
         "q, s, z = DynamicQuantizeLinear(x) y = com.microsoft.MatMulIntegerToFloat(q, w, s, t, z, v, b)",
         "uint8[4, 5] w; float t = {0.1}; uint8 v = {9}; float[5] b", below={"w": 200}, batches=[1], rtol=ROUNDED),
    Case("DynamicQuantizeMatMul", "float[B, 3, 4] x", "y = com.microsoft.DynamicQuantizeMatMul(x, w, t, v, b)",
         "uint8[4, 5] w; float t = {0.1}; uint8 v = {9}; float[5] b", below={"w": 200}, rtol=ROUNDED,
         refused={3: "takes its scale over the whole batch"}),
    Case("MatMulNBits", "float[B, 3, 16] x",
         "y = com.microsoft.MatMulNBits <K = 16, N = 5, bits = 4, block_size = 16> (x, w, s)",
         "uint8[5, 1, 8] w; float[5] s", below={"w": 256}, rtol=ROUNDED),
    Case("MatMulBnb4", "float[B, 3, 16] x",
         "y = com.microsoft.MatMulBnb4 <K = 16, N = 5, block_size = 16, quant_type = 0> (x, w, s)",
         "uint8[40] w; float[5] s", below={"w": 256}, rtol=ROUNDED),
    Case("QAttention", "uint8[B, 4, 8] x", "y = com.microsoft.QAttention <num_heads = 2> (x, w, b, s, t, m, z, v)",
         f"uint8[8, 24] w; float[24] b; float s = {{0.02}}; float t = {{0.01}}; int32[B, 4] m; uint8 v = {{100}}; "
         f"{UINT8}",
         equal={"m": 0}, below={"x": 256, "w": 200}, rtol=ROUNDED),
    Case("QEmbedLayerNormalization", "int32[B, 4] i; int32[B, 4] t; int32[B, 4] m",
         "y, n = com.microsoft.QEmbedLayerNormalization(i, t, w, p, s, g, h, m, r, r, r, r, r, z, z, z, z, z)",
         f"uint8[9, 6] w; uint8[4, 6] p; uint8[2, 6] s; uint8[6] g; uint8[6] h; float r = {{0.02}}; {UINT8}",
         outputs=["y", "n"], below={"i": 9, "t": 2, "w": 256, "p": 256, "s": 256, "g": 256, "h": 256}, rtol=ROUNDED),
]  # fmt: skip


@pytest.mark.parametrize(("case", "static_batch"), proofs(CASES))
def test_the_batched_model_answers_each_sample_as_the_original_does(
    case: Case, static_batch: int, tmp_path: Path
) -> None:
    prove(case, static_batch, tmp_path)


@pytest.mark.parametrize(("case", "static_batch"), refusals(CASES))
def test_what_mixes_samples_is_refused_with_its_reason(case: Case, static_batch: int, tmp_path: Path) -> None:
    refuse(case, static_batch, tmp_path)
