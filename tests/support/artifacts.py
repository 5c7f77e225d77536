"""A tiny real model, and what a repository takes to install it."""

from pathlib import Path

import numpy as np
import onnx
from onnx import parser

from builder.record import Content, Manifest, ModelFile, OutputProof, Proof, ReferenceFile, ServedTensor, Source
from builder.repository import Artifact

ROWS = 4

EMPTY = [".made-by-builder", "lock"]
"""What is in a staging folder while no change is under way."""

_SCALE = """
<ir_version: 8, opset_import: ["": 17]>
scale (float[N, 3] x, int64[N] n, string[N, 2] s) => (float[N, 3] y, int64[N] m, string[N, 2] t) {
    factor = Constant <value = float {FACTOR}> ()
    y = Mul (x, factor)
    m = Identity (n)
    t = Identity (s)
}
"""


def scale(factor: float = 2.0, *, max_batch_size: int = 8, files: dict[str, Content] | None = None) -> Artifact:
    """`y = factor * x` beside a number and two strings that come back as they are."""
    contents = files or {"model.onnx": scale_model(factor).SerializeToString()}
    x = np.arange(ROWS * 3, dtype=np.float32).reshape(ROWS, 3)
    n = np.arange(10, 10 + ROWS)
    s = np.array([[f"row {row}", "größer"] for row in range(ROWS)])
    inputs = (
        ServedTensor("x", "input.1", "TYPE_FP32", (3,)),
        ServedTensor("n", "n", "TYPE_INT64", ()),
        ServedTensor("s", "s", "TYPE_STRING", (2,)),
    )
    outputs = (
        ServedTensor("y", "42", "TYPE_FP32", (3,)),
        ServedTensor("m", "m", "TYPE_INT64", ()),
        ServedTensor("t", "t", "TYPE_STRING", (2,)),
    )
    equal = OutputProof(0.0, 0.0, 0.0)
    proven = {"y": OutputProof(1e-5, 1e-6, 0.0), "m": equal, "t": equal}
    manifest = Manifest(
        builder="0.1.0",
        max_batch_size=max_batch_size,
        source=Source("scale.onnx", "0" * 64, 1, 1, "text", {"ai.onnx": 17}),
        options={},
        model=ModelFile.of("model.onnx", contents),
        inputs=inputs,
        outputs=outputs,
        rewrites=({"node": "Mul", "op_type": "Mul", "what": "nothing"},),
        proof=Proof((1, 2, max_batch_size), ROWS, "1.31.0", proven),
        reference=ReferenceFile("reference.npz", ROWS),
    )
    reference = {"input:x": x, "input:n": n, "input:s": s}
    reference |= {"output:y": np.float32(factor) * x, "output:m": n, "output:t": s}
    return Artifact(contents, manifest, reference)


def scale_model(factor: float) -> onnx.ModelProto:
    model = parser.parse_model(_SCALE.replace("FACTOR", str(factor)))
    onnx.checker.check_model(model)
    return model


def tree(folder: Path) -> dict[str, bytes]:
    """The content of every file below a folder, by its path there."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def names(folder: Path) -> list[str]:
    """The names in a folder."""
    return sorted(entry.name for entry in folder.iterdir())
