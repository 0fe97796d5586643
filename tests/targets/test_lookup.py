"""Embeddings of few bits: what is looked up is what the table of the codes says, in every runtime."""

from dataclasses import replace

import numpy as np
import onnx
import onnx.reference
import pytest
from graphs import model, weight
from onnx import TensorProto, numpy_helper
from targets.layer_cases import dequantized, initializers, optimized_ops, run, solve_nearest

from comq_onnx.errors import ComqError
from comq_onnx.evaluate.readback import WrittenFile
from comq_onnx.evaluate.verify import check_codes
from comq_onnx.graph.half import to_half
from comq_onnx.graph.io import load, to_proto
from comq_onnx.graph.layout import layout_of
from comq_onnx.grid import Grid
from comq_onnx.pipeline import put_in_place, solve_model
from comq_onnx.planning import open_run
from comq_onnx.recipe import Recipe
from comq_onnx.records import Layer
from comq_onnx.run.openvino_ import run_openvino
from comq_onnx.targets import TARGETS
from comq_onnx.targets.size import file_bytes
from comq_onnx.writing import write

ENTRIES, WIDTH = 23, 64
RANKS = {0: ("", ""), 1: ("[A]", "[A, 64]"), 2: ("[A, B]", "[A, B, 64]"), 3: ("[A, B, C]", "[A, B, C, 64]")}
GRIDS = [
    Grid(b, s, "block", 16) if k else Grid(b, s) for b in (4, 3, 2) for s in (True, False) for k in (0, 1)
]


def written(grid, rank=2, opset=21, target="portable", dtype="float32", width=WIDTH):
    """The written file, its layer and its solution."""
    indices, rows = RANKS[rank]
    rows = rows or "[64]"
    kind = "float" if dtype == "float32" else dtype
    text = f"g (int64{indices} x) => ({kind}{rows} y) {{ y = Gather(W, x) }}".replace("64]", f"{width}]")
    table = weight(ENTRIES, width, seed=3)
    stored = table if dtype == "float32" else table.astype(np.float16)
    source = load(model(text, opset, 10, W=stored))
    source.graph.nodes[0].name = "n"
    layer = Layer("n", "Gather", "W", "x", "y", layout_of("gather", (ENTRIES, width)), dtype)
    solution = solve_nearest(stored, layer, grid)
    (said,) = TARGETS[target].rewrite(source, [layer], {"n": solution}, Recipe(target=target))
    return to_proto(source), layer, solution, said


def rows_of(solution, layer):
    """The whole table in float32, each number rounded once."""
    return dequantized(solution, layer).astype(np.float32)


def some(rank, seed=0, empty=False):
    shape = (3, 0, 2)[:rank] if empty else (3, 4, 2)[:rank]
    return np.random.default_rng(seed).integers(-ENTRIES, ENTRIES, shape)


@pytest.mark.parametrize("opset", [18, 21, 25])
@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_rows_are_those_of_the_table(grid, rank, opset):
    proto, layer, solution, said = written(grid, rank, opset)
    onnx.checker.check_model(proto, full_check=True)
    table = rows_of(solution, layer)
    reference = onnx.reference.ReferenceEvaluator(proto)
    for seed, empty in ((0, False), (1, False), (2, rank > 1)):
        index = some(rank, seed, empty)
        for found in (
            run(proto, {"x": index}),
            run(proto, {"x": index}, optimize=True),
            reference.run(None, {"x": index})[0],
        ):
            np.testing.assert_array_equal(found, table[index])
    assert said.form == "Cast*scale"
    assert said.choice
    assert not said.note


@pytest.mark.parametrize(("bits", "lanes"), [(4, 2), (2, 4)])
def test_bytes_are_full_and_lie_as_is_said(bits, lanes):
    proto, _, solution, said = written(Grid(bits, True, "block", 16))
    stored = numpy_helper.to_array(initializers(proto)["W_quantized"])
    assert stored.nbytes == ENTRIES * WIDTH * bits // 8
    assert said.bytes_after == stored.nbytes + 4 * ENTRIES * WIDTH // 16
    part = 16 // lanes
    for entry in (0, ENTRIES - 1):
        for k in range(WIDTH):
            block, inside = divmod(k, 16)
            lane, byte = divmod(inside, part)
            code = int(stored[entry, block, 0, byte]) >> (bits * lane) & ((1 << bits) - 1)
            assert code - (1 << (bits - 1)) == solution.codes[0, k, entry]


def test_nothing_is_computed_from_the_whole_table(tmp_path):
    proto, _, _, _ = written(Grid(4, False, "block", 16))
    ops = optimized_ops(proto, tmp_path)
    assert ops.count("Gather") == 3
    optimized = onnx.load(tmp_path / "optimized.onnx")
    tables = [t for t in optimized.graph.initializer if t.dims[:1] == [ENTRIES]]
    assert sorted(t.data_type for t in tables) == [TensorProto.FLOAT, TensorProto.UINT8, TensorProto.UINT8]
    # The scales are the only floats of its size.
    assert all(np.prod(t.dims) <= ENTRIES * 4 for t in tables if t.data_type == TensorProto.FLOAT)


@pytest.mark.parametrize("target", ["portable", "ort", "openvino", "web"])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_no_rule_of_any_target_is_broken(grid, target):
    proto, layer, solution, _ = written(grid, target=target)
    assert TARGETS[target].lint(proto) == ()
    assert check_codes(proto, [layer], {"n": solution}).ok


@pytest.mark.openvino
@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("grid", [Grid(4), Grid(2, False, "block", 16)], ids=str)
def test_rows_in_openvino(grid, rank, tmp_path):
    pytest.importorskip("openvino")
    proto, layer, solution, _ = written(grid, rank)
    path, index = tmp_path / "e.onnx", some(rank)
    onnx.save(proto, path)
    found = run_openvino(path, {"x": index}, exact=True)["y"]
    np.testing.assert_array_equal(found, rows_of(solution, layer)[index])


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_half_precision(grid):
    proto, layer, solution, _ = written(grid, dtype="float16")
    onnx.checker.check_model(proto, full_check=True)
    index = some(2)
    found, table = run(proto, {"x": index}), dequantized(solution, layer)
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, table[index].astype(np.float16))


@pytest.mark.parametrize("grid", [Grid(4), Grid(2, False, "block", 16)], ids=str)
def test_in_a_graph_that_is_made_half_afterwards(grid):
    proto, layer, solution, _ = written(grid)
    half = to_half(proto, {}).proto
    onnx.checker.check_model(half, full_check=True)
    index = some(2)
    found = run(half, {"x": index})
    np.testing.assert_allclose(found, rows_of(solution, layer)[index], rtol=2e-3)
    assert check_codes(half, [layer], {"n": solution}).detail == "n holds other scales or zero points"


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_what_is_read_back_and_one_other_code_is_seen(grid):
    proto, layer, solution, _ = written(grid)
    read = WrittenFile(proto).weight(layer)
    np.testing.assert_array_equal(read.codes, solution.codes[0].T)
    np.testing.assert_array_equal(read.values, dequantized(solution, layer))
    assert read.initializer == "W_quantized"
    for name in ("W_quantized", "W_scale", *(() if grid.symmetric else ("W_zero_point",))):
        spoiled = onnx.ModelProto()
        spoiled.CopyFrom(proto)
        tensor = initializers(spoiled)[name]
        values = numpy_helper.to_array(tensor).copy()
        values.reshape(-1)[-1] += 1
        tensor.CopyFrom(numpy_helper.from_array(values, name))
        assert not check_codes(spoiled, [layer], {"n": solution}).ok


def test_a_shape_from_elsewhere_is_not_believed():
    proto, layer, _, _ = written(Grid(4))
    shape = next(node for node in proto.graph.node if node.op_type == "Shape")
    shape.input[0] = "other"
    with pytest.raises(ComqError, match="shape of the indices"):
        WrittenFile(proto).weight(layer)


def test_inside_a_branch_whose_indices_come_from_outside():
    text = """g (bool c, int64[A, B] x) => (float[A, B, 64] y) {
      y = If (c) <
        then_branch = t () => (float[A, B, 64] p) { p = Gather(W, x) },
        else_branch = e () => (float[A, B, 64] q) { f = Gather(V, x) q = Relu(f) }
      >
    }"""
    source = load(model(text, 21, 10, W=weight(ENTRIES, WIDTH, seed=3), V=weight(ENTRIES, WIDTH)))
    node = next(iter(source.graph.nodes[0].subgraphs())).nodes[0]
    node.name = "n"
    layout = layout_of("gather", (ENTRIES, WIDTH))
    layer = Layer("n", "Gather", "W", "x", "p", layout, "float32", in_subgraph=True)
    solution = solve_nearest(weight(ENTRIES, WIDTH, seed=3), layer, Grid(4, True, "block", 32))
    TARGETS["ort"].rewrite(source, [layer], {"n": solution}, Recipe())
    proto, index = to_proto(source), some(2)
    onnx.checker.check_model(proto, full_check=True)
    for optimize in (False, True):
        found = run(proto, {"c": np.array(True), "x": index}, optimize)
        np.testing.assert_array_equal(found, rows_of(solution, layer)[index])
    assert check_codes(proto, [layer], {"n": solution}).ok


def test_what_follows_the_lookup_is_not_taken_for_a_part_of_it():
    text = "g (int64[A, B] x) => (float[C, 64] y) { e = Gather(W, x) m = Mul(e, two) y = Reshape(m, flat) }"
    arrays = {"two": np.float32(2), "flat": np.array([-1, 64])}
    table = weight(ENTRIES, WIDTH, seed=3)
    for grid in (Grid(8), Grid(4), Grid(2, False, "block", 16)):
        source = load(model(text, 21, 10, W=table, **arrays))
        source.graph.nodes[0].name = "n"
        layer = Layer("n", "Gather", "W", "x", "e", layout_of("gather", table.shape), "float32")
        solution = solve_nearest(table, layer, grid)
        TARGETS["portable"].rewrite(source, [layer], {"n": solution}, Recipe())
        proto, index = to_proto(source), some(2)
        assert check_codes(proto, [layer], {"n": solution}).ok
        expected = 2 * rows_of(solution, layer)[index].reshape(-1, WIDTH)
        np.testing.assert_array_equal(run(proto, {"x": index}), expected)


@pytest.mark.parametrize(("grid", "width"), [(Grid(4), 33), (Grid(2), 34), (Grid(2), 33)])
def test_rows_that_do_not_fill_bytes(grid, width):
    layer = Layer("n", "Gather", "W", "x", "y", layout_of("gather", (ENTRIES, width)), "float32")
    for target in ("portable", "ort", "openvino", "web", "fakequant"):
        chosen, note = TARGETS[target].grid(layer, Recipe(), grid.bits)
        assert chosen == Grid(8)
        assert str(width) in note
    with pytest.raises(ValueError, match="do not fill bytes"):
        written(grid, width=width)


def test_two_codes_to_a_byte_fill_where_four_do_not():
    proto, layer, solution, _ = written(Grid(4), width=34)
    index = some(2)
    np.testing.assert_array_equal(run(proto, {"x": index}), rows_of(solution, layer)[index])


def test_wide_codes_have_no_blocks():
    with pytest.raises(ValueError, match="scale per row"):
        written(Grid(8, True, "block", 16))


@pytest.mark.parametrize("grid", [Grid(4), Grid(2, False, "block", 16)], ids=str)
def test_a_whole_run_with_a_plan_of_few_bits(grid, tmp_path):
    text = "g (int64[B, S] x) => (float[B, S, 32] y) { e = Gather(W, x) y = MatMul(e, V) }"
    proto = model(text, W=weight(50, WIDTH), V=weight(WIDTH, 32))
    recipe = Recipe(quantize_embeddings=True, effort="fast")
    opened = open_run(proto, {"x": np.arange(48).reshape(8, 6)}, recipe)
    layer = next(layer for layer in opened.plan.layers if layer.op == "Gather")
    assert opened.plan.grids[layer.name] == Grid(8)
    grids = {**opened.plan.grids, layer.name: grid}
    opened = replace(opened, plan=replace(opened.plan, grids=grids))
    outcome = write(opened, solve_model(opened, recipe), recipe)
    (path,), checks = put_in_place(tmp_path / "q.onnx", opened, outcome, recipe)
    assert checks.ok
    line = next(line for line in outcome.lines if line.op == "Gather")
    assert line.grid == str(grid)
    assert "looked up" in line.choice
    assert line.sqnr_after > line.sqnr_before
    told = file_bytes(opened.plan.prepared, opened.plan.layers, grids, recipe)
    assert 0 < path.stat().st_size - told < 400  # how it was made
