"""The types of options that name inputs and outputs: `INPUT=AXIS`, `INPUT:AXIS=NAME`, `NAME=VALUE` and others."""

import ast
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from builder.cli.arguments import LARGEST_INT32, MisreadError, argument, parsed

if TYPE_CHECKING:
    from builder.exporting import InputSpec

_WORDS: dict[str, object] = {"true": True, "false": False, "none": None}


@argument("NAME=DTYPE[DIM,...]", example="image=float32[1,3,224,224]")
def module_input(text: str) -> "InputSpec":
    """Read an input of a PyTorch module."""
    from builder.exporting import InputSpec

    return parsed(InputSpec.parse, text)


@argument("INPUT=AXIS,...", example="tokens=1")
def input_axes(text: str) -> tuple[tuple[str, int | None], ...]:
    """Read `INPUT=AXIS` or `INPUT=none`, several separated by commas.

    Exporters write names such as `a=b:0` and `a,b`, so an input ends only where `=AXIS` follows it.
    """
    axes: list[tuple[str, int | None]] = []
    for match in _pieces(text, r"(?P<input>.+?)\s*=\s*(?P<axis>-?\d+|none)", "INPUT=AXIS", _axis_fault):
        axes.append((match["input"].strip(), None if match["axis"] == "none" else int(match["axis"])))
    return tuple(axes)


def _axis_fault(piece: str) -> ValueError | None:
    """Return what is wrong with `INPUT=AXIS`, if it is the axis."""
    tensor, equals, axis = piece.rpartition("=")
    if not (tensor and equals and axis):
        return None
    what = f"{axis!r} is neither the number of an axis nor the word none"
    return MisreadError(what, f"write {tensor}=1 for axis 1, or {tensor}=none for an input without a batch axis")


@argument("INPUT=VALUE", example="scale=0.5 or scale=scale.npy")
def constant(text: str) -> tuple[str, float | Path]:
    """Read `INPUT=NUMBER` or `INPUT=FILE.npy`, split at the first equals sign."""
    tensor, value = python_constant.convert(text, None, None)
    if isinstance(value, str):
        what = f"{value!r} is neither a number nor the name of a .npy file"
        raise MisreadError(what, f"write a number, as in {tensor}=0.5, or a file, as in {tensor}={value}.npy") from None
    if not isinstance(value, int | float | Path):
        what = f"{text.partition('=')[2]} is neither a number nor the name of a .npy file"
        raise MisreadError(what, f"write a number, as in {tensor}=0.5, or a file, as in {tensor}=values.npy") from None
    return tensor, value


@argument("NAME=VALUE", example="scale=0.5 or scale=scale.npy")
def python_constant(text: str) -> tuple[str, object]:
    """Read `NAME=VALUE`, split at the first equals sign.

    The value is a .npy file, or a Python literal: a number, a text in quotes, a list and so on. `true`, `false` and
    `none` may be written in small letters, and a text that is nothing else needs no quotes.
    """
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise ValueError(f"{text!r} is not of the form NAME=VALUE")
    return name.strip(), Path(value) if value.endswith(".npy") else _literal(value.strip())


def _literal(value: str) -> object:
    if value.lower() in _WORDS:
        return _WORDS[value.lower()]
    with suppress(ValueError):
        return int(value)
    with suppress(ValueError):
        return float(value)
    try:
        return ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        if value[:1] in "[({'\"":
            raise MisreadError(
                f"{value} is not a Python literal", "write it as in Python, for example [1, 2.5] or 'text'"
            ) from None
        return value


@argument("INPUT:AXIS=NAME,...", example="image:2=height,3=width")
def named_axes(text: str) -> tuple[tuple[tuple[str, int], str], ...]:
    """Read `INPUT:AXIS=NAME,AXIS=NAME,INPUT:AXIS=NAME`; an axis without an input is one of the input before it.

    Exporters write names such as `a:0` and `a,b`: the colon before an axis is the last one before its equals sign.
    """
    axes: list[tuple[tuple[str, int], str]] = []
    tensor = ""
    piece = r"(?:(?P<input>[^=]+):)?\s*(?P<axis>\d+)\s*=\s*(?P<name>[^\W\d]\w*)"
    for match in _pieces(text, piece, "INPUT:AXIS=NAME,AXIS=NAME"):
        tensor = (match["input"] or tensor).strip()
        if not tensor:
            raise ValueError(f"{text!r} is not of the form INPUT:AXIS=NAME,AXIS=NAME")
        axes.append(((tensor, int(match["axis"])), match["name"]))
    return tuple(axes)


def _pieces(
    text: str, pattern: str, form: str, fault: Callable[[str], ValueError | None] = lambda piece: None
) -> Iterator[re.Match[str]]:
    """Yield the matches of a pattern, one after the other with commas between them, until the end of the text.

    Raises:
        ValueError: One piece is wrong; the message quotes it, and the text that it is in.
    """
    expected, start = re.compile(rf"\s*{pattern}\s*(?:,|$)"), 0
    while start < len(text) or not start or text[start - 1] == ",":
        match = expected.match(text, start)
        if match is None:
            piece = text[start:].partition(",")[0]
            where = "" if piece == text else f" in {text!r}"
            raise fault(piece) or ValueError(f"{piece!r}{where} is not of the form {form}")
        yield match
        start = match.end()


@argument("NAME=N,...", example="time=16000 or past=7,total=8")
def axis_sizes(text: str) -> dict[str, int]:
    """Read `NAME=N,NAME=N`, each split at its last equals sign."""
    sizes: dict[str, int] = {}
    for part in text.split(","):
        name, equals, size = part.rpartition("=")
        name, size = name.strip(), size.strip()
        if not (equals and name and size.isdecimal()):
            raise ValueError(f"{part.strip()!r} is not of the form NAME=N")
        if not 1 <= int(size) <= LARGEST_INT32:
            raise MisreadError(f"the size of {name!r}, {size}, is out of range", f"use 1 to {LARGEST_INT32}")
        if sizes.setdefault(name, int(size)) != int(size):
            raise MisreadError(f"{name!r} is given two sizes, {sizes[name]} and {size}", f"give {name} once")
    return sizes
