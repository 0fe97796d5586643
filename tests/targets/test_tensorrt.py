"""Files for TensorRT hold what its documentation asks for; what it has no form for stays as it is, said."""

import math
import shlex

import numpy as np
import onnx
import onnxruntime
import pytest
from graphs import model, weight
from onnx import TensorProto, numpy_helper
from targets.layer_cases import CASES, initializers

from comq_onnx import quantize
from comq_onnx.errors import ComqError
from comq_onnx.planning import plan
from comq_onnx.recipe import Recipe
from comq_onnx.targets import TARGETS
from comq_onnx.targets.size import file_bytes
from comq_onnx.targets.tensorrt import build_commands

NET = """g (float[B, 3, 16, 16] x) => (float[B, 64, 10] y) {
  c = Conv<kernel_shape = [2, 2], strides = [2, 2]>(x, K)
  r = Reshape(c, shape)
  t = Transpose<perm = [0, 2, 1]>(r)
  n = LayerNormalization<axis = -1>(t, s, b)
  h = MatMul(n, A)
  a = Add(h, ba)
  g = Relu(a)
  m = MatMul(g, B)
  j = Add(m, t)
  o = MatMul(j, O)
  q = MatMul(o, Q)
  p = Relu(q)
  y = MatMul(p, Y)
}"""
FORBIDDEN = ("QLinear", "Integer", "DynamicQuantizeLinear", "MatMulNBits")


@pytest.fixture(scope="module")
def net() -> onnx.ModelProto:
    values = {
        "K": weight(64, 3, 2, 2),
        "shape": np.array([0, 64, -1]),
        "s": np.ones(64, np.float32),
        "b": np.zeros(64, np.float32),
        "A": weight(64, 256, seed=1),
        "ba": weight(256, seed=2),
        "B": weight(256, 64, seed=3),
        "O": weight(64, 36, seed=4),
        "Q": weight(36, 64, seed=5),
        "Y": weight(64, 10, seed=6),
    }
    made = model(NET, **values)
    for node in made.graph.node:
        node.name = f"make_{node.output[0]}"
    return made


@pytest.fixture(scope="module")
def data() -> dict[str, np.ndarray]:
    image = np.random.default_rng(7).standard_normal((24, 3, 16, 16))
    return {"x": np.cumsum(image, axis=-1).astype(np.float32)}


def outputs(graph, fed) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = graph.SerializeToString() if isinstance(graph, onnx.ModelProto) else str(graph)
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return session.run(None, fed)[0]


def broken_rules(proto: onnx.ModelProto) -> list[str]:
    """What TensorRT's documentation does not allow, of int4 weights in a file."""
    stored, found = initializers(proto), []
    if next(o.version for o in proto.opset_import if not o.domain) != 21 or proto.ir_version > 13:
        found.append("opset")
    for node in proto.graph.node:
        if node.domain or any(word in node.op_type for word in FORBIDDEN):
            found.append(f"{node.name}: {node.op_type}")
        if node.op_type != "DequantizeLinear":
            continue
        codes, scale = stored.get(node.input[0]), stored.get(node.input[1])
        attributes = {a.name: a.i for a in node.attribute}
        block, axis = attributes.get("block_size", 0), attributes.get("axis", 1)
        readers = [n for n in proto.graph.node if node.output[0] in n.input]
        rules = {
            "constants": codes is not None and scale is not None,
            "symmetric": len(node.input) == 2,
            "type": codes.data_type == TensorProto.INT4 and scale.data_type == TensorProto.FLOAT16,
            "block": block in (64, 128) and axis == 0 and codes.dims[0] % block == 0,
            "shape": list(scale.dims) == [codes.dims[0] // block, codes.dims[1]] and codes.dims[1] % 2 == 0,
            "scale": bool((numpy_helper.to_array(scale) > 0).all()),
            "reader": [(n.op_type, n.input[1]) for n in readers]
            in ([("MatMul", node.output[0])], [("Gemm", node.output[0])]),
        }
        found += [f"{node.name}: {rule}" for rule, holds in rules.items() if not holds]
    return found


@pytest.mark.parametrize("options", [{}, {"block_size": "channel"}, {"weights": "int3"}, {"weights": "int2"}])
def test_a_file_keeps_the_rules_and_its_checks_pass(tmp_path, net, data, options):
    recipe = Recipe(target="tensorrt", activations="none", **options)
    report = quantize(net, tmp_path / "m.onnx", data, recipe)
    written = onnx.load(tmp_path / "m.onnx")
    onnx.checker.check_model(written, full_check=True)
    assert broken_rules(written) == []
    assert report.verification.ok
    assert [line.name for line in report.quantized] == ["make_h", "make_m", "make_o", "make_y"]
    assert all(line.form == "DequantizeLinear" for line in report.quantized)
    stored = initializers(written)
    for line in report.quantized:
        parts = [t for name, t in stored.items() if name.startswith(f"{line.weight}_")]
        assert line.bytes_after == sum(len(t.raw_data) for t in parts)
    halves = {t.name for t in stored.values() if t.data_type == TensorProto.FLOAT16}
    assert {"K", "ba", "Q"} <= halves
    assert {i.type.tensor_type.elem_type for i in (*written.graph.input, *written.graph.output)} == {1}
    if recipe.bits == 4:
        first = {key: value[:4] for key, value in data.items()}
        wanted, got = outputs(net, first), outputs(tmp_path / "m.onnx", first)
        assert np.linalg.norm(wanted - got) < 0.2 * np.linalg.norm(wanted)


def test_scales_are_solved_as_they_are_stored(tmp_path, net, data):
    """The float16 file and the float32 one hold the same codes and the same scales."""
    found = {}
    for dtype in ("fp16", "fp32"):
        recipe = Recipe(target="tensorrt", activations="none", high_precision_dtype=dtype, block_size="64")
        assert quantize(net, tmp_path / f"{dtype}.onnx", data, recipe).verification.ok
        found[dtype] = initializers(onnx.load(tmp_path / f"{dtype}.onnx"))
    assert not any(t.data_type == TensorProto.FLOAT16 for t in found["fp32"].values())
    half, wide = (numpy_helper.to_array(found[d]["A_scale"]) for d in ("fp16", "fp32"))
    assert (half.dtype, wide.dtype) == (np.float16, np.float32)
    np.testing.assert_allclose(half.astype(np.float32), wide, rtol=0.05)
    assert not np.array_equal(wide.astype(np.float16).astype(np.float32), wide)


def test_layers_without_a_form_stay_and_say_why(net):
    made = plan(net, Recipe(target="tensorrt", activations="none", quantize_embeddings=True))
    reasons = {s.name: s.reason for s in made.skipped}
    assert reasons["make_c"] == "TensorRT has no int4 Conv; give samples, or --activations int8: stays fp16"
    assert reasons["make_q"] == "TensorRT's int4 blocks of 64 or 128 do not divide 36 rows: stays fp16"
    assert next(s for s in made.skipped if s.name == "make_q").bytes == 36 * 64 * 4
    refuses = TARGETS["tensorrt"].refuses
    odd = refuses(CASES["matmul_odd"].layer(), Recipe(target="tensorrt"))
    assert odd == "TensorRT packs int4 in pairs, and there are 7 columns: stays fp16"
    table = refuses(CASES["gather"].layer(), Recipe(target="tensorrt", high_precision_dtype="fp32"))
    assert table == "TensorRT has no quantized embeddings: stays float"


@pytest.mark.parametrize(
    ("asked", "block", "note"),
    [
        ("auto", 64, ""),
        ("128", 64, "128 does not divide 64 rows: block 64"),
        ("64", 64, ""),
        ("32", 64, "TensorRT has blocks of 64 and 128, not 32: 64"),
        ("256", 64, "TensorRT has blocks of 64 and 128, not 256: 64"),
    ],
)
def test_blocks_are_64_or_128(asked, block, note):
    recipe = Recipe(target="tensorrt", activations="none", block_size=asked)
    grid, said = TARGETS["tensorrt"].grid(CASES["matmul"].layer(), recipe, 4)
    assert (grid.block_size, said) == (block, note)


@pytest.mark.parametrize(
    ("options", "given", "flag"),
    [
        ({"symmetric": False}, True, "--asymmetric"),
        ({"weights": "int8"}, False, "--weights int8"),
        ({"weights": "int8", "activations": "none"}, True, "--weights int8"),
        ({"first_last": "int8"}, True, "--first-last"),
        ({"activations": "dynamic"}, True, "--activations dynamic"),
        ({"matmulnbits": True}, True, "--matmulnbits"),
    ],
)
def test_what_tensorrt_lacks_is_one_sentence(net, options, given, flag):
    with pytest.raises(ComqError, match=flag):
        plan(net, Recipe(target="tensorrt", **options), given)


def test_nothing_left_to_quantize_is_said_with_the_reasons():
    values = {"K": weight(8, 3, 3, 3)}
    small = model("g (float[1, 3, 8, 8] x) => (float[1, 8, 6, 6] y) { y = Conv(x, K) }", **values)
    with pytest.raises(ComqError, match="no int4 Conv; give samples, or --activations int8"):
        plan(small, Recipe(target="tensorrt"))


def test_the_size_is_known_before(tmp_path, net, data):
    recipe = Recipe(target="tensorrt")
    made = plan(net, recipe)
    expected = file_bytes(made.prepared, made.layers, made.grids, recipe)
    quantize(net, tmp_path / "m.onnx", data, recipe)
    written = (tmp_path / "m.onnx").stat().st_size
    assert math.isclose(written, expected, rel_tol=0.02)


def test_commands_name_the_file_and_the_shapes_that_were_fed(tmp_path, net, data):
    recipe = Recipe(target="tensorrt", activations="none", batch_size=10)
    report = quantize(net, tmp_path / "my net.onnx", data, recipe)
    path = tmp_path / "my net"
    ten, eleven = (note for note in report.notes if note.startswith("TensorRT 1"))
    shapes = [f"--{kind}Shapes=x:{size}x3x16x16" for kind, size in (("min", 4), ("opt", 10), ("max", 10))]
    common = ["trtexec", f"--onnx={path}.onnx", f"--saveEngine={path}.plan"]
    assert shlex.split(ten.partition(": ")[2]) == [*common, "--stronglyTyped", *shapes]
    layers = ["--dumpLayerInfo", "--profilingVerbosity=detailed", f"--exportLayerInfo={path}.layers.json"]
    assert shlex.split(eleven.partition(": ")[2]) == [*common, *shapes, *layers]


@pytest.mark.parametrize(
    ("inputs", "fed", "flags"),
    [
        ("float[1, 8] x", {"x": [(1, 8)]}, []),
        ("float[B, 8] x", {"x": [(2, 8), (2, 8)]}, ["--shapes=x:2x8"]),
        (
            "int64[B, S] x, float[1] z",
            {"x": [(1, 5), (1, 9), (1, 7)]},
            ["--minShapes=x:1x5", "--optShapes=x:1x7", "--maxShapes=x:1x9"],
        ),
        (
            "int64[B, S] x, float[B, 3] z",
            {},
            ["--minShapes=x:1x1,z:1x3", "--optShapes=x:1x128,z:1x3", "--maxShapes=x:8x512,z:8x3"],
        ),
    ],
)
def test_only_dynamic_inputs_are_given_shapes(inputs, fed, flags):
    proto = model(f"g ({inputs}) => (float[B, 8] y) {{ y = Cast<to = 1>(x) }}")
    ten, eleven = build_commands("m.onnx", proto, fed)
    assert ten.split() == ["trtexec", "--onnx=m.onnx", "--saveEngine=m.plan", "--stronglyTyped", *flags]
    assert [flag for flag in eleven.split() if "hapes" in flag] == flags
    assert "--stronglyTyped" not in eleven


def test_weights_too_faint_or_too_large_for_float16_keep_float32_around_them(tmp_path):
    values = {"A": weight(64, 64) * np.float32(1e-6), "C": weight(64, 64, seed=1) * np.float32(1e6)}
    text = "g (float[B, 64] x) => (float[B, 64] y) { a = MatMul(x, A) r = Relu(a) y = MatMul(r, C) }"
    fed = {"x": np.random.default_rng(0).standard_normal((40, 64)).astype(np.float32)}
    net = model(text, **values)
    report = quantize(net, tmp_path / "m.onnx", fed, Recipe(target="tensorrt"))
    assert report.verification.ok
    assert initializers(onnx.load(tmp_path / "m.onnx"))["A_scale"].data_type == TensorProto.FLOAT
    wanted, got = outputs(net, fed), outputs(tmp_path / "m.onnx", fed)
    assert np.linalg.norm(wanted - got) < 0.2 * np.linalg.norm(wanted)
    assert any("values below" in note for note in report.notes)
    assert any("values above" in note for note in report.notes)


@pytest.mark.parametrize(
    "options",
    [{"weights": "int8"}, {"weight_form": "dq"}, {"target": "ort", "weights": "int2"}, {"mrecg": 1}],
    ids=str,
)
def test_files_for_onnxruntime_may_be_float16_too(tmp_path, net, data, options):
    report = quantize(net, tmp_path / "m.onnx", data, Recipe(high_precision_dtype="fp16", **options))
    assert [c.detail for c in report.verification.checks if not c.ok] == []
    stored = initializers(onnx.load(tmp_path / "m.onnx"))
    assert not [n for n, t in stored.items() if t.data_type == TensorProto.FLOAT and n not in ("s", "b")]
    for line in report.quantized:
        parts = [n for n in stored if n in (f"{line.weight}_quantized", f"{line.weight}_scale")]
        assert line.bytes_after == sum(len(stored[n].raw_data) for n in parts)
