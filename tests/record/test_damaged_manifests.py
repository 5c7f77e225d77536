"""Manifests that nobody wrote here: each value that a later step could not work with is refused."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.artifacts import scale

from builder.errors import ModelError, RepositoryError
from builder.record import MANIFEST_FILE, Manifest, read_manifest

MANIFEST = scale().manifest.to_json()

WRONG: dict[str, tuple[tuple[str | int, ...], Any, str]] = {
    "a batch below 0": (("max_batch_size",), -1, "max_batch_size is -1"),
    "a batch of more than 32 bits": (("max_batch_size",), 2**31, "max_batch_size is 2147483648"),
    "a number of more than 64 bits": (("source", "bytes"), 2**63, "is a number of more than 64 bits"),
    "another model file": (("model", "file"), "../../../out/model.onnx", "which is not in the version's folder"),
    "weights outside": (("model", "weights"), ["../../out"], r"'../../out', which is not in the version's folder"),
    "weights at the root": (("model", "weights"), ["/dev/zero"], r"'/dev/zero', which is not in the version's folder"),
    "weights that are the folder": (("model", "weights"), ["."], "which is not in the version's folder"),
    "NUL in a path": (("model", "weights"), ["a\0b"], "which is not in the version's folder"),
    "a reference outside": (("reference", "file"), "../2/reference.npz", "which is not in the version's folder"),
    "no rows": (("reference", "rows"), 0, "its reference has 0 rows"),
    "no inputs": (("inputs",), [], "its inputs are missing"),
    "a name twice": (("outputs", 1, "name"), "y", "two of them have the same name"),
    "a tensor without a name": (("inputs", 0, "name"), "", "not the name of a tensor"),
    "NUL in a name": (("inputs", 0, "name"), "a\0b", "not the name of a tensor"),
    "half a character": (("inputs", 0, "name"), "\ud800", "is text that is not Unicode"),
    "half a character in a key": (("options",), {"\ud800": 1}, "is text that is not Unicode"),
    "an unknown type": (("inputs", 0, "data_type"), "TYPE_FP8", "is not one of Triton's types"),
    "a dim of 0": (("inputs", 0, "dims"), [0], r"its dims are \[0\]"),
    "a dim of -5": (("inputs", 0, "dims"), [-5], r"its dims are \[-5\]"),
    "a batch that cannot be": (("proof", "batch_sizes"), [1, 0], "a size that is not from 1 to 8"),
    "a batch that is too large": (("proof", "batch_sizes"), [9], "a size that is not from 1 to 8"),
    "an output without a tolerance": (("proof", "outputs"), {}, "proof.outputs are not its outputs"),
    "a tolerance below 0": (("proof", "outputs", "y", "rtol"), -1.0, "its tolerance is negative"),
    "no number": (("proof", "outputs", "y", "rtol"), float("nan"), "the number NaN, which JSON does not have"),
    "an endless number": (("options",), {"a": float("inf")}, "the number Infinity, which JSON does not have"),
    "true for a number": (("max_batch_size",), True, "is True instead of a value of type int"),
    "options that are nested deeply": (
        ("options",),
        json.loads("[" * 500 + "]" * 500),
        "instead of a value of type dict",
    ),
    "an option that is nested deeply": (("options",), {"a": json.loads("[" * 100 + "]" * 100)}, "nested too deeply"),
}


def changed(path: tuple[str | int, ...], value: Any) -> str:
    document = at = json.loads(MANIFEST)
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return json.dumps(document)


@pytest.mark.parametrize(("path", "value", "what"), WRONG.values(), ids=WRONG)
def test_a_value_that_no_manifest_has_is_refused(path: tuple[str | int, ...], value: Any, what: str) -> None:
    with pytest.raises(RepositoryError, match=what):
        Manifest.from_json(changed(path, value), where="here")


TEXTS = {
    "nested deeply": ("[" * 100_000, "it is nested too deeply"),
    "nested deeply and closed": (
        MANIFEST.replace('"options": {', '"options": {"a": ' + "[" * 9999 + "]" * 9999 + ","),
        "deep",
    ),
    "a number of 5000 digits": (MANIFEST.replace('"rows": 4', f'"rows": 1{"0" * 5000}'), "Exceeds the limit"),
    "a number beyond floats": (MANIFEST.replace("1e-05", "1e400"), "proof.outputs.y.rtol is too large"),
    "a key twice": (MANIFEST.replace('"rows": 4', '"rows": 4, "rows": 4'), "the same key twice"),
    "a byte order mark": ("\ufeff" + MANIFEST, "BOM"),
    "NUL": (MANIFEST.replace("scale.onnx", "scale\0onnx"), "Invalid control character"),
    "cut short": (MANIFEST[:200], "Unterminated|Expecting"),
    "twice": (MANIFEST * 2, "Extra data"),
}


@pytest.mark.parametrize(("text", "what"), TEXTS.values(), ids=TEXTS)
def test_a_text_that_is_no_manifest_is_refused(text: str, what: str) -> None:
    assert text != MANIFEST
    with pytest.raises(RepositoryError, match=what):
        Manifest.from_json(text, where="here")


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_a_manifest_is_read_with_any_line_ends(tmp_path: Path, ends: str) -> None:
    (tmp_path / MANIFEST_FILE).write_bytes(MANIFEST.replace("\n", ends).encode())
    assert read_manifest(tmp_path) == scale().manifest


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a pipe": (os.mkfifo, "it is a named pipe"),
    "a folder": (Path.mkdir, "it is a folder"),
    "endless zeros": (lambda path: path.symlink_to("/dev/zero"), "it is a device"),
    "a link out": (lambda path: path.symlink_to("../outside"), "it leads out of"),
    "200 MB": (lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_RDWR), 200_000_000), "only 8.0 MB are read"),
    "not UTF-8": (lambda path: path.write_bytes(b"\xff"), "can't decode byte"),
}


@pytest.mark.parametrize(("make", "what"), FILES.values(), ids=FILES)
def test_what_is_no_file_of_the_version_is_not_read(tmp_path: Path, make: Callable[[Path], object], what: str) -> None:
    (tmp_path / "outside").write_text(MANIFEST)
    (tmp_path / "1").mkdir()
    make(tmp_path / "1" / MANIFEST_FILE)
    with pytest.raises(RepositoryError, match=what):
        read_manifest(tmp_path / "1")


def test_model_files_of_another_size_are_not_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = scale().manifest.model
    (tmp_path / "model.onnx").write_bytes(b"short")
    monkeypatch.setattr("builder.digest.of", None)
    assert recorded.at(tmp_path) != recorded


def test_a_model_file_that_leads_out_is_not_hashed(tmp_path: Path) -> None:
    content = scale().files["model.onnx"]
    assert isinstance(content, bytes)
    (tmp_path / "model.onnx").write_bytes(content)
    (tmp_path / "1").mkdir()
    (tmp_path / "1/model.onnx").symlink_to("../model.onnx")
    with pytest.raises(OSError, match="it leads out of"):
        scale().manifest.model.at(tmp_path / "1")


def test_a_manifest_that_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    manifest = scale().manifest
    tensor = manifest.inputs[0]
    few, many = (
        replace(manifest, inputs=tuple(replace(tensor, name=f"{number}{'x' * 1500}") for number in range(count)))
        for count in (4096, 8192)
    )
    (tmp_path / MANIFEST_FILE).write_text(few.to_json())
    assert read_manifest(tmp_path) == few
    with pytest.raises(ModelError, match=r"scale\.onnx: its manifest\.json would have .*, and only 8\.0 MB are read"):
        many.to_json()
