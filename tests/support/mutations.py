"""Damage models as no exporter would: fields of the file changed, repeated, exchanged or left out."""

from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

NUMBERS = (0, 1, -1, 2, 3, 7, 64, 65, 127, 1000, -2, -128, 2**31 - 1, -(2**31), 2**31, 2**40, 2**62, 2**63 - 1)
FLOATS = (0.0, -1.0, 1e38, 1e-40, float("inf"), float("nan"))
TEXTS = (
    "",
    "x",
    "y",
    "\0",
    "a\nb",
    "\x1b[31m",
    "n" * 5000,
    "ai.onnx",
    "com.microsoft",
    "Relu",
    "If",
    "axis",
    "../x",
    "?",
)
BYTES = (b"", b"\0", b"\xff\xfe", b"NOTSET", bytes(16), bytes(33))
ATTRIBUTES = (1, 2**62, 1.5, "s", [1, 2], [1.5], ["a"])

Kind = str
"""The name of a message of ONNX, such as `NodeProto`."""

LIKELY: tuple[Kind, ...] = ("NodeProto", "AttributeProto", "TensorProto", "ValueInfoProto", "Dimension", "GraphProto")


def damaged(model: onnx.ModelProto, rng: Random) -> bytes:
    """Return a copy of a model with up to four changes of its fields, or of its bytes."""
    how = rng.random()
    if how < 0.1:
        return _with_wrong_bytes(model.SerializeToString(), rng)
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    for _ in range(rng.choice((1, 1, 2, 4))):
        rng.choice((_change_field, _change_field, _change_node))(copy, rng)
    return copy.SerializeToString()


def _with_wrong_bytes(content: bytes, rng: Random) -> bytes:
    if rng.random() < 0.5:
        return content[: rng.randrange(len(content))]
    wrong = bytearray(content)
    for _ in range(rng.choice((1, 3, 20))):
        wrong[rng.randrange(len(wrong))] = rng.randrange(256)
    return bytes(wrong)


def _messages(message: Message) -> Iterator[Message]:
    stack = [message]
    while stack:
        message = stack.pop()
        yield message
        for field, value in message.ListFields():
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                stack.extend(value if field.is_repeated else [value])


def _of_kind(model: onnx.ModelProto, kind: Kind) -> list[Any]:
    return [message for message in _messages(model) if message.DESCRIPTOR.name == kind]


def _change_field(model: onnx.ModelProto, rng: Random) -> None:
    message = rng.choice(_of_kind(model, rng.choice(LIKELY)) or [model])
    given = [field for field, _ in message.ListFields()]
    field = rng.choice(given if given and rng.random() < 0.6 else list(message.DESCRIPTOR.fields))
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        _change_messages(model, message, field, rng)
    elif field.is_repeated:
        _change_list(getattr(message, field.name), lambda: _value(field, rng), rng)
    elif rng.random() < 0.25:
        message.ClearField(field.name)
    else:
        setattr(message, field.name, _value(field, rng))


def _change_messages(model: onnx.ModelProto, message: Any, field: FieldDescriptor, rng: Random) -> None:
    """Leave out a message, or put a copy of another of its kind in its place or beside it."""
    others = [other for other in _messages(model) if field.message_type == other.DESCRIPTOR]
    other = rng.choice(others).SerializeToString() if others and rng.random() < 0.8 else b""
    value = getattr(message, field.name)
    if not field.is_repeated:
        message.ClearField(field.name)
        if rng.random() < 0.6:
            getattr(message, field.name).MergeFromString(other)
    elif len(value) and rng.random() < 0.5:
        del value[rng.randrange(len(value))]
    else:
        value.add().MergeFromString(other)


def _change_list(values: Any, make: Callable[[], Any], rng: Random) -> None:
    how = rng.random()
    if len(values) and how < 0.3:
        del values[rng.randrange(len(values))]
    elif len(values) and how < 0.7:
        values[rng.randrange(len(values))] = make()
    else:
        values.extend([make()] * rng.choice((1, 1, 70)))


def _change_node(model: onnx.ModelProto, rng: Random) -> None:
    """Take inputs, outputs and attributes from a node, or give it more, or others."""
    node = rng.choice(_of_kind(model, "NodeProto") or [onnx.NodeProto()])
    names = [name for value in _of_kind(model, "NodeProto") for name in value.output] or ["x"]
    how = rng.random()
    if how < 0.4:
        _change_list(node.input, lambda: rng.choice(("", *names)), rng)
    elif how < 0.5:
        _change_list(node.output, lambda: rng.choice(("", "extra")), rng)
    elif how < 0.6 and node.attribute:
        rng.choice(node.attribute).ref_attr_name = "other"
    elif node.attribute:
        attribute = rng.choice(node.attribute)
        attribute.CopyFrom(onnx.helper.make_attribute(attribute.name or "a", rng.choice(ATTRIBUTES)))


def _value(field: FieldDescriptor, rng: Random) -> Any:
    match field.type:
        case FieldDescriptor.TYPE_STRING:
            return rng.choice(TEXTS)
        case FieldDescriptor.TYPE_BYTES:
            return rng.choice(BYTES)
        case FieldDescriptor.TYPE_FLOAT | FieldDescriptor.TYPE_DOUBLE:
            return rng.choice(FLOATS)
        case FieldDescriptor.TYPE_ENUM:
            return rng.choice([value.number for value in field.enum_type.values] if field.enum_type else [0])
        case FieldDescriptor.TYPE_INT32:
            return rng.choice((rng.randrange(30), 99, -1, 2**31 - 1))
        case FieldDescriptor.TYPE_UINT64:
            return abs(rng.choice(NUMBERS))
    return rng.choice(NUMBERS)
