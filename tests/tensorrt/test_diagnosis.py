"""What TensorRT complains about is told with the node, the reason and a fix that depends on the kind of reason."""

import pickle
from pathlib import Path

import pytest

from builder.errors import BuilderError, HostError
from builder.tensorrt.diagnosis import MOST_LISTED, UnbuildableError, diagnosed
from builder.tensorrt.kinds import KINDS, Asked, Complaint
from builder.tensorrt.messages import reasons

WHERE = Path("model.onnx")


def diagnosis(
    text: str, node: str = "", operator: str = "", tensor: str = "", asked: Asked | None = None
) -> BuilderError:
    reason = next(iter(reasons([text])), text)
    return diagnosed(WHERE, "cannot build the plan", [Complaint(reason, node, operator, tensor)], asked)


PLUGIN = 'creator && "Plugin not found, are the plugin name, version, and namespace correct?"'

REFUSED = [
    # the text, the operator, what is said about it, a part of the fix, whether some nodes in fp32 may help
    ("Non-zero zero point is not supported.", "QuantizeLinear", "its zero point is not 0", "--for tensorrt", False),
    (PLUGIN, "com.microsoft.SkipLayerNormalization", "no such operator", "without ONNX Runtime's optimizations", False),
    (PLUGIN, "my.ops.Foo", "no such operator", "export it without that operator", False),
    ("false", "Det", "no such operator", "export it without that operator", False),
    ("false", "MatMulInteger", "no such operator", "--precision int8 --for tensorrt", False),
    ("NonZero plugin creator version 1 was not found in plugin registry", "NonZero", "plugin", "--format onnx", False),
    ("Failed to convert ONNX date type to TensorRT data type", "", "not support its data type", "use float32", False),
    ("Failed to convert ONNX dimensions to TensorRT dimensions", "", "more than the 8 dimensions", "reshape it", False),
    ("must have same input types. But they are of types Float and Half", "Add", "same input types", "leave out", True),
    ("Error Code 10: Internal Error (Could not find any implementation for node /a.)", "Conv", "kernel", "leave", True),
    (
        "TensorRT does not support UINT8 types for intermediate tensors!",
        "Cast",
        "no uint8",
        "before it was quantiz",
        False,
    ),
    ("Size of weights exceeds maximum!", "Gemm", "larger than TensorRT supports", "split that tensor", False),
    ("TensorRT supports ONNX graphs generated with at least opset 7.", "", "opset 7", "opset 13", False),
    ("failed to load CausalConvWithState plugin", "CausalConvWithState", "the plugin", "--format onnx", False),
    ("Attention operation was not supported by a dedicated kernel", "", "kernel for an Attention", "opset 22", False),
    ("Unsupported reduction type", "ScatterElements", "Unsupported reduction type", "--format onnx", True),
]


@pytest.mark.parametrize(("text", "operator", "what", "fix", "is_about_precision"), REFUSED)
def test_a_refused_model_is_told_with_its_node_and_a_fix(
    text: str, operator: str, what: str, fix: str, is_about_precision: bool
) -> None:
    error = diagnosis(text, "/a" if operator else "", operator, asked=Asked("fp16"))
    assert isinstance(error, UnbuildableError)
    assert what in error.what
    assert f"{operator} /a" in error.what or not operator
    assert fix in error.fix
    assert "--format onnx" in error.fix
    assert (error.nodes, error.is_about_precision) == (("/a",) if operator else (), is_about_precision)


HOSTS = [
    (
        "Unable to load library: libnvinfer_lean.so.10: libnvinfer_lean.so.10: cannot open shared object file",
        "libnvinfer_lean.so.10",
        "tensorrt-lean",
    ),
    ("Unable to load library: libnvinfer_dispatch.so.10", "dispatch", "tensorrt-dispatch"),
    ("Unable to load library: libnvinfer_builder_resource.so.10.7.0", "builder_resource", "install TensorRT again"),
    ("CUDA driver version is insufficient for CUDA runtime version", "no driver", "update the driver"),
    ("Error Code 2: OutOfMemory (Requested size was 1 bytes.)", "out of memory", "free memory of the GPU"),
    ("Target GPU SM 70 is not supported by this TensorRT release", "SM 70", "supports this GPU"),
    (
        "Serialization assertion stdVersionRead == kSERIALIZATION_VERSION failed.Version tag does not match. Note: "
        "Current Version: 240, Serialized Engine Version: 228",
        "its format has the version 228, and this TensorRT's 240",
        "publish the model again",
    ),
    (
        "The engine plan file is not compatible with this version of TensorRT, expecting library version 10.8.0.43 got "
        "10.3.0.26, please rebuild.",
        "TensorRT 10.3.0.26 built the plan, and this is TensorRT 10.8.0.43",
        "publish the model again",
    ),
    (
        "The engine plan file is generated on an incompatible device, expecting compute 8.9 got compute 8.6, please "
        "rebuild.",
        "compute capability 8.6, and this one has 8.9",
        "--hardware-compatible",
    ),
    (
        "Serialization assertion header.magicTag == kEXPECTED_MAGIC_TAG failed.Trying to load an engine created with "
        "incompatible serialization version (2021161080 != 1953657974).",
        "it is no plan",
        "publish the model again",
    ),
    ("Serialization assertion plan.header.size == blobSize failed", "the plan is damaged", "restore the file"),
]


@pytest.mark.parametrize(("text", "what", "fix"), HOSTS)
def test_what_is_wrong_with_the_machine_or_the_plan_is_no_error_of_the_model(text: str, what: str, fix: str) -> None:
    error = diagnosis(text)
    assert isinstance(error, HostError)
    assert what in error.what
    assert fix in error.fix


SHAPES = [
    ("Dynamic-shaped input tensor x has 2 dimensions but profile 0 has 3 dimensions", "'x' has 2 dimensions", "give 2"),
    (
        "Dimension mismatch for tensor x and profile 0. At dimension axis 1, profile has min=5, opt=5, max=5 but "
        "tensor has 4",
        "axis 1 of input 'x' is 4",
        "give it the size 4 there in --profile x=MIN:OPT:MAX",
    ),
    (
        "Profile kOPT values are not self-consistent. Dimensions with name N must be equal",
        "self-consistent",
        "together",
    ),
]


@pytest.mark.parametrize(("text", "what", "fix"), SHAPES)
def test_a_profile_that_does_not_fit_is_told_with_the_input(text: str, what: str, fix: str) -> None:
    error = diagnosis(text)
    assert isinstance(error, UnbuildableError)
    assert (what in error.what, fix in error.fix, error.is_about_precision) == (True, True, False)


def test_only_a_lack_of_memory_is_told_to_free_memory() -> None:
    about_memory = [
        kind for kind in KINDS if not isinstance(kind.fix, str) and "free memory" in kind.fix(Complaint(""), Asked())
    ]
    assert len(about_memory) == 1
    assert "--workspace-mb 64" in diagnosis("out of memory", asked=Asked(workspace_mb=64)).fix
    assert "memory" not in diagnosis("Unable to load library: libnvinfer_lean.so.10").fix


def test_too_little_scratch_memory_is_the_reason_only_where_it_was_limited() -> None:
    text = "Tactic Selection: no tactics to implement the operation within workspace limit. Consider increase it."
    limited = diagnosis(text, asked=Asked("fp16", workspace_mb=1))
    assert isinstance(limited, HostError)
    assert "allow more than --workspace-mb 1" in limited.fix
    assert isinstance(diagnosis(text, asked=Asked("fp16")), UnbuildableError)


def test_the_machine_explains_the_other_reasons() -> None:
    complaints = [
        Complaint("Could not find any implementation for node /a", "/a", "Conv"),
        Complaint("insufficient memory"),
    ]
    assert isinstance(diagnosed(WHERE, "cannot build the plan", complaints), HostError)


def test_the_other_reasons_are_listed_and_counted() -> None:
    complaints = [Complaint("false", f"/n/{number}", f"Det{number}") for number in range(MOST_LISTED + 3)]
    lines = str(diagnosed(WHERE, "cannot parse the model", complaints)).splitlines()
    assert lines[0] == "model.onnx: TensorRT cannot parse the model: Det0 /n/0: TensorRT has no such operator; also:"
    assert lines[1].strip() == "Det1 /n/1: TensorRT has no such operator"
    assert lines[MOST_LISTED + 1].strip() == "and 2 other reasons"


def test_nodes_of_one_operator_are_counted() -> None:
    complaints = [Complaint("false", f"/n/{number}", "Det") for number in range(12)]
    lines = str(diagnosed(WHERE, "cannot parse the model", complaints)).splitlines()
    assert lines[1:-1] == ["    11 other nodes: Det: TensorRT has no such operator"]


def test_a_node_that_is_not_in_the_file_by_its_name_is_told_as_such() -> None:
    error = diagnosed(WHERE, "cannot parse the model", [Complaint("it fails", "node_Cast_17", "Cast", is_added=True)])
    assert "Cast node_Cast_17 (a name that builder gave): it fails" in error.what


def test_without_any_reason_the_error_says_that() -> None:
    assert "it gives no reason" in diagnosed(WHERE, "cannot build the plan", []).what


def test_names_in_messages_cannot_be_taken_for_fields() -> None:
    error = diagnosis("Dynamic-shaped input tensor {fix!r}{reason} has 2 dimensions but profile 0 has 3 dimensions")
    assert "input '{fix!r}{reason}' has 2 dimensions" in error.what


def test_an_error_of_another_process_keeps_its_nodes() -> None:
    error = diagnosis("must have same types", "/a", "Add", asked=Asked("fp16"))
    copy = pickle.loads(pickle.dumps(error))
    assert isinstance(copy, UnbuildableError)
    assert (str(copy), copy.nodes, copy.is_about_precision) == (str(error), ("/a",), True)


def test_the_compiler_has_its_own_name() -> None:
    error = diagnosis("false", "/a", "Det", asked=Asked(compiler="TensorRT for RTX"))
    assert error.what == "TensorRT for RTX cannot build the plan: Det /a: TensorRT for RTX has no such operator"
