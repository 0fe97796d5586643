"""Which nodes of a float32 graph compute in half precision, and why the others do not.

A float16 has 11 significant bits and ends at 65504. Sums of squares, exponentials and normalisations stay in
float32, and so does whatever is seen to leave the range; all else loses about 5e-4 for each operator.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, TensorProto

from comq_onnx.graph.cut import reads_of
from comq_onnx.graph.inferred import inferred
from comq_onnx.graph.tensors import Stored

LIMIT = 3e4
"""Largest absolute value of a sample that a float16 is trusted with: 65504 is the end."""
LEAST = 2.0**-13
"""A tensor whose largest absolute value is below this loses bits: float16 counts in steps of 2**-24 there."""
ROUNDING = 2.0**-10
"""Relative L2 error of a constant in float16 above which it stays float32; normal numbers have 2**-12."""
FLOAT_OPS = frozenset(
    ("Attention", "BatchNormalization", "CastLike", "CumSum", "Exp", "EyeLike", "GroupNormalization")
    + ("InstanceNormalization", "LayerNormalization", "LogSoftmax", "LpNormalization")
    + ("MeanVarianceNormalization", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform")
    + ("RandomUniformLike", "Range", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceSum")
    + ("ReduceSumSquare", "RMSNormalization", "ScatterElements", "ScatterND", "Softmax")
    + ("SoftmaxCrossEntropyLoss", "Bernoulli")
)
"""Operators that lose too much in half precision, have no kernel for it in onnxruntime (sums of Scatter), or
whose type is an attribute that nobody gains from."""
ANY = frozenset(("Cast", "Shape", "Size"))
"""Operators that read floats of either type."""
FOLLOWERS = frozenset(("Cast", "ConstantOfShape", "DequantizeLinear"))
"""Operators that make floats of whatever type their readers want."""
MOVERS = frozenset(
    ("Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Tile", "Transpose")
    + ("Unsqueeze", "Where")
)
"""Operators whose output is as large as their input."""
FLOAT_SLOTS = {"Resize": (1, 2)}
"""Inputs that stay float32 in any case: coordinates, not values."""
RANGE = "a constant beyond the range of float16"
SMALL = "a constant too small for float16"
BEYOND = "it reads what such a constant makes"
LARGE = f"values above {LIMIT:g}"
FAINT = f"values below {LEAST:g}"
UNKNOWN = "an operator that ONNX does not know"
UNTYPED = "a tensor of unknown type"
BODIES = "bodies of control flow"
TELLING = (LARGE, FAINT, UNKNOWN, UNTYPED, BODIES)
"""Reasons that lie in the model, not in the operator."""


@dataclass(frozen=True)
class Facts:
    """What is known of the main graph of a model before it is changed."""

    nodes: Sequence[NodeProto]
    opset: int
    types: Mapping[str, int]
    """Element types of the tensors; those that are not known are absent"""
    extremes: Mapping[str, float]
    """Largest absolute value of tensors, as far as they were observed"""
    constants: Mapping[str, TensorProto]
    """Initializers; those that are listed as inputs, which may be fed instead, are not among them"""
    producers: Mapping[str, int]
    """Place in the graph of the node that makes a tensor"""
    readers: Mapping[str, Sequence[int]]
    """Places of the nodes that read a tensor, or whose bodies do"""
    pinned: frozenset[str]
    """Tensors that keep name and type: outputs of the graph, and what bodies of If and Loop read"""

    def is_float(self, name: str) -> bool:
        return self.types.get(name) == TensorProto.FLOAT

    def unfit(self, names: Iterable[str]) -> str:
        """Why float16 does not hold one of these tensors, as far as was seen; NaN counts as too large."""
        seen = [self.extremes.get(name, 0.0) for name in names if self.is_float(name)]
        if not all(value <= LIMIT for value in seen):
            return LARGE
        return FAINT if any(0 < value < LEAST for value in seen) else ""


def facts_of(proto: onnx.ModelProto, extremes: Mapping[str, float]) -> Facts:
    """Look at the main graph of `proto`; shapes and types are inferred."""
    graph = proto.graph
    readers: dict[str, list[int]] = {}
    for place, node in enumerate(graph.node):
        for name in reads_of(node):
            readers.setdefault(name, []).append(place)
    fed = {value.name for value in graph.input}
    inner = {name for node in graph.node if has_body(node) for name in reads_of(node)}
    return Facts(
        list(graph.node),
        next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 1),
        element_types(proto),
        extremes,
        {tensor.name: tensor for tensor in graph.initializer if tensor.name not in fed},
        {name: place for place, node in enumerate(graph.node) for name in node.output if name},
        readers,
        frozenset(inner | {value.name for value in graph.output}),
    )


def element_types(proto: onnx.ModelProto) -> dict[str, int]:
    """`TensorProto` element type by name of the tensors of the main graph, where it can be known."""
    graph = inferred(proto).graph
    infos = (*graph.input, *graph.output, *graph.value_info)
    types = {info.name: info.type.tensor_type.elem_type for info in infos if info.type.tensor_type.elem_type}
    return types | {tensor.name: tensor.data_type for tensor in proto.graph.initializer}


def reasons(facts: Facts) -> dict[int, str]:
    """Why each node with float32 tensors that stays as it is does so, by its place in the graph."""
    kept: dict[int, str] = {}
    beyond: set[str] = set()
    cores = norm_cores(facts)
    for place, node in enumerate(facts.nodes):
        floats = [name for name in (*node.input, *node.output) if facts.is_float(name)]
        if not floats and not has_body(node) and all(n in facts.types for n in named_tensors(node)):
            continue
        why = why_float(node, facts, place in cores)
        read = beyond.intersection(node.input)
        if not why and read:
            why = BEYOND
        if why in (RANGE, SMALL) or (read and node.op_type in MOVERS):
            beyond.update(node.output)
        if why:
            kept[place] = why
    _follow_readers(facts, kept)
    return kept


def why_float(node: NodeProto, facts: Facts, in_norm: bool) -> str:
    """Why a node is not to compute in half precision; empty where it may."""
    if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type, facts.opset, ""):
        return UNKNOWN
    if has_body(node):
        return BODIES
    if any(name not in facts.types for name in named_tensors(node)):
        return UNTYPED
    if node.op_type in FLOAT_OPS:
        return f"{node.op_type} computes in float32"
    if in_norm:
        return "part of a normalisation"
    if why := facts.unfit((*node.input, *node.output)):
        return why
    stays = node.op_type not in ANY and node.op_type != "QuantizeLinear"
    if stays and not any(facts.is_float(name) for name in node.output):
        return "it compares"
    return _constants(node, facts)


def named_tensors(node: NodeProto) -> list[str]:
    """Inputs and outputs that are not left out."""
    return [name for name in (*node.input, *node.output) if name]


def has_body(node: NodeProto) -> bool:
    return any(a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for a in node.attribute)


def takes_half(node: NodeProto, opset: int) -> tuple[list[bool], list[bool]]:
    """Whether ONNX allows float16 for each input and each output of a node."""
    schema = onnx.defs.get_schema(node.op_type, opset, "")
    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}

    def free(formals: Sequence, count: int) -> list[bool]:
        chosen = [formals[min(i, len(formals) - 1)] for i in range(count)]
        return ["tensor(float16)" in allowed.get(f.type_str, [f.type_str]) for f in chosen]

    inputs = free(schema.inputs, len(node.input))
    for index in FLOAT_SLOTS.get(node.op_type, ()):
        inputs[index : index + 1] = [False] * len(inputs[index : index + 1])
    return inputs, free(schema.outputs, len(node.output))


def storable(tensor: TensorProto) -> str:
    """Why a float32 constant is not to be stored in float16; empty where it may be.

    A few values of a large tensor may vanish; infinities are kept as they are.
    """
    values = Stored(tensor).load().astype(np.float64)
    values = values[np.isfinite(values)]
    if values.size and np.abs(values).max() > np.finfo(np.float16).max:
        return RANGE
    error = np.linalg.norm(values - values.astype(np.float16).astype(np.float64))
    return SMALL if error > ROUNDING * np.linalg.norm(values) else ""


def norm_cores(facts: Facts) -> set[int]:
    """Places of the nodes of layer norms made of single operators.

    That is ``(x - mean) / sqrt(mean of squares + eps)``; what comes behind the division, a product and a
    sum, is none of it.
    """
    found: set[int] = set()
    for root, node in enumerate(facts.nodes):
        if node.op_type != "Sqrt":
            continue
        core, makers = {root}, [root]
        for ops in (("Add",), ("ReduceMean",), ("Pow", "Mul"), ("Sub",), ("ReduceMean",)):
            makers = [place for place in _makers(makers, facts) if facts.nodes[place].op_type in ops]
            core.update(makers)
        readers = facts.readers.get(node.output[0], ())
        core.update(place for place in readers if facts.nodes[place].op_type in ("Div", "Reciprocal"))
        if any(facts.nodes[place].op_type == "ReduceMean" for place in core):
            found |= core
    return found


def _makers(places: Iterable[int], facts: Facts) -> list[int]:
    read = [name for place in places for name in facts.nodes[place].input]
    return [facts.producers[name] for name in read if name in facts.producers]


def _constants(node: NodeProto, facts: Facts) -> str:
    """What is wrong with the constants that a node reads, or makes, in half precision."""
    if node.op_type == "ConstantOfShape":
        return next((storable(a.t) for a in node.attribute if a.t.data_type == TensorProto.FLOAT), "")
    free, _ = takes_half(node, facts.opset)
    read = [n for n, ok in zip(node.input, free, strict=True) if ok and n in facts.constants]
    return next((why for n in read if facts.is_float(n) and (why := storable(facts.constants[n]))), "")


def _follow_readers(facts: Facts, kept: dict[int, str]) -> None:
    """Keep in float32 what only makes floats for readers, or an output, in float32."""
    for place in reversed(range(len(facts.nodes))):
        node = facts.nodes[place]
        makes = [name for name in node.output if facts.is_float(name)]
        if node.op_type not in FOLLOWERS or place in kept:
            continue
        for name in makes:
            readers = [p for p in facts.readers.get(name, ()) if facts.nodes[p].op_type not in ANY]
            if name in facts.pinned or any(p in kept for p in readers):
                kept[place] = "its readers compute in float32"
