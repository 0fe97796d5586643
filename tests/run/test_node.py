"""Files run in onnxruntime-node and onnxruntime-web under Node."""

from statistics import median

import numpy as np
import onnx.reference
import pytest
from graphs import model, weight
from run.foreign import assert_same, many_types, net, net_batches, save, type_answers, type_feeds

from comq_onnx.errors import ComqError
from comq_onnx.run.node import NODE, VARIABLE, WEB, node_missing, outputs_in_node, time_in_node

both = pytest.mark.parametrize("package", [NODE, WEB])


@both
@pytest.mark.node
def test_types_and_dynamic_shapes(package, tmp_path, node_folder):
    feeds = type_feeds(largest=(1 << 60) + 1)
    (found,) = outputs_in_node(package, many_types(tmp_path), [feeds], node_folder)
    assert_same(found, type_answers(feeds))


@both
@pytest.mark.node
@pytest.mark.parametrize("external", [False, True])
def test_all_batches(package, external, tmp_path, node_folder):
    path, batches = save(net(), tmp_path, external), net_batches(2)
    found = outputs_in_node(package, path, batches)
    reference = onnx.reference.ReferenceEvaluator(net())
    for outputs, feeds in zip(found, batches, strict=True):
        assert_same(outputs, dict(zip(("y", "hidden"), reference.run(None, feeds), strict=True)))


@both
@pytest.mark.node
def test_a_file_it_does_not_take(package, tmp_path, node_folder):
    proto = model("g (float[N, 4] x) => (float[N, 4] y) { y = Abs(x) }")
    proto.graph.node[0].domain = "nobody"
    proto.opset_import.add(domain="nobody", version=1)
    with pytest.raises(ComqError, match=f"model.onnx: {package} does not run the file: .*nobody"):
        outputs_in_node(package, save(proto, tmp_path), [{"x": np.zeros((1, 4), np.float32)}])


@both
@pytest.mark.node
def test_feeds_it_does_not_take(package, tmp_path, node_folder):
    with pytest.raises(ComqError, match=f"{package} does not run the file"):
        outputs_in_node(package, save(net(), tmp_path), [{"x": np.zeros((1, 3, 8, 8), np.float32)}])


@both
@pytest.mark.node
def test_each_file_is_timed_as_often(package, tmp_path, node_folder):
    paths = []
    for name, width in (("small", 8), ("large", 1500)):
        (tmp_path / name).mkdir()
        text = "g (float[B, 8] x) => (float[B, N] z) { y = MatMul(x, W) z = MatMul(y, V) }"
        proto = model(text, W=weight(8, width), V=weight(width, width))
        paths.append(save(proto, tmp_path / name))
    small, large = time_in_node(package, paths, {"x": np.ones((16, 8), np.float32)}, 5)
    assert len(small) == len(large) == 5
    assert 0 < median(small) < median(large) < 60


@pytest.mark.node
def test_the_packages_are_found_from_either_folder(node_folder, monkeypatch):
    monkeypatch.delenv(VARIABLE)
    for folder in (node_folder, node_folder / "node_modules"):
        assert node_missing(NODE, folder) == node_missing(WEB, folder) == ""
    monkeypatch.setenv(VARIABLE, str(node_folder))
    assert node_missing(WEB) == ""
    monkeypatch.delenv(VARIABLE)
    monkeypatch.chdir(node_folder)
    assert node_missing(WEB) == ""


@pytest.mark.node
def test_a_package_that_is_not_there(node_folder, tmp_path):
    assert node_missing(WEB, tmp_path).startswith(f"{WEB} is not found from {tmp_path.resolve()}")
    with pytest.raises(ComqError, match=f"{WEB} is not found"):
        outputs_in_node(WEB, save(net(), tmp_path), net_batches(1), tmp_path)


def test_no_node_at_all(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert node_missing(WEB) == "node is not installed"
    with pytest.raises(ComqError, match="node is not installed"):
        outputs_in_node(WEB, save(net(), tmp_path), net_batches(1))
