"""An export gives the answers of its PyTorch module at every dynamic size, or is refused with what was frozen."""

import gc
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from builder import cli
from builder.errors import HostError, ModelError, VerificationError
from builder.exporting import ExportedModel, ExportOptions, InputSpec, export, publish_module
from builder.publishing import PublishOptions, publish

MODELS = Path(__file__).parents[1] / "models"
HAS_TORCH = importlib.util.find_spec("torch") is not None and importlib.util.find_spec("onnxscript") is not None
with_torch = pytest.mark.torch
if HAS_TORCH:
    from builder.exporting.finding import find
    from builder.exporting.frozen import find_frozen
    from builder.exporting.subject import Subject

Array = np.ndarray[Any, Any]


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run each test in its own directory, with the test modules importable."""
    monkeypatch.syspath_prepend(MODELS)
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "support")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def options(*inputs: str, **others: Any) -> ExportOptions:
    return ExportOptions(tuple(map(InputSpec.parse, inputs)), **others)


def run(model: Path, feeds: Mapping[str, Array]) -> dict[str, Array]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, dict(feeds)), strict=True))


# ---- the process that exports


@with_torch
def test_a_failed_export_leaves_the_garbage_collector_as_it_was(tmp_path: Path) -> None:
    before = gc.get_threshold()
    with pytest.raises(ModelError):
        export("nowhere:net", tmp_path / "net.onnx", options=options("x=float32[1,2]"))
    assert gc.get_threshold() == before


@with_torch
def test_what_torch_compile_wrapped_is_run_without_compiling_it() -> None:
    asked = options("input=float32[1,4]")
    subject = Subject("torch_modules:compiled", find("torch_modules:compiled", asked))
    assert subject.run({"input": np.zeros((2, 4), np.float32)})["output"].shape == (2, 3)


# ---- a convolution with no dynamic axis, axis 0, axes 2 and 3

SHAPES = [(1, 3, 10, 10), (2, 3, 10, 10), (1, 3, 20, 20)]
TAKES = {"static": [True, False, False], "axis_0": [True, True, False], "axes_2_3": [True, False, True]}


def takes(model: Path) -> list[bool]:
    """Return whether the model accepts each shape; check the answers where it does."""
    arrays = np.load(MODELS / "convolution.npz")
    (name,) = [value.name for value in onnx.load(model).graph.input]
    found = []
    for shape in SHAPES:
        key = "x".join(map(str, shape))
        try:
            (answer,) = run(model, {name: arrays[f"x:{key}"]}).values()
        except InvalidArgument:
            found.append(False)
            continue
        np.testing.assert_allclose(answer, arrays[f"y:{key}"], rtol=1e-5, atol=1e-6)
        found.append(True)
    return found


@pytest.mark.parametrize("name", TAKES)
def test_a_convolution_takes_other_sizes_only_along_its_dynamic_axes(name: str) -> None:
    assert takes(MODELS / f"convolution_{name}.onnx") == TAKES[name]


@with_torch
@pytest.mark.parametrize("dynamo", [True, False])
def test_either_exporter_reproduces_the_convolution(dynamo: bool, tmp_path: Path) -> None:
    from make_convolution import export as export_convolution

    export_convolution(tmp_path, dynamo=dynamo)
    for name in TAKES:
        assert takes(tmp_path / f"convolution_{name}.onnx") == TAKES[name]


@pytest.mark.parametrize(
    ("dynamic", "expected"),
    [({}, [True, True, False]), ({"x": {2: "height", 3: "width"}}, [True, True, True])],
)
def test_publish_turns_the_static_convolution_into_any_of_the_others(
    dynamic: Mapping[str, Mapping[int, str]], expected: list[bool], tmp_path: Path
) -> None:
    static = MODELS / "convolution_static.onnx"
    done = publish(static, tmp_path / "repository", options=PublishOptions(dynamic=dynamic))
    assert takes(done.version.path / "model.onnx") == expected


# ---- what is exported


def compare_with_module(factory: str, done: ExportedModel, feeds: Mapping[str, Array]) -> None:
    """Compare one batch of the file with the module, independently of the proof under test."""
    asked = options(*(f"{name}={array.dtype}[{','.join(map(str, array.shape))}]" for name, array in feeds.items()))
    expected = Subject(factory, find(factory, asked)).run(feeds)
    answers = run(done.path, feeds)
    assert list(answers) == list(expected)
    for name, answer in answers.items():
        np.testing.assert_allclose(answer, expected[name], rtol=1e-4, atol=1e-5)


def normal(*shape: int) -> Array:
    return np.random.default_rng(9).standard_normal(shape).astype(np.float32)


@with_torch
@pytest.mark.parametrize("exporter", ["torch.export", "TorchScript"])
def test_a_convolutional_network_is_exported_with_its_batch_dynamic(exporter: str) -> None:
    asked = options("image=float32[1,3,10,10]", exporter=exporter)
    done = export("torch_modules:seeded_network", Path("network.onnx"), options=asked)
    assert done.road == exporter
    assert {1, 2, 3} < set(done.batch_sizes)
    compare_with_module("torch_modules:seeded_network", done, {"image": normal(6, 3, 10, 10)})
    model = onnx.load(done.path)
    assert {prop.key: prop.value for prop in model.metadata_props}["exported_by"] == exporter
    assert "stack_trace" not in done.path.read_bytes().decode(errors="replace")
    assert [entry.name for entry in Path().iterdir()] == ["network.onnx"]


@with_torch
def test_a_transformer_with_several_inputs_and_outputs_takes_any_length() -> None:
    ids, mask = "input_ids=int64[1,4]", "attention_mask=int64[1,4]"
    dynamic = {"input_ids": {1: "tokens"}, "attention_mask": {1: "tokens"}}
    done = export("torch_modules:seeded_encoder", Path("text.onnx"), options=options(ids, mask, dynamic=dynamic))
    assert {"tokens": 8} in done.other_sizes
    feeds = {
        "input_ids": np.random.default_rng(1).integers(0, 50, (3, 11)),
        "attention_mask": (np.arange(11) < np.array([[11], [7], [9]])).astype(np.int64),
    }
    compare_with_module("torch_modules:seeded_encoder", done, feeds)


@with_torch
def test_a_network_with_its_batch_on_axis_1_is_exported_batch_first() -> None:
    asked = options("signal=float32[5,1,6]", batch_axes={"signal": 1}, dynamic={"signal": {0: "time"}})
    done = export("torch_modules:seeded_time_first", Path("lstm.onnx"), options=asked)
    assert done.road.endswith("static, then batched")
    signal = normal(7, 4, 6)
    answers = run(done.path, {"signal": signal.transpose(1, 0, 2)})
    expected = Subject("torch_modules:seeded_time_first", find("torch_modules:seeded_time_first", asked)).run(
        {"signal": signal}
    )
    assert list(answers) == list(expected) == ["output_0", "output_1_0", "output_1_1"]
    for name, answer in answers.items():
        np.testing.assert_allclose(answer, np.moveaxis(expected[name], 1, 0), rtol=1e-5, atol=1e-6)


@with_torch
def test_a_module_written_for_one_sample_is_batched_in_its_static_graph() -> None:
    seen: list[str] = []
    asked = options("x=float32[1,3,4]", exporter="TorchScript")
    done = export(
        "torch_modules:OneAtATime",
        Path("one.onnx"),
        options=asked,
        report=lambda step, what: seen.append(f"{step}: {what}"),
    )
    assert done.road == "TorchScript, static, then batched"
    assert seen[0] == "module: OneAtATime: 52 parameters, set to evaluation mode"
    assert seen[1].startswith("export: TorchScript: ")
    same = "same answers as the module at batch sizes 1, 2, 3, 5, 8;"
    assert seen[2].startswith(f"export: TorchScript, static, then batched: {same}")
    assert seen[3] == "export: samples: x: normal and around 0"
    assert done.drawn == {"x": "normal and around 0"}
    assert [entry.name for entry in Path().iterdir()] == ["one.onnx"]
    assert run(done.path, {"x": normal(6, 3, 4)})["output"].shape == (6, 4)


@with_torch
def test_outputs_are_named_after_their_place_in_the_result_and_inputs_after_their_parameters() -> None:
    asked = options("scale=float32[1,4]", "x=float32[1,4]", exporter="TorchScript")
    done = export("torch_modules:Nested", Path("nested.onnx"), options=asked)
    answers = run(done.path, {"x": np.ones((2, 4), np.float32), "scale": np.full((2, 4), 3, np.float32)})
    assert {name: float(answer[1, 1]) for name, answer in answers.items()} == {"best": 3, "all_0": 2, "all_1_twice": 2}
    assert [value.name for value in onnx.load(done.path).graph.input] == ["scale", "x"]


@with_torch
def test_a_factory_in_the_working_directory_is_found_and_hides_no_installed_package(working_directory: Path) -> None:
    (working_directory / "numpy.py").write_text("raise SystemExit('imported from the working directory')")
    (working_directory / "colorsys.py").write_text("raise SystemExit('imported from the working directory')")
    source = "import colorsys, numpy, torch\ndef make():\n    import colorsys\n    return torch.nn.ReLU()\n"
    (working_directory / "nets_of_mine.py").write_text(source)
    assert (
        Subject("nets_of_mine:make", find("nets_of_mine:make", options("input=float32[1,4]")))
        .describe()
        .startswith("ReLU")
    )
    assert sys.path[-1] == str(working_directory)


@with_torch
def test_a_module_in_training_mode_is_set_to_evaluation_mode() -> None:
    asked = options("input=float32[1,4]", exporter="TorchScript")
    done = export("torch_modules:in_training", Path("m.onnx"), options=asked)
    assert "Dropout" not in {node.op_type for node in onnx.load(done.path).graph.node}


@with_torch
def test_a_module_that_changes_its_input_in_place_is_compared_on_the_input_it_was_given() -> None:
    asked = options("x=float32[1,4]", exporter="TorchScript")
    done = export("torch_modules:InPlace", Path("m.onnx"), options=asked)
    assert run(done.path, {"x": np.ones((2, 4), np.float32)})["output"][1, 1] == 4


@with_torch
def test_large_weights_go_into_a_file_beside_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builder.exporting.exporters.INLINE_BYTES", 0)
    asked = options("x=float32[1,3,4]", exporter="torch.export")
    done = export("torch_modules:OneAtATime", Path("one.onnx"), options=asked)
    assert sorted(entry.name for entry in Path().iterdir()) == ["one.onnx", "one.onnx.data"]
    assert run(done.path, {"x": normal(3, 3, 4)})["output"].shape == (3, 4)


@with_torch
def test_a_static_export_keeps_every_axis_and_is_proven_at_that_shape() -> None:
    asked = options("x=float32[2,4]", is_static=True)
    done = export("torch_modules:Scaled", Path("m.onnx"), options=asked)
    assert done.batch_sizes == ()
    x = normal(2, 4)
    np.testing.assert_allclose(run(done.path, {"x": x})["output"], x / np.abs(x).sum(), rtol=1e-5)


@with_torch
def test_the_same_module_gives_the_same_bytes() -> None:
    asked = options("image=float32[1,3,10,10]", exporter="torch.export")
    first, second = (
        export("torch_modules:seeded_network", Path(name, "m.onnx"), options=asked).path.read_bytes()
        for name in map(made_folder, "ab")
    )
    assert first == second
    assert b"builder.export.subject.Subject" in first, "the class's name is in the file, and stays what it always was"


def made_folder(name: str) -> str:
    Path(name).mkdir()
    return name


@with_torch
def test_what_forward_prints_stays_off_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    asked = options("x=float32[1,4]", exporter="TorchScript")
    export("torch_modules:Chatty", Path("m.onnx"), options=asked)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "forward was here" in printed.err


# ---- what was frozen

WARNS = "TracerWarning: Converting a tensor to a Python"


@with_torch
def test_a_loop_count_that_was_frozen_is_found_though_pytorch_does_not_warn() -> None:
    asked = options("signal=float32[1,5,4]", dynamic={"signal": {1: "time"}})
    with pytest.raises(VerificationError) as caught:
        export("torch_modules:Steps", Path("m.onnx"), options=asked)
    what = caught.value.what
    assert "torch.export: the exporter fails" in what
    assert "a static shape of 5 for dimension signal.shape[1]" in what
    assert "TorchScript: with time=2, at batch size 1, ONNX Runtime cannot run it" in what
    line = line_of("range(1, signal.shape[1])", "Steps")
    assert (
        f"torch_modules.py:{line}: `for step in range(1, signal.shape[1]):` uses 5 during the export but 2 here" in what
    )
    assert "PyTorch gives no TracerWarning for it" in what
    assert not Path("m.onnx").exists()


@with_torch
def test_a_branch_that_was_frozen_is_named_with_its_warning() -> None:
    asked = options("x=float32[1,4]", is_static=True)
    with pytest.raises(VerificationError) as caught:
        export("torch_modules:Sign", Path("m.onnx"), options=asked)
    what = caught.value.what
    line = line_of("if x.sum() > 0", "Sign")
    assert f"torch_modules.py:{line}: `if x.sum() > 0:`)" in what  # why torch.export refuses it
    assert "TorchScript, static: at batch size 1, output 'output' differs" in what
    assert f"torch_modules.py:{line}: `if x.sum() > 0:` uses True during the export but False here" in what
    assert f"{WARNS} boolean" in what


@with_torch
@pytest.mark.parametrize("name", ["Leaky", "Below"])
def test_a_branch_that_only_rows_on_one_side_take_is_found(name: str) -> None:
    asked = options("x=float32[1,64]", is_static=True, exporter="TorchScript")
    with pytest.raises(VerificationError) as caught:
        export(f"torch_modules:{name}", Path("m.onnx"), options=asked)
    line = line_of("if bool((x < 0).all())", name)
    assert f"torch_modules.py:{line}: `return" in caught.value.what
    assert "uses False during the export but True here" in caught.value.what


@with_torch
def test_a_number_that_the_rows_of_a_batch_share_is_named_with_its_warning() -> None:
    with pytest.raises(VerificationError) as caught:
        export("torch_modules:Scaled", Path("m.onnx"), options=options("x=float32[1,4]"))
    what = caught.value.what
    assert "the module itself answers a row differently in a batch than alone: at batch size 2, output" in what
    assert f"torch_modules.py:{line_of('.item()', 'Scaled')}: `total = x.abs().sum().item()`" in what
    assert f"{WARNS} number" in what
    assert "--static" in caught.value.fix


@with_torch
def test_an_index_into_a_list_that_was_frozen_is_named_with_its_warning() -> None:
    with pytest.raises(ModelError) as caught:
        export("torch_modules:Experts", Path("m.onnx"), options=options("x=float32[1,4]", "expert=int64[1]"))
    what = caught.value.what
    assert "TorchScript; TorchScript, static, then batched: the exported model has no input 'expert'" in what
    assert f"torch_modules.py:{line_of('int(expert[0])', 'Experts')}: `return self.experts[int(expert[0])](x)`" in what
    assert f"{WARNS} integer" in what


@with_torch
def test_each_frozen_line_is_found_by_the_outputs_that_it_changes() -> None:
    subject = Subject("torch_modules:TwoHeads", find("torch_modules:TwoHeads", options("signal=float32[1,4,4]")))
    traced, failing = {"signal": normal(1, 4, 4)}, {"signal": normal(2, 7, 4)}

    def found(output: str) -> list[tuple[int, tuple[str, ...], bool]]:
        frozen = find_frozen(subject, traced, [failing], {output})
        return [(line.line.number, line.outputs, bool(line.warning)) for line in frozen]

    assert found("total") == [(line_of("for step", "TwoHeads"), ("total",), False)]
    assert found("mean") == [(line_of("if signal.shape[1] > 5", "TwoHeads"), ("mean",), True)]
    assert found("largest") == []


def line_of(text: str, name: str) -> int:
    """Return the number of the first line with `text` after the start of the class of that name."""
    lines = (Path(__file__).parents[1] / "support" / "torch_modules.py").read_text().splitlines()
    start = lines.index(f"class {name}(nn.Module):")
    return next(number for number, line in enumerate(lines, 1) if number > start and text in line)


# ---- publish


@with_torch
def test_a_module_is_published_directly(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["publish", "torch_modules:seeded_network", "--input", "image=float32[1,3,10,10]",
                 "--output-names", "scores", "--exporter", "torchscript"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["builder", *arguments])
    cli.main()
    assert capsys.readouterr().out.endswith("model_repository/seeded_network/1\n")
    config = Path("model_repository/seeded_network/config.pbtxt").read_text()
    assert "dims: [3, 10, 10]" in config
    assert "max_batch_size: 32" in config
    cli.main()
    assert "version 1 is already this model; nothing changed" in capsys.readouterr().err


@with_torch
def test_a_module_that_mixes_rows_is_published_to_run_one_sample_at_a_time(tmp_path: Path) -> None:

    inputs = options("x=float32[1,4]").inputs
    per_sample = PublishOptions(is_per_sample=True)
    done = publish_module("torch_modules:Scaled", tmp_path / "repository", inputs=inputs, options=per_sample)
    x = normal(3, 4)
    answers = run(done.version.path / "model.onnx", {"x": x})
    np.testing.assert_allclose(answers["output"], x / np.abs(x).sum(1, keepdims=True), rtol=1e-5)


# ---- mistakes of the user


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x", "not of the form"),
        ("x=float32", "not of the form"),
        ("x:float32[1]", "not of the form"),
        ("2x=float32[1]", "not of the form"),
        ("x=float32[1,99999999999999999999]", "has more numbers than fit into memory: use 1099511627776"),
        ("x=float[1,3]", "unknown type 'float' in .*: use one of float16, float32"),
        ("x=float32[1,0]", "must be a whole number of at least 1"),
        ("x=float32[1,,3]", "must be a whole number of at least 1"),
        ("x=float32[1 2]", "must be a whole number of at least 1"),
    ],
)
def test_an_input_that_cannot_be_read_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        InputSpec.parse(text)


def test_an_input_is_read_with_its_type_and_shape() -> None:
    assert InputSpec.parse(" x = int64[ 1, 20 ] ") == InputSpec("x", ir.DataType.INT64, (1, 20))
    assert InputSpec.parse("scale=bfloat16[]") == InputSpec("scale", ir.DataType.BFLOAT16, ())


def test_without_pytorch_the_command_that_installs_it_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in ("torch", "onnxscript") else name)
    with pytest.raises(HostError, match=r"torch and onnxscript are not installed\nfix: run .* 'torch>=2\.7' 'onnx"):
        export("package.module:factory", Path("m.onnx"), options=options("x=float32[1,4]"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["export", "torch_modules:Sign", "-o", "m.onnx"],
        ["export", "torch_modules:Sign", "-o", "m.onnx", "--input", "x=float[1]"],
        ["export", "torch_modules:Sign", "-o", "m.onnx", "--input", "x=float32[1,4]", "--static", "--dynamic", "x:1=n"],
        ["publish", "torch_modules:Sign"],
        ["publish", "m.onnx", "--opset", "17"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["builder", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2


BAD: dict[str, tuple[str, ExportOptions, str]] = {
    "no colon": ("torch_modules", options("x=float32[1,4]"), "not of the form package.module:factory"),
    "no module": ("torch_modulez:Sign", options("x=float32[1,4]"), "there is no Python module 'torch_modulez'"),
    "no package": ("no.such.package:Sign", options("x=float32[1,4]"), "there is no Python module 'no'"),
    "no factory": ("torch_modules:Sing", options("x=float32[1,4]"), r"not define 'Sing'(.|\n)*use one of .*Sign"),
    "a number": ("torch_modules:NUMBER", options("x=float32[1,4]"), "NUMBER is of type int, and cannot be called"),
    "not a module": ("torch_modules:dictionary", options("x=float32[1,4]"), "returns an object of type dict"),
    "a factory that fails": (
        "torch_modules:broken",
        options("x=float32[1,4]"),
        r"calling the factory fails: FileNotFoundError: no weights at .*\(.*torch_modules.py:\d+: `raise File",
    ),
    "another parameter": ("torch_modules:Sign", options("y=float32[1,4]"), "no parameter 'y'\n.*--input: x"),
    "a parameter left out": ("torch_modules:Experts", options("x=float32[1,4]"), "forward also requires expert"),
    "a shape that forward does not take": (
        "torch_modules:OneAtATime",
        options("x=float32[1,3,5]"),
        r"forward fails on x \[1, 3, 5\]: RuntimeError: shape .* \(.*torch_modules.py:\d+: `return self.layer",
    ),
    "no tensor": ("torch_modules:Text", options("x=float32[1,4]"), "an object of type str as 'output_1'"),
    "no batch": ("torch_modules:Sign", options("x=float32[]"), r"different batch sizes: x \[\] \(axis 0\)"),
    "two batches": ("torch_modules:Experts", options("x=float32[1,4]", "expert=int64[2]"), "different batch sizes"),
    "twice": ("torch_modules:Sign", options("x=float32[1,4]", "x=float32[1,4]"), "the same input twice"),
    "an axis that is not there": (
        "torch_modules:Sign",
        options("x=float32[1,4]", dynamic={"x": {2: "width"}}),
        r"--dynamic names axis 2 of 'x', which has shape \[1, 4\]",
    ),
    "an input that does not exist": (
        "torch_modules:Sign",
        options("x=float32[1,4]", dynamic={"y": {1: "width"}}),
        r"--dynamic names 'y', which is not an input\n.*use one of x \[1, 4\]",
    ),
    "the name of the batch": (
        "torch_modules:Sign",
        options("x=float32[1,4]", dynamic={"x": {1: "batch"}}),
        "the name of the batch axis",
    ),
    "the batch": ("torch_modules:Sign", options("x=float32[1,4]", dynamic={"x": {0: "rows"}}), "leave it out"),
    "two sizes of one name": (
        "torch_modules:Square",
        options("image=float32[1,3,10,12]", dynamic={"image": {2: "size", 3: "size"}}),
        "the name 'size' to axes of different sizes, 10 and 12",
    ),
    "a size that forward is written for": (
        "torch_modules:Square",
        options("image=float32[1,3,10,10]", dynamic={"image": {2: "height", 3: "width"}}, exporter="TorchScript"),
        r"for a batch of 1, forward returns 'output' with shape \[4, 3, 100\]",
    ),
    "an opset that does not exist": (
        "torch_modules:Sign",
        options("x=float32[1,4]", opset=99),
        "it cannot be exported",
    ),
    "an opset that the exporter does not write": (
        "torch_modules:Chatty",
        options("x=float32[1,4]", opset=5, exporter="torch.export"),
        r"the exporter cannot write opset 5; it wrote opset \d+",
    ),
    "a type that ONNX Runtime has no kernels for": (
        "torch_modules:Chatty",
        options("x=bfloat16[1,4]", exporter="TorchScript"),
        r"ONNX Runtime has no Add for bfloat16 on the CPU(.|\n)*give x as float32 with --input \(tried\)",
    ),
    "a loss": (
        "torch_modules:Loss",
        options("x=float32[1,4]", exporter="TorchScript"),
        r"ReduceMean .*: it reduces over axis 0(.|\n)*--static",
    ),
    "noise": (
        "torch_modules:Noise",
        options("x=float32[1,4]", exporter="TorchScript"),
        r"another answer each time(.|\n)*torch.randn_like\(x\)` draws random numbers(.|\n)*as an input of forward",
    ),
    "a folder that is not there": (
        "torch_modules:Chatty",
        options("x=float32[1,4]"),
        "cannot be written: No such file",
    ),
}


@with_torch
@pytest.mark.parametrize("case", BAD)
def test_a_mistake_of_the_user_is_explained_with_a_fix(case: str) -> None:
    factory, asked, reason = BAD[case]
    path = Path("nowhere/m.onnx" if case == "a folder that is not there" else "m.onnx")
    with pytest.raises((ModelError, VerificationError, HostError), match=reason):
        export(factory, path, options=asked)
    assert not path.exists()


@with_torch
def test_an_error_inside_the_users_own_module_shows_their_line_and_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "half_written.py").write_text("import torch\nimport no_such_library\n")
    (tmp_path / "unparsable.py").write_text("def factory(:\n")
    missing = "ModuleNotFoundError: No module named 'no_such_library'"
    for module, said in [
        ("half_written", f"{missing} (half_written.py:2: `import no_such_library`)"),
        ("unparsable", "SyntaxError: invalid syntax (unparsable.py:1)"),
    ]:
        monkeypatch.setattr(sys, "argv", ["builder", "export", f"{module}:f", "--input", "x=int8[1]", "-o", "m.onnx"])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 3
        printed = capsys.readouterr().err
        assert f"importing {module} fails: {said}" in printed
        assert "Traceback" not in printed
