"""Products with 8-bit inputs that onnxruntime would fuse in float with what follows them."""

import numpy as np
import pytest
from graphs import weight
from targets.storing import check_runs, net, rows, store

FLOATS = {"MatMul", "FusedMatMul", "Gemm", "FusedGemm"}
VALUES = {"U": (16, 32), "T": (16, 32), "V": (32, 16), "Z": (16, 16), "u": (32,)}
PRODUCT = "a = MatMul(x, U)"
BIASED = "a0 = MatMul(x, U) a = Add(a0, u)"
GEMM = "a = Gemm(x, U, u)"
BEHIND = {
    "relu, float": "r = Relu(a) y = Exp(r)",
    "clip, float": "r = Clip(a, least, most) y = Exp(r)",
    "relu and clip, float": "q = Relu(a) r = Clip(q, least, most) y = Exp(r)",
    "relu, product": "r = Relu(a) y = MatMul(r, V)",
    "relu, product and float": "r = Relu(a) e = Exp(r) z = MatMul(r, V) y = Concat<axis = -1>(z, e)",
    "relu, moved": "r = Relu(a) t = Unsqueeze(r, zero) y = MatMul(t, V)",
    "relu, output": "y = Relu(a)",
    "tanh, product": "r = Tanh(a) y = MatMul(r, V)",
    "sigmoid, output": "y = Sigmoid(a)",
}
RANKS = {2: ("float[B, 16] x", (4, 16)), 3: ("float[B, 6, 16] x", (4, 6, 16))}
CASES = [(2, PRODUCT), (3, PRODUCT), (2, BIASED), (3, BIASED), (2, GEMM)]


def made(body: str, rank: int, target: str, opset: int = 17):
    words = body.replace("(", " ").replace(",", " ").replace(")", " ").split()
    values = {name: weight(*shape, seed=i) for i, (name, shape) in enumerate(VALUES.items())}
    values |= {"least": np.array(-1, np.float32), "most": np.array(1, np.float32), "zero": np.array([0])}
    head, shape = RANKS[rank]
    feeds = rows(*shape)
    used = {name: value for name, value in values.items() if name in words}
    return store(net(body, head, opset, **used), feeds, target), feeds


def operators(bed, feeds, folder) -> list[str]:
    found = check_runs(bed, feeds, folder)
    assert not FLOATS & set(found)
    return found


@pytest.mark.parametrize("opset", [17, 21])
@pytest.mark.parametrize("target", ["ort", "web", "portable"])
@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize(("rank", "product"), CASES)
def test_no_product_is_left_in_float(product, rank, behind, target, opset, tmp_path):
    operators(*made(f"{product} {BEHIND[behind]}", rank, target, opset), tmp_path)


@pytest.mark.parametrize("target", ["ort", "web", "portable"])
@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize(
    "body",
    [
        "a = MatMul(x, Z) y = Add(a, x)",
        "a = MatMul(x, U) b = MatMul(x, T) c = Add(a, b) r = Relu(c) y = Exp(r)",
        "a = MatMul(x, Z) s = Add(x, a) r = Relu(s) y = MatMul(r, U)",
    ],
)
def test_nor_where_another_activation_is_added(body, rank, target, tmp_path):
    operators(*made(body, rank, target), tmp_path)


@pytest.mark.parametrize(
    ("product", "kernel", "rank"),
    [(PRODUCT, "QLinearMatMul", 2), (PRODUCT, "QLinearMatMul", 3), (BIASED, "QGemm", 2), (GEMM, "QGemm", 2)],
)
@pytest.mark.parametrize("clip", ["r = Relu(a)", "r = Clip(a, least, most)"])
def test_a_relu_that_a_kernel_takes_in_is_left_to_it(clip, product, kernel, rank, tmp_path):
    bed, feeds = made(f"{product} {clip} y = MatMul(r, V)", rank, "ort")
    assert operators(bed, feeds, tmp_path) == ["QuantizeLinear", kernel, "MatMulIntegerToFloat"]


@pytest.mark.parametrize("behind", ["r = Relu(a) y = Exp(r)", "r = Relu(a) y = MatMul(r, V)"])
@pytest.mark.parametrize(("rank", "product"), CASES)
def test_openvino_is_spared_what_only_onnxruntime_needs(product, rank, behind):
    bed, _ = made(f"{product} {behind}", rank, "openvino")
    assert "Reshape" not in {node.op_type for node in bed.proto.graph.node}
