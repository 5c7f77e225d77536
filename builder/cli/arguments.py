"""What the command line takes, beside click's own types: one function for each, from text to value.

A text that cannot be read is told by a ValueError, which ends as wrong usage. Heavy imports happen inside.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from builder.config import Shapes
    from builder.deployment.live_server import Address
    from builder.exporting import InputSpec

_LARGEST = 2**31 - 1
"""What a field of config.pbtxt of type int32 can hold."""

COUNT = click.IntRange(1, _LARGEST)


class Argument(click.ParamType[Any]):
    """An argument that a function reads; its decorator.

    Args:
        read: From the text; raises ValueError with what is wrong with it.
    """

    def __init__(self, read: Callable[[str], Any]) -> None:
        self.name = read.__name__
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read a text; a default is taken as it is."""
        if not isinstance(value, str):
            return value
        try:
            return self._read(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@Argument
def name_pair(text: str) -> tuple[str, str]:
    """`OLD=NEW`, split at the last equals sign."""
    old, equals, new = text.rpartition("=")
    if not (old and equals and new):
        raise ValueError(f"{text!r} is not of the form OLD=NEW")
    return old, new


@Argument
def input_axis(text: str) -> tuple[str, int | None]:
    """`INPUT=AXIS` or `INPUT=none`, split at the last equals sign."""
    tensor, equals, axis = text.rpartition("=")
    if not (tensor and equals and axis):
        raise ValueError(f"{text!r} is not of the form INPUT=AXIS")
    if axis == "none":
        return tensor, None
    if not re.fullmatch(r"-?\d+", axis):
        raise ValueError(f"{axis!r} in {text!r} is not a number, and not none")
    return tensor, int(axis)


@Argument
def constant(text: str) -> tuple[str, float | Path]:
    """`INPUT=NUMBER` or `INPUT=FILE.npy`, split at the first equals sign."""
    tensor, equals, value = text.partition("=")
    if not (tensor and equals and value):
        raise ValueError(f"{text!r} is not of the form INPUT=NUMBER or INPUT=FILE.npy")
    if value.endswith(".npy"):
        return tensor, Path(value)
    try:
        return tensor, float(value)
    except ValueError:
        raise ValueError(f"{value!r} in {text!r} is no number, and no .npy file") from None


@Argument
def named_axes(text: str) -> tuple[str, dict[int, str]]:
    """`INPUT:AXIS=NAME,AXIS=NAME`: the colon is the last one before the first equals sign."""
    before, equals, after = text.partition("=")
    tensor, colon, first = before.rpartition(":")
    axes = {}
    for part in f"{first}{equals}{after}".split(","):
        axis, equals, name = part.partition("=")
        if not (tensor and colon and equals and axis.strip().isdigit() and name.strip().isidentifier()):
            raise ValueError(f"{text!r} is not of the form INPUT:AXIS=NAME,AXIS=NAME")
        axes[int(axis)] = name.strip()
    return tensor, axes


@Argument
def names(text: str) -> tuple[str, ...]:
    """Names separated by commas."""
    return tuple(part.strip() for part in text.split(","))


@Argument
def batch_sizes(text: str) -> tuple[int, ...]:
    """Batch sizes separated by commas."""
    sizes = [part.strip() for part in text.split(",")]
    if not all(size.isdigit() and 1 <= int(size) <= _LARGEST for size in sizes):
        raise ValueError(f"{text!r} is not a list of numbers from 1 up")
    return tuple(map(int, sizes))


@Argument
def seconds(text: str) -> float:
    """A duration: `30s`, `5m`, `1h`, or plain seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text)
    if match is None:
        raise ValueError(f"{text!r} is not a duration such as 30s, 5m or 1h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


@Argument
def release(text: str) -> str:
    """A known release of the Triton container."""
    from builder.lowering import TARGETS

    found = text.removesuffix("-py3")
    if found not in TARGETS:
        raise ValueError(f"what Triton {text} takes is not known; known are {', '.join(TARGETS)}")
    return found


@Argument
def folder(text: str) -> Path:
    """A model repository on this machine."""
    if "://" in text:
        raise ValueError("only publish works on a bucket; give a folder")
    return Path(text)


@Argument
def folder_or_bucket(text: str) -> Path | str:
    """A model repository: a folder's path or a bucket's URL."""
    return text if "://" in text else Path(text)


@Argument
def module_input(text: str) -> "InputSpec":
    """`NAME=DTYPE[DIM,DIM,…]`: an input of a PyTorch module."""
    from builder.exporting import InputSpec

    return InputSpec.parse(text)


@Argument
def profile(text: str) -> "tuple[str, Shapes]":
    """`INPUT=MIN:OPT:MAX`."""
    from builder.config import profiles

    return profiles.parse(text)


@Argument
def address(text: str) -> "Address":
    """Where a server's gRPC front end listens."""
    from builder.deployment.live_server import Address

    return Address.parse(text)
