"""The queue of a model: how long requests wait for others, in which order they run, and which ones are rejected.

Source: triton-inference-server/core, `PriorityQueue` in src/scheduler_utils.cc and `DynamicBatchScheduler` in
src/dynamic_batch_scheduler.cc. The scheduler works without a batch, too: each batch then is a single request.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from builder.config.options import ConfigOptions
from builder.config.pbtxt import messages
from builder.errors import RepositoryError

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

LONGEST_US = 10**15
"""The longest timeout. Triton adds nanoseconds to a clock in 64 bits: at 2**63 - 1 microseconds it rejects all."""


def write(config: "ModelConfig", options: ConfigOptions, where: object) -> None:
    """Write the options of `dynamic_batching`.

    Raises:
        RepositoryError: The model has no such queue, or an option could have no effect.
    """
    batch = _given({"--max-queue-delay-us": options.max_queue_delay_us, "--preferred-batch-size": _sizes(options)})
    queue = _given(
        {
            "--preserve-ordering": options.preserve_ordering,
            "--priority-levels": options.priority_levels,
            "--default-priority": options.default_priority,
            "--max-queue-size": options.max_queue_size,
            "--queue-timeout-us": options.queue_timeout_us,
            "--queue-timeout-action": options.queue_timeout_action,
            "--queue-timeout-override": options.queue_timeout_override,
        }
    )
    if not batch and not queue:
        return
    if config.HasField("sequence_batching"):
        raise _no_effect(where, "it uses sequence batching", {**batch, **queue})
    if batch and config.max_batch_size == 0:
        raise _no_effect(where, "max_batch_size is 0", batch)
    config.dynamic_batching.SetInParent()
    _write_batches(config.dynamic_batching, options)
    _write_priorities(config.dynamic_batching, options, where)
    _write_policy(config.dynamic_batching, options, where)


def _sizes(options: ConfigOptions) -> tuple[int, ...] | None:
    return options.preferred_batch_sizes


def _given(values: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in values.items() if value is not None}


def _no_effect(where: object, why: str, options: Mapping[str, object]) -> RepositoryError:
    names = " and ".join(options)
    return RepositoryError(where, f"{why}, so {names} would have no effect", f"leave out {names}")


def _write_batches(batching: Any, options: ConfigOptions) -> None:
    if options.max_queue_delay_us is not None:
        batching.max_queue_delay_microseconds = options.max_queue_delay_us
    if options.preferred_batch_sizes is not None:
        batching.preferred_batch_size[:] = options.preferred_batch_sizes
    if options.preserve_ordering is not None:
        batching.preserve_ordering = options.preserve_ordering


def _write_priorities(batching: Any, options: ConfigOptions, where: object) -> None:
    """Write how many priorities there are, and which one is the default; 0 levels removes all that belongs to them."""
    if options.priority_levels == 0:
        batching.ClearField("priority_levels")
        batching.ClearField("default_priority_level")
        batching.ClearField("priority_queue_policy")
    elif options.priority_levels is not None:
        batching.priority_levels = options.priority_levels
    if options.default_priority is not None:
        if batching.priority_levels == 0:
            what = "it has no priority levels, so --default-priority would have no effect"
            raise RepositoryError(where, what, "add --priority-levels N, or leave out --default-priority")
        batching.default_priority_level = options.default_priority
    if batching.priority_levels and batching.default_priority_level == 0:
        levels = batching.priority_levels
        what = f"it has {levels} priority levels, but no default for requests that give none"
        raise RepositoryError(where, what, f"add --default-priority N, from 1 (the highest) to {levels}")


def _write_policy(batching: Any, options: ConfigOptions, where: object) -> None:
    """Write which requests are rejected or delayed, for all levels that have no policy of their own."""
    given = _given(
        {
            "--max-queue-size": options.max_queue_size,
            "--queue-timeout-us": options.queue_timeout_us,
            "--queue-timeout-action": options.queue_timeout_action,
            "--queue-timeout-override": options.queue_timeout_override,
        }
    )
    if not given:
        return
    own = sum(0 < level <= batching.priority_levels for level in batching.priority_queue_policy)
    if own and own == batching.priority_levels:
        what = f"each priority level has a policy of its own, so {' and '.join(given)} would have no effect"
        fix = "set the policy of a level, such as --set 'dynamic_batching.priority_queue_policy[1].max_queue_size=8'"
        raise RepositoryError(where, what, fix)
    _refuse_overflow(options.queue_timeout_us, where)
    policy = batching.default_queue_policy
    if options.max_queue_size is not None:
        policy.max_queue_size = options.max_queue_size
    if options.queue_timeout_us is not None:
        policy.default_timeout_microseconds = options.queue_timeout_us
    if options.queue_timeout_action is not None:
        policy.timeout_action = messages().ModelQueuePolicy.TimeoutAction.Value(options.queue_timeout_action.upper())
    if options.queue_timeout_override is not None:
        policy.allow_timeout_override = options.queue_timeout_override
    _refuse_without_timeout(policy, options, where)
    if not policy.ListFields():
        batching.ClearField("default_queue_policy")


def _refuse_overflow(timeout_us: int | None, where: object) -> None:
    if timeout_us is not None and timeout_us > LONGEST_US:
        what = f"--queue-timeout-us {timeout_us} overflows in Triton, which would reject all requests"
        raise RepositoryError(where, what, f"use {LONGEST_US} or less, or 0 for no timeout")


def _refuse_without_timeout(policy: Any, options: ConfigOptions, where: object) -> None:
    """Refuse options that say what happens at a timeout where no request has one."""
    needing = {
        "--queue-timeout-action": options.queue_timeout_action == "delay",
        "--queue-timeout-override": bool(options.queue_timeout_override),
    }
    useless = " and ".join(name for name, is_set in needing.items() if is_set)
    if useless and policy.default_timeout_microseconds == 0:
        what = f"no request has a timeout, so {useless} would have no effect"
        raise RepositoryError(where, what, f"add --queue-timeout-us N, or leave out {useless}")
