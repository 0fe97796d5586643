"""Models made to hurt: each function takes a whole model and a source of chance, and breaks one thing."""

import math
import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper

from fuzzing.attempt import CANARY, CANARY_MODULE

HUGE = (2**31, 2**40, 2**62, 2**63 - 1, -1, -(2**63), 0)
DATA = "weights.bin"


def dims(model: ModelProto, rng: random.Random, folder: Path) -> str:
    """A dimension of a weight or a value that is huge, negative or nought."""
    tensors = [tensor.dims for tensor in model.graph.initializer if tensor.dims]
    value = rng.choice(HUGE)
    if tensors and rng.random() < 0.6:
        shape = rng.choice(tensors)
        shape[rng.randrange(len(shape))] = value
        return f"a weight's dimension is {value}"
    infos = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    info = rng.choice(infos)
    sizes = info.type.tensor_type.shape.dim
    if sizes:
        sizes[rng.randrange(len(sizes))].dim_value = value
    return f"a dimension of {info.name} is {value}"


def huge_but_consistent(model: ModelProto, rng: random.Random, folder: Path) -> str:
    """A weight whose declared size no machine holds, its data left out."""
    tensor = rng.choice(model.graph.initializer or [TensorProto()])
    name = tensor.name
    tensor.Clear()
    tensor.name, tensor.data_type = name, rng.choice((1, 2, 7, 10, 22))
    tensor.dims.extend(rng.choice(((2**20, 2**20), (2**31, 2**31), (2**62,), (2**40, 8), (2**62, 2**62, 0))))
    return f"a weight of {list(tensor.dims)} without data"


def raw_length(model: ModelProto, rng: random.Random, folder: Path) -> str:
    """Raw data that are longer or shorter than their shape."""
    tensor = rng.choice(model.graph.initializer or [TensorProto()])
    cut = rng.choice((1, 2, 3, 4, len(tensor.raw_data)))
    tensor.raw_data = tensor.raw_data[:-cut] if rng.random() < 0.6 else tensor.raw_data + bytes(cut)
    return "raw data of another length"


def typed_length(model: ModelProto, rng: random.Random, folder: Path) -> str:
    """Data in a list of numbers, of the wrong length or in the wrong list."""
    tensor = rng.choice(model.graph.initializer or [TensorProto()])
    count = min(math.prod(tensor.dims), 1 << 16) + rng.choice((-1, 1, 5, 0))
    tensor.ClearField("raw_data")
    getattr(tensor, rng.choice(("float_data", "int32_data", "int64_data", "double_data"))).extend(
        [1] * max(0, count)
    )
    return "typed data of another length"


def dtype(model: ModelProto, rng: random.Random, folder: Path) -> str:
    """An element type that does not fit."""
    tensor = rng.choice(model.graph.initializer or [TensorProto()])
    tensor.data_type = rng.choice((*range(27), 99, -1, 8, 8))
    return f"a weight's element type is {tensor.data_type}"


def strings(model: ModelProto, rng: random.Random, folder: Path) -> str:
    """A weight of texts."""
    tensor = rng.choice(model.graph.initializer or [TensorProto()])
    count = min(math.prod(tensor.dims), 4096)
    tensor.ClearField("raw_data")
    tensor.data_type = TensorProto.STRING
    tensor.string_data.extend([b"\xff\x00text"] * max(0, count))
    return "a weight of texts"


def values(model: ModelProto, rng: random.Random, folder: Path) -> str:
    """Weights that are not finite, or next to overflow or nothing."""
    floats = [t for t in model.graph.initializer if t.data_type in (1, 10) and t.raw_data]
    if not floats:
        return "nothing"
    tensor = rng.choice(floats)
    array = numpy_helper.to_array(tensor).copy().reshape(-1)
    number = rng.choice((np.nan, np.inf, -np.inf, 3e38, 1e-42, 0.0, 6e4))
    with np.errstate(over="ignore"):
        array[rng.choice((slice(None), slice(0, 1), slice(0, len(array), 3)))] = number
    tensor.CopyFrom(numpy_helper.from_array(array.reshape(tuple(tensor.dims)), tensor.name))
    return f"a weight of {number}"


def empty(model: ModelProto, rng: random.Random, folder: Path) -> str:
    """A weight without elements."""
    tensor = rng.choice(model.graph.initializer or [TensorProto()])
    shape = list(tensor.dims) or [1]
    shape[rng.randrange(len(shape))] = 0
    tensor.CopyFrom(numpy_helper.from_array(np.zeros(shape, np.float32), tensor.name))
    return f"a weight of shape {shape}"


def cycle(model: ModelProto, rng: random.Random, folder: Path) -> str:
    """A node that reads what is made behind it, or what it makes itself."""
    node = rng.choice(model.graph.node)
    later = rng.choice(model.graph.node)
    if node.input and later.output:
        node.input[rng.randrange(len(node.input))] = rng.choice(later.output)
    return "a cycle"


def names(model: ModelProto, rng: random.Random, folder: Path) -> str:
    """Names that are doubled, missing, dangling or unprintable."""
    node, other = rng.choice(model.graph.node), rng.choice(model.graph.node)
    how = rng.choice(("doubled output", "dangling output", "missing input", "unprintable", "doubled input"))
    if how == "doubled output" and node.output and other.output:
        node.output[0] = other.output[0]
    elif how == "dangling output":
        model.graph.output[0].name = "nowhere"
    elif how == "missing input" and node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice(("nowhere", ""))
    elif how == "doubled input":
        model.graph.input.extend([model.graph.input[0]])
    else:
        bad = rng.choice(
            ("\x1b[2Jw", "a\nb", "[/red]", "<script>alert(1)</script>", "../../w", "\x00", "w" * 5000)
        )
        for one in model.graph.node:
            one.name = bad
            for slot in (one.input, one.output):
                slot[:] = [name + bad if name else name for name in slot]
        for info in (*model.graph.input, *model.graph.output, *model.graph.initializer):
            info.name += bad
    return f"names: {how}"


def attributes(model: ModelProto, rng: random.Random, folder: Path) -> str:
    """An attribute of another value: negative axes, pads, groups, permutations that are none."""
    known = (
        "axis",
        "axes",
        "perm",
        "group",
        "pads",
        "strides",
        "kernel_shape",
        "dilations",
        "to",
        "transA",
        "transB",
    )
    known += (
        "keepdims",
        "alpha",
        "epsilon",
        "hidden_size",
        "auto_pad",
        "allowzero",
        "block_size",
        "ceil_mode",
    )
    node = rng.choice(model.graph.node)
    name = rng.choice((*known, *(attribute.name for attribute in node.attribute)))
    for at, attribute in reversed(list(enumerate(node.attribute))):
        if attribute.name == name:
            del node.attribute[at]
    number = rng.choice((-1, 0, 1, 2, 3, -7, 99, 2**31, 2**62, -(2**63)))
    value = rng.choice(
        (number, [number], [number] * 4, [0, 0], [], float(rng.choice((0, -1e30, 1e30))), "SAME_UPPER")
    )
    attribute = (
        AttributeProto(name=name, type=AttributeProto.INTS)
        if value == []
        else helper.make_attribute(name, value)
    )
    node.attribute.append(attribute)
    return f"{node.op_type}.{name} = {value}"


def operators(model: ModelProto, rng: random.Random, folder: Path) -> str:
    """Another operator, domain or opset."""
    node = rng.choice(model.graph.node)
    node.op_type = rng.choice(
        ("MatMul", "Gemm", "Conv", "Gather", "ConvTranspose", "Nothing", "", "If", "Loop")
    )
    node.domain = rng.choice(("", "", "ai.onnx", "com.microsoft", "made.up", "ai.onnx.ml"))
    if rng.random() < 0.4:
        version = rng.choice((0, -1, 1, 6, 7, 8, 11, 13, 21, 25, 26, 99, 2**62))
        model.opset_import.append(
            helper.make_opsetid(rng.choice(("", "ai.onnx", "made.up", "com.microsoft")), 1)
        )
        model.opset_import[-1].version = version
    return f"operator {node.domain}.{node.op_type}"


def nesting(model: ModelProto, rng: random.Random, folder: Path) -> str:
    """Graphs in graphs, many levels deep."""
    depth = rng.choice((3, 10, 20, 30))  # protobuf reads no more than 100 messages in each other
    out = helper.make_tensor_value_info("deep", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["deep"])], "deepest", [], [out])
    go = numpy_helper.from_array(np.array(True), "go")
    for level in range(depth):
        node = helper.make_node(
            "If", ["go"], ["deep"], then_branch=graph, else_branch=graph if level < 3 else None
        )
        graph = helper.make_graph([node], f"level{level}", [], [out])
    model.graph.initializer.append(go)
    model.graph.node.extend(graph.node)
    return f"{depth} graphs in each other"


def chains(model: ModelProto, rng: random.Random, folder: Path) -> str:
    """Very many nodes in a row, on a weight or behind the input."""
    count = rng.choice((200, 2000))
    start = rng.choice(("x", *(tensor.name for tensor in model.graph.initializer)))
    kind = rng.choice(("Identity", "Transpose", "Cast", "Relu"))
    more = {"to": 1} if kind == "Cast" else {}
    made = [helper.make_node(kind, [f"c{i}" if i else start], [f"c{i + 1}"], **more) for i in range(count)]
    for node in model.graph.node:
        node.input[:] = [f"c{count}" if name == start else name for name in node.input]
    nodes = [*made, *model.graph.node]
    if rng.random() < 0.3:
        nodes.reverse()
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return f"{count} times {kind} behind {start}"


def recursion(model: ModelProto, rng: random.Random, folder: Path) -> str:
    """Functions that call themselves or each other, or that double what they call."""
    how = rng.choice(("itself", "each other", "doubling"))
    count = {"itself": 1, "each other": 2, "doubling": rng.choice((10, 24, 40))}[how]
    for i in range(count):
        calls = [f"f{(i + 1) % count}"] if how != "doubling" else [f"f{i + 1}"] * 2
        body = [helper.make_node("Relu", ["a"], ["b0"])]
        for j, name in enumerate(calls):
            last = how == "doubling" and i == count - 1
            domain, kind = ("", "Relu") if last else ("local", name)
            body.append(helper.make_node(kind, [f"b{j}"], [f"b{j + 1}"], domain=domain))
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
        made = helper.make_function("local", f"f{i}", ["a"], [f"b{len(calls)}"], body, opsets)
        model.functions.append(made)
    model.opset_import.append(helper.make_opsetid("local", 1))
    first = model.graph.node[0]
    model.graph.node.insert(0, helper.make_node("f0", [first.input[0]], ["called"], domain="local"))
    model.graph.node[1].input[0] = "called"
    return f"functions that call {how}"


def external(model: ModelProto, rng: random.Random, folder: Path) -> str:
    """Weights in files: that lie elsewhere, are too short, are links, or whose numbers are no numbers."""
    tensors = [t for t in model.graph.initializer if t.raw_data]
    if not tensors:
        return "nothing"
    tensor = rng.choice(tensors)
    length = len(tensor.raw_data)
    (folder / DATA).write_bytes(tensor.raw_data)
    outside = folder.parent / "outside.bin"
    outside.write_bytes(tensor.raw_data)
    if rng.random() < 0.5:
        os.symlink(outside, folder / "link.bin")
        os.symlink(folder.parent, folder / "up")
    places = (DATA, "../outside.bin", str(outside), "link.bin", "up/outside.bin", "..\\outside.bin", "")
    places += (
        "/dev/zero",
        "/proc/self/mem",
        "/etc/passwd",
        ".",
        "none.bin",
        f"./{DATA}",
        f"x/../{DATA}",
        DATA + "\x00",
    )
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entries = {"location": rng.choice((DATA, *places))}
    if rng.random() < 0.6:
        entries["offset"] = rng.choice(("0", "-1", "4", str(length), str(2**62), "1e3", "x", "", "0x10", "٣"))
    if rng.random() < 0.6:
        entries["length"] = rng.choice((str(length), "0", "-1", str(length + 1), str(2**62), "nan", "1.0"))
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    return f"external data {entries}"


def metadata(model: ModelProto, rng: random.Random, folder: Path) -> str:
    """Metadata that name code, files or preparations that are none."""
    code = f"{CANARY_MODULE}:call"
    run = f"__import__('os').system('touch {CANARY}')"
    values = (
        code,
        run,
        "{" * 3000,
        f"['{run}']",
        "{'names': " + run + "}",
        "[640, 640",
        "(1e999, -3)",
        "\x00",
    )
    values += (f"preset={code}", "resize=exact,size=99999999x99999999", "[0.1] * 10**9", "9" * 5000)
    keys = (
        "preprocess",
        "calibration_data",
        "metric",
        "imgsz",
        "names",
        "task",
        "character",
        "comq_onnx.recipe",
    )
    keys += (
        "Image.BitmapPixelFormat",
        "Image.ColorSpaceGamma",
        "Image.NominalPixelRange",
        "stride",
        "comq_onnx",
    )
    for key in rng.sample(keys, 5):
        model.metadata_props.add(key=key, value=rng.choice(values))
    return "metadata that name code"


def nothing(model: ModelProto, rng: random.Random, folder: Path) -> str:
    """Parts of the model left out."""
    part = rng.choice(("graph", "ir_version", "opset_import", "node", "input", "output", "initializer"))
    (model if part in ("graph", "ir_version", "opset_import") else model.graph).ClearField(part)
    return f"no {part}"


TRAPS: tuple[Callable[[ModelProto, random.Random, Path], str], ...] = (
    *(dims, huge_but_consistent, raw_length, typed_length, dtype, strings, values, empty, cycle, names),
    *(attributes, attributes, operators, nesting, chains, recursion, external, external, metadata, nothing),
)
