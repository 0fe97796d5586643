"""A file that breaks a rule of the weight-only targets is told so."""

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from comq_onnx.targets import TARGETS


def file(scale, readers=1, rows=64, **attrs):
    """`readers` products of one DequantizeLinear of ``[rows, 8]`` int4 codes."""
    codes = numpy_helper.from_array(np.ones((rows, 8), ml_dtypes.int4), "q")
    linear = helper.make_node("DequantizeLinear", ["q", "s"], ["w"], "dq", **attrs)
    nodes = [linear, *(helper.make_node("MatMul", ["x", "w"], [f"y{i}"]) for i in range(readers))]
    outputs = [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, ["B", 8]) for i in range(readers)]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", rows])]
    scales = numpy_helper.from_array(np.asarray(scale, np.float32), "s")
    graph = helper.make_graph(nodes, "g", inputs, outputs, [codes, scales])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


GOOD = np.ones((2, 8))
BROKEN = {
    "negative, which": (file(np.ones(8), axis=-1), 1),
    "power of two": (file(np.ones((2, 8)), rows=96, axis=0, block_size=48), 1),
    "does not divide": (file(np.ones((2, 8)), rows=40, axis=0, block_size=32), 1),
    "more than one reader": (file(GOOD, readers=2, axis=0, block_size=32), 1),
    "not positive": (file(-GOOD, axis=0, block_size=32), 1),
    "whole tensor": (file(1.0), 1),
}


@pytest.mark.parametrize("rule", BROKEN)
def test_each_rule(rule):
    proto, count = BROKEN[rule]
    found = TARGETS["portable"].lint(proto)
    assert len(found) == count
    assert rule in found[0]
    assert found[0].startswith("dq: ")


def test_a_file_that_keeps_them():
    assert TARGETS["portable"].lint(file(GOOD, axis=0, block_size=32)) == ()


def test_two_bit_codes_of_columns_that_4_does_not_divide():
    proto = file(np.ones(6), axis=1)
    codes = numpy_helper.from_array(np.ones((64, 6), ml_dtypes.int2), "q")
    proto.graph.initializer[0].CopyFrom(codes)
    assert len(TARGETS["ort"].lint(proto)) == 1


def test_a_transposed_gemm_is_not_fused():
    proto = file(np.ones(64), axis=0)
    proto.graph.node[1].CopyFrom(helper.make_node("Gemm", ["x", "w"], ["y0"], "fc", transB=1))
    assert TARGETS["portable"].lint(proto) == ("fc: transB = 1 with a quantized weight is not fused",)
    assert isinstance(proto, onnx.ModelProto)
