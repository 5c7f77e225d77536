"""Loading describes a valid model, and refuses anything else in bounded time and memory."""

import hashlib
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import numpy_helper
from onnx.helper import make_attribute, make_function, make_graph, make_node, make_opsetid, make_tensor_value_info

from builder import digest
from builder.batching import add_batch_axis
from builder.errors import ModelError
from builder.model import TensorSpec, load
from builder.model.external_data import locate
from builder.model.size import MAX_NODES
from builder.model.soundness import nodes_of

RELU = "(float[1, 4] x) => (float[1, 4] y) { y = Relu (x) }"
ADD = "(float[1, 4] x) => (float[1, 4] y) { y = Add (x, w) }"
TWO_OUTPUTS = """(float[1, 4] x) => (float[1, 4] y) { y, z = my.f (x) }
    <domain: "my", opset_import: ["": 17]> f (a) => (b) { b = Relu (a) }"""
WEIGHT = numpy_helper.from_array(np.ones((1, 4), np.float32), "w")

Edit = Callable[[onnx.ModelProto], None]


def parsed(graph: str, *weights: onnx.TensorProto, opset: int = 17, ir_version: int = 8) -> onnx.ModelProto:
    header = f'<ir_version: {ir_version}, opset_import: ["": {opset}, "ai.onnx.ml": 3, "my": 1, "com.microsoft": 1]>'
    model = onnx.parser.parse_model(f"{header} g {graph}")
    model.graph.initializer.extend(weights)
    return model


def written(folder: Path, content: onnx.ModelProto | bytes) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    return path


def weight(**fields: Any) -> onnx.TensorProto:
    tensor = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT)
    tensor.MergeFrom(onnx.TensorProto(**fields))
    return tensor


def external(location: str | None, dims: tuple[int, ...] = (1, 4), **place: object) -> onnx.TensorProto:
    """An external weight `w`: `float32[*dims]`."""
    tensor = weight(dims=dims, data_location=onnx.TensorProto.EXTERNAL)
    for key, value in {"location": location, **place}.items():
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
    return tensor


def refusal(path: Path) -> ModelError:
    with pytest.raises(ModelError) as refused:
        load(path)
    error = refused.value
    assert error.exit_code == 3
    assert error.where
    assert error.what
    assert error.fix
    return error


# ---------------------------------------------------------------- valid models


def test_a_model_is_described_by_its_inputs_outputs_and_digest(tmp_path: Path) -> None:
    text = "(float[1, 4] x, float[1, 4] w) => (float[1, 4] y) { y = Add (x, w) }"
    model = load(written(tmp_path, parsed(text, WEIGHT)))
    assert model.inputs == (TensorSpec("x", ir.DataType.FLOAT, (1, 4)),)  # w has a value: nobody feeds it
    assert model.outputs == (TensorSpec("y", ir.DataType.FLOAT, (1, 4)),)
    assert list(model.files) == [tmp_path / "model.onnx"]
    assert model.sha256 == hashlib.sha256((tmp_path / "model.onnx").read_bytes()).hexdigest()


def test_the_digest_covers_external_weights(tmp_path: Path) -> None:
    path = written(tmp_path, parsed(ADD, external("w.bin")))
    digests = set()
    for value in (1, 1, 2):
        (tmp_path / "w.bin").write_bytes(np.full(4, value, np.float32).tobytes())
        digests.add(load(path).sha256)
    assert len(digests) == 2


def test_an_output_without_a_shape_gets_the_one_that_onnx_infers(tmp_path: Path) -> None:
    model = parsed(RELU)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    assert load(written(tmp_path, model)).outputs[0].shape == (1, 4)


def test_layer_normalization_below_opset_17_is_accepted_as_onnx_runtime_writes_it(tmp_path: Path) -> None:
    text = "(float[1, 4] x) => (float[1, 4] y) { y = LayerNormalization (x, w) }"
    scale = numpy_helper.from_array(np.ones(4, np.float32), "w")
    assert load(written(tmp_path, parsed(text, scale, opset=13))).outputs[0].shape == (1, 4)


def test_an_operator_next_to_one_of_onnx_runtimes_is_still_checked(tmp_path: Path) -> None:
    text = "(float[1, 4] x) => (float[1, 4] y) { n = LayerNormalization (x, w)  y = Relu (x, n) }"
    scale = numpy_helper.from_array(np.ones(4, np.float32), "w")
    assert "Relu" in refusal(written(tmp_path, parsed(text, scale, opset=13))).what


# ---------------------------------------------------------------- files that are not models


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "model.onnx").what == "there is no such file"
    assert "Not a directory" in refusal(written(tmp_path, b"") / "model.onnx").what


def test_a_path_too_long_for_the_filesystem_is_refused(tmp_path: Path) -> None:
    assert "File name too long" in refusal(tmp_path / ("x" * 5000)).what


def test_a_path_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    assert "not valid UTF-8" in refusal(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.onnx"))).what


def test_a_directory_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path).what == "it is a directory"


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    assert refusal(tmp_path / "pipe.onnx").what == "it is not a regular file"


@pytest.mark.parametrize("content", [b"", b"\x08\x08", b"not a model\n", bytes(1000), b"\x89PNG\r\n\x1a\n" + bytes(99)])
def test_a_file_that_is_not_onnx_is_refused(tmp_path: Path, content: bytes) -> None:
    assert refusal(written(tmp_path, content)).what.startswith("it is not an ONNX file")


def test_a_model_cut_short_anywhere_is_refused_or_still_complete(tmp_path: Path) -> None:
    whole = parsed(ADD, WEIGHT).SerializeToString()
    ends = [end for end in range(len(whole)) if is_refused(written(tmp_path, whole[:end]))]
    assert len(ends) > 0.9 * len(whole)


def is_refused(path: Path) -> bool:
    try:
        load(path)
    except ModelError:
        return True
    return False


def test_a_file_larger_than_a_protobuf_message_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, b"")
    os.truncate(path, 2**31)
    error = refusal(path)
    assert "2 GiB" in error.what
    assert "external data" in error.fix


def test_a_file_without_read_permission_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, parsed(RELU))
    path.chmod(0)
    script = (
        "import os, sys; from pathlib import Path; from builder.model import load\n"
        "from builder.errors import ModelError\n"
        "if os.getuid() == 0: os.setuid(65534)\n"
        "try: load(Path(sys.argv[1]))\n"
        "except ModelError as error: print(error.what)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout == "the file cannot be read: Permission denied\n"


# ---------------------------------------------------------------- operators and types


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (parsed(RELU, opset=99), "opset 99 is unknown; the newest known opset is"),
        (parsed(RELU, opset=0), "opset 0 is unknown"),
        (parsed(RELU, opset=-3), "opset -3 is unknown"),
        (parsed(RELU, ir_version=99), "ir_version 99 is higher than the checker's"),
        (parsed("(float[1, 4] x) => (float[1, 4] y) { [n] y = Blend (x) }"), "opset 17: ai.onnx::Blend (n)"),
        (parsed("(float[1, 4] x) => (float[1, 4] y) { y = my.Blend (x) }"), "my::Blend"),
        (parsed("(float[1, 4] x) => (float[1, 4] y) { y = Relu <slope = 2> (x) }"), "Unrecognized attribute: slope"),
        (parsed("(float[1, 4] x) => (seq(float[1, 4]) y) { y = SequenceConstruct (x) }"), "'sequence'"),
        (parsed("(optional(float[1, 4]) x) => (float[1, 4] y) { y = OptionalGetElement (x) }"), "'optional'"),
        (parsed("(float[1, 4] x) => () { y = Relu (x) }"), "no outputs"),
        (parsed("(float[0, 4] x) => (float[0, 4] y) { y = Relu (x) }"), "dimension of 0"),
        (parsed("(float[1, 65536, 65536] x) => (float[1, 1] y) { y = ReduceSum (x) }"), "2 GiB"),
        (parsed("(float[1, 4] x) => (float[1, 4] y) { y = Relu (z) }"), "topologically sorted"),
        (
            parsed("(float[1, 4] x) => (float[1, 4] y) { b = Add (a, x)  a = Relu (b)  y = Relu (b) }"),
            "the nodes form a cycle",
        ),
        (parsed("(float[1, 4] x) => (float[1, 4] y) { y = Relu (x)  y = Relu (x) }"), "single static assignment"),
        (parsed("(float[1, 4] x, float[1, 4] x) => (float[1, 4] y) { y = Relu (x) }"), "single static assignment"),
        (parsed(ADD, WEIGHT, WEIGHT), "not unique"),
        (parsed(ADD, WEIGHT, ir_version=3), "not in graph input"),
        (parsed(ADD, weight(dims=[2**40, 2**40], raw_data=bytes(16))), "overflow"),
        (parsed(ADD, weight(dims=[-1, 4], raw_data=bytes(16))), "Negative dimension"),
        (parsed(ADD, weight(dims=[1, 4], raw_data=bytes(15))), "too small"),
        (parsed(ADD, weight(dims=[1, 4])), "one and only one value field"),
        (parsed(ADD, weight(dims=[1, 4], data_type=77, raw_data=bytes(16))), "unknown element type (77)"),
        (parsed(ADD, weight(dims=[1, 4], raw_data=bytes(20))), "has 20 bytes of data, but FLOAT[1, 4] needs 16"),
        (parsed(ADD, weight(dims=[1, 4], float_data=[1.0] * 5)), "has 5 values of data, but FLOAT[1, 4] needs 4"),
        (parsed(ADD, weight(dims=[1, 4], int64_data=[1] * 4)), "should be stored in field 'float_data'"),
        (parsed(ADD, weight(dims=[1, 4], data_type=17, raw_data=bytes(16))), "FLOAT8E4M3FN[1, 4] needs 4"),
        (
            parsed(ADD, weight(dims=[1, 5], data_type=22, raw_data=bytes(4))),
            "has 4 bytes of data, but INT4[1, 5] needs 3",
        ),
        (parsed(ADD, weight(dims=[2], data_type=14, float_data=[1.0] * 5)), "COMPLEX64[2] needs 4"),
        (parsed(ADD, weight(dims=[0, 2**62], raw_data=b"")), "has an impossible shape: [0, 4611686018427387904]"),
        (parsed(ADD, weight(dims=[1] * 3000, raw_data=bytes(4))), "has 3,000 axes, but the limit is 32"),
        (parsed(f"(float[{', '.join('1' * 40)}] x) => (float[1] y) {{ y = Relu (x) }}"), "input 'x' has 40 axes"),
        (parsed(TWO_OUTPUTS), "f 'y' has 2 outputs, but its function has 1"),
    ],
)
def test_an_invalid_model_is_refused_with_the_reason(tmp_path: Path, model: onnx.ModelProto, what: str) -> None:
    assert what in refusal(written(tmp_path, model)).what


def test_onnx_has_one_name_among_the_opsets(tmp_path: Path) -> None:
    model = parsed("(float[1, 4] x) => (float[1, 4] y) { y = Relu (x) }")
    model.opset_import[0].domain = "ai.onnx"
    assert load(written(tmp_path, model)).ir.opset_imports[""] == 17


def without_opsets(model: onnx.ModelProto) -> None:
    del model.opset_import[:]


def with_two_opsets(model: onnx.ModelProto) -> None:
    model.opset_import.append(make_opsetid("ai.onnx", 11))


def with_sparse_weight(model: onnx.ModelProto) -> None:
    sparse = model.graph.sparse_initializer.add(dims=[1, 4])
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), "w"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.zeros(1, np.int64)))


def with_sparse_constant(model: onnx.ModelProto) -> None:
    with_sparse_weight(model)
    constant = make_node("Constant", [], ["z"], sparse_value=model.graph.sparse_initializer[0])
    model.graph.node.append(constant)
    del model.graph.sparse_initializer[:]


def with_reference(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "Elu"
    model.graph.node[0].attribute.add(name="alpha", type=onnx.AttributeProto.FLOAT, ref_attr_name="slope")


def with_attribute_twice(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "Elu"
    model.graph.node[0].attribute.extend([make_attribute("alpha", 1.0)] * 2)


def with_huge_opset(model: onnx.ModelProto) -> None:
    model.opset_import[-1].version = 2**62


def with_long_name(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = model.graph.node[0].input[0] = "n" * 200_000


def with_nul(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = model.graph.node[0].input[0] = "x\0y"


def with_many_inputs(model: onnx.ModelProto) -> None:
    model.graph.input.extend(make_tensor_value_info(f"x{k}", onnx.TensorProto.FLOAT, [1]) for k in range(5000))


def with_untyped_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = 0


def with_unknown_type(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = 77


def with_shapeless_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.ClearField("shape")


def with_nameless_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = model.graph.node[0].input[0] = ""


@pytest.mark.parametrize(
    ("edit", "what"),
    [
        (without_opsets, "opset_import"),
        (with_two_opsets, "'ai.onnx' is imported in two versions"),
        (with_sparse_weight, "sparse"),
        (with_sparse_constant, "has a sparse tensor as its attribute 'sparse_value', which is not supported"),
        (with_reference, "Elu 'y' takes its attribute 'alpha' from a function, but is in none"),
        (with_attribute_twice, "Attribute 'alpha' appeared multiple times"),
        (with_huge_opset, f"opset {2**62} of com.microsoft is unknown"),
        (with_long_name, "its field name holds a name of 200,000 characters; the limit is 4,096"),
        (with_nul, "its field name holds a name with a NUL character"),
        (with_many_inputs, "it has 5,001 inputs; the limit is 4,096"),
        (with_untyped_input, "input 'x' has no element type"),
        (with_unknown_type, "77 is not a valid DataType"),
        (with_shapeless_input, "'shape' of 'type' is required"),
        (with_nameless_input, "'name' of 'value_info' is required"),
    ],
)
def test_an_invalid_field_is_refused_with_the_reason(tmp_path: Path, edit: Edit, what: str) -> None:
    model = parsed(RELU)
    edit(model)
    assert what in refusal(written(tmp_path, model)).what


EINSUM = '(float[1, 3] x) => (float[1, 3] y) {{ y = Einsum <equation = "{}"> (x) }}'


@pytest.mark.parametrize(
    "equation", ["..ij->ij", "i.j->i", "....ij->ij", "ij->i.", ".", "ij->ij->ij", "i1->i", "i...j..."]
)
def test_what_is_no_equation_is_refused_before_its_shape_is_inferred(tmp_path: Path, equation: str) -> None:
    what = f"Einsum 'y' has an invalid equation: {equation!r}"
    model = parsed(EINSUM.format(equation))
    model.graph.output[0].type.tensor_type.ClearField("shape")  # ONNX never ends if it infers that of ..ij->ij
    assert refusal(written(tmp_path, model)).what == what


def test_a_cast_to_a_type_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    model = parsed("(float[1, 4] x) => (float[1, 4] y) { y = Cast <to = 77> (x) }")
    what = "Cast 'y' has the element type 77 as its attribute 'to', which does not exist"
    assert refusal(written(tmp_path, model)).what == what


@pytest.mark.parametrize("equation", ["ij->ij", " i j -> ij", "...j->...j", "i...->i...", "ij"])
def test_an_equation_may_have_spaces_and_ellipses(tmp_path: Path, equation: str) -> None:
    assert load(written(tmp_path, parsed(EINSUM.format(equation)))).outputs[0].shape == (1, 3)


@pytest.mark.parametrize("field", ["producer_name", "name", "op_type", "key"])
def test_text_that_is_not_utf_8_is_refused(tmp_path: Path, field: str) -> None:
    model = parsed(RELU)
    model.producer_name = model.graph.name = model.graph.node[0].op_type = "QQQQ"
    model.metadata_props.add(key="QQQQ", value="")
    before = {"producer_name": b"\x12\x04", "name": b"\x12\x04", "op_type": b"\x22\x04", "key": b"\x0a\x04"}[field]
    content = model.SerializeToString()
    at = content.rindex(before + b"QQQQ") if field == "name" else content.index(before + b"QQQQ")
    error = refusal(written(tmp_path, content[: at + 2] + b"\xff\xfe\xfd\xfc" + content[at + 6 :]))
    assert error.what == f"its field {field} is not UTF-8 text"


@pytest.mark.parametrize("opset", [16, 17])
def test_inputs_of_types_that_triton_does_not_have_are_refused_by_name(tmp_path: Path, opset: int) -> None:
    text = "(complex64[1, 4] x) => (complex64[1, 4] y) { y = Identity (x) }"
    model = load(written(tmp_path, parsed(text, opset=opset)))
    assert model.inputs[0].dtype == ir.DataType.COMPLEX64  # readable; what serves it says no, see test_publish


def test_what_a_file_says_about_devices_is_left_out(tmp_path: Path) -> None:
    """It is about machines with several accelerators, and onnx-ir cannot write what a damaged file says there."""
    model = parsed(RELU)
    model.graph.node[0].device_configurations.add()
    loaded = load(written(tmp_path, model))
    assert not ir.to_proto(loaded.ir).graph.node[0].device_configurations


def test_an_initializer_listed_as_an_input_is_a_weight_and_not_an_input(tmp_path: Path) -> None:
    text = "(float[1, 4] x, float[1, 4] w) => (float[1, 4] y) { y = Add (x, w) }"
    model = load(written(tmp_path, parsed(text, WEIGHT, opset=7, ir_version=3)))
    assert [spec.name for spec in model.inputs] == ["x"]


def test_weights_without_values_are_accepted(tmp_path: Path) -> None:
    text = "(float[1, 4] x) => (float[1, 4] y) { y = Concat <axis = 1> (x, w) }"
    assert load(written(tmp_path, parsed(text, weight(dims=[1, 0])))).inputs[0].shape == (1, 4)


def test_a_dimension_written_as_a_number_below_zero_is_dynamic(tmp_path: Path) -> None:
    model = parsed("(float[1, 4, 1, n] x, float[2] x_2) => (float[1, 4, 1, n] y) { y = Relu (x) }")
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = -1
        value.type.tensor_type.shape.dim[2].dim_value = -7
    loaded = load(written(tmp_path, model))
    assert loaded.inputs[0].shape == ("x_0", 4, "x_2", "n")
    assert loaded.outputs[0].shape == ("y_0", 4, "y_2", "n")
    assert [isinstance(dim, int) for dim in loaded.ir.graph.inputs[0].shape or ()] == [False, True, False, False]


def test_a_question_mark_is_no_name(tmp_path: Path) -> None:
    model = load(written(tmp_path, parsed('(float["?", 3, "?"] x) => (float["?", 3, "?"] y) { y = Relu (x) }')))
    assert model.inputs[0].shape == ("x_0", 3, "x_2")


def test_an_unnamed_dimension_never_gets_the_name_of_another(tmp_path: Path) -> None:
    model = parsed("(float[?, 4] x, float[x_0, 4] z) => (float[?, 4] y) { y = Relu (x) }")
    assert [spec.shape[0] for spec in load(written(tmp_path, model)).inputs] == ["x_0_", "x_0"]


LATER = "(float[1, 4] x) => (float[1, 4] y) { y = Relu (b)  a = Neg (x)  b = Abs (a) }"
LATER_IN_BRANCHES = """(bool c, float[1, 4] x) => (float[1, 4] y) {
    y = If (c) <then_branch = t () => (p) { q = Neg (z) p = Abs (q) }, else_branch = e () => (r) { r = Abs (z) }>
    z = Relu (x)
}"""
SAME_NAMES = """(bool c, float[1, 4] x) => (float[1, 4] y) {
    z = If (c) <then_branch = t () => (float[1, 4] p) { y = Neg (x) p = Abs (y) },
                else_branch = e () => (float[1, 4] p) { p = Neg (x) }>
    y = Relu (z)
}"""


@pytest.mark.parametrize(
    ("text", "order"),
    [(LATER, ["Neg", "Abs", "Relu"]), (LATER_IN_BRANCHES, ["Relu", "If", "Neg", "Abs", "Abs"]),
     (SAME_NAMES, ["If", "Neg", "Abs", "Neg", "Relu"])],
)  # fmt: skip
def test_the_nodes_of_the_graph_are_sorted_as_onnxruntime_does(tmp_path: Path, text: str, order: list[str]) -> None:
    path = written(tmp_path, parsed(text))
    feeds = {"c": np.array(True), "x": np.array([[-1, 0, 1, 2]], np.float32)}
    session = onnxruntime.InferenceSession(path)
    model = load(path)
    feeds = {name: feeds[name] for name in [spec.name for spec in model.inputs]}
    assert [node.op_type for node in model.ir.graph.all_nodes()] == order
    sorted_session = onnxruntime.InferenceSession(ir.to_proto(model.ir).SerializeToString())
    np.testing.assert_array_equal(session.run(None, feeds)[0], sorted_session.run(None, feeds)[0])


# ---------------------------------------------------------------- files made to use much time or memory


@pytest.mark.slow
def test_a_million_nodes_are_refused_in_bounded_time_and_memory(tmp_path: Path) -> None:
    model = parsed(RELU)
    node = field(1, model.graph.node[0].SerializeToString())
    path = written(tmp_path, model.SerializeToString() + field(7, node * 1_000_000))
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run(
        [sys.executable, "-m", "builder", "inspect", str(path)], capture_output=True, text=True, check=False
    )
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 3
    assert f"1,000,001 nodes, counting a function's at every call; the limit is {MAX_NODES:,}" in done.stderr
    assert used.ru_utime - before < 60  # seconds of the CPU
    assert used.ru_maxrss < 2 << 20  # KiB


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field of a protobuf message, as bytes."""
    length, digits = len(content), b""
    while length > 127:
        digits, length = digits + bytes([length & 127 | 128]), length >> 7
    return bytes([number << 3 | 2]) + digits + bytes([length]) + content


def test_functions_that_double_forty_times_are_refused(tmp_path: Path) -> None:
    model = parsed("(float[1, 4] x) => (float[1, 4] y) { y = my.F0 (x) }")
    for i in range(40):
        called = ("my", f"F{i + 1}") if i < 39 else ("", "Relu")
        body = [
            make_node(called[1], ["a"], ["b"], domain=called[0]),
            make_node(called[1], ["b"], ["c"], domain=called[0]),
        ]
        model.functions.append(make_function("my", f"F{i}", ["a"], ["c"], body, model.opset_import))
    assert f"{2**40:,} nodes" in refusal(written(tmp_path, model)).what


def test_graphs_that_functions_copy_forty_times_are_refused(tmp_path: Path) -> None:
    """Each function gives the next one a graph in which it uses its own twice."""
    model = parsed("(float[1, 4] x, bool c) => (float[1, 4] y) { y = my.F0 (x, c) }")
    model.graph.node[0].attribute.append(make_attribute("g", nested(0)))
    for i in range(40):
        both = make_node("If", ["c"], ["y"])
        for name in ("then_branch", "else_branch"):
            both.attribute.add(name=name, type=onnx.AttributeProto.GRAPH, ref_attr_name="g")
        call = make_node(f"F{i + 1}", ["x", "c"], ["y"], domain="my")
        y = make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 4])
        call.attribute.append(make_attribute("g", make_graph([both], "g", [], [y])))
        body = [call] if i < 39 else [both]
        model.functions.append(make_function("my", f"F{i}", ["x", "c"], ["y"], body, model.opset_import, ["g"]))
    assert f"{2**41 - 1:,} nodes" in refusal(written(tmp_path, model)).what


def test_a_function_that_calls_itself_is_refused(tmp_path: Path) -> None:
    model = parsed("(float[1, 4] x) => (float[1, 4] y) { y = my.F (x) }")
    body = [make_node("F", ["a"], ["b"], domain="my")]
    model.functions.append(make_function("my", "F", ["a"], ["b"], body, model.opset_import))
    assert refusal(written(tmp_path, model)).what == "function 'F' calls itself"


def nested(depth: int) -> onnx.GraphProto:
    """`If` in `If` in `If`."""
    y = make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 4])
    graph = make_graph([make_node("Relu", ["x"], ["y"])], "g", [], [y])
    for level in range(depth):
        graph.node[-1].output[0] = graph.output[0].name = f"y{level}"
        other = make_graph([make_node("Relu", ["x"], [f"z{level}"])], "g", [], [y])
        other.output[0].name = f"z{level}"
        choice = make_node("If", ["c"], ["y"])
        choice.attribute.extend([make_attribute("then_branch", graph), make_attribute("else_branch", other)])
        graph = make_graph([choice], "g", [], [y])
    return graph


def test_thirty_branches_in_branches_are_read(tmp_path: Path) -> None:
    model = parsed("(float[1, 4] x, bool c) => (float[1, 4] y) { y = Relu (x) }")
    del model.graph.node[:]
    model.graph.node.extend(nested(30).node)
    model.graph.output[0].name = model.graph.node[0].output[0]
    load(written(tmp_path, model))
    assert len(list(nodes_of(model.graph.node))) == 61


def test_a_message_nested_twenty_thousand_deep_is_refused(tmp_path: Path) -> None:
    graph = b""
    for _ in range(20_000):
        attribute = field(1, b"then_branch") + field(6, graph)
        graph = field(1, field(4, b"If") + field(5, attribute))
    assert refusal(written(tmp_path, b"\x08\x08" + field(7, graph))).what.startswith("it is not an ONNX file")


# ---------------------------------------------------------------- external weights


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder, with a secret file next to it."""
    values = np.ones(4, np.float32).tobytes()
    (tmp_path / "secret.bin").write_bytes(values)
    inside = tmp_path / "model"
    inside.mkdir()
    (inside / "w.bin").write_bytes(values)
    (inside / "short.bin").write_bytes(values[:10])
    (inside / "link.bin").symlink_to("w.bin")
    (inside / "escape.bin").symlink_to("../secret.bin")
    (inside / "up").symlink_to("..")
    (inside / "circle.bin").symlink_to("circle.bin")
    os.mkfifo(inside / "pipe")
    return inside


def test_weights_that_are_cut_short_while_they_are_hashed_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = digest.of

    def cut_and_hash(content: bytes | Path) -> str:
        os.truncate(folder / "w.bin", 12)
        return of(content)

    monkeypatch.setattr(digest, "of", cut_and_hash)

    assert "w.bin was cut short" in refusal(written(folder, parsed(ADD, external("w.bin")))).what


def test_weights_in_a_file_with_another_hard_link_are_read(folder: Path) -> None:
    (folder / "w.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    os.link(folder / "w.bin", folder / "copy.bin")  # as `cp -l` does
    path = written(folder, parsed(ADD, external("w.bin")))
    loaded = load(path)
    assert loaded.ir.graph.initializers["w"].const_value is not None
    np.testing.assert_array_equal(loaded.ir.graph.initializers["w"].const_value.numpy(), [[0, 1, 2, 3]])
    batched = ir.to_proto(add_batch_axis(loaded).ir)
    assert {entry.key: entry.value for entry in batched.graph.initializer[0].external_data}["location"] == "w.bin"


def test_constants_in_a_file_are_read_from_the_models_folder(folder: Path) -> None:
    (folder / "w.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    model = parsed("(float[1, 4] x) => (float[1, 4] y) { y = Add (x, w) }")
    model.graph.node.insert(0, make_node("Constant", [], ["w"], value=external("w.bin")))
    constant = load(written(folder, model)).ir.graph[0].attributes["value"].as_tensor()
    np.testing.assert_array_equal(constant.numpy(), [[0, 1, 2, 3]])


@pytest.mark.parametrize(
    ("tensor", "what"),
    [
        (external("gone.bin"), "'gone.bin', which is missing"),
        (external("short.bin"), "short.bin was cut short: it has 10 bytes, but the weights need 16"),
        (external("w.bin", offset=4), "w.bin was cut short: it has 16 bytes, but the weights need 20"),
        (external("w.bin", offset=10**30), "w.bin was cut short"),
        (external("w.bin", length=4), "has 4 bytes in its file, but its shape needs 16"),
        (external("w.bin", offset=-4), "in its file is negative"),
        *((external("w.bin", offset=text), "in its file are not numbers") for text in ("here", "1_0", " 4", "\u0664")),
        (external("w.bin", dims=(2**40, 2**40)), "has an impossible shape"),
        (external("w.bin", dims=(-1, 4)), "has a negative dimension: [-1, 4]"),
        (external("../secret.bin"), "outside the model's folder, and was not read"),
        (external("../model/w.bin"), "outside the model's folder, and was not read"),
        (external("/etc/passwd"), "outside the model's folder, and was not read"),
        (external("escape.bin"), "secret.bin', outside the model's folder, and was not read"),
        (external("up/secret.bin"), "secret.bin', outside the model's folder, and was not read"),
        (external("/dev/zero"), "outside the model's folder, and was not read"),
        (external(None), "'', outside the model's folder"),
        (external("w\0.bin"), "outside the model's folder"),
        (external("x" * 5000), "whose name has 5,000 characters"),
        (external("circle.bin"), "the links lead in a circle"),
        (external("pipe"), "which is not a file"),
        (external("."), "which is not a file"),
    ],
)
def test_weights_that_are_not_where_the_model_says_are_refused(
    folder: Path, tensor: onnx.TensorProto, what: str
) -> None:
    assert what in refusal(written(folder, parsed(ADD, tensor))).what


def test_weights_outside_the_folder_are_never_opened(folder: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from builder.model import load; from builder.errors import ModelError\n"
        "opened = []\n"
        "sys.addaudithook(lambda event, arguments: opened.append(str(arguments[0])) if event == 'open' else None)\n"
        "try: load(Path(sys.argv[1]))\n"
        "except ModelError: print(any('secret' in path or 'escape' in path for path in opened), len(opened) > 0)"
    )
    path = written(folder, parsed(ADD, external("escape.bin")))
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout == "False True\n"


def test_weights_behind_a_link_inside_the_folder_are_found_under_the_name_the_model_has(folder: Path) -> None:
    path = written(folder, parsed(ADD, external("link.bin"), ir_version=8))
    assert load(path).external_files == (folder / "link.bin",)


def test_weights_of_constants_in_branches_and_functions_are_located_too(folder: Path) -> None:
    constant = make_node("Constant", [], ["w"], value=external("../secret.bin"))
    branch = nested(1)
    branch.node[0].attribute[0].g.node.insert(0, constant)
    in_branch = parsed("(float[1, 4] x, bool c) => (float[1, 4] y) { y = Relu (x) }")
    del in_branch.graph.node[:]
    in_branch.graph.node.extend(branch.node)
    in_function = parsed("(float[1, 4] x) => (float[1, 4] y) { y = my.F (x) }")
    body = [constant, make_node("Add", ["a", "w"], ["b"])]
    in_function.functions.append(make_function("my", "F", ["a"], ["b"], body, in_function.opset_import))
    for model in (in_branch, in_function):
        assert "was not read" in refusal(written(folder, model)).what


def test_the_path_of_the_model_may_itself_be_a_link(folder: Path, tmp_path: Path) -> None:
    real = written(folder, parsed(ADD, external("w.bin")))
    link = tmp_path / "link"
    link.symlink_to(folder, target_is_directory=True)
    assert load(link / real.name).external_files == (folder / "w.bin",)


def test_locating_weights_reads_no_tensor_that_is_in_the_model(tmp_path: Path) -> None:
    assert locate(tmp_path / "model.onnx", [WEIGHT]) == ()


# ---------------------------------------------------------------- malformed nodes, refused when batching reaches them


@pytest.mark.parametrize(
    ("graph", "what"),
    [
        (
            "(float[1, 4] x) => (float[1, 4] y) { c = Constant ()  y = Add (x, c) }",
            "it must have one attribute, its value, and has 0",
        ),
        (
            "(float[1, 4] x) => (float[1, 4] y) {"
            " n = Constant <value = int64 {2}> ()"
            " y = Loop <body = b (int64 i, bool c, float[1, 4] s) => (bool d, float[1, 4] t)"
            " { d = Identity (c)  t = Relu (s) }> (n, , x, x) }",
            "its body takes 3 inputs, but it is given 4",
        ),
        ("(uint16[1, 4] x) => (uint16[1, 4] y) { y = LeakyRelu (x) }", "shape inference fails"),
    ],
)
def test_a_malformed_node_is_named_with_the_reason(tmp_path: Path, graph: str, what: str) -> None:
    model = load(written(tmp_path, parsed(graph)))
    with pytest.raises(ModelError, match=re.escape(what)):
        add_batch_axis(model)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("y = Add (x, x)", (1, 4)),
        ("s = Shape (x) y = Expand (x, s)", (1, 4)),
        ("i = NonZero (x) m = Constant <value_ints = [-1]> () s = Reshape (i, m) y = Reshape (x, s)", None),
    ],
    ids=["by_types", "by_values", "not_at_all"],
)
def test_an_output_without_a_shape_gets_the_inferred_one(
    tmp_path: Path, body: str, found: tuple[int, ...] | None
) -> None:
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[1, 4] x) => (float[1, 4] y) {{ {body} }}'
    )
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    if found is None:
        with pytest.raises(ModelError, match="output 'y' has no shape, and it cannot be inferred"):
            load(path)
    else:
        assert load(path).outputs[0].shape == found
