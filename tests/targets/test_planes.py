"""Codes in bit planes: every code comes back, in every kind of layer, and takes no more bits than it has."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from targets.layer_cases import (
    CASES,
    dequantized,
    initializers,
    loaded,
    run,
    shaped_model,
    solve_nearest,
    with_weight,
)

from comq_onnx.evaluate.readback import WrittenFile
from comq_onnx.graph.io import load, to_proto
from comq_onnx.graph.layout import from_rows, layout_of
from comq_onnx.grid import Grid
from comq_onnx.recipe import Recipe
from comq_onnx.records import Layer
from comq_onnx.targets import TARGETS, planes
from comq_onnx.targets.planes import holds_planes, packed

WIDTHS = (2, 3, 5, 6)
TARGETS_WITH_PLANES = ("portable", "ort", "web", "openvino")
EVEN = [name for name, case in CASES.items() if name != "gather" and np.prod(case.shape) % 8 == 0]


@pytest.fixture
def any_size(monkeypatch):
    """Planes for the smallest weights too."""
    monkeypatch.setattr(planes, "FEWEST", 0)


def in_planes(target, bits):
    """Whether the target has no type of its own for codes of `bits`."""
    return bits != 2 or not TARGETS[target].packed_int2


@pytest.mark.parametrize("bits", WIDTHS)
def test_a_bit_of_every_code_lies_in_each_byte(bits):
    codes = np.random.default_rng(bits).integers(-(1 << bits - 1), 1 << bits - 1, (4, 10))
    found = packed(codes, bits)
    assert found.shape == (bits, 1, 5)
    bits_of = np.unpackbits(found, axis=1, bitorder="little").reshape(bits, 40)
    worth = np.array([1 << b for b in range(bits - 1)] + [-(1 << bits - 1)])
    np.testing.assert_array_equal(worth @ bits_of, codes.reshape(-1))


@pytest.mark.usefixtures("any_size")
@pytest.mark.parametrize("target", TARGETS_WITH_PLANES)
@pytest.mark.parametrize("granularity", ["channel", "block", "tensor"])
@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("kind", EVEN)
def test_every_kind_of_layer(kind, bits, granularity, target):
    case = CASES[kind]
    layer = case.layer()
    block = 32 if granularity == "block" and layer.layout.rows % 32 == 0 else 0
    grid = Grid(bits, True, granularity if block or granularity != "block" else "channel", block)
    solution = solve_nearest(case.weight(), layer, grid)
    source = loaded(case, 25 if bits == 2 else 21)
    said = TARGETS[target].rewrite(source, [layer], {"n": solution}, Recipe(weights=f"int{bits}"))[0]
    proto = to_proto(source)
    onnx.checker.check_model(proto, full_check=True)
    read = WrittenFile(proto).weight(layer)
    np.testing.assert_array_equal(read.codes, from_rows(solution.codes, layer.layout))
    np.testing.assert_allclose(read.values, dequantized(solution, layer), rtol=1e-6)
    oracle = run(with_weight(case.proto(), dequantized(solution, layer)), case.feeds())
    for optimized in (False, True):
        found = run(proto, case.feeds(), optimized)
        np.testing.assert_allclose(found, oracle, rtol=1e-5, atol=1e-5 * np.abs(oracle).max())
    assert not TARGETS[target].lint(proto)
    stored = initializers(proto)
    assert ("W_planes" in stored) == in_planes(target, bits)
    if in_planes(target, bits):
        assert said.form == "bit planes"
        assert stored["W_planes"].data_type == TensorProto.UINT8
        assert len(stored["W_planes"].raw_data) == np.prod(case.shape) * bits // 8
        scales = len(stored["W_scale"].raw_data)
        assert said.bytes_after == np.prod(case.shape) * bits // 8 + scales


@pytest.mark.usefixtures("any_size")
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_floats(dtype):
    case = CASES["matmul"]
    if dtype == "float64":
        proto = shaped_model(case.text.replace("float", "double"), W=case.weight().astype(np.float64))
        proto.graph.node[0].name = "n"
    else:
        proto = case.proto(dtype=dtype)
    layer = Layer("n", "MatMul", "W", "x", "y", case.layer().layout, dtype)
    values = case.weight().astype(np.float64)
    solution = solve_nearest(values, case.layer("float16" if dtype == "float16" else "float32"), Grid(3))
    source = load(proto)
    TARGETS["portable"].rewrite(source, [layer], {"n": solution}, Recipe(weights="int3"))
    written = to_proto(source)
    feeds = {"x": case.feeds()["x"].astype(dtype)}
    oracle = run(with_weight(proto, dequantized(solution, layer)), feeds)
    found = run(written, feeds)
    np.testing.assert_allclose(found, oracle, rtol=2e-2 if dtype == "float16" else 1e-12, atol=1e-2)
    assert "W_planes" in initializers(written)


@pytest.mark.parametrize(
    ("shape", "grid", "held", "dtype", "expected"),
    [
        ((64, 512), Grid(3), 4, "float32", True),
        ((64, 64), Grid(3), 4, "float32", False),  # 512 bytes are saved: the nodes take more
        ((64, 128), Grid(6), 8, "float32", True),  # 2048
        ((64, 512), Grid(4), 4, "float32", False),
        ((64, 512), Grid(2), 2, "float32", False),
        ((64, 512), Grid(7), 8, "float32", False),  # int8 with room to spare
        ((64, 512), Grid(3, symmetric=False), 4, "float32", False),
        ((65, 513), Grid(3), 4, "float32", False),  # not whole bytes
        ((64, 512), Grid(3), 4, "bfloat16", False),
    ],
)
def test_where_planes_are_written(shape, grid, held, dtype, expected):
    layer = Layer("n", "MatMul", "W", "x", "y", layout_of("matmul", shape), dtype)
    assert holds_planes(layer, grid, held) == expected


@pytest.mark.usefixtures("any_size")
@pytest.mark.parametrize("changed", [{"weight_form": "dq"}, {"matmulnbits": True, "target": "ort"}])
def test_forms_that_were_asked_for_have_none(changed):
    case, recipe = CASES["gemm"], Recipe(weights="int3", **changed)
    layer = case.layer()
    solution = solve_nearest(case.weight(), layer, Grid(3, True, "block", 32))
    source = loaded(case, 21)
    said = TARGETS[recipe.target].rewrite(source, [layer], {"n": solution}, recipe)[0]
    assert said.form in ("DequantizeLinear", "MatMulNBits")
