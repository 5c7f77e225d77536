"""Where the instances of a model run, how many there are, and which resources they hold while they run."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from builder.config.options import ConfigOptions, InstanceGroup, Resource
from builder.config.pbtxt import messages
from builder.errors import RepositoryError

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig


def write(config: "ModelConfig", options: ConfigOptions, where: object) -> None:
    """Write the options of `instance_group`.

    Raises:
        RepositoryError: Options contradict each other or the config.
    """
    if options.instance_groups:
        _refuse_both(options, where)
        del config.instance_group[:]
        for group in options.instance_groups:
            _add(config, group)
    if options.instances is not None or options.kind is not None:
        _write_only_group(config, options, where)
    if options.rate_limiter_resources or options.rate_limiter_priority is not None:
        _write_rate_limiter(config, options.rate_limiter_resources, options.rate_limiter_priority, where)


def _refuse_both(options: ConfigOptions, where: object) -> None:
    both = {"--instances": options.instances, "--kind": options.kind}
    for name, value in both.items():
        if value is not None:
            what = f"{name} and --instance-group cannot be used together"
            raise RepositoryError(where, what, f"leave out {name}: each group has its own count and kind")


def _add(config: "ModelConfig", group: InstanceGroup) -> None:
    config.instance_group.add(
        name=group.name,
        kind=_kind(group.kind),
        count=group.count,
        gpus=group.gpus,
        profile=[str(number) for number in group.profiles],
        host_policy=group.host_policy,
        passive=group.passive,
    )


def _kind(name: str) -> Any:
    return messages().ModelInstanceGroup.Kind.Value(f"KIND_{name.upper()}")


def _write_only_group(config: "ModelConfig", options: ConfigOptions, where: object) -> None:
    if len(config.instance_group) > 1:
        raise RepositoryError(
            where,
            f"it has {len(config.instance_group)} instance groups, but --instances and --kind set only one",
            "give all groups with --instance-group, or set one field, such as --set 'instance_group[0].count=2'",
        )
    group = config.instance_group[0] if config.instance_group else config.instance_group.add()
    if options.instances is not None:
        group.count = options.instances
    if options.kind is not None:
        group.kind = _kind(options.kind)


def _write_rate_limiter(
    config: "ModelConfig", resources: Mapping[str, Resource], priority: int | None, where: object
) -> None:
    """Write the same resources and priority into every group; the resources that are not named stay."""
    if not config.instance_group:
        config.instance_group.add(count=1)
    groups = [group for group in config.instance_group if not group.passive]
    if not groups:
        what = "all its instance groups are passive, so a rate limiter would have no effect"
        fix = "leave out --rate-limiter-resource and --rate-limiter-priority"
        raise RepositoryError(where, what, fix)
    _refuse_absent(groups, resources, where)
    for group in groups:
        _limit(group, resources, priority)


def _refuse_absent(groups: Sequence[Any], resources: Mapping[str, Resource], where: object) -> None:
    """Refuse to remove a resource that no group has."""
    listed = {each.name for group in groups for each in group.rate_limiter.resources}
    for name, resource in resources.items():
        if resource.count == 0 and name not in listed:
            what = f"no instance group has a resource {name!r} that --rate-limiter-resource {name}=0 could remove"
            raise RepositoryError(where, what, f"leave out --rate-limiter-resource {name}=0")


def _limit(group: Any, resources: Mapping[str, Resource], priority: int | None) -> None:
    kept = [each for each in group.rate_limiter.resources if each.name not in resources]
    del group.rate_limiter.resources[:]
    group.rate_limiter.resources.extend(kept)
    for name, resource in resources.items():
        if resource.count:
            group.rate_limiter.resources.add(name=name, count=resource.count, **{"global": resource.is_global})
    if priority is not None:
        group.rate_limiter.priority = priority
    if not group.rate_limiter.ListFields():
        group.ClearField("rate_limiter")
