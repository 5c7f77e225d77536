"""Files that nobody wrote here: a load test refuses them before its first request, in two lines."""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.load_results import result_of
from support.load_server import write_version

from loadtest.checking import from_reference, make_pool, read_reference
from loadtest.errors import LoadTestError, ServerError, SettingsError
from loadtest.report import send_again
from loadtest.report.compare import read_run
from loadtest.scenarios import read_arrivals
from loadtest.wire import Address, make_client

NOBODY = Address("127.0.0.1", 1)


@pytest.fixture
def version(tmp_path: Path) -> Path:
    write_version(tmp_path / "models")
    (tmp_path / "outside").write_text("{}")
    return tmp_path / "models/classifier/1"


def read(version: Path) -> None:
    """Read a reference, and make the requests of it."""
    reference = read_reference(version.parents[1], "classifier", 1)
    client = make_client("http", NOBODY, 1.0)
    make_pool(from_reference(reference, ""), 1, client.encode, random.Random(0))


def test_a_version_as_it_is_is_read(version: Path) -> None:
    read(version)


def replaced(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.unlink(missing_ok=True)
        make(path)

    return damage


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (replaced(os.mkfifo), "not a file"),
    "folder": (replaced(Path.mkdir), "not a file"),
    "zeros": (replaced(lambda path: path.symlink_to("/dev/zero")), "not a file"),
    "outside": (replaced(lambda path: path.symlink_to("../../../outside")), "it leads out of"),
    "empty": (replaced(lambda path: path.write_bytes(b"")), "cannot be read"),
    "junk": (replaced(lambda path: path.write_bytes(b"\xff" * 99)), "cannot be read"),
    "brackets": (replaced(lambda path: path.write_bytes(b"[" * 99_999)), "cannot be read"),
}


@pytest.mark.parametrize("file", ["manifest.json", "reference.npz"])
@pytest.mark.parametrize(("damage", "what"), FILES.values(), ids=FILES)
def test_a_damaged_file_of_a_version_is_refused(
    version: Path, file: str, damage: Callable[[Path], None], what: str
) -> None:
    damage(version / file)
    with pytest.raises(SettingsError, match=f"{file}: .*{what}"):
        read(version)


def test_a_link_to_a_version_of_another_model_of_the_repository_is_followed(version: Path) -> None:
    """This is what `deploy` and `tune` try: NAME.candidate/1 is a link to the version of NAME."""
    candidate = version.parents[1] / "classifier.candidate"
    candidate.mkdir()
    (candidate / "1").symlink_to(Path("..", "classifier", "1"))
    assert (
        read_reference(version.parents[1], "classifier.candidate", 1).rows
        == read_reference(version.parents[1], "classifier", 1).rows
    )


@pytest.mark.parametrize("place", ["elsewhere/classifier/1", "models/classifier/old", "models/1"])
def test_a_link_to_any_other_folder_is_not(version: Path, place: str) -> None:
    target = version.parents[2] / place
    target.parent.mkdir(parents=True, exist_ok=True)
    version.rename(target)
    version.symlink_to(target)
    with pytest.raises(SettingsError, match="it leads out of"):
        read(version)


def test_a_compressed_reference_is_refused_before_it_is_unpacked(version: Path) -> None:
    np.savez_compressed(version / "reference.npz", **{"input:image": np.zeros((1000, 5), np.float32)})
    with pytest.raises(SettingsError, match="but the file can hold only"):
        read(version)


FIELDS: dict[str, tuple[tuple[str | int, ...], Any, str]] = {
    "no inputs": (("inputs",), [], "there are no inputs"),
    "no list": (("inputs",), 5, "not iterable"),
    "a name": (("inputs", 0, "name"), None, "None is not the name of a tensor"),
    "half a character": (("inputs", 0, "name"), "\ud800", "surrogates not allowed"),
    "another name": (("inputs", 0, "name"), "z", "'input:z' is missing"),
    "a type": (("inputs", 0, "data_type"), "TYPE_FP8", "'FP8' is not a datatype"),
    "another type": (("inputs", 0, "data_type"), "TYPE_INT8", r"float32\[24, 5\] instead of INT8\[rows, 5\]"),
    "a dim of 0": (("inputs", 0, "dims"), [0], "are not the dims of image"),
    "other dims": (("inputs", 0, "dims"), [5, 5], r"instead of FP32\[rows, 5, 5\]"),
    "a batch below 0": (("max_batch_size",), -1, "-1 is not a max_batch_size"),
    "a batch of 400 digits": (("max_batch_size",), 10**400, "is not a max_batch_size"),
    "no proof": (("proof",), None, "no attribute 'get'"),
    "a tolerance": (("proof", "outputs", "scores", "rtol"), float("inf"), "the tolerance of scores"),
    "a tolerance of 400 digits": (("proof", "outputs", "scores", "rtol"), 10**400, "too large"),
}


@pytest.mark.parametrize(("path", "value", "what"), FIELDS.values(), ids=FIELDS)
def test_a_manifest_with_a_value_that_cannot_be_is_refused(
    version: Path, path: tuple[str | int, ...], value: Any, what: str
) -> None:
    document = at = json.loads((version / "manifest.json").read_text())
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    (version / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(SettingsError, match=what):
        read(version)


def test_text_that_is_not_unicode_is_refused(version: Path) -> None:
    document = json.loads((version / "manifest.json").read_text())
    document["inputs"][0]["data_type"] = "TYPE_STRING"
    (version / "manifest.json").write_text(json.dumps(document))
    with np.load(version / "reference.npz") as stored:
        arrays = dict(stored)
    arrays["input:image"] = np.full((24, 5), 0x110000, np.uint32).view("<U1")
    np.savez(version / "reference.npz", **arrays)
    with pytest.raises(SettingsError, match="has text that is not Unicode"):
        read(version)


ABOUT: dict[str, Any] = {
    "model": "m",
    "version_asked": "",
    "reference_version": 1,
    "inputs": [["x", "FP32", [3]]],
    "outputs": [["y", "FP32", [3]]],
    "binary": True,
    "max_batch_size": 8,
    "tolerances": {"y": {"rtol": 0.1, "atol": 0.1}},
    "parameters": {},
}


WRONG: tuple[Any, ...] = (None, 5, [[]])


def keep(path: Path, about: Any, rows: int = 2) -> None:
    arrays = {"input:x": np.zeros((2, 3), np.float32), "expected:y": np.zeros((rows, 3), np.float32)}
    np.savez(path, about=np.array(json.dumps(about)), **arrays)


def test_a_kept_answer_as_it_is_is_sent(tmp_path: Path) -> None:
    keep(tmp_path / "kept.npz", ABOUT)
    with pytest.raises(ServerError):  # nobody listens there
        send_again(tmp_path / "kept.npz", NOBODY, "http")


@pytest.mark.parametrize(
    "change",
    [
        *({key: value} for key in ABOUT if key not in ("reference_version", "binary") for value in WRONG),
        {"version_asked": "1/../../x"},
        {"model": "\ud800"},
        {"max_batch_size": -1},
        {"inputs": [["x", "FP32", [0]]]},
        {"outputs": [["y", "FP8", [3]]]},
        {"tolerances": {"y": {"rtol": -1}}},
        *({"parameters": {"a": value}} for value in (None, [1], 1 << 64, "\ud800")),
    ],
    ids=ascii,
)
def test_a_kept_answer_with_a_value_that_cannot_be_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    if change == {"max_batch_size": 5}:
        change = {"max_batch_size": 0.5}  # 5 would be right
    keep(tmp_path / "kept.npz", {**ABOUT, **change})
    with pytest.raises(SettingsError, match="this file is not a kept wrong answer"):
        send_again(tmp_path / "kept.npz", NOBODY, "http")


def test_a_step_of_a_sequence_is_not_sent_again_alone(tmp_path: Path) -> None:
    keep(tmp_path / "kept.npz", {**ABOUT, "parameters": {"sequence_id": 7}})
    with pytest.raises(SettingsError, match="it answers a step of a sequence"):
        send_again(tmp_path / "kept.npz", NOBODY, "http")


def test_a_kept_answer_of_other_rows_is_refused(tmp_path: Path) -> None:
    keep(tmp_path / "kept.npz", ABOUT, rows=3)
    with pytest.raises(SettingsError, match="the numbers of rows differ"):
        send_again(tmp_path / "kept.npz", NOBODY, "http")


@pytest.mark.parametrize("about", [[], 5, "text", None])
def test_a_kept_answer_that_says_nothing_is_refused(tmp_path: Path, about: object) -> None:
    keep(tmp_path / "kept.npz", about)
    with pytest.raises(SettingsError, match="this file is not a kept wrong answer"):
        send_again(tmp_path / "kept.npz", NOBODY, "http")


@pytest.mark.parametrize(
    "read_it", [read_run, read_arrivals, lambda path: send_again(path, NOBODY, "http")], ids=["result", "csv", "npz"]
)
@pytest.mark.parametrize("damage", [damage for damage, what in FILES.values() if "outside" not in what])
def test_a_file_named_on_the_command_line_may_be_anything(
    tmp_path: Path, damage: Callable[[Path], None], read_it: Callable[[Path], object]
) -> None:
    damage(tmp_path / "file")
    with pytest.raises(LoadTestError):
        read_it(tmp_path / "file")


@pytest.mark.parametrize(
    "change",
    [
        {"stages": None},
        {"run": {"models": True}},
        {"run": 5},
        {"stages": [5]},
        {"stages": [{}]},
        {"windows": []},
        {"windows": [{}]},
        {"rate_asked": "fast"},
        {"rate_asked": float("nan")},
        {"rate_asked": 10**400},
        {"rate_asked": True},
        {"failures": {"cut": "many"}},
        {"latency_us": {"p99": 1}},
        {"versions": [5]},
    ],
    ids=ascii,
)
def test_a_result_with_damaged_stages_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    result = result_of((100, 1000))
    (result if {"stages", "run"} & {*change} else result["stages"][0]).update(change)
    (tmp_path / "result.json").write_text(json.dumps(result))
    with pytest.raises(SettingsError, match="fix: name the result"):
        read_run(tmp_path / "result.json")
