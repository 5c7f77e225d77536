"""Files of PyTorch: an exported program says its own inputs, TorchScript is called by its schema, and neither runs code
that the file contains."""

import contextlib
import importlib.util
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from builder.errors import ModelError
from builder.exporting import ExportOptions, InputSpec, Kind, Source, export, kind_of, program_checks
from builder.progress import silent

MODELS = Path(__file__).parents[1] / "models"
HAS_TORCH = importlib.util.find_spec("torch") is not None and importlib.util.find_spec("onnxscript") is not None
if HAS_TORCH:
    import torch
    from support.program_modules import Counting, Heads, InContainers, OneLonger

    from builder.exporting import factories, torch_files
    from builder.exporting.finding import find
    from builder.exporting.strategies import export_proven

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
with_torch = pytest.mark.torch


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write one program for each kind of signature, and TorchScript in both of its forms."""
    folder = tmp_path_factory.mktemp("files")
    dim = torch.export.Dim

    torch.manual_seed(0)
    net = Heads().eval()
    shapes = {"image": {0: dim("n", max=64), 2: dim("height", min=4, max=640), 3: dim.AUTO}}
    programs = {
        "static": torch.export.export(net, (torch.randn(1, 3, 6, 6),)),
        "dynamic": torch.export.export(net, (torch.randn(2, 3, 6, 6),), dynamic_shapes=shapes),
        "nested": torch.export.export(
            InContainers(), ({"x": torch.randn(2, 4)}, (torch.randn(2, 4), torch.randn(2, 4))), {"gain": 3.0}
        ),
        "related": torch.export.export(
            OneLonger(), (torch.randn(2, 6), torch.randn(2, 7)), dynamic_shapes=[{0: dim.AUTO, 1: dim.AUTO}] * 2
        ),
    }
    for name, program in programs.items():
        torch.export.save(program, folder / f"{name}.pt2")
    torch.jit.save(torch.jit.trace(torch.nn.Sequential(torch.nn.Linear(5, 3)), torch.randn(1, 5)), folder / "traced.pt")
    torch.jit.save(torch.jit.script(Counting()), folder / "scripted.pth")
    torch.save(net.state_dict(), folder / "weights.pt")
    return folder


def found(path: Path, *inputs: str, **asked: Any) -> Any:
    return torch_files.find(str(path), ExportOptions(tuple(map(InputSpec.parse, inputs)), **asked))


def answers(model: Path, feeds: dict[str, Any]) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))


# ---- which kind of source


def test_a_source_is_told_by_its_text_or_by_what_is_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nets:make").write_bytes(b"\x08\x08")
    kinds = {
        "nets:make": Kind.ONNX,  # a file that exists is a file
        "nets:other": Kind.FACTORY,
        "my.nets:make('a', depth=[1, 2])": Kind.FACTORY,
        f"nets:make({', '.join(['1000'] * 100)})": Kind.FACTORY,  # longer than the name of a file may be
        "a" * 5000: Kind.ONNX,
        "nul\0": Kind.ONNX,
        "hf:folder": Kind.HUGGING_FACE,
        "model.onnx": Kind.ONNX,
        "C:\\models\\net.onnx": Kind.ONNX,
        ".": Kind.ONNX,
    }
    assert {text: kind_of(text) for text in kinds} == kinds


@pytest.mark.parametrize(
    ("text", "name", "shown"),
    [
        ("a/b/net.v2.pt2", "net.v2", "net.v2.pt2"),
        ("my.nets:make('x/y', depth=8)", "make", "my.nets:make('x/y', depth=8)"),
        ("hf:some/where/bert", "bert", "hf:bert"),
    ],
)
def test_a_model_is_named_after_its_source_and_keeps_no_folder_of_it(text: str, name: str, shown: str) -> None:
    assert (Source.of(text).name, Source.of(text).shown) == (name, shown)


@with_torch
def test_programs_and_torchscript_are_files_of_pytorch_and_weights_alone_are_not(files: Path) -> None:
    kinds = {path.name: kind_of(str(path)) for path in files.iterdir()}
    assert kinds.pop("weights.pt") == Kind.ONNX
    assert set(kinds.values()) == {Kind.TORCH_FILE}


@with_torch
def test_a_file_without_a_module_is_called_by_its_name(files: Path, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes((MODELS / "convolution_static.onnx").read_bytes())
    asked = ExportOptions((InputSpec.parse("x=float32[1,3]"),))
    with pytest.raises(ModelError, match="a checkpoint of PyTorch"):
        find(str(files / "weights.pt"), asked)
    with pytest.raises(ModelError, match="it is a file without a PyTorch module"):
        find(str(tmp_path / "net.onnx"), asked)


# ---- exported programs


@with_torch
def test_a_program_says_its_inputs_and_which_axes_are_dynamic(files: Path) -> None:
    program = found(files / "dynamic.pt2")
    assert program.inputs == (InputSpec.parse("image=float32[2,3,6,6]"),)
    assert program.dynamic == {"image": {2: "image_2", 3: "image_3"}}
    assert not program.has_fixed_batch
    nested = found(files / "nested.pt2", "state.0=float32[2,4]")
    assert nested.inputs == tuple(InputSpec.parse(f"{name}=float32[2,4]") for name in ("batch_x", "state_0", "state_1"))
    named = found(files / "dynamic.pt2", "image=float32[1,3,8,12]", dynamic={"image": {2: "height"}})
    assert named.inputs == (InputSpec.parse("image=float32[1,3,8,12]"),)
    assert named.dynamic == {"image": {2: "height", 3: "image_3"}}
    assert found(files / "dynamic.pt2", is_static=True).dynamic == {}


@with_torch
def test_axes_of_one_size_have_one_name_and_conditions_on_sizes_are_read(files: Path) -> None:
    related = found(files / "related.pt2")
    assert related.dynamic == {"past": {1: "past_1"}, "mask": {1: "mask_1"}}


@with_torch
@pytest.mark.parametrize(
    ("given", "what"),
    [
        ("image=float32[1,3,8,6]", "is not what the program takes: image=float32[1,3,6,6]"),
        ("image=float16[1,3,6,6]", "is not what the program takes"),
        ("image=float32[1,3,6]", "is not what the program takes"),
        ("picture=float32[1,3,6,6]", "the program has no input 'picture'"),
    ],
)
def test_an_input_that_contradicts_the_program_is_refused(files: Path, given: str, what: str) -> None:
    with pytest.raises(ModelError) as refused:
        found(files / "static.pt2", given)
    assert what in refused.value.what


@with_torch
def test_an_axis_that_the_program_fixes_cannot_be_made_dynamic(files: Path) -> None:
    with pytest.raises(ModelError, match="names axis 2 of 'image', which the program fixes at 6"):
        found(files / "static.pt2", dynamic={"image": {2: "height"}})


@with_torch
@pytest.mark.parametrize("name", ["static", "nested"])
def test_the_batch_of_a_static_program_is_made_dynamic(files: Path, tmp_path: Path, name: str) -> None:
    """The program itself refuses every other batch size, so its batch is made dynamic in the file."""
    path = tmp_path / "made.onnx"
    done = export_proven(str(files / f"{name}.pt2"), path, tmp_path, ExportOptions(), silent)
    assert done.road == "torch.export, static, then batched"
    program = torch.export.load(files / f"{name}.pt2")
    rng = np.random.default_rng(0)
    shapes: dict[str, dict[str, tuple[int, ...]]] = {
        "static": {"image": (3, 6, 6)},
        "nested": {"batch_x": (4,), "state_0": (4,), "state_1": (4,)},
    }
    feeds = {key: rng.standard_normal((6, *shape)).astype(np.float32) for key, shape in shapes[name].items()}
    given = {key: torch.tensor(value[:2] if name == "nested" else value[:1]) for key, value in feeds.items()}
    if name == "static":
        expected = program.module()(given["image"])
        names = ["logits", "scores"]
        values = [expected[key] for key in names]
    else:
        first, (second,) = program.module()({"x": given["batch_x"]}, (given["state_0"], given["state_1"]), gain=3.0)
        names, values = ["output_0", "output_1_0"], [first, second]
    got = answers(path, feeds)
    assert list(got) == names
    for key, value in zip(names, values, strict=True):
        np.testing.assert_allclose(got[key][: len(value)], value.detach().numpy(), rtol=1e-4, atol=1e-6)
    meta = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert meta["exported_from"] == f"{name}.pt2"


@with_torch
@pytest.mark.slow
def test_a_program_is_exported_in_a_child_process(files: Path, tmp_path: Path) -> None:
    done = export(str(files / "dynamic.pt2"), tmp_path / "made.onnx", options=ExportOptions())
    dims = onnx.load(done.path).graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["batch", 3, "image_2", "image_3"]
    assert done.other_sizes


# ---- programs that would run code


class Runs:
    """Unpickled, it writes a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("ran"),)


HARM = "__import__('pathlib').Path('ran').touch()"


def nodes(program: Any) -> Any:
    return program["graph_module"]["graph"]["nodes"]


def set_expression(program: Any) -> None:
    values = program["graph_module"]["graph"]["tensor_values"]["image"]["sizes"]
    values[0] = {"as_expr": {"expr_str": HARM, "hint": {"as_int": 2}}}


HARMFUL: dict[str, Callable[[Any], Any]] = {
    "an operator of the operating system": lambda p: nodes(p)[0].update(target="torch.os.system"),
    "an operator that maps files": lambda p: nodes(p)[0].update(target="torch.ops.aten.from_file.default"),
    "an operator that calls": lambda p: nodes(p)[0].update(target="_operator.methodcaller"),
    "an expression": set_expression,
    "a guard": lambda p: p.update(guards_code=[HARM]),
    "a guard in two lines": lambda p: p.update(guards_code=["L['image'].size()[0] >= 2 #\n" + HARM]),
    "a guard with an attribute": lambda p: p.update(guards_code=["L.__class__.__base__ == 2"]),
    "a guard with an f-string": lambda p: p.update(guards_code=["f'{" + HARM.replace("'", '"') + "}' == 2"]),
    "the name of a node": lambda p: nodes(p)[0].update(name=f"x={HARM};y"),
    "the name of an argument": lambda p: nodes(p)[0]["inputs"][0].update(name=f"{HARM}"),
    "the name of an input": lambda p: p["graph_module"]["graph"]["tensor_values"].update({HARM: {}}),
    "a range": lambda p: p["range_constraints"].update({HARM: {"min_val": 1, "max_val": 2}}),
    "an enum": lambda p: p["graph_module"]["module_call_graph"][0]["signature"].update(
        in_spec=json.dumps([1, {"type": "builtins.dict", "context": {"__enum__": 1, "fqn": "ran:A", "name": "B"}}])
    ),
    "a class": lambda p: p["graph_module"]["module_call_graph"][0]["signature"].update(
        out_spec=json.dumps([1, {"type": "my.Output", "context": "[]", "children_spec": []}])
    ),
    "a default factory": lambda p: p["graph_module"]["module_call_graph"][0]["signature"].update(
        out_spec=json.dumps([1, {"type": "collections.defaultdict", "context": "{}", "children_spec": []}])
    ),
}


@pytest.fixture(scope="module")
def description(files: Path) -> bytes:
    """Return what a sound program says."""
    with zipfile.ZipFile(files / "dynamic.pt2") as archive:
        return archive.read("dynamic/models/model.json")


@with_torch
@pytest.mark.parametrize("case", HARMFUL)
def test_what_could_run_code_in_a_program_is_refused(description: bytes, case: str) -> None:
    program = program_checks.parsed("net.pt2", description)
    program_checks.check("net.pt2", program)
    HARMFUL[case](program)
    with pytest.raises(ModelError, match="this exported program") as refused:
        program_checks.check("net.pt2", program)
    assert "in a factory of yours" in refused.value.fix


def rewritten(source: Path, target: Path, change: dict[str, bytes]) -> Path:
    """Copy an archive with some of its files replaced or added, named inside its folder."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        left = dict(change)
        for name in old.namelist():
            new.writestr(name, left.pop(name.partition("/")[2], old.read(name)))
        for name, content in left.items():
            new.writestr(f"{source.stem}/{name}" if name != "version" else name, content)
    return target


def pickled() -> bytes:
    buffer = io.BytesIO()
    torch.save({"a": Runs()}, buffer)
    return buffer.getvalue()


def payload(kind: str, file: str) -> bytes:
    entry = {"path_name": file, "is_param": False, "use_pickle": True, "tensor_meta": None}
    return json.dumps({"config": {"a": entry}}).encode()


@with_torch
@pytest.mark.parametrize(
    "case",
    ["sample inputs", "opaque constant", "custom constant", "pickled weight", "compiled code", "old format", "two"],
)
def test_nothing_in_the_archive_of_a_program_is_unpickled_or_run(
    files: Path, tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    constants = "data/constants/model_constants_config.json"
    changes: dict[str, dict[str, bytes]] = {
        "sample inputs": {"data/sample_inputs/model.pt": pickled()},
        "opaque constant": {
            constants: payload("constants", "opaque_obj_0"),
            "data/constants/opaque_obj_0": pickle.dumps(Runs()),
        },
        "custom constant": {
            constants: payload("constants", "custom_obj_0"),
            "data/constants/custom_obj_0": pickle.dumps(Runs()),
        },
        "pickled weight": {constants: payload("constants", "tensor_0"), "data/constants/tensor_0": pickled()},
        "compiled code": {"data/aotinductor/model/model.so": b"\x7fELF"},
        "old format": {"version": b"7.0"},
        "two": {"models/other.json": b"{}"},
    }
    path = rewritten(files / "static.pt2", tmp_path / "static.pt2", changes[case])
    with pytest.raises(ModelError):
        found(path)
    assert not Path("ran").exists()


@with_torch
def test_the_harm_of_these_tests_is_done_where_nothing_checks(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proof that the tests above can fail: PyTorch itself runs what is in such a file."""
    monkeypatch.chdir(tmp_path)
    path = rewritten(files / "static.pt2", tmp_path / "static.pt2", {"data/sample_inputs/model.pt": pickled()})
    with contextlib.suppress(Exception):  # whether it fails afterwards makes no difference
        torch.export.load(path)
    assert Path("ran").exists()


@with_torch
@pytest.mark.parametrize("size", [100, 1000, -300])
def test_a_file_that_was_cut_short_is_refused(files: Path, tmp_path: Path, size: int) -> None:
    for name in ("static.pt2", "traced.pt"):
        cut = tmp_path / name
        cut.write_bytes((files / name).read_bytes()[:size])
        with pytest.raises(ModelError):
            torch_files.find(str(cut), ExportOptions((InputSpec.parse("input=float32[1,5]"),)))


# ---- TorchScript


@with_torch
def test_a_torchscript_file_asks_for_its_inputs_by_name(files: Path) -> None:
    with pytest.raises(ModelError) as refused:
        found(files / "scripted.pth")
    assert refused.value.what == "a TorchScript module does not say the shapes of its inputs: x, mask"
    assert "--input 'x=float32[1,3,224,224]'" in refused.value.fix


@with_torch
def test_a_traced_file_says_what_it_was_traced_with(files: Path) -> None:
    traced = found(files / "traced.pt")
    assert traced.inputs == (InputSpec.parse("input=float32[1,5]"),)
    assert traced.mode.endswith("the inputs that it was traced with, input=float32[1,5]")
    assert found(files / "traced.pt", "input=float32[3,5]").inputs == (InputSpec.parse("input=float32[3,5]"),)


@with_torch
def test_torchscript_goes_through_its_own_exporter(files: Path) -> None:
    assert found(files / "traced.pt", "input=float32[1,5]").exporter == "TorchScript"
    with pytest.raises(ModelError, match=r"--exporter torch\.export does not take TorchScript"):
        found(files / "traced.pt", "input=float32[1,5]", exporter="torch.export")


@with_torch
@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("traced.pt", ["input=float32[1,5]"]),
        ("scripted.pth", ["x=float32[1,5]"]),
        ("scripted.pth", ["x=float32[1,5]", "mask=float32[1,5]"]),
    ],
)
def test_torchscript_is_exported(files: Path, tmp_path: Path, name: str, inputs: list[str]) -> None:
    path = tmp_path / "made.onnx"
    asked = ExportOptions(tuple(map(InputSpec.parse, inputs)))
    assert export_proven(str(files / name), path, tmp_path, asked, silent).road == "TorchScript"
    feeds = {spec.name: np.random.default_rng(1).standard_normal((4, 5), np.float32) for spec in asked.inputs}
    expected = torch.jit.load(files / name)(**{key: torch.tensor(value) for key, value in feeds.items()})
    np.testing.assert_allclose(answers(path, feeds)["output"], expected.detach().numpy(), rtol=1e-4, atol=1e-6)


@with_torch
def test_a_factory_may_return_torchscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    source = "import torch\ndef make():\n    return torch.jit.trace(torch.nn.Linear(5, 3), torch.randn(1, 5))\n"
    Path("traced_nets.py").write_text(source)
    asked = ExportOptions((InputSpec.parse("input=float32[1,5]"),))
    assert factories.find("traced_nets:make", asked).exporter == "TorchScript"
    assert export_proven("traced_nets:make", Path("made.onnx"), tmp_path, asked, silent).road == "TorchScript"


@with_torch
@pytest.mark.parametrize(
    "code",
    ["torch.save(x, 'ran')", "torch.from_file('ran', True, 4)"],
)
def test_torchscript_that_reaches_files_is_refused(
    files: Path, tmp_path: Path, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    record = "code/__torch__/torch/nn/modules/container.py"
    with zipfile.ZipFile(files / "traced.pt") as archive:
        written = archive.read(f"traced/{record}").decode()
    path = rewritten(files / "traced.pt", tmp_path / "traced.pt", {record: f"{written}\n    {code}\n".encode()})
    with pytest.raises(ModelError, match="reaches files or other machines"):
        found(path, "input=float32[1,5]")
    assert not Path("ran").exists()
