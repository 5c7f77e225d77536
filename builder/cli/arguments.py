"""The types of options and arguments that click does not have: for each, a function from text to value.

Modules that import NumPy or ONNX are imported inside these functions, so that `--help` answers at once.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from builder.cli.faults import BadValue

if TYPE_CHECKING:
    from builder.config import Shapes
    from builder.deployment import Address, Reach

LARGEST_INT32 = 2**31 - 1
"""The largest number that an int32 field of config.pbtxt holds."""

LARGEST_INT64 = 2**63 - 1

_LONGEST_MS = 3_600_000
_HIGHEST_RATE = 1_000_000

Parsed = TypeVar("Parsed")

Read = Callable[[str], Any]
"""From the text of an argument to its value; raises ValueError with what is wrong with the text."""


class MisreadError(ValueError):
    """A text that cannot be read, with a fix for this very text.

    Args:
        what: What is wrong with it, as a clause without a full stop.
        fix: What to write instead, starting with a verb.
    """

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.fix = fix


class Argument(click.ParamType[Any]):
    """A type of argument, read by a function.

    Args:
        form: How the value is written; help shows it as the placeholder.
        read: Reads it.
        fix: How to fix a value that cannot be read, starting with a verb.
    """

    def __init__(self, form: str, read: Read, *, fix: str) -> None:
        self.name = form
        self.fix = fix
        self._read = read

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Return the form: click would write it in capitals."""
        return self.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read a text; a default is already a value and stays as it is."""
        if not isinstance(value, str):
            return value
        try:
            return self._read(value)
        except ValueError as error:
            fix = error.fix if isinstance(error, MisreadError) else self.fix
            raise BadValue(str(error), fix, param=param, ctx=ctx) from None


def argument(form: str, *, example: str = "", fix: str = "") -> Callable[[Read], Argument]:
    """Turn the decorated function into an argument type.

    Args:
        form: How the value is written, such as `OLD=NEW`.
        example: A valid value, to show in the fix.
        fix: How to fix a value that cannot be read, if an example is not enough.
    """
    return lambda read: Argument(form, read, fix=fix or f"write it as {form}, for example {example}")


def whole_number(least: int, most: int | None = LARGEST_INT32, *, form: str = "N") -> Argument:
    """Make the type of whole numbers from `least` to `most`; without an upper limit if that is None."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise ValueError(f"{text!r} is not a whole number") from None
        if number < least:
            raise MisreadError(f"{number} is too small", f"use {least} or more")
        if most is not None and number > most:
            raise MisreadError(f"{number} is too large", f"use {most} or less")
        return number

    return Argument(form, read, fix=f"use a whole number, {least} or more")


VERSION = whole_number(1, LARGEST_INT64, form="VERSION")


@argument("VERSION", fix="use the number of a version, or none")
def version_or_none(text: str) -> int | None:
    """Read the number of a version, or `none`."""
    if text == "none":
        return None
    number: int = VERSION.convert(text, None, None)
    return number


PORT = whole_number(0, 65535, form="PORT")

FILE_TO_READ = click.Path(path_type=Path, readable=False)
"""The step that reads the file checks whether it can be read, and has its own exit code for that."""


@argument("DIGEST", fix="give the 64 hexadecimal digits that sha256sum prints")
def digest(text: str) -> str:
    """Read a SHA-256 digest."""
    if re.fullmatch(r"[0-9A-Fa-f]{64}", text) is None:
        raise ValueError(f"{text!r} is not a SHA-256 digest")
    return text.lower()


@argument("OLD=NEW", example="input.1=image")
def name_pair(text: str) -> tuple[str, str]:
    """Read `OLD=NEW`, split at the last equals sign: exporters write names such as `a=b:0`."""
    old, equals, new = text.rpartition("=")
    if not (old and equals and new):
        raise ValueError(f"{text!r} is not of the form OLD=NEW")
    return old, new


@argument("NAME,...", example="image,mask")
def names(text: str) -> tuple[str, ...]:
    """Read names separated by commas."""
    return tuple(part.strip() for part in text.split(","))


@argument("N,...", fix=f"write whole numbers from 1 to {LARGEST_INT32}, separated by commas, for example 8,16")
def batch_sizes(text: str) -> tuple[int, ...]:
    """Read batch sizes separated by commas."""
    sizes = [part.strip() for part in text.split(",")]
    if not all(size.isdigit() and 1 <= int(size) <= LARGEST_INT32 for size in sizes):
        raise ValueError(f"{text!r} is not a list of batch sizes")
    return tuple(map(int, sizes))


@argument("FRACTION", fix="use a number above 0 and up to 1, for example 0.02")
def fraction(text: str) -> float:
    """Read a number above 0 and up to 1."""
    if not 0 < _number(text) <= 1:
        raise ValueError(f"{text} is not a number above 0 and up to 1")
    return _number(text)


_UNCLEAR_DROP = 0.1
"""From here up, a drop without a percent sign most likely lacks it: `0.5` is 50 points, and `0.5%` half a point."""


@argument("DROP", fix="write a part or percent of all answers, from 0 up, for example 0.005 or 0.5%")
def drop(text: str) -> float:
    """Read how much lower a figure may become: `0.005` or `0.5%`."""
    is_percent = text.endswith("%")
    number = _number(text.removesuffix("%")) / (100 if is_percent else 1)
    if not 0 <= number < 1:
        what = f"{text} is not from 0 up to less than {'100%' if is_percent else '1'}"
        is_percent_without_sign = not is_percent and 1 <= number < 100
        raise MisreadError(what, f"write {text}%, or a part such as 0.005" if is_percent_without_sign else drop.fix)
    if not is_percent and number >= _UNCLEAR_DROP:
        what = f"{text} would let the figure fall by {number:.0%}, which is most likely not meant"
        raise MisreadError(what, f"write {text}%, or {100 * number:g}% if it is")
    return number


@argument("MS", fix="use a number of milliseconds above 0, for example 20")
def milliseconds(text: str) -> float:
    """Read a time in milliseconds, and return it in seconds."""
    if not 0 < _number(text) <= _LONGEST_MS:
        raise ValueError(f"{text} is not a number above 0 and up to {_LONGEST_MS:,}")
    return _number(text) / 1000


@argument("REQUESTS_PER_S", fix="use a number of requests each second above 0, for example 300")
def rate(text: str) -> float:
    """Read how many requests are sent each second."""
    if not 0 < _number(text) <= _HIGHEST_RATE:
        raise ValueError(f"{text} is not a number above 0 and up to {_HIGHEST_RATE:,}")
    return _number(text)


@argument("N[=WEIGHT],...", example="1=8,16=1")
def row_mix(text: str) -> tuple[tuple[int, float], ...]:
    """Read how many rows requests have, as pairs of rows and weight, ascending: `4`, or `1=8,16=1`."""
    mix: dict[int, float] = {}
    for part in text.split(","):
        rows, equals, weight = part.strip().partition("=")
        if not rows.isdecimal() or not 1 <= int(rows) <= LARGEST_INT32:
            raise ValueError(f"{rows!r} is not a number of rows")
        if int(rows) in mix:
            raise MisreadError(f"{rows} rows are named twice", f"give {rows} rows one weight")
        mix[int(rows)] = _number(weight) if equals else 1.0
        if not 0 < mix[int(rows)] < float("inf"):
            raise ValueError(f"{weight} is not a weight above 0")
    return tuple(sorted(mix.items()))


@argument("METRIC", fix="name a figure or a function, for example f1 or metrics:mean_average_precision")
def metric(text: str) -> str:
    """Read the name of a figure, or of a function."""
    if ":" in text:
        return text
    from builder.proof import Wanted

    Wanted.parse(text)
    return text


@argument("FACTOR", fix="use a number from 1 up, for example 10")
def factor(text: str) -> float:
    """Read a number from 1 up."""
    if not _number(text) >= 1:
        raise ValueError(f"{text} is less than 1")
    return _number(text)


@argument("FACTOR", fix="use a number from 0 to 100, for example 1.1")
def speedup(text: str) -> float:
    """Read a number from 0 to 100."""
    if not 0 <= _number(text) <= 100:
        raise ValueError(f"{text} is not a number from 0 to 100")
    return _number(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number") from None


@argument("DURATION", fix="write seconds, minutes or hours, for example 30s, 5m or 1h")
def seconds(text: str) -> float:
    """Read a duration: `30s`, `5m`, `1h`, or plain seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text)
    if match is None:
        raise ValueError(f"{text!r} is not a duration")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


@argument("SIZE", fix="write megabytes or gigabytes, for example 500MB or 4GB")
def size(text: str) -> int:
    """Read a number of bytes, in the decimal units of `format_bytes`: `500MB`, `4GB`, or plain bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", text.upper(), re.ASCII)
    if match is None:
        raise ValueError(f"{text!r} is not a size")
    unit: int = 1000 ** ["", "K", "M", "G", "T"].index(match[2])
    return round(min(float(match[1]) * unit, LARGEST_INT64))


@argument("RELEASE", example="26.10")
def release(text: str) -> str:
    """Read the release of a Triton container whose limits are known."""
    from builder.lowering import TARGETS

    found = text.removesuffix("-py3")
    if found not in TARGETS:
        what = f"Triton release {text!r} is unknown"
        raise MisreadError(what, f"use {', '.join(TARGETS)}, or leave out --triton to publish without this check")
    return found


@argument("NAME", fix="use letters, digits, and the characters - _ . as in admin-key, and no -bin at the end")
def header_name(text: str) -> str:
    """Read the name of a header that both HTTP and gRPC allow."""
    from builder.server import read_header

    return read_header(text)


@argument("FOLDER", fix="give a folder; serve and demo do not read buckets")
def folder(text: str) -> Path:
    """Read the path of a model repository on this machine."""
    if "://" in text:
        raise ValueError(f"{text!r} is a URL")
    return Path(text)


@argument("FOLDER|URL", example="model_repository or s3://bucket/models")
def folder_or_bucket(text: str) -> Path | str:
    """Read a model repository: a folder's path or a bucket's URL."""
    return text if "://" in text else Path(text)


@argument("INPUT=MIN:OPT:MAX", example="ids=1x16:8x128:32x512")
def profile(text: str) -> "tuple[str, Shapes]":
    """Read the smallest, the usual and the largest shape of an input."""
    from builder.config import profiles

    return profiles.parse(text)


@argument("grpc://HOST:PORT", example="grpc://127.0.0.1:8001")
def address(text: str) -> "Address":
    """Read the address of a server's gRPC endpoint."""
    from builder.deployment import Address

    return parsed(Address.parse, text)


@argument("N|N%,...", example="1,25%,100%")
def waves(text: str) -> "tuple[Reach, ...]":
    """Read how many servers have a version after each wave."""
    from builder.deployment import parse_waves

    return parse_waves(text)


def parsed(parse: Callable[[str], Parsed], text: str) -> Parsed:
    """Read with a parser whose error may say, after a colon, how to fix this very text."""
    try:
        return parse(text)
    except ValueError as error:
        what, colon, fix = str(error).rpartition(": ")
        if colon:
            raise MisreadError(what, fix) from None
        raise
