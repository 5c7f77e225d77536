"""Merge two changes of a config: the one that a command prepared, and what people have edited since.

    base      the config when the command ran
    prepared  what the command made of it
    current   what people, or other commands, have made of it since

Each field at the top level is merged by itself; of the parameters and the warm-up requests, each entry is. What only
one side has changed is taken from that side. What both have changed differently is a conflict.

`version_policy`, the parameters that say where a version came from, and the content of our warm-up requests are left as
they are in `current`, because whoever merges writes them afresh for the version.
"""

from collections.abc import Iterator, Mapping, MutableSequence
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message

from builder.config import pbtxt, warmup

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

_OWN_PARAMETERS = "builder."
_WRITTEN_AFRESH = "version_policy"


class ConflictError(Exception):
    """Both sides changed the same fields in different ways.

    Attributes:
        fields: Their names, such as `max_batch_size` or `parameters["key"]`.
    """

    def __init__(self, fields: tuple[str, ...]) -> None:
        super().__init__(", ".join(fields))
        self.fields = fields


def merge(base: str, prepared: str, current: str, *, where: object) -> str:
    """Return `current` with what `prepared` changed in `base`; the comments and the layout of `current` stay.

    Raises:
        ConflictError: Both have changed the same field.
        RepositoryError: One of the texts is no config.
    """
    old, new, merged = (pbtxt.parse(text, where=where) for text in (base, prepared, current))
    conflicts: list[str] = []
    for field in merged.DESCRIPTOR.fields:
        if field.name != _WRITTEN_AFRESH:
            conflicts += _merge_field(field, old, new, merged)
    if conflicts:
        raise ConflictError(tuple(conflicts))
    return pbtxt.edit(current, merged, where=where)


def _merge_field(field: Any, old: "ModelConfig", new: "ModelConfig", merged: "ModelConfig") -> Iterator[str]:
    """Put what `new` changed in `old` into one field of `merged`, and yield what both changed."""
    before, ours, theirs = (_entries(config, field) for config in (old, new, merged))
    for key in dict.fromkeys((*before, *ours, *theirs)):
        was, prepared, now = (_compared(field, entries.get(key)) for entries in (before, ours, theirs))
        if prepared in (was, now):
            continue
        if was != now:
            yield field.name if key is None else f'{field.name}["{key}"]'
        elif key in ours:
            theirs[key] = ours[key]
        else:
            del theirs[key]
    _write(merged, field, theirs)


def _entries(config: "ModelConfig", field: Any) -> dict[Any, Any]:
    """Return the values of a field that are merged one by one, each by its key; None is the key of a whole field."""
    value = getattr(config, field.name)
    if isinstance(value, Mapping):
        return {key: value[key] for key in value if not str(key).startswith(_OWN_PARAMETERS)}
    if field.name == "model_warmup":
        return {entry.name: entry for entry in value}
    if isinstance(value, MutableSequence):
        return {None: list(value)} if value else {}
    is_set = config.HasField(field.name) if field.has_presence else value != field.default_value
    return {None: value} if is_set else {}


def _compared(field: Any, value: Any) -> Any:
    """Return the part of a value that decides whether it changed: of our own warm-up requests, not their inputs."""
    if field.name == "model_warmup" and value is not None and value.name.startswith(warmup.PREFIX):
        return value.name, value.batch_size, value.count
    return value


def _write(config: "ModelConfig", field: Any, entries: Mapping[Any, Any]) -> None:
    """Make a field say what its entries say; our own parameters stay."""
    copied = {key: _copied(value) for key, value in entries.items()}
    if isinstance(getattr(config, field.name), Mapping):
        _write_map(getattr(config, field.name), copied)
        return
    config.ClearField(field.name)
    target: Any = getattr(config, field.name)
    if isinstance(target, MutableSequence):
        target.extend(copied.values() if field.name == "model_warmup" else copied.get(None, ()))
    elif None not in copied:
        return
    elif field.message_type is None:
        setattr(config, field.name, copied[None])
    else:
        target.CopyFrom(copied[None])
        target.SetInParent()


def _write_map(target: Any, entries: Mapping[Any, Any]) -> None:
    for key in [key for key in target if not str(key).startswith(_OWN_PARAMETERS)]:
        del target[key]
    for key, value in entries.items():
        if isinstance(value, Message):
            target[key].CopyFrom(value)
        else:
            target[key] = value


def _copied(value: Any) -> Any:
    """Return a copy that does not change when the config that it is a part of does."""
    if isinstance(value, list):
        return [_copied(each) for each in value]
    if isinstance(value, Message):
        copy = type(value)()
        copy.CopyFrom(value)
        return copy
    return value
