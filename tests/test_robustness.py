"""The graph shapes that ONNX int4 tools are known to skip, break or get wrong, each as a fixture.

Every case is quantized to int4 in blocks of 32 and must load and give the same numbers in onnxruntime and
OpenVINO, close to the float model; and the tensor that was to be quantized must lie in the file as int4.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graphs import model, weight
from onnx import TensorProto

from comq_onnx import Recipe, quantize

HALF = np.float16


@dataclass(frozen=True)
class Case:
    """A model and how many int4 weights its quantized file must hold."""

    name: str
    graph: onnx.ModelProto
    codes: int = 1
    sqnr: float = 18.0
    """dB of the output at least; round-to-nearest reaches about 20 on these"""


def cases() -> list[Case]:
    text = {
        "matmul": "g (float[B,128] x) => (float[B,256] y) { y = MatMul(x, w) }",
        "gemm": "g (float[B,128] x) => (float[B,256] y) { y = Gemm(x, w, b) }",
        "gemm_t": "g (float[B,128] x) => (float[B,256] y) { y = Gemm<transB=1>(x, w, b) }",
        "conv": "g (float[B,32,9,9] x) => (float[B,32,9,9] y) { y = Conv<pads=[1,1,1,1]>(x, w, b) }",
        "depthwise": """g (float[B,32,9,9] x) => (float[B,32,9,9] y) {
          y = Conv<pads=[1,1,1,1],group=32>(x, w, b)
        }""",
        "shared": "g (float[B,128] x) => (float[B,128] y) { h = MatMul(x, w) r = Relu(h) y = MatMul(r, w) }",
        "siblings": "g (float[B,128] x) => (float[B,128] y) { p = MatMul(x,w) q = MatMul(x,v) y = Add(p,q) }",
        "transposed": """g (float[B,128] x) => (float[B,256] y) {
          t = Transpose<perm=[1,0]>(w)
          y = MatMul(x, t)
        }""",
        "ragged": "g (float[B,80] x) => (float[B,256] y) { y = MatMul(x, w) }",
        "left": "g (float[B,128,16] x) => (float[B,256,16] y) { y = MatMul(w, x) }",
        "rank3": "g (float[4,B,64] x) => (float[4,B,96] y) { y = MatMul(x, w) }",
        "half": "g (float16[B,128] x) => (float16[B,256] y) { y = MatMul(x, w) }",
    }
    bias = weight(256, seed=5)
    constant = model(text["matmul"])
    constant.graph.node.insert(
        0, onnx.helper.make_node("Constant", [], ["w"], value=as_tensor("w", weight(128, 256)))
    )
    return [
        Case("matmul", model(text["matmul"], w=weight(128, 256))),
        Case("gemm transB=0", model(text["gemm"], w=weight(128, 256), b=bias)),
        Case("gemm transB=1", model(text["gemm_t"], w=weight(128, 256).T.copy(), b=bias)),
        Case("conv 3x3", model(text["conv"], w=conv_weight(32, 32), b=bias[:32])),
        Case("depthwise conv", model(text["depthwise"], w=conv_weight(32, 1), b=bias[:32])),
        Case("weight shared by two", model(text["shared"], w=weight(128, 128)), codes=2, sqnr=15),
        Case(
            "two share an input",
            model(text["siblings"], w=weight(128, 128), v=weight(128, 128, seed=1)),
            codes=2,
        ),
        Case("weight in a Constant node", constant),
        Case("weight behind a Transpose", model(text["transposed"], w=weight(128, 256).T.copy())),
        Case("K is not a multiple of the block", model(text["ragged"], w=weight(80, 256))),
        Case("in both branches of an If", branches(), codes=2),
        Case("float16", model(text["half"], w=weight(128, 256, dtype=HALF))),
        Case("weight on the left", model(text["left"], w=weight(128, 256).T.copy())),
        Case("rank 3 weight", model(text["rank3"], w=weight(4, 64, 96) * 2)),
        Case("opset 13", model(text["matmul"], opset=13, ir_version=7, w=weight(128, 256))),
    ]


def conv_weight(out: int, into: int) -> np.ndarray:
    return weight(into * 9, out).T.reshape(out, into, 3, 3).copy()


def as_tensor(name: str, values: np.ndarray) -> TensorProto:
    return onnx.numpy_helper.from_array(values, name)


def branches() -> onnx.ModelProto:
    """``y = MatMul(x, w)`` or ``MatMul(x, v)``, by the sign of the sum of x."""

    def branch(name: str, values: np.ndarray) -> onnx.GraphProto:
        out = onnx.helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, ["B", 256])
        node = onnx.helper.make_node("MatMul", ["x", f"{name}_w"], [f"{name}_y"])
        return onnx.helper.make_graph([node], name, [], [out], [as_tensor(f"{name}_w", values)])

    made = model(
        "g (float[B,128] x) => (float[B,256] y) { s = ReduceSum<keepdims=0>(x) c = Greater(s, zero) }",
        zero=np.float32(0),
    )
    choose = onnx.helper.make_node(
        "If",
        ["c"],
        ["y"],
        then_branch=branch("yes", weight(128, 256)),
        else_branch=branch("no", weight(128, 256, seed=1)),
    )
    made.graph.node.append(choose)
    return made


def samples(graph: onnx.ModelProto, count: int, seed: int) -> dict[str, np.ndarray]:
    """Correlated rows with a mean, as activations have: what a calibrated solver can use."""
    info = graph.graph.input[0]
    dims = [d.dim_value or count for d in info.type.tensor_type.shape.dim]
    rng = np.random.default_rng(seed)
    channels = dims[1] if len(dims) == 4 else dims[-1]
    mix = np.random.default_rng(99).standard_normal((channels, channels)) / np.sqrt(channels)
    last = [dims[0], *dims[2:], channels] if len(dims) == 4 else dims
    rows = rng.standard_normal(last) @ mix + 0.3
    shaped = np.moveaxis(rows, -1, 1) if len(dims) == 4 else rows
    half = info.type.tensor_type.elem_type == TensorProto.FLOAT16
    return {info.name: shaped.astype(HALF if half else np.float32)}


def run_ort(path: Path | bytes, feeds: dict[str, np.ndarray], optimise: bool = False) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = path if isinstance(path, bytes) else str(path)
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"]).run(None, feeds)[0]


def sqnr(wanted: np.ndarray, got: np.ndarray) -> float:
    noise = np.linalg.norm(wanted.astype(np.float64) - got)
    return float(20 * np.log10(np.linalg.norm(wanted.astype(np.float64)) / noise)) if noise else np.inf


CASES = cases()


@pytest.fixture(scope="module", params=CASES, ids=[c.name for c in CASES])
def quantized(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, Path]:
    case: Case = request.param
    out = tmp_path_factory.mktemp("robust") / "q.onnx"
    data = [samples(case.graph, 8, seed) for seed in range(16)]
    quantize(case.graph, out, data, Recipe(weights="int4", block_size="32"))
    return case, out


def test_the_file_holds_the_codes_as_int4(quantized: tuple[Case, Path]) -> None:
    case, path = quantized
    written = onnx.load(path)
    graphs = [written.graph, *(a.g for n in written.graph.node for a in n.attribute if a.HasField("g"))]
    packed = [t.name for g in graphs for t in g.initializer if t.data_type == TensorProto.INT4]
    floats = [
        t.name
        for g in graphs
        for t in g.initializer
        if t.data_type == TensorProto.FLOAT and np.prod(t.dims) > 9000
    ]
    assert len(packed) == case.codes
    assert floats == []


def test_onnxruntime_gives_the_float_models_answer(quantized: tuple[Case, Path]) -> None:
    case, path = quantized
    feeds = samples(case.graph, 8, seed=1000)
    wanted = run_ort(case.graph.SerializeToString(), feeds)
    plain = run_ort(path, feeds)
    assert sqnr(wanted, plain) > case.sqnr
    assert sqnr(plain, run_ort(path, feeds, optimise=True)) > (50 if wanted.dtype == HALF else 60)


@pytest.mark.openvino
def test_openvino_agrees_with_onnxruntime(quantized: tuple[Case, Path]) -> None:
    openvino = pytest.importorskip("openvino")
    case, path = quantized
    feeds = samples(case.graph, 8, seed=1000)
    exact = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    compiled = openvino.Core().compile_model(str(path), "CPU", exact)
    got = compiled(feeds)[0]
    plain = run_ort(path, feeds)
    assert sqnr(plain, got) > (50 if plain.dtype == HALF else 60)
