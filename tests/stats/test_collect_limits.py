"""What has no statistics, what does not fit, and what is wrong."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from stats.collecting import HEADER, gaussian, mlp, model_of, run

from comq_onnx.errors import ComqError
from comq_onnx.graph.io import load
from comq_onnx.recipe import Recipe
from comq_onnx.run.data import open_calibration
from comq_onnx.run.session import open_session
from comq_onnx.stats import collect as collecting
from comq_onnx.stats.collect import collect

BRANCHES = """g (float[N, 16] x, bool flag) => (float[N, 8] y)
{
  h = Relu(x)
  y = If (flag) <
    then_branch = t () => (float[N, 8] p) { p = MatMul(h, w) },
    else_branch = e () => (float[N, 8] q) { q = MatMul(h, v) }
  >
}"""


def test_layers_in_subgraphs_are_not_tapped():
    proto = model_of(BRANCHES, w=gaussian(16, 8, seed=1), v=gaussian(16, 8, seed=2))
    collected, layers = run(proto, {"x": gaussian(5, 16), "flag": np.array(True)})
    assert len(layers) == 2
    assert list(collected.stats.values()) == [None, None]
    assert collected.passes == 0
    assert collected.notes == (
        "2 layers inside If, Loop or Scan bodies see no activations and are solved without",
    )


def test_empty_activations_are_fine_and_a_layer_without_rows_is_said():
    proto = model_of(
        """g (float[N, 16] x) => (float[M, 8] y, float[N, 8] z)
        {
          none = Constant<value = int64[1] {0}>()
          axis = Constant<value = int64[1] {0}>()
          cut = Slice(x, none, none, axis)
          y = MatMul(cut, w)
          z = MatMul(x, v)
        }""",
        w=gaussian(16, 8, seed=1),
        v=gaussian(16, 8, seed=2),
    )
    collected, layers = run(proto, {"x": gaussian(5, 16)})
    by_weight = {layer.weight: layer.name for layer in layers}
    assert collected.stats[by_weight["w"]] is None
    assert collected.stats[by_weight["v"]].count == 5
    assert collected.notes == (f"{by_weight['w']}: no activation reached it, it is solved without",)


def test_no_layers_no_pass():
    proto = onnx.parser.parse_model(HEADER + "g (float[N] x) => (float[N] y) { y = Relu(x) }")
    model = load(proto)
    calibration = open_calibration({"x": gaussian(3)}, open_session(proto).inputs, Recipe())
    collected = collect(model, [], calibration, Recipe())
    assert (collected.stats, collected.passes, collected.rows) == ({}, 0, 0)


def test_what_does_not_fit_in_memory_is_done_in_turns():
    proto = mlp()
    x = gaussian(6, 5, 16)
    whole = run(proto, {"x": x})[0]
    told = []
    collected, layers = run(
        proto, {"x": x}, on_batch=lambda done, total: told.append((done, total)), memory_gib=4096 / (1 << 30)
    )
    assert collected.passes == 2
    assert told[-1] == (12, 12)
    assert "2 passes over the data instead of one" in collected.notes[-1]
    for layer in layers:
        stats = collected.stats[layer.name]
        assert isinstance(stats.gram, np.memmap)
        assert np.array_equal(stats.gram, whole.stats[layer.name].gram)
    folder = collected.scratch.path
    assert folder.exists()
    kept = collected.stats[layers[0].name]
    del collected
    assert not folder.exists()
    assert np.isfinite(kept.gram).all()


def test_a_full_disk_is_said(monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(collecting.np, "save", full)
    with pytest.raises(ComqError, match=r"cannot be written to disk \(No space left on device\)"):
        run(mlp(), {"x": gaussian(2, 5, 16)}, memory_gib=4096 / (1 << 30))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_an_activation_that_is_not_finite_names_tensor_and_sample(batch_size):
    proto = model_of(
        "g (float[N, 4, 16] x) => (float[N, 4, 8] y) { h = Log(x) y = MatMul(h, w) }", w=gaussian(16, 8)
    )
    x = np.abs(gaussian(5, 4, 16)) + 0.1
    x[4, 2, 3] = -1
    with pytest.raises(
        ComqError, match="tensor 'h', calibration sample 4: the float model computes NaN or infinity"
    ):
        run(proto, {"x": x}, batch_size=batch_size)


def test_data_the_model_cannot_run_on():
    proto = model_of(
        "g (float[N, S] x) => (float[N, 8] y) { h = Add(x, b) y = MatMul(h, w) }", w=gaussian(16, 8)
    )
    proto.graph.initializer.append(numpy_helper.from_array(gaussian(16), "b"))
    with pytest.raises(ComqError, match=r"does not run on 'x' float32\[1, 15\]"):
        run(proto, {"x": gaussian(3, 15)})


MISFITS = {
    "dense": ("float[N, S] x", "MatMul(h, w)", (16, 8), (3, 8)),
    "left": ("float[N, S] x", "MatMul(w, h)", (8, 16), (1, 8, 4)),
    "batched": ("float[A, B, C] x", "MatMul(h, w)", (3, 16, 8), (1, 2, 5, 16)),
    "convolution": ("float[N, C, H, W] x", "Conv(h, w)", (8, 16, 1, 1), (3, 8, 4, 4)),
}


@pytest.mark.parametrize("case", MISFITS)
def test_an_activation_that_does_not_meet_the_weight(case):
    """The layer is cut off behind its input, so that the runtime does not see it."""
    declared, op, weight, shape = MISFITS[case]
    output = (
        "float[N, 8, A, B]"
        if case == "convolution"
        else "float[A, B, C]"
        if case == "batched"
        else "float[A, B]"
    )
    proto = model_of(f"g ({declared}) => ({output} y) {{ h = Relu(x) y = {op} }}", w=gaussian(*weight))
    with pytest.raises(ComqError, match=r"tensor 'h': its shape \[.*\] does not meet the weight of"):
        run(proto, {"x": gaussian(*shape)})
