"""Channel scales by the error of a product's output, against the definition of that error."""

import numpy as np
import pytest

from comq_onnx.grid import Grid, dequantize
from comq_onnx.records import ActivationKind, Problem
from comq_onnx.solve.layer import solve_layer
from comq_onnx.stats.channel_scales import ROWS_AT_LEAST, Reader, choose_scales

U8, S8 = ActivationKind(signed=False, symmetric=False), ActivationKind(signed=True, symmetric=True)
W8 = Grid(8)


def stored(values: np.ndarray, kind: ActivationKind, known: np.ndarray) -> np.ndarray:
    """Rounded from the lowest of the `known` values to the highest, or as far on both sides of zero."""
    low, high = min(known.min(), 0), max(known.max(), 0)
    if kind.symmetric:
        step, offset = max(-low, high) / 127, 0
        return step * np.clip(np.rint(values / step), -128, 127)
    step = (high - low) / 255
    offset = np.rint(-low / step)
    return step * (np.clip(np.rint(values / step) + offset, 0, 255) - offset)


def solved(weight: np.ndarray, grid: Grid) -> np.ndarray:
    """Rounded to nearest."""
    s = solve_layer(Problem(weight[None], None, grid), "rtn", compensate=False)
    return dequantize(s.codes, s.scale, s.zero_point, s.grid)[0]


def true_error(rows, readers, kind, scale, known=None):
    """Of the outputs, in float64, both sides rounded; relative, and summed over readers."""
    known = rows if known is None else known
    x, total = rows[len(rows) // 2 :].astype(np.float64), 0.0
    smooth = stored(x / scale, kind, known / scale)
    for reader in readers:
        w = reader.weight.astype(np.float64) * scale[:, None]
        off = smooth @ solved(w, reader.grid) - x @ reader.weight
        total += np.square(off).sum() / np.square(x @ reader.weight).sum()
    return total


def case(rows=32, cols=24, count=400, seed=0):
    """A few channels that reach far, as behind a LayerNorm."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, rows)).astype(np.float32)
    x[:, :3] *= np.array([40, 15, 7], np.float32)
    return x, (rng.standard_normal((rows, cols)) / np.sqrt(rows)).astype(np.float32)


@pytest.mark.parametrize("kind", [U8, S8], ids=["uint8", "int8"])
@pytest.mark.parametrize("shape", [(32, 24), (8, 300), (48, 5)], ids=str)
def test_it_divides_the_error_and_says_by_how_much(kind, shape):
    x, w = case(*shape)
    readers = [Reader(w, W8)]
    found = choose_scales(x, readers, kind, clip=False)
    assert found is not None
    one = np.ones(shape[0])
    before, after = (true_error(x, readers, kind, scale) for scale in (one, found.scale))
    assert found.before == pytest.approx(before, rel=0.2)
    assert found.after == pytest.approx(after, rel=0.3)
    fresh = case(*shape, seed=7)[0]
    both = np.concatenate([x, fresh])  # of the range, whose ends are not what is tested
    before, after = (true_error(fresh, readers, kind, scale, both) for scale in (one, found.scale))
    assert after < before / 3
    assert np.exp(np.log(found.scale).mean()) == pytest.approx(1)


def test_no_power_of_the_reach_is_better():
    x, w = case()
    readers = [Reader(w, W8)]
    found = choose_scales(x, readers, S8, clip=False)
    assert found is not None
    fresh, reach = case(seed=7)[0], np.sqrt(np.square(x).mean(axis=0))
    tried = [true_error(fresh, readers, S8, reach**power, x) for power in np.linspace(0, 1.2, 25)]
    assert true_error(fresh, readers, S8, found.scale, x) <= 1.25 * min(tried)


def test_channels_that_differ_by_chance_alone_are_not_made_alike():
    """Of few rows all channels could be made to reach as far, and values to come would be cut off."""
    x, fresh = (np.random.default_rng(seed).standard_normal((256, 64)).astype(np.float32) for seed in (0, 1))
    readers = [Reader(case(64, 48)[1], W8)]
    found = choose_scales(x, readers, U8, clip=False)
    if found is not None:
        plain, smooth = (true_error(fresh, readers, U8, s, x) for s in (np.ones(64), found.scale))
        assert smooth < 1.2 * plain


def test_coarse_weights_are_smoothed_less():
    """What 8 bits bear makes the error of 3 bits: the powers that are best for both differ."""
    x, w = case()
    fine, coarse = (choose_scales(x, [Reader(w, Grid(bits))], S8) for bits in (8, 3))
    assert fine is not None
    assert coarse is None or np.ptp(np.log(coarse.scale)) < np.ptp(np.log(fine.scale))


def test_the_solver_s_share_counts():
    x, w = case()
    scales = [choose_scales(x, [Reader(w, Grid(4))], S8, share) for share in (1.0, 0.0)]
    spans = [0.0 if found is None else np.ptp(np.log(found.scale)) for found in scales]
    assert spans[0] < spans[1]


@pytest.mark.parametrize(
    "grid", [W8, Grid(8, False), Grid(8, granularity="tensor"), Grid(4, True, "block", 16)]
)
def test_all_grids(grid):
    x, w = case(rows=40)
    found = choose_scales(x, [Reader(w, grid)], U8, clip=False)
    if found is None:
        pytest.skip("nothing is gained")
    after = true_error(x, [Reader(w, grid)], U8, found.scale)
    assert 0.3 < found.after / after < 3


def test_several_readers_share_one_vector():
    x, w = case()
    readers = [Reader(w, W8), Reader(1000 * case(seed=1)[1], W8)]
    both = choose_scales(x, readers, S8, clip=False)
    assert both is not None
    assert both.after == pytest.approx(true_error(x, readers, S8, both.scale), rel=0.3)


def test_channels_that_are_alike_stay():
    x = np.random.default_rng(0).choice([-1.0, 1.0], (256, 16)).astype(np.float32)
    w = np.ones((16, 8), np.float32)
    assert choose_scales(x, [Reader(w, W8)], S8) is None


def test_dead_channels_and_rows_of_zeros_do_no_harm():
    x, w = case()
    x[:, 5], w[7] = 0, 0
    found = choose_scales(x, [Reader(w, W8)], U8)
    assert found is not None
    assert np.isfinite(found.scale).all()
    assert (found.scale > 0).all()


def test_too_little_to_tell():
    x, w = case()
    readers = [Reader(w, W8)]
    assert choose_scales(np.zeros_like(x), readers, U8) is None
    assert choose_scales(x[: ROWS_AT_LEAST - 1], readers, U8) is None
    assert choose_scales(x[:ROWS_AT_LEAST], readers, U8) is not None
    assert choose_scales(x[:0], readers, U8) is None
