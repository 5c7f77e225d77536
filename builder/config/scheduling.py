"""What Triton refuses about queues, instances, the response cache, metrics and label files.

Each check was compared with a Triton that loads the config (`tests/config/test_triton_rules.py`).

Source: ValidateModelConfig, ValidateInstanceGroup and ValidateModelMetrics in
https://github.com/triton-inference-server/core/blob/main/src/model_config_utils.cc, and `Model::Init` in src/model.cc
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from builder.config.pbtxt import messages

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

_METRIC_LABEL = re.compile(r"(?!_)\w*", re.ASCII)
"""Triton puts `_` in front of it, and Prometheus keeps names that start with two for itself."""


def queue_problems(config: "ModelConfig") -> Iterator[str]:
    """Yield what is wrong with dynamic batching and sequence batching."""
    batching, sequences = config.dynamic_batching, config.sequence_batching
    preferred = [*batching.preferred_batch_size, *sequences.oldest.preferred_batch_size]
    for size in preferred:
        if not 0 < size <= config.max_batch_size:
            yield f"preferred_batch_size {size} is not between 1 and max_batch_size {config.max_batch_size}"
    yield from _priority_problems(batching)
    if not 0 <= sequences.direct.minimum_slot_utilization <= 1:
        yield "minimum_slot_utilization is not between 0 and 1"


def _priority_problems(batching: Any) -> Iterator[str]:
    levels = batching.priority_levels
    if levels and not 0 < batching.default_priority_level <= levels:
        yield f"default_priority_level is not between 1 and priority_levels {levels}"
    for level in sorted(batching.priority_queue_policy):
        if levels and not 0 < level <= levels:
            yield f"priority_queue_policy {level} is not between 1 and priority_levels {levels}"
    if batching.preserve_ordering:
        if levels > 1:
            yield "preserve_ordering allows only one priority level"
        policies = [batching.default_queue_policy, *batching.priority_queue_policy.values()]
        delay = messages().ModelQueuePolicy.DELAY
        if any(policy.default_timeout_microseconds and policy.timeout_action == delay for policy in policies):
            yield "preserve_ordering does not allow a queue policy whose timeout_action is DELAY"


def instance_problems(config: "ModelConfig") -> Iterator[str]:
    """Yield what is wrong with the groups of instances."""
    group_kind = messages().ModelInstanceGroup
    of_a_device: set[str] = set()
    of_all_devices: set[str] = set()
    for group in config.instance_group:
        if group.kind in (group_kind.KIND_CPU, group_kind.KIND_MODEL) and group.gpus:
            yield f"an instance_group of {group_kind.Kind.Name(group.kind)} lists GPUs"
        if group.profile and config.backend != "tensorrt":
            yield "instance_group.profile is only for TensorRT"
        for profile in group.profile:
            if not re.fullmatch(r"\d{1,9}", profile, re.ASCII):
                yield f"instance_group.profile {profile!r} is not a number"
        for resource in group.rate_limiter.resources:
            is_global = getattr(resource, "global")
            (of_all_devices if is_global else of_a_device).add(resource.name)
    for name in sorted(of_a_device & of_all_devices):
        yield f"resource {name!r} of the rate limiter is both global and of a device"


def cache_problems(config: "ModelConfig") -> Iterator[str]:
    """Yield why Triton could not cache the answers."""
    if config.response_cache.enable and config.HasField("sequence_batching"):
        yield "response_cache does not work with sequence batching"
    if config.response_cache.enable and config.model_transaction_policy.decoupled:
        yield "response_cache does not work with a decoupled transaction policy"


def metric_problems(config: "ModelConfig") -> Iterator[str]:
    """Yield what is wrong with metrics. A wrong label does not only fail: it ends the whole server."""
    for name in sorted(config.metric_tags):
        if not _METRIC_LABEL.fullmatch(name):
            yield f"metric_tags: {name!r} is no name of a metric's label; use letters, digits and _, and no _ in front"
    for control in config.model_metrics.metric_control:
        family = control.metric_identifier.family
        buckets = list(control.histogram_options.buckets)
        if not family:
            yield "a metric_control has no family"
        if not buckets:
            yield f"the metric_control of {family!r} has no buckets"
        if any(second <= first for first, second in pairwise(buckets)):
            yield f"the buckets of {family!r} do not ascend"


def label_problems(config: "ModelConfig") -> Iterator[str]:
    """Yield which label files are outside the model's folder."""
    for output in config.output:
        if not is_inside(output.label_filename):
            yield f"output {output.name!r}: label_filename {output.label_filename!r} is outside the model's folder"


def is_inside(name: str) -> bool:
    """Return whether a file's name leads to a place in the model's folder."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts
