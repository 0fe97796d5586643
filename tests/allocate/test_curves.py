"""Losses of a layer on its grids: against their definition on the samples held out, and full solves."""

import numpy as np
import pytest

from comq_onnx.allocate.curves import Bench, between, curve
from comq_onnx.backends.engine import cpu_engine
from comq_onnx.grid import Grid, dequantize
from comq_onnx.moments import merged
from comq_onnx.records import InputStats, Problem
from comq_onnx.solve.layer import solve_layer

GRIDS = {
    "int8": Grid(8),
    "int4": Grid(4),
    "int4 b16": Grid(4, granularity="block", block_size=16),
    "int3": Grid(3),
    "int2": Grid(2),
}


def stats_of(x: np.ndarray) -> InputStats:
    return InputStats(x.mean(axis=0)[None], (x.T @ x / len(x))[None], len(x))


def rows(count: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(3)
    mixing = rng.normal(size=(width, width)) * np.geomspace(1, 0.05, width)
    return rng.normal(size=(count, width)) @ mixing + 0.5


@pytest.fixture(scope="module")
def layer() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x = rows(1200, 64)
    return np.random.default_rng(4).normal(size=(1, 64, 200)), x[:600], x[600:]


def bench(layer, cols: int = 200) -> Bench:
    weight, first, second = layer
    stats = merged(stats_of(first), stats_of(second))
    return Bench(weight[:, :, :cols], stats, True, "float32", cpu_engine())


def test_losses_of_anchors_are_those_of_their_solutions_on_the_samples_held_out(layer):
    weight, _, unseen = layer
    found = curve(bench(layer), GRIDS, ["int4", "int2"])
    float_output = unseen @ weight[0]
    # The bias takes out the mean that the seen samples had, so the signal is judged without it as well.
    seen = layer[1]
    signal = np.square(float_output - seen.mean(axis=0) @ weight[0]).sum()
    for name, solution in found.anchors.items():
        values = dequantize(solution.codes, solution.scale, None, solution.grid)[0]
        error = unseen @ values + solution.bias[0] - float_output
        assert found.losses[name] == pytest.approx(np.square(error).sum() / signal, rel=1e-4)


def test_losses_rank_grids_and_are_near_those_of_full_solves(layer):
    weight, seen, unseen = layer
    found = curve(bench(layer), GRIDS, ["int4", "int2"]).losses
    assert found["int8"] < found["int4 b16"] < found["int4"] < found["int3"] < found["int2"]
    float_output = unseen @ weight[0]
    signal = np.square(float_output - seen.mean(axis=0) @ weight[0]).sum()
    for name, grid in GRIDS.items():
        full = solve_layer(Problem(weight, stats_of(seen), grid), "comq", True)
        values = dequantize(full.codes, full.scale, full.zero_point, grid)[0]
        error = np.square(unseen @ values + full.bias[0] - float_output).sum() / signal
        assert 0.5 < found[name] / error < 2.5


def test_some_channels_tell_what_all_would(layer):
    narrow = curve(bench(layer, 90), GRIDS, ["int4"])
    wide = curve(bench(layer), GRIDS, ["int4"])
    assert narrow.losses.keys() == wide.losses.keys() == GRIDS.keys()
    for name in GRIDS:
        assert wide.losses[name] == pytest.approx(narrow.losses[name], rel=0.35)


def test_some_groups_tell_their_own_losses():
    rng = np.random.default_rng(5)
    x, weight = rng.normal(size=(400, 300, 9)), rng.normal(size=(300, 9, 1))
    x *= np.geomspace(1, 30, 300)[:, None]  # a group that is taken for another would show
    parts = [
        InputStats(half.mean(axis=0), np.einsum("ngi,ngj->gij", half, half) / len(half), len(half))
        for half in (x[:200], x[200:])
    ]
    every = Bench(weight, merged(*parts), True, "float32", cpu_engine())
    found = curve(every, GRIDS, ["int4", "int2"]).losses
    kept = np.linspace(0, 299, 96).astype(int)
    own = InputStats(*(getattr(parts[0], name)[kept] for name in ("mean", "gram")), 200)
    unseen = x[200:, kept]
    signal = np.square(
        np.einsum("ngi,gim->ngm", unseen, weight[kept]) - np.einsum("gi,gim->gm", own.mean, weight[kept])
    )
    told = {}
    for name in ("int8", "int4"):
        full = solve_layer(Problem(weight[kept], own, GRIDS[name]), "comq", True, "fast")
        error = np.einsum(
            "ngi,gim->ngm", unseen, dequantize(full.codes, full.scale, None, full.grid) - weight[kept]
        )
        told[name] = np.square(error + full.bias).sum() / signal.sum()
    assert found["int8"] / found["int4"] == pytest.approx(told["int8"] / told["int4"], rel=0.15)


def test_three_bits_lie_between_four_and_two_of_the_same_blocks():
    assert between(GRIDS) == {"int3": ("int4", "int2")}
    assert between({"int3": Grid(3), "int4": Grid(4, granularity="tensor"), "int2": Grid(2)}) == {}


def test_where_the_same_blocks_are_missing_the_largest_stand_in():
    grids = {"int8": Grid(8), "int6": Grid(6), "int5": Grid(5), "int3": Grid(3), "int2": Grid(2)}
    grids |= {f"int4 b{size}": Grid(4, True, "block", size) for size in (32, 128)}
    assert between(grids) == {
        "int6": ("int8", "int4 b128"),
        "int5": ("int6", "int4 b128"),
        "int3": ("int4 b128", "int2"),
    }


def test_blocks_of_a_middle_size_lie_between_the_others():
    rows, x = 256, np.random.default_rng(6).normal(size=(1200, 256))
    weight = np.random.default_rng(7).standard_t(5, size=(1, rows, 150))
    many = Bench(weight, merged(stats_of(x[:600]), stats_of(x[600:])), True, "float32", cpu_engine())
    blocks = {
        f"int{bits} b{size}": Grid(bits, True, "block", size) for bits in (4, 3, 2) for size in (128, 64, 32)
    }
    assert between(blocks) == {
        **{f"int{bits} b64": (f"int{bits} b128", f"int{bits} b32") for bits in (4, 2)},
        **{f"int3 b{size}": (f"int4 b{size}", f"int2 b{size}") for size in (128, 64, 32)},
    }
    found = curve(many, blocks, ["int4 b128", "int2 b128"]).losses
    alone = curve(many, {"int4 b64": blocks["int4 b64"]}, ["int4 b64"]).losses
    assert found["int4 b64"] == pytest.approx(alone["int4 b64"], rel=0.1)
