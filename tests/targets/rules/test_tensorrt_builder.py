"""What the builder of TensorRT for RTX makes of the files that TensorRT's rules are tested with."""

from collections import Counter
from pathlib import Path

import onnx
import onnx.parser
import pytest
from qdq_files import File
from trt_broken import BROKEN, FUNCTION, IN_FUNCTION
from trt_foreign import FOREIGN
from trt_valid import VALID

from comq_onnx.evaluate.engines import engine_of
from comq_onnx.run.tensorrt_ import Engine, tensorrt_missing

pytestmark = [
    pytest.mark.tensorrt,
    pytest.mark.skipif(bool(tensorrt_missing()), reason=tensorrt_missing()),
]

NO_KERNEL = "the product is computed in float"
UNSEEN = "the parser does not look at it, and 8-bit kernels are there"
ACCEPTED = {
    "TRT-E01.0": "newer opsets are read",
    "TRT-E01.1": "newer IR versions are read",
    "TRT-E02.1": "Gelu is known by its name, whatever its domain",
    "TRT-E03.1": "a scale may be computed; one that is an input ends the process",
    "TRT-E04.2": "only the sign of scales is looked at: infinity",
    "TRT-E04.3": "only the sign of scales is looked at: not a number",
    "TRT-E09.0": "INT8 is meant where nothing is said",
    "TRT-E09.1": "output_dtype 0 is nothing said",
    "TRT-E10.0": "UINT8 with zero points of 0 is taken for INT8, with a warning",
    "TRT-E11.0": NO_KERNEL,
    "TRT-E12.0": UNSEEN,
    "TRT-E12.1": UNSEEN,
    "TRT-E13.0": UNSEEN,
    "TRT-E14.0": NO_KERNEL,
    "TRT-E15.0": "the last block may be short",
    "TRT-E16.0": NO_KERNEL,
    "TRT-E16.1": NO_KERNEL,
    "TRT-E18.0": NO_KERNEL,
    "TRT-E18.1": NO_KERNEL,
    "TRT-E19.0": "the weight is copied into an even one",
    "TRT-E20.0": NO_KERNEL,
    "TRT-E20.1": NO_KERNEL,
    "TRT-E21.0": NO_KERNEL,
    "TRT-E21.1": NO_KERNEL,
    "TRT-E21.2": NO_KERNEL,
    "TRT-E21.3": NO_KERNEL,
    "TRT-E21.4": NO_KERNEL,
}
"""Rule and number of its file in `BROKEN`: errors by TensorRT's documents that are built nevertheless."""
REFUSED = {
    "TRT-W11.0": "SIGSEGV",
    "TRT-W11.1": "SIGSEGV",
    "TRT-W11.2": "Quantized constant",
    "TRT-W12.1": "Myelin",
}
"""Files with a warning that it does not build, and a word of the reason; the others with one are built."""
NOT_BUILT = {
    "a plugin": "Plugin not found",
    "int8 without shapes": "symbolic execution",
    "int4 in If": "has datatype Int4 but is not consumed by",
}
"""Valid files: one needs a plugin, one has an input of unknown rank, one shares codes between branches."""
IN_FLOAT = {
    "int8 ConvTranspose per tensor": "half",
    "int8 Conv, scale of shape [1]": "half",
}
FOREIGN_BUILT = {"modelopt int8", "modelopt int4 below opset 21", "torch.onnx per channel"}


def numbered() -> list:
    seen: Counter[str] = Counter()
    cases = []
    for rule, wrong, _ in BROKEN:
        cases.append(pytest.param(rule, f"{rule}.{seen[rule]}", wrong, id=f"{rule}.{seen[rule]}"))
        seen[rule] += 1
    return cases


def engine(proto: onnx.ModelProto, folder: Path) -> Engine:
    path = folder / "model.onnx"
    onnx.save(proto, path)
    return engine_of(path)


@pytest.mark.parametrize(("rule", "name", "wrong"), numbered())
def test_what_breaks_a_rule_is_refused_or_known_to_be_built(
    rule: str, name: str, wrong: File, tmp_path: Path
) -> None:
    found = engine(wrong.proto(), tmp_path)
    if name in REFUSED:
        assert REFUSED[name] in found.error
    elif rule.startswith("TRT-W") or name in ACCEPTED:
        assert found.error == ""
    else:
        assert found.error
    if ACCEPTED.get(name) == NO_KERNEL:
        assert set(found.computes_in()) <= {"half"}
    if ACCEPTED.get(name) == UNSEEN:
        assert set(found.computes_in()) == {"int8"}


def test_the_tables_name_files_that_there_are() -> None:
    names = {case.values[1] for case in numbered()}
    assert set(ACCEPTED) | set(REFUSED) <= names
    assert set(NOT_BUILT) | set(IN_FLOAT) <= set(VALID)
    assert set(FOREIGN) >= FOREIGN_BUILT


@pytest.mark.parametrize("name", VALID)
def test_a_valid_file_is_built_and_computes_in_its_types(name: str, tmp_path: Path) -> None:
    file = VALID[name][0]
    found = engine(file.proto() if isinstance(file, File) else file, tmp_path)
    if name in NOT_BUILT:
        assert NOT_BUILT[name] in found.error
        return
    assert found.error == ""
    kinds = found.computes_in()
    if name in IN_FLOAT:
        assert set(kinds) == {IN_FLOAT[name]}
    elif kinds and name.startswith(("int8", "fp8", "fp4")):
        assert set(kinds) == {{"int8": "int8", "fp8 ": "fp8_e4m3", "fp4": "fp4_e2m1"}[name[:4]]}
    if name.startswith("int4"):
        assert found.constants["int4"] > 0


@pytest.mark.parametrize("name", FOREIGN)
def test_what_other_quantizers_write(name: str, tmp_path: Path) -> None:
    found = engine(FOREIGN[name][0].proto(), tmp_path)
    assert found.built == (name in FOREIGN_BUILT), found.error


@pytest.mark.parametrize("text", [FUNCTION, IN_FUNCTION])
def test_functions_are_inlined_by_the_parser(text: str, tmp_path: Path) -> None:
    assert engine(onnx.parser.parse_model(text), tmp_path).error == ""
