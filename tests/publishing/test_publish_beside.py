"""Publishing into a model that others have made: what its clients rely on stays, whatever its config says."""

from pathlib import Path

import onnx
import pytest
from onnx import parser
from support import foreign
from support.artifacts import tree

from builder import api
from builder.errors import ModelError, RepositoryError
from builder.publishing import PublishOptions
from builder.repository import Repository

NEW = """
<ir_version: 8, opset_import: ["": 17]>
g (float[1, 3] input_1) => (float[1, 3] out_7) {
    factor = Constant <value = float {5.0}> ()
    out_7 = Mul (input_1, factor)
}
"""
"""The same interface under an exporter's names, with a batch of 1."""

OTHER = """
<ir_version: 8, opset_import: ["": 17]>
g (float[1, 4] x) => (float[1, 4] y) {
    y = Relu (x)
}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "models"


def file(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    onnx.save(parser.parse_model(text), folder / "new.onnx")
    return folder / "new.onnx"


@pytest.mark.parametrize("config", [None, foreign.SCALE_CONFIG])
def test_the_names_that_clients_use_stay_whoever_put_the_version_there(
    root: Path, tmp_path: Path, config: str | None
) -> None:
    foreign.write_onnx(root, "scale", config, foreign.scale(), foreign.scale(3))

    done = api.publish(file(tmp_path / "in", NEW), root, name="scale")

    assert (done.version.version, done.version.created) == (3, True)
    assert [tensor.name for tensor in (*done.manifest.inputs, *done.manifest.outputs)] == ["x", "y"]
    assert api.verify("scale", root).version == 3


def test_a_model_without_a_config_gets_one_that_serves_the_new_version(root: Path, tmp_path: Path) -> None:
    foreign.write_onnx(root, "bare", None, foreign.scale())
    before = tree(root)

    api.publish(file(tmp_path / "in", NEW), root, name="bare")

    model = Repository(root).model("bare")
    assert (model.versions(), model.served_versions(), model.max_batch_size()) == ((1, 2), (2,), 32)
    assert {path: content for path, content in tree(root).items() if path in before} == before
    assert api.rollback("bare", root).after == 1


def test_the_file_gets_the_name_that_the_config_gives_it(root: Path, tmp_path: Path) -> None:
    config = foreign.SCALE_CONFIG + 'default_model_filename: "net.onnx"'
    folder = foreign.write_onnx(root, "scale", config, foreign.scale(), file="net.onnx")

    done = api.publish(file(tmp_path / "in", NEW), root, name="scale")

    assert (folder / "2" / "net.onnx").is_file()
    assert done.manifest.model.file == "net.onnx"
    assert api.verify("scale", root).version == 2


@pytest.mark.parametrize("name", ["manifest.json", "model.plan", "sub/net.onnx"])
def test_a_name_that_no_onnx_file_can_have_is_refused(root: Path, tmp_path: Path, name: str) -> None:
    config = foreign.SCALE_CONFIG + f'default_model_filename: "{name}"'
    foreign.write_onnx(root, "scale", config, foreign.scale())
    with pytest.raises(RepositoryError, match="default_model_filename"):
        api.publish(file(tmp_path / "in", NEW), root, name="scale")


def test_a_first_dimension_of_1_becomes_the_batch(root: Path, tmp_path: Path) -> None:
    """A request of one sample stays as it is: `[1, 3]`."""
    foreign.write_onnx(root, "fixed", None, parser.parse_model(NEW))

    done = api.publish(file(tmp_path / "in", NEW), root, name="fixed")

    assert (done.manifest.max_batch_size, done.manifest.inputs[0].dims) == (32, (3,))
    assert done.manifest.inputs[0].name == "input_1"


WITHOUT_BATCH = """
# kept
backend: "onnxruntime"
input { name: "input_1" data_type: TYPE_FP32 dims: [1, 3] }
output { name: "out_7" data_type: TYPE_FP32 dims: [1, 3] }
"""


@pytest.mark.parametrize("is_adopted", [False, True])
@pytest.mark.parametrize("config", [None, WITHOUT_BATCH])
def test_a_first_dimension_of_1_in_the_config_becomes_the_batch_too(
    root: Path, tmp_path: Path, config: str | None, is_adopted: bool
) -> None:
    foreign.write_onnx(root, "fixed", config, parser.parse_model(NEW))
    if is_adopted:
        assert not api.adopt(["fixed"], root).refused

    done = api.publish(file(tmp_path / "in", NEW), root, name="fixed")

    assert (done.manifest.max_batch_size, done.manifest.inputs[0].dims) == (32, (3,))
    assert api.verify("fixed", root).version == 2
    written = Repository(root).model("fixed").read_config()
    assert (config is None) or "# kept" in written
    is_told = any("is the batch now" in note for note in done.notes)
    assert is_told == (config is not None or is_adopted)


def test_a_first_dimension_of_2_stays_and_the_model_is_refused(root: Path, tmp_path: Path) -> None:
    two = NEW.replace("[1, 3]", "[2, 3]")
    foreign.write_onnx(root, "fixed", WITHOUT_BATCH.replace("[1, 3]", "[2, 3]"), parser.parse_model(two))
    with pytest.raises(RepositoryError, match=r"has dims \[2, 3\]"):
        api.publish(file(tmp_path / "in", two), root, name="fixed")


def test_without_a_batch_the_whole_shape_has_to_stay(root: Path, tmp_path: Path) -> None:
    foreign.write_onnx(root, "fixed", None, parser.parse_model(NEW))
    options = PublishOptions(is_static=True)
    done = api.publish(file(tmp_path / "in", NEW), root, name="fixed", options=options)
    assert (done.manifest.max_batch_size, done.manifest.inputs[0].dims) == (0, (1, 3))


@pytest.mark.parametrize("config", [None, foreign.SCALE_CONFIG])
def test_another_interface_is_refused(root: Path, tmp_path: Path, config: str | None) -> None:
    foreign.write_onnx(root, "scale", config, foreign.scale())
    before = tree(root)
    with pytest.raises(ModelError, match="the model does not match the served version"):
        api.publish(file(tmp_path / "in", OTHER), root, name="scale")
    assert tree(root) == before


def test_a_version_that_nobody_can_run_keeps_no_other_from_being_published(root: Path, tmp_path: Path) -> None:
    folder = foreign.write_onnx(root, "bare", None, foreign.scale())
    (folder / "1" / "model.onnx").write_bytes(b"damaged")
    assert api.publish(file(tmp_path / "in", NEW), root, name="bare").version.version == 2


def test_a_model_of_ours_whose_config_was_deleted_gets_it_again(root: Path, tmp_path: Path) -> None:
    source = file(tmp_path / "in", NEW)
    api.publish(source, root, name="scale")
    (root / "scale" / "config.pbtxt").unlink()

    done = api.publish(source, root, name="scale")

    assert (done.version.version, done.version.created) == (1, False)
    assert api.verify("scale", root).version == 1


@pytest.mark.parametrize(
    ("name", "what"),
    [("both", "it is an ensemble of scale and script"), ("script", "it is a model of the backend 'python'")],
)
def test_models_of_other_kinds_stay_as_they_are(root: Path, tmp_path: Path, name: str, what: str) -> None:
    foreign.write_python(root, "script")
    foreign.write_ensemble(root, "both", "scale", "script")
    before = tree(root)

    with pytest.raises(RepositoryError) as refused:
        api.publish(file(tmp_path / "in", NEW), root, name=name)

    assert (refused.value.what, tree(root)) == (what, before)
    assert "--name" in refused.value.fix
    api.publish(file(tmp_path / "in", NEW), root, name="scale")
    assert {path: content for path, content in tree(root).items() if path in before} == before


def test_a_python_model_without_a_config_stays_as_it_is(root: Path, tmp_path: Path) -> None:
    (foreign.write_python(root, "script") / "config.pbtxt").unlink()
    with pytest.raises(RepositoryError, match="a model of the backend 'python'"):
        api.publish(file(tmp_path / "in", NEW), root, name="script")


@pytest.mark.parametrize(
    ("policy", "after"),
    [
        ("", (3,)),
        ("version_policy { latest { num_versions: 2 } }", (2, 3)),
        ("version_policy { all { } }", (1, 2, 3)),
        ("version_policy { specific { versions: [1, 2] } }", (1, 3)),
    ],
)
def test_each_policy_serves_the_new_version_and_keeps_the_others(
    root: Path, tmp_path: Path, policy: str, after: tuple[int, ...]
) -> None:
    foreign.write_onnx(root, "scale", foreign.SCALE_CONFIG + policy, foreign.scale(2), foreign.scale(3))
    api.publish(file(tmp_path / "in", NEW), root, name="scale")
    assert Repository(root).model("scale").served_versions() == after
