"""The same answers in OpenVINO, onnxruntime-node and onnxruntime-web, or a check that says otherwise."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import model
from run.foreign import net, net_batches, save, scales_along_rows

from comq_onnx import Recipe, quantize
from comq_onnx.evaluate.parity import Limits, parity
from comq_onnx.run.openvino_ import openvino_missing
from comq_onnx.targets import planes

GLYPHS = Path(__file__).parents[2] / "samples" / "glyphs"
OPENVINO = ["OpenVINO = onnxruntime, exact", "OpenVINO = onnxruntime, as deployed"]
NODE = ["onnxruntime-node = onnxruntime, as deployed", "onnxruntime-web = onnxruntime, as deployed"]
here = pytest.mark.skipif(bool(openvino_missing()), reason="openvino is not installed")


def written(folder, weights):
    """The small network, quantized."""
    path = folder / "q.onnx"
    quantize(net(), path, net_batches(8), Recipe(weights=weights, solver="rtn"))
    return path


@pytest.fixture(scope="module")
def glyphs(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("glyphs") / "q.onnx"
    quantize(GLYPHS / "glyphs.onnx", path, GLYPHS / "calibration.npz", Recipe(solver="rtn"))
    return path


def images():
    with np.load(GLYPHS / "test.npz") as test:
        return [{"image": part} for part in np.split(test["image"][:32], 2)]


def passed(checks, names):
    assert [check.name for check in checks] == names
    assert [check.detail for check in checks if not check.ok] == []


@here
@pytest.mark.openvino
@pytest.mark.parametrize("weights", ["int4", "int8", "int2"])
def test_openvino_on_a_small_network(weights, tmp_path):
    passed(parity(written(tmp_path, weights), net_batches(2), ["openvino"], Limits()), OPENVINO)


@pytest.mark.node
@pytest.mark.parametrize("weights", ["int4", "int8", "int2"])
def test_node_on_a_small_network(weights, tmp_path, node_folder):
    passed(parity(written(tmp_path, weights), net_batches(2), ["node", "web"], Limits()), NODE)


@here
@pytest.mark.openvino
@pytest.mark.parametrize("weights", ["int6", "int5", "int3"])
def test_openvino_reads_bit_planes(weights, tmp_path, monkeypatch):
    passed(
        parity(in_planes(tmp_path, weights, monkeypatch), net_batches(2), ["openvino"], Limits()), OPENVINO
    )


@pytest.mark.node
@pytest.mark.parametrize("weights", ["int6", "int5", "int3"])
def test_node_reads_bit_planes(weights, tmp_path, monkeypatch, node_folder):
    file = in_planes(tmp_path, weights, monkeypatch)
    passed(parity(file, net_batches(2), ["node", "web"], Limits()), NODE)


def in_planes(folder, weights, monkeypatch):
    """The small network with planes in it, which its weights are too small for."""
    monkeypatch.setattr(planes, "FEWEST", 0)
    file = written(folder, weights)
    assert any(name.endswith("_planes") for name in (t.name for t in onnx.load(file).graph.initializer))
    return file


@here
@pytest.mark.slow
@pytest.mark.openvino
def test_openvino_on_the_sample(glyphs):
    passed(parity(glyphs, images(), ["openvino"], Limits()), OPENVINO)


@pytest.mark.slow
@pytest.mark.node
def test_node_on_the_sample(glyphs, node_folder):
    passed(parity(glyphs, images(), ["node", "web"], Limits()), NODE)


@here
@pytest.mark.openvino
@pytest.mark.parametrize("rows", [1, 5])
def test_a_file_that_is_wrong_or_deadly_there_fails_its_checks(rows, tmp_path):
    batches = [{"x": np.random.default_rng(1).standard_normal((rows, 64)).astype(np.float32)}]
    checks = parity(save(scales_along_rows(), tmp_path), batches, ["openvino"], Limits())
    assert [check.name for check in checks] == OPENVINO
    assert not any(check.ok for check in checks)


@pytest.mark.node
def test_another_file_than_the_reference_fails(tmp_path, node_folder):
    path = save(net(), tmp_path)
    wrong = [{"y": np.ones((2, 16), np.float32), "hidden": np.ones((2, 64), np.float32)}]
    (check,) = parity(path, net_batches(1), ["node"], Limits(), wrong)
    assert not check.ok
    assert "'hidden' deviates by" in check.detail
    (check,) = parity(path, net_batches(1), ["node"], Limits(), [{"z": np.ones(3)}])
    assert check.detail == "the runtime gives no output 'z'"


def test_a_runtime_that_is_missing_is_told_and_nothing_is_run(tmp_path, monkeypatch):
    monkeypatch.setattr("comq_onnx.run.openvino_.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    checks = parity(tmp_path / "nothing.onnx", [], ["openvino", "node", "web"], Limits())
    assert [check.name for check in checks] == ["OpenVINO", "onnxruntime-node", "onnxruntime-web"]
    assert all(check.ok and check.detail.startswith("not looked at: ") for check in checks)


@here
@pytest.mark.openvino
def test_a_file_that_onnxruntime_does_not_load(tmp_path):
    (check,) = parity(tmp_path / "nothing.onnx", [], ["openvino"], Limits())
    assert (check.name, check.ok) == ("runs in onnxruntime", False)


def test_limits_follow_what_the_file_rounds():
    rounds = "g (float[N] x, float s, uint8 z) => (uint8[N] y) { y = QuantizeLinear(x, s, z) }"
    assert Limits().for_file(model(rounds)) == Limits(3e-2, 3e-2)
    assert Limits(0.1, 0.2).for_file(model(rounds)) == Limits(0.1, 0.2)
    assert Limits().for_file(net()) == Limits(1e-3, 2e-2)
    # 0.03^2 + 25 * 0.007^2 = 0.002125
    assert Limits(deployed=0.03).in_bfloat16(25) ** 2 == pytest.approx(0.002125)


def test_the_small_network_is_valid():
    onnx.checker.check_model(net(), full_check=True)
    onnx.checker.check_model(scales_along_rows(), full_check=True)
