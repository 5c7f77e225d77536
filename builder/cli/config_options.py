"""The options of `publish` that set fields of config.pbtxt; each fills a field of `ConfigOptions`."""

from collections.abc import Callable
from typing import Any

import click

from builder.cli.arguments import LARGEST_INT64, batch_sizes, whole_number
from builder.cli.options import Function, mapping_option, option
from builder.cli.setting_types import (
    field_path,
    field_value,
    instance_group,
    label_file,
    name_and_text,
    resource,
)

CONFIG = "Settings in config.pbtxt (an existing file keeps its own unless you give the option)"
QUEUE = "Queue and priorities (in config.pbtxt)"
INSTANCES = "Instances (in config.pbtxt)"

_LARGEST_UINT32 = 2**32 - 1

_LONGEST_US = 10**15
"""The longest timeout, as in `builder.config.settings.batching`: 31 years."""

_OPTIONS: tuple[Callable[..., Any], ...] = (
    mapping_option(
        "--labels",
        section=CONFIG,
        type=label_file,
        help="A text file with the names of an output's classes, one on a line, for clients that ask for classes. For "
        "example, --labels scores=labels.txt; --labels scores= removes them. Repeat it for other outputs.",
    ),
    option(
        "--warmup/--no-warmup",
        section=CONFIG,
        default=None,
        help="Run a stored sample whenever Triton loads the model, so that the first request is not slow. "
        "Default: yes.",
    ),
    option(
        "--response-cache/--no-response-cache",
        section=CONFIG,
        default=None,
        help="Answer a request that was answered before from Triton's cache. The server needs --cache-config. "
        "Default: no.",
    ),
    mapping_option(
        "--metric-label",
        "metric_labels",
        section=CONFIG,
        type=name_and_text,
        help="A label of the model's metrics. For example, --metric-label team=vision, which Prometheus sees as _team; "
        "an empty value removes it. Repeat it for other labels.",
    ),
    mapping_option(
        "--parameter",
        "parameters",
        section=CONFIG,
        type=name_and_text,
        help="A parameter of the backend. For example, --parameter execution_mode=1; an empty value removes it. Repeat "
        "it for other parameters.",
    ),
    option(
        "--set",
        "set_fields",
        section=CONFIG,
        type=field_value,
        multiple=True,
        help="Any other field of the config, after all options. For example, --set optimization.graph.level=1, "
        "--set 'instance_group[0].count=2' or --set 'dynamic_batching={ preserve_ordering: true }'. Repeat it for "
        "other fields.",
    ),
    option(
        "--unset",
        "unset_fields",
        section=CONFIG,
        type=field_path,
        multiple=True,
        help="Remove a field, before --set. For example, --unset dynamic_batching or --unset 'instance_group[1]'. "
        "Repeat it for other fields.",
    ),
    option(
        "--max-queue-delay-us",
        section=QUEUE,
        type=whole_number(0, LARGEST_INT64, form="MICROSECONDS"),
        help="How long a request may wait until others fill the batch, in microseconds. For example, 500. Default: 0.",
    ),
    option(
        "--preferred-batch-size",
        "preferred_batch_sizes",
        section=QUEUE,
        type=batch_sizes,
        help="Batch sizes that Triton runs at once, without waiting for more requests. For example, 8,16. "
        "Default: none.",
    ),
    option(
        "--preserve-ordering/--no-preserve-ordering",
        section=QUEUE,
        default=None,
        help="Send the answers in the order in which the requests came. Default: no.",
    ),
    option(
        "--priority-levels",
        section=QUEUE,
        type=whole_number(0),
        help="How many priorities a request may have; those of priority 1 run first. 0 is none. Default: 0.",
    ),
    option(
        "--default-priority",
        section=QUEUE,
        type=whole_number(1),
        help="The priority of a request that gives none. --priority-levels needs it.",
    ),
    option(
        "--max-queue-size",
        section=QUEUE,
        type=whole_number(0, _LARGEST_UINT32),
        help="How many requests may wait; more are rejected. 0 is no limit. Default: 0.",
    ),
    option(
        "--queue-timeout-us",
        section=QUEUE,
        type=whole_number(0, _LONGEST_US, form="MICROSECONDS"),
        help="How long a request may wait at all, in microseconds. For example, 100000. 0 is no limit. Default: 0.",
    ),
    option(
        "--queue-timeout-action",
        section=QUEUE,
        type=click.Choice(["reject", "delay"]),
        help="What happens to a request that has waited for too long: it is rejected, or it runs after all others. "
        "Default: reject.",
    ),
    option(
        "--queue-timeout-override/--no-queue-timeout-override",
        section=QUEUE,
        default=None,
        help="Let requests give a shorter timeout of their own. Default: no.",
    ),
    option(
        "--instances",
        section=INSTANCES,
        type=whole_number(1),
        help="How many copies of the model run at the same time. Default: 1.",
    ),
    option(
        "--kind",
        section=INSTANCES,
        type=click.Choice(["auto", "cpu", "gpu"]),
        help="Where the copies run; auto takes a GPU if the server has one. Default: auto.",
    ),
    option(
        "--instance-group",
        "instance_groups",
        section=INSTANCES,
        type=instance_group,
        multiple=True,
        help="Several groups of copies, instead of --instances and --kind. For example, 2xgpu:0,1 is 2 copies on GPU 0 "
        "and 2 on GPU 1, and '4xcpu name=spare' 4 on the CPU. Repeat it for each group; they replace those that are "
        "there.",
    ),
    option(
        "--intra-op-thread-count",
        section=INSTANCES,
        type=whole_number(1),
        help="How many CPU threads each copy uses. Default: one for each core of the server.",
    ),
    mapping_option(
        "--rate-limiter-resource",
        "rate_limiter_resources",
        section=INSTANCES,
        type=resource,
        help="A resource that each copy holds while it runs. For example, memory=4, or memory=4,global if all devices "
        "share it; 0 removes it. The server needs --rate-limit. Repeat it for other resources.",
    ),
    option(
        "--rate-limiter-priority",
        section=INSTANCES,
        type=whole_number(0, _LARGEST_UINT32),
        help="How rarely the copies run compared with other models: 2 is half as often as 1. The server needs "
        "--rate-limit. Default: 1.",
    ),
)


def config_options(function: Function) -> Function:
    """Declare all of them, in this order."""
    for declare in reversed(_OPTIONS):
        function = declare(function)
    return function
