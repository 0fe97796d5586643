"""The command as a user meets it: tables, exit codes, files."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from graphs import model, weight

from comq_onnx.cli import main
from comq_onnx.config import read_recipe
from comq_onnx.recipe import Recipe

NET = """g (float[B,64] x) => (float[B,16] y) {
  h = MatMul(x, w1)
  a = Add(h, b1)
  r = Relu(a)
  y = Gemm<transB=1>(r, w2, b2)
}"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    weights = {"w1": weight(64, 96), "b1": weight(96), "w2": weight(96, 16).T.copy(), "b2": weight(16)}
    made = model(NET, **weights)
    for node, name in zip(made.graph.node, ("fc1", "fc1_bias", "relu", "fc2"), strict=True):
        node.name = name
    made.metadata_props.add(key="labels", value="a,b")
    onnx.save(made, path)
    np.savez(tmp_path / "data.npz", x=weight(64, 64, seed=9) * 8 + 0.5)
    return path


def call(*words: object) -> Result:
    return CliRunner().invoke(main, [str(w) for w in words], catch_exceptions=False)


def test_the_plain_form(net: Path) -> None:
    out = net.with_name("small.onnx")
    done = call(net, "-o", out, "--calibration-data", net.with_name("data.npz"))
    assert done.exit_code == 0
    assert out.stat().st_size < 0.5 * net.stat().st_size
    for words in ("fc1", "fc2", "int4", "->", "2 weights quantized, 0 kept float", "data.npz", str(out)):
        assert words in done.stdout
    assert "solve 100 %" in done.stderr


def test_the_output_has_a_default_name(net: Path) -> None:
    assert call(net, "--weights", "int8").exit_code == 0
    assert net.with_name("net_int8.onnx").is_file()


def test_underscores_and_minus_one_are_understood(net: Path) -> None:
    out = net.with_name("small.onnx")
    data = net.with_name("data.npz")
    done = call(net, "-o", out, "--calibration_data", data, "--block_size", "-1", "--solver", "comq_paper")
    assert done.exit_code == 0
    assert "int4 channel" in done.stdout


def test_effort_threads_and_device_are_flags(net: Path) -> None:
    out, data = net.with_name("small.onnx"), net.with_name("data.npz")
    words = (net, "-o", out, "--calibration-data", data, "--device", "cpu", "--threads", 1)
    assert call(*words, "--effort", "fast").exit_code == 0
    fast = out.read_bytes()
    assert call(*words, "--effort", "max").exit_code == 0
    assert out.read_bytes() != fast
    refused = call(*words, "--device", "tpu")
    assert refused.exit_code == 1
    assert refused.stderr.startswith("comq-onnx: ")
    assert "--device" in refused.stderr


@pytest.mark.skipif(find_spec("cupy") is not None, reason="CuPy is installed")
def test_a_gpu_that_is_not_there_is_one_sentence_and_no_file(net: Path) -> None:
    out = net.with_name("small.onnx")
    refused = call(net, "-o", out, "--calibration-data", net.with_name("data.npz"), "--device", "cuda")
    assert refused.exit_code == 1
    assert refused.stderr.strip().splitlines()[-1].startswith("comq-onnx: ")
    assert "Traceback" not in refused.stderr
    assert not out.exists()


def test_the_report_accounts_for_every_weight(net: Path) -> None:
    path = net.with_name("report.json")
    words = (net, "-o", net.with_name("o.onnx"), "--calibration-data", net.with_name("data.npz"))
    done = call(*words, "--report", path, "--nodes-to-exclude", "fc1")
    assert done.exit_code == 0
    report = json.loads(path.read_text())
    by_name = {line["name"]: line for line in report["lines"]}
    assert by_name["fc1"]["reason"] == "excluded by --nodes-to-exclude"
    assert by_name["fc1"]["form"] == ""
    assert by_name["fc2"]["sqnr_after"] > by_name["fc2"]["sqnr_before"]
    assert report["recipe"] == {"nodes_to_exclude": ["fc1"]}
    assert report["bytes_after"] == net.with_name("o.onnx").stat().st_size
    assert all(check["ok"] for check in report["verification"]["checks"])


def test_the_report_is_a_page_too(net: Path) -> None:
    path, beside = net.with_name("report.html"), net.with_name("report.json")
    words = (net, "-o", net.with_name("o.onnx"), "--calibration-data", net.with_name("data.npz"))
    done = call(*words, "--inputs", "quantized", "--report", path, "--report", beside)
    assert done.exit_code == 0
    text = path.read_text(encoding="utf-8")
    assert all(words in text for words in ("<td>fc1</td>", "<td>fc2</td>"))
    assert text.count("<svg") == 4
    # fc1 reads the samples themselves, fc2 what the quantized fc1 makes of them.
    assert '<th scope="col">input dB</th>' in text
    assert 'id="depth-drift"' in text
    told = json.loads(beside.read_text())
    worst = [line["name"] for line in sorted(told["lines"], key=lambda line: line["sqnr_after"])]
    assert [spread["layer"] for spread in told["spreads"]] == worst
    assert told["command"] == "comq-onnx net.onnx --calibration-data data.npz --inputs quantized -o o.onnx"
    assert str(net.parent) not in text


def test_a_report_of_another_kind_is_refused_before_the_work(net: Path) -> None:
    forms = ("--report", net.with_name("r.json"), "--report", net.with_name("r.txt"))
    done = call(net, "-o", net.with_name("o.onnx"), *forms)
    assert done.exit_code == 1
    assert "name it .json or .html" in done.stderr
    assert not net.with_name("o.onnx").exists()


def test_no_data_is_said_loudly(net: Path) -> None:
    done = call(net, "-o", net.with_name("o.onnx"))
    assert done.exit_code == 0
    assert "NO DATA GIVEN" in done.stdout


def test_dry_run_writes_nothing(net: Path) -> None:
    before = sorted(net.parent.iterdir())
    done = call(net, "--dry-run", "--nodes-to-exclude", "fc1")
    assert done.exit_code == 0
    assert "1 weights would be quantized" in done.stdout
    assert "kept: excluded by --nodes-to-exclude" in done.stdout
    assert sorted(net.parent.iterdir()) == before


def test_dry_run_says_what_a_run_would_take(net: Path) -> None:
    data = net.with_name("data.npz")
    told = call(net, "--dry-run", "--calibration-data", data, "--batch-size", 4)
    assert told.exit_code == 0
    # 64 samples; fc1 reads the input, so the Add and the Relu and fc1 itself run, in both networks.
    assert "quantized network's inputs: 96 node executions in 16 batches" in told.stdout
    assert "nothing on disk" in told.stdout
    assert "Time: about" in told.stdout
    assert "unknown shapes" not in told.stdout
    assert call(net, "-o", net.with_name("o.onnx"), "--calibration-data", data).exit_code == 0
    size = int(told.stdout.split("-> about ")[-1].split()[0].replace(",", ""))
    written = net.with_name("o.onnx").stat().st_size
    assert 0 < written - size < 300  # how it was made is written into the file


def test_dry_run_says_what_it_does_not_count(net: Path) -> None:
    data = ("--dry-run", "--calibration-data", net.with_name("data.npz"))
    assert "--mrecg adds" in call(net, *data, "--mrecg", 1).stdout
    assert "--mrecg" not in call(net, *data).stdout


def test_dry_run_without_data_whose_shapes_can_be_guessed(net: Path) -> None:
    told = call(net, "--dry-run", "--calibration-samples", 8)
    assert "float network's inputs: 24 node executions in 8 batches" in told.stdout


def test_dry_run_says_why_it_cannot_estimate(tmp_path: Path) -> None:
    path = tmp_path / "wide.onnx"
    onnx.save(
        model("g (float[B,C,D,64] x) => (float[B,C,D,32] y) { y = MatMul(x, w) }", w=weight(64, 32)), path
    )
    told = call(path, "--dry-run")
    assert told.exit_code == 0
    assert "File: " in told.stdout
    assert "No estimate of memory and time: " in told.stdout
    assert "--calibration-shapes" in told.stdout
    fed = call(path, "--dry-run", "--calibration-shapes", "x:1x2x3x64")
    assert "Time: about" in fed.stdout


def test_dry_run_finds_bad_data(net: Path) -> None:
    np.savez(net.with_name("bad.npz"), x=np.ones((4, 63), np.float32))
    refused = call(net, "--dry-run", "--calibration-data", net.with_name("bad.npz"))
    assert refused.exit_code == 1
    assert "bad.npz" in refused.stderr


def test_names_that_look_like_markup_are_printed_as_they_are(net: Path) -> None:
    model_ = onnx.load(net)
    model_.graph.node[0].name, model_.graph.node[3].name = "block[bold]/fc1", "head[/x]"
    onnx.save(model_, net)
    for words in (("--dry-run",), ("--solver", "rtn", "-o", net.with_name("o.onnx"))):
        done = call(net, *words)
        assert done.exit_code == 0
        assert "block[bold]/fc1" in done.stdout
        assert "head[/x]" in done.stdout


def test_strict_ends_with_three(net: Path) -> None:
    words = (net, "-o", net.with_name("o.onnx"), "--calibration-data", net.with_name("data.npz"), "--strict")
    assert call(*words, "--block-size", "32").exit_code == 0
    done = call(*words, "--nodes-to-exclude", "fc1")
    assert done.exit_code == 3
    assert "fc1 stays float" in done.stderr


def test_quiet_is_quiet(net: Path) -> None:
    done = call(net, "-o", net.with_name("o.onnx"), "-q", "--calibration-data", net.with_name("data.npz"))
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "")


def test_a_wrong_flag_is_a_usage_error(net: Path) -> None:
    assert call(net, "--wieghts", "int4").exit_code == 2


def test_rules_are_shown_before_and_hold_after(net: Path) -> None:
    words = ("--rule", "fc=int8", "--rule", "fc2=int4:32")
    told = call(net, "--dry-run", *words)
    assert told.exit_code == 0
    lines = {line.split()[0]: line for line in told.stdout.splitlines() if line.startswith("fc")}
    assert "int8 channel" in lines["fc1"]
    assert "int4 b32" in lines["fc2"]
    report = net.with_name("report.json")
    done = call(net, "-o", net.with_name("o.onnx"), "--keep-float", "fc1", *words, "--report", report)
    assert done.exit_code == 0
    found = {line["name"]: line for line in json.loads(report.read_text())["lines"]}
    assert found["fc1"]["reason"] == "kept float by --keep-float"
    assert found["fc2"]["grid"] == "int4 b32"


def test_float16_by_rule_is_shown(net: Path) -> None:
    told = call(net, "--dry-run", "--rule", "fc1=float16")
    assert told.exit_code == 0
    assert "fc1    Gemm    16x96  float16" in " ".join(told.stdout.split("\n")) or "float16" in told.stdout


def test_the_command_line_wins_over_the_file(net: Path) -> None:
    config, saved = net.with_name("recipe.toml"), net.with_name("saved.toml")
    config.write_text('weights = "int8"\nseed = 3\nrule = ["fc1=int2"]\nkeep_float = ["fc2"]\n')
    told = call(net, "--dry-run", "--config", config, "--rule", "fc1=int3", "--save_config", saved)
    assert told.exit_code == 0
    assert "int3" in told.stdout
    assert "kept: kept float by --keep-float" in told.stdout
    assert read_recipe(saved) == {
        "weights": "int8",
        "seed": 3,
        "rules": ("fc1=int3",),
        "keep_float": ("fc2",),
    }
    # A default that is typed is typed.
    again = ("--dry-run", "--config", saved, "--save-config", saved, "--weights", "int4", "--seed", 0)
    assert call(net, *again).exit_code == 0
    assert read_recipe(saved) == {"rules": ("fc1=int3",), "keep_float": ("fc2",)}


def test_the_output_is_named_by_the_width_in_the_file(net: Path) -> None:
    config = net.with_name("recipe.toml")
    config.write_text('weights = "int8"\nsolver = "rtn"\n')
    assert call(net, "-q", "--config", config).exit_code == 0
    assert net.with_name("net_int8.onnx").is_file()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("weights = ", "it is no TOML"),
        ("width = 'int4'", "width: it is no field"),
        ("seed = '1'", "seed: '1'"),
    ],
)
def test_a_bad_recipe_ends_with_one_sentence(net: Path, text: str, words: str) -> None:
    config = net.with_name("recipe.toml")
    config.write_text(text)
    refused = call(net, "-o", net.with_name("o.onnx"), "--config", config)
    assert refused.exit_code == 1
    assert refused.stderr.startswith(f"comq-onnx: --config {config}: ")
    assert words in refused.stderr
    assert not net.with_name("o.onnx").exists()


@pytest.mark.parametrize(
    "words", [("--rule", "fc1"), ("--rule", "nothing=int8"), ("--keep-float", "nothing")]
)
def test_a_bad_rule_ends_with_one_sentence(net: Path, words: tuple[str, str]) -> None:
    refused = call(net, "-o", net.with_name("o.onnx"), *words)
    assert refused.exit_code == 1
    assert refused.stderr.startswith(f"comq-onnx: {words[0]}: ")
    assert not net.with_name("o.onnx").exists()


def test_flags_and_fields_have_the_same_defaults() -> None:
    options = {p.name: p.default for p in main.commands["quantize"].params}
    flags = {name: options[name] for name in Recipe.__dataclass_fields__}
    assert (
        Recipe(**{k: () if v is None else v for k, v in flags.items() if isinstance(v, str | int | float)})
        == Recipe()
    )
