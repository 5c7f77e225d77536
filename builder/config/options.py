"""What the caller can ask of config.pbtxt."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from builder.config.profiles import Profile

PROVENANCE_PREFIX = "builder."
"""Parameters whose key starts with this belong to this package: they say where the served version came from."""

THREADS = "intra_op_thread_count"


@dataclass(frozen=True, slots=True)
class InstanceGroup:
    """Copies of the model that run on the same kind of device.

    Attributes:
        kind: Where they run; `auto` is a GPU if the server has one, else the CPU. `model` leaves it to the model.
        count: How many there are; on GPUs, on each of them.
        gpus: The numbers of the GPUs; empty means all of them.
        name: The group's name; empty lets Triton choose one.
        profiles: The profiles of a TensorRT plan that they use, by their numbers.
        host_policy: The host policy of the server that they run under; empty means the default of the device.
        passive: Whether they are loaded, but run no request until something else activates them.
    """

    kind: Literal["auto", "cpu", "gpu", "model"] = "auto"
    count: int = 1
    gpus: tuple[int, ...] = ()
    name: str = ""
    profiles: tuple[int, ...] = ()
    host_policy: str = ""
    passive: bool = False


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource that an instance holds while it runs a batch, for Triton's rate limiter.

    Attributes:
        count: How many of it an instance holds; 0 removes the resource from the config.
        is_global: Whether all devices share it. Otherwise each device has its own.
    """

    count: int
    is_global: bool = False


@dataclass(frozen=True, slots=True)
class ConfigOptions:
    """What the caller asked for. None keeps what config.pbtxt says, or takes the default in a new one.

    Attributes:
        max_batch_size: The largest batch that Triton forms; at most what was proven, which is the default.
        max_queue_delay_us: How long a request may wait for others to form a batch; microseconds. Default: 0.
        preferred_batch_sizes: Batch sizes at which Triton stops waiting and runs the batch. Default: none.
        preserve_ordering: Whether answers leave in the order in which the requests came. Default: no.
        priority_levels: How many priorities a request may have; 1 is the highest. 0 is none, the default.
        default_priority: The priority of a request that gives none, from 1 to `priority_levels`.
        max_queue_size: How many requests may wait before others are rejected. 0 is no limit, the default.
        queue_timeout_us: How long a request may wait before `queue_timeout_action`; microseconds. 0 is no limit, the
            default.
        queue_timeout_action: What happens to a request that has waited too long: `reject` answers it with an error,
            `delay` runs it after all others. Default: reject.
        queue_timeout_override: Whether a request may give a shorter timeout of its own. Default: no.
        instances: How many copies of the model run at the same time. Default: 1.
        kind: Where they run; `auto` is a GPU if the server has one, else the CPU. Default: auto.
        instance_groups: All groups of instances, in place of those in the config. Default: one group.
        rate_limiter_resources: What each instance holds while it runs, by the resource's name.
        rate_limiter_priority: How rarely instances run compared with those of other models: 1 is the most often, which
            is the default.
        intra_op_thread_count: CPU threads of each instance. Default: one for each core of the server.
        response_cache: Whether Triton answers a request that it has answered before from its cache. Default: no.
        labels: Text files with a label for each value of an output, one on a line, by the output's name. None removes
            the labels.
        metric_labels: Labels of the model's metrics, by name; an empty value removes one. Triton adds a `_` in front
            of the name.
        parameters: Parameters of the backend, by name; an empty value removes one.
        warmup: Whether Triton runs samples when it loads the model, before the first request. Default: yes.
        accelerator: `tensorrt` lets the ONNX Runtime backend build TensorRT engines when it loads the model.
        profiles: With the accelerator, the shapes to build for. With a TensorRT plan, the profiles that it has;
            every instance uses all of them.
        fallback: `onnx` says that a TensorRT plan lies beside the ONNX file, which `deploy` loads on servers that can
            run it. The config then lets the ONNX file run everywhere.
        cuda_graphs: With a TensorRT plan, whether to record CUDA graphs at the batch sizes that Triton forms.
            Default: no.
        unset_fields: Paths of fields to remove, before `set_fields`. Example: `dynamic_batching.priority_levels`.
        set_fields: Pairs of a path and a value, in order; a path is that of any field of Triton's ModelConfig.
            Example: `("optimization.graph.level", "1")`.
    """

    max_batch_size: int | None = None
    max_queue_delay_us: int | None = None
    preferred_batch_sizes: tuple[int, ...] | None = None
    preserve_ordering: bool | None = None
    priority_levels: int | None = None
    default_priority: int | None = None
    max_queue_size: int | None = None
    queue_timeout_us: int | None = None
    queue_timeout_action: Literal["reject", "delay"] | None = None
    queue_timeout_override: bool | None = None
    instances: int | None = None
    kind: Literal["auto", "cpu", "gpu"] | None = None
    instance_groups: tuple[InstanceGroup, ...] = ()
    rate_limiter_resources: Mapping[str, Resource] = field(default_factory=dict)
    rate_limiter_priority: int | None = None
    intra_op_thread_count: int | None = None
    response_cache: bool | None = None
    labels: Mapping[str, Path | None] = field(default_factory=dict)
    metric_labels: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    warmup: bool | None = None
    accelerator: Literal["tensorrt"] | None = None
    profiles: tuple[Profile, ...] = ()
    fallback: Literal["onnx"] | None = None
    cuda_graphs: bool | None = None
    unset_fields: tuple[str, ...] = ()
    set_fields: tuple[tuple[str, str], ...] = ()
