"""Which ONNX files each release of NVIDIA's Triton container accepts, and how to make a model fit an older one."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from builder.batching import BatchedModel, Rewrite
from builder.errors import Listing, ModelError
from builder.model import label, why_not


@dataclass(frozen=True, slots=True)
class Target:
    """A release of the container `nvcr.io/nvidia/tritonserver:RELEASE-py3`.

    Attributes:
        release: The first part of its tag.
        onnxruntime: The version of ONNX Runtime in it.
        ir_version: The newest IR version that this ONNX Runtime accepts.
        opset: The newest opset that this ONNX Runtime accepts.
        tensorrt: The version of TensorRT in it, where it is known for certain.
        serves_bf16: Whether its ONNX Runtime backend serves BF16 inputs and outputs. True where that is not known, so
            that the server decides.
    """

    release: str
    onnxruntime: str
    ir_version: int
    opset: int
    tensorrt: str | None = None
    serves_bf16: bool = True


# The version of ONNX Runtime is from build.py in https://github.com/triton-inference-server/server, on the branch
# of the release. 26.09 and 26.10 are not final there: the older candidate is listed here. The IR version and the opset
# were found by loading files of every version with that wheel of onnxruntime, and the version of TensorRT is what
# trtexec in the container prints.
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
"""The releases that are known, by name."""

_IR_VERSION_OF: Mapping[ir.DataType, int] = {
    ir.DataType.FLOAT4E2M1: 11,
    ir.DataType.FLOAT8E8M0: 12,
    ir.DataType.INT2: 13,
    ir.DataType.UINT2: 13,
}
"""The IR version that introduced a data type.

Source: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto, Version
"""


def fit(batched: BatchedModel, target: Target) -> BatchedModel:
    """Lower the model's IR version and opset to what the target accepts, if that changes nothing else.

    A lower IR version is safe unless the model uses a data type that a later one introduced. A lower opset is safe if
    every node means the same there: its operator exists, with the same attributes, inputs and types.

    Raises:
        ModelError: The target cannot run the model. Every node that prevents it is listed.
    """
    model = batched.ir
    typed = ShapeInferencePass(check_type=False, strict_mode=False, data_prop=False)(model.clone()).model
    if problems := [*_tensor_problems(batched, target), *_ir_problems(typed, target), *_opset_problems(typed, target)]:
        needs = f"ONNX Runtime {target.onnxruntime}, IR {target.ir_version}, opset {target.opset}"
        raise ModelError(
            batched.original.path,
            Listing(f"Triton {target.release} ({needs}) cannot run this model:", problems),
            f"export it with opset {target.opset} or lower, or serve it with a newer Triton",
        )
    opset = model.opset_imports.get("", 0)
    changes = []
    if model.ir_version > target.ir_version:
        changes.append(f"IR version {model.ir_version} became {target.ir_version}")
    if opset > target.opset:
        changes.append(f"opset {opset} became {target.opset}")
    if not changes:
        return batched
    rewrites = (*batched.rewrites, Rewrite("", "", f"for Triton {target.release}: {', '.join(changes)}"))
    return replace(batched, ir=_relabelled(model, target), rewrites=rewrites)


def _relabelled(model: ir.Model, target: Target) -> ir.Model:
    """Return a copy with its versions lowered to the target's."""
    opset = model.opset_imports.get("", 0)
    lowered = model.clone()
    lowered.ir_version = min(model.ir_version, target.ir_version)
    for graph in lowered.graphs():
        if opset > target.opset and "" in graph.opset_imports:
            graph.opset_imports[""] = target.opset
    for function in lowered.functions.values():
        function.opset_imports[""] = min(function.opset_imports.get("", target.opset), target.opset)
    return lowered


def _tensor_problems(batched: BatchedModel, target: Target) -> Iterator[str]:
    for side, tensors in (("input", batched.inputs), ("output", batched.outputs)):
        for tensor in tensors:
            if tensor.dtype == ir.DataType.BFLOAT16 and not target.serves_bf16:
                yield f"{side} {tensor.name!r} is BF16, which the backend of this release does not serve"


def _ir_problems(model: ir.Model, target: Target) -> Iterator[str]:
    if model.ir_version <= target.ir_version:
        return
    for node in _nodes(model):
        for value in (*node.inputs, *node.outputs):
            since = _IR_VERSION_OF.get(value.dtype, 0) if value is not None and value.dtype is not None else 0
            if value is not None and since > target.ir_version:
                yield f"{label(node)}: {value.name!r} is {value.dtype}, which requires IR {since}"


def _opset_problems(model: ir.Model, target: Target) -> Iterator[str]:
    opset = model.opset_imports.get("", 0)
    if opset <= target.opset:
        return
    for node in _nodes(model):
        if node.domain == "" and (reason := why_not(node, opset, target.opset)):
            yield f"{label(node)}: {reason}"


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    yield from model.graph.all_nodes()
    for function in model.functions.values():
        yield from function.all_nodes()
