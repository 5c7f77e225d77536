"""Products: MatMul, Gemm, Einsum and their fused kin."""

from pathlib import Path

import pytest
from support.batched import Case, proofs, prove, refusals, refuse

SUMS = {1: "sums over", 3: "sums over"}

CASES = [
    Case("MatMul with weights", "float[B, 4, 5] x", "y = MatMul(x, w)", "float[5, 3] w"),
    Case("MatMul of rows", "float[B, 5] x", "y = MatMul(x, w)", "float[5, 3] w"),
    Case("MatMul with a vector", "float[B, 4, 5] x", "y = MatMul(x, w)", "float[5] w"),
    Case("MatMul of rows with a vector", "float[B, 5] x", "y = MatMul(x, w)", "float[5] w"),
    Case("MatMul of a vector with rows of samples", "float[B, 4, 5] x", "y = MatMul(w, x)", "float[4] w"),
    Case("MatMul of a vector of the sample's own", "float[B, 5] x",
         "s = Squeeze(x) m = MatMul(s, w) y = Unsqueeze(m, a)",
         "float[5, 3] w; int64[1] a = {0}", batches=[1]),
    Case("MatMul of samples with samples", "float[B, 4, 5] a; float[B, 5, 3] b", "y = MatMul(a, b)"),
    Case("MatMul of samples without an axis", "float[B, 4, 5] a; float[B, 5, 3] b",
         "p = Squeeze(a) q = Squeeze(b) m = MatMul(p, q) y = Unsqueeze(m, i)", "int64[1] i = {0}", batches=[1]),
    Case("MatMul of heads with samples without an axis", "float[B, 2, 4, 5] a; float[B, 5, 3] b",
         "q = Squeeze(b) y = MatMul(a, q)", batches=[1]),
    Case("MatMul with weights from the left", "float[B, 4, 5] x", "y = MatMul(w, x)", "float[3, 4] w"),
    Case("MatMul with the batch among the columns", "float[5, B] x", "m = MatMul(w, x) y = Transpose(m)",
         "float[3, 5] w", axes={"x": 1}),
    Case("MatMul with weights of higher rank", "float[B, 4, 5] x",
         "m = MatMul(x, w) y = Transpose <perm = [1, 0, 2, 3]> (m)",
         "float[2, 1, 5, 3] w"),
    Case("MatMul with weights that spell out the batch", "float[B, 4, 5] x", "y = MatMul(x, w)", "float[B, 5, 3] w",
         equal={"w": 0}),
    Case("MatMul with weights of each sample's own", "float[B, 4, 5] x", "y = MatMul(x, w)", "float[B, 5, 3] w",
         batches=[3], refused={3: "holds different values for the 3 samples"}),
    Case("a product of a matrix with itself", "float[B, 4, 5] x",
         "t = Transpose <perm = [0, 2, 1]> (x) y = MatMul(x, t)"),
    Case("the batch with itself", "float[B, 5] x", "t = Transpose(x) y = MatMul(x, t)",
         refused={1: "multiplies every sample of the batch with every other",
                  3: "multiplies every sample of the batch with every other"}),
    Case("a covariance", "float[B, 5] x", "t = Transpose(x) y = MatMul(t, x)", refused=SUMS),
    Case("a mean by a product", "float[B, 5] x", "y = MatMul(w, x)", "float[1, B] w", refused=SUMS),
    Case("Gemm", "float[B, 5] x", "y = Gemm <transB = 1> (x, w, b)", "float[3, 5] w; float[3] b"),
    Case("Gemm with a bias that spells out the batch", "float[B, 5] x", "y = Gemm <beta = 2.0> (x, w, b)",
         "float[5, 3] w; float[B, 3] b", equal={"b": 0}),
    Case("Gemm of the transposed batch", "float[5, B] x", "y = Gemm <transA = 1, alpha = 0.5> (x, w, b)",
         "float[5, 3] w; float[1, 3] b", axes={"x": 1}),
    Case("Gemm with samples on the right", "float[5, B] x", "g = Gemm(w, x, b) y = Transpose(g)",
         "float[3, 5] w; float[3, 1] b", axes={"x": 1}),
    Case("Gemm of a matrix of the sample's own", "float[B, 4, 5] x",
         "s = Squeeze(x) g = Gemm(s, w, b) y = Unsqueeze(g, a)",
         "float[5, 3] w; float[4, 3] b; int64[1] a = {0}", batches=[1]),
    Case("Gemm of samples and samples", "float[B, 4, 5] p; float[B, 5, 3] q; float[B, 3] r",
         "s = Squeeze(p) t = Squeeze(q) g = Gemm <beta = 0.5> (s, t, r) y = Unsqueeze(g, a)", "int64[1] a = {0}",
         batches=[1]),
    Case("Gemm of a folded batch", "float[B, 4, 5] x", "f = Reshape(x, s) g = Gemm(f, w, b) y = Reshape(g, t)",
         "float[5, 3] w; float[3] b; int64[2] s = {4B, 5}; int64[3] t = {B, 4, 3}"),
    Case("Gemm over the batch", "float[B, 5] x", "y = Gemm <transA = 1> (x, w)", "float[B, 3] w", refused=SUMS),
    Case("Einsum of samples with weights", "float[B, 4, 5] x", 'y = Einsum <equation = "bij,jk->bik"> (x, w)',
         "float[5, 3] w"),
    Case("Einsum of samples with samples", "float[B, 4, 5] a; float[B, 3, 5] b",
         'y = Einsum <equation = "bij,bkj->bik"> (a, b)'),
    Case("Einsum of samples without an axis", "float[B, 4, 5] a; float[B, 3, 5] b",
         'p = Squeeze(a) q = Squeeze(b) e = Einsum <equation = "ij,kj->ik"> (p, q) y = Unsqueeze(e, i)',
         "int64[1] i = {0}", batches=[1]),
    Case("Einsum in its implicit form", "float[B, 4] x", 'y = Einsum <equation = "ab,bc"> (x, w)', "float[4, 3] w"),
    Case("Einsum with an ellipsis", "float[B, 2, 4, 5] x", 'y = Einsum <equation = "...ij,jk->...ik"> (x, w)',
         "float[5, 3] w"),
    Case("Einsum with an ellipsis, without an axis for the batch", "float[B, 2, 4, 5] x",
         's = Squeeze(x) e = Einsum <equation = "...ij,...jk->...ik"> (s, w) y = Unsqueeze(e, i)',
         "float[1, 5, 3] w; int64[1] i = {0}", batches=[1]),
    Case("Einsum that moves the batch", "float[B, 4, 5] x", 'e = Einsum <equation = "bij->ijb"> (x) '
         "y = Transpose <perm = [2, 0, 1]> (e)"),
    Case("Einsum of the diagonal", "float[B, 4, 4] x", 'y = Einsum <equation = "bii->bi"> (x)'),
    Case("Einsum with weights that spell out the batch", "float[B, 4, 5] x",
         'y = Einsum <equation = "bij,bjk->bik"> (x, w)', "float[B, 5, 3] w", equal={"w": 0}),
    Case("Einsum over the batch", "float[B, 4] x", 'y = Einsum <equation = "bi->i"> (x)', refused=SUMS),
    Case("Einsum of every pair of samples", "float[B, 4] a; float[B, 4] b",
         'y = Einsum <equation = "ai,bi->ab"> (a, b)',
         refused={1: "combines every sample of the batch with every other",
                  3: "combines every sample of the batch with every other"}),
    Case("FusedMatMul", "float[B, 4, 5] a; float[B, 3, 5] b",
         "y = com.microsoft.FusedMatMul <transB = 1, alpha = 0.5> (a, b)"),
    Case("FusedMatMul of a transposed batch", "float[B, 4, 5] x; float[B, 5, 3] b",
         "t = Transpose <perm = [1, 0, 2]> (x)\n y = com.microsoft.FusedMatMul <transBatchA = 1> (t, b)"),
    Case("FusedMatMul of two transposed batches", "float[B, 4, 5] x; float[B, 3, 5] b",
         "t = Transpose <perm = [2, 0, 1]> (x)\n u = Transpose <perm = [1, 0, 2]> (b)\n"
         "y = com.microsoft.FusedMatMul <transA = 1, transBatchA = 1, transB = 1, transBatchB = 1> (t, u)"),
    Case("TransposeMatMul", "float[B, 5, 4] a; float[B, 5, 3] b",
         "y = com.microsoft.TransposeMatMul <transA = 1> (a, b)"),
    Case("FusedMatMul of the batch with itself", "float[B, 5] x", "y = com.microsoft.FusedMatMul <transB = 1> (x, x)",
         refused={1: "multiplies every sample", 3: "multiplies every sample"}),
    Case("FusedGemm", "float[B, 5] x", 'y = com.microsoft.FusedGemm <activation = "Relu"> (x, w, b)',
         "float[5, 3] w; float[3] b"),
    Case("FusedGemm of a matrix of the sample's own", "float[B, 4, 5] x",
         's = Squeeze(x) g = com.microsoft.FusedGemm <activation = "LeakyRelu", activation_alpha = 0.25> (s, w, b) '
         "y = Unsqueeze(g, a)", "float[5, 3] w; float[3] b; int64[1] a = {0}", batches=[1]),
]  # fmt: skip


@pytest.mark.parametrize(("case", "static_batch"), proofs(CASES))
def test_the_batched_model_answers_each_sample_as_the_original_does(
    case: Case, static_batch: int, tmp_path: Path
) -> None:
    prove(case, static_batch, tmp_path)


@pytest.mark.parametrize(("case", "static_batch"), refusals(CASES))
def test_what_mixes_samples_is_refused_with_its_reason(case: Case, static_batch: int, tmp_path: Path) -> None:
    refuse(case, static_batch, tmp_path)
