"""Running the collection on small graphs, and the sums it must come to."""

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from comq_onnx.backends.engine import Engine
from comq_onnx.graph.find import find_layers
from comq_onnx.graph.io import load, to_proto
from comq_onnx.graph.prepare import prepare
from comq_onnx.recipe import Recipe
from comq_onnx.run.data import open_calibration
from comq_onnx.run.session import open_session
from comq_onnx.run.widen import widen
from comq_onnx.stats.collect import Collected, collect

HEADER = '<ir_version: 8, opset_import: ["": 17]>\n'


def model_of(body: str, **weights: np.ndarray) -> onnx.ModelProto:
    model = onnx.parser.parse_model(HEADER + body)
    model.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in weights.items())
    return model


def gaussian(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def run(
    proto: onnx.ModelProto,
    data,
    on_batch=None,
    engine: Engine | None = None,
    device: str = "cpu",
    thin: int = 1,
    **options,
) -> tuple[Collected, list]:
    recipe = Recipe(**options)
    model = prepare(load(proto), 17)
    layers, _ = find_layers(model, recipe)
    calibration = open_calibration(data, open_session(widen(to_proto(model))).inputs, recipe)
    return collect(model, layers, calibration, recipe, on_batch, engine, device, thin), layers


def activation(proto: onnx.ModelProto, name: str, **feeds: np.ndarray) -> np.ndarray:
    probe = onnx.ModelProto()
    probe.CopyFrom(proto)
    probe.graph.output.extend([onnx.ValueInfoProto(name=name)])
    return ReferenceEvaluator(probe).run([name], feeds)[0]


def agrees(stats, rows: np.ndarray) -> bool:
    """Whether these are mean and Gram of ``(groups, n, rows)``."""
    wide = rows.astype(np.float64)
    assert stats.count == rows.shape[1]
    return np.allclose(stats.mean, wide.mean(axis=1), atol=1e-5) and np.allclose(
        stats.gram, wide.swapaxes(1, 2) @ wide / rows.shape[1], rtol=1e-4, atol=1e-5
    )


MLP = "g (float[N, S, 16] x) => (float[N, S, 8] y) { h = MatMul(x, w) a = Relu(h) y = MatMul(a, v) }"


def mlp() -> onnx.ModelProto:
    return model_of(MLP, w=gaussian(16, 32, seed=1), v=gaussian(32, 8, seed=2))


MASKED = """g (float[N, S, 16] x, int64[N, S] attention_mask) => (float[N, S, 8] y, float[M, 8] z)
{
  y = MatMul(x, w)
  shape = Constant<value = int64[2] {-1, 16}>()
  flat = Reshape(x, shape)
  z = MatMul(flat, v)
}"""


def masked() -> onnx.ModelProto:
    return model_of(MASKED, w=gaussian(16, 8, seed=1), v=gaussian(16, 8, seed=2))


def conv_net() -> onnx.ModelProto:
    return model_of(
        """g (float[N, 4, H, W] x) => (float[N, 8, A, B] y)
        {
          a = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(x, full)
          r = Relu(a)
          d = Conv<pads = [1, 1, 1, 1], group = 8>(r, depth)
          y = Conv(d, point)
        }""",
        full=gaussian(8, 4, 3, 3, seed=1),
        depth=gaussian(8, 1, 3, 3, seed=2),
        point=gaussian(8, 8, 1, 1, seed=3),
    )
