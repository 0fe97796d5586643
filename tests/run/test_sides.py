"""Halves of the calibration data that are unlike each other."""

from collections.abc import Iterator

import numpy as np

from comq_onnx.run.data import Batch, Calibration
from comq_onnx.run.sides import BINS, described, sided, sides


def calibration_of(values: np.ndarray, size: int, fixed: bool = False) -> Calibration:
    def make() -> Iterator[Batch]:
        for start in range(0, len(values), size):
            yield {"x": values[start : start + size], "shared": np.ones(3)}

    def cut(batch: Batch, mask: np.ndarray) -> Batch:
        return {"x": batch["x"][mask], "shared": batch["shared"]}

    return Calibration("x", len(values), False, -(-len(values) // size), make, cut=None if fixed else cut)


def scenes(order: np.ndarray) -> np.ndarray:
    """Samples of two scenes, far apart along one direction and near each other inside."""
    rng = np.random.default_rng(0)
    return order[:, None] * rng.normal(size=20) * 5 + rng.normal(size=(len(order), 20))


def test_scenes_that_come_in_turn_are_parted() -> None:
    values = scenes(np.arange(20) % 2)
    parted = sided(calibration_of(values, 4), lambda batch: {"y": batch["x"]})
    batches = list(parted.batches())
    given = np.concatenate([batch["x"] for batch in batches])
    assert parted.batch_count == len(batches)
    assert sorted(map(tuple, given)) == sorted(map(tuple, values))
    scene = np.array([int(np.flatnonzero((values == row).all(axis=1))[0]) % 2 for row in given])
    assert (scene == np.repeat([scene[0], 1 - scene[0]], 10)).all()
    assert all(np.array_equal(batch["shared"], np.ones(3)) for batch in batches)


def test_a_batch_of_fixed_size_stays_whole() -> None:
    values = scenes(np.repeat(np.arange(8) % 2, 3))
    parted = sided(calibration_of(values, 3, fixed=True), lambda batch: {"y": batch["x"]})
    firsts = [
        int(np.flatnonzero((values == batch["x"][0]).all(axis=1))[0]) // 3 for batch in parted.batches()
    ]
    assert sorted(firsts[:4]) in ([0, 2, 4, 6], [1, 3, 5, 7])
    assert all(len(batch["x"]) == 3 for batch in parted.batches())


def test_what_nothing_tells_apart_stays_as_it_is() -> None:
    calibration = calibration_of(np.ones((8, 2)), 2)
    assert sided(calibration, lambda batch: {"y": np.arange(3)}) is calibration
    few = calibration_of(np.ones((3, 2)), 1)
    assert sided(few, lambda batch: {"y": batch["x"]}) is few


def test_sides_are_those_of_the_first_principal_axis() -> None:
    values = np.random.default_rng(1).normal(size=(30, 5)) * [9, 1, 1, 1, 1]
    _, _, axes = np.linalg.svd(values - values.mean(axis=0))
    along = (values - values.mean(axis=0)) @ axes[0]
    wanted = along > np.median(along)
    assert (sides(values) == wanted).all() or (sides(values) == ~wanted).all()


def test_outputs_are_described_by_means_of_stretches() -> None:
    long = np.random.default_rng(2).normal(size=(2, 3, BINS)).astype(np.float32)
    told = described({"a": long, "n": np.arange(2), "b": np.array([[1.0], [np.inf]])}, 2)
    assert told.shape == (2, 2 * BINS)
    np.testing.assert_allclose(told[:, :BINS], long.reshape(2, BINS, 3).mean(axis=2), rtol=1e-5, atol=1e-6)
    assert (told[:, BINS:] == [[1.0], [0.0]]).all()
    assert described({"a": long}, 5).shape == (5, 0)
