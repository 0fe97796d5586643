import numpy as np
from onnx import numpy_helper, parser

from comq_onnx.graph.io import load, to_proto
from comq_onnx.graph.prepare import prepare
from comq_onnx.graph.share import share_equal_weights

TABLE = np.random.default_rng(0).standard_normal((40, 16)).astype(np.float32)
SQUARE = np.random.default_rng(1).standard_normal((16, 16)).astype(np.float32)


def test_a_table_looked_up_twice_is_stored_once(same):
    proto = parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        net (int64[3] a, int64[3] b) => (float[3, 16] y)
        { d = Gather(table, a) e = Gather(table, b) f = MatMul(d, w) g = MatMul(e, w) h = MatMul(g, v)
          y = Add(f, h) }
    """)
    for name, value in {"table": TABLE, "w": SQUARE, "v": SQUARE + 1}.items():
        proto.graph.initializer.append(numpy_helper.from_array(value, name))
    ready = prepare(load(proto), 0)
    assert len(to_proto(ready).graph.initializer) == 5
    feeds = {"a": np.arange(3), "b": np.arange(7, 10)}
    reloaded = load(to_proto(ready))
    assert share_equal_weights(reloaded) == TABLE.nbytes + SQUARE.nbytes
    assert len(to_proto(reloaded).graph.initializer) == 3
    same(proto, to_proto(reloaded), feeds)
    assert share_equal_weights(reloaded) == 0
