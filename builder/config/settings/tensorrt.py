"""What a config says about TensorRT, as a plan or inside ONNX Runtime.

Source: https://github.com/triton-inference-server/onnxruntime_backend, ONNX Runtime with TensorRT optimization;
https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html, explicit shapes;
https://github.com/triton-inference-server/tensorrt_backend, optimization profiles
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from builder.config.options import ConfigOptions
from builder.config.pbtxt import messages
from builder.config.plans import PLATFORMS
from builder.config.profiles import Profile
from builder.errors import RepositoryError

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig


def write(config: "ModelConfig", options: ConfigOptions, where: object) -> None:
    """Write the options of TensorRT.

    Raises:
        RepositoryError: The model does not run on a GPU, or is no TensorRT plan.
    """
    is_plan = config.backend == "tensorrt" or config.platform == PLATFORMS["tensorrt"]
    _refuse_cpu(options, where, is_plan=is_plan or options.fallback is not None)
    if options.accelerator is not None:
        _accelerate(config, options.profiles)
    elif is_plan and options.profiles:
        for group in config.instance_group:
            group.kind = messages().ModelInstanceGroup.KIND_GPU
            if not any(asked.profiles for asked in options.instance_groups):
                group.profile[:] = [str(index) for index in range(len(options.profiles))]
    elif options.fallback is not None:
        _run_anywhere(config, options)
    if options.cuda_graphs is not None:
        if not (is_plan or options.fallback):
            raise RepositoryError(where, "CUDA graphs need a TensorRT plan", "publish with --format tensorrt")
        config.optimization.cuda.graphs = options.cuda_graphs


def _refuse_cpu(options: ConfigOptions, where: object, *, is_plan: bool) -> None:
    if options.accelerator or options.cuda_graphs or is_plan:
        option = "--accelerator" if options.accelerator else "--cuda-graphs" if options.cuda_graphs else "--format"
        if options.kind == "cpu":
            what = "TensorRT runs only on GPUs, but --kind is cpu"
            raise RepositoryError(where, what, f"leave out --kind or {option}")
        others = [group.kind for group in options.instance_groups if group.kind not in ("gpu", "auto")]
        if others:
            what = f"TensorRT runs only on GPUs, but an --instance-group is {others[0]}"
            raise RepositoryError(where, what, f"use --instance-group 1xgpu, or leave out {option}")


def _run_anywhere(config: "ModelConfig", options: ConfigOptions) -> None:
    """Let the ONNX file beside a plan run on a CPU where there is no GPU: the config may be that of a plan before."""
    kinds = messages().ModelInstanceGroup
    if options.kind is None and not options.instance_groups:
        for group in config.instance_group:
            group.kind = kinds.KIND_AUTO if group.kind == kinds.KIND_GPU else group.kind


def _accelerate(config: "ModelConfig", profiles: Sequence[Profile]) -> None:
    """List the accelerator once, with explicit shapes, so that no request has to wait while an engine is built."""
    accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
    others = [entry for entry in accelerators if entry.name != "tensorrt"]
    before = {
        key: value for entry in accelerators if entry.name == "tensorrt" for key, value in entry.parameters.items()
    }
    del accelerators[:]
    accelerators.extend(others)
    kept = {key: value for key, value in before.items() if not key.startswith("trt_profile_")}
    entry = accelerators.add(name="tensorrt", parameters=kept)
    for corner in ("min", "opt", "max"):
        shapes = [f"{name}:{'x'.join(map(str, getattr(found, corner)))}" for p in profiles for name, found in p.items()]
        if shapes:
            entry.parameters[f"trt_profile_{corner}_shapes"] = ",".join(shapes)
    for group in config.instance_group:
        group.kind = messages().ModelInstanceGroup.KIND_GPU
