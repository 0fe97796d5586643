"""What is timed and what is taken from elsewhere, by a timer that looks at the models it is given."""

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from graphs import model, weight

from comq_onnx import Recipe
from comq_onnx.errors import ComqError
from comq_onnx.grid import Grid
from comq_onnx.latency import latency_refusal, measure_latency
from comq_onnx.planning import Opened, open_run

INT8, INT4, INT3 = Grid(8), Grid(4, True, "block", 128), Grid(3, True, "block", 128)
GRIDS = (INT8, INT4, INT3)

NET = """g (float[B,3,8,8] image, int64[B,T] ids, bool yes)
    => (float[B,256] y, float[B,T,16] e, float[B,512] t) {
  c = Conv<pads=[1,1,1,1]>(image, w_conv)
  f = Flatten(c)
  a0 = MatMul(f, w_a)
  a1 = Add(a0, b_a)
  a = Relu(a1)
  b0 = MatMul(a, w_b)
  b = Add(b0, b_b)
  d = MatMul(b, w_d)
  y = MatMul(d, w_y)
  e = Gather(table, ids)
  t = If(yes) <then_branch = g1 () => (float[B,512] u) { u = MatMul(f, w_t) },
               else_branch = g2 () => (float[B,512] v) { v = Identity(f) }>
}"""
WHOLE = 1000.0
FLOAT_SECONDS, STEP = 8.0, 0.5


@dataclass
class FakeTimer:
    """1000 s for the whole model, the second time 1100 s; half a second less a copy for each next row.

    Rows of float copies take 8 s a copy.
    """

    calls: list[Sequence[onnx.ModelProto]] = field(default_factory=list)
    fed: list[dict[str, np.ndarray]] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)
    wholes: int = 0

    def __call__(self, models: Sequence[onnx.ModelProto], feeds: Any, threads: int) -> list[float]:
        self.threads.add(threads)
        if len(models) == 1:
            self.wholes += 1
            return [WHOLE + (100.0 if self.wholes == 2 else 0.0)]
        self.calls.append(models)
        self.fed.append(feeds)
        return [copies(proto) * (FLOAT_SECONDS - STEP * i) for i, proto in enumerate(models)]


def copies(proto: onnx.ModelProto) -> int:
    return len(proto.graph.output)


def opened_with(recipe: Recipe) -> Opened:
    net = model(
        NET,
        w_conv=weight(27, 8).T.reshape(8, 3, 3, 3).copy(),
        w_a=weight(512, 512, seed=1),
        b_a=weight(512, 1, seed=2)[:, 0],
        w_b=weight(512, 512, seed=3),
        b_b=weight(512, 1, seed=4)[:, 0],
        w_d=weight(512, 512, seed=5),
        w_y=weight(512, 256, seed=6),
        table=weight(40, 16, seed=7),
        w_t=weight(512, 512, seed=8),
    )
    for number, node in enumerate(net.graph.node):
        node.name = node.output[0] or f"node{number}"
    rng = np.random.default_rng(0)
    data = [
        {
            "image": rng.standard_normal((1, 3, 8, 8), np.float32),
            "ids": rng.integers(0, 40, (1, 5)),
            "yes": np.array(True),
        }
        for _ in range(3)
    ]
    return open_run(net, data, recipe)


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return Recipe(target="ort", solver="rtn", quantize_embeddings=True, threads=3)


@pytest.fixture(scope="module")
def opened(recipe: Recipe) -> Opened:
    return opened_with(recipe)


def named(opened: Opened) -> dict[str, str]:
    """Names of the layers by their weights."""
    return {layer.weight: layer.name for layer in opened.plan.layers}


def every(opened: Opened, grids: Sequence[Grid] = GRIDS) -> dict[str, Sequence[Grid]]:
    return {layer.name: grids for layer in opened.plan.layers}


def ops_run(proto: onnx.ModelProto) -> Counter[str]:
    """What onnxruntime makes of a model once it has fused what it can."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "m.onnx")
        onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


def test_layers_of_equal_shape_share_one_measurement(opened: Opened, recipe: Recipe) -> None:
    timer, name = FakeTimer(), named(opened)
    found = measure_latency(opened, every(opened), recipe, timer=timer)
    # A product with an Add (two such layers), one without, and the narrow one.
    assert len(timer.calls) == 3
    assert timer.threads == {3}
    assert found.layers[name["w_a"]] == found.layers[name["w_b"]]


def test_grids_that_are_written_the_same_are_timed_once(opened: Opened, recipe: Recipe) -> None:
    timer, name = FakeTimer(), named(opened)
    found = measure_latency(opened, every(opened), recipe, timer=timer)
    # 3-bit codes lie in planes, which are floats once they are loaded.
    assert [len(models) for models in timer.calls] == [3, 3, 3]
    assert found.layers[name["w_d"]] == {
        "float": 8.0,
        "float16": 8.0,
        "int8 channel": 7.5,
        "int4 b128": 7.0,
        "int3 b128": 8.0,
    }


def test_what_is_floats_at_run_time_is_not_timed(opened: Opened, recipe: Recipe) -> None:
    name = named(opened)
    found = measure_latency(opened, every(opened), recipe, timer=FakeTimer())
    inside = next(layer.name for layer in opened.plan.layers if layer.in_subgraph)
    for untimed in (name["w_conv"], name["table"], inside):
        assert set(found.layers[untimed].values()) == {0.0}


def test_a_grid_that_is_folded_takes_the_float_time(opened: Opened, recipe: Recipe) -> None:
    timer, name = FakeTimer(), named(opened)
    # Small blocks of few rows do not pay: they are written as Cast and Mul.
    small = Grid(4, True, "block", 16)
    found = measure_latency(opened, {name["w_d"]: (small, INT4)}, recipe, timer=timer)
    assert found.layers[name["w_d"]] == {"float": 8.0, "float16": 8.0, "int4 b16": 8.0, "int4 b128": 7.5}
    assert len(timer.calls[0]) == 2


def test_only_candidates_are_in_the_layers_and_the_rest_is_what_is_left(
    opened: Opened, recipe: Recipe
) -> None:
    name = named(opened)
    found = measure_latency(opened, {name["w_d"]: (INT8,), name["w_y"]: (INT4,)}, recipe, timer=FakeTimer())
    assert set(found.layers) == {name["w_d"], name["w_y"]}
    assert (found.whole, found.rest) == (WHOLE, WHOLE - 2 * FLOAT_SECONDS)
    assert found.seconds({name["w_d"]: "int8 channel"}) == WHOLE - STEP


def test_where_nothing_can_be_timed_all_is_rest(opened: Opened, recipe: Recipe) -> None:
    timer = FakeTimer()
    found = measure_latency(opened, {named(opened)["table"]: (INT8,)}, recipe, timer=timer)
    assert not timer.calls
    assert found.rest == found.whole == found.seconds({}) == WHOLE


def test_packed_2_bit_codes_are_timed_in_the_form_of_their_own() -> None:
    recipe, timer = Recipe(target="ort", weights="int2", solver="rtn"), FakeTimer()
    opened = opened_with(recipe)
    grids = (INT4, Grid(2, True, "block", 128))
    measure_latency(opened, {named(opened)["w_d"]: grids}, recipe, timer=timer)
    kinds = [{t.data_type for t in proto.graph.initializer} for proto in timer.calls[0]]
    assert onnx.TensorProto.INT4 in kinds[1]
    assert onnx.TensorProto.INT2 in kinds[2]
    assert ops_run(timer.calls[0][2])["MatMulNBits"] == copies(timer.calls[0][2])


def test_the_rest_is_never_negative(opened: Opened, recipe: Recipe) -> None:
    found = measure_latency(
        opened, every(opened), recipe, timer=lambda models, feeds, threads: [1.0 * copies(m) for m in models]
    )
    assert found.whole == 3.0
    assert found.rest == 0.0


def test_onnxruntime_fuses_every_copy_and_each_holds_weights_of_its_own(
    opened: Opened, recipe: Recipe
) -> None:
    timer = FakeTimer()
    measure_latency(opened, every(opened), recipe, timer=timer)
    for models in timer.calls:
        before, *after = models
        assert ops_run(before)["MatMul"] + ops_run(before)["Gemm"] == copies(before)
        for proto in after:
            assert ops_run(proto)["MatMulNBits"] == copies(proto) == copies(before)
        for proto in models:
            large = [t.raw_data for t in proto.graph.initializer if len(t.raw_data) >= 1 << 15]
            assert len(set(large)) == len(large) == copies(proto)


def test_a_row_computes_what_the_layer_does_on_inputs_of_the_models_shape(
    opened: Opened, recipe: Recipe
) -> None:
    timer, name = FakeTimer(), named(opened)
    measure_latency(opened, {name["w_a"]: (INT4,)}, recipe, timer=timer)
    (proto, _), feeds = timer.calls[0], timer.fed[0]
    (x,) = feeds.values()
    assert x.shape == (1, 512)
    assert 0.5 < x.std() < 2.0
    assert proto.opset_import == opened.plan.prepared.opset_import
    held = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, feeds)
    for number, value in enumerate(found):
        expected = x @ held[f"comq/{number}/w_a"] + held[f"comq/{number}/b_a"]
        np.testing.assert_allclose(value, expected[:, 0], rtol=1e-4, atol=1e-5)


def test_axes_that_the_model_leaves_open_stay_open(opened: Opened, recipe: Recipe) -> None:
    timer, name = FakeTimer(), named(opened)
    measure_latency(opened, {name["w_d"]: (INT4,)}, recipe, timer=timer)
    batch, width = timer.calls[0][0].graph.input[0].type.tensor_type.shape.dim
    assert not batch.HasField("dim_value")
    assert width.dim_value == 512


def test_progress_is_told_of_each_distinct_layer(opened: Opened, recipe: Recipe) -> None:
    told: list[tuple[str, int, int]] = []
    measure_latency(opened, every(opened), recipe, lambda *step: told.append(step), FakeTimer())
    assert told[0][0] == "time"
    assert [done for _, done, _ in told] == list(range(told[0][2] + 1))


def test_in_onnxruntime_all_numbers_are_positive(opened: Opened, recipe: Recipe) -> None:
    name = named(opened)
    found = measure_latency(opened, {name["w_y"]: (INT8, INT4)}, replace(recipe, threads=1))
    assert all(seconds > 0 for seconds in found.layers[name["w_y"]].values())
    assert found.seconds({}) == pytest.approx(max(found.whole, found.layers[name["w_y"]]["float"]))


@pytest.mark.parametrize("target", ["openvino", "web", "tensorrt", "fakequant"])
def test_targets_that_are_not_timed_are_refused(target: Any) -> None:
    assert latency_refusal(Recipe(target=target)).startswith(f"no latency model for target {target}: ")


@pytest.mark.parametrize("changes", [{"activations": "int8"}, {"activations": "dynamic"}])
def test_8_bit_activations_are_refused(changes: dict[str, Any], opened: Opened, recipe: Recipe) -> None:
    asked = replace(recipe, **changes)
    with pytest.raises(
        ComqError, match=r"^--target-latency: no latency model for .*; use --target-size or --avg-bits\.$"
    ):
        measure_latency(opened, every(opened), asked, timer=FakeTimer())


def test_layers_that_compute_in_8_bits_are_refused_whatever_the_recipe_says(recipe: Recipe) -> None:
    opened = opened_with(replace(recipe, activations="int8"))
    assert opened.plan.placement.layers
    with pytest.raises(ComqError, match="layers that compute in 8 bits"):
        measure_latency(opened, every(opened), recipe, timer=FakeTimer())


@pytest.mark.parametrize("target", ["ort", "portable"])
def test_onnxruntimes_files_are_timed(target: Any) -> None:
    assert latency_refusal(Recipe(target=target)) == ""
    assert "fp16" in latency_refusal(Recipe(target=target, high_precision_dtype="fp16"))
