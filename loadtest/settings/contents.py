"""What is sent, for servers and models without a repository."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from loadtest.errors import SettingsError
from loadtest.settings.numbers import whole
from loadtest.wire import Parameters

_GENERATED = ("random", "zero")
_SHAPE = re.compile(r"(.+)[:=](\d+(?:,\d+)*)")
_BOOLS = {"true": True, "false": False}
_RESERVED = ("sequence_id", "sequence_start", "sequence_end", "binary_data_output")


@dataclass(frozen=True, slots=True)
class Contents:
    """What is sent.

    Attributes:
        file: Where the inputs are, None if they are generated.
        zero: Whether generated inputs are zeros rather than random.
        shapes: The shapes of inputs whose dims are of any size, without the batch axis.
        parameters: What each request carries beside its tensors.
        sequence_length: How many steps a sequence to a stateful model has; None for as many as its stream in the file,
            or 20 without a file.
        sequence_variation: The share that a length that was given may differ by.
        tolerance: How far floats may be off the right answers in the file, as rtol and atol; None for the default.
    """

    file: Path | None = None
    zero: bool = False
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    parameters: Parameters = field(default_factory=dict)
    tolerance: tuple[float, float] | None = None
    sequence_length: int | None = None
    sequence_variation: float = 0.2


def read_contents(text: Mapping[str, str], *, repository: Path | None, models: int) -> Contents:
    """Read the options about what is sent.

    Raises:
        SettingsError: One of them cannot be used, or not together with the others.
    """
    source = text["input_data"]
    contents = Contents(
        file=None if source in ("", *_GENERATED) else _file(source),
        zero=source == "zero",
        shapes=dict(map(_shape, _split("--shape", text["shape"]))),
        parameters=dict(map(_parameter, _split("--request-parameters", text["request_parameters"]))),
        tolerance=_tolerance(text["tolerance"]),
        sequence_length=_number("--sequence-length", text["sequence_length"], 1, 1 << 31) or None,
        sequence_variation=_number("--sequence-length-variation", text["sequence_length_variation"], 0, 100) / 100,
    )
    _check_together(contents, source, repository, models)
    return contents


def _check_together(contents: Contents, source: str, repository: Path | None, models: int) -> None:
    if repository is not None and (source or contents.shapes):
        option = "--input-data" if source else "--shape"
        what = "with --repository, what is sent are the samples stored there"
        raise SettingsError(option, what, f"leave out {option}, or --repository")
    if contents.file is not None and models > 1:
        what = f"a file can be given for one model only, not for {models}"
        raise SettingsError("--input-data", what, "name one model, or leave this option out")
    if contents.tolerance is not None and contents.file is None:
        what = "it is about the right answers in a file of --input-data, and there is no such file"
        raise SettingsError("--tolerance", what, "leave this option out, or give --input-data FILE")


def _split(option: str, text: str) -> list[str]:
    """Split at spaces, except in quotes, as a shell does."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise SettingsError(option, f"{text!r} cannot be read: {error}", "close the quote") from error


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Read `NAME:1,3,64`. The name may have colons itself, as in `input:0:1,3,64`."""
    found = _SHAPE.fullmatch(text)
    dims = tuple(map(int, found[2].split(","))) if found else ()
    if not found or 0 in dims or max(dims) >= 1 << 31:
        what = f"{text!r} is not the name of an input and its shape"
        fix = "give whole numbers from 1 up, as in --shape image:3,640,640; put spaces between several inputs"
        raise SettingsError("--shape", what, fix)
    return found[1], dims


def _parameter(text: str) -> tuple[str, str | int | float | bool]:
    """Read `NAME:VALUE:TYPE`; the value may have colons itself."""
    name, _, rest = text.partition(":")
    value, colon, kind = rest.rpartition(":")
    fix = "give name:value:type, where type is bool, int, double or string, as in max_tokens:256:int"
    if not name or not colon:
        raise SettingsError("--request-parameters", f"{text!r} is not name:value:type", fix)
    if name in _RESERVED:
        raise SettingsError("--request-parameters", f"{name} is set by the load test itself", "leave it out")
    try:
        return name, _typed(value, kind)
    except (KeyError, ValueError) as error:
        raise SettingsError("--request-parameters", f"{value!r} is not a value of type {kind!r}", fix) from error


def _typed(value: str, kind: str) -> str | int | float | bool:
    if kind == "bool":
        return _BOOLS[value.lower()]
    if kind == "int":
        number = int(value)
        if not -(1 << 63) <= number < 1 << 64:
            raise ValueError(value)
        return number
    if kind == "double":
        return _finite(value)
    if kind == "string":
        return value
    raise KeyError(kind)


def _finite(text: str) -> float:
    value = float(text)
    if not abs(value) < float("inf"):
        raise ValueError(text)
    return value


def _tolerance(text: str) -> tuple[float, float] | None:
    """Read `RTOL,ATOL`."""
    if not text:
        return None
    try:
        rtol, atol = map(_finite, text.split(","))
        if min(rtol, atol) < 0:
            raise ValueError(text)
    except ValueError as error:
        fix = "give rtol,atol as in --tolerance 0.001,0.00001: answers may differ by atol + rtol * |right answer|"
        raise SettingsError("--tolerance", f"{text!r} is not two numbers from 0 up", fix) from error
    return rtol, atol


def _number(option: str, text: str, least: int, most: int) -> int:
    """Read a whole number; 0 if there is none."""
    if not text:
        return 0
    kind = whole(least, most)
    try:
        return kind.read(text)
    except ValueError as error:
        fix = "give such a number, or leave the option out"
        raise SettingsError(option, f"{text!r} is not {kind.words}", fix) from error


def _file(text: str) -> Path:
    path = Path(text)
    if path.suffix in (".json", ".npz"):
        return path
    what = f"{text!r} is not random, zero, or a .json or .npz file"
    raise SettingsError("--input-data", what, "name a file of perf_analyzer's JSON, or of arrays that NumPy saved")
