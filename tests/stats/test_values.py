"""Histograms and rows of a model's tensors, against all of the tensors at once."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from stats.collecting import activation, conv_net, gaussian, masked, mlp, model_of

from comq_onnx.errors import ComqError
from comq_onnx.graph.find import find_layers
from comq_onnx.graph.io import load, to_proto
from comq_onnx.graph.prepare import prepare
from comq_onnx.recipe import Recipe
from comq_onnx.run.data import Calibration, open_calibration
from comq_onnx.run.session import open_session
from comq_onnx.run.widen import widen
from comq_onnx.stats import values as values_module
from comq_onnx.stats.histogram import Histogram
from comq_onnx.stats.values import watch, watch_rows


def opened(proto: onnx.ModelProto, data, recipe: Recipe) -> Calibration:
    return open_calibration(data, open_session(widen(proto)).inputs, recipe)


def seen(proto: onnx.ModelProto, tensors: list[str], data, on_batch=None, **options) -> dict[str, Histogram]:
    recipe = Recipe(**options)
    return watch(proto, tensors, opened(proto, data, recipe), recipe, on_batch)


def rows_seen(proto: onnx.ModelProto, data, **options) -> dict[str, np.ndarray]:
    recipe = Recipe(**options)
    model = prepare(load(proto), 17)
    layers, _ = find_layers(model, recipe)
    return watch_rows(to_proto(model), layers, opened(proto, data, recipe), recipe)


def state(histogram: Histogram) -> tuple:
    ends = (histogram.low, histogram.high, histogram.exponent, histogram.first)
    return histogram.count, histogram.zeros, *ends, histogram.counts.tolist()


def of(values: np.ndarray) -> Histogram:
    made = Histogram()
    made.add(values)
    return made


def near(found: Histogram, values: np.ndarray) -> bool:
    """The same but for what a runtime's rounding may move from bin to bin."""
    assert found.count == values.size
    assert found.zeros == (values == 0).sum()
    return np.allclose([found.low, found.high], [values.min(), values.max()], rtol=1e-5)


def test_tensors_and_inputs_are_watched_and_the_model_is_as_before():
    proto, x = mlp(), gaussian(10, 3, 16)
    before = proto.SerializeToString()
    found = seen(proto, ["a", "x", "h"], {"x": x})
    assert proto.SerializeToString() == before
    assert state(found["x"]) == state(of(x))
    for name in ("a", "h"):
        assert near(found[name], activation(proto, name, x=x))


@pytest.mark.parametrize("size", [3, 10])
def test_batches_and_threads_change_nothing(size):
    proto, x = mlp(), gaussian(10, 3, 16)
    one = seen(proto, ["a", "x"], {"x": x}, threads=1)
    many = seen(proto, ["a", "x"], {"x": x}, threads=2, batch_size=size)
    assert state(one["x"]) == state(many["x"])
    assert near(many["a"], activation(proto, "a", x=x))


def test_padding_is_left_out_where_the_shape_tells():
    proto, x = masked(), gaussian(4, 6, 16)
    mask = np.ones((4, 6), np.int64)
    mask[1, 4:], mask[3, 1:] = 0, 0
    x[mask == 0] = 1000
    feeds = {"x": x, "attention_mask": mask}
    found = seen(proto, ["x", "flat", "y"], feeds)
    for name in ("x", "flat"):
        assert state(found[name]) == state(of(x[mask != 0]))
    assert near(found["y"], activation(proto, "y", **feeds)[mask != 0])
    assert all(np.abs(rows).max() < 1000 for rows in rows_seen(proto, feeds).values())


def test_half_precision_is_run_in_float32():
    proto = model_of("g (float16[N, 8] x) => (float16[N, 4] y) { y = MatMul(x, w) }")
    weight = gaussian(8, 4, seed=1).astype(np.float16)
    proto.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    x = gaussian(5, 8).astype(np.float16)
    found = seen(proto, ["x", "y"], {"x": x})
    assert state(found["x"]) == state(of(x))
    assert near(found["y"], x.astype(np.float32) @ weight.astype(np.float32))


def test_what_does_not_fit_in_memory_is_run_in_groups(monkeypatch):
    proto, x, calls = mlp(), gaussian(4, 2, 16), []
    whole = seen(proto, ["h", "a", "x", "y"], {"x": x})
    monkeypatch.setattr(values_module, "memory_limit", lambda gib: 1)
    parts = seen(proto, ["h", "a", "x", "y"], {"x": x}, lambda done, total: calls.append((done, total)))
    assert len(calls) > 4
    assert calls[-1] == (calls[-1][1], len(calls))
    assert {name: state(found) for name, found in parts.items()} == {
        name: state(found) for name, found in whole.items()
    }


def test_what_is_not_finite_is_named():
    proto = model_of("g (float[N, 4] x) => (float[N, 4] y) { h = Log(x) y = Relu(h) }")
    x = np.ones((5, 4), np.float32)
    x[2, 1] = -1
    with pytest.raises(ComqError, match="tensor 'h', calibration sample 2: the model computes NaN"):
        seen(proto, ["h"], {"x": x})
    with pytest.raises(ComqError, match="samples 0 to 4"):
        seen(proto, ["h"], {"x": x}, batch_size=5)


def test_all_rows_are_kept_where_there_are_few():
    proto, x = mlp(), gaussian(10, 3, 16)
    found = list(rows_seen(proto, {"x": x}).values())
    assert np.array_equal(found[0], x.reshape(1, 30, 16))
    assert np.allclose(found[1][0], activation(proto, "a", x=x).reshape(30, 32), atol=1e-5)


def test_many_rows_are_sampled_in_the_same_way_on_every_run(monkeypatch):
    monkeypatch.setattr(values_module, "ROWS", 20)
    proto, x = mlp(), gaussian(10, 30, 16)
    first, again = (list(rows_seen(proto, {"x": x}).values()) for _ in range(2))
    other = list(rows_seen(proto, {"x": x}, seed=1).values())
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])
    assert first[0].shape == (1, 20, 16)
    # Two of each sample, and each of them one of its rows.
    for number in range(10):
        rows = first[0][0, 2 * number : 2 * number + 2]
        assert all((x[number] == row).all(axis=1).any() for row in rows)


def test_rows_of_convolutions_meet_their_weights():
    proto, x = conv_net(), gaussian(3, 4, 9, 9)
    found = rows_seen(proto, {"x": x})
    assert sorted(rows.shape for rows in found.values()) == [(1, 75, 8), (1, 75, 36), (8, 75, 9)]
    weight = numpy_helper.to_array(proto.graph.initializer[0]).reshape(8, 36)
    rows = next(rows for rows in found.values() if rows.shape[2] == 36)
    want = activation(proto, "a", x=x).transpose(0, 2, 3, 1).reshape(75, 8)
    assert np.allclose(rows[0] @ weight.T, want, atol=1e-4)
