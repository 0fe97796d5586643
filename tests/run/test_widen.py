"""Half precision to float32: the same weights, every type changed, nothing else touched."""

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from comq_onnx.run.session import open_session
from comq_onnx.run.widen import widen

HALF = {"float16": (TensorProto.FLOAT16, np.float16), "bfloat16": (TensorProto.BFLOAT16, ml_dtypes.bfloat16)}


def half_model(kind: str) -> tuple[onnx.ModelProto, np.ndarray]:
    """Weights in an initializer and a Constant node, casts to and fro, and an If with its own constant."""
    elem, dtype = HALF[kind]
    weight = np.random.default_rng(0).standard_normal((4, 3)).astype(dtype)
    one = numpy_helper.from_array(np.array([1.5], dtype), "one")
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=one), helper.make_node("Add", ["h", "c"], ["b"])],
        "branch",
        [],
        [helper.make_tensor_value_info("b", elem, [2, 3])],
    )
    nodes = [
        helper.make_node("Cast", ["x"], ["xh"], to=elem),
        helper.make_node("MatMul", ["xh", "w"], ["h"]),
        helper.make_node("If", ["flag"], ["i"], then_branch=branch, else_branch=branch),
        helper.make_node("Cast", ["i"], ["y"], to=TensorProto.FLOAT),
        helper.make_node("Identity", ["i"], ["yh"]),
    ]
    graph = helper.make_graph(
        nodes,
        "half",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4]),
            helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3]),
            helper.make_tensor_value_info("yh", elem, [2, 3]),
        ],
        [numpy_helper.from_array(weight, "w")],
        value_info=[helper.make_tensor_value_info("h", elem, [2, 3])],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)])
    return model, weight.astype(np.float32)


@pytest.mark.parametrize("kind", HALF)
def test_a_half_model_runs_in_float32(kind):
    model, weight = half_model(kind)
    before = model.SerializeToString()
    wide = widen(model)
    assert model.SerializeToString() == before
    x = np.random.default_rng(1).standard_normal((2, 4)).astype(np.float32)
    out = open_session(wide).run({"x": x, "flag": np.array(True)})
    assert out["yh"].dtype == np.float32
    # float32 sums: far closer than either half type could come.
    assert np.allclose(out["yh"], x @ weight + 1.5, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", HALF)
def test_no_half_type_is_left(kind):
    wide = widen(half_model(kind)[0])
    onnx.checker.check_model(wide, full_check=True)
    assert widen(wide) is wide


def test_a_float32_model_passes_untouched():
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y) { y = Cast<to = 1>(x) }'
    )
    assert widen(model) is model


def test_functions_are_widened():
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17, "own": 1]>
        g (float[2] x) => (float[2] y) { y = own.Through(x) }
        <domain: "own", opset_import: ["": 17]>
        Through (a) => (b) { h = Cast<to = 10>(a) b = Cast<to = 1>(h) }"""
    )
    x = np.array([1.0001, 2.0003], np.float32)
    assert np.array_equal(open_session(widen(model)).run({"x": x})["y"], x)
    assert not np.array_equal(open_session(model).run({"x": x})["y"], x)


def test_sequence_types_are_widened():
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float16[2] x) => (seq(float16[2]) s) { s = SequenceConstruct(x) }"""
    )
    wide = widen(model)
    assert wide.graph.output[0].type.sequence_type.elem_type.tensor_type.elem_type == TensorProto.FLOAT
