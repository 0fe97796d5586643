"""Files run in OpenVINO, in a process that may die."""

import numpy as np
import onnx.reference
import pytest
from graphs import model
from run.foreign import (
    assert_same,
    many_types,
    net,
    net_batches,
    save,
    scales_along_rows,
    type_answers,
    type_feeds,
)

from comq_onnx.errors import ComqError
from comq_onnx.run.openvino_ import openvino_missing, outputs_in_openvino, run_openvino

here = pytest.mark.skipif(bool(openvino_missing()), reason="openvino is not installed")


@here
@pytest.mark.openvino
def test_types_and_dynamic_shapes(tmp_path):
    # OpenVINO computes int64 in 32 bits on a CPU.
    feeds = type_feeds(largest=1 << 20)
    assert_same(run_openvino(many_types(tmp_path), feeds, exact=True), type_answers(feeds))


@here
@pytest.mark.openvino
def test_one_value_under_two_names(tmp_path):
    outputs = "float[N] a, float[N] b, float[N] c"
    text = f"g (float[N] x) => ({outputs}) {{ a = Neg(x) b = Identity(a) c = Identity(x) }}"
    x = np.array([1.0, -2.0], np.float32)
    found = run_openvino(save(model(text), tmp_path), {"x": x}, exact=True)
    assert_same(found, {"a": -x, "b": -x, "c": x})


@here
@pytest.mark.openvino
@pytest.mark.parametrize("external", [False, True])
def test_all_batches_at_both_settings(tmp_path, external):
    path, batches = save(net(), tmp_path, external), net_batches(2)
    exact, deployed = outputs_in_openvino(path, batches, [True, False])
    reference = onnx.reference.ReferenceEvaluator(net())
    for i, feeds in enumerate(batches):
        expected = dict(zip(("y", "hidden"), reference.run(None, feeds), strict=True))
        assert_same(exact[i], expected)
        np.testing.assert_allclose(deployed[i]["y"], expected["y"], atol=0.1)


@here
@pytest.mark.openvino
def test_a_file_it_does_not_take(tmp_path):
    proto = model("g (float[N, 4] x) => (float[N, 4] y) { y = Abs(x) }")
    proto.graph.node[0].domain = "nobody"
    proto.opset_import.add(domain="nobody", version=1)
    with pytest.raises(ComqError, match="OpenVINO does not run the file"):
        run_openvino(save(proto, tmp_path), {"x": np.zeros((1, 4), np.float32)}, exact=True)


@here
@pytest.mark.openvino
def test_a_file_that_kills_it_does_not_kill_us(tmp_path):
    path = save(scales_along_rows(), tmp_path)
    x = np.ones((5, 64), np.float32)
    for found in outputs_in_openvino(path, [{"x": x}], [True, False]):
        if not isinstance(found, ComqError):  # a version that survives it computes something else
            expected = onnx.reference.ReferenceEvaluator(scales_along_rows()).run(None, {"x": x})[0]
            assert np.linalg.norm(found[0]["y"] - expected) > 0.1 * np.linalg.norm(expected)


def test_it_says_why_it_cannot(monkeypatch, tmp_path):
    monkeypatch.setattr("comq_onnx.run.openvino_.find_spec", lambda name: None)
    assert "pip install openvino" in openvino_missing()
    with pytest.raises(ComqError, match="openvino is not installed"):
        run_openvino(save(net(), tmp_path), net_batches(1)[0], exact=True)
