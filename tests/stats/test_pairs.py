"""Statistics of pairs from a stream, against rows taken from it by hand; on the CPU and on a device."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from backends.strict_arrays import Library, StrictArray
from stats.collecting import conv_net, gaussian, masked, mlp, model_of

from comq_onnx.backends.engine import Engine, cpu_engine
from comq_onnx.errors import ComqError, NotPairedError
from comq_onnx.graph.find import find_layers
from comq_onnx.graph.io import load
from comq_onnx.graph.prepare import prepare
from comq_onnx.recipe import Recipe
from comq_onnx.records import InputStats, Layer
from comq_onnx.run.stream import FLOAT, QUANTIZED
from comq_onnx.stats.pairs import collect_pairs
from comq_onnx.stats.taps import Sampling, rows_of, taps_of

ROOMY = 1 << 40


class Live:
    """In the place of a stream: tensors of two networks, in batches."""

    def __init__(self, floats: dict[str, list[np.ndarray]], quantized: dict[str, list[np.ndarray]]) -> None:
        self.tensors = {FLOAT: floats, QUANTIZED: quantized}
        self.entries = [len(value) for value in next(iter(floats.values()))]
        self.reads = self.first = 0

    def value(self, name: str, batch: int, network: str) -> np.ndarray:
        self.reads += 1
        return self.tensors[network][name][batch]

    def agrees(self, name: str) -> bool:
        return self.tensors[FLOAT][name] is self.tensors[QUANTIZED][name]


def layers_of(proto) -> list[Layer]:
    return find_layers(prepare(load(proto), 17), Recipe())[0]


def batches(value: np.ndarray, size: int) -> list[np.ndarray]:
    return [value[i : i + size] for i in range(0, len(value), size)]


def drifted(value: np.ndarray, seed: int = 9) -> np.ndarray:
    noise = gaussian(*value.shape, seed=seed)
    return (0.9 * value + 0.1 * noise + 0.2).astype(value.dtype)


def strict() -> Engine:
    xp = Library()
    xp.asarray = lambda values: np.asarray(values).view(StrictArray)
    return Engine(SimpleNamespace(xp=xp))


ENGINES = {"cpu": lambda: cpu_engine(1), "two threads": lambda: cpu_engine(2), "device": strict}


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    return ENGINES[request.param]()


def pairs(live: Live, layers: list[Layer], engine: Engine, masks: Any = (), limit: int = ROOMY) -> dict:
    sampling = Sampling(0, sum(live.entries))
    segment = SimpleNamespace(layers=layers, residuals={})
    return collect_pairs(live, segment, sampling, masks, (engine, limit))  # pyright: ignore


def agree(stats: InputStats | None, x: np.ndarray, floats: np.ndarray) -> bool:
    """Whether these are the moments of rows ``(groups, n, rows)`` in the two networks."""
    assert stats is not None
    assert stats.drift is not None
    assert type(stats.gram) is type(stats.drift.cross) is np.ndarray
    x, gap, count = x.astype(np.float64), floats.astype(np.float64) - x, x.shape[1]
    return (
        stats.count == count
        and np.allclose(stats.mean, x.mean(axis=1), atol=1e-5)
        and np.allclose(stats.gram, x.swapaxes(1, 2) @ x / count, rtol=1e-4, atol=1e-5)
        and np.allclose(stats.drift.mean, gap.mean(axis=1), atol=1e-5)
        and np.allclose(stats.drift.cross, gap.swapaxes(1, 2) @ x / count, rtol=1e-4, atol=1e-5)
    )


@pytest.mark.parametrize("size", [1, 2, 7])
def test_rows_of_a_matmul(engine: Engine, size: int) -> None:
    x = gaussian(7, 5, 16) + 2
    live = Live({"x": batches(x, size)}, {"x": batches(drifted(x), size)})
    [layer] = [layer for layer in layers_of(mlp()) if layer.input == "x"]
    stats = pairs(live, [layer], engine)[layer.name]
    assert agree(stats, drifted(x).reshape(1, -1, 16), x.reshape(1, -1, 16))
    first = slice(0, 4)
    assert agree(stats.half, drifted(x)[first].reshape(1, -1, 16), x[first].reshape(1, -1, 16))
    gap = x.astype(np.float64) - drifted(x)
    assert stats.drift.energy == pytest.approx((gap**2).sum() / (x.astype(np.float64) ** 2).sum(), rel=0.01)


@pytest.mark.parametrize("size", [1, 3])
def test_patches_are_taken_at_the_same_positions(engine: Engine, size: int) -> None:
    """Of more positions than are looked at; groups and strides too."""
    layers = layers_of(conv_net())
    shapes = {"x": (5, 4, 40, 40)} | {layer.input: (5, 8, 20, 20) for layer in layers[1:]}
    values = {name: gaussian(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    live = Live(
        {name: batches(value, size) for name, value in values.items()},
        {name: batches(drifted(value), size) for name, value in values.items()},
    )
    found = pairs(live, layers, engine)
    sampling = Sampling(0, 5)
    for tap in taps_of(layers):
        value = values[tap.tensor]
        rows = [np.concatenate(list(rows_of(tap, v, sampling, 0)), axis=1) for v in (drifted(value), value)]
        assert agree(found[tap.layers[0]], *rows)


def test_a_tensor_that_both_networks_share_has_no_drift(engine: Engine) -> None:
    x = batches(gaussian(6, 5, 16), 2)
    live = Live({"x": x}, {"x": x})
    [layer] = [layer for layer in layers_of(mlp()) if layer.input == "x"]
    stats = pairs(live, [layer], engine)[layer.name]
    assert stats.drift is None
    assert stats.half.drift is None


def test_padding_is_left_out_of_both(engine: Engine) -> None:
    x, mask = gaussian(4, 6, 16), np.tri(4, 6, 2, np.int64) != 0
    padded = np.where(mask[..., None], x, np.float32(1e3))
    other = np.where(mask[..., None], drifted(x), np.float32(np.nan))
    live = Live({"x": batches(padded, 2)}, {"x": batches(other, 2)})
    [layer] = [layer for layer in layers_of(masked()) if layer.input == "x"]
    stats = pairs(live, [layer], engine, batches(mask, 2))[layer.name]
    assert agree(stats, drifted(x)[mask][None], x[mask][None])


def test_layers_on_one_tensor_share_a_record(engine: Engine) -> None:
    proto = model_of(
        "g (float[N, 16] x) => (float[N, 8] y, float[N, 8] z) { y = MatMul(x, w) z = MatMul(x, v) }",
        w=gaussian(16, 8),
        v=gaussian(16, 8, seed=1),
    )
    x = gaussian(6, 16)
    live = Live({"x": batches(x, 1)}, {"x": batches(drifted(x), 1)})
    one, two = pairs(live, layers_of(proto), engine).values()
    assert one is two


def test_sums_that_do_not_fit_are_made_in_turns(engine: Engine) -> None:
    layers = layers_of(conv_net())
    values = {layer.input: gaussian(3, 4 if layer.input == "x" else 8, 9, 9) for layer in layers}
    live = Live(
        {name: batches(value, 1) for name, value in values.items()},
        {name: batches(drifted(value), 1) for name, value in values.items()},
    )
    roomy, tight = pairs(live, layers, engine), pairs(live, layers, engine, limit=1)
    for name, stats in roomy.items():
        assert stats.gram.tobytes() == tight[name].gram.tobytes()
        assert stats.drift.cross.tobytes() == tight[name].drift.cross.tobytes()


def test_bits_do_not_depend_on_threads() -> None:
    x = gaussian(9, 50, 16)
    live = Live({"x": batches(x, 2)}, {"x": batches(drifted(x), 2)})
    [layer] = [layer for layer in layers_of(mlp()) if layer.input == "x"]
    one, two = (pairs(live, [layer], cpu_engine(n))[layer.name] for n in (1, 2))
    assert one.gram.tobytes() == two.gram.tobytes()
    assert one.drift.cross.tobytes() == two.drift.cross.tobytes()


def test_only_what_a_half_needs_is_read() -> None:
    x = gaussian(8, 5, 16)
    live = Live({"x": batches(x, 1)}, {"x": batches(drifted(x), 1)})
    [layer] = [layer for layer in layers_of(mlp()) if layer.input == "x"]
    pairs(live, [layer], cpu_engine(1))
    assert live.reads == 2 * 8


@pytest.mark.parametrize("network", [FLOAT, QUANTIZED])
def test_values_that_are_not_finite(engine: Engine, network: str) -> None:
    x = gaussian(6, 5, 16)
    live = Live({"x": batches(x, 2)}, {"x": batches(drifted(x), 2)})
    live.tensors[network]["x"][2] = live.tensors[network]["x"][2].copy()
    live.tensors[network]["x"][2][1, 0, 0] = np.inf
    [layer] = [layer for layer in layers_of(mlp()) if layer.input == "x"]
    with pytest.raises(
        ComqError, match="the float or the quantized network computes NaN or infinity"
    ) as error:
        pairs(live, [layer], engine)
    assert "tensor 'x'" in str(error.value)


def test_shapes_that_differ(engine: Engine) -> None:
    x = gaussian(6, 5, 16)
    live = Live({"x": batches(x, 2)}, {"x": batches(x[:, :4], 2)})
    [layer] = [layer for layer in layers_of(mlp()) if layer.input == "x"]
    with pytest.raises(NotPairedError, match=r"'x' is \[2, 4, 16\] in the quantized network and \[2, 5"):
        pairs(live, [layer], engine)


def test_no_rows(engine: Engine) -> None:
    x = np.zeros((4, 0, 16), np.float32)
    live = Live({"x": batches(x, 1)}, {"x": batches(x.copy(), 1)})
    [layer] = [layer for layer in layers_of(mlp()) if layer.input == "x"]
    assert pairs(live, [layer], engine)[layer.name] is None


def test_one_sample_has_no_half(engine: Engine) -> None:
    x = gaussian(1, 5, 16)
    live = Live({"x": [x]}, {"x": [drifted(x)]})
    [layer] = [layer for layer in layers_of(mlp()) if layer.input == "x"]
    stats = pairs(live, [layer], engine)[layer.name]
    assert stats.half is None
    assert agree(stats, drifted(x).reshape(1, -1, 16), x.reshape(1, -1, 16))
