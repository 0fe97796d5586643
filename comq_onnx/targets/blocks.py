"""Which blocks of rows may share a scale: powers of two that divide the rows, as fused products ask; any
that divide them, where a weight is floats once the file is loaded.
"""

from dataclasses import replace

from comq_onnx.grid import Grid
from comq_onnx.recipe import Recipe
from comq_onnx.records import Layer, Layout

AUTO_BLOCK = 128
"""Fastest in onnxruntime on a CPU, and accepted by every runtime; 256 gains little and costs accuracy."""
SMALLEST_BLOCK = 16
SMALLEST_DIVISOR = 8
"""Of blocks that need be no power of two: with a float32 scale for fewer rows, int4 is larger than int8"""
FEWEST_ROWS = {64: 320, 32: 608, 16: 1200}
"""Of a weight in smaller blocks, for a fused product to be as fast as float"""
SMALLEST_INT2_BLOCK = 32
"""onnxruntime's 2-bit kernel for int8 activations has block sizes from 32 to 128."""
LARGEST_INT2_BLOCK = 128


def is_right_side(layout: Layout) -> bool:
    """Whether the weight is the ``[K, N]`` right operand of a MatMul or Gemm: the one form runtimes fuse."""
    return layout.kind == "matmul" and len(layout.shape) == 2


def stored_bits(layer: Layer, bits: int, packed_int2: bool) -> int:
    """Bits of the type that holds a code, 2, 4 or 8; codes of fewer bits than that may lie in planes.

    onnxruntime (1.32) fuses a 2-bit ``[K, N]`` weight whose N is no multiple of 4 to a wrong result: a form
    that it may fuse has 4 bits, and Cast*scale, which it folds to the right floats, has 2.
    """
    if bits != 2 or not packed_int2 or (is_right_side(layer.layout) and layer.layout.cols % 4):
        return 4 if bits <= 4 else 8
    return 2


def dividing_block(rows: int, at_most: int, at_least: int = SMALLEST_BLOCK) -> int:
    """The largest power of two in ``[at_least, at_most]`` that divides `rows`; 0 if there is none."""
    block = min(rows & -rows, 1 << (at_most.bit_length() - 1))
    return block if block >= at_least else 0


def near_block(rows: int, at_most: int) -> int:
    """The largest divisor of `rows` in ``[SMALLEST_DIVISOR, at_most]``; 0 if there is none."""
    return next((block for block in range(at_most, SMALLEST_DIVISOR - 1, -1) if rows % block == 0), 0)


def is_power_of_two(block: int) -> bool:
    return block > 0 and block & (block - 1) == 0


def fused_pays(layout: Layout, bits: int, block: int) -> bool:
    """Whether onnxruntime's fused product with a ``[K, N]`` weight is at least as fast as the float one.

    It rounds activations and starts slower than it multiplies; small weights and small blocks lose, by a half
    at worst, from a few rows of activations on. Measured in onnxruntime 1.32 on an x64 CPU with VNNI, thread
    CPU time (`tools/bench_products.py`; `tools/bench_latency.py` times whole models).
    """
    rows, cols = layout.rows, layout.cols
    if bits == 8:
        return (rows >= 384 and cols >= 128) or (rows >= 256 and cols >= 256 and rows % AUTO_BLOCK == 0)
    if block < AUTO_BLOCK:
        return cols >= 256 and rows >= FEWEST_ROWS.get(block, rows + 1)
    return rows >= 256 and (cols >= 128 or (cols >= 64 and rows >= 384))


def eight_bit_grid(recipe: Recipe, bits: int) -> tuple[Grid, str]:
    """The grid of a layer that computes in 8 bits, and why it is not the one asked for."""
    said = []
    if recipe.block_size not in ("auto", "channel"):
        said.append("one scale per channel")
    if not recipe.symmetric:
        said.append("no zero point")
    if bits == 8 and recipe.reduce_range:
        bits = 7
    return Grid(bits), f"8-bit kernels take {' and '.join(said)}" if said else ""


def choose_grid(layer: Layer, recipe: Recipe, bits: int, packed_int2: bool) -> tuple[Grid, str]:
    """The grid for `layer`, and why it is not the one asked for.

    ``auto`` is a block for 2 to 4 bits on the right side of a MatMul or Gemm, and a scale per channel
    elsewhere. Ragged blocks do not load in OpenVINO and TensorRT, so a block that does not divide the rows
    becomes a smaller one that does: a power of two where a fused product gains by it, any other elsewhere;
    or a scale per channel.
    """
    channel = Grid(bits, recipe.symmetric, "channel")
    if layer.layout.kind == "gather":
        return gather_grid(layer, recipe, bits)
    if recipe.block_size in ("channel", "tensor"):
        return replace(channel, granularity=recipe.block_size), ""
    right = is_right_side(layer.layout)
    if recipe.block_size == "auto" and (bits > 4 or not right):
        return channel, ""
    if recipe.weight_form == "dq" and layer.layout.kind in ("conv", "conv_transpose"):
        return channel, "DequantizeLinear holds a Conv weight per channel only"
    packed = right and stored_bits(layer, bits, packed_int2) == 2
    at_least = SMALLEST_INT2_BLOCK if packed else SMALLEST_BLOCK
    asked_block = AUTO_BLOCK if recipe.block_size == "auto" else int(recipe.block_size)
    rows = layer.layout.rows
    block = dividing_block(rows, max(asked_block, at_least), at_least)
    ragged = recipe.block_size != "auto" and rows > asked_block and rows % asked_block > 0
    if ragged and not packed and not keeps_powers(layer, recipe, bits, block):
        block = near_block(rows, asked_block)
    grid = Grid(bits, recipe.symmetric, "block", block) if block else channel
    if recipe.block_size == "auto" or block == asked_block:
        return grid, ""
    if block > asked_block:
        return grid, f"no 2-bit kernel for blocks of {asked_block}: {block}"
    return grid, f"{asked_block} does not divide {rows} rows: {f'block {block}' if block else 'per channel'}"


def keeps_powers(layer: Layer, recipe: Recipe, bits: int, block: int) -> bool:
    """Whether the blocks of a layer must be powers of two, or gain by being `block`, which is one or 0."""
    if recipe.weight_form == "dq" or recipe.matmulnbits:
        return True
    return is_right_side(layer.layout) and block > 0 and fused_pays(layer.layout, bits, block)


def gather_grid(layer: Layer, recipe: Recipe, bits: int) -> tuple[Grid, str]:
    """The grid of an embedding, whose entries have one scale each, or one for a block of their row.

    Codes of fewer than 8 bits must fill bytes; blocks are for these alone.
    """
    rows, per_byte = layer.layout.rows, 4 if bits == 2 else 2
    asked = 0 if recipe.block_size in ("auto", "channel", "tensor") else int(recipe.block_size)
    if bits > 4:
        said = ["codes of 8, 4 or 2 bits"] if bits < 8 else []
        said += [] if recipe.block_size in ("auto", "channel") else ["one scale per entry"]
        return Grid(8, recipe.symmetric), f"an embedding has {' and '.join(said)}" if said else ""
    if rows % per_byte:
        return Grid(8, recipe.symmetric), f"{per_byte} codes to a byte do not divide rows of {rows}: int8"
    block = dividing_block(rows, asked) if asked else 0
    grid = Grid(bits, recipe.symmetric, "block", block) if block else Grid(bits, recipe.symmetric)
    if block == asked:
        said = recipe.block_size == "tensor"
        return grid, "an embedding has one scale per entry" if said else ""
    return grid, f"{asked} does not divide rows of {rows}: {f'block {block}' if block else 'per entry'}"


def stored_block(rows: int, blocks: int, bits: int) -> int:
    """Rows per scale as written for a ``[K, N]`` weight stored in `bits` below 8; 0: one per channel, axis 1.

    A scale per channel is repeated over blocks (onnxruntime runs blocks of 128 at M = 197 1.4 times faster
    than a true per-channel scale), and 2-bit blocks of 256 over blocks of 128 (there is no kernel for 256).
    """
    at_least = SMALLEST_INT2_BLOCK if bits == 2 else SMALLEST_BLOCK
    if blocks == 1:
        return dividing_block(rows, AUTO_BLOCK, at_least)
    return min(rows // blocks, LARGEST_INT2_BLOCK) if bits == 2 else rows // blocks
