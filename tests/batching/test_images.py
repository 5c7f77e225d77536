"""Convolutions, pooling, normalization, resizing and regions of images."""

from pathlib import Path

import pytest
from support.batched import Case, proofs, prove, refusals, refuse

IMAGE = "float[B, 4, 6, 6] x"

BODIES = {
    "AveragePool": "y = AveragePool <kernel_shape = [2, 2]> (v)",
    "BatchNormalization": "y = BatchNormalization(v, c, c, c, p)",
    "Conv": "y = Conv <pads = [1, 1, 1, 1]> (v, w, c)",
    "Conv by groups": "y = Conv <group = 4> (v, g)",
    "ConvTranspose": "y = ConvTranspose <strides = [2, 2]> (v, w)",
    "DepthToSpace": "y = DepthToSpace <blocksize = 2> (v)",
    "GlobalAveragePool": "y = GlobalAveragePool(v)",
    "GlobalLpPool": "y = GlobalLpPool(v)",
    "GlobalMaxPool": "y = GlobalMaxPool(v)",
    "InstanceNormalization": "y = InstanceNormalization(v, c, c)",
    "LRN": "y = LRN <size = 3> (v)",
    "LpPool": "y = LpPool <kernel_shape = [2, 2]> (v)",
    "MaxPool": "y = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (v)",
    "Resize by scales": 'y = Resize <mode = "nearest"> (v, "", s)',
    "Resize by sizes": 'y = Resize <mode = "linear"> (v, "", "", z)',
    "SpaceToDepth": "y = SpaceToDepth <blocksize = 2> (v)",
    "com.microsoft ConvTransposeWithDynamicPads": "y = com.microsoft.ConvTransposeWithDynamicPads(v, w, o)",
    "com.microsoft FusedConv": 'y = com.microsoft.FusedConv <activation = "Relu"> (v, k, c)',
}
WEIGHTS = (
    "float[4, 4, 3, 3] w; float[4, 1, 2, 2] g; float[4, 4, 1, 1] k; float[4] c; float[4] p = {1, 2, 3, 4}; "
    "float[4] s = {1, 1, 2, 2}; int64[4] z = {B, 4, 9, 3}; int64[4] o = {1, 1, 1, 1}; int64[1] a = {0}"
)
MIXES = {1: "which holds the batch", 3: "which holds the batch"}

CASES = [
    *(Case(name, IMAGE, body.replace("(v", "(x"), WEIGHTS, rtol=1e-4) for name, body in BODIES.items()),
    *(
        Case(f"{name} of an image without an axis for the batch", IMAGE,
             f"q = Squeeze(x) r = Relu(q) v = Unsqueeze(r, a) {body}", WEIGHTS, batches=[1], rtol=1e-4)
        for name, body in BODIES.items()
    ),
    Case("Conv of frames", "float[B, 3, 4, 6, 6] x", "f = Reshape(x, s) c = Conv(f, w) y = Reshape(c, t)",
         "float[2, 4, 3, 3] w; int64[4] s = {3B, 4, 6, 6}; int64[5] t = {B, 3, 2, 4, 4}", rtol=1e-4),
    Case("Conv of frames with time first", "float[3, B, 4, 6, 6] x",
         "f = Reshape(x, s) c = Conv(f, w) y = Reshape(c, t)",
         "float[2, 4, 3, 3] w; int64[4] s = {3B, 4, 6, 6}; int64[5] t = {3, B, 2, 4, 4}", axes={"x": 1}, rtol=1e-4),
    Case("Conv along the batch", "float[B, 6] x", "t = Transpose(x) u = Unsqueeze(t, a) y = Conv(u, w)",
         "float[2, 6, 1] w; int64[1] a = {0}", refused=MIXES),
    Case("Conv with weights of the sample's own", "float[B, 1, 6, 6] x; float[B, 2, 1, 3, 3] w",
         "u = Squeeze(w, a) y = Conv(x, u)", "int64[1] a = {0}", batches=[1], rtol=1e-4),
    Case("Conv of every sample with the weights of all", "float[B, 1, 6] x; float[B, 1, 3] w", "y = Conv(x, w)",
         batches=[3], refused={3: "it multiplies every sample of the batch with every other"}),
    Case("Conv in groups of samples", "float[B, 4, 6, 6] x; float[B, 6, 2, 3, 3] w",
         "i = Reshape(x, s) k = Reshape(w, t) b = Tile(v, r) "
         "c = Conv <group = 2B, strides = [2, 1], pads = [1, 0, 1, 2]> (i, k, b) y = Reshape(c, u)",
         "int64[4] s = {1, 4B, 6, 6}; int64[4] t = {6B, 2, 3, 3}; int64[4] u = {B, 6, 3, 6}; float[6] v; "
         "int64[1] r = {B}", rtol=1e-4),
    Case("Conv in a group for each channel of each sample", "float[B, 4, 6] x; float[B, 4, 3] w",
         "i = Reshape(x, s) k = Reshape(w, t) c = Conv <group = 4B> (i, k) y = Reshape(c, u)",
         "int64[3] s = {1, 4B, 6}; int64[3] t = {4B, 1, 3}; int64[3] u = {B, 4, 4}", rtol=1e-4),
    Case("Conv with a bias of the sample's own", "float[B, 4, 6] x; float[B, 5] w",
         "b = Squeeze(w, a) y = Conv(x, k, b)", "float[5, 4, 3] k; int64[1] a = {0}", batches=[1], rtol=1e-4),
    Case("ConvTranspose in groups of samples", "float[B, 4, 5, 5] x; float[B, 4, 3, 2, 3] w",
         "i = Reshape(x, s) k = Reshape(w, t) b = Tile(v, r) "
         "c = ConvTranspose <group = 2B, strides = [2, 2], output_padding = [1, 0]> (i, k, b) y = Reshape(c, u)",
         "int64[4] s = {1, 4B, 5, 5}; int64[4] t = {4B, 3, 2, 3}; int64[4] u = {B, 6, 11, 11}; float[6] v; "
         "int64[1] r = {B}", rtol=1e-4),
    Case("com.microsoft FusedConv in groups of samples", "float[B, 4, 6] x; float[B, 2, 4, 3] w",
         "i = Reshape(x, s) k = Reshape(w, t) "
         'c = com.microsoft.FusedConv <group = B, activation = "Relu"> (i, k) y = Reshape(c, u)',
         "int64[3] s = {1, 4B, 6}; int64[3] t = {2B, 4, 3}; int64[3] u = {B, 2, 4}", rtol=1e-4),
    Case("Conv with the same weights in every group of samples", "float[B, 4, 6] x",
         "i = Reshape(x, s) k = Tile(w, r) b = Tile(v, q) c = Conv <group = 2B> (i, k, b) y = Reshape(c, u)",
         "int64[3] s = {1, 4B, 6}; float[6, 2, 3] w; float[6] v; int64[3] r = {B, 1, 1}; int64[1] q = {B}; "
         "int64[3] u = {B, 6, 4}", rtol=1e-4),
    Case("Conv with other weights for other samples", "float[B, 4, 6] x",
         "i = Reshape(x, s) c = Conv <group = 4B> (i, w) y = Reshape(c, u)",
         "int64[3] s = {1, 4B, 6}; float[4B, 1, 3] w; int64[3] u = {B, 4, 4}",
         refused={3: "holds different values for the 3 samples"}, rtol=1e-4),
    Case("Conv over the channels of all samples", "float[B, 4, 6] x",
         "i = Reshape(x, s) c = Conv <group = 2> (i, w) y = Reshape(c, u)",
         "int64[3] s = {1, 4B, 6}; float[4B, 2B, 3] w; int64[3] u = {B, 4, 4}", batches=[3],
         refused={3: "mixes the axis that holds the batch"}),
    *(
        Case(f"{name} with the samples among its channels", IMAGE,
             f"i = Reshape(x, s) c = {name} <kernel_shape = [2, 3]> (i) y = Reshape(c, u)",
             "int64[4] s = {1, 4B, 6, 6}; int64[4] u = {B, 4, 5, 4}", rtol=1e-4)
        for name in ("AveragePool", "LpPool", "MaxPool")
    ),
    Case("GlobalMaxPool with the samples behind its channels", IMAGE,
         "t = Transpose <perm = [1, 0, 2, 3]> (x) i = Reshape(t, s) c = GlobalMaxPool(i) r = Reshape(c, u) "
         "y = Transpose(r)",
         "int64[4] s = {1, 4B, 6, 6}; int64[2] u = {4, B}"),
    Case("InstanceNormalization with the samples among its channels", "float[B, 4, 6] x",
         "i = Reshape(x, s) k = Tile(w, r) c = InstanceNormalization(i, k, k) y = Reshape(c, u)",
         "int64[3] s = {1, 4B, 6}; float[4] w; int64[1] r = {B}; int64[3] u = {B, 4, 6}", rtol=1e-4),
    Case("InstanceNormalization with a scale of the sample's own", "float[B, 4, 6] x; float[B, 4] z",
         "i = Reshape(x, s) w = Reshape(z, t) c = InstanceNormalization(i, w, w) y = Reshape(c, u)",
         "int64[3] s = {1, 4B, 6}; int64[1] t = {4B}; int64[3] u = {B, 4, 6}", rtol=1e-4),
    Case("BatchNormalization with the samples among its channels", "float[B, 4, 6] x",
         "i = Reshape(x, s) k = Tile(w, r) v = Exp(k) c = BatchNormalization(i, k, k, k, v) y = Reshape(c, u)",
         "int64[3] s = {1, 4B, 6}; float[4] w; int64[1] r = {B}; int64[3] u = {B, 4, 6}", rtol=1e-4),
    Case("BatchNormalization that trains on channels of single samples", "float[B, 4, 6] x; float[B, 4] z",
         "i = Reshape(x, s) w = Reshape(z, t) c, m, v = BatchNormalization <training_mode = 1> (i, w, w, k, k) "
         "y = Reshape(c, u)",
         "int64[3] s = {1, 4B, 6}; int64[1] t = {4B}; float[4B] k; int64[3] u = {B, 4, 6}",
         refused={1: "statistics of the whole batch"}, rtol=1e-4),
    Case("InstanceNormalization over the batch", "float[B, 4, 6] x",
         "t = Transpose <perm = [1, 2, 0]> (x) y = InstanceNormalization(t, w, w)", "float[6] w", refused=MIXES),
    Case("BatchNormalization of opset 7", IMAGE, "y = BatchNormalization(x, w, w, w, p)",
         "float[4] w; float[4] p = {1, 2, 3, 4}", opset=7, rtol=1e-4),
    Case("BatchNormalization that trains", IMAGE, "y, m, v = BatchNormalization <training_mode = 1> (x, w, w, w, p)",
         "float[4] w; float[4] p = {1, 2, 3, 4}", refused={1: "statistics of the whole batch",
                                                          3: "statistics of the whole batch"}),
    Case("GroupNormalization of opset 21", IMAGE, "y = GroupNormalization <num_groups = 2> (x, w, w)", "float[4] w",
         opset=21, rtol=1e-4),
    Case("Col2Im", "float[B, 8, 4] x", "y = Col2Im(x, i, k)", "int64[2] i = {3, 3}; int64[2] k = {2, 2}", opset=18),
    Case("DeformConv", "float[B, 2, 4, 4] x; float[B, 8, 3, 3] o", "y = DeformConv(x, w, o)", "float[3, 2, 2, 2] w",
         opset=22, recent=True, rtol=1e-4),
    Case("DeformConv with constant offsets", "float[B, 2, 4, 4] x", "y = DeformConv(x, w, o)",
         "float[3, 2, 2, 2] w; float[B, 8, 3, 3] o", equal={"o": 0}, opset=22, recent=True, rtol=1e-4),
    Case("GridSample", "float[B, 2, 5, 5] x; float[B, 3, 3, 2] g", "y = GridSample(x, g)", rtol=1e-4),
    Case("GridSample of volumes", "float[B, 2, 3, 5, 5] x; float[B, 3, 3, 3, 3] g", "y = GridSample(x, g)", opset=20,
         rtol=1e-4),
    Case("GridSample at a constant grid", "float[B, 2, 5, 5] x", "y = GridSample(x, g)", "float[B, 3, 3, 2] g",
         equal={"g": 0}, rtol=1e-4),
    Case("com.microsoft GridSample", "float[B, 2, 5, 5] x; float[B, 3, 3, 2] g", "y = com.microsoft.GridSample(x, g)",
         rtol=1e-4),
    Case("MaxPool with the places of its maxima", IMAGE, "y, i = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x)",
         outputs=["y", "i"], refused={3: "positions in the whole batch"}),
    Case("MaxPool, and MaxUnpool at its places", IMAGE,
         "p, i = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x) "
         "y = MaxUnpool <kernel_shape = [2, 2], strides = [2, 2]> (p, i)", batches=[1]),
    Case("MaxUnpool to a shape", IMAGE,
         "p, i = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x) "
         "y = MaxUnpool <kernel_shape = [2, 2], strides = [2, 2]> (p, i, s)", "int64[4] s = {1, 4, 7, 7}", batches=[1]),
    Case("losses of samples", "float[B, 5] x; int64[B] t", 'y = SoftmaxCrossEntropyLoss <reduction = "none"> (x, t)',
         below={"t": 5}),
    Case("the mean loss", "float[B, 5] x; int64[B] t", "y = SoftmaxCrossEntropyLoss(x, t)", below={"t": 5},
         refused={1: "reduces the loss", 3: "reduces the loss"}),
    Case("log likelihoods of samples", "float[B, 5, 3] x; int64[B, 3] t",
         'y = NegativeLogLikelihoodLoss <reduction = "none"> (x, t)', below={"t": 5}),
    Case("STFT", "float[B, 16, 1] x", 'y = STFT(x, s, "", n)', "int64 s = {4}; int64 n = {8}", rtol=1e-4),
    Case("CausalConvWithState", "float[B, 4, 6] x; float[B, 4, 2] p", "y, q = CausalConvWithState(x, w, b, p)",
         "float[4, 1, 3] w; float[4] b", outputs=["y", "q"], opset=27, by_reference=True, rtol=1e-4),
    Case("Resize of opset 10", IMAGE, 'y = Resize <mode = "nearest"> (x, s)', "float[4] s = {1, 1, 2, 2}", opset=10),
    Case("Resize of opset 11", IMAGE, "y = Resize(x, r, e, z)",
         "float[0] r = {}; float[0] e = {}; int64[4] z = {B, 4, 3, 9}", opset=11),
    Case("Resize along some axes", IMAGE, 'y = Resize <axes = [2, 3]> (x, "", "", z)', "int64[2] z = {3, 9}", opset=18),
    Case("Resize along axes that hold the batch", IMAGE, 'y = Resize <axes = [3, 0, 2]> (x, "", "", z)',
         "int64[3] z = {9, B, 3}", opset=18),
    Case("Resize that keeps the aspect ratio", IMAGE,
         'y = Resize <axes = [2, 3], keep_aspect_ratio_policy = "not_larger"> (x, "", "", z)', "int64[2] z = {12, 9}",
         opset=18),
    Case("Resize of crops", IMAGE,
         'y = Resize <coordinate_transformation_mode = "tf_crop_and_resize"> (x, r, "", z)',
         "float[8] r = {0, 0, 0.25, 0.25, 1, 1, 0.75, 0.75}; int64[4] z = {B, 4, 3, 3}"),
    Case("Resize of an image whose batch is on axis 1", "float[4, B, 6, 6] x", 'y = Resize(x, "", "", z)',
         "int64[4] z = {4, B, 9, 9}", axes={"x": 1}),
    Case("Resize of a folded batch", "float[B, 4, 6] x",
         't = Transpose <perm = [1, 0, 2]> (x) f = Reshape(t, s) y = Resize(f, "", "", z)',
         "int64[3] s = {1, 4B, 6}; int64[3] z = {1, 4B, 9}"),
    Case("Resize of the batch", "float[B, 4] x", 'y = Resize(x, "", s)', "float[2] s = {2, 1}",
         refused={1: "resizes axis 0, which holds the batch", 3: "resizes axis 0, which holds the batch"}),
    Case("Upsample of opset 7", IMAGE, "y = Upsample <scales = [1.0, 1.0, 2.0, 2.0]> (x)", opset=7),
    Case("Upsample of opset 9", IMAGE, "y = Upsample(x, s)", "float[4] s = {1, 1, 2, 2}", opset=9),
    Case("CenterCropPad", IMAGE, "y = CenterCropPad(x, s)", "int64[4] s = {B, 4, 3, 8}", opset=18),
    Case("CenterCropPad along some axes", IMAGE, "y = CenterCropPad <axes = [-1]> (x, s)", "int64[1] s = {3}",
         opset=18),
    Case("CenterCropPad of the batch", IMAGE, "y = CenterCropPad(x, s)", "int64[4] s = {2, 4, 6, 6}", opset=18,
         refused={1: "crops or pads axis 0", 3: "crops or pads axis 0"}),
    Case("AffineGrid", "float[B, 2, 3] x", "y = AffineGrid(x, s)", "int64[4] s = {B, 1, 4, 4}", opset=20, rtol=1e-4),
    Case("AffineGrid of a matrix of the sample's own", "float[B, 2, 3] x",
         "q = Squeeze(x) u = Unsqueeze(q, a) y = AffineGrid(u, s)", "int64[4] s = {1, 1, 4, 4}; int64[1] a = {0}",
         batches=[1], opset=20, rtol=1e-4),
    Case("RoiAlign of regions of the sample's own", "float[B, 2, 8, 8] x; float[B, 3, 4] r",
         "p = Abs(r) q = Squeeze(p, a) y = RoiAlign <output_height = 2, output_width = 2, sampling_ratio = 2> (x, "
         "q, i)",
         "int64[3] i = {0, 0, 0}; int64[1] a = {0}", batches=[1], rtol=1e-4),
    Case("RoiAlign of the same regions for all", "float[B, 2, 8, 8] x",
         "y = RoiAlign <output_height = 2, output_width = 2> (x, r, i)",
         "float[6, 4] r = {0, 0, 4, 4, 1, 2, 5, 6, 0, 0, 4, 4, 1, 2, 5, 6, 0, 0, 4, 4, 1, 2, 5, 6}; "
         "int64[6] i = {0, 0, 1, 1, 2, 2}", batches=[3], rtol=1e-4),
    Case("RoiAlign of other samples", "float[B, 2, 8, 8] x", "y = RoiAlign(x, r, i)",
         "float[3, 4] r = {0, 0, 4, 4, 0, 0, 4, 4, 0, 0, 4, 4}; int64[3] i = {0, 2, 1}", batches=[3],
         refused={3: "regions of one sample from the image of another"}),
    Case("MaxRoiPool", "float[B, 2, 8, 8] x; float[B, 3, 4] r",
         "q = Squeeze(r, a) n = Concat <axis = 1> (z, q) y = MaxRoiPool <pooled_shape = [2, 2]> (x, n)",
         "float[3, 1] z = {0, 0, 0}; int64[1] a = {0}", batches=[1]),
    Case("CropAndResize", "float[B, 2, 8, 8] x; float[B, 3, 4] r",
         "q = Squeeze(r, a) y = com.microsoft.CropAndResize(x, q, i, s)",
         "int32[3] i = {0, 0, 0}; int32[2] s = {3, 3}; int64[1] a = {0}", batches=[1], rtol=1e-4),
    Case("FusedConv with a sum", "float[B, 4, 6, 6] x; float[B, 4, 6, 6] z",
         'y = com.microsoft.FusedConv <activation = "Relu"> (x, w, c, z)', "float[4, 4, 1, 1] w; float[4] c",
         rtol=1e-4),
    Case("NhwcMaxPool", "uint8[B, 6, 6, 4] x", "y = com.microsoft.NhwcMaxPool <kernel_shape = [2, 2]> (x)",
         below={"x": 200}),
]  # fmt: skip


@pytest.mark.parametrize(("case", "static_batch"), proofs(CASES))
def test_the_batched_model_answers_each_sample_as_the_original_does(
    case: Case, static_batch: int, tmp_path: Path
) -> None:
    prove(case, static_batch, tmp_path)


@pytest.mark.parametrize(("case", "static_batch"), refusals(CASES))
def test_what_mixes_samples_is_refused_with_its_reason(case: Case, static_batch: int, tmp_path: Path) -> None:
    refuse(case, static_batch, tmp_path)
