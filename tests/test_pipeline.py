"""The program as a library: what a run promises whatever the model."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graphs import model, weight

from comq_onnx import Recipe, pipeline, quantize, reporting
from comq_onnx.errors import ComqError
from comq_onnx.evaluate.agreement import Check
from comq_onnx.evaluate.verify import Verification
from comq_onnx.parallel import solve_all, survey
from comq_onnx.planning import open_run

NET = """g (float[B,3,12,12] image, float[B,40] extra) => (float[B,10] logits) {
  c = Conv<strides=[2,2],pads=[1,1,1,1]>(image, w_conv, b_conv)
  r = Relu(c)
  d = Conv<pads=[1,1,1,1],group=16>(r, w_dw)
  f = Flatten(d)
  j = Concat<axis=1>(f, extra)
  logits = MatMul(j, w_fc)
}"""


@pytest.fixture(scope="module")
def net() -> onnx.ModelProto:
    weights = {
        "w_conv": weight(27, 16).T.reshape(16, 3, 3, 3).copy(),
        "b_conv": weight(16, seed=1),
        "w_dw": weight(9, 16, seed=2).T.reshape(16, 1, 3, 3).copy(),
        "w_fc": weight(616, 10, seed=3),
    }
    made = model(NET, **weights)
    for number, node in enumerate(made.graph.node):
        node.name = f"node_{number}"
    made.metadata_props.add(key="task", value="toy")
    made.producer_name, made.doc_string = "tests", "a toy"
    return made


@pytest.fixture(scope="module")
def data() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    image = np.cumsum(rng.standard_normal((320, 3, 12, 12)), axis=-1).astype(np.float32)
    return {"image": image, "extra": rng.standard_normal((320, 40)).astype(np.float32)}


def outputs(graph: onnx.ModelProto | Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    options = ort.SessionOptions()
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    source = graph.SerializeToString() if isinstance(graph, onnx.ModelProto) else str(graph)
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"]).run(None, feeds)[0]


def distance(wanted: np.ndarray, got: np.ndarray) -> float:
    return float(np.linalg.norm(wanted - got) / np.linalg.norm(wanted))


def test_comq_beats_every_baseline(net: onnx.ModelProto, data: dict[str, np.ndarray]) -> None:
    opened = open_run(net, {k: v[:256] for k, v in data.items()}, Recipe())
    seen = survey(opened, Recipe())
    held_out = {k: v[256:] for k, v in data.items()}
    wanted = outputs(net, held_out)

    def error_of(recipe: Recipe) -> float:
        written = pipeline.write(opened, solve_all(seen, recipe), recipe)
        return distance(wanted, outputs(written.model, held_out))

    error = {
        solver: error_of(Recipe(weights="int3", solver=solver, block_size="channel"))
        for solver in ("rtn", "gptq", "comq-paper", "comq")
    }
    assert error["comq"] == min(error.values())
    assert error["comq"] < 0.6 * error["rtn"]


def test_eight_bits_lose_next_to_nothing(
    net: onnx.ModelProto, data: dict[str, np.ndarray], tmp_path: Path
) -> None:
    quantize(net, tmp_path / "q.onnx", data, Recipe(weights="int8"))
    assert distance(outputs(net, data), outputs(tmp_path / "q.onnx", data)) < 0.01


def test_the_same_run_gives_the_same_bytes(
    net: onnx.ModelProto, data: dict[str, np.ndarray], tmp_path: Path
) -> None:
    for name in ("a.onnx", "b.onnx"):
        quantize(net, tmp_path / name, data, Recipe())
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_a_solver_that_is_not_compiled_is_told(
    net: onnx.ModelProto, data: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert reporting.NOT_COMPILED not in quantize(net, tmp_path / "a.onnx", data, Recipe(solver="rtn")).notes
    monkeypatch.setattr(reporting, "compiled", lambda: False)
    assert reporting.NOT_COMPILED in quantize(net, tmp_path / "b.onnx", data, Recipe(solver="rtn")).notes


def test_one_sample_is_told_to_be_few(
    net: onnx.ModelProto, data: dict[str, np.ndarray], tmp_path: Path
) -> None:
    few = {name: values[:1] for name, values in data.items()}
    notes = quantize(net, tmp_path / "a.onnx", few, Recipe(solver="rtn")).notes
    assert any("one sample only" in note for note in notes)
    assert not any("one sample only" in n for n in quantize(net, tmp_path / "b.onnx", data, Recipe()).notes)


def test_any_number_of_threads_gives_the_same_bytes(
    net: onnx.ModelProto, data: dict[str, np.ndarray], tmp_path: Path
) -> None:
    for threads in (1, 2, 3):
        quantize(net, tmp_path / f"{threads}.onnx", data, Recipe(threads=threads))
    one, two, three = ((tmp_path / f"{threads}.onnx").read_bytes() for threads in (1, 2, 3))
    assert one == two == three


def test_the_shell_of_the_model_is_kept(
    net: onnx.ModelProto, data: dict[str, np.ndarray], tmp_path: Path
) -> None:
    quantize(net, tmp_path / "q.onnx", data, Recipe(solver="rtn"))
    written = onnx.load(tmp_path / "q.onnx")
    assert [i.name for i in written.graph.input] == ["image", "extra"]
    assert written.graph.input[0].type == net.graph.input[0].type
    assert list(written.graph.output) == list(net.graph.output)
    assert {n.name for n in net.graph.node} <= {n.name for n in written.graph.node}
    metadata = {p.key: p.value for p in written.metadata_props}
    assert metadata["task"] == "toy"
    assert metadata["comq.recipe"] == '{"solver": "rtn"}'
    assert metadata["comq.calibration"] == "given, 256 samples"
    assert (written.producer_name, written.doc_string) == ("tests", "a toy")


def test_the_first_and_last_layer_can_keep_eight_bits(
    net: onnx.ModelProto, data: dict[str, np.ndarray]
) -> None:
    recipe = Recipe(first_last="int8", solver="rtn")
    opened = open_run(net, data, recipe)
    lines = pipeline.write(opened, solve_all(survey(opened, recipe), recipe), recipe).lines
    assert [line.grid.split()[0] for line in lines] == ["int8", "int4", "int8"]


def test_the_callers_model_is_not_touched(
    net: onnx.ModelProto, data: dict[str, np.ndarray], tmp_path: Path
) -> None:
    before = net.SerializeToString(deterministic=True)
    quantize(net, tmp_path / "q.onnx", data, Recipe(solver="rtn"))
    assert net.SerializeToString(deterministic=True) == before


def test_progress_is_told_of_every_stage(
    net: onnx.ModelProto, data: dict[str, np.ndarray], tmp_path: Path
) -> None:
    seen: dict[str, tuple[int, int]] = {}
    quantize(net, tmp_path / "q.onnx", data, Recipe(solver="rtn"), lambda s, d, t: seen.update({s: (d, t)}))
    assert list(seen) == ["read", "calibrate", "solve", "verify"]
    assert all(done == total for done, total in seen.values())


@pytest.mark.parametrize(
    ("fields", "told"),
    [({}, False), ({"activations": "int8"}, True), ({"activations": "int8", "reduce_range": True}, False)],
)
def test_a_file_that_fails_its_check_is_not_written(net, data, fields, told, tmp_path, monkeypatch) -> None:
    failed = Verification((Check("optimised = unoptimised, exact", False, "'y' deviates by 0.1", True),))
    monkeypatch.setattr(pipeline, "verify", lambda *_: failed)
    some = {name: values[:8] for name, values in data.items()}
    with pytest.raises(ComqError, match="fails its check 'optimised = unoptimised, exact'") as error:
        quantize(net, tmp_path / "q.onnx", some, target="ort", solver="rtn", **fields)
    assert ("--reduce-range where the processor is an x64 without VNNI" in str(error.value)) == told
    assert not list(tmp_path.iterdir())
