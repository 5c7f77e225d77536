"""A file that is no ONNX file is called by its name, whatever its name says, and nothing in it is run or unpacked."""

import contextlib
import gzip
import io
import json
import pickle
import subprocess
import sys
import tarfile
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builder.errors import Listing, ModelError
from builder.model import load
from builder.model.recognition import recognize

MODELS = Path(__file__).parents[1] / "models"
ONNX = (MODELS / "convolution_static.onnx").read_bytes()


def text(words: str) -> bytes:
    return b"X" + len(words).to_bytes(4, "little") + words.encode()


def tensor(*shape: int, storage: str = "Float", key: str = "0") -> bytes:
    """Return the opcodes with which torch.save describes a tensor."""
    sizes = b"".join(b"K" + bytes([size]) for size in shape)
    place = b"(" + text("storage") + f"ctorch\n{storage}Storage\n".encode() + text(key) + text("cpu") + b"K\x01tQ"
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + place + b"K\x00(" + sizes + b"t(" + sizes + b"t\x89"
        b"ccollections\nOrderedDict\n)RtR"
    )


def mapping(**items: bytes) -> bytes:
    """Return the opcodes of an OrderedDict with these items."""
    inside = b"".join(text(key.replace("__", ".")) + value for key, value in items.items())
    return b"ccollections\nOrderedDict\n)R(" + inside + b"u}" + text("_metadata") + b"}sb"


def torch_archive(value: bytes) -> bytes:
    return zipped({"net/data.pkl": b"\x80\x02" + value + b".", "net/version": b"3\n"})


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(mode: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        entry = tarfile.TarInfo("model.onnx")
        entry.size = len(ONNX)
        archive.addfile(entry, io.BytesIO(ONNX))
    return buffer.getvalue()


def arrays() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, x=np.ones(3))
    return buffer.getvalue()


def safetensors(header: Any) -> bytes:
    head = json.dumps(header).encode()
    return len(head).to_bytes(8, "little") + head + bytes(64)


LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}" + text("little_endian") + b"\x88s."
MODULE = b"c__main__\nNet\n)\x81}" + text("_modules") + b"}sb"
WEIGHTS = mapping(conv__weight=tensor(4, 3, 3, 3), conv__bias=tensor(4, key="1"))

FILES: dict[str, tuple[bytes, str, str]] = {
    "nothing": (b"", "an empty file", "download it again"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 12\n", "Git LFS", "git lfs pull"),
    "a web page": (b"\xef\xbb\xbf\n<!DOCTYPE html>\n<html></html>", "a web page", "download the file itself"),
    "gzip": (gzip.compress(ONNX), "compressed with gzip", "gunzip -c"),
    "a cut gzip": (gzip.compress(ONNX)[:12], "compressed with gzip", "gunzip -c"),
    "tar.gz": (tarred("w:gz"), "a tar archive", "tar -xzf"),
    "tar": (tarred("w"), "a tar archive", "tar -xf"),
    "xz": (b"\xfd7zXZ\x00" + bytes(9), "compressed with xz", "unxz -c"),
    "zip": (zipped({"a/model.onnx": ONNX}), "a zip archive with a/model.onnx", "unzip"),
    "a cut zip": (torch_archive(WEIGHTS)[:-30], "a zip archive that was cut short or is damaged", "download it again"),
    "npz": (arrays(), "NumPy's arrays", "--samples"),
    "a state dict": (torch_archive(WEIGHTS), "a checkpoint of PyTorch: weights", "publish nets:make"),
    "an old state dict": (LEGACY + b"\x80\x02" + WEIGHTS + b"." + bytes(99), "a checkpoint of PyTorch", "nets:make"),
    "a damaged state dict": (torch_archive(WEIGHTS[:-20]), "a file that torch.save wrote", "in a factory of yours"),
    "Lightning": (
        torch_archive(mapping(state_dict=WEIGHTS, **{"pytorch-lightning_version": text("2.5")})),
        "a checkpoint of Lightning",
        "nets:make",
    ),
    "a module": (torch_archive(MODULE), "a pickled PyTorch module, of the class __main__.Net", "nets:make"),
    "an old module": (LEGACY + b"\x80\x02" + MODULE + b".", "a pickled PyTorch module", "nets:make"),
    "YOLO": (
        torch_archive(mapping(model=MODULE.replace(b"__main__\nNet", b"ultralytics.nn.tasks\nDetectionModel"))),
        "of the class ultralytics.nn.tasks.DetectionModel",
        "yolo export model=",
    ),
    "an exported program": (zipped({"n/models/model.json": b"{}"}), "an exported program", "builder publish"),
    "TorchScript": (zipped({"n/constants.pkl": b"", "n/data.pkl": b""}), "a TorchScript module", "--input"),
    "safetensors": (
        safetensors({"a": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]}}),
        "weights alone (safetensors)",
        "nets:make",
    ),
    "damaged safetensors": (safetensors({"a": 1}), "damaged or cut short", "download the file again"),
    "scikit-learn": (b"\x80\x04csklearn.svm._classes\nSVC\n)\x81.", "a pickle of sklearn", "skl2onnx"),
    "another pickle": (pickle.dumps({"a": Path("b")}), "a pickle of pathlib", "if you trust it"),
    "Keras 2": (b"\x89HDF\r\n\x1a\n" + bytes(99), "a file of Keras (HDF5)", 'format="onnx"'),
    "Keras 3": (zipped({"config.json": b"{}", "model.weights.h5": b""}), "a file of Keras", 'format="onnx"'),
    "SavedModel": (b"\x08\x01\x12\x40saved_model_main_op\x1a\x01\xff", "a SavedModel of TensorFlow", "tf2onnx"),
    "a frozen graph": (b"\n\x10\n\x01x\x12\x0bPlaceholder\xff\xfe", "a graph of TensorFlow", "--graphdef"),
    "TensorFlow Lite": (b"\x1c\0\0\0TFL3" + bytes(20), "a model of TensorFlow Lite", "--tflite"),
    "Core ML": (b"\x08\x04\x12\x20\xa2\x06\x18com.apple.coreml\xff", "a model of Core ML", "converted from"),
    "TensorRT": (b"ftrt" + bytes(50), "a plan of TensorRT", "--format tensorrt"),
    "GGUF": (b"GGUF" + bytes(50), "llama.cpp", "converted from"),
    "OpenVINO": (b'<?xml version="1.0"?>\n<net name="m" version="11"/>', "a model of OpenVINO", "converted from"),
    "XGBoost": (b'{"learner":{"a":1}}', "LightGBM or XGBoost", "onnxmltools"),
    "an answer in JSON": (b'{"error": "not found"}', 'JSON text: {"error": "not found"}', ".onnx file"),
    "text": (b"hello", "a text file: hello", ".onnx file"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_is_called_by_what_it_holds(tmp_path: Path, case: str) -> None:
    content, what, fix = FILES[case]
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError) as refused:
        load(path)
    assert refused.value.what.startswith("it is not an ONNX file but ")
    assert what in refused.value.what
    assert fix in refused.value.fix


@pytest.mark.parametrize("name", ["model.onnx.gz", "model.onnx", "my models/a net.onnx", "it's.gz"])
def test_the_command_that_unpacks_a_file_works_as_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_bytes(gzip.compress(ONNX))
    before = set(tmp_path.rglob("*"))
    found = recognize(Path(name))
    assert found is not None
    subprocess.run(found.fix.split("`")[1], shell=True, check=True)
    (written,) = set(tmp_path.rglob("*")) - before
    assert written.read_bytes() == ONNX


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["saved_model.pb"], "a SavedModel of TensorFlow"),
        (["config.json", "model.safetensors"], "a folder of Hugging Face"),
        (["net.onnx"], "a folder"),
    ],
)
def test_a_folder_is_called_by_what_is_in_it(tmp_path: Path, names: list[str], what: str) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(ModelError, match=f"it is not an ONNX file but {what}"):
        load(tmp_path)


@pytest.mark.parametrize("content", [ONNX, ONNX[: len(ONNX) // 2], b"\x08\x08\xff" + bytes(range(256)) * 9])
def test_an_onnx_file_and_what_nobody_knows_are_called_nothing_else(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert recognize(path) is None


# ---- checkpoints


def lines_of(tmp_path: Path, content: bytes, name: str = "net.pt") -> tuple[str, ...]:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ModelError) as refused:
        load(path)
    assert isinstance(refused.value.what, Listing)
    return refused.value.what.lines[1:]


def test_the_first_tensors_are_listed(tmp_path: Path) -> None:
    many = {f"layer{i}": tensor(i + 1, 2, storage="Half") for i in range(7)}
    lines = lines_of(tmp_path, torch_archive(mapping(epoch=b"K\x03", model=mapping(**many))))
    assert lines[:5] == ("layer0 float16[1,2]", "layer1 float16[2,2]", "layer2 float16[3,2]", "layer3 float16[4,2]",
                         "and 3 more")  # fmt: skip
    loading = f'torch.load("{tmp_path}/net.pt", map_location="cpu", weights_only=True)["model"]'
    assert f"model.load_state_dict({loading})" in [line.strip() for line in lines]


@contextlib.contextmanager
def module_named(name: str, **content: Any) -> Iterator[None]:
    module = types.ModuleType(name)
    vars(module).update(content)
    sys.modules[name] = module
    try:
        yield
    finally:
        del sys.modules[name]


@pytest.mark.torch
@pytest.mark.parametrize("form", ["plain", "old", "nested", "parallel", "compiled", "safetensors"])
def test_the_factory_that_is_shown_makes_the_module(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.chdir(tmp_path)
    net = torch.nn.Linear(3, 2)
    weights = net.state_dict()
    path = Path("net.pt")
    if form == "safetensors":
        save = pytest.importorskip("safetensors.torch").save_file
        save(weights, path)
    else:
        prefix = {"parallel": "module.", "compiled": "_orig_mod."}.get(form, "")
        state: Any = {prefix + key: value for key, value in weights.items()}
        state = {"epoch": 3, "net": {"weights": state}} if form == "nested" else state
        torch.save(state, path, _use_new_zipfile_serialization=form != "old")
    shown = lines_of(tmp_path, path.read_bytes())
    source = "\n".join(
        line[4:] for line in shown[shown.index("a factory makes the module that has them, in nets.py:") + 1 :]
    )
    with module_named("my_project", Net=lambda: torch.nn.Linear(3, 2)):
        namespace: dict[str, Any] = {}
        exec(source, namespace)
        made = namespace["make"]()
    assert torch.equal(made.weight, net.weight)


# ---- what is in a pickle is not run


class Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("ran"),)


HOSTILE = {
    "a call": pickle.dumps(Runs(), protocol=2),
    "a call in a checkpoint": torch_archive(mapping(a=pickle.dumps(Runs(), protocol=2)[2:-1])),
    "a state": b"\x80\x02cpathlib\nPath\n)\x81" + text("ran") + b"b.",
    "an eval": b"\x80\x02cbuiltins\neval\n" + text("open('ran', 'w')") + b"\x85R.",
    "a large memo": b"\x80\x02]r\xff\xff\xff\xff.",
    "a large array": b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little") + b".",
    "a long text": b"\x80\x04\x8d" + (1 << 62).to_bytes(8, "little") + b".",
    "depth": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "no end": b"\x80\x02" + b"(" * 1000,
    "a dict in itself": b"\x80\x02}q\x00" + text("a") + b"h\x00s.",
    "a registered name": b"\x80\x02\x82\x01.",
    "a tensor of a strange shape": torch_archive(mapping(a=tensor(2).replace(b"K\x02t", b"Nt"))),
    "a tensor without arguments": torch_archive(mapping(a=b"ctorch._utils\n_rebuild_tensor_v2\n)R")),
    "names that are numbers": torch_archive(b"}K\x01" + tensor(2) + b"s"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_pickle_is_only_described(tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.pkl").write_bytes(HOSTILE[case])
    found = recognize(Path("net.pkl"))
    assert found is not None
    assert list(tmp_path.iterdir()) == [tmp_path / "net.pkl"]


def test_the_harm_of_these_pickles_is_done_where_they_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proof that the test above can fail."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(HOSTILE["a call"])
    assert Path("ran").exists()


def test_a_file_cut_anywhere_is_described(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    for content in (torch_archive(WEIGHTS), LEGACY + b"\x80\x02" + WEIGHTS + b".", FILES["safetensors"][0]):
        for size in range(9, len(content), 23):
            path.write_bytes(content[:size])
            recognize(path)
