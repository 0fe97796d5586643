"""Layers solved one after the other: what holds of the whole run, whatever the model."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from deep_nets import cnn, deep, samples
from graphs import model, weight

from comq_onnx import Recipe, quantize
from comq_onnx.grid import dequantize
from comq_onnx.parallel import solve_all, survey
from comq_onnx.pipeline import write
from comq_onnx.planning import open_run
from comq_onnx.sequential import March, march

SMALL = {"weights": "int3", "block_size": "channel", "effort": "fast", "threads": 2}


def recipe(**options) -> Recipe:
    return Recipe(**{**SMALL, **options})


def outputs(proto: onnx.ModelProto | Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    options = ort.SessionOptions()
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    source = str(proto) if isinstance(proto, Path) else proto.SerializeToString()
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"]).run(None, feeds)[0]


def written(proto: onnx.ModelProto, data: object, folder: Path, **options) -> bytes:
    quantize(proto, folder / "q.onnx", data, recipe(**options))
    stored = onnx.load(folder / "q.onnx")
    # How it was asked for is in the metadata.
    del stored.metadata_props[:]
    return stored.SerializeToString(deterministic=True)


def ratio(proto: onnx.ModelProto, seed: int, counts: tuple[int, int]) -> float:
    """Error of the sequential solution over that of the parallel one, on samples neither has seen."""
    data, unseen = samples(proto, counts[0], seed), samples(proto, counts[1], seed + 1000)
    opened = open_run(proto, data, recipe())
    wanted = outputs(proto, unseen)

    def error(solved) -> float:
        return float(np.linalg.norm(wanted - outputs(write(opened, solved, recipe()).model, unseen)))

    return error(march(opened, recipe())) / error(solve_all(survey(opened, recipe()), recipe()))


@pytest.mark.slow
@pytest.mark.parametrize(("build", "counts"), [(deep, (256, 2000)), (cnn, (96, 300))])
def test_the_output_is_nearer_than_with_float_inputs(build, counts: tuple[int, int]) -> None:
    ratios = [ratio(build(seed=seed), seed, counts) for seed in range(4)]
    assert np.mean(ratios) < 0.9, ratios


def test_the_first_layer_is_solved_as_in_parallel() -> None:
    for proto in (deep(), cnn()):
        opened = open_run(proto, samples(proto, 40), recipe())
        one, all_ = march(opened, recipe()), solve_all(survey(opened, recipe()), recipe())
        first, second = list(one.solutions)[:2]
        assert list(one.solutions) == list(all_.solutions)
        assert np.array_equal(one.solutions[first].codes, all_.solutions[first].codes)
        assert np.array_equal(one.solutions[first].scale, all_.solutions[first].scale)
        assert np.array_equal(one.solutions[first].bias, all_.solutions[first].bias)
        assert not np.array_equal(one.solutions[second].codes, all_.solutions[second].codes)
        assert one.drift[first] == 0 < one.drift[second]


def test_the_mean_of_every_layer_is_kept() -> None:
    """On the calibration samples: biases make up for the drift of the inputs too."""
    proto = deep()
    data = samples(proto, 64)
    opened = open_run(proto, data, recipe())
    made = write(opened, march(opened, recipe()), recipe()).model
    assert np.allclose(outputs(proto, data).mean(axis=0), outputs(made, data).mean(axis=0), atol=1e-4)
    parallel = write(opened, solve_all(survey(opened, recipe()), recipe()), recipe()).model
    assert np.abs(outputs(proto, data).mean(axis=0) - outputs(parallel, data).mean(axis=0)).max() > 1e-3


def test_files_do_not_depend_on_memory_threads_or_the_day(tmp_path: Path) -> None:
    for proto in (deep(3), cnn()):
        data = samples(proto, 12)
        plain = written(proto, data, tmp_path)
        assert written(proto, data, tmp_path) == plain
        for threads in (1, 3):
            assert written(proto, data, tmp_path, threads=threads) == plain
        for gib in (0.001, 1e-9):
            assert written(proto, data, tmp_path, memory_gib=gib) == plain


def test_little_memory_is_kept_to() -> None:
    proto = deep()
    tight = recipe(memory_gib=2e-5)
    opened = open_run(proto, samples(proto, 60), tight)
    walk = March(opened, tight, lambda *_: None)
    walk.run()
    store = walk._stream.store
    assert store.spilled > 0
    assert store.held == 0
    assert walk._stream.node_runs <= 2 * len(proto.graph.node) * 60


def test_batches_of_another_size_give_nearly_the_same(tmp_path: Path) -> None:
    """The runtime rounds a product by its number of rows, and codes may turn on that; on nothing else."""
    proto = deep(3)
    data, unseen = samples(proto, 12), samples(proto, 500, 9)
    made = []
    for size in (1, 3):
        quantize(proto, tmp_path / f"{size}.onnx", data, recipe(batch_size=size))
        made.append(outputs(tmp_path / f"{size}.onnx", unseen))
    noise = np.linalg.norm(outputs(proto, unseen) - made[0])
    assert np.linalg.norm(made[0] - made[1]) < 0.1 * noise


def test_without_correction_codes_are_those_of_the_float_weights() -> None:
    proto = deep(2)
    opened = open_run(proto, samples(proto, 40), recipe())
    plain = march(opened, recipe(), correct=False)
    second = list(plain.solutions)[1]
    assert plain.drift[second] > 0
    solution = plain.solutions[second]
    stored = dequantize(solution.codes, solution.scale, None, solution.grid)
    float_weight = next(t for t in proto.graph.initializer if t.name == "w1")
    nearest = np.abs(stored[0] - onnx.numpy_helper.to_array(float_weight)).mean()
    corrected = march(opened, recipe()).solutions[second]
    stored = dequantize(corrected.codes, corrected.scale, None, corrected.grid)
    assert nearest < np.abs(stored[0] - onnx.numpy_helper.to_array(float_weight)).mean()


@pytest.mark.parametrize("solver", ["rtn", "gptq", "comq-paper"])
def test_baselines_take_quantized_inputs_when_asked(solver: str, tmp_path: Path) -> None:
    proto, asked = deep(2), recipe(solver=solver, inputs="quantized")
    report = quantize(proto, tmp_path / "q.onnx", samples(proto, 8), asked)
    assert all(check.ok for check in report.verification.checks)


TOKENS = """g (int64[N,S] ids, int64[N,S] attention_mask) => (float[N,S,16] y) {
  e = Gather(table, ids) h = MatMul(e, a) r = Tanh(h) y = MatMul(r, b) }"""


def tokens() -> onnx.ModelProto:
    return model(TOKENS, table=weight(11, 16) * 3, a=weight(16, 16, seed=1), b=weight(16, 16, seed=2))


def test_padding_changes_nothing(tmp_path: Path) -> None:
    """Padded to one length, or each sample as long as it is."""
    rng = np.random.default_rng(0)
    ids = [rng.integers(1, 11, n) for n in (5, 3, 6, 2, 6, 4)]
    padded = np.array([np.pad(row, (0, 6 - len(row))) for row in ids])
    mask = np.array([[1] * len(row) + [0] * (6 - len(row)) for row in ids])
    apart = [{"ids": row[None], "attention_mask": np.ones((1, len(row)), np.int64)} for row in ids]
    both = [
        quantize(tokens(), tmp_path / "q.onnx", data, recipe())
        for data in ({"ids": padded, "attention_mask": mask}, apart)
    ]
    assert all("tokens where 'attention_mask' is 0 are left out" in report.notes for report in both)
    first, second = ([line.sqnr_after for line in report.lines if line.sqnr_after] for report in both)
    assert np.allclose(first, second, atol=0.2)


def test_notes_are_those_of_the_parallel_mode() -> None:
    for data in (
        {"ids": np.array([[1, 2, 3]]), "attention_mask": np.array([[1, 1, 0]])},
        [{"ids": np.zeros((1, 0), np.int64), "attention_mask": np.zeros((1, 0), np.int64)}] * 3,
    ):
        opened = open_run(tokens(), data, recipe())
        one, all_ = march(opened, recipe()), solve_all(survey(opened, recipe()), recipe())
        assert one.notes == all_.notes
        assert len(one.notes) >= 2


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "double"])
def test_other_floating_types(kind: str, tmp_path: Path) -> None:
    dtype = {
        "float16": np.dtype(np.float16),
        "bfloat16": onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.BFLOAT16),
        "double": np.dtype(np.float64),
    }[kind]
    proto = model(
        f"g ({kind}[N,16] x) => ({kind}[N,8] y) {{ h = MatMul(x, a) r = Relu(h) y = MatMul(r, b) }}",
        a=weight(16, 16).astype(dtype),
        b=weight(16, 8, seed=1).astype(dtype),
    )
    data = {"x": samples(deep(1, 16), 20)["x"]}
    report = quantize(proto, tmp_path / "q.onnx", data, recipe(weights="int4", inputs="quantized"))
    assert [line.grid[:4] for line in report.lines] == ["int4", "int4"]


@pytest.mark.parametrize("form", ["opset 11", "external data", "functions"])
def test_other_files(form: str, tmp_path: Path) -> None:
    proto = deep(2)
    path = tmp_path / "m.onnx"
    if form == "opset 11":
        proto.opset_import[0].version, proto.ir_version = 11, 6
    if form == "functions":
        proto = onnx.parser.parse_model(
            """<ir_version: 8, opset_import: ["": 17, "own": 1]>
            g (float[N,24] x) => (float[N,8] y) {
              h = own.block(x, w0) k = own.block(h, w1) y = MatMul(k, out) }
            <domain: "own", opset_import: ["": 17]>
            block (p, w) => (q) { m = MatMul(p, w) r = Tanh(m) q = Add(r, p) }"""
        )
        kept = [t for t in deep(2).graph.initializer if t.name[0] != "b"]
        proto.graph.initializer.extend(kept)
    onnx.save(proto, path, save_as_external_data=form == "external data", location="d", size_threshold=0)
    report = quantize(path, tmp_path / "q.onnx", samples(deep(2), 20), recipe(inputs="quantized"))
    assert len([line for line in report.lines if line.grid.startswith("int3")]) == 3
