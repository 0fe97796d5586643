"""Runs that were broken off: what is kept, when it counts, and that the rest comes out the same."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import model, weight

from comq_onnx import ComqError, Recipe, parallel, quantize, sequential
from comq_onnx.grid import Grid
from comq_onnx.planning import open_run
from comq_onnx.records import BlockBias, Quality, Solution
from comq_onnx.resume import KEY, Journal, key_of

NET = """g (float[B,3,10,10] image) => (float[B,10] logits) {
  c = Conv<strides=[2,2],pads=[1,1,1,1]>(image, w_conv, b_conv)
  r = Relu(c)
  d = Conv<pads=[1,1,1,1],group=8>(r, w_dw)
  f = Flatten(d)
  a = MatMul(f, w_a)
  b = MatMul(f, w_b)
  s = Mul(a, b)
  logits = MatMul(s, w_fc)
}"""
RECIPE = Recipe(weights="int3", block_size="channel")
KEYS = {"model": "m", "recipe": "r"}


@pytest.fixture(scope="module")
def net() -> onnx.ModelProto:
    made = model(
        NET,
        w_conv=weight(27, 8).T.reshape(8, 3, 3, 3).copy(),
        b_conv=weight(8, seed=1),
        w_dw=weight(9, 8, seed=2).T.reshape(8, 1, 3, 3).copy(),
        w_a=weight(200, 32, seed=3),
        w_b=weight(200, 32, seed=4),
        w_fc=weight(32, 10, seed=5),
    )
    for number, node in enumerate(made.graph.node):
        node.name = f"/block/{number}"
    return made


@pytest.fixture(scope="module")
def data() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    return {"image": np.cumsum(rng.standard_normal((40, 3, 10, 10)), axis=-1).astype(np.float32)}


def solution(zero: bool = True) -> Solution:
    rng = np.random.default_rng(3)
    grid = Grid(4, symmetric=not zero, granularity="block", block_size=16)
    codes = rng.integers(grid.lo, grid.hi + 1, (2, 40, 5)).astype(grid.code_dtype)
    zero_point = rng.integers(0, 16, (2, 3, 5)).astype(np.uint8) if zero else None
    bias = rng.standard_normal((2, 5)) / 3 if zero else None
    scale = rng.random((2, 3, 5)).astype(np.float32)
    places = rng.standard_normal((3, 7, 10)) / 3 if zero else None
    note = "a – note" * zero
    return Solution(grid, codes, scale, zero_point, bias, Quality(1 / 3, 0.1, 1e-300), note, places)


@pytest.mark.parametrize("zero", [True, False])
def test_what_is_kept_comes_back_to_the_bit(tmp_path: Path, zero: bool) -> None:
    kept = solution(zero)
    Journal(tmp_path / "j", KEYS).put("/a/b c", kept, 1 / 7 if zero else None, 2.5)
    found = Journal(tmp_path / "j", KEYS).get("/a/b c")
    assert found is not None
    back, drift, seconds = found
    assert (drift, seconds) == (1 / 7 if zero else None, 2.5)
    assert (back.grid, back.quality, back.note) == (kept.grid, kept.quality, kept.note)
    for name in ("codes", "scale", "zero_point", "bias", "position_bias"):
        was, now = getattr(kept, name), getattr(back, name)
        assert (was is None) == (now is None)
        if was is not None:
            assert (was.dtype, was.shape, was.tobytes()) == (now.dtype, now.shape, now.tobytes())
    assert Journal(tmp_path / "j", KEYS).get("/a/b d") is None
    assert not list((tmp_path / "j").glob("*.part"))


def test_block_biases_come_back_to_the_bit_and_so_does_that_there_is_none(tmp_path: Path) -> None:
    kept = BlockBias("/a/add", np.random.default_rng(1).standard_normal((8, 1, 1)) / 3, "float16")
    journal = Journal(tmp_path, KEYS)
    journal.put_block("/a/add", kept)
    journal.put_block("/b/add", None)
    found = Journal(tmp_path, KEYS).get_block("/a/add")
    assert found is not None
    assert found[0] is not None
    assert (found[0].node, found[0].dtype) == (kept.node, kept.dtype)
    assert found[0].values.tobytes() == kept.values.tobytes()
    assert found[0].values.shape == kept.values.shape
    assert journal.get_block("/b/add") == (None,)
    assert journal.get_block("/c/add") is None
    # A layer of the same name is another thing.
    assert journal.get("/a/add") is None
    journal.clear()
    assert journal.get_block("/a/add") is None


def test_another_run_is_refused_and_named(tmp_path: Path) -> None:
    Journal(tmp_path / "j", KEYS).put("a", solution(), None, 1.0)
    with pytest.raises(ComqError, match=r"--resume .*j: it holds layers of another run: .*recipe; .*delete"):
        Journal(tmp_path / "j", KEYS | {"recipe": "other"})


def test_layers_of_a_run_whose_key_was_lost_do_not_count_for_another(tmp_path: Path) -> None:
    Journal(tmp_path, KEYS).put("a", solution(), None, 1.0)
    (tmp_path / KEY).write_bytes(b"{")
    assert Journal(tmp_path, KEYS | {"recipe": "other"}).get("a") is None


def test_a_damaged_file_does_not_count(tmp_path: Path) -> None:
    journal = Journal(tmp_path, KEYS)
    journal.put("a", solution(), None, 1.0)
    (path,) = tmp_path.glob("*.layer")
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for at in (0, 31, 32, len(whole) - 1, *rng.integers(0, len(whole), 50)):
        broken = bytearray(whole)
        broken[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(broken)
        assert journal.get("a") is None
    for size in (0, 10, 32, 33, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert journal.get("a") is None
    path.write_bytes(whole)
    assert journal.get("a") is not None


def test_the_key_holds_all_that_decides_the_codes_and_nothing_else(
    net: onnx.ModelProto, data: dict[str, np.ndarray]
) -> None:
    def key(graph: onnx.ModelProto, samples: dict[str, np.ndarray], recipe: Recipe) -> dict[str, str]:
        opened = open_run(graph, samples, recipe)
        return key_of(opened.plan.prepared, opened.calibration, recipe)

    first = key(net, data, RECIPE)
    assert key(net, {k: v.copy() for k, v in data.items()}, replace(RECIPE, threads=3)) == first
    other_weight, other_data = onnx.ModelProto(), {"image": data["image"].copy()}
    other_weight.CopyFrom(net)
    raw = bytearray(other_weight.graph.initializer[0].raw_data)
    raw[0] ^= 1
    other_weight.graph.initializer[0].raw_data = bytes(raw)
    other_data["image"][-1, -1, -1, -1] += 1
    for changed, (graph, samples, recipe) in {
        "model": (other_weight, data, RECIPE),
        "calibration data": (net, other_data, RECIPE),
        "recipe": (net, data, replace(RECIPE, seed=1)),
    }.items():
        other = key(graph, samples, recipe)
        assert [part for part in first if other[part] != first[part]] == [changed]


@pytest.mark.parametrize("inputs", ["quantized", "float"])
@pytest.mark.parametrize("layers", [1, 2, 4])
def test_a_run_that_goes_on_ends_in_the_same_file(
    net: onnx.ModelProto,
    data: dict[str, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    inputs: str,
    layers: int,
) -> None:
    recipe, folder = replace(RECIPE, inputs=inputs), tmp_path / "kept"
    quantize(net, tmp_path / "whole.onnx", data, recipe)

    def stop(stage: str, done: int, total: int) -> None:
        if len(list(folder.glob("*.layer"))) >= layers:
            raise RuntimeError("the light went out")

    with pytest.raises(RuntimeError, match="light"):
        quantize(net, tmp_path / "resumed.onnx", data, recipe, stop, folder)
    assert not (tmp_path / "resumed.onnx").exists()
    kept = len(list(folder.glob("*.layer")))
    assert layers <= kept < 5

    asked = []
    for mode in (sequential, parallel):
        monkeypatch.setattr(mode, "solve_layers", recorded(mode.solve_layers, asked))
    report = quantize(net, tmp_path / "resumed.onnx", data, recipe, resume=folder)
    assert (tmp_path / "resumed.onnx").read_bytes() == (tmp_path / "whole.onnx").read_bytes()
    assert len(asked) == 5 - kept
    assert f"{kept} of 5 layers were taken from --resume {folder}" in report.notes

    asked.clear()
    quantize(net, tmp_path / "again.onnx", data, recipe, resume=folder)
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "whole.onnx").read_bytes()
    assert not asked


def recorded(solve_layers, asked: list[str]):
    def instead(model, layers, *rest):
        asked.extend(layer.name for layer in layers)
        return solve_layers(model, layers, *rest)

    return instead


def test_one_damaged_layer_in_the_middle_is_solved_again_to_the_bit(
    net: onnx.ModelProto, data: dict[str, np.ndarray], tmp_path: Path
) -> None:
    folder = tmp_path / "kept"
    report = quantize(net, tmp_path / "whole.onnx", data, RECIPE, resume=folder)
    assert not any("--resume" in note for note in report.notes)
    for path in sorted(folder.glob("*.layer")):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        again = quantize(net, tmp_path / "again.onnx", data, RECIPE, resume=folder)
        assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "whole.onnx").read_bytes()
        assert any(note.startswith("4 of 5 layers") for note in again.notes)


def test_a_folder_that_cannot_be_had_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder, what in ((tmp_path / "no" / "j", "does not exist"), (tmp_path / "file", "it is a file")):
        with pytest.raises(ComqError, match=f"--resume .*{what}"):
            quantize("there is no such model.onnx", tmp_path / "o.onnx", resume=folder)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(ComqError, match="cannot be kept there"):
        quantize("there is no such model.onnx", tmp_path / "o.onnx", resume=tmp_path / "locked" / "j")


@pytest.mark.slow
@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_the_folder_of_layers_and_nothing_else(
    net: onnx.ModelProto, data: dict[str, np.ndarray], tmp_path: Path, number: signal.Signals
) -> None:
    for name in ("tmp", "out"):
        (tmp_path / name).mkdir()
    onnx.save(net, tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", **data)
    kept = tmp_path / "kept"
    words = ["net.onnx", "--calibration-data", "data.npz", "-o", "out/q.onnx", "--resume", "kept"]
    with subprocess.Popen(
        [sys.executable, "-m", "comq_onnx", *words, "--effort", "max"],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        while not list(kept.glob("*.layer")) and run.poll() is None:
            time.sleep(0.005)
        run.send_signal(number)
        _, said = run.communicate(timeout=60)
    assert run.returncode == 130
    assert said.splitlines()[-1] == (
        "comq-onnx: interrupted; nothing was written; run again with --resume kept to go on."
    )
    assert "Traceback" not in said
    # onnxruntime itself leaves a file there when it is imported.
    assert not list((tmp_path / "tmp").glob("*comq*"))
    assert not list((tmp_path / "out").iterdir())
    assert not list(kept.glob("*.part"))
