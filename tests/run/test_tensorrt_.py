"""Engines built by TensorRT for RTX, in a process that may die. Nothing here needs a GPU."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import model
from qdq_files import CONV, INT4_MATMUL, MATMUL8, RESIDUAL, File
from run.foreign import net, net_batches, save

from comq_onnx.errors import ComqError
from comq_onnx.run.tensorrt_ import build_engine, tensorrt_missing

pytestmark = pytest.mark.tensorrt
here = pytest.mark.skipif(bool(tensorrt_missing()), reason=tensorrt_missing())
ANY = {"x": [(1, 4, 8, 8), (2, 4, 8, 8), (8, 4, 8, 8)]}


def written(file: File, folder: Path) -> Path:
    return save(file.proto(), folder)


@here
@pytest.mark.parametrize("external", [False, True])
def test_a_float_file(external: bool, tmp_path: Path) -> None:
    found = build_engine(save(net(), tmp_path, external), ANY)
    assert (found.built, found.parsed, found.error) == (True, True, "")
    assert found.runtime.startswith("TensorRT")
    assert found.bytes > sum(found.constants.values()) > 0
    assert set(found.computes_in()) == {"float"}
    assert found.outputs is None
    assert found.not_run == ""  # it was not asked for


@here
def test_layers_are_named_with_their_types(tmp_path: Path) -> None:
    proto = RESIDUAL.proto()
    for node in proto.graph.node:
        node.name = f"{node.op_type}_{node.output[0]}"
    found = build_engine(save(proto, tmp_path), {})
    assert [(p.layer, p.types) for p in found.products] == [
        ("Conv_h", ("int8", "int8")),
        ("Conv_k", ("int8", "int8")),
    ]


@here
def test_int4_weights_stay_int4(tmp_path: Path) -> None:
    found = build_engine(written(INT4_MATMUL, tmp_path), {"x": [(1, 128), (8, 128), (8, 128)]})
    assert found.constants["int4"] == 128 * 8 // 2
    assert found.computes_in() == {"half": 1}


@here
def test_the_engine_is_kept_where_asked(tmp_path: Path) -> None:
    found = build_engine(written(CONV, tmp_path), {}, save=tmp_path / "model.plan")
    assert (tmp_path / "model.plan").stat().st_size == found.bytes


@here
def test_it_says_why_it_was_not_run(tmp_path: Path) -> None:
    x = np.zeros((1, 4, 8, 8), np.float32)
    found = build_engine(written(CONV, tmp_path), {}, [{"x": x}])
    assert found.built
    assert (found.outputs is None) == bool(found.not_run)


@here
def test_a_parser_that_refuses_says_the_node(tmp_path: Path) -> None:
    proto = MATMUL8.but(z=np.array(3, np.int8)).proto()
    proto.graph.node[0].name = "quantize_x"
    found = build_engine(save(proto, tmp_path), {"x": [(1, 16)] * 3})
    assert not found.built
    assert not found.parsed
    assert found.error.startswith("node 'quantize_x': Non-zero zero point is not supported")


@here
def test_a_builder_that_refuses_has_parsed(tmp_path: Path) -> None:
    file = CONV.but(("8] x)", "8] x, int8 z2)"), ("s, z)", "s, z2)"))
    found = build_engine(written(file, tmp_path), {})
    assert found.parsed
    assert "which is not an initializer" in found.error
    assert "/_src/" not in found.error


@here
def test_a_file_that_kills_it_does_not_kill_us(tmp_path: Path) -> None:
    file = CONV.but(("8] x)", "8] x, float16 s2)"), ("(x, s,", "(x, s2,"), ("(aq, s,", "(aq, s2,"))
    found = build_engine(written(file, tmp_path), {})
    assert not found.built
    assert "killed by SIGSEGV" in found.error  # a version that survives it should be seen here


@here
def test_shapes_that_do_not_fit_are_an_answer(tmp_path: Path) -> None:
    found = build_engine(save(net(), tmp_path), {})
    assert not found.built
    assert "profile" in found.error


def test_what_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "no.onnx").write_bytes(b"no model")
    if not tensorrt_missing():
        with pytest.raises(ComqError, match="not an ONNX model"):
            build_engine(tmp_path / "no.onnx", {})


def test_it_says_why_it_cannot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("comq_onnx.run.tensorrt_.find_spec", lambda name: None)
    assert "pip install 'comq-onnx[tensorrt]'" in tensorrt_missing()
    with pytest.raises(ComqError, match="neither tensorrt_rtx nor tensorrt is installed"):
        build_engine(save(net(), tmp_path), ANY)


@here
def test_feeds_must_fit(tmp_path: Path) -> None:
    with pytest.raises(ComqError, match="no value is fed to 'x'"):
        build_engine(save(net(), tmp_path), ANY, [{"z": net_batches(1)[0]["x"]}])


@here
def test_bodies_of_an_if_are_built(tmp_path: Path) -> None:
    text = """g (float[4] x, bool c) => (float[4] y) {
      y = If(c) <then_branch = t () => (float[4] a) { a = Relu(x) },
                 else_branch = e () => (float[4] b) { b = Neg(x) }>
    }"""
    path = tmp_path / "if.onnx"
    onnx.save(model(text), path)
    assert build_engine(path, {}).error == ""
