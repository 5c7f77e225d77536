"""Which config a config replaced: the parameter `builder.previous`, which names a config that is kept.

The configs of a model form a chain in this way: each names the one before it, and the first one names none.
"""

from typing import TYPE_CHECKING

from builder.config import pbtxt

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

PREVIOUS = "builder.previous"
"""The key of the parameter. Its value is `VERSION/N`, for the file `VERSION/config.N.pbtxt`."""


def previous(text: str, *, where: object) -> str | None:
    """Return which config this one replaced, or None if it does not say.

    Raises:
        RepositoryError: The text is no config.
    """
    parameters = pbtxt.parse(text, where=where).parameters
    return (parameters[PREVIOUS].string_value or None) if PREVIOUS in parameters else None


def with_previous(text: str, kept: str | None, *, where: object) -> str:
    """Return the text with the parameter set to `kept`, or without it for None.

    Raises:
        RepositoryError: The text is no config, or its parameters have a field that this release does not know.
    """
    config = pbtxt.parse(text, where=where)
    if kept is None:
        forget(config)
    else:
        config.parameters[PREVIOUS].string_value = kept
    return pbtxt.edit(text, config, where=where)


def forget(config: "ModelConfig") -> None:
    """Remove the parameter."""
    if PREVIOUS in config.parameters:
        del config.parameters[PREVIOUS]
