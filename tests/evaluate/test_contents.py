"""What a file holds, against what was put into it."""

import numpy as np
import onnx
import onnx.parser
import pytest
from graphs import model, weight
from onnx import TensorProto, helper

from comq_onnx.errors import ComqError
from comq_onnx.evaluate.contents import OpCount, Port, contents, count_ops, dtype_name

CONSTANTS = """g (float[N, 8, ?] x, int64[2] k, float s) => (float[N, 8, M] y, float16 z) {
    c = Constant <value = float[4] {1, 2, 3, 4}> ()
    a = MatMul(w, x)
    b = MatMul(w, a)
    d = Add(b, c)
    y = Relu(d)
    z = Cast<to = 10>(s)
}"""


def test_interface():
    proto = model(CONSTANTS.replace("?", "M"), w=weight(8, 8), unread=np.zeros(3, np.float32))
    proto.producer_name, proto.producer_version = "maker", "1.2"
    proto.metadata_props.add(key="classes", value="ab")
    proto.opset_import.add(domain="com.microsoft", version=1)
    found = contents(proto)
    assert found.inputs == (
        Port("x", "float32", ("N", 8, "M")),
        Port("k", "int64", (2,)),
        Port("s", "float32", ()),
    )
    assert found.outputs == (Port("y", "float32", ("N", 8, "M")), Port("z", "float16", ()))
    assert (found.producer, found.metadata) == ("maker 1.2", ("classes",))
    assert (found.ir_version, found.opsets) == (8, {"ai.onnx": 17, "com.microsoft": 1})
    assert found.bytes == proto.ByteSize()


def test_what_is_not_said_and_what_is_no_tensor():
    proto = model("g (float[N] x) => (float[N] y) { y = Relu(x) }")
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    proto.graph.output[0].type.CopyFrom(
        helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    )
    found = contents(proto)
    assert (found.inputs, found.outputs) == ((Port("x", "float32", None),), (Port("y", "sequence", None),))
    assert [dtype_name(kind) for kind in (0, 11, 16, 22, 9999)] == [
        "unknown", "float64", "bfloat16", "int4", "unknown",
    ]  # fmt: skip


def test_a_constant_counts_once_for_its_first_reader():
    proto = model(CONSTANTS.replace("?", "M"), w=weight(8, 8), unread=np.zeros(3, np.float32))
    assert count_ops(proto) == (
        OpCount("MatMul", 2, 256),
        OpCount("Add", 1, 16),
        OpCount("(nothing)", 0, 12),
        OpCount("Cast", 1, 0),
        OpCount("Constant", 1, 0),
        OpCount("Relu", 1, 0),
    )


def test_packed_codes_subgraphs_domains_and_initializers_that_are_inputs():
    proto = model(
        """g (float[4, 6] x, bool c, float[6, 6] w) => (float[4, 6] y) {
            q = DequantizeLinear(codes, scale)
            m = MatMul(x, q)
            i = If(c) <
                then_branch = t () => (float[4, 6] o) { o = MatMul(m, w) },
                else_branch = e () => (float[4, 6] p) { p = Add(m, bias) }
            >
            y = com.other.Thing(i)
        }""",
        opset=21,
        ir_version=10,
        w=weight(6, 6),
        bias=np.ones(6, np.float32),
        scale=np.float32(1),
    )
    proto.graph.initializer.add().CopyFrom(helper.make_tensor("codes", TensorProto.INT4, [6, 6], [1] * 36))
    ops = {line.op: line for line in count_ops(proto)}
    assert ops["DequantizeLinear"].bytes == 18 + 4
    assert ops["MatMul"] == OpCount("MatMul", 2, 144)
    assert ops["Add"].bytes == 24
    assert ops["com.other::Thing"].nodes == 1
    assert [one.name for one in contents(proto).inputs] == ["x", "c"]


def test_functions_count_as_often_as_they_are_called():
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
        g (float[2, 2] x) => (float[2, 2] y) { a = local.twice(x) y = local.twice(a) }
        <domain: "local", opset_import: ["" : 17]> twice (p) => (q) { q = Add(p, p) }"""
    )
    assert count_ops(proto) == (OpCount("Add", 2, 0),)
    assert contents(proto).functions == 1


def test_files(tmp_path):
    proto = model("g (float[N, 64] x) => (float[N, 64] y) { y = MatMul(x, w) }", w=weight(64, 64))
    path = tmp_path / "m.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="m.bin", size_threshold=0)
    found = contents(path)
    assert (found.model, found.bytes) == (str(path), path.stat().st_size + 64 * 64 * 4)
    assert found.constant_bytes == 64 * 64 * 4
    with pytest.raises(ComqError, match="it is a folder"):
        contents(tmp_path)
