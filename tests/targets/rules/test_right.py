"""Valid files give no finding, and the runtimes make of them what the rules promise."""

import numpy as np
import pytest
from targets.rules.files import deviation, feeds, optimized, session
from targets.rules.right_activations import EIGHT_BITS
from targets.rules.right_weights import WEIGHT_ONLY

from comq_onnx.targets.findings import findings
from comq_onnx.targets.rules import onnxruntime as ort_rules
from comq_onnx.targets.rules import openvino, portable, web

RIGHT = {f"weights: {name}": right for name, right in WEIGHT_ONLY.items()} | {
    f"8 bits: {name}": right for name, right in EIGHT_BITS.items()
}
RULES = {
    "ort": ort_rules.RULES,
    "openvino": openvino.RULES,
    "portable": portable.RULES,
    "web": web.RULES,
}


@pytest.mark.parametrize("name", RIGHT)
def test_no_rule_of_its_targets_is_broken(name):
    for target in RIGHT[name].targets:
        assert findings(RIGHT[name].proto, RULES[target]) == ()


@pytest.mark.parametrize("name", RIGHT)
def test_the_other_targets_warn_at_most_of_speed_or_refuse_what_they_cannot_hold(name):
    for target in RULES.keys() - set(RIGHT[name].targets):
        assert findings(RIGHT[name].proto, RULES[target])


@pytest.mark.parametrize("name", RIGHT)
def test_onnxruntime_fuses_it_and_computes_the_same(name, tmp_path):
    right = RIGHT[name]
    graph = optimized(right.proto, tmp_path).graph
    weights = {tensor.name for tensor in graph.initializer}
    kept = [n for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] in weights]
    assert not kept
    assert {node.op_type for node in graph.node} >= set(right.fused)
    assert deviation(right.proto) <= right.limit


@pytest.mark.openvino
@pytest.mark.parametrize("name", [n for n, right in RIGHT.items() if "openvino" in right.targets])
def test_openvino_computes_the_same(name, tmp_path):
    core = pytest.importorskip("openvino").Core()
    proto = RIGHT[name].proto
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    exact = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    found = core.compile_model(path, "CPU", exact)(feeds(proto))[0]
    expected = session(proto, False).run(None, feeds(proto))[0]
    error = np.linalg.norm(np.float64(found) - expected) / np.linalg.norm(np.float64(expected))
    assert error < 3e-2
