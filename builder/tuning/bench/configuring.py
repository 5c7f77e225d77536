"""Read a configuration from a config, and write one into it by the same code that `publish` uses for its options."""

from typing import TYPE_CHECKING

from builder.config import THREADS, ConfigOptions, apply_options, pbtxt, reduce_warmup
from builder.errors import RepositoryError
from builder.tuning.measurement import Configuration

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

_INSTANCES_ON_A_CPU = 2
"""How many instances Triton starts on a CPU if a config gives no count; on each GPU it starts one. Source:
SetDefaultInstanceCount in https://github.com/triton-inference-server/core/blob/main/src/model_config_utils.cc
"""


def read_configuration(config: "ModelConfig", *, where: object) -> Configuration:
    """Return the configuration that a config says.

    A config without `dynamic_batching` runs each request by itself, as one whose only preferred size is 1 does.

    Args:
        config: The config, as it is written or as a server has loaded it.
        where: The file, for messages.

    Raises:
        RepositoryError: It has several groups of instances, so that no single number says how many there are.
    """
    if len(config.instance_group) > 1:
        count = len(config.instance_group)
        what = f"it has {count} instance groups, and only the instances of a single one can be searched"
        raise RepositoryError(where, what, "leave one instance_group there, and tune again")
    group = config.instance_group[0] if config.instance_group else pbtxt.messages().ModelInstanceGroup()
    batching = config.dynamic_batching
    batches_alone = config.max_batch_size > 0 and not config.HasField("dynamic_batching")
    threads = config.parameters[THREADS].string_value if THREADS in config.parameters else ""
    preferred = tuple(sorted(batching.preferred_batch_size))
    if preferred == (config.max_batch_size,):
        preferred = ()  # a server fills this in, and it changes nothing
    return Configuration(
        instances=group.count or (1 if group.kind == group.KIND_GPU else _INSTANCES_ON_A_CPU),
        threads=int(threads) if threads.strip().isdecimal() and int(threads) > 0 else None,
        max_batch_size=config.max_batch_size,
        preferred=(1,) if batches_alone else preferred,
        delay_us=batching.max_queue_delay_microseconds,
        profiles=tuple(int(number) for number in group.profile if number.isdecimal()),
        cuda_graphs=config.optimization.cuda.graphs,
    )


def options_of(configuration: Configuration, current: Configuration) -> ConfigOptions:
    """Return what `publish` would be asked for to turn one configuration into another: only what differs.

    Args:
        configuration: What is wanted.
        current: What there is now.
    """
    wanted, now = configuration, current
    threads = None if wanted.threads == now.threads else wanted.threads
    return ConfigOptions(
        instances=wanted.instances if wanted.instances != now.instances else None,
        intra_op_thread_count=threads,
        parameters={THREADS: ""} if wanted.threads is None and now.threads is not None else {},
        max_batch_size=wanted.max_batch_size if wanted.max_batch_size != now.max_batch_size else None,
        preferred_batch_sizes=wanted.preferred if wanted.preferred != now.preferred else None,
        max_queue_delay_us=wanted.delay_us if wanted.delay_us != now.delay_us else None,
        cuda_graphs=wanted.cuda_graphs if wanted.cuda_graphs != now.cuda_graphs else None,
        set_fields=_profiles(wanted) if wanted.profiles != now.profiles else (),
    )


def configured(config: "ModelConfig", configuration: Configuration, *, where: object) -> "ModelConfig":
    """Return a copy of a config with another configuration, as Triton takes it when it loads a model.

    Args:
        config: The config that there is now.
        configuration: What is wanted.
        where: The file, for messages.

    Raises:
        RepositoryError: An option contradicts the config, or could have no effect.
    """
    current, made = read_configuration(config, where=where), type(config)()
    made.CopyFrom(config)
    if configuration == current:
        return made
    if configuration.max_batch_size != current.max_batch_size:
        made.max_batch_size = configuration.max_batch_size
        reduce_warmup(made)
    apply_options(made, options_of(configuration, current), where=where)
    return made


def _profiles(wanted: Configuration) -> tuple[tuple[str, str], ...]:
    """Return what `--set` says for the profiles: the rest of the group stays, such as its GPUs and its host policy."""
    numbers = ", ".join(f'"{number}"' for number in wanted.profiles)
    return (("instance_group[0].profile", f"[{numbers}]"),)
