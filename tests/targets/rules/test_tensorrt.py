"""Every rule of TensorRT finds the file that breaks it, and nothing in files that are right."""

import onnx
import onnx.parser
import pytest
from qdq_files import CONV, F16, File
from trt_broken import BROKEN, FUNCTION, IN_FUNCTION, PLAIN
from trt_foreign import FOREIGN
from trt_valid import VALID

from comq_onnx import check
from comq_onnx.targets.rules import RULES

CASES = [pytest.param(*case, id=f"{i:02}-{case[0]}") for i, case in enumerate(BROKEN)]


def rules_of(proto: onnx.ModelProto) -> set[str]:
    return {finding.rule for finding in check(proto, "tensorrt")}


def errors(proto: onnx.ModelProto) -> list[str]:
    return [str(finding) for finding in check(proto, "tensorrt") if finding.severity == "error"]


@pytest.mark.parametrize(("rule", "wrong", "right"), CASES)
def test_a_broken_file_breaks_its_rule_alone(rule: str, wrong: File, right: File) -> None:
    assert rules_of(wrong.proto()) == {rule}
    assert rules_of(right.proto()) == set()


def test_functions_are_told_of_and_looked_into() -> None:
    assert rules_of(onnx.parser.parse_model(FUNCTION)) == {"TRT-W01"}
    assert rules_of(onnx.parser.parse_model(PLAIN)) == set()
    assert rules_of(onnx.parser.parse_model(IN_FUNCTION)) == {"TRT-W01", "TRT-E09"}


def test_every_rule_has_a_file_that_breaks_it() -> None:
    told = {rule.id for rule in RULES["tensorrt"]}
    assert {case[0] for case in BROKEN} | {"TRT-W01"} == told
    assert len(told) == len(RULES["tensorrt"])
    assert {f"TRT-E{i:02}" for i in range(1, 22)} | {f"TRT-W{i:02}" for i in range(1, 10)} <= told


def test_the_corpus_is_large() -> None:
    assert len(BROKEN) + len(FOREIGN) >= 40
    assert len(VALID) >= 40


@pytest.mark.parametrize("name", VALID)
def test_a_valid_file_has_no_error(name: str) -> None:
    proto, warned = VALID[name]
    proto = proto.proto() if isinstance(proto, File) else proto
    onnx.checker.check_model(proto, full_check=not any(o.domain for o in proto.opset_import))
    assert errors(proto) == []
    assert rules_of(proto) == warned


@pytest.mark.parametrize("name", FOREIGN)
def test_what_another_quantizer_wrote(name: str) -> None:
    file, broken = FOREIGN[name]
    assert rules_of(file.proto()) == broken


def test_a_finding_says_where_why_and_what_to_do() -> None:
    proto = CONV.but(z=CONV.arrays["z"] + 3).proto()
    proto.graph.node[0].name = "quantize_x"
    (found,) = check(proto, "tensorrt")
    assert (found.rule, found.severity, found.node) == ("TRT-E07", "error", "quantize_x")
    assert str(found) == "TRT-E07 quantize_x: 1 of its 1 zero points are not 0; quantize symmetrically"


def test_a_pair_is_told_of_once_and_each_channel_counted() -> None:
    bad = CONV.arrays["ws"] * F16(0)
    (found,) = check(CONV.but(ws=bad).proto(), "tensorrt")
    assert found.why == "4 of its 4 scales are not positive and finite"
    assert found.node == "w"
