"""Dense layers, masks and half precision, against sums of activations from the onnx reference evaluator."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from stats.collecting import activation, agrees, gaussian, masked, mlp, model_of, run

from comq_onnx.errors import ComqError
from comq_onnx.graph.find import find_layers
from comq_onnx.graph.io import load
from comq_onnx.graph.prepare import prepare
from comq_onnx.recipe import Recipe
from comq_onnx.run.data import open_calibration
from comq_onnx.run.session import TensorSpec
from comq_onnx.stats.collect import collect
from comq_onnx.stats.taps import taps_of


def test_dense_layers():
    x = gaussian(6, 5, 16) + 2
    collected, layers = run(mlp(), {"x": x})
    first, second = (collected.stats[layer.name] for layer in layers)
    assert agrees(first, x.reshape(1, -1, 16))
    assert agrees(second, activation(mlp(), "a", x=x).reshape(1, -1, 32))
    assert (collected.passes, collected.samples, collected.rows, collected.notes) == (1, 6, 60, ())


def test_batches_of_any_size_give_the_same_statistics():
    x = gaussian(6, 5, 16)
    one, other = run(mlp(), {"x": x})[0], run(mlp(), {"x": x}, batch_size=4)[0]
    for name, stats in one.stats.items():
        assert np.allclose(stats.gram, other.stats[name].gram, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 4, 5, 10])
def test_the_first_half_of_the_samples_is_summed_apart_whatever_the_batch(batch_size):
    x = gaussian(10, 5, 16) + 2
    collected, layers = run(mlp(), {"x": x}, batch_size=batch_size)
    half = collected.stats[layers[0].name].half
    assert half.count == 25
    assert agrees(half, x[:5].reshape(1, -1, 16))


def test_progress_is_told():
    told = []
    run(mlp(), {"x": gaussian(3, 5, 16)}, on_batch=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_layers_that_read_the_same_share_one_gram():
    proto = model_of(
        """g (float[N, 16] x) => (float[N, 16] y)
        { h = Relu(x) q = MatMul(h, a) k = MatMul(h, b) y = Add(q, k) }""",
        a=gaussian(16, 16, seed=1),
        b=gaussian(16, 16, seed=2),
    )
    collected, layers = run(proto, {"x": gaussian(9, 16)})
    first, second = (collected.stats[layer.name] for layer in layers)
    assert first is second
    assert len(taps_of(layers)) == 1


def test_gemm_and_a_weight_on_the_left():
    x = gaussian(4, 16, 7)
    proto = model_of("g (float[N, 16, S] x) => (float[N, 8, S] y) { y = MatMul(w, x) }", w=gaussian(8, 16))
    collected, layers = run(proto, {"x": x})
    assert layers[0].layout.kind == "matmul_left"
    assert agrees(collected.stats[layers[0].name], x.swapaxes(1, 2).reshape(1, -1, 16))
    x = gaussian(9, 16)
    proto = model_of(
        "g (float[N, 16] x) => (float[N, 8] y) { y = Gemm<transB = 1>(x, w) }", w=gaussian(8, 16)
    )
    collected, layers = run(proto, {"x": x})
    assert agrees(collected.stats[layers[0].name], x[None])


BATCHED = {
    "a batch entry each": ((3, 5, 16), (3, 16, 8), lambda x: x),
    "a leading axis more": ((2, 3, 5, 16), (3, 16, 8), lambda x: x.swapaxes(0, 1).reshape(3, -1, 16)),
    "the same rows for each": ((5, 16), (3, 16, 8), lambda x: np.stack([x] * 3)),
    "a broadcast activation": ((1, 5, 16), (3, 16, 8), lambda x: np.concatenate([x] * 3)),
    "a weight entry of one": ((2, 5, 16), (1, 16, 8), lambda x: x.reshape(1, -1, 16)),
    "two axes, one of them one": (
        (4, 2, 5, 16),
        (1, 2, 16, 8),
        lambda x: x.swapaxes(0, 1).reshape(2, -1, 16),
    ),
    "two axes": ((3, 2, 5, 16), (3, 2, 16, 8), lambda x: x.reshape(6, -1, 16)),
}


@pytest.mark.parametrize("case", BATCHED)
def test_batched_weights(case):
    shape, weight, expected = BATCHED[case]
    x = gaussian(*shape)
    dims = ", ".join(map(str, shape))
    proto = model_of(f"g (float[{dims}] x) => (float[N] y) {{ y = MatMul(x, w) }}", w=gaussian(*weight))
    del proto.graph.output[0].type.tensor_type.shape.dim[:]
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    collected, layers = run(proto, {"x": x[None]})
    assert agrees(collected.stats[layers[0].name], expected(x))


def test_batched_weights_on_the_left():
    x = gaussian(3, 16, 5)
    proto = model_of("g (float[3, 16, 5] x) => (float[3, 8, 5] y) { y = MatMul(w, x) }", w=gaussian(3, 8, 16))
    collected, layers = run(proto, {"x": x[None]})
    assert agrees(collected.stats[layers[0].name], x.swapaxes(1, 2))


def test_padding_enters_neither_mean_nor_gram():
    x, mask = gaussian(4, 6, 16), (np.arange(6) < np.array([[6], [4], [2], [1]])).astype(np.int64)
    spoiled = np.where(mask[..., None] == 0, np.float32(1e3), x)
    proto = masked()
    for name in ("", "attention_mask"):
        collected, layers = run(proto, {"x": spoiled, "attention_mask": mask}, mask_input=name, batch_size=2)
        for layer in layers:
            assert agrees(collected.stats[layer.name], x[mask != 0][None])
        assert collected.notes == ("tokens where 'attention_mask' is 0 are left out",)


def test_a_mask_of_other_axes_or_name():
    proto = model_of(
        """g (float[N, 16] x, float[N] weight) => (float[N, 8] y, float[N] u)
        { y = MatMul(x, w) u = Abs(weight) }""",
        w=gaussian(16, 8),
    )
    data = {"x": gaussian(3, 16), "weight": gaussian(3)}
    with pytest.raises(
        ComqError, match="--mask-input: 'nope' is no input of the model; its inputs are 'x', 'weight'"
    ):
        run(proto, data, mask_input="nope")
    with pytest.raises(ComqError, match="--mask-input: 'weight' has the shape"):
        run(proto, data, mask_input="weight")


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_half_models_are_summed_in_float32(kind):
    proto = model_of(
        f"g ({kind}[N, 16] x) => ({kind}[N, 8] y) {{ h = MatMul(x, w) a = Relu(h) y = MatMul(a, v) }}",
    )
    elem = {"float16": onnx.TensorProto.FLOAT16, "bfloat16": onnx.TensorProto.BFLOAT16}[kind]
    for name, values in (("w", gaussian(16, 16, seed=1)), ("v", gaussian(16, 8, seed=2))):
        dtype = onnx.helper.tensor_dtype_to_np_dtype(elem)
        proto.graph.initializer.append(numpy_helper.from_array(values.astype(dtype), name))
    x = gaussian(9, 16)
    collected, layers = run(proto, {"x": x})
    weight = numpy_helper.to_array(proto.graph.initializer[0]).astype(np.float32)
    assert agrees(collected.stats[layers[0].name], x[None])
    assert agrees(collected.stats[layers[1].name], np.maximum(x @ weight, 0)[None])


@pytest.mark.parametrize("elem", [onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16])
@pytest.mark.parametrize("data", [None, {"x": gaussian(4, 16)}])
def test_half_data_for_a_half_model(elem, data):
    """Calibration opened on the model as declared: its batches are half, and widened where they are used."""
    proto = model_of(
        f"g ({'float16' if elem == 10 else 'bfloat16'}[N, 16] x) => (float[N, 8] y) {{ y = MatMul(x, w) }}"
    )
    dtype = onnx.helper.tensor_dtype_to_np_dtype(elem)
    proto.graph.output[0].type.tensor_type.elem_type = elem
    proto.graph.initializer.append(numpy_helper.from_array(gaussian(16, 8).astype(dtype), "w"))
    recipe = Recipe(calibration_samples=4)
    model = prepare(load(proto), 17)
    layers, _ = find_layers(model, recipe)
    calibration = open_calibration(data, [TensorSpec("x", dtype, (None, 16))], recipe)
    fed = np.concatenate([batch["x"] for batch in calibration.batches()])
    assert fed.dtype == dtype
    collected = collect(model, layers, calibration, recipe)
    assert agrees(collected.stats[layers[0].name], fed.astype(np.float32)[None])
