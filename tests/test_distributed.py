"""A run on a Dask cluster writes the file that a run in one process writes."""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from deep_nets import deep, samples
from large import LITTLE, saved_apart

from comq_onnx import quantize
from comq_onnx.errors import ComqError, NotPairedError
from comq_onnx.moments import of_shards
from comq_onnx.records import InputStats
from comq_onnx.run.data import Calibration
from comq_onnx.shards import shards_of
from comq_onnx.stats.taps import Sampling

GLYPHS = Path(__file__).parents[1] / "samples" / "glyphs"
QUICK = {"effort": "fast", "shards": 4}


def made(folder: Path, name: str, progress=None, **options) -> bytes:
    """The bytes of the glyphs sample, quantized."""
    told = {**QUICK, "calibration_samples": 46, **options}
    more = {"progress": progress} if progress else {}
    quantize(GLYPHS / "glyphs.onnx", folder / name, GLYPHS / "calibration.npz", **told, **more)
    return (folder / name).read_bytes()


@pytest.mark.parametrize(("samples", "shards"), [(7, 4), (48, 4), (1, 2), (3, 6), (10, 2)])
def test_shards_cover_all_samples_once_and_half_of_them_one_half(samples: int, shards: int) -> None:
    sampling = Sampling(0, samples, shards)
    parts = [range(*sampling.shard(number)) for number in range(shards)]
    assert [sample for part in parts for sample in part] == list(range(samples))
    assert parts[shards // 2 - 1].stop == -(-samples // 2)


def test_a_batch_goes_to_every_shard_that_has_a_sample_of_it() -> None:
    batches = [{"x": np.full((3, 2), i)} for i in range(4)]
    calibration = Calibration("", 12, False, 4, lambda: iter(batches))
    found = list(shards_of(calibration, Sampling(0, 12, 6)))
    assert [shard.first for shard in found] == [0, 0, 3, 6, 6, 9]
    assert [[int(b["x"][0, 0]) for b in shard.batches] for shard in found] == [
        [0],
        [0, 1],
        [1],
        [2],
        [2, 3],
        [3],
    ]
    assert all(shard.entries == (3,) * len(shard.batches) for shard in found)


def test_statistics_of_shards_are_those_of_all_rows() -> None:
    rng, parts = np.random.default_rng(0), []
    rows = [rng.standard_normal((count, 3)) for count in (5, 0, 2, 9)]
    for part in rows:
        seen = (
            InputStats(part.mean(0)[None], (part.T @ part / len(part))[None], len(part))
            if len(part)
            else None
        )
        parts.append(seen)
    found, every = of_shards(parts), np.concatenate(rows)
    assert found is not None
    assert found.half is not None
    assert (found.count, found.half.count) == (16, 5)
    np.testing.assert_allclose(found.gram[0], every.T @ every / 16)
    np.testing.assert_allclose(found.mean[0], every.mean(0))
    np.testing.assert_allclose(found.half.mean[0], rows[0].mean(0))
    assert of_shards([None] * 4) is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bias": "position"}, "--dask with --bias position"),
        ({"mrecg": 1}, "--dask with --mrecg"),
        ({"avg_bits": 4.0}, "--dask with a budget"),
        ({"max_drop": "1%"}, "--dask with a budget"),
    ],
)
def test_what_one_process_must_do_is_refused_before_the_work(options, said: str, tmp_path: Path) -> None:
    with pytest.raises(ComqError, match=said):
        made(tmp_path, "a.onnx", dask="local:1", **options)


def test_errors_arrive_from_workers_as_they_are() -> None:
    import pickle

    for error in (ComqError("it is wrong", where="here", fix="do this"), NotPairedError("apart", fix="stop")):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert str(again) == str(error)


def test_without_dask_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ComqError, match=r"comq-onnx\[dask\]"):
        made(tmp_path, "a.onnx", dask="local:2")


@pytest.mark.parametrize("address", ["local:0", "four", "local:"])
def test_an_address_that_is_none(address: str, tmp_path: Path) -> None:
    with pytest.raises(ComqError, match="is no cluster"):
        made(tmp_path, "a.onnx", dask=address)


@pytest.mark.parametrize("shards", [0, 1, 3])
def test_shards_that_do_not_make_halves(shards: int, tmp_path: Path) -> None:
    with pytest.raises(ComqError, match="--shards"):
        made(tmp_path, "a.onnx", shards=shards)


@pytest.mark.slow
@pytest.mark.parametrize("inputs", ["quantized", "float"])
def test_any_number_of_workers_writes_the_same_bytes(inputs: str, tmp_path: Path) -> None:
    here = made(tmp_path, "here.onnx", inputs=inputs)
    for workers in (1, 2, 4):
        assert made(tmp_path, f"{workers}.onnx", inputs=inputs, dask=f"local:{workers}") == here


@pytest.mark.slow
@pytest.mark.parametrize("inputs", ["quantized", "float"])
def test_a_worker_that_is_killed_changes_nothing(inputs: str, tmp_path: Path) -> None:
    from distributed import LocalCluster

    here = made(tmp_path, "here.onnx", inputs=inputs)
    killed: list[int] = []
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        address = cluster.scheduler_address

        def kill_one(stage: str, done: int, total: int) -> None:
            if stage == "solve" and done == total // 2 and not killed:
                killed.append(cluster.workers[0].pid)
                os.kill(killed[0], signal.SIGKILL)

        there = made(tmp_path, "there.onnx", kill_one, inputs=inputs, dask=address)
    assert killed
    assert there == here


@pytest.mark.slow
def test_weights_that_stay_in_files_are_read_by_workers(tmp_path: Path) -> None:
    proto = deep(4, 64)
    path, data = saved_apart(proto, tmp_path), samples(proto, 20)
    written = {}
    for inputs in ("quantized", "float"):
        for dask in ("", "local:2"):
            told = {**QUICK, "memory_gib": LITTLE, "inputs": inputs, "dask": dask}
            quantize(path, tmp_path / "o.onnx", data, **told)
            files = (tmp_path / "o.onnx", tmp_path / "o.onnx.data")
            written[inputs, dask] = [file.read_bytes() for file in files]
        assert written[inputs, ""] == written[inputs, "local:2"]
