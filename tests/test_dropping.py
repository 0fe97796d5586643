"""`--max-drop`: what is written is within it on data it was not solved on, and not larger than it must be."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from test_budget import net, samples

from comq_onnx.budget import parse_drop
from comq_onnx.errors import ComqError
from comq_onnx.pipeline import quantize
from comq_onnx.recipe import Recipe
from comq_onnx.run.session import SessionOptions, open_session


def answers(model: onnx.ModelProto | Path, batches: list[dict[str, np.ndarray]]) -> np.ndarray:
    session = open_session(model, SessionOptions())
    return np.concatenate([session.run(batch)["y"] for batch in batches])


def lost(path: Path, batches: list[dict[str, np.ndarray]]) -> float:
    truth, found = answers(net(), batches), answers(path, batches)
    return float(np.square(found - truth).sum() / np.square(truth).sum())


def recipe(**changes: object) -> Recipe:
    return Recipe(target="ort", effort="fast", **changes)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("text", "value"), [("0.5%", 0.005), ("3 %", 0.03), ("0.25", 0.25), (".5", 0.5)])
def test_drops_are_read(text, value):
    assert parse_drop(text).value == pytest.approx(value)
    assert parse_drop(text).relative == ("%" in text)


@pytest.mark.parametrize("text", ["", "x", "-1%", "0%", "5MB"])
def test_other_texts_are_no_drops(text):
    with pytest.raises(ComqError, match="max-drop"):
        parse_drop(text)


def test_smaller_drops_give_larger_files_that_keep_them(tmp_path):
    data, sizes = samples(), []
    for limit in (0.1, 0.01, 0.0005):
        out = tmp_path / f"{limit}.onnx"
        report = quantize(net(), out, data, recipe(max_drop=str(limit)))
        assert lost(out, data[3::4]) <= limit
        assert report.allocation is not None
        assert "48 of 64 samples" in report.calibration
        assert "held out" in report.allocation.notes[0]
        sizes.append(out.stat().st_size)
    assert sizes[0] < sizes[1] < sizes[2]


def test_the_users_metric_decides(tmp_path, monkeypatch):
    (tmp_path / "own_metric.py").write_text(
        "import numpy as np\n"
        "X = np.random.default_rng(7).normal(size=(400, 64)).astype(np.float32)\n"
        "TRUTH = []\n"
        "def score(predict):\n"
        "    best = predict({'x': X})['y'].argmax(axis=1)\n"
        "    TRUTH or TRUTH.append(best)\n"
        "    return 100 * (best == TRUTH[0]).mean()\n"
    )
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out.onnx"
    report = quantize(net(), out, samples(), recipe(max_drop="5%", metric="own_metric:score"))
    rows = [{"x": np.random.default_rng(7).normal(size=(400, 64)).astype(np.float32)}]
    agreed = (answers(out, rows).argmax(axis=1) == answers(net(), rows).argmax(axis=1)).mean()
    assert agreed >= 0.95
    assert report.allocation is not None
    assert "own_metric:score" in report.allocation.notes[0]
    assert "64 samples" in report.calibration
    assert out.stat().st_size < len(net().SerializeToString()) / 3


def test_a_run_that_tries_several_networks_is_not_gone_on_with(tmp_path):
    with pytest.raises(ComqError, match="leave one of them out"):
        quantize(net(), tmp_path / "o.onnx", samples(), recipe(max_drop="1%"), resume=tmp_path / "kept")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_drop": "1%", "target_size": "0.5x"}, "leave one of them out"),
        ({"metric": "math:sqrt"}, "give --max-drop"),
        ({"max_drop": "nothing"}, "0.5%"),
    ],
)
def test_what_cannot_go_together_is_refused(changes, said):
    with pytest.raises(ComqError, match=said):
        recipe(**changes)


def test_too_few_samples_to_hold_some_out(tmp_path):
    with pytest.raises(ComqError, match="quarter of the calibration data"):
        quantize(net(), tmp_path / "out.onnx", samples(7), recipe(max_drop="1%"))
    assert not list(tmp_path.iterdir())


def test_a_metric_that_no_file_meets(tmp_path, monkeypatch):
    (tmp_path / "hard_metric.py").write_text(
        "calls = []\ndef score(predict):\n    calls.append(1)\n    return 100 - 50 * (len(calls) > 1)\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ComqError, match="no file is within it: the least drop found is 50"):
        quantize(net(), tmp_path / "out.onnx", samples(), recipe(max_drop="1%", metric="hard_metric:score"))
