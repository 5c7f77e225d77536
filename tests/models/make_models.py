"""Make the small static models that the tests publish, with the exporters that users have.

    pip install torch onnxscript onnx onnxruntime
    python tests/models/make_models.py

Writes one file per case beside itself and `manifest.json`, which says for each what it exercises, where its
batch is, how to draw valid inputs, and whether it can be batched. Weights are random; their spread is wide
enough that different samples give clearly different answers, which this script checks.
"""

import json
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from networks import (
    ConvNet,
    Decoder,
    Encoder,
    Loss,
    Lstm,
    Mixer,
    Similarity,
    SoftmaxOverBatch,
    TextEncoder,
    Upscaler,
    VisionTransformer,
    Windows,
)
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
from torch import Tensor, nn

HERE = Path(__file__).parent
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Input:
    """One input: its static shape, and `draw`, what to fill it with (`kind` and its bounds)."""

    name: str
    shape: tuple[int, ...]
    draw: Mapping[str, Any] = field(default_factory=lambda: {"kind": "normal"})
    dtype: str = "float32"

    def sample(self, rng: np.random.Generator) -> Array:
        """Return one valid array of the static shape."""
        values: Array
        match self.draw["kind"]:
            case "randint":
                values = rng.integers(self.draw["low"], self.draw["high"], self.shape)
            case "mask":
                lengths = rng.integers(self.shape[-1] // 2, self.shape[-1] + 1, (*self.shape[:-1], 1))
                values = np.arange(self.shape[-1]) < lengths
            case _:
                values = rng.standard_normal(self.shape)
        return values.astype(self.dtype)


@dataclass(frozen=True, slots=True)
class Case:
    """One model: the module, how it is exported, and what is to be expected of it."""

    stem: str
    what: str
    module: type[nn.Module]
    inputs: Sequence[Input]
    outputs: Sequence[str]
    opset: int
    dynamo: bool = False
    refused: str = ""
    tags: Sequence[str] = ()
    rtol: float = 1e-4
    atol: float = 1e-5

    @property
    def static_batch(self) -> int:
        """The batch baked in, in rows."""
        return self.inputs[0].shape[0]


IMAGE = Input("image", (1, 3, 12, 12))
ROWS = {"kind": "normal", "scale": 2.0}
IDS, LABELS = {"kind": "randint", "low": 0, "high": 50}, {"kind": "randint", "low": 0, "high": 5}
MASK = {"kind": "mask"}
CASES = [
    Case("conv_view_ts11", "view(1, -1) between convolutions and a dense layer", ConvNet,
         [Input("image", (1, 3, 10, 10))], ["scores"], opset=11),
    Case("encoder_layer_ts17", "TransformerEncoderLayer: batch folded with the heads", Encoder,
         [Input("tokens", (1, 9, 24))], ["hidden"], opset=17),
    Case("lstm_zero_states_ts14", "bidirectional LSTM, zero states of the traced batch", Lstm,
         [Input("signal", (1, 7, 10))], ["steps", "last"], opset=14),
    Case("text_encoder_ts13", "embeddings, position ids of batch 1, padding mask", TextEncoder,
         [Input("input_ids", (1, 11), IDS, "int64"), Input("attention_mask", (1, 11), MASK, "int64")],
         ["hidden", "pooled"], opset=13),
    Case("class_token_dynamo18", "class token expanded and joined to the patches", VisionTransformer,
         [IMAGE], ["scores"], opset=18, dynamo=True),
    Case("shifted_windows_ts16", "batch folded with windows, a mask repeated per sample", Windows,
         [IMAGE], ["features"], opset=16),
    Case("upscaler_ts12", "GroupNorm, PixelShuffle and Resize", Upscaler,
         [Input("image", (1, 3, 6, 5))], ["image_2x"], opset=12),
    Case("conv_qdq_ts13", "QuantizeLinear and DequantizeLinear around every operator", ConvNet,
         [Input("image", (1, 3, 10, 10))], ["scores"], opset=13, tags=["quantized"], rtol=1e-3, atol=1e-2),
    Case("conv_fp16_ts20", "half precision throughout", ConvNet,
         [Input("image", (1, 3, 10, 10), dtype="float16")], ["scores"], opset=20, rtol=1e-2, atol=1e-3),
    Case("mixer_external_dynamo20", "weights in a file beside the model", Mixer,
         [Input("tokens", (1, 9, 32))], ["features"], opset=20, dynamo=True, tags=["external_data"]),
    Case("decoder_b4_ts15", "static batch 4, where steps are 4 wide and layers and heads are 4 too", Decoder,
         [Input("steps", (4, 6, 4), ROWS)], ["state"], opset=15),
    Case("softmax_over_batch_b4_ts17", "softmax over axis 0", SoftmaxOverBatch,
         [Input("rows", (4, 6), ROWS)], ["pooled"], opset=17, refused="Softmax"),
    Case("loss_b4_ts17", "a scalar for the whole batch", Loss,
         [Input("rows", (4, 6), ROWS), Input("labels", (4,), LABELS, "int64")],
         ["loss"], opset=17, refused="SoftmaxCrossEntropyLoss"),
    Case("similarity_b3_dynamo18", "x @ x.T over the batch", Similarity,
         [Input("rows", (3, 6), ROWS)], ["similarity"], opset=18, dynamo=True, refused="MatMul"),
]  # fmt: skip


def build(case: Case) -> nn.Module:
    """Return the module with weights wide enough that answers depend on the sample."""
    module = case.module().eval()
    for name, value in module.named_parameters():
        if value.dim() > 1 and "positions" not in name:
            value.data *= 1.6
    for value in module.modules():
        if isinstance(value, nn.BatchNorm2d):
            value.running_mean.uniform_(-0.3, 0.3)
            value.running_var.uniform_(0.5, 2.0)
    return module.half() if case.inputs[0].dtype == "float16" else module


def export(case: Case, module: nn.Module, arrays: Sequence[Array], path: Path) -> None:
    """Export `module` static at the shapes of `arrays`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters warn that tracing bakes shapes in, which is the point
        torch.onnx.export(
            module,
            tuple(map(torch.from_numpy, arrays)),
            path,
            input_names=[value.name for value in case.inputs],
            output_names=list(case.outputs),
            opset_version=case.opset,
            dynamo=case.dynamo,
            external_data="external_data" in case.tags,
            verbose=False,
        )


def drop_stack_traces(path: Path) -> None:
    """Remove the source paths that the dynamo exporter records on every node."""
    model = onnx.load(path, load_external_data=False)
    for node in model.graph.node:
        kept = [prop for prop in node.metadata_props if "stack_trace" not in prop.key]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    onnx.save(model, path)


class Calibration(CalibrationDataReader):
    """Sixteen random samples, one a call."""

    def __init__(self, case: Case) -> None:
        rng = np.random.default_rng(1)
        self.feeds = iter([{value.name: value.sample(rng) for value in case.inputs} for _ in range(16)])

    def get_next(self) -> dict[str, Array] | None:
        """Return the next sample, or None after the last."""
        return next(self.feeds, None)


def quantize(case: Case, path: Path) -> None:
    """Quantize the file in place, calibrated with random samples."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / path.name
        quantize_static(path, result, Calibration(case), quant_format=QuantFormat.QDQ, per_channel=True)
        result.replace(path)


def run(path: Path, case: Case, arrays: Sequence[Array]) -> list[Array]:
    """Return the exported file's answers."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {value.name: array for value, array in zip(case.inputs, arrays, strict=True)})


def check(case: Case, module: nn.Module, path: Path, rng: np.random.Generator) -> None:
    """Check that the file answers as the module does, and differently for different samples."""
    first, second = ([value.sample(rng) for value in case.inputs] for _ in range(2))
    answers = run(path, case, first)
    with torch.no_grad():
        result = module(*map(torch.from_numpy, first))
    expected = [result] if isinstance(result, Tensor) else list(result)
    tolerance = 0.1 if "quantized" in case.tags else 1e-2 if case.inputs[0].dtype == "float16" else 1e-4
    for answer, value in zip(answers, expected, strict=True):
        np.testing.assert_allclose(answer, value.numpy(), rtol=tolerance, atol=tolerance)
    difference = min(np.abs(a - b).max() for a, b in zip(answers, run(path, case, second), strict=True))
    assert difference > 0.02, f"{case.stem}: two samples differ by {difference} only"


def make(case: Case) -> dict[str, Any]:
    """Write the model and return its entry in the manifest."""
    torch.manual_seed(7)
    rng = np.random.default_rng(7)
    module, arrays = build(case), [value.sample(rng) for value in case.inputs]
    path = HERE / f"{case.stem}.onnx"
    with torch.no_grad():
        export(case, module, arrays, path)
    drop_stack_traces(path)
    if "quantized" in case.tags:
        quantize(case, path)
    check(case, module, path, rng)
    return entry(case, path, run(path, case, arrays))


def entry(case: Case, path: Path, answers: Sequence[Array]) -> dict[str, Any]:
    """Return what the manifest says about one model."""
    batch_axis = None if case.refused else 0
    model = onnx.load(path, load_external_data=False)
    return {
        "file": path.name,
        "stem": case.stem,
        "what": case.what,
        "tags": list(case.tags),
        "exporter": "dynamo" if case.dynamo else "torchscript",
        "opset": {opset.domain or "ai.onnx": opset.version for opset in model.opset_import},
        "B0": case.static_batch,
        "expect": "refuse" if case.refused else "batch",
        "refused": case.refused,
        "inputs": [
            {
                "name": value.name,
                "dtype": value.dtype,
                "shape": list(value.shape),
                "batch_axis": 0,
                "sample": dict(value.draw),
            }
            for value in case.inputs
        ],
        "outputs": [
            {
                "name": name,
                "dtype": str(answer.dtype),
                "shape": list(answer.shape),
                "batch_axis": batch_axis,
                "factor": 1,
            }
            for name, answer in zip(case.outputs, answers, strict=True)
        ],
        "tolerance": {"rtol": case.rtol, "atol": case.atol},
    }


def main() -> None:
    """Make every model, then the manifest."""
    torch.set_num_threads(1)
    torch.backends.mha.set_fastpath_enabled(False)  # its fused operator has no ONNX form
    versions = {name: version(name) for name in ("torch", "onnx", "onnxruntime", "onnxscript")}
    manifest = {"versions": versions, "models": [make(case) for case in CASES]}
    (HERE / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


if __name__ == "__main__":
    main()
