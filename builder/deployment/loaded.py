"""Compare the config that a server has loaded with one from a repository.

A server fills in what a config leaves out, so the two are never the same.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from builder.config import policy
from builder.deployment.goal import MODEL_SHA256

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig


_CHOSEN = (
    *("max_batch_size", "input", "output", "batch_input", "batch_output", "parameters", "model_warmup"),
    *("dynamic_batching", "sequence_batching", "response_cache", "model_transaction_policy", "cc_model_filenames"),
)
"""Fields that a server does not fill in by itself when they are left out and the config lists its tensors."""


def is_made_from(loaded: "ModelConfig", written: "ModelConfig") -> bool:
    """Return whether a server has loaded just this config: all that it says, and nothing that it does not say."""
    return holds_all_of(loaded, written) and holds_all_of(_chosen(written), _chosen(loaded))


def serving(config: "ModelConfig", versions: Iterable[int]) -> "ModelConfig":
    """Return a copy of a config that names the versions: `latest` and `all` may mean others by now."""
    own = type(config)()
    own.CopyFrom(config)
    own.version_policy.specific.versions[:] = versions
    return own


def holds_all_of(loaded: Any, written: Any) -> bool:
    """Return whether every field that is set in one message has the same value in the other.

    So `written` may be what `loaded` was made from. Where a server replaces a value, as it does with `KIND_AUTO`, the
    answer is no.
    """
    for field, value in written.ListFields():
        theirs = getattr(loaded, field.name)
        if field.message_type is None:
            if (list(theirs) != list(value)) if _is_repeated(value) else theirs != value:
                return False
        elif field.message_type.GetOptions().map_entry:
            if any(key not in theirs or not _same(theirs[key], value[key]) for key in value):
                return False
        elif _is_repeated(value):
            if len(theirs) != len(value) or not all(map(holds_all_of, theirs, value)):
                return False
        elif not loaded.HasField(field.name) or not holds_all_of(theirs, value):
            return False
    return True


def differences(
    loaded: "ModelConfig", written: "ModelConfig", present: Iterable[int]
) -> Iterator[tuple[str, Any, Any]]:
    """Yield which settings that a server uses unchanged differ.

    Args:
        loaded: The config that the server has loaded.
        written: The config in the repository.
        present: The versions in the model's directory.
    """
    present = tuple(present)
    for setting, there, here in zip(
        _SETTINGS, _settings(loaded, written, present), _settings(written, written, present), strict=True
    ):
        if there != here:
            yield setting, there, here


_SETTINGS = (
    "the backend",
    "max_batch_size",
    "the list of served versions",
    "the model's digest",
    "the list of inputs",
    "of outputs",
)


def _settings(config: "ModelConfig", written: "ModelConfig", present: tuple[int, ...]) -> Iterator[Any]:
    """Yield the settings that are compared; None for one that the file leaves to the server."""
    yield config.backend if written.backend else None
    yield config.max_batch_size if written.input and written.output else None
    yield list(policy.named_versions(config, present))
    yield config.parameters[MODEL_SHA256].string_value if MODEL_SHA256 in config.parameters else None
    for side in ("input", "output"):
        listed = getattr(config, side) if getattr(written, side) else []
        yield sorted((tensor.name, tensor.data_type, list(tensor.dims)) for tensor in listed)


def _chosen(config: "ModelConfig") -> "ModelConfig":
    kept = type(config)()
    kept.CopyFrom(config)
    for field, _ in config.ListFields():
        if field.name not in _CHOSEN:
            kept.ClearField(field.name)
    if list(kept.dynamic_batching.preferred_batch_size) == [kept.max_batch_size]:  # what a server fills in there
        kept.dynamic_batching.ClearField("preferred_batch_size")
    return kept


def _is_repeated(value: Any) -> bool:
    return hasattr(value, "__len__") and not isinstance(value, (str, bytes))


def _same(one: Any, other: Any) -> bool:
    return holds_all_of(one, other) if hasattr(other, "ListFields") else bool(one == other)
