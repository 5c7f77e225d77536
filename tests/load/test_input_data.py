"""Inputs and right answers from files: perf_analyzer's JSON, and archives of arrays."""

import base64
import json
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.damage import damaged, damaged_json

from loadtest.checking import Samples, Signature, draw, from_entries, make_pool, read_input_data
from loadtest.errors import SettingsError
from loadtest.wire import Address, Array, TensorSpec, make_client, to_wire

NAMED = Signature((TensorSpec("x", "FP32", (2, 3)), TensorSpec("n", "INT32", (-1,))), (TensorSpec("y", "INT64", (2,)),))
UNKNOWN = Signature((), ())
SIX = [1, 2, 3, 4, 5, 6]
HTTP = make_client("http", Address("127.0.0.1", 1), 1.0)


def one(datatype: str, *dims: int) -> Signature:
    return Signature((TensorSpec("x", datatype, dims),), ())


def write(folder: Path, document: Any) -> Path:
    path = folder / "inputs.json"
    path.write_text(json.dumps(document))
    return path


def read_x(folder: Path, value: Any, signature: Signature) -> Array:
    ((entry,),) = read_input_data(write(folder, {"data": [{"x": value}]}), signature).streams
    return entry.inputs["x"][1]


def b64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode()}


@pytest.mark.parametrize(
    ("datatype", "value", "expected"),
    [
        pytest.param("FP32", SIX, np.array(SIX, np.float32), id="a flat list"),
        pytest.param("FP32", [[1, 2, 3], [4, 5, 6]], np.array(SIX, np.float32), id="nested lists"),
        pytest.param("FP32", {"content": SIX, "shape": [2, 3]}, np.array(SIX, np.float32), id="with its shape"),
        pytest.param("INT16", b64(np.array(SIX, "<i2").tobytes()), np.array(SIX, np.int16), id="base64"),
        pytest.param(
            "FP16",
            {"content": b64(np.array(SIX, "<f2").tobytes()), "shape": [2, 3]},
            np.array(SIX, np.float16),
            id="both",
        ),
        pytest.param("BOOL", [True, False, 1, 0, True, True], np.array([1, 0, 1, 0, 1, 1], bool), id="booleans"),
        pytest.param("UINT64", [2**64 - 1] * 6, np.array([2**64 - 1] * 6, np.uint64), id="the largest number"),
        pytest.param("BYTES", list("abcdeä"), np.array(list("abcdeä"), object), id="strings"),
        pytest.param("BYTES", ["a\0"] * 6, np.array(["a\0"] * 6, object), id="strings that end in NUL"),
        pytest.param(
            "BYTES", b64(struct.pack("<I2s", 2, b"\xff\xd8") * 6), np.array([b"\xff\xd8"] * 6, object), id="bytes"
        ),
    ],
)
def test_a_tensor_in_json_is_read_however_it_is_written(
    tmp_path: Path, datatype: str, value: Any, expected: Array
) -> None:
    array = read_x(tmp_path, value, one(datatype, 2, 3))
    assert (array.dtype, array.shape) == (expected.dtype, (2, 3))
    assert to_wire(array, datatype) == to_wire(expected.reshape(2, 3), datatype)


def test_bf16_is_rounded_to_the_nearest_and_ties_to_the_even_one(tmp_path: Path) -> None:
    given = {1.0: 0x3F80, 1.00390625: 0x3F80, 1.01171875: 0x3F82, 1.0078: 0x3F81, float("nan"): 0x7FC0, -2.0: 0xC000}
    assert read_x(tmp_path, list(given), one("BF16", 6)).tolist() == list(given.values())


@pytest.mark.parametrize(
    ("dims", "shapes", "value", "shape"),
    [
        pytest.param((-1, 3), {}, SIX, (2, 3), id="one open dim follows from the values"),
        pytest.param((-1, -1), {"x": (3, 2)}, SIX, (3, 2), id="the option"),
        pytest.param(
            (-1, -1), {"x": (3, 2)}, {"content": SIX, "shape": [1, 6]}, (1, 6), id="the file before the option"
        ),
        pytest.param((), {}, [7], (), id="a scalar"),
    ],
)
def test_an_open_shape_is_found(
    tmp_path: Path, dims: tuple[int, ...], shapes: dict[str, tuple[int, ...]], value: Any, shape: tuple[int, ...]
) -> None:
    signature = Signature((TensorSpec("x", "FP32", dims),), (), shapes)
    assert read_x(tmp_path, value, signature).shape == shape


@pytest.mark.parametrize(
    ("signature", "value", "said"),
    [
        (one("FP32", 2, 3), [1, 2], r"data\[0\], x: it has 2 values, but its shape \[2, 3\] needs 6"),
        (one("FP32", 2, 3), {"content": SIX, "shape": [3, 2]}, r"its shape is \[3, 2\], but the model has \[2, 3\]"),
        (one("FP32", 2, 3), {"content": SIX, "shape": [1, 2, 3]}, "without the batch axis"),
        (one("FP32", 2, 3), {"content": SIX, "shape": [2, -3]}, "is not a shape"),
        (one("FP32", 2, 3), {"content": SIX, "datatype": "FP64"}, "its datatype is FP64, but the model has FP32"),
        (one("FP32", -1, -1), SIX, "its shape must be given"),
        (one("FP32", 1), ["1"], "a value is not a number"),
        (one("FP32", 1), [True], "a value is not a number"),
        (one("INT8", 1), [128], "a value is not one of INT8, -128 to 127"),
        (one("INT8", 1), [1.0], "a value is not one of INT8"),
        (one("BOOL", 1), [2], "a value is not one of BOOL"),
        (one("BYTES", 1), [1], "a value is not a string"),
        (one("BYTES", 1), b64(b"\x09\0\0\0ab"), "must each stand behind their length"),
        (one("INT32", 1), b64(b"abc"), "3 bytes cannot be divided into INT32"),
        (one("INT32", 1), {"b64": "%%%"}, "neither a list of values nor"),
        (one("INT32", 1), {"c": 1}, "neither a list of values nor"),
        (UNKNOWN, [1], "neither the server nor the file says"),
        (UNKNOWN, {"content": [1], "shape": [1], "datatype": "INT31"}, "'INT31' is not a datatype"),
    ],
)
def test_a_tensor_that_does_not_fit_the_model_is_refused(
    tmp_path: Path, signature: Signature, value: Any, said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        read_x(tmp_path, value, signature)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([], "not a JSON object with the key 'data'"),
        ({"data": []}, "it is not a list, or is empty"),
        ({"data": [[]]}, "a stream is empty"),
        ({"data": [{"x": SIX, "n": [1]}, []]}, "not every entry is an object"),
        ({"data": [{"x": SIX}]}, "it must have the inputs x, n, but differs in n"),
        ({"data": [{"x": SIX, "n": [1], "z": 1}]}, "but differs in z"),
        ({"data": [{"x": SIX, "n": [1]}], "validation_data": []}, "validation_data: it is not a list"),
        (
            {"data": [{"x": SIX, "n": [1]}] * 2, "validation_data": [{"y": [1, 2]}]},
            "validation_data has 1 entry, but data has 2 entries",
        ),
        ({"data": [{"x": SIX, "n": [1]}], "validation_data": [{"z": [1]}]}, "the model has no output z"),
        ({"data": [{"x": SIX, "n": [1]}], "validation_data": [{}]}, "it has no outputs"),
    ],
)
def test_a_document_of_another_form_is_refused(tmp_path: Path, document: Any, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        read_input_data(write(tmp_path, document), NAMED)


def test_streams_stay_apart_and_keep_their_answers(tmp_path: Path) -> None:
    entries = [{"x": [number] * 6, "n": [number]} for number in range(5)]
    answers = [{"y": [number, number]} for number in range(5)]
    document = {"data": [entries[:3], entries[3:]], "validation_data": [answers[:3], answers[3:]]}
    data = read_input_data(write(tmp_path, document), NAMED)
    assert data.has_streams
    assert [[entry.inputs["n"][1].tolist() for entry in stream] for stream in data.streams] == [
        [[0], [1], [2]],
        [[3], [4]],
    ]
    assert [[entry.outputs["y"][1].tolist() for entry in stream] for stream in data.streams] == [
        [[0, 0], [1, 1], [2, 2]],
        [[3, 3], [4, 4]],
    ]


def to_samples(
    path: Path, signature: Signature, max_batch_size: int = 8
) -> tuple[list[Samples], list[tuple[int, int]]]:
    (stream,) = read_input_data(path, signature).streams
    return from_entries("m", "", max_batch_size=max_batch_size, entries=stream, tolerance=None)


def test_rows_of_other_shapes_are_never_in_one_request(tmp_path: Path) -> None:
    data = [{"x": SIX, "n": [*range(length)]} for length in (4, 6, 4)]
    samples, places = to_samples(write(tmp_path, {"data": data}), NAMED)
    assert places == [(0, 0), (1, 0), (0, 1)]
    shapes = {
        tuple(request.inputs()["n"].shape) for one in samples for request in make_pool(one, 2, HTTP.encode, RANDOM)
    }
    assert shapes == {(2, 4), (2, 6)}


RANDOM = random.Random(0)


def test_arrays_are_read_with_their_answers_in_the_order_of_the_model(tmp_path: Path) -> None:
    arrays = {"n": np.ones((5, 7), np.int32), "input:x": np.zeros((5, 2, 3), np.float32)}
    np.savez(tmp_path / "inputs.npz", **arrays, **{"output:y": np.arange(10).reshape(5, 2)})
    (samples,), _ = to_samples(tmp_path / "inputs.npz", NAMED)
    assert [spec.name for spec in samples.inputs] == ["x", "n"]
    assert (samples.rows, samples.outputs) == (5, ("y",))
    assert samples.reference is not None
    assert samples.reference.answers["y"].tolist() == np.arange(10).reshape(5, 2).tolist()


@pytest.mark.parametrize(
    ("answers", "atol"),
    [
        ([[0.5, 2.0], [0.0, 20.0]], 2e-4),
        ([[0.5, -1e9], [2.0, -1e9], [3.0, -1e9]], 0.02),
        ([[0.5, np.inf], [2.0, -3.4e38], [np.nan, 3.0]], 0.02),
        ([[0.0, 0.0]], 1e-5),
    ],
)
def test_a_few_huge_right_answers_do_not_make_all_others_tolerant(
    tmp_path: Path, answers: list[list[float]], atol: float
) -> None:
    np.savez(tmp_path / "inputs.npz", x=np.zeros(len(answers)), **{"output:y": np.array(answers, np.float32)})
    (samples,), _ = to_samples(tmp_path / "inputs.npz", UNKNOWN)
    assert samples.reference is not None
    assert samples.reference.tolerances["y"].atol == pytest.approx(atol)


def test_arrays_say_what_a_server_does_not(tmp_path: Path) -> None:
    np.savez(tmp_path / "inputs.npz", text=np.array(["a", "b"]), raw=np.array([b"\xff", b"b"]), x=np.ones((2, 4)))
    (samples,), _ = to_samples(tmp_path / "inputs.npz", UNKNOWN)
    assert {(spec.name, spec.datatype, spec.dims) for spec in samples.inputs} == {
        ("text", "BYTES", ()),
        ("raw", "BYTES", ()),
        ("x", "FP64", (4,)),
    }
    assert samples.reference is None


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({}, "different numbers of rows, or none: no arrays"),
        ({"x": np.ones((2, 2, 3)), "n": np.ones((2, 1), np.int32)}, "x is an array of float64, but the model has FP32"),
        ({"x": np.ones((2, 3, 2), "f4"), "n": np.ones((2, 1), "i4")}, r"the rows of x have the shape \[3, 2\]"),
        ({"x": np.ones((2, 2, 3), "f4"), "n": np.ones((3, 1), "i4")}, "different numbers of rows, or none: x 2, n 3"),
        ({"x": np.ones((2, 2, 3), "f4")}, "but differs in n"),
        (
            {"x": np.ones((2, 2, 3), "f4"), "n": np.ones((2, 1), "i4"), "output:z": np.ones(2)},
            "the model has no output z",
        ),
    ],
)
def test_arrays_that_do_not_fit_the_model_are_refused(tmp_path: Path, arrays: dict[str, Array], said: str) -> None:
    np.savez(tmp_path / "inputs.npz", **arrays)
    signature = NAMED if arrays else UNKNOWN
    with pytest.raises(SettingsError, match=said):
        read_input_data(tmp_path / "inputs.npz", signature)


VALID = json.dumps(
    {
        "data": [[{"x": {"content": SIX, "shape": [2, 3]}, "n": [1]}, {"x": b64(bytes(24)), "n": [2]}]],
        "validation_data": [[{"y": [1, 2]}, {"y": [3, 4]}]],
    }
)


def survive(path: Path, content: bytes) -> None:
    """Read a file and make the requests of it, or refuse it."""
    path.write_bytes(content)
    try:
        data = read_input_data(path, NAMED)
    except SettingsError:
        return
    for stream in data.streams:
        samples, _ = from_entries("m", "", max_batch_size=0, entries=stream, tolerance=None)
        for one in samples:
            make_pool(one, 1, HTTP.encode, RANDOM)


@given(content=st.one_of(damaged(VALID.encode()), damaged_json(VALID)))
def test_any_document_is_refused_or_read(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    survive(tmp_path_factory.getbasetemp() / "any.json", content)


def test_generated_inputs_have_the_shape_that_was_given() -> None:
    signature = Signature((TensorSpec("x", "FP32", (3, -1, -1)), TensorSpec("t", "BYTES", (1,))), (), {"x": (3, 8, 9)})
    random_ones = draw("m", "", max_batch_size=8, signature=signature)
    zeros = draw("m", "", max_batch_size=8, signature=signature, zero=True)
    assert random_ones.arrays["x"].shape == (32, 3, 8, 9)
    assert random_ones.arrays["x"].std() > 0.5
    assert zeros.arrays["x"].shape == (1, 3, 8, 9)
    assert not zeros.arrays["x"].any()
    assert zeros.arrays["t"].tolist() == [[""]]


def test_an_open_shape_must_be_given_and_a_row_must_fit_into_a_request() -> None:
    signature = one("FP32", 3, -1, -1)
    with pytest.raises(SettingsError, match=r"the dims of input x are \[3,N,N\].*\n.*--shape x:3,64,64"):
        draw("m", "", max_batch_size=8, signature=signature)
    large = Signature(signature.inputs, (), {"x": (3, 100_000, 100_000)})
    with pytest.raises(SettingsError, match=r"a row of inputs takes 120.0 GB"):
        draw("m", "", max_batch_size=8, signature=large)
    one_row = Signature(signature.inputs, (), {"x": (3, 4000, 4000)})
    assert draw("m", "", max_batch_size=8, signature=one_row).rows == 1
