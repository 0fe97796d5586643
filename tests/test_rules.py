"""Rules by hand win, and what they say is what lies in the written file."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import model, weight
from onnx import TensorProto

from comq_onnx import ComqError, Recipe, quantize
from comq_onnx.planning import plan
from comq_onnx.rules import Rule, parse_rule

NET = """g (int64[B,4] ids) => (float[B,4,64] y) {
  x = Gather(table, ids)
  a = MatMul(x, w1)
  r = Relu(a)
  b = MatMul(r, w2)
  c = MatMul(b, w3)
  y = MatMul(c, w4)
}"""
NAMES = ("embed", "block0/in", "relu", "block0/out", "block1/in", "head")
CODES = {TensorProto.INT8: 8, TensorProto.INT4: 4, TensorProto.INT2: 2}


@pytest.fixture(scope="module")
def net() -> onnx.ModelProto:
    shapes = {"w1": (64, 256), "w2": (256, 256), "w3": (256, 512), "w4": (512, 64)}
    weights = {name: weight(*shape, seed=n) for n, (name, shape) in enumerate(shapes.items())}
    made = model(NET, table=weight(32, 64, seed=9), **weights)
    for node, name in zip(made.graph.node, NAMES, strict=True):
        node.name = name
    return made


def ids() -> dict[str, np.ndarray]:
    return {"ids": np.random.default_rng(0).integers(0, 32, (16, 4))}


def written(net: onnx.ModelProto, folder: Path, **fields) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Bits and shape of the scales of each weight in the file, by node; no entry where it is float."""
    path = folder / "out.onnx"
    quantize(net, path, ids(), Recipe(**{"solver": "rtn", "weight_form": "dq", "block_size": "64", **fields}))
    graph = onnx.load(path).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    found = {}
    for node in graph.node:
        sources = [makers.get(name) for name in node.input]
        for source in filter(None, sources):
            if node.op_type in ("MatMul", "Gather") and source.op_type == "DequantizeLinear":
                codes, scale = (stored[name] for name in source.input[:2])
                found[node.name] = (CODES[codes.data_type], tuple(scale.dims))
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("head=int8", Rule("head", "int8", 8)),
        ("a=b=int4:32", Rule("a=b", "int4", 4, "32")),
        ("a:b$=int2:channel", Rule("a:b$", "int2", 2, "channel")),
        ("(?=x)=int3:tensor", Rule("(?=x)", "int3", 3, "tensor")),
        ("x=float", Rule("x", "float")),
        ("x=float16", Rule("x", "float16")),
    ],
)
def test_a_rule_is_split_at_the_last_equals_sign(text: str, expected: Rule) -> None:
    assert parse_rule(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("head", "is no rule; write REGEX=WIDTH"),
        ("=int8", "is no rule"),
        ("head=int1", "'int1' in 'head=int1' is no width; use one of float, float16, int8"),
        ("head=", "'' in 'head=' is no width"),
        ("head=int4:48", "'48' in 'head=int4:48' is no block size; use one of channel, tensor, 16"),
        ("head=int4:", "'' in 'head=int4:' is no block size"),
        ("head=float:32", "float in 'head=float:32' has no blocks; leave out ':32'"),
    ],
)
def test_a_malformed_rule_is_one_sentence(text: str, words: str) -> None:
    with pytest.raises(ComqError) as caught:
        Recipe(rules=(text,))
    assert str(caught.value).startswith("--rule: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_width_of_a_rule_is_that_of_the_file(net: onnx.ModelProto, tmp_path: Path) -> None:
    found = written(net, tmp_path, target="ort", rules=("block0=int8", "block0/out=int2:128"))
    assert found == {
        "block0/in": (8, (256,)),  # one block of 64 rows is a scale per channel
        "block0/out": (2, (2, 256)),
        "block1/in": (4, (4, 512)),
        "head": (4, (8, 64)),
    }


def test_the_last_rule_wins(net: onnx.ModelProto, tmp_path: Path) -> None:
    assert written(net, tmp_path, rules=("block0/out=int4", "block=int8:channel"))["block0/out"][0] == 8
    assert written(net, tmp_path, rules=("block=int8:channel", "block0/out=int4"))["block0/out"][0] == 4


def test_a_rule_wins_over_weights_blocks_and_the_first_and_last(net: onnx.ModelProto, tmp_path: Path) -> None:
    found = written(net, tmp_path, weights="int3", first_last="int8", rules=("head=int4:32",))
    assert found["head"] == (4, (16, 64))
    assert found["block0/in"][0] == 8  # the other of the two


def test_keep_float_wins_over_rules(net: onnx.ModelProto, tmp_path: Path) -> None:
    found = written(net, tmp_path, keep_float=("block1",), rules=("block=int8:channel",))
    assert set(found) == {"block0/in", "block0/out", "head"}
    kept = {t.name: t for t in onnx.load(tmp_path / "out.onnx").graph.initializer}["w3"]
    assert kept.raw_data == {t.name: t for t in net.graph.initializer}["w3"].raw_data


def test_reasons_name_the_flag(net: onnx.ModelProto) -> None:
    made = plan(net, Recipe(keep_float=("block1",), rules=("block=int8", "block0/in=float")))
    assert {s.name: s.reason for s in made.skipped} == {
        "embed": "embedding table: use --quantize-embeddings",
        "block0/in": "kept float by --rule",
        "block1/in": "kept float by --keep-float",
    }


def test_a_rule_takes_in_an_embedding(net: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    quantize(net, path, ids(), Recipe(solver="rtn", rules=("embed=int8",)))
    stored = {tensor.name: tensor for tensor in onnx.load(path).graph.initializer}
    assert [t.data_type for t in stored.values() if tuple(t.dims) == (32, 64)] == [TensorProto.INT8]


def test_an_embedding_by_rule_is_selected_no_further(net: onnx.ModelProto) -> None:
    for fields in ({"rules": ("embed=float",)}, {"keep_float": ("embed",)}):
        made = plan(net, Recipe(**fields))
        assert "embed" not in made.grids
        assert "kept float by" in next(s.reason for s in made.skipped if s.name == "embed")
    made = plan(net, Recipe(rules=("embed=int8",), nodes_to_exclude=("embed",)))
    assert next(s.reason for s in made.skipped if s.name == "embed") == "excluded by --nodes-to-exclude"


@pytest.mark.parametrize("fields", [{"rules": ("tail=int8",)}, {"keep_float": ("tail",)}])
def test_a_rule_that_matches_nothing_is_an_error(net: onnx.ModelProto, fields: dict) -> None:
    flag = "--rule" if "rules" in fields else "--keep-float"
    with pytest.raises(ComqError, match=f"{flag}: 'tail' matches no quantizable node"):
        plan(net, Recipe(**fields))


def test_an_expression_that_is_none_is_an_error(net: onnx.ModelProto) -> None:
    with pytest.raises(ComqError, match=r"--rule: '\(' is not a regular expression"):
        plan(net, Recipe(rules=("(=int8",)))


def test_all_kept_float_is_the_error_it_was(net: onnx.ModelProto) -> None:
    for fields in ({}, {"activations": "int8", "target": "ort"}):
        with pytest.raises(ComqError, match=r"no layer can be quantized: .*kept float by --keep-float"):
            plan(net, Recipe(keep_float=(".",), **fields))


def test_float16_layers_are_set_apart(net: onnx.ModelProto) -> None:
    made = plan(net, Recipe(rules=("embed|head=float16",)))
    assert [layer.name for layer in made.halved] == ["embed", "head"]
    assert [layer.name for layer in made.layers] == ["block0/in", "block0/out", "block1/in"]
    assert made.skipped == ()
    with pytest.raises(ComqError, match="no layer can be quantized: stored as float16 by --rule"):
        plan(net, Recipe(rules=(".=float16",)))


def test_where_all_is_float16_a_rule_for_it_keeps(net: onnx.ModelProto) -> None:
    made = plan(net, Recipe(rules=("head=float16",), high_precision_dtype="fp16"))
    assert made.halved == ()
    assert [s.reason for s in made.skipped if s.name == "head"] == ["kept float16 by --rule"]


@pytest.mark.parametrize(
    ("dtype", "reason"),
    [("float16", "kept float16 by --rule"), ("double", "only float32 is stored as float16: stays float64")],
)
def test_only_float32_becomes_float16(dtype: str, reason: str) -> None:
    kind = np.float16 if dtype == "float16" else np.float64
    text = f"g ({dtype}[B,64] x) => ({dtype}[B,64] y) {{ a = MatMul(x, w1) y = MatMul(a, w2) }}"
    made = model(text, w1=weight(64, 64, dtype=kind), w2=weight(64, 64, dtype=kind))
    made.graph.node[0].name, made.graph.node[1].name = "first", "second"
    planned = plan(made, Recipe(rules=("first=float16",)))
    assert planned.halved == ()
    assert [(s.name, s.reason) for s in planned.skipped] == [("first", reason)]


def test_layers_kept_float_are_not_stored_in_8_bits(net: onnx.ModelProto) -> None:
    options = {"target": "ort", "weights": "int8", "activations": "int8", "size_first": True}
    assert {"block1/in", "head"} <= plan(net, Recipe(**options)).placement.layers
    made = plan(net, Recipe(**options, keep_float=("block1",), rules=("head=float16",)))
    assert made.placement.layers == {"block0/in", "block0/out"}


def test_a_rule_holds_beside_8_bit_activations(net: onnx.ModelProto) -> None:
    options = {"target": "ort", "activations": "int8", "size_first": True}
    made = plan(net, Recipe(**options, rules=("head=int8", "block0/in=int2:32")))
    assert {name: str(grid) for name, grid in made.grids.items()} == {
        "block0/in": "int2 channel",
        "block0/out": "int4 channel",
        "block1/in": "int4 channel",
        "head": "int8 channel",
    }
    assert made.notes == {"block0/in": "8-bit kernels take one scale per channel"}


def test_a_target_says_what_it_has_not(net: onnx.ModelProto) -> None:
    made = plan(net, Recipe(target="tensorrt", rules=("head=int8", "block0/in=int4:32", "embed=int4")))
    reasons = {s.name: s.reason for s in made.skipped}
    assert "8-bit weights beside 8-bit activations only" in reasons["head"]
    assert "no quantized embeddings" in reasons["embed"]
    assert str(made.grids["block0/in"]) == "int4 b64"
    assert "not 32" in made.notes["block0/in"]


@pytest.mark.parametrize(
    ("fields", "narrowest"),
    [
        ({}, 4),
        ({"rules": ("a=int8", "b=float16")}, 4),
        ({"rules": ("a=int2", "b=int3")}, 2),
        ({"weights": "int8", "rules": ("a=float",)}, 8),
    ],
)
def test_the_narrowest_width_counts_rules(fields: dict, narrowest: int) -> None:
    assert Recipe(**fields).narrowest == narrowest
