"""Write all options into a config, in order: the options of single fields first, and what `--set` says last."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from builder.config import warmup
from builder.config.options import ConfigOptions
from builder.config.pbtxt import messages
from builder.config.settings import assigning, batching, instances, labels, paths, tables, tensorrt
from builder.config.settings.owned import refuse_owned
from builder.config.settings.paths import PathError
from builder.errors import RepositoryError

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig


def apply(config: "ModelConfig", options: ConfigOptions, *, where: object) -> dict[str, bytes]:
    """Write the options into a config, except `max_batch_size` and `warmup`: see `make_config`, which knows the proof.

    Returns:
        The content of the label files that the config now names, by their names in the model's folder.

    Raises:
        RepositoryError: An option contradicts the config or another option, or could have no effect.
        ModelError: A file of labels cannot be used.
    """
    _write_options(config, options, where)
    if options.unset_fields or options.set_fields:
        _write_fields(config, options, where)
        _refuse_contradiction(config, options, where)
    return labels.write(config, options.labels, where)


def check(config: "ModelConfig", options: ConfigOptions, *, where: object) -> None:
    """Refuse what `apply` would refuse in a config whose inputs and outputs may be unknown; the config is changed.

    Raises:
        RepositoryError: An option contradicts the config or another option, or could have no effect.
        ModelError: A file of labels cannot be used.
    """
    is_known = bool(config.input and config.output)
    _write_options(config, options, where)
    fields = replace(
        options,
        unset_fields=tuple(path for path in options.unset_fields if is_known or not _is_tensor(path)),
        set_fields=tuple((path, value) for path, value in options.set_fields if is_known or not _is_tensor(path)),
    )
    _write_fields(config, fields, where)
    _refuse_contradiction(config, fields, where)
    if is_known:
        labels.write(config, options.labels, where)
    else:
        labels.check(options.labels)


def _is_tensor(path: str) -> bool:
    return path.startswith(("input", "output"))


def _write_options(config: "ModelConfig", options: ConfigOptions, where: object) -> None:
    batching.write(config, options, where)
    instances.write(config, options, where)
    tables.write(config, options, where)
    tensorrt.write(config, options, where)


def _write_fields(config: "ModelConfig", options: ConfigOptions, where: object) -> None:
    """Write what `--unset` and `--set` say."""
    own = [entry.SerializeToString(deterministic=True) for entry in warmup.own_entries(config)]
    for path in options.unset_fields:
        try:
            refuse_owned(paths.parse(path), is_removal=True)
            assigning.remove(config, path)
        except PathError as error:
            raise RepositoryError(where, f"--unset {path}: {error}", error.fix) from error
    for path, value in options.set_fields:
        try:
            refuse_owned(paths.parse(path), is_removal=False)
            assigning.assign(config, path, value)
        except PathError as error:
            raise RepositoryError(where, f"--set {path}: {error}", error.fix) from error
    if [entry.SerializeToString(deterministic=True) for entry in warmup.own_entries(config)] != own:
        what = f"entries of model_warmup whose name starts with {warmup.PREFIX} are written by publish"
        raise RepositoryError(where, what, "use --warmup or --no-warmup, or another name for an entry of your own")


def _refuse_contradiction(config: "ModelConfig", options: ConfigOptions, where: object) -> None:
    """Refuse fields that undo an option: writing the options again would change the config."""
    again = messages().ModelConfig()
    again.CopyFrom(config)
    try:
        _write_options(again, _repeatable(options), where)
    except RepositoryError:
        again.Clear()
    if again != config:
        what = "a --set or --unset contradicts another option that sets the same field"
        raise RepositoryError(where, what, "leave one of them out")


def _repeatable(options: ConfigOptions) -> ConfigOptions:
    """Return the options that may be written twice: groups replace all others, and nothing can be removed twice."""
    return replace(
        options,
        instance_groups=(),
        rate_limiter_resources={name: each for name, each in options.rate_limiter_resources.items() if each.count},
        metric_labels={name: value for name, value in options.metric_labels.items() if value},
        parameters={name: value for name, value in options.parameters.items() if value},
    )


def notes(config: "ModelConfig", options: ConfigOptions, written: Mapping[str, bytes]) -> Iterator[str]:
    """Yield what the caller should know about the options; one sentence each."""
    yield from tables.notes(config, options)
    yield from labels.notes(config, options.labels, written)


def check_usage(path: str, value: str | None) -> None:
    """Check a path, and a value for it, before there is a config; None is for a field to remove.

    Raises:
        PathError: There is no such field, it does not take this value, or another option sets it.
    """
    steps = paths.parse(path)
    refuse_owned(steps, is_removal=value is None)
    scratch: Any = messages().ModelConfig()
    if value is None:
        inner = scratch
        for step in steps[:-1]:
            inner = paths.descend(inner, step, is_free=True)
        paths.find_field(inner, steps[-1])
    else:
        assigning.assign(scratch, path, value, is_free=True)
