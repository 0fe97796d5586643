"""Small whole models of many shapes, which mutations start from."""

import functools
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

TEXTS = {
    "chain": """g (float[B,16] x) => (float[B,8] y) { h = MatMul(x, a)  r = Relu(h)  y = MatMul(r, b) }
        a 16 24
        b 24 8""",
    "gemm": """g (float[B,16] x) => (float[B,8] y) {
            h = Gemm<transB=1,alpha=0.5>(x, a, c)  s = Sigmoid(h)  y = Gemm(s, b) }
        a 24 16
        b 24 8
        c 24""",
    "convnet": """g (float[B,3,8,8] x) => (float[B,5] y) {
            c = Conv<pads=[1,1,1,1]>(x, a, b)  n = BatchNormalization(c, s, t, m, v)  r = Relu(n)
            d = Conv<group=8,strides=[2,2]>(r, e)  p = GlobalAveragePool(d)  f = Flatten(p)
            y = Gemm<transB=1>(f, w, u) }
        a 8 3 3 3
        b 8
        s 8
        t 8
        m 8
        v 8 positive
        e 8 1 3 3
        w 5 8
        u 5""",
    "residual": """g (float[B,4,6,6] x) => (float[B,4,6,6] y) {
            c = Conv<pads=[1,1,1,1]>(x, a)  k = Clip(c, lo, hi)  d = Conv<pads=[1,1,1,1]>(k, b)
            y = Add(d, x) }
        a 4 4 3 3
        b 4 4 3 3
        lo
        hi""",
    "transposed": """g (float[B,4,5,5] x) => (float[B,6,10,10] y) {
            y = ConvTranspose<strides=[2,2],pads=[0,0,0,0]>(x, a, b) }
        a 4 6 2 2
        b 6""",
    "sound": """g (float[1,1,S] x) => (float[1,4,T] y) { h = Conv<pads=[2,2]>(x, a)  y = Relu(h) }
        a 4 1 5""",
    "words": """g (int64[B,S] ids, int64[B,S] attention_mask) => (float[B,S,8] y) {
            e = Gather(table, ids)  f = Cast<to=1>(attention_mask)  u = Unsqueeze(f, axes)  h = Mul(e, u)
            n = LayerNormalization(h, g, z)  q = MatMul(n, a)  k = MatMul(n, b)
            t = Transpose<perm=[0,2,1]>(k)  p = MatMul(q, t)  s = Softmax(p)  o = MatMul(s, n)
            y = MatMul(o, c) }
        table 12 16
        g 16
        z 16
        a 16 16
        b 16 16
        c 16 8
        axes int 2""",
    "unused": """g (float[B,16] x, float[2] spare) => (float[B,8] y, float[B,16] z) {
            z = Identity(x)  k = Constant<value_float=2.0>()  s = Mul(x, k)  y = MatMul(s, a)
            d = Neg(spare) }
        a 16 8""",
    "folded": """g (float[B,16] x) => (float[B,8] y) {
            t = Transpose<perm=[1,0]>(a)  i = Identity(t)  r = Reshape(i, shape)  y = MatMul(x, r) }
        a 8 16
        shape int 16 8""",
    "lstm": """g (float[S,1,6] x) => (float[S,1,1,5] y) { y = LSTM<hidden_size=5>(x, w, r)}
        w 1 20 6
        r 1 20 5""",
    "broadcast": """g (float[4,3,16] x) => (float[4,3,8] y) {
            m = MatMul(x, a)  s = Add(m, b)  q = QuickGelu(s)  y = Div(s, two) }
        a 4 16 8
        b 8
        two""",
}
"""Graphs as ONNX text, and their initializers, a line each: name and shape."""
TEXTS["broadcast"] = TEXTS["broadcast"].replace("q = QuickGelu(s)  ", "q = Erf(s)  ")


OLDER = ("convnet", "broadcast")


@functools.cache
def corpus() -> tuple[tuple[str, ModelProto], ...]:
    """All models by name, and those of the folder that ``FUZZ_CORPUS`` names."""
    # To raise an opset takes longer than all the rest: a few show that it is done.
    found = [(name, parsed(text, 17 if name in OLDER else 21)) for name, text in TEXTS.items()]
    found += [(make.__name__, make()) for make in MADE]
    more = os.environ.get("FUZZ_CORPUS")
    found += [(path.stem, onnx.load(path)) for path in sorted(Path(more).glob("*.onnx"))] if more else []
    return tuple(found)


def parsed(text: str, opset: int = 21) -> ModelProto:
    """A model from its text and the lines behind it."""
    source, _, rest = text.rpartition("}")
    graph = onnx.parser.parse_graph(source + "}")
    for number, line in enumerate(rest.strip().splitlines()):
        name, *shape = line.split()
        graph.initializer.append(numpy_helper.from_array(_values(shape, number), name))
    return finished(graph, opset)


def finished(graph: GraphProto, opset: int = 21) -> ModelProto:
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    made.ir_version = 8 if opset < 21 else 10
    return made


def _values(shape: list[str], seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if shape[:1] == ["int"]:
        return np.array([int(value) for value in shape[1:]], np.int64)
    dims = [int(size) for size in shape if size != "positive"]
    values = (rng.standard_normal(dims) / max(1.0, np.sqrt(np.prod(dims[1:])))).astype(np.float32)
    return np.abs(values) + np.float32(0.1) if "positive" in shape else values


def half() -> ModelProto:
    """A float16 linear."""
    graph = onnx.parser.parse_graph("g (float16[B,16] x) => (float16[B,8] y) { y = MatMul(x, a) }")
    graph.initializer.append(numpy_helper.from_array(_values(["16", "8"], 1).astype(np.float16), "a"))
    return finished(graph)


def branches() -> ModelProto:
    """A weight in each branch of an If."""

    def branch(name: str, seed: int) -> GraphProto:
        out = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, ["B", 8])
        weight = numpy_helper.from_array(_values(["16", "8"], seed), f"{name}_w")
        node = helper.make_node("MatMul", ["x", f"{name}_w"], [f"{name}_y"])
        return helper.make_graph([node], name, [], [out], [weight])

    text = """g (float[B,16] x) => (float[B,8] y) {
        z = Constant<value_float=0.0>()  s = ReduceSum<keepdims=0>(x)  c = Greater(s, z) }"""
    made = parsed(text)
    branch_node = helper.make_node(
        "If", ["c"], ["y"], then_branch=branch("yes", 2), else_branch=branch("no", 3)
    )
    made.graph.node.append(branch_node)
    return made


def loop() -> ModelProto:
    """A MatMul that is run three times."""
    body = onnx.parser.parse_graph(
        "body (int64 i, bool go, float[2,6] h) => (bool on, float[2,6] n) {"
        " on = Identity(go) n = MatMul(h, w) }"
    )
    body.initializer.append(numpy_helper.from_array(_values(["6", "6"], 4), "w"))
    made = parsed("g (float[2,6] x) => (float[2,4] y) { v = Identity(x) }\n a 6 4")
    del made.graph.node[:]
    made.graph.initializer.append(numpy_helper.from_array(np.array(3, np.int64), "times"))
    made.graph.initializer.append(numpy_helper.from_array(np.array(True), "go"))
    made.graph.node.append(helper.make_node("Loop", ["times", "go", "x"], ["h"], body=body))
    made.graph.node.append(helper.make_node("MatMul", ["h", "a"], ["y"]))
    return made


def functions() -> ModelProto:
    """A model-local function that is called twice."""
    text = """<ir_version: 10, opset_import: ["" : 21, "local" : 1]>
        g (float[B,16] x) => (float[B,16] y) { h = local.block(x, a)  y = local.block(h, a) }
        <domain: "local", opset_import: ["" : 21]>
        block (x, w) => (y) { m = MatMul(x, w)  y = Relu(m) }"""
    made = onnx.parser.parse_model(text)
    made.graph.initializer.append(numpy_helper.from_array(_values(["16", "16"], 5), "a"))
    return made


def quantized() -> ModelProto:
    """A file in QDQ form already."""
    text = """g (float[B,16] x) => (float[B,8] y) {
        q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)
        e = DequantizeLinear<axis=1>(w, t)  y = MatMul(d, e) }"""
    made = parsed(text)
    values = {"s": np.float32(0.1), "z": np.int8(3), "t": np.full(8, 0.01, np.float32)}
    values["w"] = np.arange(128, dtype=np.int8).reshape(16, 8)
    made.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in values.items())
    return made


def sparse() -> ModelProto:
    """A weight that is kept sparse, and a Constant node."""
    made = parsed("g (float[B,6] x) => (float[B,4] y) { h = MatMul(x, a)  y = Add(h, k) }")
    values = numpy_helper.from_array(np.array([1, -2, 0.5], np.float32), "a")
    index = numpy_helper.from_array(np.array([1, 7, 20], np.int64), "a_index")
    made.graph.sparse_initializer.append(helper.make_sparse_tensor(values, index, [6, 4]))
    constant = helper.make_node(
        "Constant", [], ["k"], value=numpy_helper.from_array(np.ones(4, np.float32), "k")
    )
    made.graph.node.insert(0, constant)
    return made


def sequence() -> ModelProto:
    """A sequence between a layer and the output."""
    return parsed(
        """g (float[B,16] x) => (float[B,8] y) {
            h = MatMul(x, a)  s = SequenceConstruct(h, h)  i = Constant<value_int=0>()
            e = SequenceAt(s, i)  y = Relu(e) }
        a 16 8"""
    )


def old() -> ModelProto:
    """Opset 9, its weights listed as inputs."""
    made = parsed("g (float[B,16] x, float[16,8] a) => (float[B,8] y) { y = MatMul(x, a) }\n a 16 8", 9)
    made.ir_version = 3
    return made


MADE: tuple[Callable[[], ModelProto], ...] = (
    *(half, branches, loop, functions),
    *(quantized, sparse, sequence, old),
)
