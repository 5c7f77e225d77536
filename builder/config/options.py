"""What the caller can ask of config.pbtxt, and how each option is written there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from builder.config.pbtxt import messages
from builder.config.profiles import Profile
from builder.config.rules import PLATFORMS
from builder.errors import RepositoryError

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

THREADS = "intra_op_thread_count"


@dataclass(frozen=True, slots=True)
class ConfigOptions:
    """What the caller asked for. None keeps what config.pbtxt says, or takes the default in a new one.

    Attributes:
        max_batch_size: The largest batch that Triton forms; at most what was proven, which is the default.
        max_queue_delay_us: How long a request may wait for others to form a batch; microseconds. Default: 0.
        preferred_batch_sizes: Batch sizes at which Triton stops waiting and runs the batch. Default: none.
        instances: How many copies of the model run at the same time. Default: 1.
        kind: Where they run; `auto` is a GPU if the server has one, else the CPU. Default: auto.
        intra_op_thread_count: CPU threads of each instance. Default: one for each core of the server.
        warmup: Whether Triton runs samples when it loads the model, before the first request. Default: yes.
        accelerator: `tensorrt` lets the ONNX Runtime backend build TensorRT engines when it loads the model.
        profiles: With the accelerator, the shapes to build for. With a TensorRT plan, the profiles that it has;
            every instance uses all of them.
        cuda_graphs: With a TensorRT plan, whether to record CUDA graphs at the batch sizes that Triton forms.
            Default: no.
    """

    max_batch_size: int | None = None
    max_queue_delay_us: int | None = None
    preferred_batch_sizes: tuple[int, ...] | None = None
    instances: int | None = None
    kind: Literal["auto", "cpu", "gpu"] | None = None
    intra_op_thread_count: int | None = None
    warmup: bool | None = None
    accelerator: Literal["tensorrt"] | None = None
    profiles: tuple[Profile, ...] = ()
    cuda_graphs: bool | None = None


def apply(config: "ModelConfig", options: ConfigOptions, *, where: object) -> None:
    """Write the options into a config, except `max_batch_size` and `warmup`: see `make_config`, which knows the proof.

    Raises:
        RepositoryError: An option contradicts the config.
    """
    if options.max_queue_delay_us is not None or options.preferred_batch_sizes is not None:
        _apply_batching(config, options, where)
    if options.instances is not None or options.kind is not None:
        _apply_instances(config, options, where)
    if options.intra_op_thread_count is not None:
        config.parameters[THREADS].string_value = str(options.intra_op_thread_count)
    _apply_tensorrt(config, options, where)


def _apply_batching(config: "ModelConfig", options: ConfigOptions, where: object) -> None:
    if config.max_batch_size == 0 or config.HasField("sequence_batching"):
        why = "max_batch_size is 0" if config.max_batch_size == 0 else "it uses sequence batching"
        raise RepositoryError(
            where,
            f"{why}, so a queue delay and preferred batch sizes have no effect",
            "publish without --max-queue-delay-us and --preferred-batch-size",
        )
    config.dynamic_batching.SetInParent()
    if options.max_queue_delay_us is not None:
        config.dynamic_batching.max_queue_delay_microseconds = options.max_queue_delay_us
    if options.preferred_batch_sizes is not None:
        config.dynamic_batching.preferred_batch_size[:] = options.preferred_batch_sizes


def _apply_instances(config: "ModelConfig", options: ConfigOptions, where: object) -> None:
    if len(config.instance_group) > 1:
        raise RepositoryError(
            where,
            f"it has {len(config.instance_group)} instance groups, but --instances and --kind set only one",
            "publish without --instances and --kind, and edit the groups by hand",
        )
    group = config.instance_group[0] if config.instance_group else config.instance_group.add()
    if options.instances is not None:
        group.count = options.instances
    if options.kind is not None:
        group.kind = messages().ModelInstanceGroup.Kind.Value(f"KIND_{options.kind.upper()}")


def _apply_tensorrt(config: "ModelConfig", options: ConfigOptions, where: object) -> None:
    """Write the options for TensorRT, as a plan or inside ONNX Runtime.

    Source: https://github.com/triton-inference-server/onnxruntime_backend, ONNX Runtime with TensorRT optimization;
    https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html, explicit shapes;
    https://github.com/triton-inference-server/tensorrt_backend, optimization profiles
    """
    if (options.accelerator or options.cuda_graphs) and options.kind == "cpu":
        option = "--accelerator" if options.accelerator else "--cuda-graphs"
        raise RepositoryError(where, "TensorRT runs only on GPUs, but --kind is cpu", f"leave out --kind or {option}")
    is_plan = config.backend == "tensorrt" or config.platform == PLATFORMS["tensorrt"]
    if options.accelerator is not None:
        _accelerate(config, options.profiles)
    elif is_plan and options.profiles:
        for group in config.instance_group:
            group.kind = messages().ModelInstanceGroup.KIND_GPU
            group.profile[:] = [str(index) for index in range(len(options.profiles))]
    if options.cuda_graphs is not None:
        if not is_plan:
            raise RepositoryError(where, "CUDA graphs need a TensorRT plan", "publish with --format tensorrt")
        config.optimization.cuda.graphs = options.cuda_graphs


def _accelerate(config: "ModelConfig", profiles: Sequence[Profile]) -> None:
    """List the accelerator once, with explicit shapes, so that no request has to wait while an engine is built."""
    accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
    others = [entry for entry in accelerators if entry.name != "tensorrt"]
    del accelerators[:]
    accelerators.extend(others)
    entry = accelerators.add(name="tensorrt")
    for corner in ("min", "opt", "max"):
        shapes = [f"{name}:{'x'.join(map(str, getattr(found, corner)))}" for p in profiles for name, found in p.items()]
        if shapes:
            entry.parameters[f"trt_profile_{corner}_shapes"] = ",".join(shapes)
    for group in config.instance_group:
        group.kind = messages().ModelInstanceGroup.KIND_GPU
