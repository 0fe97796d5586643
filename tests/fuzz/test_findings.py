"""What the fuzzer found in models, recipes and flags, each in its smallest form: an error that says it."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from graphs import model, weight
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper

from comq_onnx import quantize
from comq_onnx.activations import in_half
from comq_onnx.cli import main
from comq_onnx.errors import ComqError
from comq_onnx.graph.io import load
from comq_onnx.graph.shapes import known_shapes
from comq_onnx.graph.tensors import float_tensor, values_of
from comq_onnx.graph.vocabulary import vocabulary
from comq_onnx.records import ActivationKind, ValueGrid

LINEAR = "g (float[B,16] x) => (float[B,8] y) { h = Relu(x) y = MatMul(h, w) }"
NORMED = """g (float[B,3,8,8] x) => (float[B,4,6,6] y) {
  c = Conv(x, w) y = BatchNormalization(c, s, s, s, s) }"""
RESHAPED = "g (float[B,16] x) => (float[B,8] y) { r = Reshape(w, shape) y = MatMul(x, r) }"


def linear(opset: int = 21) -> ModelProto:
    return model(LINEAR, opset=opset, ir_version=8 if opset < 21 else 10, w=weight(16, 8))


def conv(**weights: np.ndarray) -> ModelProto:
    kernel = weight(27, 4).T.reshape(4, 3, 3, 3).copy()
    given = {"w": kernel, "s": np.ones(4, np.float32), **weights}
    return model(NORMED, opset=21, ir_version=10, **given)


def refused(made: ModelProto, folder: Path, **recipe: object) -> str:
    """The sentence that the command ends with; nothing is written, nothing warned of."""
    path = folder / "model.onnx"
    path.write_bytes(made.SerializeToString())
    with pytest.raises(ComqError) as caught:
        quantize(path, folder / "out.onnx", **{"target": "ort", "effort": "fast", **recipe})
    said = str(caught.value)
    assert said.isprintable()
    assert said.endswith(".")
    assert not (folder / "out.onnx").exists()
    return said


def weight_dims(made: ModelProto) -> None:
    made.graph.initializer[0].dims[0] = -16


def weight_typed(made: ModelProto) -> None:
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.float_data.extend([1.0] * 127)


def weight_huge(made: ModelProto) -> None:
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.dims[:] = [1 << 20, 1 << 20]


def weight_overflowing(made: ModelProto) -> None:
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.dims[:] = [1 << 62, 1 << 62, 0]


def weight_of_texts(made: ModelProto) -> None:
    tensor = made.graph.initializer[0]
    tensor.CopyFrom(TensorProto(name="w", data_type=TensorProto.STRING, dims=[1], string_data=[b"\xff"]))


def weight_unknown(made: ModelProto) -> None:
    made.graph.initializer[0].data_type = 99


def weight_segment(made: ModelProto) -> None:
    made.graph.initializer[0].segment.begin = 0


def operand_missing(made: ModelProto) -> None:
    del made.graph.node[1].input[1]


def attribute_unknown(made: ModelProto) -> None:
    made.graph.node[1].attribute.append(helper.make_attribute("axis", 1))


def attribute_of_a_function(made: ModelProto) -> None:
    made.graph.node[1].attribute.add(name="a", ref_attr_name="b", type=AttributeProto.INT)


def name_of_commands(made: ModelProto) -> None:
    made.graph.node[1].name = "\x1b[2J"


def name_of_lines(made: ModelProto) -> None:
    made.graph.node[0].output[0] = made.graph.node[1].input[0] = "a\nb"


def import_beyond_numbers(made: ModelProto) -> None:
    made.opset_import.append(helper.make_opsetid("elsewhere", 2**63 - 1))


def input_of_no_type(made: ModelProto) -> None:
    made.graph.input[0].type.tensor_type.elem_type = -1


def input_beyond_memory(made: ModelProto) -> None:
    made.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1 << 62


BROKEN: dict[Callable[[ModelProto], None], str] = {
    weight_dims: r"tensor 'w': its shape \[-16, 8\] has a negative size",
    weight_typed: r"tensor 'w': it holds 127 values where its shape \[16, 8\] needs 128",
    weight_huge: "tensor 'w': it holds 0 values",
    weight_overflowing: "tensor 'w': its shape .* is larger than any tensor",
    weight_of_texts: "tensor 'w': its texts are not UTF-8",
    weight_unknown: "tensor 'w': its element type 99 is not known",
    weight_segment: "tensor 'w': it is a segment",
    operand_missing: "node '': it is no valid MatMul",
    attribute_unknown: "no valid MatMul .*[Uu]nrecognized attribute: axis",
    attribute_of_a_function: "its attribute 'a' is that of a function",
    name_of_commands: r"the name '\\x1b\[2J' is no printable text",
    name_of_lines: r"the output 'a\\nb' is no printable text",
    import_beyond_numbers: "it imports version 9223372036854775807 of the operators of 'elsewhere'",
    input_of_no_type: "tensor 'x': its element type -1 is not known",
    input_beyond_memory: "input 'x': made-up inputs of [0-9,]+ numbers are not made",
}


@pytest.mark.parametrize("spoil", BROKEN, ids=lambda spoil: spoil.__name__)
def test_a_broken_model_is_refused(spoil: Callable[[ModelProto], None], tmp_path: Path) -> None:
    made = linear()
    spoil(made)
    assert re.search(BROKEN[spoil], refused(made, tmp_path))


def test_bytes_that_are_no_text_where_a_name_should_be(tmp_path: Path) -> None:
    data = linear().SerializeToString().replace(b"MatMul", b"\x9eatMul")
    with pytest.raises(ComqError, match=r"the op_type .* is no printable text"):
        quantize(ModelProto.FromString(data), tmp_path / "q.onnx", target="ort")


def test_an_operand_missing_before_the_opset_is_raised(tmp_path: Path) -> None:
    made = linear(opset=17)
    del made.graph.node[0].input[:]
    assert "no valid Relu" in refused(made, tmp_path)


@pytest.mark.parametrize("shape", [np.array([16.0, 8.0], np.float32), np.array([16, 8], np.complex64)])
def test_a_weight_is_reshaped_to_no_shape(shape: np.ndarray, tmp_path: Path) -> None:
    made = model(RESHAPED, opset=21, ir_version=10, w=weight(8, 16), shape=shape)
    assert "no layer can be quantized" in refused(made, tmp_path)


@pytest.mark.parametrize("op", ["Cast<to=1>", "Identity", "Transpose"])
def test_two_thousand_steps_to_a_weight(op: str, tmp_path: Path) -> None:
    """Each was a function that called the one before, beyond Python's depth."""
    steps = "".join(f"c{i + 1} = {op}(c{i}) " for i in range(2000))
    text = f"g (float[B,16] x) => (float[B,16] y) {{ {steps} y = MatMul(x, c2000) }}"
    made = model(text, opset=21, ir_version=10, c0=weight(16, 16))
    quantize(made, tmp_path / "q.onnx", target="ort", effort="fast", weights="int8")
    assert (tmp_path / "q.onnx").exists()


def test_nodes_in_reverse_are_put_in_order_in_time(tmp_path: Path) -> None:
    steps = "".join(f"c{i + 1} = Relu(c{i}) " for i in range(4000))
    made = model(
        f"g (float[B,16] c0) => (float[B,16] y) {{ {steps} y = MatMul(c4000, w) }}", w=weight(16, 16)
    )
    nodes = list(made.graph.node)[::-1]
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    assert [node.op for node in load(made).graph.nodes][-1] == "MatMul"


@pytest.mark.parametrize("how", ["itself", "each other", "doubling"])
def test_functions_that_do_not_end(how: str, tmp_path: Path) -> None:
    count = {"itself": 1, "each other": 2, "doubling": 40}[how]
    made = linear()
    for i in range(count):
        calls = [f"f{i + 1}"] * 2 if how == "doubling" else [f"f{(i + 1) % count}"]
        body = [helper.make_node("Relu", ["a"], ["b0"])]
        body += [helper.make_node(n, [f"b{j}"], [f"b{j + 1}"], domain="local") for j, n in enumerate(calls)]
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("local", 1)]
        made.functions.append(helper.make_function("local", f"f{i}", ["a"], [f"b{len(calls)}"], body, opsets))
    made.opset_import.append(helper.make_opsetid("local", 1))
    made.graph.node[0].op_type, made.graph.node[0].domain = "f0", "local"
    said = refused(made, tmp_path)
    assert ("more than 1,000,000 nodes" if how == "doubling" else "calls itself") in said


@pytest.mark.parametrize(
    "attribute", [("pads", [0, 0]), ("strides", [0, 1]), ("group", 2**62), ("group", -1)]
)
def test_a_convolution_whose_attributes_do_not_go_with_its_weight(
    attribute: tuple[str, object], tmp_path: Path
) -> None:
    made = conv()
    made.graph.node[0].attribute.append(helper.make_attribute(*attribute))
    assert "no layer can be quantized" in refused(made, tmp_path)


@pytest.mark.parametrize("place", range(1, 5))
def test_a_normalization_whose_vectors_differ_is_left_to_the_runtime(place: int, tmp_path: Path) -> None:
    made = conv(t=np.ones(0, np.float32))
    made.graph.node[1].input[place] = "t"
    refused(made, tmp_path)


@pytest.mark.parametrize("scalar", [np.ones(0, np.float32), np.ones(3, np.float32)])
def test_a_clip_whose_limit_is_no_number_is_left_to_the_runtime(scalar: np.ndarray, tmp_path: Path) -> None:
    text = "g (float[B,16] x) => (float[B,8] y) { h = MatMul(x, w) y = Clip(h, limit) }"
    made = model(text, opset=21, ir_version=10, w=weight(16, 8), limit=scalar)
    refused(made, tmp_path, activations="int8")


SPARSE = "g (float[B,6] x) => (float[B,4] y) { y = MatMul(x, a) }"


@pytest.mark.parametrize(
    ("index", "shape"),
    [
        (np.array([1.0, 2.0], np.float32), [6, 4]),
        (np.array([1, 24], np.int64), [6, 4]),
        (np.array([-1, 3], np.int64), [6, 4]),
        (np.array([[1, 4], [0, 0]], np.int64), [6, 4]),
        (np.array([1, 2, 3], np.int64), [6, 4]),
        (np.array([1, 2], np.int64), [1 << 30, 1 << 30]),
    ],
)
def test_indices_of_a_sparse_weight_that_do_not_fit(
    index: np.ndarray, shape: list[int], tmp_path: Path
) -> None:
    made = model(SPARSE, opset=21, ir_version=10)
    values = numpy_helper.from_array(np.ones(2, np.float32), "a")
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(index, "i"), shape)
    made.graph.sparse_initializer.append(sparse)
    assert "sparse tensor 'a'" in refused(made, tmp_path)


@pytest.mark.parametrize("value", ["-1", "nan", "1e3", "0x10", "٣", "9" * 30])
@pytest.mark.parametrize("key", ["offset", "length"])
def test_external_data_whose_numbers_are_none(key: str, value: str, tmp_path: Path) -> None:
    made = linear()
    tensor = made.graph.initializer[0]
    (tmp_path / "w.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for entry in (("location", "w.bin"), (key, value)):
        tensor.external_data.add(key=entry[0], value=entry[1])
    assert "where a number of bytes should be" in refused(made, tmp_path)


@pytest.mark.parametrize(
    "location", ["link.bin", "up/outside.bin", "loop.bin", "../outside.bin", "/etc/passwd"]
)
def test_external_data_out_of_the_folder(location: str, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    made = linear()
    tensor = made.graph.initializer[0]
    (tmp_path / "outside.bin").write_bytes(tensor.raw_data)
    (folder / "link.bin").symlink_to(tmp_path / "outside.bin")
    (folder / "loop.bin").symlink_to("loop.bin")
    (folder / "up").symlink_to(tmp_path)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    said = refused(made, folder)
    assert "outside the model's folder" in said or "leads out of" in said or "does not exist" in said


def test_external_data_where_a_model_hub_keeps_it(tmp_path: Path) -> None:
    """The model and its data are links, side by side, to files that lie together elsewhere."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    onnx.save(linear(), blobs / "a1", save_as_external_data=True, location="model.data", size_threshold=0)
    (blobs / "model.data").rename(blobs / "b2")
    (snapshot / "model.onnx").symlink_to("../../blobs/a1")
    (snapshot / "model.data").symlink_to("../../blobs/b2")
    quantize(snapshot / "model.onnx", tmp_path / "q.onnx", target="ort", effort="fast", weights="int8")
    assert (tmp_path / "q.onnx").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seed", "-1"], "--seed: -1 is below 0"),
        (["--threads", "99999999999"], "99999999999 is no count of threads"),
        (["--calibration-samples", "9" * 20], "is not a count of samples"),
        (["--keep-float", "(" * 3000], "is not a regular expression"),
        (["--preprocess", "a\nb"], r"there is no preset 'a\nb'"),
        (["--preprocess", "rate=2147483647"], "is no rate"),
        (["--calibration-data", "9" * 5000], "File name too long"),
    ],
)
def test_flags(words: list[str], said: str, tmp_path: Path) -> None:
    onnx.save(linear(), tmp_path / "model.onnx")
    result = CliRunner().invoke(main, [str(tmp_path / "model.onnx"), "-o", str(tmp_path / "q.onnx"), *words])
    assert isinstance(result.exception, SystemExit)
    last = result.stderr.splitlines()[-1]
    assert last.startswith("comq-onnx: ")
    assert last.endswith(".")
    assert len(last) < 1500
    assert said in last
    assert not (tmp_path / "q.onnx").exists()


@pytest.mark.parametrize(("value", "dtype"), [(1e39, "float32"), (70000.0, "float16"), (1e39, "bfloat16")])
def test_a_number_that_a_type_does_not_hold(value: float, dtype: str) -> None:
    """Such as a bias that makes up for the error of weights near the largest there are."""
    with pytest.raises(ComqError, match=f"tensor 'b': numbers up to .* are to be stored as {dtype}"):
        float_tensor("b", np.array([1.0, -value]), dtype)
    assert values_of(float_tensor("b", np.array([np.inf]), dtype))[0] == np.inf


def test_a_bias_without_bounds_does_not_become_a_scale(tmp_path: Path) -> None:
    """A channel that is always minus infinity in front of a Sigmoid is always nought: a sound model."""
    text = "g (float[B,16] x) => (float[B,4] y) { h = Gemm(x, w, c) s = Sigmoid(h) y = MatMul(s, v) }"
    bias = np.zeros(8, np.float32)
    bias[3] = -np.inf
    made = model(text, opset=21, ir_version=10, w=weight(16, 8), v=weight(8, 4), c=bias)
    data = {"x": weight(8, 16, seed=2)}
    how = {"weights": "int8", "activations": "int8", "reduce_range": True}
    quantize(made, tmp_path / "q.onnx", data, target="ort", **how)
    stored = onnx.load(tmp_path / "q.onnx").graph.initializer
    scales = [numpy_helper.to_array(tensor) for tensor in stored if "scale" in tensor.name]
    assert scales
    assert all(np.isfinite(scale).all() for scale in scales)


def test_an_input_that_is_no_batch_beside_a_fixed_batch(tmp_path: Path) -> None:
    """Made-up values of it differed from sample to sample, so that no batch was ever full."""
    text = """g (float[16,16] x, float[2] spare) => (float[16,8] y, float[2] z) {
        y = MatMul(x, w) z = Neg(spare) }"""
    made = model(text, opset=21, ir_version=10, w=weight(16, 8))
    report = quantize(made, tmp_path / "q.onnx", target="ort", inputs="quantized", calibration_samples=32)
    assert "32 synthetic samples" in report.calibration


def test_an_input_without_elements(tmp_path: Path) -> None:
    made = model(
        "g (float[0,16] x) => (float[0,8] y) { y = MatMul(x, w) }", opset=21, ir_version=10, w=weight(16, 8)
    )
    assert "which has no elements" in refused(made, tmp_path)


def test_a_fixed_batch_that_would_take_minutes_to_make_up(tmp_path: Path) -> None:
    text = "g (float[65536,4,5,5] x) => (float[65536,6,5,5] y) { y = Conv(x, w) }"
    made = model(text, opset=21, ir_version=10, w=weight(6, 4, 1, 1))
    assert "a batch of 65,536 samples is not made up" in refused(made, tmp_path)


@pytest.mark.parametrize(
    "made_of", ["ConstantOfShape(huge)", "Expand(one, huge)", "Tile(three, huge)", "Range(low, high, step)"]
)
def test_a_few_numbers_that_make_very_many(made_of: str, tmp_path: Path) -> None:
    """They are not computed to learn their shape; the model itself runs, as the branch is never taken."""
    text = f"""g (float[2,16] x) => (float[2,8] y) {{ y = MatMul(x, w) many = {made_of} s = Shape(many) }}"""
    numbers = {
        "huge": np.full(3, 1 << 40),
        "one": np.ones(3, np.int64),
        "three": np.ones((1, 1, 1), np.int64),
    }
    numbers |= {"low": np.array(0), "high": np.array(1 << 50), "step": np.array(1)}
    known = known_shapes(model(text, opset=21, ir_version=10, w=weight(16, 8), **numbers), {"x": (2, 16)})
    assert known["y"].shape == (2, 8)
    assert "many" not in known or known["many"].size > 1 << 49


def test_a_constant_without_its_value_is_left_to_the_runtime(tmp_path: Path) -> None:
    text = "g (float[2,16] x) => (float[2,8] y) { k = Constant() s = Mul(x, k) y = MatMul(s, w) }"
    refused(model(text, opset=21, ir_version=10, w=weight(16, 8)), tmp_path, inputs="quantized")


def test_a_normalization_behind_a_weight_without_elements(tmp_path: Path) -> None:
    refused(conv(w=np.zeros((0, 3, 3, 3), np.float32)), tmp_path)


def test_a_weight_of_infinity_behind_a_quantized_layer(tmp_path: Path) -> None:
    """What is infinite in both networks has no difference; the sentence comes without a warning."""
    text = "g (float[B,16] x) => (float[B,8] y) { h = MatMul(x, first) y = MatMul(h, w) }"
    first = weight(16, 16)
    first[0, 0] = np.inf
    made = model(text, opset=21, ir_version=10, first=first, w=weight(16, 8))
    refused(made, tmp_path, inputs="quantized", weights="int2")


@pytest.mark.parametrize(("scale", "held"), [(1e30, 1e30), (0.1, float(np.float16(0.1)))])
def test_a_scale_that_float16_cannot_hold(scale: float, held: float) -> None:
    grid = ValueGrid(scale, 0, ActivationKind(signed=True, symmetric=True))
    assert in_half(grid).scale == held


LOOPED = """g (float[2,6] x{input}) => (float[2,4] y) {{
  h = Loop ({count}, {go}, x) <body = b (int64 i, bool c, float[2,6] s) => (bool on, float[2,6] n)
    {{ on = {on} n = Relu(s) }}>
  y = MatMul(h, w) }}"""


def looped(count: str, go: str, on: str, given: str = "") -> ModelProto:
    numbers = {
        "many": np.array(1 << 34),
        "few": np.array(3),
        "true": np.array(True),
        "false": np.array(False),
    }
    text = LOOPED.format(count=count, go=go, on=on, input=given)
    return model(text, opset=21, ir_version=10, w=weight(6, 4), **numbers)


@pytest.mark.parametrize(
    ("count", "go", "on", "said"),
    [
        ("many", "true", "Identity(c)", "it would run 17,179,869,184 times"),
        ("many", "", "Identity(c)", "it would run 17,179,869,184 times"),
        ("many", "true", "Identity(true)", "it would run 17,179,869,184 times"),
        ("", "true", "Identity(c)", "it would run for ever"),
    ],
)
def test_a_loop_that_nothing_ends(count: str, go: str, on: str, said: str, tmp_path: Path) -> None:
    assert said in refused(looped(count, go, on), tmp_path)


@pytest.mark.parametrize(
    ("count", "go", "on", "given"),
    [
        ("few", "true", "Identity(c)", ""),
        ("many", "false", "Identity(c)", ""),
        ("many", "true", "Identity(false)", ""),
        ("many", "true", "Not(c)", ""),
        ("", "true", "Less(i, few)", ""),
        ("many", "start", "Identity(c)", ", bool start"),
    ],
)
def test_a_loop_that_ends_or_may_end_is_read(count: str, go: str, on: str, given: str) -> None:
    load(looped(count, go, on, given))


def test_a_normalization_behind_an_infinite_bias(tmp_path: Path) -> None:
    """It is folded into nothing, without a warning of infinities that cancel."""
    made = conv()
    made.graph.node[0].input.append("b")
    made.graph.initializer.append(numpy_helper.from_array(np.array([np.inf, -np.inf, 0, 1], np.float32), "b"))
    made.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.array([np.inf, 1, 1, 1], np.float32), "s"))
    report = quantize(made, tmp_path / "out.onnx", target="ort", effort="fast")
    assert [node.op_type for node in onnx.load(tmp_path / "out.onnx").graph.node][-1] == "BatchNormalization"
    assert not report.kept


def test_a_function_of_an_older_opset_beside_an_operator_of_nobody(tmp_path: Path) -> None:
    text = """g (float[2,16] x) => (float[2,8] y) {
      h = nowhere.block(x) k = local.f(h) y = MatMul(k, w) }"""
    made = model(text, opset=21, ir_version=10, w=weight(16, 8))
    nodes, imports = [helper.make_node("Relu", ["a"], ["b"])], [helper.make_opsetid("", 18)]
    made.functions.append(helper.make_function("local", "f", ["a"], ["b"], nodes, imports))
    made.opset_import.append(helper.make_opsetid("local", 1))
    assert "cannot be inlined" in refused(made, tmp_path)


def test_an_operator_of_a_runtime_that_has_the_name_of_onnx_s(tmp_path: Path) -> None:
    text = "g (float[2,16] x) => (float[2,8] y, float z) { z = com.microsoft.Gather() y = MatMul(x, w) }"
    made = model(text, opset=21, ir_version=10, w=weight(16, 8))
    made.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert "does not load the model" in refused(made, tmp_path)
    assert vocabulary(load(made)) == {}
