"""Runs are held to their limits, failures are told as such, and the page says what was measured."""

import argparse
import re
import sys
import time
from pathlib import Path

import bench_peers
import numpy as np
import onnx
import onnx.parser
import pytest
from peers import environments, page, process, stored
from peers.feeds import Reader, read_feeds, write_feeds
from peers.trials import KINDS, OURS, calls, trials

PAGE = Path(__file__).parents[2] / "docs" / "peers.md"
LIMITS = process.Limits(30.0, 1 << 31)


def python(code, folder, limits=LIMITS):
    return process.run([sys.executable, "-c", code], folder, limits)


def test_a_run_is_measured_with_its_children(tmp_path):
    child = "import time; held = bytearray(b'1' * 150_000_000); time.sleep(0.6)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    run = python(code, tmp_path)
    assert run.problem == ""
    assert 150e6 < run.peak_bytes < 400e6
    assert 0.6 < run.seconds < 20


def test_a_run_that_takes_too_long_is_stopped_with_its_children(tmp_path):
    code = "import subprocess; subprocess.run(['sleep', '60'])"
    run = python(code, tmp_path, process.Limits(0.5, 1 << 31))
    assert run.problem == "stopped: over 0.5 s"
    assert run.seconds < 20


def test_a_run_that_takes_too_much_memory_is_stopped(tmp_path):
    code = "import time; held = bytearray(b'1' * 200_000_000); time.sleep(60)"
    run = python(code, tmp_path, process.Limits(50.0, 100_000_000))
    assert run.problem == "stopped: over 0.1 GB of memory"
    assert run.seconds < 20


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise KeyError('no such layer')", "KeyError: 'no such layer'"),
        ("import json; json.loads('{')", "JSONDecodeError: Expecting property name"),
        ("raise RuntimeError('first\\nsecond')", "RuntimeError: first"),
        ("raise SystemExit('no model there')", "no model there"),
        ("import os; os.abort()", "the process ended by signal 6"),
        ("raise SystemExit(3)", "exit code 3"),
    ],
)
def test_a_failure_is_told_in_one_line(tmp_path, code, reason):
    run = python(code, tmp_path)
    assert run.problem.startswith(reason)
    assert "\n" not in run.problem


def test_the_last_of_chained_exceptions_is_the_reason():
    said = "Traceback (most recent call last):\n  File\nKeyError: 1\n\nDuring ...\n\n"
    said += 'Traceback (most recent call last):\n  File "x.py", line 1\n    a: int = f()\nValueError: two\n'
    assert process.reason(said, 1) == "ValueError: two"


def test_feeds_come_back_in_order_whatever_their_shapes(tmp_path):
    feeds = [{"ids": np.full((1, n + 1), n), "mask/x": np.ones(n + 1, np.float32)} for n in range(12)]
    write_feeds(tmp_path / "feeds.npz", feeds)
    found = read_feeds(tmp_path / "feeds.npz")
    assert [list(feed) for feed in found] == [["ids", "mask/x"]] * 12
    for ours, theirs in zip(feeds, found, strict=True):
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name])
            assert ours[name].dtype == theirs[name].dtype


def test_the_reader_reads_to_the_end_and_again():
    reader = Reader([{"x": np.zeros(1)}, {"x": np.ones(1)}])
    assert [float(feed["x"][0]) for feed in iter(reader.get_next, None)] == [0.0, 1.0]
    assert reader.get_next() is None
    reader.rewind()
    assert len(reader) == 2
    assert reader.get_next() is reader.get_first()


def test_every_option_of_a_trial_is_in_its_driver_and_says_its_call():
    for trial in trials(list(KINDS), [OURS, *environments.ENVIRONMENTS]):
        assert calls(trial.peer)[trial.option], trial.key


def test_every_environment_pins_what_it_shows_first():
    for name, environment in environments.ENVIRONMENTS.items():
        pinned = [package for step in environment.steps for package in step if "==" in package]
        assert any(package.startswith(environment.shown[0] + "==") for package in pinned), name
        needs_torch = environment.steps[0] == environments.TORCH
        assert needs_torch == ("torch" in environment.shown), name


def model_file(tmp_path, text):
    path = tmp_path / "model.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def test_stored_bits_are_found_behind_what_a_tool_puts_before_a_weight(tmp_path):
    path = model_file(
        tmp_path,
        """<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
        g (float[1, 2] x) => (float[1, 2] e)
        <int8[2, 3] a = {1, 2, 3, 4, 5, 6}, float[2, 3] z = {1, 1, 1, 1, 1, 1}, float s = {0.5},
         float[3, 2] f = {1, 1, 1, 1, 1, 1}, uint8[2, 1, 8] p = {0}, float[2] t = {1, 1},
         float[2, 2] w = {1, 1, 1, 1}, uint8 zero = {0}>
        {
            a1 = Cast<to = 1>(a)
            a2 = Mul(a1, s)
            b = MatMul(x, a2)
            c = MatMul(b, f)
            q = QuantizeLinear(w, s, zero)
            dq = DequantizeLinear(q, s, zero)
            d = Gemm<transB = 1>(c, dq)
            e = com.microsoft.MatMulNBits<K = 2, N = 2, bits = 4, block_size = 16>(d, p, t)
        }""",
    )
    counted = stored.coverage(path)
    assert counted == {8: 6 + 4, 32: 6, 4: 4}
    assert stored.percent_quantized(counted) == pytest.approx(100 * 14 / 20)


def test_a_product_of_two_activations_has_no_weight(tmp_path):
    path = model_file(
        tmp_path,
        '<ir_version: 8, opset_import: ["" : 17]> g (float[2, 2] x) => (float[2, 2] y) { y = MatMul(x, x) }',
    )
    assert stored.coverage(path) == {}
    assert stored.percent_quantized({}) == 0.0


def row(kl, share=1.0, **more):
    row = {
        "problem": "", "seconds": 10.0, "cpu_seconds": 8.0, "peak_bytes": 1_500_000_000, "bytes": 3_000_000,
        "scores": {"off %": 3.0, "KL": kl}, "loads": {"plain": "", "optimised": "", "openvino": ""},
        "agrees": {"optimised": 1e-6, "openvino": 2e-6},
        "score_problem": "",
        "coverage": {"4": int(1000 * share), "32": 1000 - int(1000 * share)},
    }  # fmt: skip
    return row | more


def results(rows):
    record = {
        "float": {"off %": 0.0, "KL": 0.0}, "primary": "KL", "task": "off %", "bytes": 12_000_000,
        "facts": {"test": "10 crops"}, "rows": rows,
    }  # fmt: skip
    versions = {OURS: {OURS: "0.1.0"}, "nncf": {"nncf": "3.4.0", "onnx": "1.23.2"}}
    return {
        "versions": versions, "models": {"minilm": record}, "skipped": {"vit": "no file"},
        "limit": None, "seconds": 600.0, "gigabytes": 8.0,
    }  # fmt: skip


def cells(text, start):
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_best_is_the_best_of_those_that_quantize_as_much():
    made = {
        "w4-block/nncf/int4_sym": row(0.01, share=0.2),
        "w4-block/comq-onnx/rtn": row(0.5),
        "w4-block/comq-onnx/comq": row(0.2),
    }
    text = page.tables(results(made))
    assert cells(text, "**comq-onnx `comq`**")[:4] == ["**comq-onnx `comq`**", "**3**", "**0.2**", "100"]
    assert cells(text, "nncf `int4_sym`")[:4] == ["nncf `int4_sym`", "3", "0.01", "20"]
    found = re.findall(r"^\| \**(\S+ `\w+`)", text, re.MULTILINE)
    assert found == ["comq-onnx `comq`", "comq-onnx `rtn`", "nncf `int4_sym`"]
    assert "vit: skipped, no file" in text


def test_a_peer_that_is_better_than_ours_is_the_bold_one():
    made = {"w4-block/comq-onnx/comq": row(0.2), "w4-block/nncf/int4_sym": row(0.1)}
    text = page.tables(results(made))
    assert "| **nncf `int4_sym`** | **3** | **0.1** |" in text
    assert "| comq-onnx `comq` | 3 | 0.2 |" in text


def test_times_are_ratios_to_the_run_of_ours_beside_it():
    made = {
        "w4-block/comq-onnx/comq": row(0.2),
        "w4-block/nncf/int4_sym": row(0.1, seconds=30.0, ours_seconds=20.0, ours_cpu_seconds=16.0),
    }
    text = page.tables(results(made))
    assert cells(text, "comq-onnx `comq`")[5:8] == ["1 (10 s)", "1 (8 s)", "1.5"]
    assert cells(text, "**nncf `int4_sym`**")[5:8] == ["1.5", "0.5", "1.5"]


def test_what_failed_is_told_and_never_best():
    refused = {"plain": "", "optimised": "", "openvino": "Conversion | failed"}
    used = {"seconds": 3.0, "cpu_seconds": 1.0, "peak_bytes": 10}
    made = {
        "w4-block/comq-onnx/comq": row(0.2),
        "w4-block/nncf/int4_sym": {"problem": "ValueError: a <b>"} | used,
        "w4-block/nncf/int4_awq_scales": row(0.3, loads=refused, agrees={"optimised": 1e-6}),
        "w4-block/onnxsim/int4": row(0.0, scores={}),
    }
    text = page.tables(results(made))
    assert cells(text, "nncf `int4_sym`")[1] == "failed"
    assert "- nncf `int4_sym` failed: ValueError: a &lt;b>." in text
    assert cells(text, "nncf `int4_awq_scales`")[-2] == "not OpenVINO"
    assert "- nncf `int4_awq_scales` in OpenVINO: Conversion \\| failed." in text
    assert "Not run: comq-onnx `rtn`, comq-onnx `comq_matmul`, modelopt `rtn_dq`" in text
    assert cells(text, "onnxsim `int4`")[1] == "does not run"
    assert "| **comq-onnx `comq`** |" in text
    assert_well_formed(text)


def assert_well_formed(text):
    """Every table has a line under its head and as many cells in each row."""
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert blocks
    for block in blocks:
        counts = [len(re.findall(r"(?<!\\)\|", line)) for line in block]
        assert set(counts) == {counts[0]}, block
        assert re.fullmatch(r"[|\s:-]+", block[1])


def test_reasons_that_are_alike_are_told_once_and_without_what_says_nothing():
    failed = "Non-zero status code returned while running Add node. Name:'a' Status Message: no shape …"
    refused = {"plain": "x.onnx: the model does not run on 'x' float32[1]: " + failed[:60] + " …"}
    broken = {
        "loads": refused | {"optimised": "another", "openvino": ""},
        "scores": {},
        "agrees": {},
        "score_problem": failed,
    }
    names = ("w4-block/nncf/int4_sym", "w4-block/onnxsim/int4")
    text = page.tables(results({name: row(0.1, **broken) for name in names}))
    lines = [line for line in text.splitlines() if line.startswith("- nncf")]
    ways = "in onnxruntime"
    assert lines[0] == f"- nncf `int4_sym` {ways}; onnxsim `int4` {ways}: Add 'a': no shape."


def test_tables_go_between_the_markers_and_nowhere_else(tmp_path):
    path = tmp_path / "peers.md"
    path.write_text(f"before\n\n{page.BEGIN}\nold\n{page.END}\n\nafter\n")
    page.update(path, results({"w4-block/comq-onnx/comq": row(0.2)}))
    text = path.read_text()
    assert text.startswith("before\n\n")
    assert text.endswith(f"{page.END}\n\nafter\n")
    assert "old" not in text
    path.write_text("no markers")
    with pytest.raises(SystemExit, match="to write the tables between"):
        page.update(path, results({}))


def test_the_page_is_well_formed_and_names_its_command_and_versions():
    text = PAGE.read_text(encoding="utf-8")
    made = text.partition(page.BEGIN)[2].partition(page.END)[0]
    assert_well_formed(made)
    assert "python tools/bench_peers.py" in made
    for environment in environments.ENVIRONMENTS.values():
        name = environment.shown[0]
        (pin,) = [p for step in environment.steps for p in step if p.startswith(f"{name}==")]
        assert pin.replace("==", " ") in made, "the page was made with other versions"
    for kind in KINDS.values():
        assert kind.told in made


def test_all_but_our_first_option_are_timed_beside_it(monkeypatch):
    started = []

    def attempt(bench, trial, folder):
        started.append(trial.option)
        return {"problem": "stopped", "seconds": len(started), "cpu_seconds": 5.0, "when": time.time()}

    monkeypatch.setattr(bench_peers, "attempt", attempt)
    args = argparse.Namespace(ours={}, fresh=60.0)
    bench = argparse.Namespace(model=argparse.Namespace(name="net"), record={"rows": {}}, args=args)
    asked = [
        t for t in trials(["w4-block"], [OURS, "nncf"]) if t.option in ("comq", "comq_matmul", "int4_sym")
    ]
    beside = [bench_peers.bench_trial(bench, trial).get("ours_seconds") for trial in asked]
    assert (started, beside) == (["comq", "comq_matmul", "int4_sym"], [None, 1, 1])
    args.fresh = 0.0
    assert bench_peers.bench_trial(bench, asked[1])["ours_seconds"] == 4
    assert started[3:] == ["comq", "comq_matmul"]
