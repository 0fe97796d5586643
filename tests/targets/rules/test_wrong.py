"""Every rule finds the file that breaks it, and no other rule does; the runtime shows what the rule says."""

import subprocess
import sys

import onnxruntime
import pytest
from targets.rules.files import deviation, feeds, optimized, session
from targets.rules.wrong import FAILS, OPENVINO, ORT, REFUSED, UNFUSED, WEB, WRONG

from comq_onnx.targets.findings import findings
from comq_onnx.targets.rules import onnxruntime as ort_rules
from comq_onnx.targets.rules import openvino as openvino_rules
from comq_onnx.targets.rules import portable, web

VERSION = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])
RULES = {"ORT": ort_rules.RULES, "OV": openvino_rules.RULES, "WEB": web.OWN}
CORPUS = ORT | OPENVINO | WEB


def ids(proto, rules):
    return [finding.rule for finding in findings(proto, rules)]


@pytest.mark.parametrize("rule", CORPUS)
def test_a_rule_finds_its_file_and_is_alone_in_it(rule):
    assert ids(CORPUS[rule].proto, RULES[rule.split("-")[0]]) == [rule]


def test_every_rule_has_a_file():
    assert {rule.id for rules in RULES.values() for rule in rules} == set(CORPUS)


def test_ids_are_unique_and_say_the_severity():
    for rules in (portable.RULES, web.RULES, *RULES.values()):
        assert len({rule.id for rule in rules}) == len(rules)
        assert all(rule.id.split("-")[1][0] == rule.severity[0].upper() for rule in rules)
        assert all(rule.demands.endswith(".") and not rule.fix.endswith(".") for rule in rules)


@pytest.mark.parametrize("rule", ORT | OPENVINO)
def test_the_portable_target_finds_it_too(rule):
    found = findings(CORPUS[rule].proto, portable.RULES)
    same = next(r for r in RULES[rule.split("-")[0]] if r.id == rule)
    other = {r.id: r.breaches for r in portable.RULES}
    assert any(other[finding.rule] is same.breaches for finding in found)


@pytest.mark.parametrize("rule", [r for r in ORT if "-E" in r])
def test_the_web_target_finds_the_errors_of_onnxruntime(rule):
    assert rule in ids(ORT[rule].proto, web.RULES)


@pytest.mark.parametrize("rule", [r for r, wrong in ORT.items() if wrong.does in (REFUSED, FAILS)])
def test_onnxruntime_refuses_it(rule):
    wrong = ORT[rule]
    if wrong.before and tuple(map(int, wrong.before.split("."))) <= VERSION:
        session(wrong.proto)
        return
    with pytest.raises(Exception, match="ONNXRuntimeError"):  # its exceptions have no class in common
        session(wrong.proto).run(None, feeds(wrong.proto))


@pytest.mark.parametrize("rule", [r for r, wrong in ORT.items() if wrong.does == WRONG])
def test_onnxruntime_computes_something_else(rule):
    assert deviation(ORT[rule].proto) > 0.1


@pytest.mark.parametrize("rule", [r for r, wrong in ORT.items() if wrong.does == UNFUSED])
def test_onnxruntime_leaves_a_weight_to_be_dequantized_on_each_call(rule, tmp_path):
    graph = optimized(ORT[rule].proto, tmp_path).graph
    weights = {tensor.name for tensor in graph.initializer}
    assert any(node.op_type == "DequantizeLinear" and node.input[0] in weights for node in graph.node)


RUN = """
import sys, numpy, onnx, openvino
from targets.rules.files import feeds, session
exact = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
model = openvino.Core().compile_model(sys.argv[1], "CPU", exact)
print("loaded")
proto = onnx.load(sys.argv[1])
found = model(feeds(proto))[0]
expected = session(proto, False).run(None, feeds(proto))[0]
print(numpy.linalg.norm(found - expected) / numpy.linalg.norm(expected))
"""


@pytest.mark.openvino
@pytest.mark.parametrize("rule", [r for r, wrong in OPENVINO.items() if wrong.does])
def test_openvino_refuses_it_or_computes_something_else(rule, tmp_path):
    """In a process of its own: some of these files kill it."""
    pytest.importorskip("openvino")
    path = tmp_path / "m.onnx"
    path.write_bytes(OPENVINO[rule].proto.SerializeToString())
    folders = {"PYTHONPATH": ":".join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(path)], capture_output=True, text=True, env=folders, check=False
    )
    if OPENVINO[rule].does == REFUSED:
        assert done.returncode
        assert "loaded" not in done.stdout
    else:
        assert done.returncode or float(done.stdout.split()[-1]) > 0.1
