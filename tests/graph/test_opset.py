import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from comq_onnx.graph.io import load
from comq_onnx.graph.opset import raise_opset
from comq_onnx.graph.prepare import prepare

CNN = """
<ir_version: 3, opset_import: ["" : {opset}], metadata_props: ["k": "v"]>
net (float[n, 4, 8, 8] x) => (float[n, 5] y)
<int64[2] shape = {{0, -1}}>
{{
    c = Conv <pads = [1, 1, 1, 1]> (x, w, b)
    r = Relu(c)
    p = GlobalAveragePool(r)
    f = Reshape(p, shape)
    y = Gemm <transB = 1> (f, fc, fb)
}}
"""


def cnn(opset):
    model = parser.parse_model(CNN.format(opset=opset))
    model.ir_version = 8
    rng = np.random.default_rng(0)
    for name, shape in {"w": (6, 4, 3, 3), "b": (6,), "fc": (5, 6), "fb": (5,)}.items():
        values = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


FEEDS = {"x": np.random.default_rng(1).standard_normal((2, 4, 8, 8)).astype(np.float32)}


@pytest.mark.parametrize("before", [7, 9, 11, 13, 17, 21])
@pytest.mark.parametrize("after", [13, 21, 25])
def test_raising_changes_no_output(before, after, same):
    model = cnn(before)
    raised = raise_opset(model, after)
    if before >= after:
        assert raised is model
        return
    assert raised.opset_import[0].version == after
    assert list(raised.graph.input) == list(model.graph.input)
    assert list(raised.graph.output) == list(model.graph.output)
    assert list(raised.graph.value_info) == []
    assert raised.metadata_props == model.metadata_props
    onnx.checker.check_model(raised, full_check=True)
    same(model, raised, FEEDS)


def test_nodes_keep_names_documentation_and_metadata():
    model = cnn(11)
    for number, node in enumerate(model.graph.node):
        node.name, node.doc_string = f"n{number}", f"line {number}"
        node.metadata_props.add(key="at", value=str(number))
    raised = raise_opset(model, 21)
    assert [(n.name, n.doc_string, len(n.metadata_props)) for n in raised.graph.node] == [
        (n.name, n.doc_string, 1) for n in model.graph.node
    ]


def test_external_weights_are_not_read():
    model = cnn(11)
    tensor = model.graph.initializer[1]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="nowhere.bin")
    raised = raise_opset(model, 21)
    assert raised.graph.initializer[1] == tensor


def test_operators_onnx_does_not_know_are_carried_over():
    model = parser.parse_model("""
        <ir_version: 7, opset_import: ["" : 11, "com.acme" : 1]>
        net (float[2, 3, 4] x) => (float[2, 3, 4] y)
        { a = Plugin_TRT <k = 3> (x)
          b = com.acme.Thing(a)
          y = Softmax(b) }
    """)
    raised = raise_opset(model, 21)
    found = [(node.op_type, node.domain) for node in raised.graph.node]
    assert found[:2] == [("Plugin_TRT", ""), ("Thing", "com.acme")]
    assert raised.graph.node[0].attribute[0].i == 3
    assert {entry.domain for entry in raised.opset_import} == {"", "com.acme"}


@pytest.mark.parametrize("channels", ["6", "c"])
def test_group_normalization_becomes_per_channel(channels, same):
    model = parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 18]>
        net (float[2, {channels}, 5] x) => (float[2, {channels}, 5] y)
        <float[3] scale = {{1, 2, -3}}, float[3] bias = {{0.5, 0, 1}}>
        {{ y = GroupNormalization <num_groups = 3> (x, scale, bias) }}
    """)
    raised = raise_opset(model, 21)
    onnx.checker.check_model(raised, full_check=True)
    assert "GroupNormalization" in [node.op_type for node in raised.graph.node]
    same(model, raised, {"x": np.random.default_rng(0).standard_normal((2, 6, 5)).astype(np.float32)})


def test_subgraphs_are_raised_and_keep_their_interface(same):
    model = parser.parse_model("""
        <ir_version: 7, opset_import: ["" : 11]>
        net (bool cond, float[2, 4] x) => (float[2, 1] y)
        { y = If (cond) <then_branch = yes () => (float[2, 1] a) { a = ReduceSum <axes = [1]> (x) },
                         else_branch = no () => (float[2, 1] b) { b = ReduceMax <axes = [1]> (x) }> }
    """)
    raised = raise_opset(model, 21)
    for before, after in zip(model.graph.node[0].attribute, raised.graph.node[0].attribute, strict=True):
        assert after.g.name == before.g.name
        assert list(after.g.output) == list(before.g.output)
    for cond in (True, False):
        same(model, raised, {"cond": np.array(cond), "x": np.eye(2, 4, dtype=np.float32)})


def test_an_operator_that_is_gone_is_replaced_or_named():
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Upsample", ["x", "s"], ["y"], mode="linear")],
            "g",
            [helper.make_tensor_value_info("x", 1, [1, 1, 2, 2]), helper.make_tensor_value_info("s", 1, [4])],
            [helper.make_tensor_value_info("y", 1, None)],
        ),
        opset_imports=[helper.make_opsetid("", 9)],
        ir_version=8,
    )
    raised = raise_opset(model, 21)
    assert "Upsample" not in {node.op_type for node in raised.graph.node}


def test_preparing_at_a_higher_opset_changes_no_output_and_not_the_model(same):
    from comq_onnx.graph.io import to_proto

    model = cnn(9)
    loaded = load(model)
    ready = prepare(loaded, 21)
    assert ready.opset == 21
    assert loaded.opset == 9
    assert to_proto(loaded).graph == model.graph
    same(model, to_proto(ready), FEEDS)
