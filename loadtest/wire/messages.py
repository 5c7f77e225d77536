"""What client and server exchange over either protocol: an inference request and its answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from loadtest.wire.tensors import Array

_MOST_DIGITS = 18

Parameters: TypeAlias = Mapping[str, str | int | float | bool]
"""Parameters of a request, by name. They are not tensors; each server defines what they do."""


@dataclass(frozen=True, slots=True, eq=False)
class Input:
    """One input tensor of a request; `datatype` in KServe's spelling, as in `FP32`."""

    name: str
    datatype: str
    array: Array


@dataclass(frozen=True, slots=True, eq=False)
class InferRequest:
    """One inference request, not yet encoded.

    Attributes:
        model: The model's name.
        version: The version to ask for; empty lets the server choose.
        inputs: The tensors, in the order they are sent.
        outputs: The names of the outputs to ask for.
        binary: Whether the server takes tensors as raw bytes over HTTP. A server without that extension gets JSON.
        parameters: What is sent with the tensors, as in `{"sequence_id": 7, "sequence_start": True}`.
    """

    model: str
    version: str
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    binary: bool = True
    parameters: Parameters = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Slot:
    """One output of an answer.

    Attributes:
        name: What the server calls it.
        datatype: Its type in KServe's spelling, as in `FP32`.
        shape: Its shape.
        start: Where its bytes begin in the answer's body.
        stop: Where they end.
        unreadable: Why its values, written one by one, are none of this type; the bytes are then as the server wrote
            them. Empty if they are.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    start: int
    stop: int
    unreadable: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """What an answer says about itself. Answers with equal headings share one object, so `is` compares layouts."""

    model: str
    version: str
    slots: tuple[Slot, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer as it was received: `body` holds the outputs at the places that the layout gives."""

    layout: Layout
    body: bytes


def is_version(text: str) -> bool:
    """Return whether a text is the number of a version, as a server writes it: `7`, but not `07`, `7.0` or `v7`."""
    return text.isascii() and text.isdigit() and text[0] != "0" and len(text) <= _MOST_DIGITS
