"""The config says what ONNX Runtime finds when it loads the published bytes, whatever the original declares."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
from support.by_hand import HEADER

from builder import api
from builder.config import pbtxt
from builder.errors import RepositoryError, VerificationError
from builder.proof.interface import check_interface
from builder.proof.session import Session
from builder.publishing import PublishOptions, publish
from builder.record import MANIFEST_FILE, ServedTensor, read_manifest

WEIGHTS = "<float[3, 2] w = {0.5, -0.25, 1.0, 0.75, 0.5, -0.5}>"
BODY = "{ m = MatMul (x, w) y = Softmax <axis = -1> (m) }"

ROADS: Mapping[str, dict[str, Any]] = {
    "default": {},
    "static": {"is_static": True},
    "per sample": {"is_per_sample": True},
    "unproven": {"effort": "off"},
    "fp16": {"precision": "fp16"},
    "bf16": {"precision": "bf16"},
}


def write(folder: Path, graph: str) -> Path:
    path = folder / "m.onnx"
    path.write_bytes(onnx.parser.parse_model(HEADER + f"g {graph}").SerializeToString())
    return path


def served(root: Path) -> dict[str, list[int]]:
    """The dims of every output in the config."""
    config = pbtxt.parse((root / "m" / "config.pbtxt").read_text(), where="config.pbtxt")
    return {tensor.name: list(tensor.dims) for tensor in config.output}


@pytest.mark.parametrize("options", ROADS.values(), ids=ROADS)
def test_dynamic_dims_of_outputs_become_the_sizes_that_onnxruntime_infers(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    model = write(tmp_path, f'(float["N", 3] x) => (float["a", "b"] y) {WEIGHTS} {BODY}')
    done = publish(model, tmp_path / "repository", options=PublishOptions(**options))
    bytes_ = (done.version.path / "model.onnx").read_bytes()
    assert served(tmp_path / "repository")["y"][-1] == 2
    declared = onnx.load_from_string(bytes_).graph.output[0].type.tensor_type.shape.dim[-1]
    assert declared.dim_value == 2, "so that a release that infers less reads it too"
    if options.get("precision") != "bf16":  # which ONNX Runtime does not run on a CPU
        found = onnxruntime.InferenceSession(bytes_).get_outputs()[0].shape
        assert [dim if isinstance(dim, int) else -1 for dim in found][-1] == 2


@pytest.mark.parametrize("road", ["default", "static", "unproven", "fp16"])
@pytest.mark.parametrize(
    ("declared", "body", "dims"),
    [
        ('float["N"] y', BODY, [2]),
        ('float["N", 7] y', BODY, [2]),
        ('float["N", 1, 2] y', BODY, [2]),
        # Casts hide the number from ONNX Runtime, but not from the analysis of the default road.
        ('float["N", 7] y', "{ m = MatMul (x, w) s = Shape (m) c = Cast <to = 6> (s) d = Cast <to = 7> (c) "
         "y = Reshape (m, d) }", [2, -1]),
        ('float["N", 2, 1] y', "{ m = MatMul (x, w) s = Shape (m) c = Cast <to = 6> (s) d = Cast <to = 7> (c) "
         "y = Reshape (m, d) }", [2, -1]),
    ],
    ids=["rank too low", "number", "rank too high", "hidden number", "hidden rank"],
)  # fmt: skip
def test_outputs_that_the_file_declares_wrongly_are_corrected(
    tmp_path: Path, declared: str, body: str, dims: list[int], road: str
) -> None:
    model = write(tmp_path, f'(float["N", 3] x) => ({declared}) {WEIGHTS} {body}')
    publish(model, tmp_path / "repository", options=PublishOptions(**ROADS[road]))
    assert served(tmp_path / "repository")["y"][-1] == dims[-1 if road == "static" else 0]
    if road != "unproven":
        assert api.verify("m", tmp_path / "repository").proof.rows


SESSION = Session(
    session=None,
    path=Path("m.onnx"),
    types={"x": "tensor(float)", "n": "tensor(int64)", "y": "tensor(float16)"},
    shapes={"x": (-1, -1, 3), "n": (-1,), "y": (-1, 5)},
    outputs=("y",),
)
INPUTS = (ServedTensor("x", "x", "TYPE_FP32", (7, 3)), ServedTensor("n", "n", "TYPE_INT64", ()))
OUTPUTS = (ServedTensor("y", "y", "TYPE_FP16", (5,)),)


@pytest.mark.parametrize(
    ("output", "what"),
    [
        ({}, ""),
        ({"dims": (-1,)}, r"output 'y' has the shape \[-1, -1\] in the config and \[-1, 5\] in the model"),
        ({"dims": (6,)}, r"output 'y' has the shape \[-1, 6\]"),
        ({"dims": (5, 1)}, r"output 'y' has the shape \[-1, 5, 1\]"),
        ({"data_type": "TYPE_FP32"}, "output 'y' is TYPE_FP32 in the config and TYPE_FP16 in the model"),
        ({"name": "z"}, "the model has no output 'z'"),
    ],
)
def test_what_triton_would_refuse_is_refused(output: dict[str, Any], what: str) -> None:
    changed = tuple(replace(tensor, **output) for tensor in OUTPUTS)
    if not what:
        check_interface(Path("m"), SESSION, INPUTS, changed, has_batch=True)
        return
    with pytest.raises(VerificationError, match=f"Triton would refuse to load it: .*{what}"):
        check_interface(Path("m"), SESSION, INPUTS, changed, has_batch=True)


def test_a_number_in_the_config_has_to_be_the_models_unless_an_input_may_have_any() -> None:
    session = replace(SESSION, shapes={**SESSION.shapes, "x": (-1, 7, -1), "y": (4, -1)})
    with pytest.raises(VerificationError, match=r"output 'y' has the shape \[-1, 5\] .* and \[4, -1\]"):
        check_interface(Path("m"), session, INPUTS, OUTPUTS, has_batch=True)
    with pytest.raises(VerificationError, match=r"input 'x' has the shape \[8, 3\]"):
        check_interface(
            Path("m"), replace(session, shapes={"x": (7, -1), "n": (), "y": (5,)}),
            (replace(INPUTS[0], dims=(8, 3)),), OUTPUTS, has_batch=False,
        )  # fmt: skip


def test_verify_refuses_what_triton_would(tmp_path: Path) -> None:
    """As earlier releases published it: -1 where ONNX Runtime finds 2."""
    root = tmp_path / "repository"
    done = publish(write(tmp_path, f'(float["N", 3] x) => (float["N", "b"] y) {WEIGHTS} {BODY}'), root,
                   options=PublishOptions())  # fmt: skip
    assert api.verify("m", root).proof.rows

    config = root / "m" / "config.pbtxt"
    text = config.read_text()
    assert text.count("dims: [2]") == 1
    config.write_text(text.replace("dims: [2]", "dims: [-1]"))
    with pytest.raises(RepositoryError, match=r"output 'y' has dims \[-1\], but the version's are \[2\]"):
        api.verify("m", root)

    manifest = read_manifest(done.version.path)
    assert manifest is not None
    earlier = replace(manifest, outputs=tuple(replace(tensor, dims=(-1,)) for tensor in manifest.outputs))
    (done.version.path / MANIFEST_FILE).write_text(earlier.to_json())
    with pytest.raises(VerificationError, match=r"output 'y' has the shape \[-1, -1\] in the config and \[-1, 2\]"):
        api.verify("m", root)
