import ml_dtypes
import numpy as np
import pytest
from graph.preparing import RNG, check, model, ops, rand
from onnx import helper, numpy_helper

from comq_onnx.graph.find import find_layers
from comq_onnx.graph.io import load
from comq_onnx.graph.prepare import prepare
from comq_onnx.graph.tensors import values_of
from comq_onnx.recipe import Recipe


@pytest.mark.parametrize("opset", [7, 11, 13, 21, 25])
def test_constant_nodes_become_constants(opset, same):
    proto = model("h = MatMul(x, w) y = Add(h, b)", "float[2, 4] x", "float[2, 3] y", opset)
    proto.graph.node.insert(
        0, helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(rand(4, 3)))
    )
    proto.graph.node.insert(
        1, helper.make_node("Constant", [], ["b"], value=numpy_helper.from_array(rand(3)))
    )
    ready = check(proto, {"x": rand(2, 4)}, same)
    assert ops(ready) == ["MatMul", "Add"]
    assert [layer.weight for layer in find_layers(ready, Recipe())[0]] == ["w"]


def test_every_value_attribute_of_a_constant_node_is_understood(same):
    proto = model(
        """f = Constant <value_float = 1.5> ()
           fs = Constant <value_floats = [1.0, 2.0, 3.0]> ()
           i = Constant <value_int = 3> ()
           js = Constant <value_ints = [1, 3]> ()
           a = Mul(x, f) b = Add(a, fs) j = Cast <to = 1> (i) c = Mul(b, j) y = Reshape(c, js)""",
        "float[3] x",
        "float[1, 3] y",
    )
    ready = check(proto, {"x": rand(3)}, same)
    assert "Constant" not in ops(ready)


def test_sparse_and_string_constants(same):
    dense = np.zeros((4, 3), np.float32)
    dense[1, 2] = 5.0
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.array([5.0], np.float32), "v"),
        numpy_helper.from_array(np.array([5])),
        [4, 3],
    )
    proto = model("y = MatMul(x, w)", "float[2, 4] x", "float[2, 3] y, string s")
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["w"], sparse_value=sparse))
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["s"], value_string="text"))
    ready = prepare(load(proto), 0)
    assert ops(ready) == ["Constant", "MatMul"]
    np.testing.assert_array_equal(values_of(ready.graph.nodes[1].inputs[1]), dense)


@pytest.mark.parametrize(
    "chain",
    [
        "w = Transpose <perm = [1, 0]> (v)",
        "w = Transpose (v)",
        "shape = Constant <value = int64[2] {4, 3}> () w = Reshape(v, shape)",
        "shape = Constant <value = int64[2] {-1, 3}> () w = Reshape(v, shape)",
        "i = Identity(v) w = Transpose(i)",
        "k = Constant <value = int64[1] {0}> () u = Unsqueeze(v, k) s = Squeeze(u, k) w = Transpose(s)",
        "t = Transpose(v) w = Flatten <axis = 1> (t)",
        "c = Cast <to = 11> (v) d = Cast <to = 1> (c) w = Transpose(d)",
    ],
)
def test_chains_on_the_way_to_a_weight_are_folded(chain, same):
    proto = model(chain + " y = MatMul(x, w)", "float[2, 4] x", "float[2, 3] y", v=rand(3, 4))
    ready = check(proto, {"x": rand(2, 4)}, same)
    assert ops(ready) == ["MatMul"]
    assert find_layers(ready, Recipe())[0][0].layout.shape == (4, 3)


def test_squeeze_with_axes_as_an_attribute(same):
    proto = model(
        "u = Unsqueeze <axes = [0, 3]> (v) s = Squeeze <axes = [0, 3]> (u) y = MatMul(x, s)",
        "float[2, 4] x",
        "float[2, 3] y",
        11,
        v=rand(4, 3),
    )
    assert ops(check(proto, {"x": rand(2, 4)}, same)) == ["MatMul"]


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_a_weight_stored_narrow_and_cast_is_a_wide_weight(dtype, same):
    proto = model(
        "w = Cast <to = 1> (v) y = MatMul(x, w)", "float[2, 4] x", "float[2, 3] y", v=rand(4, 3, dtype=dtype)
    )
    ready = check(proto, {"x": rand(2, 4)}, same)
    assert find_layers(ready, Recipe())[0][0].dtype == "float32"


def test_an_integer_weight_behind_a_cast_is_left_quantized(same):
    codes = RNG.integers(-8, 8, (4, 3)).astype(np.int8)
    proto = model(
        "f = Cast <to = 1> (q) w = Mul(f, s) y = MatMul(x, w)",
        "float[2, 4] x",
        "float[2, 3] y",
        q=codes,
        s=rand(1, 3),
    )
    ready = check(proto, {"x": rand(2, 4)}, same)
    assert ops(ready) == ["Cast", "Mul", "MatMul"]


def test_a_folded_weight_leaves_the_original_to_its_other_readers(same):
    """A tied output head: the table is looked up, and its transpose multiplies."""
    proto = model(
        "e = Gather(table, ids) t = Transpose(table) y = MatMul(e, t)",
        "int64[2] ids",
        "float[2, 6] y",
        table=rand(6, 4),
    )
    ready = check(proto, {"ids": np.array([1, 5])}, same)
    assert ops(ready) == ["Gather", "MatMul"]
    layers, _ = find_layers(ready, Recipe(quantize_embeddings=True))
    assert [layer.layout.shape for layer in layers] == [(6, 4), (4, 6)]


def test_a_shared_constant_is_not_stored_twice_for_nothing(same):
    proto = model(
        "t = Transpose(p) a = Add(x, p) y = MatMul(a, x2) z = Add(t, x2)",
        "float[3, 4] x, float[4, 3] x2",
        "float[3, 3] y, float[4, 3] z",
        p=rand(3, 4),
    )
    assert "Transpose" in ops(check(proto, {"x": rand(3, 4), "x2": rand(4, 3)}, same))


def test_constants_that_are_graph_outputs_stay_outputs(same):
    proto = model(
        "w = Constant <value = float[2, 2] {1, 2, 3, 4}> () t = Transpose(v)"
        " y = MatMul(x, w) z = MatMul(x, t)",
        "float[2, 2] x",
        "float[2, 2] y, float[2, 2] z, float[2, 2] w, float[2, 2] t, float[2, 2] v",
        v=rand(2, 2),
    )
    ready = check(proto, {"x": rand(2, 2)}, same)
    assert [layer.op for layer in find_layers(ready, Recipe())[0]] == ["MatMul", "MatMul"]
