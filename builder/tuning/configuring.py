"""Read a configuration from a config, and write one into it by the same code that `publish` uses for its options."""

from typing import TYPE_CHECKING

from builder.config import THREADS, ConfigOptions, InstanceGroup, apply_options, reduce_warmup
from builder.errors import RepositoryError
from builder.tuning.measurement import Configuration

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig


def read_configuration(config: "ModelConfig", *, where: object) -> Configuration:
    """Return the configuration that a config says.

    A config without `dynamic_batching` runs each request by itself, as one whose only preferred size is 1 does.

    Args:
        config: The config, best as a server has loaded it, because a server fills in what it leaves out.
        where: The file, for messages.

    Raises:
        RepositoryError: It has several groups of instances, so that no single number says how many there are.
    """
    if len(config.instance_group) > 1:
        what = f"it has {len(config.instance_group)} groups of instances, and tune searches the size of one"
        raise RepositoryError(where, what, "give it one instance_group, and tune again")
    group = config.instance_group[0] if config.instance_group else None
    batching = config.dynamic_batching
    batches_alone = config.max_batch_size > 0 and not config.HasField("dynamic_batching")
    threads = config.parameters[THREADS].string_value if THREADS in config.parameters else ""
    preferred = tuple(sorted(batching.preferred_batch_size))
    if preferred == (config.max_batch_size,):
        preferred = ()  # a server fills this in, and it changes nothing
    return Configuration(
        instances=max(1, group.count) if group is not None else 1,
        threads=int(threads) if threads.strip().isdigit() and int(threads) > 0 else None,
        max_batch_size=config.max_batch_size,
        preferred=(1,) if batches_alone else preferred,
        delay_us=batching.max_queue_delay_microseconds,
        profiles=tuple(int(number) for number in group.profile) if group is not None else (),
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
        instances=wanted.instances if wanted.instances != now.instances and wanted.profiles == now.profiles else None,
        intra_op_thread_count=threads,
        parameters={THREADS: ""} if wanted.threads is None and now.threads is not None else {},
        max_batch_size=wanted.max_batch_size if wanted.max_batch_size != now.max_batch_size else None,
        preferred_batch_sizes=wanted.preferred if wanted.preferred != now.preferred else None,
        max_queue_delay_us=wanted.delay_us if wanted.delay_us != now.delay_us else None,
        instance_groups=_groups(wanted) if wanted.profiles != now.profiles else (),
        cuda_graphs=wanted.cuda_graphs if wanted.cuda_graphs != now.cuda_graphs else None,
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


def _groups(wanted: Configuration) -> tuple[InstanceGroup, ...]:
    return (InstanceGroup("gpu", wanted.instances, profiles=wanted.profiles),)
