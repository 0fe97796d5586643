"""Packed codes and written files of random layers: what is read back is what was written."""

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from targets.layer_cases import Case, dequantized, loaded, solve_nearest

from comq_onnx.evaluate.readback import WrittenFile
from comq_onnx.graph.io import to_proto
from comq_onnx.graph.layout import from_rows
from comq_onnx.graph.tensors import quantized_tensor, values_of
from comq_onnx.grid import Grid
from comq_onnx.recipe import Recipe
from comq_onnx.targets import TARGETS
from comq_onnx.targets.nbits import pack

TYPES = {
    (2, True): TensorProto.INT2,
    (2, False): TensorProto.UINT2,
    (4, True): TensorProto.INT4,
    (4, False): TensorProto.UINT4,
    (8, True): TensorProto.INT8,
    (8, False): TensorProto.UINT8,
}
STORED = {2: 2, 3: 4, 4: 4, 7: 8, 8: 8}
"""Bits that a code takes in a file, by its width"""


def unpacked(data: bytes, bits: int, count: int, signed: bool) -> list[int]:
    """Codes out of bytes, the first in the lowest bits: ONNX, "Element types of less than a byte"."""
    found = [byte >> shift & (1 << bits) - 1 for byte in data for shift in range(0, 8, bits)][:count]
    return [code - (1 << bits) if signed and code >> (bits - 1) else code for code in found]


@given(
    width=st.sampled_from([2, 3, 4, 7, 8]),
    signed=st.booleans(),
    shape=st.lists(st.integers(0, 7), min_size=0, max_size=3),
    seed=st.integers(0, 99),
)
def test_codes_in_a_tensor(width: int, signed: bool, shape: list[int], seed: int) -> None:
    grid, bits = Grid(width, signed), STORED[width]
    codes = np.random.default_rng(seed).integers(grid.lo, grid.hi + 1, shape).astype(grid.code_dtype)
    constant = quantized_tensor("w", codes, TYPES[bits, signed])
    stored = constant._values.tensor
    assert list(stored.dims) == shape
    assert len(stored.raw_data) == -(-codes.size * bits // 8)
    assert unpacked(stored.raw_data, bits, codes.size, signed) == codes.reshape(-1).tolist()
    assert np.array_equal(values_of(constant).astype(np.int16), codes)


@given(
    bits=st.sampled_from([2, 4, 8]), rows=st.integers(1, 3), count=st.integers(0, 40), seed=st.integers(0, 99)
)
def test_codes_of_a_fused_operator(bits: int, rows: int, count: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 1 << bits, (rows, count)).astype(np.uint8)
    packed = pack(codes, bits)
    assert packed.shape == (rows, -(-count * bits // 8))
    for row, data in zip(codes, packed, strict=True):
        assert unpacked(data.tobytes(), bits, count, signed=False) == row.tolist()
        spare = unpacked(data.tobytes(), bits, 8 // bits * len(data), signed=False)[count:]
        assert not any(spare)


@st.composite
def layers(draw: st.DrawFn) -> Case:
    """A small layer of any kind and size."""
    kind = draw(st.sampled_from(["matmul", "gemm", "matmul_left", "conv", "conv_transpose", "gather"]))
    rows, cols = draw(st.sampled_from([16, 32, 48, 21])), draw(st.integers(1, 9))
    if kind == "gemm":
        return Case(
            f"g (float[B,{rows}] x) => (float[] y) {{ y = Gemm(x, W) }}",
            "matmul",
            (rows, cols),
            "Gemm",
            (2, rows),
        )
    if kind == "matmul":
        batch = tuple(draw(st.lists(st.integers(1, 3), max_size=2)))
        lead = "".join(f"{size}," for size in batch)
        text = f"g (float[{lead}S,{rows}] x) => (float[] y) {{ y = MatMul(x, W) }}"
        return Case(text, kind, (*batch, rows, cols), "MatMul", (*batch, 2, rows))
    if kind == "matmul_left":
        text = f"g (float[{rows},S] x) => (float[] y) {{ y = MatMul(W, x) }}"
        return Case(text, kind, (cols, rows), "MatMul", (rows, 2))
    if kind == "gather":
        return Case("g (int64[B] x) => (float[] y) { y = Gather(W, x) }", kind, (rows, cols), "Gather", (3,))
    group, each, inner = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.sampled_from([1, 2, 8]))
    kernel = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=2)))
    shape = (group * each, inner, *kernel)
    inputs = group * inner if kind == "conv" else group * each
    op = "Conv" if kind == "conv" else "ConvTranspose"
    sides = ",".join("6" for _ in kernel)
    how = f"group={group},kernel_shape={list(kernel)}"
    text = f"g (float[1,{inputs},{sides}] x) => (float[] y) {{ y = {op}<{how}>(x, W) }}"
    return Case(text, kind, shape, op, (1, inputs, *(6 for _ in kernel)), group)


@st.composite
def written(draw: st.DrawFn) -> tuple[Case, Grid, Recipe]:
    """A layer, a grid that its target has a form for, and where it is written."""
    case, target = draw(layers()), draw(st.sampled_from(["portable", "ort", "web", "openvino"]))
    bits, symmetric = draw(st.sampled_from([2, 3, 4, 8])), draw(st.booleans())
    granularity = draw(st.sampled_from(["channel", "block", "tensor"]))
    rows = case.layer().layout.rows
    if rows % 16 or (case.kind == "gather" and bits == 8):
        granularity = "channel"
    if case.kind == "gather" and granularity == "tensor":
        granularity = "channel"
    if case.kind == "gather" and case.shape[1] * bits % 8:
        bits = 8  # codes of an entry fill bytes
    grid = Grid(bits, symmetric, granularity, 16 if granularity == "block" else 0)
    recipe = Recipe(target=target, weight_form=draw(st.sampled_from(["auto", "dq"])), size_first=True)
    return case, grid, recipe


@settings(max_examples=120)
@given(written(), st.integers(0, 99))
def test_what_is_written_is_read_back(case: tuple[Case, Grid, Recipe], seed: int) -> None:
    made, grid, recipe = case
    layer = made.layer()
    solution = solve_nearest(made.weight(), layer, grid)
    codes = np.random.default_rng(seed).integers(grid.lo, grid.hi + 1, solution.codes.shape)
    object.__setattr__(solution, "codes", codes.astype(grid.code_dtype))
    two = grid.bits == 2 and recipe.target in ("ort", "web")
    source = loaded(made, 25 if two else 21)
    TARGETS[recipe.target].rewrite(source, [layer], {"n": solution}, recipe)
    proto = to_proto(source)
    onnx.checker.check_model(proto, full_check=True)
    read = WrittenFile(proto).weight(layer)
    assert read.codes is not None
    stored, wanted = read.codes.astype(np.int64), from_rows(solution.codes, layer.layout).astype(np.int64)
    # Where signed codes are stored as unsigned ones, all of them are moved by the same number.
    assert np.unique(stored - wanted).size == 1
    np.testing.assert_allclose(read.values, dequantized(solution, layer), rtol=1e-6, atol=1e-9)
