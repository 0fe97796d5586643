"""The parts of the latency bench that need no runtime's speed."""

import bench_latency
import numpy as np
import pytest
from timing import runtimes, subjects

from comq_onnx.errors import ComqError


def row(ratio, model="minilm", kind="W8A8", runtime="ort"):
    return bench_latency.row(model, kind, runtime, 1.0, ratio) | {"disk": 0.25}


def test_a_ratio_is_the_float_file_s_time_over_the_file_s():
    made = bench_latency.row("minilm", "W8A8", "ort", 0.5, 1.0)
    assert made["ratio"] == 2.0


def test_the_table_has_a_line_for_each_file_and_numbers_equal_reasons_once():
    rows = [
        row(2.0),
        row(0.5, runtime="openvino"),
        bench_latency.row("minilm", "dynamic", "ort", "no kernels"),
        bench_latency.row("minilm", "dynamic", "openvino", "no kernels"),
    ]
    lines = bench_latency.markdown(rows, ["ort", "openvino"]).splitlines()
    assert lines[0] == "| file | disk | ort | openvino |"
    assert lines[2] == "| minilm W8A8 | 0.25 | 2.00 | 0.50 (slow) |"
    assert lines[3] == "| minilm dynamic | - | [1] | [1] |"
    assert lines[-1] == "[1] no kernels"


def test_what_was_promised_is_said_to_hold_or_not():
    said = "\n".join(bench_latency.verdicts([row(1.7), row(4.0, "stack, 1 row", "W4")]))
    assert "minilm W8A8 in onnxruntime: 1.70, at least 1.8: NO" in said
    assert "stack, 1 row W4 in onnxruntime: 4.00, at least 3.5: yes" in said
    assert "no file is slower" in said


def test_a_slow_file_is_named_whatever_its_runtime():
    said = bench_latency.verdicts([row(0.9, "vit", "W4", "onnxruntime-web")])
    assert said == ["- slower than float: vit W4 in onnxruntime-web, 0.90"]


def test_shapes_are_read_by_name():
    assert bench_latency.shapes_of("a:b:1x3,y:7") == {"a:b": (1, 3), "y": (7,)}
    with pytest.raises(SystemExit, match="name:1x3x224x224"):
        bench_latency.shapes_of("1x3")


def test_short_runs_take_more_rounds_and_none_fewer_than_asked_for():
    assert runtimes.rounds_for(1.0, 15) == 15
    assert runtimes.rounds_for(0.01, 15) == 50
    assert runtimes.rounds_for(0.0, 15) == runtimes.MOST_ROUNDS


def test_files_take_turns():
    order = []
    seconds = runtimes.turns([lambda: order.append("a"), lambda: order.append("b")], 200, lambda: 1.0)
    # A run each that is not counted, one to see how long it takes, and then the rounds.
    assert "".join(order) == "ab" + "a" + "ab" * 200
    assert [len(times) for times in seconds] == [200, 200]


def test_a_file_that_fails_leaves_the_others_their_numbers(monkeypatch):
    def measure(runtime, paths, feeds, rounds, folder):
        if "bad" in paths:
            raise ComqError("it fails")
        return [[{"float": 4.0, "good": 2.0}[path]] for path in paths]

    monkeypatch.setattr(runtimes, "_measure", measure)
    assert runtimes.timed("ort", ["float", "bad", "good"], {}, 1, None) == [4.0, "it fails.", 2.0]


def test_token_ids_are_repeated_to_one_length_and_images_taken_alone():
    ids = subjects.one(np.arange(5, dtype=np.int64)[None])
    assert ids.shape == (1, subjects.TOKENS)
    assert ids[0, :7].tolist() == [0, 1, 2, 3, 4, 0, 1]
    assert subjects.one(np.zeros((16, 3, 8, 8), np.float32)).shape == (1, 3, 8, 8)
