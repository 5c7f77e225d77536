"""References as the clients of a server see them, when its config shows less or in another form."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.load_run import run
from support.load_server import CLASSES, DIMS, write_model, write_version
from support.load_settings import read

from builder.server import Server
from loadtest.checking import Reference, View, left_out
from loadtest.errors import SettingsError
from loadtest.wire import Array, TensorSpec


def reference(x: Array, *, dims: tuple[int, ...] | None = None, max_batch_size: int = 8) -> Reference:
    """Rows of `x`, and two outputs: the same rows, and their numbers."""
    own = x.shape[1:] if dims is None else dims
    return Reference(
        model="m",
        version=1,
        max_batch_size=max_batch_size,
        inputs=(TensorSpec("x", "FP32", own),),
        outputs=(TensorSpec("y", "FP32", own), TensorSpec("n", "INT64", (1,))),
        samples={"x": x.astype(np.float32)},
        answers={"y": x.astype(np.float32), "n": np.arange(len(x))[:, np.newaxis]},
        tolerances={},
    )


def view(
    x: tuple[int, ...], *, model: tuple[int, ...] | None = None, outputs: str = "yn", limit: int | None = 8
) -> View:
    specs = {"y": TensorSpec("y", "FP32", x), "n": TensorSpec("n", "INT64", (1,))}
    known, given = ({}, {}) if model is None else ({"x": model}, {"y": model})
    return View((TensorSpec("x", "FP32", x),), tuple(specs[name] for name in outputs), limit, known, given)


ROWS = np.arange(32.0).reshape(2, 16)


@pytest.mark.parametrize(
    ("rows", "dims", "model", "shape"),
    [
        (ROWS, (16,), (16,), (2, 16)),
        (ROWS, (4, 4), (16,), (2, 4, 4)),
        (ROWS, (4, 4), None, (2, 4, 4)),
        (ROWS, (-1, 8), None, (2, 2, 8)),
        (ROWS.reshape(2, 4, 4), (-1, 2, 2), (-1, 4), (2, 4, 2, 2)),
        (ROWS.reshape(2, 2, 2, 4), (-1, 1, -1, 4), (-1, -1, 4), (2, 2, 1, 2, 4)),
        (ROWS.reshape(2, 4, 4), (-1, -1), None, (2, 4, 4)),
        (ROWS[:, :1], (1,), (), (2, 1)),
        (ROWS[:, :1], (1, 1), (), (2, 1, 1)),
    ],
)
def test_rows_have_the_dims_that_clients_send(
    rows: Array, dims: tuple[int, ...], model: tuple[int, ...] | None, shape: tuple[int, ...]
) -> None:
    seen = view(dims, model=model).of(reference(rows))

    assert seen.samples["x"].shape == seen.answers["y"].shape == shape
    np.testing.assert_array_equal(seen.samples["x"].ravel(), rows.ravel())
    assert seen.inputs[0].dims == dims


@pytest.mark.parametrize(
    ("rows", "dims", "model"),
    [
        (ROWS, (17,), (17,)),
        (ROWS, (17,), None),
        (ROWS, (4, 4), (17,)),
        (ROWS.reshape(2, 4, 4), (16,), (2, 8)),
        (ROWS, (-1, 5), None),
        (ROWS, (-1, -1), None),
        (ROWS, (3, 5), (16,)),
    ],
)
def test_rows_of_another_model_do_not_fit(rows: Array, dims: tuple[int, ...], model: tuple[int, ...] | None) -> None:
    with pytest.raises(ValueError, match="input x has the dims"):
        view(dims, model=model).of(reference(rows))


def test_outputs_that_the_server_does_not_give_are_left_out() -> None:
    stored = reference(ROWS)

    seen = view((16,), outputs="n", limit=4).of(stored)

    assert [spec.name for spec in seen.outputs] == ["n"]
    assert seen.answers.keys() == {"n"}
    assert seen.max_batch_size == 4
    assert left_out(stored, seen) == ["y"]
    with pytest.raises(ValueError, match="no output in common"):
        view((16,), outputs="").of(stored)


@pytest.mark.parametrize("names", [("z",), ("x", "z"), ()])
def test_inputs_have_to_be_the_same(names: tuple[str, ...]) -> None:
    other = View(tuple(TensorSpec(name, "FP32", (16,)) for name in names), (TensorSpec("y", "FP32", (16,)),))
    with pytest.raises(ValueError, match=r"only one of them has the input [xz]"):
        other.of(reference(ROWS))


def test_types_have_to_be_the_same() -> None:
    with pytest.raises(ValueError, match="output y is FP32 in one and FP16 in the other"):
        View((TensorSpec("x", "FP32", (16,)),), (TensorSpec("y", "FP16", (16,)),)).of(reference(ROWS))


def test_models_have_versions_and_can_be_given_several_times() -> None:
    models = read("--model", "digits:1=3", "--model", "digits:3,ranker", "--model", "a:b").models

    assert [(one.name, one.version, one.weight) for one in models] == [
        ("digits", "1", 3.0),
        ("digits", "3", 1.0),
        ("ranker", "", 1.0),
        ("a:b", "", 1.0),
    ]
    assert read("--model", "digits", "--model-version", "2").models[0].version == "2"
    with pytest.raises(SettingsError, match="--model gives version 1 already"):
        read("--model", "digits:1", "--model-version", "2")


# ---- with a real Triton


def edited(repository: Path, name: str, *changes: tuple[str, str]) -> None:
    config = repository / name / "config.pbtxt"
    text = config.read_text()
    for old, new in changes:
        assert old in text, text
        text = text.replace(old, new, 1)
    config.write_text(text)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("repository")
    write_version(path, "shaped")
    edited(
        path,
        "shaped",
        (f"dims: [ {DIMS} ]", f"dims: [ {DIMS}, 1 ] reshape {{ shape: [ {DIMS} ] }}"),
        ("dims: [ 3 ] }", "dims: [ 1, 3 ] reshape { shape: [ 3 ] } }"),
        (',\n  { name: "label" data_type: TYPE_INT64 dims: [ 1 ] }', ""),
        ("max_batch_size: 16", "max_batch_size: 4"),
    )
    folder = write_version(path, "optional", max_batch_size=0)
    model = onnx.load(folder / "model.onnx")
    model.graph.input.append(helper.make_tensor_value_info("weights", TensorProto.FLOAT, [DIMS, CLASSES]))
    write_model(folder, model)
    weights = f'{{ name: "weights" data_type: TYPE_FP32 dims: [ {DIMS}, {CLASSES} ] optional: true }}'
    edited(path, "optional", (f"dims: [ 1, {DIMS} ] }} ]", f"dims: [ 1, {DIMS} ] }}, {weights} ]"))
    for version in (1, 2, 3):
        write_version(path, "several", version, seed=version, served=[1, 3])
    return path


OPTIONS = ("--concurrency", "4", "--stage-time", "1", "--stages", "1", "--warm-up", "0.2")


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_model_is_tested_as_its_config_shows_it(
    server: Server, repository: Path, tmp_path: Path, protocol: str
) -> None:
    options = ("--repository", str(repository), "--protocol", protocol, "--rows", "3", *OPTIONS)

    done = run(server, tmp_path, *options, model="shaped")

    assert done.code == 0, done.stderr
    assert done.result["totals"]["requests"] > 0
    assert done.result["totals"]["unchecked"] == 0
    assert "label of shaped was not checked: the server does not give it" in done.result["notes"]
    assert "label of shaped was not checked" in done.stdout + done.stderr

    more = run(server, tmp_path / "more", *options, "--rows", "8", model="shaped")
    assert more.code != 0
    assert "takes at most 4 rows per request, not 8" in more.stderr


@pytest.mark.slow
def test_an_optional_input_that_no_sample_has_is_not_sent(server: Server, repository: Path, tmp_path: Path) -> None:
    done = run(server, tmp_path, "--repository", str(repository), *OPTIONS, model="optional")

    assert done.code == 0, done.stderr
    assert done.result["totals"]["requests"] > 0
    assert done.result["totals"]["unchecked"] == 0


@pytest.mark.slow
def test_versions_that_are_served_together_are_each_compared_with_their_own_reference(
    server: Server, repository: Path, tmp_path: Path
) -> None:
    options = ("--repository", str(repository), *OPTIONS)

    done = run(server, tmp_path, *options, model="several:1=3,several:3,several")

    assert done.code == 0, done.stderr
    assert done.result["totals"]["unchecked"] == 0
    (stage,) = done.result["stages"]
    counts = {version["version"]: version["requests"] for version in stage["versions"]}
    assert counts.keys() == {"1", "3"}
    assert [(one["version"], one["weight"]) for one in done.result["run"]["models"]] == [("1", 3), ("3", 1), (None, 1)]

    copy = tmp_path / "copy"  # whose version 1 has the right answers of version 2
    shutil.copytree(repository / "several", copy / "several")
    shutil.copy(copy / "several" / "2" / "reference.npz", copy / "several" / "1" / "reference.npz")
    wrong = run(server, tmp_path / "wrong", "--repository", str(copy), *OPTIONS, model="several:1,several:3")
    assert wrong.code == 1
    (stage,) = wrong.result["stages"]
    assert {one["version"]: sum(one["wrong"].values()) > 0 for one in stage["versions"]} == {"1": True, "3": False}
