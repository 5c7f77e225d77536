"""The types of options that set fields of config.pbtxt: for each, a function from text to value."""

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.cli.arguments import LARGEST_INT32, MisreadError, argument

if TYPE_CHECKING:
    from builder.config import InstanceGroup, Resource


@argument("OUTPUT=FILE", example="scores=labels.txt")
def label_file(text: str) -> tuple[str, Path | None]:
    """Read `OUTPUT=FILE`, split at the first equals sign; without a file, the output has no labels any more."""
    output, equals, file = text.partition("=")
    if not (output and equals):
        raise ValueError(f"{text!r} is not of the form OUTPUT=FILE")
    return output, Path(file) if file else None


@argument("NAME=VALUE", example="team=vision, or team= to remove it")
def name_and_text(text: str) -> tuple[str, str]:
    """Read `NAME=VALUE`, split at the first equals sign; an empty value removes what has that name."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ValueError(f"{text!r} is not of the form NAME=VALUE")
    return name, value


@argument("NAME=COUNT[,global]", example="memory=4 or memory=4,global")
def resource(text: str) -> "tuple[str, Resource]":
    """Read a resource of the rate limiter."""
    from builder.config import Resource

    match = re.fullmatch(r"(?P<name>[^=]+)=(?P<count>\d{1,10})(?P<global>,global)?", text, re.ASCII)
    if match is None:
        raise ValueError(f"{text!r} is not of the form NAME=COUNT or NAME=COUNT,global")
    if int(match["count"]) > LARGEST_INT32:
        raise MisreadError(f"{match['count']} is too large", f"use {LARGEST_INT32} or less")
    return match["name"], Resource(int(match["count"]), match["global"] is not None)


@argument("[COUNTx]KIND[:GPU,...]", example="2xgpu:0,1, 4xcpu, or '1xgpu:0 name=first profile=0'")
def instance_group(text: str) -> "InstanceGroup":
    """Read a group of instances: how many, where, and after blanks its name, profiles, host policy and `passive`."""
    from builder.config import InstanceGroup

    first, *others = text.split() or [""]
    match = re.fullmatch(r"(?:(?P<count>\d{1,9})x)?(?P<kind>auto|cpu|gpu|model)(?::(?P<gpus>[\d,]+))?", first, re.ASCII)
    if match is None:
        raise ValueError(f"{text!r} is not a group of instances")
    count = int(match["count"] or 1)
    gpus = _numbers(match["gpus"] or "")
    if count == 0:
        raise MisreadError(f"{text!r} has no instances", "use 1 or more")
    if gpus and match["kind"] in ("cpu", "model"):
        raise MisreadError(f"{text!r} names GPUs, but is of the kind {match['kind']}", f"use gpu:{match['gpus']}")
    group = InstanceGroup(match["kind"], count, gpus)  # type: ignore[arg-type]
    for other in others:
        group = replace(group, **_group_setting(other))
    return group


def _group_setting(text: str) -> dict[str, Any]:
    """Read what may follow the first word of a group of instances."""
    name, _, value = text.partition("=")
    if text == "passive":
        return {"passive": True}
    if value and name in ("name", "host_policy"):
        return {name: value}
    if value and name == "profile":
        return {"profiles": _numbers(value)}
    fix = "write name=NAME, profile=N,..., host_policy=NAME or passive, or use --set for other fields of the group"
    raise MisreadError(f"{text!r} is no setting of a group of instances", fix)


def _numbers(text: str) -> tuple[int, ...]:
    """Read numbers separated by commas, each once."""
    parts = text.split(",") if text else []
    if not all(re.fullmatch(r"\d{1,9}", part, re.ASCII) for part in parts):
        raise MisreadError(f"{text!r} is not a list of numbers", "separate the numbers with commas, for example 0,1")
    numbers = tuple(map(int, parts))
    if len(set(numbers)) < len(numbers):
        raise MisreadError(f"{text!r} has a number twice", "give each number once")
    return numbers


@argument("PATH=VALUE", example="optimization.graph.level=1")
def field_value(text: str) -> tuple[str, str]:
    """Read the path of a field and its value, split at the first equals sign outside brackets and quotes."""
    match = re.match(r"""((?:[^=\[]|\[(?:[^\]"']|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')*\])+)=""", text)
    if match is None:
        raise ValueError(f"{text!r} is not of the form PATH=VALUE")
    path, value = match[1].strip(), text[match.end() :].strip()
    if not value:
        raise MisreadError(f"{text!r} has no value", f'remove a field with --unset {path}, or write {path}=""')
    _check_field(path, value)
    return path, value


@argument("PATH", example="dynamic_batching.priority_levels")
def field_path(text: str) -> str:
    """Read the path of a field to remove."""
    _check_field(text, None)
    return text


def _check_field(path: str, value: str | None) -> None:
    """Check a path and a value against Triton's message, before any work is done."""
    from builder.config import PathError, check_usage

    try:
        check_usage(path, value)
    except PathError as error:
        raise MisreadError(str(error), error.fix) from error
