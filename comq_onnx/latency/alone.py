"""A layer cut out of its model, and a model of nothing but copies of it."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import onnx
from onnx import NodeProto, OperatorSetIdProto, TensorProto, helper, numpy_helper

from comq_onnx.graph.cut import reads_of
from comq_onnx.graph.inferred import inferred
from comq_onnx.graph.tensors import FLOAT_DTYPES
from comq_onnx.records import Layer
from comq_onnx.run.data import Batch
from comq_onnx.run.session import SessionOptions, open_session
from comq_onnx.run.tapped import SHAPE_PREFIX, TappedModel
from comq_onnx.run.widen import widen

Shapes = Mapping[str, tuple[int, ...]]
Dims = tuple[int | None, ...]
Signature = tuple[object, ...]
MOST_COPIES = 64
LARGEST_CACHE = 1 << 28
"""More bytes of weights than this find no more of themselves in a cache, in int4 either"""
FIRST = "comq/first"


@dataclass(frozen=True)
class Alone:
    """A layer and what it meets on a batch."""

    layer: Layer
    nodes: tuple[NodeProto, ...]
    """Its node, and behind a MatMul the Add of its bias, which onnxruntime fuses into the product"""
    inputs: tuple[str, ...]
    """What the nodes read that is computed"""
    constants: Shapes
    """The floats that are stored, by name"""
    declared: tuple[Dims | None, ...]
    """Of each input the shape that is known without running the model, in which axes may be unknown: where
    one is, onnxruntime fuses less"""

    @property
    def bytes(self) -> int:
        """Of the weight in float."""
        return prod(self.layer.layout.shape) * FLOAT_DTYPES[self.layer.dtype].itemsize

    @property
    def met(self) -> tuple[str, ...]:
        """The tensors whose shapes must be known."""
        return *self.inputs, self.layer.output


def cut_out(model: onnx.ModelProto, layers: Sequence[Layer]) -> Iterator[Alone]:
    """Layers of the main graph with what is fused into them."""
    graph = model.graph
    stored = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    named = {node.name: node for node in graph.node}
    readers: dict[str, list[NodeProto]] = {value.name: [NodeProto()] for value in graph.output}
    for node in graph.node:
        for name in reads_of(node):
            readers.setdefault(name, []).append(node)
    dims = declared_dims(model)
    for layer in layers:
        nodes, after = [named[layer.name]], readers.get(layer.output, [])
        added = layer.op == "MatMul" and len(after) == 1 and after[0].op_type == "Add"
        if added and any(name in stored for name in after[0].input):
            nodes += after
        made = {name for node in nodes for name in node.output}
        read = dict.fromkeys(name for node in nodes for name in node.input if name and name not in made)
        constants = {name: stored[name] for name in read if name in stored}
        constants[layer.weight] = layer.layout.shape
        inputs = tuple(name for name in read if name not in constants)
        yield Alone(layer, tuple(nodes), inputs, constants, tuple(dims.get(name) for name in inputs))


def declared_dims(model: onnx.ModelProto) -> dict[str, Dims]:
    """Shapes of the tensors of the main graph that ONNX shape inference reaches."""
    graph = inferred(model).graph
    return {
        info.name: tuple(
            dim.dim_value if dim.HasField("dim_value") else None for dim in info.type.tensor_type.shape.dim
        )
        for info in (*graph.input, *graph.output, *graph.value_info)
        if info.type.tensor_type.HasField("shape")
    }


def observed_shapes(model: onnx.ModelProto, names: Collection[str], batch: Batch) -> Shapes:
    """The shapes that tensors of the main graph have on a batch."""
    if not names:
        return {}
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    tapped = TappedModel(widen(copy))
    session = open_session(tapped.with_shapes(sorted(names)), SessionOptions(optimize=False))
    found = session.run(batch)
    return {name: tuple(map(int, found[SHAPE_PREFIX + name])) for name in names}


def signature(part: Alone, shapes: Shapes) -> Signature:
    """What decides how long a layer takes, the values it holds apart."""
    layer = part.layer
    sizes = (*(shapes[name] for name in part.met), *part.constants.values())
    return layer.op, layer.layout, layer.geometry, layer.dtype, len(part.nodes), part.declared, sizes


def copies_for(part: Alone, stored: int) -> int:
    """How many copies of a layer are as large as all layers of its model, which are `stored` bytes in float.

    A layer that is run alone again and again finds its weights in the cache; in its model, the others have
    pushed them out.
    """
    return max(1, min(MOST_COPIES, round(min(stored, LARGEST_CACHE) / part.bytes)))


def row_of(
    part: Alone, copies: int, shapes: Shapes, imports: Sequence[OperatorSetIdProto]
) -> tuple[onnx.ModelProto, list[Layer]]:
    """A model of copies of a layer that read one input, and these layers.

    Of each output a slice is handed out, so that the memory of one serves the next, as it does in a model.
    Weights are as large as they are after training, as zeros and the smallest floats take other times, and no
    two are equal: onnxruntime would store them once.
    """
    dtype = FLOAT_DTYPES[part.layer.dtype]
    kind = helper.np_dtype_to_tensor_dtype(dtype)
    rng = np.random.default_rng(0)
    last = len(shapes[part.layer.output]) - 1
    nodes: list[NodeProto] = []
    constants: list[TensorProto] = [numpy_helper.from_array(np.array(0), FIRST)]
    layers, ends = [], []
    for number in range(copies):
        made = [name for node in part.nodes for name in node.output]
        own = {name: f"comq/{number}/{name}" for name in (*made, *part.constants)}
        nodes += [renamed(node, own, number) for node in part.nodes]
        for name, shape in part.constants.items():
            values = rng.standard_normal(shape, np.float32) / part.layer.layout.rows**0.5
            constants.append(numpy_helper.from_array(values.astype(dtype), own[name]))
        output = own[part.nodes[-1].output[0]]
        ends.append(helper.make_tensor_value_info(f"{output}/slice", kind, None))
        nodes.append(helper.make_node("Gather", [output, FIRST], [f"{output}/slice"], axis=last))
        names = {"weight": own[part.layer.weight], "output": own[part.layer.output]}
        layers.append(replace(part.layer, name=f"comq/{number}/{part.layer.name}", **names))
    starts = [
        helper.make_tensor_value_info(name, kind, dims)
        for name, dims in zip(part.inputs, part.declared, strict=True)
    ]
    graph = helper.make_graph(nodes, part.layer.name, starts, ends, constants)
    return helper.make_model(graph, opset_imports=imports), layers


def renamed(node: NodeProto, names: Mapping[str, str], number: int) -> NodeProto:
    """A copy of a node that reads and makes tensors of other names."""
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.name = f"comq/{number}/{node.name}"
    for field in (copy.input, copy.output):
        held = [names.get(name, name) for name in field]
        del field[:]
        field.extend(held)
    return copy


def fed(part: Alone, shapes: Shapes) -> Batch:
    """Normal numbers for what the layer reads."""
    rng, dtype = np.random.default_rng(1), FLOAT_DTYPES[part.layer.dtype]
    return {name: rng.standard_normal(shapes[name], np.float32).astype(dtype) for name in part.inputs}
