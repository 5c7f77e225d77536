"""The sizes of a module's dynamic axes are those of --input or --size, and other sizes keep the relations."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from builder.errors import ModelError
from builder.exporting import ExportOptions, InputSpec, export, publish_module
from builder.publishing import Publication, PublishOptions
from builder.repository import Repository

if importlib.util.find_spec("torch") is not None:
    from builder.exporting.sizes import ask_given

pytestmark = pytest.mark.torch

STEP = ("key=float32[1,7,2]", "mask=float32[1,8]", "x=float32[1,1,2]")
STEP_AXES = {"key": {1: "past"}, "mask": {1: "total"}}
SOUND = ("audio=float32[1,1600]",)
LINE = ("image=float32[1,6,9]",)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sizes")


@pytest.fixture(autouse=True)
def working_directory(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "support")
    monkeypatch.chdir(root)


def specs(*inputs: str) -> tuple[InputSpec, ...]:
    return tuple(map(InputSpec.parse, inputs))


def put(root: Path, factory: str, inputs: tuple[str, ...], said: list[str], **options: Any) -> Publication:
    return publish_module(
        f"sized_modules:{factory}",
        root / "repository",
        inputs=specs(*inputs),
        exporter="torch.export",
        options=PublishOptions(**options),
        report=lambda step, what: said.append(f"{step} {what}"),
    )


def shapes(root: Path, name: str) -> dict[str, tuple[int, ...]]:
    reference = Repository(root / "repository").model(name).read_reference(1)
    return {key[6:]: array.shape[1:] for key, array in reference.items() if key.startswith("input:")}


@pytest.mark.slow
def test_the_sizes_of_input_are_those_of_the_samples_and_of_the_rest_of_the_proof(root: Path) -> None:
    said: list[str] = []
    done = put(root, "Step", STEP, said, dynamic=STEP_AXES)
    assert shapes(root, "Step") == {"key": (7, 2), "mask": (8,), "x": (1, 2)}
    assert {"past": 14, "total": 15} in done.manifest.proof.other_sizes
    (line,) = [line for line in said if line.startswith("export torch.export: same answers")]
    assert "also with past=3 total=4 and past=10 total=11 and past=14 total=15; largest" in line


@pytest.mark.slow
def test_a_module_that_needs_large_inputs_is_published_with_such(root: Path) -> None:
    done = put(root, "Sound", SOUND, [], dynamic={"audio": {1: "time"}})
    assert shapes(root, "Sound") == {"audio": (1600,)}
    assert min(sizes["time"] for sizes in done.manifest.proof.other_sizes) >= 400


@pytest.mark.slow
def test_sizes_at_which_the_module_fails_are_said(root: Path) -> None:
    said: list[str] = []
    put(root, "Positions", ("x=float32[1,8,2]",), said, dynamic={"x": {1: "length"}})
    (line,) = [line for line in said if line.startswith("export torch.export: same answers")]
    assert "also with length=4, but not with length=12 and length=16, where forward fails; largest" in line


@pytest.mark.slow
def test_an_axis_that_works_at_one_size_is_named_and_the_others_are_not(root: Path) -> None:
    asked = ExportOptions(specs(*LINE), dynamic={"image": {1: "height", 2: "width"}}, exporter="TorchScript")
    with pytest.raises(ModelError) as refused:
        export("sized_modules:Line", root / "line.onnx", options=asked)
    assert "it works only at the size given for its dynamic axes, height=6: forward fails on" in str(refused.value.what)
    assert refused.value.fix == "leave image:1=height out of --dynamic"


GIVEN = ExportOptions(specs(*STEP), dynamic=STEP_AXES)
BAD: list[tuple[str, Mapping[str, int], str, str]] = [
    ("another size than --input's", {"past": 9}, "--size past=9 contradicts --input, which gives that axis size 7",
     "give size 9 in --input, or leave past out of --size"),
    ("no such axis", {"length": 9}, "'length', which is no dynamic axis", "use one of its dynamic axes: past, total"),
    ("an axis that is not dynamic", {"x:1": 1}, "'x:1', which is no dynamic axis", "past, total"),
    ("two sizes", {"past": 7, "key:1": 9}, "the axis 'past' two sizes, 7 and 9", "give it one"),
]  # fmt: skip


@pytest.mark.parametrize(("sizes", "what", "fix"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_sizes_that_contradict_the_inputs_are_refused(sizes: Mapping[str, int], what: str, fix: str) -> None:
    asked = ExportOptions(GIVEN.inputs, dynamic=GIVEN.dynamic, sizes=sizes)
    with pytest.raises(ModelError) as refused:
        ask_given("nets:Step", asked, are_declared=False)
    assert what in str(refused.value.what)
    assert fix in str(refused.value.fix)


def test_a_source_that_declares_its_inputs_takes_other_sizes() -> None:
    asked = ExportOptions(GIVEN.inputs, dynamic=GIVEN.dynamic, sizes={"key:1": 9})
    assert ask_given("nets.pt2", asked, are_declared=True).given_sizes == {"past": 9, "total": 8}
