"""The lint says what it can of any message at all: damaged, incomplete, or with its data elsewhere."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from qdq_files import CONV, INT4_MATMUL, MATMUL8, File
from trt_broken import BROKEN
from trt_foreign import FOREIGN
from trt_valid import VALID

from comq_onnx import ComqError, Finding, check
from comq_onnx.graph.external import point_to
from comq_onnx.targets.rules import RULES

ALL: list[File] = (
    [case[1] for case in BROKEN] + [f for f, _ in FOREIGN.values()] + [f for f, _ in VALID.values()]
)


def damaged(proto: onnx.ModelProto) -> Iterator[onnx.ModelProto]:
    """`proto` less one part at a time."""
    graph = proto.graph
    for field in ("node", "initializer", "input", "output", "opset_import"):
        owner = proto if field == "opset_import" else graph
        for i in range(len(getattr(owner, field))):
            other = onnx.ModelProto()
            other.CopyFrom(proto)
            del getattr(other if field == "opset_import" else other.graph, field)[i]
            yield other
    for i, node in enumerate(graph.node):
        for field in ("attribute", "input", "output"):
            if getattr(node, field):
                other = onnx.ModelProto()
                other.CopyFrom(proto)
                other.graph.node[i].ClearField(field)
                yield other
    for i, node in enumerate(graph.node):
        for name in ("", *node.output[:1]):  # an input left out, and a node that reads what it makes
            for place in range(len(node.input)):
                other = onnx.ModelProto()
                other.CopyFrom(proto)
                other.graph.node[i].input[place] = name
                yield other
    for i in range(len(graph.initializer)):
        for change in ("dims", "raw_data", "data_type"):
            other = onnx.ModelProto()
            other.CopyFrom(proto)
            other.graph.initializer[i].ClearField(change)
            yield other


@pytest.mark.parametrize("target", RULES)
def test_no_damage_ends_in_a_traceback(target: str) -> None:
    count = 0
    for file in ALL:
        for proto in damaged(file.proto()):
            try:
                found = check(proto, target)
            except ComqError as error:  # of a tensor that has no type
                if "its element type 0 is not known" not in str(error):
                    raise
                found = ()
            assert all(isinstance(finding, Finding) for finding in found)
            count += 1
    assert count > 2000


@pytest.mark.parametrize("target", RULES)
def test_the_file_is_not_changed(target: str) -> None:
    for file in ALL:
        proto = file.proto()
        before = proto.SerializeToString(deterministic=True)
        check(proto, target)
        assert proto.SerializeToString(deterministic=True) == before


def outside(file: File, name: str, path: Path, data: str = "w.data") -> Path:
    """Save `file` with one initializer in an external file that is not written; its path."""
    proto = file.proto()
    (tensor,) = (t for t in proto.graph.initializer if t.name == name)
    point_to(tensor, data, 0, len(numpy_helper.from_array(file.arrays[name]).raw_data))
    path.write_bytes(proto.SerializeToString())
    return path


def test_weights_in_a_file_that_is_not_there_are_not_asked_for(tmp_path: Path) -> None:
    path = outside(INT4_MATMUL, "wq", tmp_path / "m.onnx")
    assert check(path, "tensorrt") == ()
    assert check(str(path), "tensorrt") == ()


def test_scales_in_a_file_are_read(tmp_path: Path) -> None:
    path = outside(CONV, "ws", tmp_path / "m.onnx")
    assert check(path, "tensorrt") == ()
    (tmp_path / "w.data").write_bytes(np.zeros(4, np.float16).tobytes())
    assert [f.rule for f in check(path, "tensorrt")] == ["TRT-E04"]


def test_a_file_outside_the_folder_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "w.data").write_bytes(np.zeros(4, np.float16).tobytes())
    assert check(outside(CONV, "ws", tmp_path / "in" / "m.onnx", "../w.data"), "tensorrt") == ()


def test_nodes_without_names_are_called_by_what_they_make() -> None:
    (found,) = check(MATMUL8.but(z=np.array(1, np.int8)).proto(), "tensorrt")
    assert found.node == "aq"


def test_a_chain_of_constants_as_deep_as_it_likes() -> None:
    proto = CONV.proto()
    chain = [onnx.helper.make_node("Identity", [f"c{i}"], [f"c{i + 1}"]) for i in range(3000)]
    chain[0].input[0] = "s"
    nodes = [*chain, *proto.graph.node]
    for node in nodes[len(chain) :]:
        for i, name in enumerate(node.input):
            if name == "s":
                node.input[i] = "c3000"
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    assert check(proto, "tensorrt") == ()


def test_a_target_without_rules_is_a_sentence() -> None:
    with pytest.raises(
        ComqError, match=r"target 'abacus': there are no rules for it; name one of .*tensorrt"
    ):
        check(CONV.proto(), "abacus")


def test_a_file_that_is_no_model_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_text("hello")
    with pytest.raises(ComqError, match="not an ONNX model"):
        check(tmp_path / "m.onnx", "tensorrt")
