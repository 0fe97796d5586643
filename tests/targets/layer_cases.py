"""One tiny graph for each kind of layer, and solutions made by rounding to nearest."""

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
from graphs import model, weight
from onnx import TensorProto, numpy_helper

from comq_onnx.graph.io import Model, load
from comq_onnx.graph.layout import from_rows, layout_of, to_rows
from comq_onnx.grid import Grid, dequantize, nearest, spread
from comq_onnx.records import ConvGeometry, Layer, Quality, Solution

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
PARSED = {"float32": "float", "float16": "float16", "bfloat16": "bfloat16"}
OUTPUT = "y"


def shaped_model(text: str, opset: int = 21, **weights: np.ndarray) -> onnx.ModelProto:
    """`graphs.model` with the shapes of its outputs inferred."""
    made = model(text, opset=opset, ir_version=10, **weights)
    inferred = onnx.shape_inference.infer_shapes(made, strict_mode=True)
    for output, known in zip(made.graph.output, inferred.graph.output, strict=True):
        output.CopyFrom(known)
    return made


@dataclass(frozen=True)
class Case:
    """A graph whose node ``n`` reads the weight ``W``; `kind` as in `records.Layout`."""

    text: str
    kind: str
    shape: tuple[int, ...]
    op: str
    input_shape: tuple[int, ...]
    group: int = 1
    constants: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def proto(self, opset: int = 21, dtype: str = "float32") -> onnx.ModelProto:
        values = {
            name: weight(*shape, seed=len(name)).astype(DTYPES[dtype]) for name, shape in self.constants
        }
        values["W"] = self.weight(dtype)
        made = shaped_model(self.text.replace("float", PARSED[dtype]), opset, **values)
        made.graph.node[0].name = "n"
        return made

    def weight(self, dtype: str = "float32") -> np.ndarray:
        return weight(*self.shape, seed=3).astype(DTYPES[dtype])

    def layer(self, dtype: str = "float32", in_subgraph: bool = False) -> Layer:
        layout = layout_of(self.kind, self.shape, self.group)
        geometry = None
        if self.op.startswith("Conv"):
            axes = len(self.shape) - 2
            ones, zeros = (1,) * axes, (0,) * (2 * axes)
            geometry = ConvGeometry(
                self.shape[2:], ones, ones, zeros, "NOTSET", self.group, self.op == "ConvTranspose"
            )
        return Layer("n", self.op, "W", "x", OUTPUT, layout, dtype, geometry, in_subgraph)

    def feeds(self, dtype: str = "float32") -> dict[str, np.ndarray]:
        rng = np.random.default_rng(7)
        if self.kind == "gather":
            return {"x": rng.integers(-self.shape[0], self.shape[0], self.input_shape)}
        return {"x": rng.standard_normal(self.input_shape).astype(DTYPES[dtype])}


CASES = {
    "matmul": Case(
        "g (float[B, 64] x) => (float[] y) { y = MatMul(x, W) }", "matmul", (64, 24), "MatMul", (5, 64)
    ),
    "matmul_sequence": Case(
        "g (float[B, S, 64] x) => (float[] y) { y = MatMul(x, W) }", "matmul", (64, 24), "MatMul", (2, 3, 64)
    ),
    "matmul_ragged": Case(
        "g (float[B, 36] x) => (float[] y) { y = MatMul(x, W) }", "matmul", (36, 8), "MatMul", (5, 36)
    ),
    "matmul_odd": Case(
        "g (float[B, 64] x) => (float[] y) { y = MatMul(x, W) }", "matmul", (64, 7), "MatMul", (5, 64)
    ),
    "gemm": Case("g (float[B, 64] x) => (float[] y) { y = Gemm(x, W) }", "matmul", (64, 24), "Gemm", (5, 64)),
    "gemm_bias": Case(
        "g (float[B, 64] x) => (float[] y) { y = Gemm(x, W, C) }",
        "matmul",
        (64, 24),
        "Gemm",
        (5, 64),
        constants=(("C", (24,)),),
    ),
    "matmul_left": Case(
        "g (float[64, S] x) => (float[] y) { y = MatMul(W, x) }", "matmul_left", (24, 64), "MatMul", (64, 5)
    ),
    "matmul_batched": Case(
        "g (float[3, S, 64] x) => (float[] y) { y = MatMul(x, W) }",
        "matmul",
        (3, 64, 8),
        "MatMul",
        (3, 5, 64),
    ),
    "matmul_left_batched": Case(
        "g (float[3, 64, S] x) => (float[] y) { y = MatMul(W, x) }",
        "matmul_left",
        (3, 8, 64),
        "MatMul",
        (3, 64, 5),
    ),
    "conv": Case(
        "g (float[B, 8, 9, 9] x) => (float[] y) { y = Conv<kernel_shape = [2, 2]>(x, W) }",
        "conv",
        (6, 8, 2, 2),
        "Conv",
        (2, 8, 9, 9),
    ),
    "conv_1d": Case(
        "g (float[B, 16, 9] x) => (float[] y) { y = Conv<kernel_shape = [2]>(x, W) }",
        "conv",
        (6, 16, 2),
        "Conv",
        (2, 16, 9),
    ),
    "conv_grouped": Case(
        "g (float[B, 16, 5, 5] x) => (float[] y) { y = Conv<group = 2, kernel_shape = [2, 2]>(x, W) }",
        "conv",
        (6, 8, 2, 2),
        "Conv",
        (2, 16, 5, 5),
        2,
    ),
    "conv_depthwise": Case(
        "g (float[B, 6, 5, 5] x) => (float[] y) { y = Conv<group = 6, kernel_shape = [3, 3]>(x, W) }",
        "conv",
        (6, 1, 3, 3),
        "Conv",
        (2, 6, 5, 5),
        6,
    ),
    "conv_transpose": Case(
        "g (float[B, 8, 3, 3] x) => (float[] y) { y = ConvTranspose<kernel_shape = [2, 2]>(x, W) }",
        "conv_transpose",
        (8, 6, 2, 2),
        "ConvTranspose",
        (2, 8, 3, 3),
    ),
    "conv_transpose_grouped": Case(
        "g (float[B, 16, 3, 3] x) => (float[] y) { y = ConvTranspose<group = 2>(x, W) }",
        "conv_transpose",
        (16, 3, 2, 2),
        "ConvTranspose",
        (2, 16, 3, 3),
        2,
    ),
    "conv_transpose_depthwise": Case(
        "g (float[B, 6, 3, 3] x) => (float[] y) { y = ConvTranspose<group = 6>(x, W) }",
        "conv_transpose",
        (6, 1, 2, 2),
        "ConvTranspose",
        (2, 6, 3, 3),
        6,
    ),
    "gather": Case(
        "g (int64[B, S] x) => (float[] y) { y = Gather(W, x) }", "gather", (20, 16), "Gather", (2, 5)
    ),
}
FUSED = ("matmul", "matmul_sequence", "matmul_ragged", "matmul_odd", "gemm", "gemm_bias")


def solve_nearest(tensor: np.ndarray, layer: Layer, grid: Grid, bias: np.ndarray | None = None) -> Solution:
    """Absmax (or min-max) scales, rounded to the layer's dtype, and the nearest codes."""
    rows = to_rows(tensor.astype(np.float64), layer.layout)
    block, blocks = grid.rows_per_block(rows.shape[1]), grid.blocks(rows.shape[1])
    parts = [rows[:, i * block : (i + 1) * block] for i in range(blocks)]
    low = np.minimum(np.stack([p.min(1) for p in parts], 1), 0)
    high = np.maximum(np.stack([p.max(1) for p in parts], 1), 0)
    if grid.granularity == "tensor":
        low, high = np.full_like(low, low.min()), np.full_like(high, high.max())
    if grid.symmetric:
        scale, zero_point = np.maximum(-low, high) / grid.hi, None
    else:
        scale = (high - low) / grid.hi
        zero_point = np.rint(-low / scale).astype(np.uint8)
    scale = (scale + 1e-3).astype(DTYPES[layer.dtype]).astype(np.float32)
    codes = nearest(rows, scale, zero_point, grid)
    assert spread(scale, rows.shape[1], block).shape == rows.shape
    return Solution(grid, codes, scale, zero_point, bias, Quality(1.0, 1.0, 1.0))


def dequantized(solution: Solution, layer: Layer) -> np.ndarray:
    """The weight tensor the solution stands for, float64."""
    values = dequantize(solution.codes, solution.scale, solution.zero_point, solution.grid)
    return from_rows(values, layer.layout)


def with_weight(proto: onnx.ModelProto, values: np.ndarray, name: str = "W") -> onnx.ModelProto:
    """`proto` with the float initializer `name` replaced: the oracle of a written file."""
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    for graph in (made.graph, *(a.g for n in made.graph.node for a in n.attribute if a.HasField("g"))):
        for tensor in graph.initializer:
            if tensor.name == name:
                dtype = numpy_helper.to_array(tensor).dtype
                tensor.CopyFrom(numpy_helper.from_array(values.astype(dtype), name))
    return made


def run(proto: onnx.ModelProto, feeds: dict[str, np.ndarray], optimize: bool = False, exact: bool = True):
    """First output in onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1" if exact else "4")
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)[0]


def optimized_ops(proto: onnx.ModelProto, folder) -> list[str]:
    """Operators of the graph that onnxruntime makes of `proto`, subgraphs included."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(folder / "optimized.onnx").graph
    inner = [a.g for n in graph.node for a in n.attribute if a.HasField("g")]
    return [node.op_type for g in (graph, *inner) for node in g.node]


def loaded(case: Case, opset: int, dtype: str = "float32") -> Model:
    return load(case.proto(opset, dtype))


def initializers(proto: onnx.ModelProto) -> dict[str, TensorProto]:
    return {tensor.name: tensor for tensor in proto.graph.initializer}
