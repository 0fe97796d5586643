"""Mutations of a protobuf message, of its bytes or of any field in it, whatever the message is."""

import random
from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import ModelProto

INTEGERS = (0, 1, -1, 2, 3, 7, 8, 9, 10, 11, 16, 17, 18, 19, 21, 22, 23, 100, 1000, 65536)
INTEGERS += (2**31 - 1, -(2**31), 2**32, 2**40, 2**62, 2**63 - 1, -(2**63))
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e-30, 3.4e38, float("inf"), float("-inf"), float("nan"))
TEXTS = ("", " ", "x", "a", "../x", "/etc/passwd", "com.evil", "ai.onnx.ml", "com.microsoft", "q" * 3000)
TEXTS += (
    "\x1b[31mred\x1b[0m",
    "line\nbreak",
    "[bold]b[/nothing]",
    "<script>alert(1)</script>",
    "ünïcode",
    "\x00",
)
OPERATORS = (
    "MatMul",
    "Gemm",
    "Conv",
    "ConvTranspose",
    "Gather",
    "Add",
    "Relu",
    "If",
    "Loop",
    "Scan",
    "Reshape",
)
OPERATORS += (
    "Constant",
    "QuantizeLinear",
    "DequantizeLinear",
    "Identity",
    "Transpose",
    "Softmax",
    "NoSuchOp",
)
Field = tuple[Message, FieldDescriptor]


def mutate_bytes(data: bytes, other: bytes, rng: random.Random) -> tuple[str, bytes]:
    """What was done, and the bytes after it; `other` is another file's, to splice with."""
    how = rng.choice(("truncated", "flipped", "spliced", "inserted", "removed", "overwritten", "huge length"))
    spot, end = rng.randrange(len(data)), rng.randrange(len(data))
    if how == "truncated":
        return how, data[:spot]
    if how == "flipped":
        changed = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 8, 64))):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        return how, bytes(changed)
    if how == "spliced":
        return how, data[:spot] + other[rng.randrange(len(other)) :]
    if how == "inserted":
        return how, data[:spot] + rng.randbytes(rng.choice((1, 4, 100))) + data[spot:]
    if how == "removed":
        return how, data[: min(spot, end)] + data[max(spot, end) :]
    if how == "overwritten":
        return how, data[:spot] + rng.randbytes(8) + data[spot + 8 :]
    # A varint of five to nine bytes where a length may have been.
    return how, data[:spot] + b"\xff" * rng.choice((4, 8)) + b"\x7f" + data[spot + 1 :]


def mutate_fields(model: ModelProto, rng: random.Random) -> str:
    """Change one to four fields anywhere in the message; says which."""
    said = []
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        # Fields of large lists must not crowd out the others: first a message, then a field of it.
        messages = list(_messages(model))
        message = rng.choice(messages)
        field = rng.choice(message.DESCRIPTOR.fields)
        said.append(f"{message.DESCRIPTOR.name}.{field.name} {_change(model, (message, field), rng)}")
    return ", ".join(said)


def _messages(message: Message) -> Iterator[Message]:
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if field.is_repeated else [value]:
                yield from _messages(inner)


def _change(model: ModelProto, at: Field, rng: random.Random) -> str:
    message, field = at
    if not field.is_repeated:
        if rng.random() < 0.25:
            message.ClearField(field.name)
            return "cleared"
        if field.message_type is not None:
            return _grafted(model, at, rng)
        value = scalar(model, field, rng)
        return _set(lambda: setattr(message, field.name, value), value)
    items = getattr(message, field.name)
    how = rng.choice(("delete", "double", "swap", "set", "add", "add", "empty", "shuffle"))
    if how in ("set", "add") or not len(items):
        return _grafted(model, at, rng) if field.message_type is not None else _element(model, at, how, rng)
    if how == "delete":
        del items[rng.randrange(len(items))]
    elif how == "double":
        items.extend([items[rng.randrange(len(items))]])
    elif how == "empty":
        message.ClearField(field.name)
    else:
        kept = list(items)
        if how == "swap":
            i, j = rng.randrange(len(kept)), rng.randrange(len(kept))
            kept[i], kept[j] = kept[j], kept[i]
        else:
            rng.shuffle(kept)
        copies = [_copy(item) for item in kept]
        message.ClearField(field.name)
        items = getattr(message, field.name)
        items.extend(copies)
    return how


def _copy(item: Any) -> Any:
    if not isinstance(item, Message):
        return item
    copy = type(item)()
    copy.CopyFrom(item)
    return copy


def _element(model: ModelProto, at: Field, how: str, rng: random.Random) -> str:
    message, field = at
    items, value = getattr(message, field.name), scalar(model, field, rng)
    if how == "set" and len(items):
        return _set(lambda: items.__setitem__(rng.randrange(len(items)), value), value)
    return _set(lambda: items.append(value), value)


def _grafted(model: ModelProto, at: Field, rng: random.Random) -> str:
    """Copy a message of the same kind from elsewhere in the model into the field."""
    message, field = at
    same = [m for m in _messages(model) if m.DESCRIPTOR is field.message_type]
    if not same:
        if field.is_repeated:
            getattr(message, field.name).add()
        else:
            getattr(message, field.name).SetInParent()
        return "made empty"
    copy = _copy(rng.choice(same))
    if field.is_repeated:
        getattr(message, field.name).append(copy)
    else:
        getattr(message, field.name).CopyFrom(copy)
    return "grafted"


def _set(action: Callable[[], object], value: Any) -> str:
    try:
        action()
    except (ValueError, TypeError, OverflowError):  # out of the field's range
        return "kept"
    return f"= {str(value)[:24]!r}"


def scalar(model: ModelProto, field: FieldDescriptor, rng: random.Random) -> Any:
    """A value that a field of this type may hold."""
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING:
        if field.type == FieldDescriptor.TYPE_BYTES:
            return rng.randbytes(rng.choice((0, 1, 3, 4, 64, 1000)))
        names = sorted({name for node in model.graph.node for name in (*node.input, *node.output, node.name)})
        return rng.choice((*names, *rng.choice((names, TEXTS, OPERATORS)), "x"))
    if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return rng.choice(FLOATS)
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return rng.choice([value.number for value in field.enum_type.values])
    return rng.choice(INTEGERS)
