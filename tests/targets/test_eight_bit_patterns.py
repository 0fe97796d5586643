"""Operators between two 8-bit layers: by the definition of the codes, as onnxruntime runs the file."""

import numpy as np
import onnx
import pytest
from graphs import weight
from targets.storing import CONV, check_runs, images, net, rows, store

KERNELS = {name: 2 * weight(8, 8, 3, 3, seed=i) for i, name in enumerate("ABCD")}
CONSTANTS = {
    "sizes": np.array([3, 5]),
    "least": np.array(-1, np.float32),
    "most": np.array(6, np.float32),
    "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    "slope": np.full((8, 1, 1), 0.2, np.float32),
    "order": np.array([7, 0, 1, 2, 3, 4, 5, 6]),
    "twice": np.array([1, 1, 2, 1]),
    "one": np.array([1]),
    "nine": np.array([9]),
    "rows_axis": np.array([2]),
}
BETWEEN = {
    "parts in another order": "p, q = Split<axis = 1>(a, sizes) j = Concat<axis = 1>(q, p) r = Relu(j)",
    "a pool, then a Relu": "p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(a) r = Relu(p)",
    "a Relu, then a Clip": "p = Relu(a) r = Clip(p, least, most)",
    "added to itself": "p = Add(a, a) r = Relu(p)",
    "two sums": f"b = {CONV}(a, B) s = Add(a, b) c = {CONV}(s, C) r = Add(s, c)",
    "a mean of neighbours": "r = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(a)",
    "zeros around": "r = Pad(a, pads)",
    "a mirrored edge": 'r = Pad<mode = "reflect">(a, pads)',
    "joined along rows": f"b = {CONV}(x, B) r = Concat<axis = 2>(a, b)",
    "joined to the input": "r = Concat<axis = 2>(a, x)",
    "transposed": "r = Transpose<perm = [0, 1, 3, 2]>(a)",
    "leaky": "r = LeakyRelu<alpha = 0.1>(a)",
    "a slope for each channel": "r = PRelu(a, slope)",
    "channels in another order": "r = Gather<axis = 1>(a, order)",
    "repeated": "r = Tile(a, twice)",
    "cut out": "r = Slice(a, one, nine, rows_axis)",
    "depth and space": "p = DepthToSpace<blocksize = 2>(a) r = SpaceToDepth<blocksize = 2>(p)",
    "a gate": "s = HardSigmoid(a) r = Mul(a, s)",
    "mish": "s = Softplus(a) t = Tanh(s) r = Mul(a, t)",
}


def between(body: str) -> onnx.ModelProto:
    text = f"a = {CONV}(x, A) {body} y = {CONV}(r, D)"
    words = text.replace("(", " ").replace(",", " ").replace(")", " ").split()
    return net(text, **{name: value for name, value in (KERNELS | CONSTANTS).items() if name in words})


@pytest.mark.parametrize("target", ["ort", "openvino"])
@pytest.mark.parametrize("name", BETWEEN)
def test_what_lies_between_two_convolutions(name, target, tmp_path):
    feeds = images(4, 8, 10, 10)
    bed = store(between(BETWEEN[name]), feeds, target)
    assert {form.form for form in bed.written} == {"int8 kernel"}
    check_runs(bed, feeds, tmp_path, limit=1e-2)


PRODUCTS = {
    "a Relu": "a = MatMul(x, U) b = Add(u, a) r = Relu(b) c = MatMul(r, V) y = Add(c, v)",
    "a matrix is added": "a = MatMul(x, Z) b = Add(a, M) r = Relu(b) y = MatMul(r, Y)",
    "one input, two products": "a = MatMul(x, U) b = MatMul(x, T) r = Mul(a, b) y = MatMul(r, V)",
    "one token of many": "a = MatMul(x, U) t = Gather<axis = 1>(a, one) y = MatMul(t, V)",
}
MATRICES = {"U": (16, 32), "T": (16, 32), "V": (32, 16), "Z": (16, 16), "Y": (16, 16), "M": (6, 16)}
MATRICES |= {"u": (32,), "v": (16,)}


@pytest.mark.parametrize("target", ["ort", "openvino", "web", "portable"])
@pytest.mark.parametrize("name", PRODUCTS)
def test_what_lies_between_two_products(name, target, tmp_path):
    words = PRODUCTS[name].replace("(", " ").replace(",", " ").replace(")", " ").split()
    values = {n: weight(*shape, seed=i) for i, (n, shape) in enumerate(MATRICES.items())}
    values["one"] = CONSTANTS["one"]
    used = {n: value for n, value in values.items() if n in words}
    feeds = rows(4, 6, 16)
    bed = store(net(PRODUCTS[name], "float[B, 6, 16] x", **used), feeds, target)
    operators = check_runs(bed, feeds, tmp_path, limit=1e-2)
    assert not {"MatMul", "FusedMatMul", "Gemm"} & set(operators)
