"""NVIDIA's parser refuses a model: the error has the node, the operator and the reason of the parser itself."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
from support.by_hand import original
from support.plans import small

from builder.batching import BatchedModel, keep_static
from builder.config import Profile, Shapes
from builder.errors import BuilderError, HostError
from builder.tensorrt import BuildOptions, UnbuildableError, build, check_parses
from builder.tensorrt.parsing import Nodes
from builder.tensorrt.running import runners

NODES = Nodes(dict.fromkeys(("/a", "/a/Conv", "/a/Conv_1", "Relu", "x.y", "/r/LSTM"), "Conv"))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("/a/Conv_1: IConvolutionLayer fails", ("/a/Conv_1",)),
        ("/a/Conv_12 has no runners that implement it", ("/a/Conv",)),
        ("Could not find any implementation for node {ForeignNode[/a/Conv.../r/LSTM]}", ("/a/Conv", "/r/LSTM")),
        ("Could not find any implementation for node /a/Conv + Relu", ("/a/Conv", "Relu")),
        ("IElementWiseLayer /a: broadcast dimensions must be conformable", ("/a",)),
        ("the Relu of xxy fails at /a/Convolution", ()),
        ("", ()),
    ],
)
def test_the_nodes_are_found_in_a_message(text: str, named: tuple[str, ...]) -> None:
    assert NODES.named_in(text) == named


def test_the_operation_that_a_message_is_about_comes_before_others_that_it_names() -> None:
    text = (
        "Could not infer output types for operation: 382: deconv: /a/Conv_1_output_0_before_bias- | "
        "/r/LSTM_output_0-(bf16[{ForeignNode[/r/LSTM...y_cast]}_shapeInput,16,8,8][]so[], mem_prop=0)"
    )
    assert [complaint.node for complaint in NODES.complaints([text])] == ["/a/Conv_1"]
    assert [complaint.node for complaint in NODES.complaints([text.replace("/a/Conv_1_", "other_")])] == ["/r/LSTM"]


def test_a_node_is_named_once() -> None:
    complaint = NODES.complaint("ITopKLayer /a: /a: K exceeds the maximum value allowed (3840)", "/a")
    assert complaint.reason == "K exceeds the maximum value allowed (3840)"


def test_an_operator_that_occurs_once_names_its_node() -> None:
    assert Nodes({"/s": "ScatterElements", "/t": "Relu"}).complaint("it fails", operator="ScatterElements").node == "/s"


REFUSED = {
    "a zero point that is not zero": (
        "g (float[1, 4] x) => (float[1, 4] y) <float s = {0.1}, int8 z = {3}> "
        "{ [quantize] q = QuantizeLinear (x, s, z) y = DequantizeLinear (q, s, z) }",
        "QuantizeLinear quantize: its zero point is not 0, and TensorRT for RTX only quantizes symmetrically",
    ),
    "an operator of ONNX Runtime": (
        "g (float[1, 3, 4] x) => (float[1, 3, 4] y) <float[4] g = {1, 1, 1, 1}> "
        "{ [skip] y = com.microsoft.SkipLayerNormalization (x, x, g) }",
        "com.microsoft.SkipLayerNormalization skip: TensorRT for RTX has no such operator",
    ),
    "an operator that it lacks": (
        "g (float[1, 4, 4] x) => (float[1] y) { [det] y = Det (x) }",
        "Det det: TensorRT for RTX has no such operator",
    ),
    "a type that it lacks": (
        "g (uint32[1, 4] x) => (uint32[1, 4] y) { [max] y = Max (x, x) }",
        "input 'x': TensorRT for RTX does not support its data type",
    ),
    "an attribute that it lacks": (
        "g (float[1, 4] x, int64[1, 4] i) => (float[1, 4] y) "
        '{ [scatter] y = ScatterElements <axis = 1, reduction = "add"> (x, i, x) }',
        "ScatterElements scatter: Unsupported reduction type",
    ),
    "an input that decides shapes": (
        "g (float[1, 50] x, int64[1] k) => (float[1, K] y) { [top] y, i = TopK (x, k) }",
        "input 'k': its values decide shapes",
    ),
}


@dataclass(frozen=True)
class File:
    """A model as it is, not proven."""

    batched: BatchedModel
    external_files: tuple[Path, ...] = ()

    @property
    def model_bytes(self) -> bytes:
        return ir.to_proto(self.batched.ir).SerializeToString()


@pytest.mark.rtx
@pytest.mark.parametrize(("text", "what"), REFUSED.values(), ids=REFUSED)
def test_the_reason_of_the_parser_is_told(tmp_path: Path, text: str, what: str, capfd: Any) -> None:
    with pytest.raises(UnbuildableError) as refused:
        check_parses(File(keep_static(original(tmp_path, text))), BuildOptions())
    assert what in refused.value.what
    for hidden in ("/_src", ".cpp", "\x1b", "cudaError", "/tmp", "Error Code"):
        assert hidden not in refused.value.what
    assert capfd.readouterr() == ("", "")


@pytest.mark.rtx
def test_what_the_parser_takes_is_not_refused(tmp_path: Path) -> None:
    check_parses(File(small(tmp_path)), BuildOptions())


def x(*sizes: tuple[int, ...]) -> Profile:
    low, usual, high = sizes
    return {"x": Shapes(low, usual, high)}


UNBUILT = {
    "a profile of another size": (
        x((1, 5), (2, 5), (4, 5)),
        BuildOptions(),
        "axis 1 of input 'x' is 4 in the model, and not in its profile",
        "give it the size 4 there in --profile x=MIN:OPT:MAX",
    ),
    "a profile of another rank": (
        x((1, 4, 1), (2, 4, 1), (4, 4, 1)),
        BuildOptions(),
        "input 'x' has 2 dimensions with the batch, and its profile has 3",
        "give 2 sizes each",
    ),
    "a library that is not there": (
        x((1, 4), (2, 4), (4, 4)),
        BuildOptions(version_compatible=True),
        "libnvinfer_lean",
        "leave out --version-compatible",
    ),
}


@pytest.mark.rtx
@pytest.mark.parametrize(("profile", "options", "what", "fix"), UNBUILT.values(), ids=UNBUILT)
def test_the_reason_of_the_builder_is_told(
    tmp_path: Path, profile: Profile, options: BuildOptions, what: str, fix: str
) -> None:
    with pytest.raises(BuilderError) as refused:
        build(File(small(tmp_path)), [profile], options, lambda _: None)
    assert what in refused.value.what
    assert fix in refused.value.fix


@pytest.mark.rtx
def test_a_layer_without_a_kernel_is_told_with_its_node(tmp_path: Path) -> None:
    text = (
        "g (float[1, 9, 4] b, float[1, 2, 9] s) => (int64[M, 3] y) <int64 k = {3}, float t = {0.5}> "
        "{ [select] y = NonMaxSuppression (b, s, k, t, t) }"
    )
    with pytest.raises(UnbuildableError, match="NonMaxSuppression select: TensorRT for RTX has no kernel") as refused:
        build(File(keep_static(original(tmp_path, text))), [{}], BuildOptions(), lambda _: None)
    assert refused.value.nodes == ("select",)


@pytest.mark.rtx
def test_a_plan_that_does_not_load_says_why(tmp_path: Path) -> None:
    plan = build(File(small(tmp_path)), [x((1, 4), (2, 4), (4, 4))], BuildOptions(), lambda _: None).plan
    reasons = {plan[:-10]: "the plan is damaged", b"plan" * 99: "or it is no plan", b"": "the plan is damaged"}
    for data, reason in reasons.items():
        with pytest.raises(HostError, match=reason), runners(data, tmp_path / "model.plan", 1):
            pass
