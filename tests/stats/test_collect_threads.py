"""Statistics and errors do not depend on the number of threads."""

import threading
from pathlib import Path

import numpy as np
import pytest
from stats.collecting import conv_net, gaussian, masked, mlp, model_of, run
from threadpoolctl import threadpool_limits

from comq_onnx.backends.engine import cpu_engine
from comq_onnx.errors import ComqError
from comq_onnx.graph.find import find_layers
from comq_onnx.graph.io import load, to_proto
from comq_onnx.graph.prepare import prepare
from comq_onnx.recipe import Recipe
from comq_onnx.run.data import open_calibration
from comq_onnx.run.session import open_session
from comq_onnx.stats import collect as collecting
from comq_onnx.stats.collect import Collected, collect

GLYPHS = Path(__file__).parents[2] / "samples" / "glyphs"


@pytest.fixture(autouse=True)
def share_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small work is shared out too."""
    monkeypatch.setattr(collecting, "WORK_TO_SHARE", 0)


def same_bits(one: Collected, other: Collected) -> bool:
    assert list(one.stats) == list(other.stats)
    pairs = [(one.stats[name], other.stats[name]) for name in one.stats]
    halves = [(left.half, right.half) for left, right in pairs]
    return all(
        np.array_equal(left.gram, right.gram) and np.array_equal(left.mean, right.mean)
        for left, right in pairs + halves
    )


WIDE = "g (float[N, S, 1500] x) => (float[N, S, 8] y) { y = MatMul(x, w) }"
MODELS = {
    "convolutions": (conv_net(), {"x": gaussian(9, 4, 40, 40)}),
    "a layer wider than a panel": (model_of(WIDE, w=gaussian(1500, 8)), {"x": gaussian(5, 140, 1500)}),
    "dense": (mlp(), {"x": gaussian(9, 50, 16)}),
    "masked": (masked(), {"x": gaussian(4, 6, 16), "attention_mask": np.tri(4, 6, 2, np.int64)}),
}


@pytest.mark.parametrize("case", MODELS)
def test_any_number_of_threads_gives_the_same_bits(case: str) -> None:
    one, *others = (run(*MODELS[case], engine=cpu_engine(threads), batch_size=2)[0] for threads in (1, 2, 3))
    assert all(same_bits(one, other) for other in others)


FEW_ROWS = "g (float[N, 200] x) => (float[N, 8] y) { y = MatMul(x, w) }"


def test_rows_that_fill_no_chunk_are_multiplied_on_one_thread() -> None:
    """They are left to the end, behind the batches; some kernels give other bits on more threads."""
    inputs = {"x": gaussian(40, 200)}
    with threadpool_limits(1, "blas"):
        alone, _ = run(model_of(FEW_ROWS, w=gaussian(200, 8)), inputs, batch_size=8)
    with threadpool_limits(2, "blas"):
        found, _ = run(model_of(FEW_ROWS, w=gaussian(200, 8)), inputs, batch_size=8)
    assert same_bits(alone, found)


@pytest.mark.slow
def test_a_whole_network_gives_the_same_bits() -> None:
    recipe = Recipe()
    model = prepare(load(GLYPHS / "glyphs.onnx"), 21)
    layers, _ = find_layers(model, recipe)
    inputs = open_session(to_proto(model)).inputs
    calibration = open_calibration(GLYPHS / "calibration.npz", inputs, recipe)
    one, two = (collect(model, layers, calibration, recipe, engine=cpu_engine(threads)) for threads in (1, 2))
    assert len(layers) > 20
    assert same_bits(one, two)


def test_little_work_is_not_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []
    add = collecting.TapSum.add

    def recorded(self: collecting.TapSum, taken: collecting.Taken) -> None:
        threads.append(threading.current_thread() is threading.main_thread())
        add(self, taken)

    monkeypatch.setattr(collecting.TapSum, "add", recorded)
    for work, alone in ((0, False), (1 << 20, True)):
        monkeypatch.setattr(collecting, "WORK_TO_SHARE", work)
        run(mlp(), {"x": gaussian(3, 5, 16)}, engine=cpu_engine(2))
        assert set(threads) == {alone}
        threads.clear()


def test_the_first_of_several_errors_is_raised() -> None:
    proto = model_of(
        """g (float[N, 16] x) => (float[N, 8] y, float[N, 8] z)
        { a = Log(x) b = Relu(a) y = MatMul(a, v) z = MatMul(b, w) }""",
        v=gaussian(16, 8),
        w=gaussian(16, 8),
    )
    x = np.abs(gaussian(3, 16)) + 0.1
    x[1, 3] = -1
    for _ in range(10):
        with pytest.raises(ComqError, match="tensor 'a', calibration sample 1: the float model computes NaN"):
            run(proto, {"x": x}, engine=cpu_engine(2))
