"""Installed versions, served by a real Triton with auto-complete off."""

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support.artifacts import scale, scale_model
from support.load_server import serving
from support.serving import client, executed_batches, infer, load, unload
from tritonclient.utils import InferenceServerException

from builder.config import ConfigOptions, pbtxt
from builder.config.rules import problems
from builder.publishing import install, roll_back
from builder.record import Content, ServedTensor
from builder.repository import Artifact, Repository
from builder.server import Server

pytestmark = pytest.mark.slow

ONE_THREAD = ConfigOptions(intra_op_thread_count=1)


@pytest.fixture
def name(triton: Server, request: pytest.FixtureRequest) -> Iterator[str]:
    """A model's name; the model is unloaded and removed when the test is over."""
    name = re.sub(r"\W+", "_", request.node.name)[:150]
    yield name
    unload(triton, name)
    shutil.rmtree(triton.repository / name, ignore_errors=True)


def ask(triton: Server, name: str, artifact: Artifact, rows: slice) -> dict[str, Any]:
    reference = artifact.reference
    strings = reference["input:s"][rows].astype(np.object_)
    return infer(
        triton, name, {"x": reference["input:x"][rows], "n": reference["input:n"][rows, np.newaxis], "s": strings}
    )


def served_versions(triton: Server, name: str) -> list[str]:
    with client(triton) as connection:
        return list(connection.get_model_metadata(name).versions)


@pytest.mark.parametrize("rows", [slice(0, 1), slice(1, 4)])
def test_an_installed_model_loads_warms_up_and_answers_as_in_its_reference(
    triton: Server, name: str, rows: slice
) -> None:
    artifact = scale()
    install(Repository(triton.repository), name, artifact, ONE_THREAD)

    load(triton, name)

    answers = ask(triton, name, artifact, rows)
    np.testing.assert_allclose(answers["y"], artifact.reference["output:y"][rows], rtol=1e-6)
    np.testing.assert_array_equal(answers["m"], artifact.reference["output:m"][rows, np.newaxis])
    assert [[s.decode() for s in row] for row in answers["t"]] == artifact.reference["output:t"][rows].tolist()


def test_warmup_runs_the_row_of_the_reference_at_batch_1_and_the_largest(triton: Server, name: str) -> None:
    """The model fails on every row but one: its only factor is at index 0, the distance from the right row."""
    guard = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17]>
        guard (float[N, 3] x) => (float[N, 3] y) {
            expected = Constant <value = float[3] {7.0, 8.0, 9.0}> ()
            difference = Sub (x, expected)
            distance = ReduceSumSquare <keepdims = 0> (difference)
            index = Cast <to = 7> (distance)
            factors = Constant <value = float[1] {1.0}> ()
            factor = Gather (factors, index)
            y = Mul (x, factor)
        }""")
    artifact = scale(files={"model.onnx": guard.SerializeToString()}, max_batch_size=4)
    manifest = replace(artifact.manifest, inputs=artifact.manifest.inputs[:1], outputs=artifact.manifest.outputs[:1])
    x = np.array([[7, 8, 9], [1, 2, 3]], np.float32)
    reference = {"input:x": x, "output:y": x}
    install(Repository(triton.repository), name, Artifact(artifact.files, manifest, reference), ONE_THREAD)

    load(triton, name)

    assert executed_batches(triton, name, rows=5) == {1: 1, 4: 1}
    with pytest.raises(InferenceServerException, match="out of data bounds"):
        infer(triton, name, {"x": x[1:]})


def test_answers_switch_with_each_install_and_rollback(triton: Server, name: str) -> None:
    repository = Repository(triton.repository)

    def served_factor() -> tuple[list[str], float]:
        load(triton, name)
        return served_versions(triton, name), ask(triton, name, scale(), slice(1, 2))["y"][0, 1] / 4.0

    install(repository, name, scale(2.0), ONE_THREAD)
    assert served_factor() == (["1"], 2.0)
    install(repository, name, scale(3.0, max_batch_size=16))
    assert served_factor() == (["2"], 3.0)
    roll_back(repository, name)
    assert served_factor() == (["1"], 2.0)
    roll_back(repository, name, 2)
    repository.prune(name, keep=1)
    assert served_factor() == (["2"], 3.0)


def test_external_weights_are_loaded_from_the_models_folder(triton: Server, name: str, tmp_path: Path) -> None:
    model = scale_model(5.0)
    factor = onnx.numpy_helper.from_array(np.full((3,), 5.0, np.float32), "factor")
    del model.graph.node[0]
    model.graph.initializer.append(factor)
    onnx.save_model(model, tmp_path / "model.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    files: dict[str, Content] = {
        "model.onnx": (tmp_path / "model.onnx").read_bytes(),
        "weights": tmp_path / "weights",
    }
    artifact = scale(5.0, files=files)

    install(Repository(triton.repository), name, artifact, ONE_THREAD)

    load(triton, name)
    np.testing.assert_allclose(ask(triton, name, artifact, slice(0, 2))["y"], artifact.reference["output:y"][:2])


def test_a_model_without_a_batch_loads(triton: Server, name: str) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> m (float[2, 3] x) => (float[2, 3] y) { y = Add (x, x) }'
    )
    artifact = scale(files={"model.onnx": model.SerializeToString()}, max_batch_size=0)
    tensor = ServedTensor("x", "x", "TYPE_FP32", (2, 3))
    manifest = replace(artifact.manifest, inputs=(tensor,), outputs=(replace(tensor, name="y"),))
    x = np.ones((1, 2, 3), np.float32)

    install(
        Repository(triton.repository),
        name,
        Artifact(artifact.files, manifest, {"input:x": x, "output:y": 2 * x}),
        ONE_THREAD,
    )

    load(triton, name)
    np.testing.assert_array_equal(infer(triton, name, {"x": x[0]})["y"], 2 * x[0])


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.ClearField("input"),
        lambda c: c.input.add().CopyFrom(c.input[0]),
        lambda c: setattr(c, "max_batch_size", -1),
        lambda c: c.output[0].ClearField("data_type"),
        lambda c: c.output[0].ClearField("dims"),
        lambda c: c.output[0].dims.append(0),
        lambda c: c.output[1].reshape.shape.append(-1),
        lambda c: setattr(c.input[0], "format", 1),
        lambda c: setattr(c.dynamic_batching, "priority_levels", 2),
        lambda c: c.dynamic_batching.preferred_batch_size.append(9),
        lambda c: c.instance_group[0].profile.append("0"),
        lambda c: c.model_warmup[0].inputs.pop("x"),
        lambda c: c.model_warmup[0].inputs["x"].ClearField("input_data_file"),
        lambda c: c.model_warmup[0].inputs["x"].dims.append(-1),
        lambda c: c.instance_group[0].gpus.append(0),
    ],
)
def test_what_is_reported_as_a_problem_triton_refuses_too(
    triton: Server, name: str, change: Callable[[Any], object]
) -> None:
    assert list(problems(install_changed(triton, name, change)))
    with pytest.raises(InferenceServerException):
        load(triton, name)
    triton.ensure_running()


def test_a_warmup_above_the_largest_batch_is_a_problem_and_makes_triton_fail_or_crash(
    tmp_path: Path,
) -> None:
    """Triton 2.51 crashes at times on a warmup that fails, so it gets its own server."""
    with serving(tmp_path, model_control_mode="explicit") as server:
        config = install_changed(server, "m", lambda c: setattr(c.model_warmup[0], "batch_size", 9))
        assert any("warmup" in problem for problem in problems(config))
        with pytest.raises(InferenceServerException):
            load(server, "m")


def install_changed(triton: Server, name: str, change: Callable[[Any], object]) -> Any:
    """Install a good model whose config is then changed by hand; return that config."""
    repository = Repository(triton.repository)
    install(repository, name, scale(), ConfigOptions(kind="cpu", intra_op_thread_count=1))
    path = repository.model(name).config_path
    config = pbtxt.parse(path.read_text(), where=path)
    change(config)
    path.write_text(pbtxt.render(config))
    return config


def test_a_name_with_every_allowed_kind_of_character_is_served_over_http_and_grpc(triton: Server) -> None:
    name = "Aa0_z.9+b-"
    install(Repository(triton.repository), name, scale(), ONE_THREAD)

    load(triton, name)

    assert served_versions(triton, name) == ["1"]
    unload(triton, name)
