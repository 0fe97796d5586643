"""Models whose weights stay in their files while they are quantized."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from deep_nets import cnn, deep, samples
from graphs import model, weight
from large import LITTLE, constants, saved_apart

from comq_onnx import Recipe, quantize
from comq_onnx.graph.external import is_external
from comq_onnx.planning import plan
from comq_onnx.run.session import open_session, outputs_on

TOOLS = Path(__file__).parents[1] / "tools"
QUICK = {"effort": "fast", "weights": "int4", "threads": 2}


def wide(width: int = 64) -> onnx.ModelProto:
    """Deep, with weights that are not tiny."""
    return deep(4, width)


def same_constants(one: Path, other: Path) -> bool:
    first, second = constants(one), constants(other)
    return first.keys() == second.keys() and all(np.array_equal(first[k], second[k]) for k in first)


def test_large_weights_stay_in_their_files_and_small_ones_do_not(tmp_path: Path) -> None:
    path = saved_apart(wide(), tmp_path)
    tight = plan(path, Recipe(memory_gib=LITTLE), given=True)
    assert tight.outside is not None
    outside = {t.name for t in tight.prepared.graph.initializer if is_external(t)}
    assert outside == {f"w{i}" for i in range(4)} | {"out"}
    plenty = plan(path, Recipe(), given=True)
    assert plenty.outside is None
    assert not any(is_external(t) for t in plenty.prepared.graph.initializer)


@pytest.mark.parametrize("build", [wide, cnn])
@pytest.mark.parametrize("weights", ["int4", "int8"])
def test_codes_are_those_of_a_run_with_plenty_of_memory(build, weights: str, tmp_path: Path) -> None:
    proto = build()
    path, data = saved_apart(proto, tmp_path), samples(proto, 40)
    told = {**QUICK, "weights": weights}
    quantize(path, tmp_path / "plenty.onnx", data, **told)
    report = quantize(path, tmp_path / "tight.onnx", data, memory_gib=LITTLE, **told)
    assert [Path(file).name for file in report.files] == ["tight.onnx", "tight.onnx.data"]
    assert same_constants(tmp_path / "plenty.onnx", tmp_path / "tight.onnx")
    assert report.verification.ok
    assert any("stayed in their files" in note for note in report.notes)
    light = onnx.load(tmp_path / "tight.onnx", load_external_data=False)
    places = {e.value for t in light.graph.initializer for e in t.external_data if e.key == "location"}
    assert places == ({"tight.onnx.data"} if build is wide or weights == "int8" else set())  # small ones stay


def test_the_float_network_is_walked_through_alone(tmp_path: Path) -> None:
    proto = wide()
    path, data = saved_apart(proto, tmp_path), samples(proto, 40)
    told = {**QUICK, "inputs": "float"}
    quantize(path, tmp_path / "plenty.onnx", data, **told)
    report = quantize(path, tmp_path / "tight.onnx", data, memory_gib=LITTLE, **told)
    assert same_constants(tmp_path / "plenty.onnx", tmp_path / "tight.onnx")
    assert not report.drifting
    assert not any("no activation" in note for note in report.notes)


@pytest.mark.parametrize("dtype", [np.float16])
def test_half_precision_weights_are_widened_outside(dtype: type, tmp_path: Path) -> None:
    text = """g (float16[N,64] x) => (float16[N,32] y) { a = MatMul(x, w1) r = Relu(a) y = MatMul(r, w2) }"""
    proto = model(text, w1=weight(64, 96).astype(dtype), w2=weight(96, 32, seed=1).astype(dtype))
    path, data = saved_apart(proto, tmp_path), {"x": weight(40, 64, seed=2).astype(dtype)}
    quantize(path, tmp_path / "plenty.onnx", data, **QUICK)
    quantize(path, tmp_path / "tight.onnx", data, memory_gib=LITTLE, **QUICK)
    assert same_constants(tmp_path / "plenty.onnx", tmp_path / "tight.onnx")


def test_transposed_weights_are_computed_once_and_kept_outside(tmp_path: Path) -> None:
    text = """g (float[N,64] x) => (float[N,32] y) {
      a = Gemm<transB=1>(x, w1, b1) r = Relu(a) y = Gemm<transB=1>(r, w2, b2) }"""
    arrays = {"w1": weight(96, 64), "w2": weight(32, 96, seed=1), "b1": weight(96), "b2": weight(32)}
    proto = model(text, **arrays)
    path, data = saved_apart(proto, tmp_path), {"x": weight(40, 64, seed=2)}
    tight = plan(path, Recipe(memory_gib=LITTLE), given=True)
    assert sum(is_external(t) for t in tight.prepared.graph.initializer) == 2
    quantize(path, tmp_path / "plenty.onnx", data, **QUICK)
    quantize(path, tmp_path / "tight.onnx", data, memory_gib=LITTLE, **QUICK)
    assert same_constants(tmp_path / "plenty.onnx", tmp_path / "tight.onnx")


@pytest.mark.parametrize("target", ["ort", "openvino", "web", "fakequant"])
def test_all_targets_write_outside(target: str, tmp_path: Path) -> None:
    proto = wide()
    path, data = saved_apart(proto, tmp_path), samples(proto, 20)
    told = {**QUICK, "target": target, "matmulnbits": target == "ort", "activations": "none"}
    quantize(path, tmp_path / "plenty.onnx", data, **told)
    quantize(path, tmp_path / "tight.onnx", data, memory_gib=LITTLE, **told)
    assert same_constants(tmp_path / "plenty.onnx", tmp_path / "tight.onnx")
    unseen = [samples(proto, 5, 9)]
    one, other = (outputs_on(open_session(tmp_path / n), unseen) for n in ("plenty.onnx", "tight.onnx"))
    np.testing.assert_array_equal(one[0]["y"], other[0]["y"])


def test_a_run_that_was_broken_off_goes_on(tmp_path: Path) -> None:
    proto = wide()
    path, data = saved_apart(proto, tmp_path), samples(proto, 20)
    told = {**QUICK, "memory_gib": LITTLE}

    def broken(stage: str, done: int, total: int) -> None:
        if stage == "solve" and done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(path, tmp_path / "a.onnx", data, progress=broken, resume=tmp_path / "kept", **told)
    assert not (tmp_path / "a.onnx").exists()
    assert not (tmp_path / "a.onnx.data").exists()
    report = quantize(path, tmp_path / "a.onnx", data, resume=tmp_path / "kept", **told)
    assert any("were taken from --resume" in note for note in report.notes)
    quantize(path, tmp_path / "b.onnx", data, **told)
    assert same_constants(tmp_path / "a.onnx", tmp_path / "b.onnx")


def test_a_data_file_outside_the_folder_is_refused(tmp_path: Path) -> None:
    path = saved_apart(wide(), tmp_path)
    proto = onnx.load(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../model.onnx.data"
    inner = tmp_path / "inner"
    inner.mkdir()
    onnx.save(proto, inner / "model.onnx")
    with pytest.raises(Exception, match="outside the model's folder"):
        quantize(inner / "model.onnx", inner / "out.onnx", None, memory_gib=LITTLE)


@pytest.mark.slow
def test_a_stack_stays_within_the_limit_and_the_estimate(tmp_path: Path) -> None:
    """100 MB of weights in 520 MB, of which the program by itself takes 280."""
    environment = {**os.environ, "PYTHONPATH": str(TOOLS.parent)}
    made = "import bench_large, pathlib, sys; bench_large.make_stack(pathlib.Path(sys.argv[1]), 1e8, 256)"
    subprocess.run([sys.executable, "-c", made, str(tmp_path)], cwd=TOOLS, env=environment, check=True)
    words = [sys.executable, "-m", "comq_onnx", str(tmp_path / "stack.onnx"), "--effort", "fast"]
    words += ["--calibration-data", str(tmp_path / "samples.npz"), "--calibration-samples", "8"]
    words += ["--memory", "520MB", "-o", str(tmp_path / "o.onnx")]
    dry, real = (
        subprocess.run([*words, *more], env=environment, check=True, capture_output=True, text=True).stdout
        for more in (["--dry-run"], [])
    )
    told = re.search(r"hold about (\d+) MiB at most", dry)
    held = re.search(r"the process held (\d+) MiB at most", real)
    assert told
    assert held
    assert int(held[1]) <= int(told[1]) <= 520e6 / 2**20
