"""Recurrent operators and attention."""

from pathlib import Path

import pytest
from support.batched import Case, proofs, prove, refusals, refuse

LSTM = "float[1, 8, 3] w; float[1, 8, 2] r; float[1, 16] b"
QKV = "float[B, 4, 8] q; float[B, 5, 8] k; float[B, 5, 8] v"
HEADS = "float[B, 2, 4, 6] q; float[B, 2, 5, 6] k; float[B, 2, 5, 6] v"
PACKED = "float[8, 24] w; float[24] b"

CASES = [
    Case("LSTM", "float[4, B, 3] x", "y, h, c = LSTM <hidden_size = 2> (x, w, r, b)", LSTM, axes={"x": 1},
         outputs=["y", "h", "c"]),
    Case("LSTM with the batch first", "float[B, 4, 3] x",
         "t = Transpose <perm = [1, 0, 2]> (x) o = LSTM <hidden_size = 2> (t, w, r, b) s = Squeeze(o, a) "
         "y = Transpose <perm = [1, 0, 2]> (s)", f"{LSTM}; int64[1] a = {{1}}"),
    Case("LSTM with states stored for the batch", "float[4, B, 3] x",
         'y = LSTM <hidden_size = 2> (x, w, r, b, "", h, c)', f"{LSTM}; float[1, B, 2] h; float[1, B, 2] c",
         axes={"x": 1}, equal={"h": 1, "c": 1}),
    Case("LSTM with states of each sample's own", "float[4, B, 3] x; float[1, B, 2] h",
         'y = LSTM <hidden_size = 2> (x, w, r, b, "", h)', LSTM, axes={"x": 1, "h": 1}),
    Case("LSTM with lengths and peepholes", "float[4, B, 3] x; int32[B] n",
         'y = LSTM <hidden_size = 2> (x, w, r, b, n, "", "", p)', f"{LSTM}; float[1, 6] p", axes={"x": 1},
         below={"n": (2, 5)}),
    Case("LSTM of both directions", "float[4, B, 3] x",
         'y, h = LSTM <hidden_size = 2, direction = "bidirectional"> (x, w, r)',
         "float[2, 8, 3] w; float[2, 8, 2] r", axes={"x": 1}, outputs=["y", "h"]),
    Case("LSTM of a sample without an axis", "float[B, 4, 3] x",
         "q = Squeeze(x) u = Unsqueeze(q, a) o = LSTM <hidden_size = 2> (u, w, r, b) s = Squeeze(o) y = "
         "Unsqueeze(s, z)",
         f"{LSTM}; int64[1] a = {{1}}; int64[1] z = {{0}}", batches=[1]),
    Case("LSTM over frames folded into the batch", "float[4, B, 5, 3] x",
         "f = Reshape(x, s) y = LSTM <hidden_size = 2> (f, w, r, b)", f"{LSTM}; int64[3] s = {{4, 5B, 3}}",
         axes={"x": 1}),
    Case("LSTM over the batch", "float[B, 4, 3] x", "y = LSTM <hidden_size = 2> (x, w, r, b)", LSTM,
         refused={1: "mixes axis 0 of 'x', which holds the batch", 3: "mixes axis 0 of 'x', which holds the batch"}),
    Case("GRU", "float[4, B, 3] x", "y, h = GRU <hidden_size = 2, linear_before_reset = 1> (x, w, r)",
         "float[1, 6, 3] w; float[1, 6, 2] r", axes={"x": 1}, outputs=["y", "h"]),
    Case("RNN", "float[4, B, 3] x", "y, h = RNN <hidden_size = 2> (x, w, r)", "float[1, 2, 3] w; float[1, 2, 2] r",
         axes={"x": 1}, outputs=["y", "h"]),
    Case("LSTM of layout 1", "float[B, 4, 3] x", "y, h, c = LSTM <hidden_size = 2, layout = 1> (x, w, r, b)", LSTM,
         outputs=["y", "h", "c"], by_reference=True, batches=[1]),
    Case("Attention of heads", HEADS, "y = Attention(q, k, v)", opset=23, rtol=1e-4),
    Case("Attention of heads in the last axis", QKV, "y = Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, v)",
         opset=23, rtol=1e-4),
    Case("Attention with a mask for all", HEADS, "y = Attention(q, k, v, m)", "float[4, 5] m", opset=23, rtol=1e-4),
    Case("Attention with a mask for every head", HEADS, "y = Attention(q, k, v, m)", "float[1, 2, 4, 5] m", opset=23,
         rtol=1e-4),
    Case("Attention with a mask of each sample's own", f"{HEADS}; float[B, 1, 4, 5] m", "y = Attention(q, k, v, m)",
         opset=23, rtol=1e-4),
    Case("Attention with a mask without an axis", f"{HEADS}; float[B, 4, 5] m",
         "s = Squeeze(m) y = Attention(q, k, v, s)",
         opset=23, rtol=1e-4, batches=[1]),
    Case("Attention with a mask that spells out the batch", HEADS, "y = Attention(q, k, v, m)", "float[B, 1, 4, 5] m",
         equal={"m": 0}, opset=23, rtol=1e-4),
    Case("Attention with caches", f"{HEADS}; float[B, 2, 3, 6] c; float[B, 2, 3, 6] d",
         'y, p, r = Attention(q, k, v, "", c, d)', outputs=["y", "p", "r"], opset=23, rtol=1e-4),
    Case("Attention among the samples", "float[B, 8] x",
         "u = Unsqueeze(x, a) y = Attention <q_num_heads = 2, kv_num_heads = 2> (u, u, u)", "int64[1] a = {0}",
         opset=23,
         refused={1: "mixes axis 1 of 'u', which holds the batch", 3: "mixes axis 1 of 'u', which holds the batch"}),
    Case("RotaryEmbedding", "float[B, 2, 4, 6] x; int64[B, 4] p", "y = RotaryEmbedding(x, c, s, p)",
         "float[9, 3] c; float[9, 3] s", below={"p": 9}, opset=23),
    Case("RotaryEmbedding at constant positions", "float[B, 2, 4, 6] x", "y = RotaryEmbedding(x, c, s, p)",
         "float[9, 3] c; float[9, 3] s; int64[B, 4] p", equal={"p": 0}, below={"p": 9}, opset=23),
    Case("RotaryEmbedding by tables for the batch", "float[B, 2, 4, 6] x", "y = RotaryEmbedding(x, c, s)",
         "float[B, 4, 3] c; float[B, 4, 3] s", equal={"c": 0, "s": 0}, opset=23),
    Case("TensorScatter", "float[B, 2, 6, 3] c; float[B, 2, 2, 3] u; int64[B] i", "y = TensorScatter(c, u, i)",
         below={"i": 4}, opset=24, recent=True),
    Case("LinearAttention", "float[B, 3, 4] q; float[B, 3, 4] k; float[B, 3, 4] v",
         'y, s = LinearAttention <q_num_heads = 2, kv_num_heads = 2, update_rule = "linear"> (q, k, v)',
         outputs=["y", "s"], opset=27, by_reference=True, rtol=1e-4),
    Case("com.microsoft Attention", "float[B, 4, 8] x", "y = com.microsoft.Attention <num_heads = 2> (x, w, b)", PACKED,
         rtol=1e-4),
    Case("com.microsoft Attention with lengths", "float[B, 4, 8] x; int32[B] n",
         "y = com.microsoft.Attention <num_heads = 2> (x, w, b, n)", PACKED, below={"n": (1, 5)}, rtol=1e-4),
    Case("com.microsoft Attention with a mask", "float[B, 4, 8] x; int32[B, 4] m",
         "y = com.microsoft.Attention <num_heads = 2> (x, w, b, m)", PACKED, rtol=1e-4),
    Case("com.microsoft Attention with a mask for all", "float[B, 4, 8] x",
         "y = com.microsoft.Attention <num_heads = 2> (x, w, b, m)", f"{PACKED}; int32[B, 4] m", equal={"m": 0},
         rtol=1e-4),
    Case("com.microsoft Attention with starts and ends", "float[B, 4, 8] x",
         "y = com.microsoft.Attention <num_heads = 2> (x, w, b, m)", f"{PACKED}; int32[2B] m", below={"m": (1, 4)},
         refused={1: "lists the starts and ends", 3: "lists the starts and ends"}),
    Case("com.microsoft Attention with a cache", "float[B, 1, 8] x; float[2, B, 2, 3, 4] p",
         'y, r = com.microsoft.Attention <num_heads = 2> (x, w, b, "", p)', PACKED, axes={"p": 1}, outputs=["y", "r"],
         rtol=1e-4),
    Case("com.microsoft Attention with a bias", "float[B, 4, 8] x; float[B, 2, 4, 4] t",
         'y = com.microsoft.Attention <num_heads = 2> (x, w, b, "", "", t)', PACKED, rtol=1e-4),
    Case("com.microsoft Attention with a bias for all", "float[B, 4, 8] x",
         'y = com.microsoft.Attention <num_heads = 2> (x, w, b, "", "", t)', f"{PACKED}; float[1, 2, 4, 4] t",
         rtol=1e-4),
    Case("MultiHeadAttention", QKV, "y = com.microsoft.MultiHeadAttention <num_heads = 2> (q, k, v)", rtol=1e-4),
    Case("MultiHeadAttention of heads", "float[B, 4, 8] q; float[B, 2, 5, 4] k; float[B, 2, 5, 4] v",
         "y = com.microsoft.MultiHeadAttention <num_heads = 2> (q, k, v)", rtol=1e-4),
    Case("MultiHeadAttention with a padding mask and a bias", f"{QKV}; int32[B, 5] m",
         'y = com.microsoft.MultiHeadAttention <num_heads = 2> (q, k, v, b, m, t)', "float[24] b; float[1, 2, 4, 5] t",
         rtol=1e-4),
    Case("GroupQueryAttention",
         "float[B, 4, 16] q; float[B, 4, 8] k; float[B, 4, 8] v; float[B, 1, 4, 8] c; float[B, 1, 4, 8] d",
         "y, p, r = com.microsoft.GroupQueryAttention <num_heads = 2, kv_num_heads = 1> (q, k, v, c, d, n, t)",
         "int32[B] n; int32 t = {4}", below={"n": (3, 4)}, equal={"n": 0}, outputs=["y", "p", "r"], rtol=1e-4),
    Case("com.microsoft RotaryEmbedding", "float[B, 4, 12] x",
         "y = com.microsoft.RotaryEmbedding <num_heads = 2> (x, p, c, s)",
         "int64[1] p = {0}; float[9, 3] c; float[9, 3] s"),
    Case("com.microsoft RotaryEmbedding at positions", "float[B, 4, 12] x; int64[B, 4] p",
         "y = com.microsoft.RotaryEmbedding <num_heads = 2> (x, p, c, s)", "float[9, 3] c; float[9, 3] s",
         below={"p": 9}),
    Case("EmbedLayerNormalization", "int32[B, 4] i; int32[B, 4] t; int32[B, 4] m",
         "y, n = com.microsoft.EmbedLayerNormalization(i, t, w, p, s, g, h, m)",
         "float[9, 6] w; float[4, 6] p; float[2, 6] s; float[6] g; float[6] h", outputs=["y", "n"],
         below={"i": 9, "t": 2}, rtol=1e-4),
    Case("EmbedLayerNormalization at constant positions", "int32[B, 4] i",
         'y, n = com.microsoft.EmbedLayerNormalization(i, "", w, p, "", g, h, "", o)',
         "float[9, 6] w; float[4, 6] p; float[6] g; float[6] h; int32[1, 4] o = {3, 2, 1, 0}", below={"i": 9},
         rtol=1e-4),
]  # fmt: skip


@pytest.mark.parametrize(("case", "static_batch"), proofs(CASES))
def test_the_batched_model_answers_each_sample_as_the_original_does(
    case: Case, static_batch: int, tmp_path: Path
) -> None:
    prove(case, static_batch, tmp_path)


@pytest.mark.parametrize(("case", "static_batch"), refusals(CASES))
def test_what_mixes_samples_is_refused_with_its_reason(case: Case, static_batch: int, tmp_path: Path) -> None:
    refuse(case, static_batch, tmp_path)
