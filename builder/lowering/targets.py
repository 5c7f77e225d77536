"""Which ONNX files a release of NVIDIA's Triton container takes, and how to bring a model down to one."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from builder.batching import BatchedModel, Rewrite
from builder.errors import ModelError
from builder.model.opsets import why_not


@dataclass(frozen=True, slots=True)
class Target:
    """A release of the container `nvcr.io/nvidia/tritonserver:RELEASE-py3`.

    Attributes:
        release: Its tag's first part.
        onnxruntime: The version of ONNX Runtime in it.
        ir_version: The newest IR version that takes.
        opset: The newest opset that takes.
        tensorrt: The version of TensorRT in it, as far as it is known for certain.
        serves_bf16: Whether its ONNX Runtime backend takes inputs and outputs in BF16; where unknown, it is left
            to the server.
    """

    release: str
    onnxruntime: str
    ir_version: int
    opset: int
    tensorrt: str | None = None
    serves_bf16: bool = True


# ONNX Runtime's version: build.py of https://github.com/triton-inference-server/server at the release's branch. 26.09
# and 26.10 are not final there, so that the older of the candidates stands here. IR version and opset: found by
# loading files of every version with that wheel of onnxruntime. TensorRT: what trtexec of the container says.
_TARGETS = (
    Target("24.10", "1.19.2", 10, 21, serves_bf16=False),
    Target("25.03", "1.20.1", 10, 21),
    Target("26.02", "1.24.1", 13, 25),
    Target("26.03", "1.24.2", 13, 25),
    Target("26.04", "1.24.4", 13, 25),
    Target("26.05", "1.24.4", 13, 25),
    Target("26.06", "1.24.4", 13, 25),
    Target("26.07", "1.27.0", 13, 26, tensorrt="11.1"),
    Target("26.08", "1.28.0", 13, 26),
    Target("26.09", "1.27.0", 13, 26),
    Target("26.10", "1.28.0", 13, 26),
)
TARGETS: Mapping[str, Target] = {target.release: target for target in _TARGETS}
"""By release."""

_IR_VERSION_OF: Mapping[ir.DataType, int] = {
    ir.DataType.FLOAT4E2M1: 11,
    ir.DataType.FLOAT8E8M0: 12,
    ir.DataType.INT2: 13,
    ir.DataType.UINT2: 13,
}
"""The IR version that brought a data type. Source: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto, Version"""


def fit(batched: BatchedModel, target: Target) -> BatchedModel:
    """Bring the model down to what the target takes, where nothing but labels has to change.

    A lower IR version loses nothing unless a data type came with it. A lower opset loses nothing where each node
    means the same there: its operator was there already, with these attributes, inputs and types.

    Raises:
        ModelError: The target cannot take the model; every node in the way is listed.
    """
    model = batched.ir
    typed = ShapeInferencePass(check_type=False, strict_mode=False, data_prop=False)(model.clone()).model
    if problems := [*_tensor_problems(batched, target), *_ir_problems(typed, target), *_opset_problems(typed, target)]:
        listed = "\n".join(f"    {problem}" for problem in problems)
        raise ModelError(
            batched.original.path,
            f"Triton {target.release} (ONNX Runtime {target.onnxruntime}: IR {target.ir_version}, opset "
            f"{target.opset}) cannot take it:\n{listed}",
            f"export it with opset {target.opset} or below, or serve it with a newer Triton",
        )
    opset = model.opset_imports.get("", 0)
    changes = []
    if model.ir_version > target.ir_version:
        changes.append(f"IR version {model.ir_version} became {target.ir_version}")
    if opset > target.opset:
        changes.append(f"opset {opset} became {target.opset}")
    if not changes:
        return batched
    lowered = model.clone()
    lowered.ir_version = min(model.ir_version, target.ir_version)
    for graph in lowered.graphs():
        if opset > target.opset and "" in graph.opset_imports:
            graph.opset_imports[""] = target.opset
    for function in lowered.functions.values():
        function.opset_imports[""] = min(function.opset_imports.get("", target.opset), target.opset)
    rewrites = (*batched.rewrites, Rewrite("", "", f"for Triton {target.release}: {', '.join(changes)}"))
    return replace(batched, ir=lowered, rewrites=rewrites)


def _tensor_problems(batched: BatchedModel, target: Target) -> Iterator[str]:
    for side, tensors in (("input", batched.inputs), ("output", batched.outputs)):
        for tensor in tensors:
            if tensor.dtype == ir.DataType.BFLOAT16 and not target.serves_bf16:
                yield f"{side} {tensor.name!r} is BF16, which its backend does not serve"


def _ir_problems(model: ir.Model, target: Target) -> Iterator[str]:
    if model.ir_version <= target.ir_version:
        return
    for node in _nodes(model):
        for value in (*node.inputs, *node.outputs):
            since = _IR_VERSION_OF.get(value.dtype, 0) if value is not None and value.dtype is not None else 0
            if value is not None and since > target.ir_version:
                yield f"{_label(node)}: {value.name!r} is {value.dtype}, which came with IR {since}"


def _opset_problems(model: ir.Model, target: Target) -> Iterator[str]:
    opset = model.opset_imports.get("", 0)
    if opset <= target.opset:
        return
    for node in _nodes(model):
        if node.domain == "" and (reason := why_not(node, opset, target.opset)):
            yield f"{_label(node)}: {reason}"


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    yield from model.graph.all_nodes()
    for function in model.functions.values():
        yield from function.all_nodes()


def _label(node: ir.Node) -> str:
    return f"{node.op_type} {node.name!r}"
