"""A module is called as its `forward` wants it: containers, Python values, some of its outputs, made with arguments."""

import importlib
import importlib.util
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner

from builder.cli import cli
from builder.errors import ModelError
from builder.exporting import ExportedModel, ExportOptions, InputSpec, export, publish_module
from builder.publishing import PublishOptions

HAS_TORCH = importlib.util.find_spec("torch") is not None and importlib.util.find_spec("onnxscript") is not None
pytestmark = pytest.mark.torch
if HAS_TORCH:
    import torch

    from builder.exporting.finding import find
    from builder.exporting.subject import Subject

Array = np.ndarray[Any, Any]


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run each test in its own directory, with the modules importable."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "support")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def options(*inputs: str, **others: Any) -> ExportOptions:
    return ExportOptions(tuple(map(InputSpec.parse, inputs)), **others)


def answers(factory: str, asked: ExportOptions) -> tuple[dict[str, Array], tuple[Any, ...]]:
    """Return the answers to standard normal inputs or ones, and these inputs as tensors."""
    subject = Subject(factory, find(factory, asked), asked.outputs)
    rng = np.random.default_rng(4)
    feeds: dict[str, Array] = {
        spec.name: rng.standard_normal(spec.shape).astype(np.float32)
        if spec.dtype.is_floating_point()
        else np.ones(spec.shape, np.int64)
        for spec in asked.inputs
    }
    return subject.run(feeds), tuple(map(torch.from_numpy, feeds.values()))


def test_a_factory_is_called_with_its_arguments() -> None:
    modules = importlib.import_module("call_modules")

    for text, made in [
        ("(4, depth=2, scales=[1, 2.5])", modules.Deep(4, 2, scales=[1, 2.5])),
        (".small", modules.Deep.small()),
    ]:
        found, (x,) = answers(f"call_modules:Deep{text}", options("x=float32[2,4]"))
        np.testing.assert_allclose(found["output"], made(x).detach(), rtol=1e-6)


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("call_modules:Deep", r"Deep needs the argument width\n.*'call_modules:Deep\(width=…\)'"),
        ("call_modules:Deep(4, dept=2)", "does not take these arguments: .*'dept'"),
        ("call_modules:Deep(4, depth='two')", "calling the factory fails: TypeError"),
        ("call_modules:Deep.large", "does not define 'Deep.large'"),
        ("call_modules:MADE(1)", "MADE is a module already, and takes no arguments\nfix: write call_modules:MADE"),
    ],
)
def test_arguments_that_do_not_fit_are_explained(factory: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = importlib.import_module("call_modules")
    monkeypatch.setattr(modules, "MADE", modules.Weighted(), raising=False)
    with pytest.raises(ModelError, match=said):
        find(factory, options("x=float32[1,4]"))


def test_python_values_are_passed_to_their_parameters() -> None:
    modules = importlib.import_module("call_modules")

    given: dict[str, Any] = {"temperature": 0.7, "mode": "raw", "shifts": [1, 2.5]}
    found, (x,) = answers("call_modules:Temperature", options("x=float32[2,4]", constants=given))
    np.testing.assert_allclose(found["output"], modules.Temperature()(x, **given).detach(), rtol=1e-6)


@pytest.mark.parametrize(
    ("content", "said"), [(None, "cannot be read"), (b"text", "cannot be read"), (np.array(["a"]), "cannot be read")]
)
def test_a_constant_of_a_file_that_is_no_array_of_numbers_is_refused(content: Any, said: str) -> None:
    path = Path("w.npy")
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(ModelError, match=said):
        answers("call_modules:Weighted", options("x=float32[1,4]", constants={"weight": path}))


def test_dictionaries_tuples_and_dataclasses_are_made_of_their_tensors() -> None:
    modules = importlib.import_module("call_modules")

    found, (image, mask) = answers(
        "call_modules:Dictionary",
        options("batch.image=float32[2,4]", "batch.mask=float32[2]", constants={"scale": True}),
    )
    np.testing.assert_allclose(
        found["scores"], modules.Dictionary()({"image": image, "mask": mask}, scale=True)["scores"].detach(), rtol=1e-6
    )
    found, (x, h, c) = answers(
        "call_modules:Recurrent", options("x=float32[2,4]", "state.0=float32[2,5]", "state.1=float32[2,5]")
    )
    np.testing.assert_allclose(found["output_1_1"], modules.Recurrent()(x, (h, c))[1][1].detach(), rtol=1e-6)
    found, (x, y, w) = answers(
        "call_modules:Records",
        options(
            "query.point.x=float32[2,4]", "query.point.y=float32[2,4]", "query.weight=float32[2,4]",
            constants={"query.power": 2},
        ),
    )  # fmt: skip
    np.testing.assert_allclose(found["output"], modules.Records()(modules.Query(modules.Point(x, y), w, 2)), rtol=1e-6)
    found, (x, y, z) = answers(
        "call_modules:Several",
        options("first=float32[2,4]", "rest.0=float32[2,1]", "rest.1=float32[2,3]", constants={"scale": 3}),
    )
    np.testing.assert_allclose(found["output"], modules.Several()(x, y, z, scale=3), rtol=1e-6)


def test_outputs_that_are_not_kept_may_be_anything() -> None:
    asked = options("input_ids=int64[2,6]", outputs=("hidden_states", "logits"))
    found, _ = answers("call_modules:Language", asked)
    assert list(found) == ["logits", "hidden_states_0", "hidden_states_1"]
    with pytest.raises(
        ModelError, match=r"DynamicCache as 'past_key_values'\nfix: .*use_cache=false; or .*--output loss"
    ):
        answers("call_modules:Language", options("input_ids=int64[2,6]"))
    without, _ = answers("call_modules:Language", options("input_ids=int64[2,6]", constants={"use_cache": False}))
    assert "past_key_values" not in without


def test_an_output_with_the_name_of_an_input_gets_another() -> None:
    found, _ = answers("call_modules:State", options("x=float32[2,4]", "h=float32[2,4]"))
    assert list(found) == ["output_x", "output_h", "a_b", "a_b_2"]


SCRIPTED = (
    "import torch\n"
    "class Net(torch.nn.Module):\n"
    "    def forward(me, state: tuple[torch.Tensor, torch.Tensor], scale: float):\n"
    "        return {'y': state[0] * scale, 'loss': state[1].sum()}\n"
    "def make(): return torch.jit.script(Net())\n"
)
"""A module whose own parameter is not called `self`."""


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_torchscript_module_takes_containers_values_and_chosen_outputs_too(working_directory: Path) -> None:
    (working_directory / "scripted_net.py").write_text(SCRIPTED)
    asked = options("state.0=float32[1,4]", "state.1=float32[1,4]", constants={"scale": 2.0}, outputs=("y",))
    found, (state, _) = answers("scripted_net:make", asked)
    assert list(found) == ["y"]
    np.testing.assert_allclose(found["y"], state * 2)


# ---- whole ways, each about a second


def test_a_module_is_exported_with_everything_at_once(working_directory: Path) -> None:
    """Containers, a value, a tensor from a file, and one output of several, all in one file."""
    (working_directory / "many_ways.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self, factor): super().__init__(); self.factor = factor\n"
        "    def forward(self, batch, weight, *rest, power=1):\n"
        "        y = (batch['a'] @ weight) ** power * self.factor\n"
        "        return {'y': y + rest[0], 'loss': y.mean(), 'batch_a': y}\n"
    )
    weight = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    np.save("weight.npy", weight)
    asked = options(
        "batch.a=float32[1,4]",
        "rest.0=float32[1,3]",
        outputs=("y", "batch_a"),
        constants={"power": 2, "weight": Path("weight.npy")},
        exporter="TorchScript",
    )
    done = export("many_ways:Net( factor=3 )", Path("net.onnx"), options=asked)
    session = onnxruntime.InferenceSession(done.path, providers=["CPUExecutionProvider"])
    a, b = (np.random.default_rng(n).standard_normal((5, n)).astype(np.float32) for n in (4, 3))
    assert [value.name for value in session.get_inputs()] == ["batch_a", "rest_0"]
    assert [value.name for value in session.get_outputs()] == ["y", "output_batch_a"]
    answer = dict(zip(["y", "batch_a"], session.run(None, {"batch_a": a, "rest_0": b}), strict=True))
    np.testing.assert_allclose(answer["y"], (a @ weight) ** 2 * 3 + b, rtol=1e-5, atol=1e-6)
    stored = {prop.key: prop.value for prop in onnx.load(done.path).metadata_props}
    assert stored["exported_from"] == "many_ways:Net(factor=3)"
    assert stored["exported_constants"] == "power=2, weight=weight.npy"


def test_an_input_that_all_rows_share_is_sent_with_each_row() -> None:
    asked = options("x=float32[1,4]", "weight=float32[4,2]", batch_axes={"weight": None}, exporter="TorchScript")
    done = export("call_modules:Shared", Path("shared.onnx"), options=asked)
    session = onnxruntime.InferenceSession(done.path, providers=["CPUExecutionProvider"])
    x, weight = np.ones((3, 4), np.float32), np.random.default_rng(1).standard_normal((3, 4, 2)).astype(np.float32)
    (answer,) = session.run(None, {"x": x, "weight": weight})
    np.testing.assert_allclose(answer, np.einsum("bi,bij->bj", x, weight), rtol=1e-5)


def test_a_scalar_output_is_named_with_the_option_that_leaves_it_out() -> None:
    asked = options("input_ids=int64[1,6]", constants={"use_cache": False}, exporter="TorchScript")
    with pytest.raises(ModelError, match="leave out loss, which has no rows, with --output logits,hidden_states_0"):
        export("call_modules:Language", Path("language.onnx"), options=asked)


@pytest.mark.slow
def test_a_module_is_published_with_one_output_and_one_dynamic_option(tmp_path: Path) -> None:
    arguments = [
        "publish", "call_modules:Language", "--repository", str(tmp_path / "repository"), "--exporter", "TorchScript",
        "--input", "input_ids=int64[1,6]", "--input", "attention_mask=int64[1,6]", "--output", "logits",
        "--dynamic", "input_ids:1=tokens,attention_mask:1=tokens", "--constant", "return_dict=true",
    ]  # fmt: skip
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    config = (tmp_path / "repository/Language/config.pbtxt").read_text()
    assert re.findall(r'name: "(\w+)"\n +data_type', config) == ["input_ids", "attention_mask", "logits"]


def test_constants_and_names_of_a_module_do_not_reach_the_steps_for_its_file(tmp_path: Path) -> None:
    specs = tuple(map(InputSpec.parse, ["x=float32[1,4]", "state.0=float32[1,5]", "state.1=float32[1,5]"]))
    asked = PublishOptions(is_per_sample=True, outputs=("output_0",), batch_axes={"state.0": 0})
    done = publish_module(
        "call_modules:Recurrent", tmp_path / "repository", inputs=specs, exporter="TorchScript", options=asked
    )
    assert [tensor.name for tensor in done.manifest.inputs] == ["x", "state_0", "state_1"]
    assert [tensor.name for tensor in done.manifest.outputs] == ["output_0"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-o", "m.onnx"], "wrote m.onnx, keeping ()"),
        (["--output", "m.onnx"], "wrote m.onnx, keeping ()"),
        (["--output", "logits,states", "-o", "m.onnx"], "wrote m.onnx, keeping ('logits', 'states')"),
        (["--output", "logits"], "-o is missing"),
    ],
)
def test_export_still_takes_its_file_from_output(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stand_in(model: str, path: Path, *, options: ExportOptions, **_: object) -> ExportedModel:
        return ExportedModel(Path(f"wrote {path}, keeping {options.outputs}"), "", (), (), 0.0)

    monkeypatch.setattr("builder.api.export", stand_in)
    result = CliRunner().invoke(cli, ["export", "nets:make", "--input", "x=float32[1]", *arguments])
    assert said in result.output
