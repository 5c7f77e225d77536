"""Models that were in a repository before: proven as they are, and treated as published ones from then on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser
from support import foreign
from support.artifacts import EMPTY, names, tree

from builder import api
from builder.errors import BuilderError, ModelError, RepositoryError, VerificationError
from builder.publishing import Adoption, AdoptOptions, adopt, roll_back
from builder.record import Manifest
from builder.repository import AdoptedVersion, Repository

STATIC = """
<ir_version: 8, opset_import: ["": 17]>
g (float[BATCH, 3] x) => (float[BATCH, 3] y) {
    y = Mul (x, x)
}
"""

FROZEN = """
<ir_version: 8, opset_import: ["": 17]>
g (float[batch, 4] x) => (float[batch, 4] y) {
    shape = Constant <value = int64[2] {1, 4}> ()
    rows = Reshape (x, shape)
    y = Add (rows, x)
}
"""
"""It says that its batch is dynamic, and works for one sample only."""

TWO_OUTPUTS = """
<ir_version: 8, opset_import: ["": 17]>
g (float[batch, size] x) => (float[batch, size] y, float[batch, 1] total) {
    y = Mul (x, x)
    axes = Constant <value = int64[1] {1}> ()
    total = ReduceSum (x, axes)
}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "models"


def adopted(root: Path, name: str, **options: object) -> Manifest:
    """Adopt one model with one version, and return its manifest as it is on disk."""
    done = adopt(root, [name], options=AdoptOptions(**options))  # type: ignore[arg-type]
    for error in done.refused.values():
        raise error
    (version,) = done.adopted[0].versions
    return Repository(root).model(name).read_manifest(version)


def refusal(root: Path, name: str, **options: object) -> BuilderError:
    """Adopt a model in vain, and return why; nothing may have changed."""
    before = tree(root)
    done = adopt(root, [name], options=AdoptOptions(**options))  # type: ignore[arg-type]
    assert tree(root) == before
    return done.refused[name]


# ---- what is written


def test_only_a_manifest_and_a_reference_are_added(root: Path) -> None:
    foreign.write_onnx(root, "scale", foreign.SCALE_CONFIG, foreign.scale())
    before = tree(root)

    manifest = adopted(root, "scale")

    after = tree(root)
    assert after.keys() - before.keys() == {"scale/1/manifest.json", "scale/1/reference.npz"}
    assert {path: after[path] for path in before} == before
    assert (manifest.adopted, manifest.max_batch_size, manifest.proof.batch_sizes) == (True, 8, (1, 2, 3, 4, 8))
    assert names(root.parent / ".models.staging") == EMPTY


def test_an_adopted_version_is_verified_and_its_changed_file_is_not(root: Path) -> None:
    folder = foreign.write_onnx(root, "scale", foreign.SCALE_CONFIG, foreign.scale())
    adopted(root, "scale")
    assert api.verify("scale", root).proof.batch_sizes == (1, 2, 3, 4, 8)

    onnx.save(foreign.scale(3), folder / "1" / "model.onnx")
    with pytest.raises(VerificationError, match="changed after they were adopted"):
        api.verify("scale", root)


def test_a_dry_run_proves_and_writes_nothing(root: Path) -> None:
    foreign.write_onnx(root, "bare", None, foreign.scale())
    before = tree(root.parent)

    done = adopt(root, ["bare"], options=AdoptOptions(dry_run=True))

    assert done.adopted[0].files == ("1/reference.npz", "1/manifest.json", "config.pbtxt")
    assert tree(root.parent) == before


def test_a_model_without_a_config_gets_what_triton_makes_up(root: Path) -> None:
    foreign.write_onnx(root, "bare", None, foreign.scale(2), foreign.scale(3))

    done = adopt(root)

    (model,) = done.adopted
    assert (list(model.versions), model.files[-1]) == ([2], "config.pbtxt")
    directory = Repository(root).model("bare")
    assert directory.read_config() == model.config
    assert (directory.max_batch_size(), directory.served_versions()) == (4, (2,))
    assert "version_policy" not in directory.read_config()
    assert api.verify("bare", root).version == 2


@pytest.mark.parametrize("policy", ["all { }", "latest { num_versions: 2 }", "specific { versions: [1, 2] }"])
def test_every_version_that_is_served_is_adopted(root: Path, policy: str) -> None:
    config = f"{foreign.SCALE_CONFIG} version_policy {{ {policy} }}"
    foreign.write_onnx(root, "scale", config, foreign.scale(2), foreign.scale(3))

    (model,) = adopt(root).adopted

    assert list(model.versions) == [1, 2]
    assert adopt(root) == Adoption((), {}, {})
    assert [api.verify("scale", root, version=version).version for version in (1, 2)] == [1, 2]


def test_a_version_that_is_not_served_is_adopted_when_it_is_named(root: Path) -> None:
    foreign.write_onnx(root, "scale", foreign.SCALE_CONFIG, foreign.scale(2), foreign.scale(3))
    adopted(root, "scale", version=1)
    adopted(root, "scale")
    assert roll_back(Repository(root), "scale").after == 1


# ---- the interface in force


def test_a_batch_that_is_fixed_in_the_file_is_proven_as_whole_requests(root: Path) -> None:
    config = foreign.SCALE_CONFIG.replace("max_batch_size: 8", "max_batch_size: 0").replace("dims: 3", "dims: [2, 3]")
    foreign.write_onnx(root, "fixed", config, parser.parse_model(STATIC.replace("BATCH", "2")))

    manifest = adopted(root, "fixed")

    assert (manifest.max_batch_size, manifest.inputs[0].dims, manifest.proof.batch_sizes) == (0, (2, 3), ())
    assert api.verify("fixed", root).version == 1


def test_a_scalar_is_adopted(root: Path) -> None:
    config = """
    backend: "onnxruntime"
    input { name: "x" data_type: TYPE_FP32 dims: 1 }
    output { name: "y" data_type: TYPE_FP32 dims: 1 }
    """
    foreign.write_onnx(root, "scalar", config, parser.parse_model(STATIC.replace("[BATCH, 3]", "")))
    assert adopted(root, "scalar").inputs[0].dims == ()
    assert api.verify("scalar", root).version == 1


def test_a_version_that_is_missing_keeps_no_other_from_being_adopted(root: Path) -> None:
    """Triton serves the versions that are there."""
    policy = "version_policy { specific { versions: [1, 7] } }"
    foreign.write_onnx(root, "scale", foreign.SCALE_CONFIG + policy, foreign.scale())
    (model,) = adopt(root).adopted
    assert list(model.versions) == [1]


def test_a_config_that_triton_refuses_is_not_adopted(root: Path) -> None:
    foreign.write_onnx(root, "scale", foreign.SCALE_CONFIG + "dynamic_batchng { }", foreign.scale())
    assert "dynamic_batching" in refusal(root, "scale").fix + str(refusal(root, "scale").what)


def test_a_model_that_is_a_link_is_skipped(root: Path) -> None:
    foreign.write_onnx(root, "scale", foreign.SCALE_CONFIG, foreign.scale())
    (root / "link").symlink_to(root / "scale")
    assert adopt(root).skipped == {"link": "it is a link, and what it leads to is not changed"}


def test_a_config_with_a_batch_for_a_file_without_one_is_refused(root: Path) -> None:
    foreign.write_onnx(root, "fixed", foreign.SCALE_CONFIG, parser.parse_model(STATIC.replace("BATCH", "1")))
    error = refusal(root, "fixed")
    assert "so Triton does not load it" in str(error.what)
    assert "--name fixed" in error.fix


def test_samples_have_the_sizes_that_the_config_allows(root: Path) -> None:
    config = """
    backend: "onnxruntime" max_batch_size: 4
    input { name: "x" data_type: TYPE_FP32 dims: [2, 3] reshape { shape: [6] } }
    output { name: "total" data_type: TYPE_FP32 dims: [1] }
    """
    foreign.write_onnx(root, "sums", config, parser.parse_model(TWO_OUTPUTS))

    manifest = adopted(root, "sums")

    reference = Repository(root).model("sums").read_reference(1)
    assert reference["input:x"].shape == (8, 6)
    assert (manifest.inputs[0].dims, [tensor.name for tensor in manifest.outputs]) == ((-1,), ["y", "total"])
    assert api.verify("sums", root).version == 1


def test_own_samples_are_kept_and_those_of_another_size_than_the_config_are_refused(root: Path, tmp_path: Path) -> None:
    config = 'backend: "onnxruntime" max_batch_size: 4 input { name: "x" data_type: TYPE_FP32 dims: 6 }'
    foreign.write_onnx(root, "sums", config, parser.parse_model(TWO_OUTPUTS))
    rows = np.arange(30, dtype=np.float32).reshape(5, 6)
    np.savez(tmp_path / "good.npz", x=rows)
    np.savez(tmp_path / "bad.npz", x=rows.reshape(6, 5))

    assert "the dims [6]" in str(refusal(root, "sums", samples=tmp_path / "bad.npz").what)
    assert adopted(root, "sums", samples=tmp_path / "good.npz").options == {"samples": "good.npz"}
    assert (Repository(root).model("sums").read_reference(1)["input:x"] == rows).all()


def test_a_larger_batch_can_be_proven_than_is_served_but_not_a_smaller_one(root: Path) -> None:
    foreign.write_onnx(root, "scale", foreign.SCALE_CONFIG, foreign.scale())
    assert "proving 4 is not enough" in str(refusal(root, "scale", max_batch_size=4).what)
    assert adopted(root, "scale", max_batch_size=16).max_batch_size == 16


@pytest.mark.parametrize(
    ("file", "config"), [("resnet.onnx", 'default_model_filename: "resnet.onnx"'), ("model.onnx/model.onnx", "")]
)
def test_the_file_may_have_another_name_or_be_in_a_folder_with_its_weights(root: Path, file: str, config: str) -> None:
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Add", ["x", "bias"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 300])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 300])],
            [numpy_helper.from_array(np.arange(300, dtype=np.float32), "bias")],
        ),
        ir_version=8,
        opset_imports=[helper.make_opsetid("", 17)],
    )
    path = root / "big" / "1" / file
    path.parent.mkdir(parents=True)
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (root / "big" / "config.pbtxt").write_text(f'backend: "onnxruntime" max_batch_size: 4 {config}')

    manifest = adopted(root, "big")

    assert manifest.model.files == (file, (Path(file).parent / "weights.bin").as_posix())
    assert api.verify("big", root).version == 1


# ---- what cannot be adopted


def test_a_model_that_mixes_its_samples_is_refused_with_the_node_and_a_way_to_go_on(root: Path) -> None:
    foreign.write_onnx(root, "mean", foreign.SCALE_CONFIG, parser.parse_model(foreign.BATCH_MEAN))
    error = refusal(root, "mean")
    assert isinstance(error, ModelError)
    assert "ReduceMean" in str(error.what)
    assert "--static" in error.fix


def test_a_file_that_works_at_one_batch_size_only_is_refused_with_the_command_that_repairs_it(root: Path) -> None:
    config = foreign.SCALE_CONFIG.replace("dims: 3", "dims: 4")
    folder = foreign.write_onnx(root, "frozen", config, parser.parse_model(FROZEN))
    error = refusal(root, "frozen")
    assert "made for 1 sample" in str(error.what)
    assert f"publish {folder / '1' / 'model.onnx'} --name frozen" in error.fix


def test_a_config_that_contradicts_the_file_is_refused(root: Path) -> None:
    foreign.write_onnx(root, "scale", foreign.SCALE_CONFIG.replace("TYPE_FP32", "TYPE_FP16"), foreign.scale())
    assert "'x' is TYPE_FP16, but the version's is TYPE_FP32" in str(refusal(root, "scale").what)


def test_other_kinds_are_skipped_with_the_reason_and_refused_when_they_are_named(root: Path) -> None:
    foreign.write_python(root, "script")
    foreign.write_ensemble(root, "both", "scale", "script")
    foreign.write_onnx(root, "turns", f"{foreign.SCALE_CONFIG} sequence_batching {{ }}", foreign.scale())
    (root / "empty").mkdir()

    done = adopt(root)

    assert (done.adopted, done.refused) == ((), {})
    assert done.skipped.keys() == {"both", "empty", "script", "turns"}
    assert done.skipped["both"] == "it is an ensemble of scale and script"
    for name in done.skipped:
        with pytest.raises(RepositoryError):
            adopt(root, [name])


def test_a_model_that_is_refused_keeps_no_other_from_being_adopted(root: Path) -> None:
    foreign.write_onnx(root, "a", foreign.SCALE_CONFIG, parser.parse_model(foreign.BATCH_MEAN))
    foreign.write_onnx(root, "b", foreign.SCALE_CONFIG, foreign.scale())
    done = adopt(root)
    assert ([model.name for model in done.adopted], list(done.refused)) == (["b"], ["a"])


@pytest.mark.parametrize("name", ["reference.npz", "manifest.json"])
def test_a_file_that_is_in_the_way_is_told_and_not_replaced(root: Path, name: str) -> None:
    folder = foreign.write_onnx(root, "scale", foreign.SCALE_CONFIG, foreign.scale())
    (folder / "1" / name).write_text("somebody's")
    assert name in str(refusal(root, "scale"))


def test_weights_outside_the_versions_folder_are_refused(root: Path, tmp_path: Path) -> None:
    folder = foreign.write_onnx(root, "scale", foreign.SCALE_CONFIG, foreign.scale())
    (folder / "1" / "model.onnx").rename(tmp_path / "model.onnx")
    (folder / "1" / "model.onnx").symlink_to(tmp_path / "model.onnx")
    assert "a link to a file outside" in str(refusal(root, "scale").what)


# ---- against the original


def test_a_version_is_compared_with_the_original_that_is_given(root: Path, tmp_path: Path) -> None:
    original = parser.parse_model(STATIC.replace("BATCH", "1"))
    onnx.save(original, tmp_path / "square.onnx")
    foreign.write_onnx(root, "square", foreign.SCALE_CONFIG, parser.parse_model(STATIC.replace("BATCH", "batch")))
    foreign.write_onnx(root, "scale", foreign.SCALE_CONFIG, foreign.scale())

    manifest = adopted(root, "square", original=tmp_path / "square.onnx")

    assert manifest.source.file == "square.onnx"
    assert isinstance(refusal(root, "scale", original=tmp_path / "square.onnx"), VerificationError)


def test_a_version_that_was_published_since_it_was_proven_is_left_alone(root: Path) -> None:
    """The proof takes long, and the lock is not held: somebody may adopt the same version meanwhile."""
    foreign.write_onnx(root, "scale", foreign.SCALE_CONFIG, foreign.scale())
    adopted(root, "scale")
    model = Repository(root).model("scale")
    manifest, reference = model.read_manifest(1), model.read_reference(1)

    with (
        pytest.raises(RepositoryError, match="somebody else adopted this version"),
        Repository(root).changing("scale", "test") as change,
    ):
        change.adopt([AdoptedVersion(1, replace(manifest, builder="other"), reference)], None, read=model.read_config())
    assert model.read_manifest(1) == manifest
