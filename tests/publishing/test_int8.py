"""Versions that were quantized to int8: published, listed, verified again and served."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser
from support.serving import infer, load

import builder
from builder.cli.listing import show, to_json
from builder.config import ConfigOptions
from builder.errors import ModelError, RepositoryError, VerificationError
from builder.publishing import Publication, PublishOptions, publish
from builder.record import first_row, read_reference
from builder.server import Server

RNG = np.random.default_rng(0)
IMAGES = RNG.random((60, 3, 8, 8), np.float32)
"""Pixels from 0 to 1, which random inputs are not."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small network of convolutions, and calibration data beside it."""
    folder = tmp_path_factory.mktemp("int8")
    proto = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1, 3, 8, 8] x) => (float[1, 5] y) {'
        "a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w, b) r = Relu (a) "
        "c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (r, v) s = Add (c, r) t = Relu (s) "
        "p = GlobalAveragePool (t) f = Flatten (p) y = MatMul (f, u) }"
    )
    for name, shape in (("w", (8, 3, 3, 3)), ("b", (8,)), ("v", (8, 8, 3, 3)), ("u", (8, 5))):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(RNG.standard_normal(shape).astype("f"), name))
    onnx.save_model(proto, folder / "net.onnx")
    np.savez(folder / "images.npz", x=IMAGES)
    return folder / "net.onnx"


def published(model: Path, root: Path, **asked: Any) -> Publication:
    asked = {"min_speedup": 0.0, "calibration": model.parent / "images.npz", **asked}
    return publish(model, root, options=PublishOptions(precision="int8", **asked))


@pytest.fixture(scope="module")
def repository(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository with a version for a CPU and one for TensorRT."""
    root = tmp_path_factory.mktemp("repository")
    published(model, root)
    published(model, root, runtime="tensorrt")
    return root


def test_the_manifest_says_how_it_was_quantized(repository: Path) -> None:
    for version, runtime in ((1, "cpu"), (2, "tensorrt")):
        manifest = json.loads((repository / "net" / str(version) / "manifest.json").read_text())
        assert manifest["quantization"] == {
            "runtime": runtime, "nodes": 3, "weights": 1.0, "calibration": 48, "kept": {}, "kept_nodes": [],
            "is_over": False,
        }  # fmt: skip
        assert manifest["options"]["precision"] == "int8"
        assert manifest["options"]["calibration"] == "images.npz"


def test_without_samples_the_proof_takes_the_calibration_data(repository: Path) -> None:
    reference = np.load(repository / "net" / "1" / "reference.npz")
    assert np.array_equal(reference["input:x"], IMAGES)


def test_publishing_it_again_changes_nothing(model: Path, repository: Path) -> None:
    assert not published(model, repository, runtime="tensorrt").version.created


@pytest.mark.parametrize("version", [1, 2])
def test_it_is_verified_again_within_its_tolerance(version: int, repository: Path) -> None:
    proof = builder.verify("net", repository, version=version).proof
    assert 0 < (proof.outputs["y"].largest_difference or 0) <= proof.outputs["y"].atol


def test_a_file_that_was_changed_is_found(model: Path, tmp_path: Path) -> None:
    done = published(model, tmp_path)
    file = done.version.path / "model.onnx"
    proto = onnx.load(file)
    next(each for each in proto.graph.initializer if each.name == "u_quantized").raw_data = bytes(40)
    onnx.save_model(proto, file)
    with pytest.raises(VerificationError, match="changed after they were published"):
        builder.verify("net", tmp_path)


def test_list_shows_how_it_was_quantized(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = builder.list_models(repository)
    show(models)
    printed = " ".join(capsys.readouterr().out.split())
    assert "precision" in printed
    assert "int8 for" in printed
    (listed,) = to_json(models)
    assert [version["precision"] for version in listed["versions"]] == ["int8", "int8"]
    assert {version["quantization"]["runtime"] for version in listed["versions"]} == {"cpu", "tensorrt"}


def test_axes_that_vary_are_proven_on_the_callers_data_too(tmp_path: Path) -> None:
    """Pixels that are drawn at random would be far outside of the ranges."""
    proto = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1, 3, h, w] x) => (float[1, 5] y) {'
        "c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, v) r = Relu (c) "
        "p = GlobalAveragePool (r) f = Flatten (p) y = MatMul (f, u) }"
    )
    for name, shape in (("v", (8, 3, 3, 3)), ("u", (8, 5))):
        array = np.abs(RNG.standard_normal(shape)).astype("f")
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save_model(proto, tmp_path / "net.onnx")
    np.savez(tmp_path / "images.npz", x=IMAGES / 1000)
    proof = published(tmp_path / "net.onnx", tmp_path / "repository").manifest.proof
    assert proof.other_sizes


@pytest.mark.parametrize("rows", [1, 0])
def test_calibration_data_without_rows_are_refused(rows: int, model: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "few.npz", x=IMAGES[:rows])
    with pytest.raises(ModelError, match="rows"):
        published(model, tmp_path / "repository", calibration=tmp_path / "few.npz")


def test_a_version_for_tensorrt_is_served_on_gpus_only(model: Path, tmp_path: Path) -> None:
    """On a CPU without VNNI, its sums overflow, which its proof cannot show: that runs it as it is written."""
    done = published(model, tmp_path, runtime="tensorrt")
    assert "kind: KIND_GPU" in (tmp_path / "net" / "config.pbtxt").read_text()
    assert any("serve this version on a GPU" in note for note in done.notes)
    with pytest.raises(RepositoryError, match="KIND_CPU, but the model is quantized for TensorRT"):
        published(model, tmp_path / "cpu", runtime="tensorrt", config=ConfigOptions(kind="cpu"))
    assert "KIND_GPU" not in (published(model, tmp_path / "other").version.path.parent / "config.pbtxt").read_text()


NEARLY_ONE = np.concatenate([np.repeat(IMAGES[:1], 40, axis=0), IMAGES[:1] * np.float32(1.001)])


@pytest.mark.parametrize("given", [{"calibration"}, {"samples"}, {"calibration", "samples"}])
@pytest.mark.parametrize("rows", [IMAGES * np.float32(1e-30), NEARLY_ONE], ids=["nearly 0", "nearly one row"])
def test_calibration_data_that_hide_the_error_are_no_proof(
    rows: Any, given: set[str], model: Path, tmp_path: Path
) -> None:
    """Where all rows have nearly the same answer, the error of int8 is larger than what tells them apart."""
    np.savez(tmp_path / "rows.npz", x=rows)
    with pytest.raises(VerificationError, match=r"do not show whether the answers are right: y differs by up to"):
        published(model, tmp_path / "r", **{"calibration": None, **dict.fromkeys(given, tmp_path / "rows.npz")})


def test_other_samples_are_a_proof_without_a_note(model: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "others.npz", x=IMAGES[::-1] * np.float32(0.9))
    notes = published(model, tmp_path / "r", samples=tmp_path / "others.npz").notes
    assert not any("same data" in note for note in notes)


def test_a_note_says_what_else_was_not_compared(tmp_path: Path) -> None:
    proto = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1, 8] x, float[1, 8] z) => (float[1, 4] y) {'
        "s = Add (x, z) y = MatMul (s, w) }"
    )
    array = RNG.standard_normal((8, 4)).astype("f")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(array, "w"))
    onnx.save_model(proto, tmp_path / "net.onnx")
    rows = np.linspace(-1, 3, 6 * 8, dtype=np.float32).reshape(6, 8)
    np.savez(tmp_path / "images.npz", x=np.tile(rows, (5, 1)), z=np.zeros((30, 8), np.float32))
    notes = "\n".join(published(tmp_path / "net.onnx", tmp_path / "repository").notes)
    assert "calibrated and compared on the same data (30 rows, 6 of them different; x: -1 to 3; z: 0 to 0)" in notes
    assert "all samples have the same z, so the proof says nothing about other values of it" in notes


def test_a_larger_error_allows_other_classes_that_follow_from_it(tmp_path: Path) -> None:
    """The output is a number of a class, which has to be equal, unless inputs that are a little different give it."""
    rng = np.random.default_rng(7)
    proto = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1, 32] x) => (int64[1] y) {'
        "a = MatMul (x, w) r = Relu (a) b = MatMul (r, u) t = Relu (b) s = MatMul (t, v) "
        "y = ArgMax <axis = 1, keepdims = 0> (s) }"
    )
    for name, shape in (("w", (32, 64)), ("u", (64, 64)), ("v", (64, 300))):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(rng.standard_normal(shape).astype("f"), name))
    onnx.save_model(proto, tmp_path / "net.onnx")
    np.savez(tmp_path / "images.npz", x=rng.standard_normal((200, 32)).astype("f"))
    with pytest.raises(VerificationError, match="they have to be equal") as refused:
        published(tmp_path / "net.onnx", tmp_path / "r")
    assert "--max-error PART" in refused.value.fix
    published(tmp_path / "net.onnx", tmp_path / "r", max_error=0.5)
    assert builder.verify("net", tmp_path / "r").proof.rows


@pytest.mark.slow
def test_triton_gives_the_answers_that_were_proven(model: Path, triton: Server) -> None:
    done = published(model, triton.repository)
    load(triton, "net")
    reference = read_reference(done.version.path, done.manifest)
    answer = infer(triton, "net", {"x": reference["input:x"][:4]})["y"]
    proof = done.manifest.proof.outputs["y"]
    wanted = reference["output:y"][:4]
    assert np.abs(answer - wanted).max() <= proof.atol + proof.rtol * np.abs(wanted).max()
    assert not np.array_equal(answer, wanted)  # it does compute on integers
    assert first_row(reference)["x"].shape == (3, 8, 8)
