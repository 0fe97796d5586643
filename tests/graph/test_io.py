import numpy as np
import onnx
import pytest
from onnx import TensorProto, external_data_helper, helper, numpy_helper, parser

from comq_onnx.errors import ComqError
from comq_onnx.graph import spill
from comq_onnx.graph.io import float_tensor, load, quantized_tensor, save, to_proto
from comq_onnx.graph.locate import nodes_of
from comq_onnx.graph.tensors import values_of

TEXT = """
<ir_version: {ir}, opset_import: ["" : {opset}], producer_name: "maker", producer_version: "1.2",
 domain: "org.example", model_version: 7, doc_string: "a model",
 metadata_props: ["names": "cat,dog", "stride": "32"]>
net (float[batch, 4] x, float[batch, 3] side) => (float[batch, 3] y, float[batch, 3] z)
<float[4, 3] w = {{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}}, float[3] b = {{1, -1, 0.5}}, float[batch, 3] h>
{{
    h = MatMul(x, w)
    y = Add(h, b)
    z = Add(y, side)
}}
"""
FEEDS = {"x": np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4), "side": np.ones((2, 3), np.float32)}


def text_model(opset=17, ir=8):
    return parser.parse_model(TEXT.format(opset=opset, ir=ir))


@pytest.mark.parametrize(
    ("opset", "ir", "expected"),
    [(7, 3, 4), (9, 4, 4), (11, 6, 6), (13, 7, 7), (17, 8, 8), (21, 10, 10), (25, 13, 13)],
)
def test_round_trip_keeps_outputs_and_raises_ir_only_as_needed(opset, ir, expected, same):
    model = text_model(opset, 13)
    model.ir_version = max(ir, 4)
    result = to_proto(load(model))
    assert result.ir_version == expected
    assert load(result).opset == opset
    onnx.checker.check_model(result, full_check=True)
    same(model, result, FEEDS)


def test_round_trip_keeps_everything_that_is_not_a_weight():
    model = text_model()
    for number, node in enumerate(model.graph.node):
        node.name, node.doc_string = f"node{number}", f"line {number}"
        node.metadata_props.add(key="origin", value=str(number))
    model.graph.doc_string = "the graph"
    model.graph.metadata_props.add(key="k", value="v")
    model.graph.input[0].doc_string = "an image"
    model.graph.input[0].type.denotation = "IMAGE"
    model.graph.quantization_annotation.add(tensor_name="h")
    model.opset_import.append(helper.make_opsetid("com.example", 3))
    before = model.SerializeToString()
    result = to_proto(load(model))
    assert result == model
    assert model.SerializeToString() == before


def test_the_ir_version_is_lowered_to_what_the_opset_needs():
    assert to_proto(load(text_model(13, ir=10))).ir_version == 7


def test_names_missing_and_twice_survive_a_round_trip():
    model = text_model()
    model.graph.node[1].name = "twin"
    model.graph.node[2].name = "twin"
    result = to_proto(load(model))
    assert [node.name for node in result.graph.node] == ["", "twin", "twin"]


def test_initializers_listed_as_inputs_become_plain_constants(run):
    model = text_model(8, ir=3)
    for tensor in model.graph.initializer:
        model.graph.input.insert(0, helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    result = to_proto(load(model))
    assert [info.name for info in result.graph.input] == ["x", "side"]
    assert result.ir_version == 4
    first, second = run(model, FEEDS), run(result, FEEDS)
    np.testing.assert_array_equal(first[0], second[0])


def test_attributes_of_every_kind_survive():
    node = helper.make_node(
        "Odd",
        ["x"],
        ["y"],
        domain="com.example",
        f=1.1,
        i=3,
        s="text",
        fs=[1.5, 2.5],
        js=[1, 2],
        ss=["a", "b"],
    )
    node.attribute.append(helper.make_attribute("none", [], attr_type=onnx.AttributeProto.FLOATS))
    node.attribute.add(name="bytes", type=onnx.AttributeProto.STRING, s=b"\xff\xfe")
    node.attribute.append(helper.make_attribute("type", helper.make_tensor_type_proto(1, [2])))
    node.attribute.append(helper.make_attribute("t", numpy_helper.from_array(np.arange(3.0), "inside")))
    inner = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["r"])], "inner", [], [helper.make_empty_tensor_value_info("r")]
    )
    node.attribute.append(helper.make_attribute("body", inner))
    node.attribute.append(helper.make_attribute("bodies", [inner]))
    value = helper.make_tensor_value_info
    graph = helper.make_graph([node], "g", [value("x", 1, [2])], [value("y", 1, None)])
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    assert to_proto(load(model)) == model


def test_sequence_and_optional_types_survive():
    graph = helper.make_graph(
        [
            helper.make_node("SequenceAt", ["s", "i"], ["y"]),
            helper.make_node("OptionalGetElement", ["o"], ["z"]),
        ],
        "g",
        [
            helper.make_tensor_sequence_value_info("s", 1, None),
            helper.make_tensor_value_info("i", 7, []),
            helper.make_value_info(
                "o", helper.make_optional_type_proto(helper.make_tensor_type_proto(1, [2]))
            ),
        ],
        [helper.make_tensor_value_info("y", 1, None), helper.make_tensor_value_info("z", 1, [2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    assert to_proto(load(model)) == model


def test_a_sparse_initializer_stays_sparse_and_reads_dense(same):
    dense = np.array([[0, 2.0, 0], [0, 0, 0], [5, 0, 0], [0, 0, 7]], np.float32)
    places = np.argwhere(dense)
    model = text_model()
    del model.graph.initializer[0]
    model.graph.sparse_initializer.append(
        helper.make_sparse_tensor(
            numpy_helper.from_array(dense[dense != 0], "w"),
            numpy_helper.from_array(places, "w_index"),
            [4, 3],
        )
    )
    loaded = load(model)
    np.testing.assert_array_equal(values_of(loaded.graph.nodes[0].inputs[1]), dense)
    result = to_proto(loaded)
    assert [s.values.name for s in result.graph.sparse_initializer] == ["w"]
    same(model, result, FEEDS)


def test_nodes_out_of_order_are_put_in_order():
    model = text_model()
    nodes = list(model.graph.node)
    shuffled = onnx.ModelProto()
    shuffled.CopyFrom(model)
    del shuffled.graph.node[:]
    shuffled.graph.node.extend([nodes[2], nodes[0], nodes[1]])
    assert list(to_proto(load(shuffled)).graph.node) == nodes


def test_functions_are_inlined(same):
    model = parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17, "local" : 1]>
        net (float[2, 4] x) => (float[2, 3] y)
        <float[4, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}>
        { y = local.dense (x, w) }
        <opset_import: ["" : 17], domain: "local">
        dense (a, b) => (c) { m = MatMul(a, b)
                              c = Relu(m) }
    """)
    loaded = load(model)
    assert [node.op for node, _ in nodes_of(loaded)] == ["MatMul", "Relu"]
    result = to_proto(loaded)
    assert not result.functions
    assert [info.name for info in result.graph.input] == ["x"]
    same(model, result, {"x": FEEDS["x"]})


def test_constants_of_the_outer_graph_are_written_once(same):
    model = parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        net (bool cond, float[2, 4] x) => (float[2, 3] y)
        <float[4, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}>
        { y = If (cond) <then_branch = yes () => (float[2, 3] a) { a = MatMul(x, w) },
                         else_branch = no () => (float[2, 3] c) { b = MatMul(x, w)
                                                                   c = Neg(b) }> }
    """)
    result = to_proto(load(model))
    assert [t.name for t in result.graph.initializer] == ["w"]
    assert result == model
    for cond in (True, False):
        same(model, result, {"cond": np.array(cond), "x": FEEDS["x"]})


def external_model(folder, name="big.onnx"):
    """A model whose weights lie in one file beside it."""
    model = text_model()
    path = folder / name
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    external_data_helper.convert_model_to_external_data(model, location=name + ".data", size_threshold=0)
    onnx.save(model, path)
    return path


def test_external_data_is_read_when_asked_for(tmp_path, same):
    path = external_model(tmp_path)
    loaded = load(path)
    (tmp_path / "big.onnx.data").rename(tmp_path / "gone")
    assert [node.op for node in loaded.graph.nodes] == ["MatMul", "Add", "Add"]
    (tmp_path / "gone").rename(tmp_path / "big.onnx.data")
    result = to_proto(loaded)
    assert not any(t.data_location == TensorProto.EXTERNAL for t in result.graph.initializer)
    same(str(path), result, FEEDS)


def test_a_model_too_large_for_one_message_refers_to_its_files_and_is_saved_with_a_data_file(
    tmp_path, monkeypatch, same
):
    path = external_model(tmp_path)
    monkeypatch.setattr("comq_onnx.graph.io.INLINE_BYTES", 10)
    monkeypatch.setattr("comq_onnx.graph.writer.SMALL", 4)
    result = to_proto(load(path))
    assert all(t.data_location == TensorProto.EXTERNAL for t in result.graph.initializer)
    monkeypatch.setattr(spill, "SMALL", 4)
    out = tmp_path / "out"
    out.mkdir()
    files = save(result, out / "copy.onnx")
    assert [file.name for file in files] == ["copy.onnx", "copy.onnx.data"]
    assert sorted(p.name for p in out.iterdir()) == ["copy.onnx", "copy.onnx.data"]
    same(str(path), str(out / "copy.onnx"), FEEDS)
    again = to_proto(load(out / "copy.onnx"))
    assert [t.name for t in again.graph.initializer] == ["w", "b"]


def test_save_replaces_only_when_whole(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_text("before")
    assert save(text_model(), path) == [path]
    assert onnx.load(path) == text_model()
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_quantized_tensors_hold_their_codes_packed():
    codes = np.array([[-8, 7, 1], [0, -1, 3]], np.int8)
    for elem_type, low, size in (
        (TensorProto.INT4, 0, 3),
        (TensorProto.INT8, 0, 6),
        (TensorProto.UINT4, 8, 3),
    ):
        constant = quantized_tensor("q", codes + low, elem_type)
        proto = constant._values.tensor
        assert proto.data_type == elem_type
        assert len(proto.raw_data) == size
        np.testing.assert_array_equal(numpy_helper.to_array(proto).astype(np.int8), codes + low)
    two = quantized_tensor("q", np.array([-2, 1, 0, -1], np.int8), TensorProto.INT2)
    np.testing.assert_array_equal(values_of(two).astype(np.int8), [-2, 1, 0, -1])


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_float_tensors_are_rounded_to_their_type(dtype):
    constant = float_tensor("s", np.array([1.0, 1 / 3]), dtype)
    assert values_of(constant).dtype.name == dtype
    assert float(values_of(constant)[1]) == pytest.approx(1 / 3, rel=1e-2)
    assert float_tensor("s", np.float64(2.0), dtype)._values.tensor.dims == []


def message(call):
    with pytest.raises(ComqError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_bad_files_are_one_sentence(tmp_path):
    path = tmp_path / "m.onnx"
    assert "does not exist" in message(lambda: load(path))
    assert "is a folder" in message(lambda: load(tmp_path))
    path.write_bytes(b"")
    assert "empty" in message(lambda: load(path))
    path.write_text("hello, this is no model")
    assert "not an ONNX model" in message(lambda: load(path))
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0")
    assert "git lfs pull" in message(lambda: load(path))
    whole = text_model().SerializeToString()
    for cut in (3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert "truncated or damaged" in message(lambda: load(path))


def test_bad_opsets_are_named():
    newest = onnx.defs.onnx_opset_version()
    beyond = text_model()
    beyond.opset_import[0].version = newest + 1
    assert f"opset {newest + 1} is not supported" in message(lambda: load(beyond))
    model = text_model()
    del model.opset_import[:]
    assert "no ONNX opset" in message(lambda: load(model))


def test_damaged_graphs_are_named():
    model = text_model()
    del model.graph.node[0]
    assert "'h' is read but nothing produces it" in message(lambda: load(model))
    model = text_model()
    model.graph.output[0].name = "missing"
    assert "'missing' is produced by no node" in message(lambda: load(model))
    model = text_model()
    model.graph.node[1].output[0] = "h"
    assert "'h' is produced twice" in message(lambda: load(model))
    model = text_model()
    model.graph.node[0].input[0] = "z"
    assert "cycle" in message(lambda: load(model))
    model = text_model()
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((4, 3), np.float32), "w"))
    model.graph.initializer[0].raw_data = b"1234"
    assert "holds 4 bytes where its shape [4, 3] needs 48" in message(lambda: load(model))


def test_external_data_that_is_not_there_is_named(tmp_path):
    path = external_model(tmp_path)
    proto = onnx.load(path, load_external_data=False)
    assert "folder is not known" in message(lambda: load(proto))
    data = tmp_path / "big.onnx.data"
    data.write_bytes(data.read_bytes()[:-8])
    assert "too short" in message(lambda: load(path))
    data.unlink()
    assert "big.onnx.data' does not exist" in message(lambda: load(path))
    wrong = onnx.ModelProto()
    wrong.CopyFrom(proto)
    next(e for e in wrong.graph.initializer[0].external_data if e.key == "length").value = "40"
    data.write_bytes(bytes(4096))
    onnx.save(wrong, tmp_path / "wrong.onnx")
    assert "has 40 bytes where its shape [4, 3] needs 48" in message(lambda: load(tmp_path / "wrong.onnx"))
    proto.graph.initializer[0].external_data[0].value = "../big.onnx.data"
    onnx.save(proto, tmp_path / "escape.onnx")
    assert "outside the model's folder" in message(lambda: load(tmp_path / "escape.onnx"))


def test_outputs_that_cannot_be_written_are_named(tmp_path):
    assert "folder does not exist" in message(lambda: save(text_model(), tmp_path / "no" / "m.onnx"))
    assert "is a folder" in message(lambda: save(text_model(), tmp_path))
