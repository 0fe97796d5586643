import ml_dtypes
import numpy as np
import onnx
import pytest
from graph.preparing import check, model, norm, rand
from onnx import TensorProto, numpy_helper

from comq_onnx.graph.find import find_layers
from comq_onnx.graph.io import load, to_proto
from comq_onnx.graph.locate import nodes_of
from comq_onnx.graph.prepare import PASSES, prepare
from comq_onnx.recipe import Recipe


def test_the_passes_are_listed_in_order():
    assert [step.__name__ for step in PASSES] == [
        "name_uniquely",
        "take_in_constant_nodes",
        "fold_constant_chains",
        "normalise_gemms",
        "fold_batchnorms",
        "untie_weights",
    ]


def test_nodes_without_a_name_or_with_a_shared_one_get_their_own():
    proto = model("a = Relu(x) b = Relu(a) c = Neg(b) y = Abs(c)", "float[2] x", "float[2] y")
    for node, name in zip(proto.graph.node, ("", "n", "n", "Relu_a"), strict=True):
        node.name = name
    names = [node.name for node, _ in nodes_of(prepare(load(proto), 0))]
    assert names == ["Relu_a_1", "n", "n_1", "Relu_a"]


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 17, 21, 25])
def test_prepared_at_its_own_opset_a_network_gives_the_same(opset, same):
    proto = model(
        """c = Conv <pads = [1, 1, 1, 1]> (x, w, b) d = BatchNormalization(c, s, o, m, v) r = Relu(d)
           p = GlobalAveragePool(r) f = Flatten(p) g = Gemm <transB = 1, alpha = 0.5> (f, k, q)
           t = Transpose(u) y = MatMul(g, t)""",
        "float[N, 3, 6, 6] x",
        "float[N, 2] y",
        opset,
        w=rand(4, 3, 3, 3),
        b=rand(4),
        k=rand(5, 4),
        q=rand(5),
        u=rand(2, 5),
        **norm(4),
    )
    ready = check(proto, {"x": rand(2, 3, 6, 6)}, same)
    assert ready.opset == opset
    assert [layer.op for layer in find_layers(ready, Recipe())[0]] == ["Conv", "Gemm", "MatMul"]


def test_half_precision_models(same):
    proto = model(
        "h = MatMul(x, w) y = Gemm <transB = 1> (h, k)",
        "float16[2, 4] x",
        "float16[2, 3] y",
        w=rand(4, 4, dtype=np.float16),
        k=rand(3, 4, dtype=np.float16),
    )
    ready = check(proto, {"x": rand(2, 4, dtype=np.float16)}, same, 21)
    assert [layer.dtype for layer in find_layers(ready, Recipe())[0]] == ["float16", "float16"]


def test_bfloat16_models():
    proto = model(
        "h = MatMul(x, w) y = Gemm <transB = 1> (h, k)",
        "bfloat16[2, 4] x",
        "bfloat16[2, 3] y",
        w=rand(4, 4, dtype=ml_dtypes.bfloat16),
        k=rand(3, 4, dtype=ml_dtypes.bfloat16),
    )
    ready = prepare(load(proto), 21)
    result = to_proto(ready)
    onnx.checker.check_model(result, full_check=True)
    assert {t.data_type for t in result.graph.initializer} == {TensorProto.BFLOAT16}
    kept = next(t for t in result.graph.initializer if t.name == "k")
    np.testing.assert_array_equal(
        numpy_helper.to_array(kept), numpy_helper.to_array(proto.graph.initializer[1]).T
    )
