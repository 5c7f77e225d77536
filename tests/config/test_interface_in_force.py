"""What clients see of a version under a config."""

from dataclasses import replace

import numpy as np
import pytest
from support.artifacts import scale

from builder.config import ClientTensor, Interface, interface, interface_of, pbtxt
from builder.errors import RepositoryError, VerificationError
from builder.record import Manifest, ServedTensor
from builder.tensors import Array

BASE = scale().manifest


def version(*tensors: tuple[str, str, tuple[int, ...]], max_batch_size: int = 8) -> Manifest:
    """A version whose inputs are these, and whose outputs are called the same with `out_` in front."""
    inputs = tuple(ServedTensor(name, name, data_type, dims) for name, data_type, dims in tensors)
    outputs = tuple(ServedTensor(f"out_{t.name}", t.name, t.data_type, t.dims) for t in inputs)
    return replace(BASE, inputs=inputs, outputs=outputs, max_batch_size=max_batch_size)


def seen(text: str, manifest: Manifest) -> Interface:
    return interface_of(pbtxt.parse(text, where="config.pbtxt"), manifest, where="config.pbtxt")


IMAGE = version(("x", "TYPE_FP32", (16,)))
ANY_SIZE = version(("x", "TYPE_FP32", (-1, -1)))
SCALAR = version(("n", "TYPE_INT64", ()))

SQUARE = """
max_batch_size: 4
input { name: "x" data_type: TYPE_FP32 dims: [4, 4] reshape { shape: [16] } }
output { name: "out_x" data_type: TYPE_FP32 dims: [2, 8] reshape { shape: [16] } }
"""


def listed(dims: str, *, name: str = "x", data_type: str = "TYPE_FP32", batch: int = 8, output: str = "") -> str:
    """A config of one input and one output with these dims."""
    return (
        f"max_batch_size: {batch}\n"
        f'input {{ name: "{name}" data_type: {data_type} {dims} }}\n'
        f'output {{ name: "out_{name}" data_type: {data_type} {output or dims} }}\n'
    )


def test_clients_see_the_dims_before_reshape_and_the_batch_of_the_config() -> None:
    found = seen(SQUARE, IMAGE)

    assert found.inputs == (ClientTensor("x", "TYPE_FP32", (4, 4), (16,)),)
    assert found.outputs == (ClientTensor("out_x", "TYPE_FP32", (2, 8), (16,)),)
    assert found.max_batch_size == 4
    assert found.left_out == ()


def test_rows_go_to_the_client_and_back() -> None:
    tensor = seen(SQUARE, IMAGE).inputs[0]
    rows = np.arange(32, dtype=np.float32).reshape(2, 16)

    sent = interface.to_client(tensor, rows)

    assert sent.shape == (2, 4, 4)
    np.testing.assert_array_equal(interface.to_model(tensor, sent), rows)


@pytest.mark.parametrize(
    ("dims", "rows", "shape"),
    [
        ("dims: [-1, -1]", np.zeros((2, 3, 5)), (2, 3, 5)),
        ("dims: [-1, -1, 1] reshape { shape: [-1, -1] }", np.zeros((2, 3, 5)), (2, 3, 5, 1)),
        ("dims: [1, -1, 1, -1] reshape { shape: [-1, -1] }", np.zeros((2, 3, 5)), (2, 1, 3, 1, 5)),
        ("dims: [15] reshape { shape: [3, 5] }", np.zeros((2, 3, 5)), (2, 15)),
        ("dims: [-1, 5] ", np.zeros((2, 3, 5)), (2, 3, 5)),
        ("dims: [-1, 5] reshape { shape: [-1, 5] }", np.zeros((2, 3, 5)), (2, 3, 5)),
        ("dims: [5, -1] reshape { shape: [5, -1] }", np.zeros((2, 5, 7)), (2, 5, 7)),
        ("dims: [-1, 2, 2] reshape { shape: [-1, 4] }", np.zeros((2, 3, 4)), (2, 3, 2, 2)),
        ("dims: [5, 1, -1] reshape { shape: [5, -1] }", np.zeros((0, 5, 7)), (0, 5, 1, 7)),
    ],
)
def test_a_size_that_varies_is_the_one_of_the_rows(dims: str, rows: Array, shape: tuple[int, ...]) -> None:
    tensor = seen(listed(dims, output="dims: [-1, -1]"), ANY_SIZE).inputs[0]

    sent = interface.to_client(tensor, rows)

    assert sent.shape == shape
    assert interface.to_model(tensor, sent).shape == rows.shape


def test_a_scalar_per_row_is_one_value_to_clients() -> None:
    tensor = seen(listed("dims: [1] reshape { shape: [] }", name="n", data_type="TYPE_INT64"), SCALAR).inputs[0]

    assert tensor == ClientTensor("n", "TYPE_INT64", (1,), ())
    assert interface.to_client(tensor, np.arange(3)).shape == (3, 1)
    assert interface.to_model(tensor, np.arange(3).reshape(3, 1)).shape == (3,)


def test_a_scalar_can_have_many_dims_of_one() -> None:
    tensor = seen(listed("dims: [1, 1] reshape { shape: [] }", name="n", data_type="TYPE_INT64"), SCALAR).inputs[0]

    assert interface.to_client(tensor, np.arange(3)).shape == (3, 1, 1)


def test_a_scalar_without_a_batch_is_one_value_without_a_reshape() -> None:
    manifest = version(("n", "TYPE_INT64", ()), max_batch_size=0)

    tensor = seen(listed("dims: [1]", name="n", data_type="TYPE_INT64", batch=0), manifest).inputs[0]

    assert interface.to_client(tensor, np.arange(1)).shape == (1, 1)


def test_without_a_batch_dims_are_the_whole_shape() -> None:
    manifest = version(("x", "TYPE_FP32", (2, 8)), max_batch_size=0)

    found = seen(listed("dims: [16] reshape { shape: [2, 8] }", batch=0), manifest)

    assert found.max_batch_size == 0
    assert interface.to_client(found.inputs[0], np.zeros((1, 2, 8))).shape == (1, 16)


def test_outputs_that_the_config_leaves_out_are_named() -> None:
    manifest = version(("x", "TYPE_FP32", (3,)), ("flag", "TYPE_BOOL", (2,)), ("word", "TYPE_STRING", (2,)))
    text = """
    max_batch_size: 8
    input { name: "word" data_type: TYPE_STRING dims: [2] }
    input { name: "flag" data_type: TYPE_BOOL dims: [2, 1] reshape { shape: [2] } }
    input { name: "x" data_type: TYPE_FP32 dims: [3] }
    output { name: "out_flag" data_type: TYPE_BOOL dims: [2] }
    """

    found = seen(text, manifest)

    assert [tensor.name for tensor in found.inputs] == ["word", "flag", "x"]
    assert [tensor.name for tensor in found.outputs] == ["out_flag"]
    assert found.left_out == ("out_x", "out_word")
    flags = interface.to_client(found.inputs[1], np.array([[True, False]]))
    assert (flags.dtype, flags.tolist()) == (np.dtype(bool), [[[True], [False]]])
    assert interface.to_client(found.inputs[0], np.array([["größer", ""]])).tolist() == [["größer", ""]]


@pytest.mark.parametrize("text", ["", 'backend: "onnxruntime"', 'input { name: "x" }', 'output { name: "out_x" }'])
def test_what_the_config_leaves_to_triton_is_as_the_version_has_it(text: str) -> None:
    found = seen(text, IMAGE)

    assert found.inputs == (ClientTensor("x", "TYPE_FP32", (16,), (16,)),)
    assert found.outputs == (ClientTensor("out_x", "TYPE_FP32", (16,), (16,)),)
    assert found.max_batch_size == 4


def test_triton_chooses_no_batch_above_the_proven_one() -> None:
    assert seen("", replace(IMAGE, max_batch_size=2)).max_batch_size == 2
    assert seen("max_batch_size: 6", IMAGE).max_batch_size == 6
    assert seen("", replace(IMAGE, max_batch_size=0)).max_batch_size == 0


@pytest.mark.parametrize(
    ("text", "manifest", "what"),
    [
        (listed("dims: [17]"), IMAGE, r"input 'x' has dims \[17\], but the version's are \[16\]"),
        (listed("dims: [4, 4]"), IMAGE, r"input 'x' has dims \[4, 4\], but the version's are \[16\]"),
        (listed("dims: [-1]"), IMAGE, r"input 'x' has dims \[-1\]"),
        (listed("dims: [4, 4] reshape { shape: [17] }"), IMAGE, r"has dims \[17\], but the version's are \[16\]"),
        (listed("dims: [4, 5] reshape { shape: [16] }"), IMAGE, r"cannot be reshaped from \[4, 5\] to \[16\]"),
        (listed("dims: [-1, 2, -1] reshape { shape: [-1, -1] }"), ANY_SIZE, "cannot be reshaped"),
        (listed("dims: [-1] reshape { shape: [-1, -1] }"), ANY_SIZE, "cannot be reshaped"),
        (listed("dims: [-1, -1]", output="dims: [-1, 5]"), ANY_SIZE, r"output 'out_x' has dims \[-1, 5\]"),
        (listed("dims: [16]", data_type="TYPE_FP16"), IMAGE, "is TYPE_FP16, but the version's is TYPE_FP32"),
        (listed("dims: [16]", batch=0), IMAGE, "max_batch_size is 0, but the version has a batch"),
        (listed("dims: [16]"), replace(IMAGE, max_batch_size=0), "max_batch_size is 8, but the version has no batch"),
        (listed("dims: [16]", name="z"), IMAGE, "does not list input 'x'.*it lists input 'z'"),
        (listed("dims: [16]") + 'output { name: "w" }', IMAGE, "it lists output 'w', but the version has only 'out_x'"),
        (listed("dims: [16] optional: true", output="dims: [16]"), IMAGE, "input 'x' is optional"),
    ],
)
def test_a_config_that_contradicts_the_version_has_no_interface(text: str, manifest: Manifest, what: str) -> None:
    with pytest.raises(RepositoryError, match=what):
        seen(text, manifest)


def test_rows_of_another_size_than_the_config_fixes_cannot_be_sent() -> None:
    found = seen(listed("dims: [3, 224]", output="dims: [-1, -1]"), ANY_SIZE)

    assert interface.misfit(found, {"x": np.zeros((2, 3, 224))}) is None
    what = interface.misfit(found, {"x": np.zeros((2, 3, 200))})
    assert what == "config.pbtxt gives 'x' the dims [3, 224], but the stored rows have [3, 200]"
    with pytest.raises(VerificationError, match=r"dims \[3, 224\], but the stored rows have \[3, 200\]"):
        interface.to_client(found.inputs[0], np.zeros((2, 3, 200)))


def test_an_optional_input_of_a_version_that_was_adopted_may_be_left_out() -> None:
    manifest = version(("x", "TYPE_FP32", (2, 8)), max_batch_size=0)
    text = listed("dims: [2, 8]", batch=0) + 'input { name: "w" data_type: TYPE_FP32 dims: 2 optional: true }'

    assert [tensor.name for tensor in seen(text, replace(manifest, adopted=True)).inputs] == ["x"]
    for other in (manifest, replace(manifest, adopted=True, max_batch_size=8)):
        with pytest.raises(RepositoryError, match="it lists input 'w', but the version has only 'x'"):
            seen(text, other)
    with pytest.raises(RepositoryError, match="it lists input 'w', but the version has only 'x'"):
        seen(text.replace("optional: true", ""), replace(manifest, adopted=True))
