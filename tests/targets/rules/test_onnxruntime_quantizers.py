"""What onnxruntime's own quantizers write, and which of TensorRT's rules it breaks."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import model, weight
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from comq_onnx import check

NET = """g (float[1,4,8,8] x) => (float[1,5] y) {
  c = Conv(x, w1, b1)
  r = Relu(c)
  d = Conv(r, w2, b2)
  t = Add(d, r)
  f = Flatten(t)
  y = Gemm<transB=1>(f, w3, b3)
}"""
U8, S8 = QuantType.QUInt8, QuantType.QInt8
SYMMETRIC = {"ActivationSymmetric": True, "WeightSymmetric": True}
TENSORRT = SYMMETRIC | {"QuantizeBias": False, "AddQDQPairToWeight": True}


class Reader(CalibrationDataReader):
    def __init__(self) -> None:
        self.left = iter({"x": weight(1, 4, 8, 8, seed=i) * 8} for i in range(4))

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.left, None)


@pytest.fixture
def net(tmp_path: Path) -> Path:
    weights = {
        "w1": weight(4, 4, 1, 1),
        "w2": weight(4, 4, 1, 1, seed=1),
        "w3": weight(5, 256, seed=2),
        "b1": weight(4),
        "b2": weight(4, seed=3),
        "b3": weight(5),
    }
    onnx.save(model(NET, opset=17, **weights), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def errors(path: Path) -> set[str]:
    return {finding.rule for finding in check(path, "tensorrt") if finding.severity == "error"}


def statically(net: Path, kind: QuantType, options: dict[str, bool], form: QuantFormat) -> Path:
    out = net.with_name("q.onnx")
    quantize_static(
        net,
        out,
        Reader(),
        quant_format=form,
        per_channel=True,
        activation_type=kind,
        weight_type=S8,
        extra_options=options,
    )
    return out


def test_its_defaults(net: Path) -> None:
    assert "TRT-E10" in errors(statically(net, U8, {}, QuantFormat.QDQ))


def test_int8_that_is_not_symmetric(net: Path) -> None:
    assert {"TRT-E07", "TRT-E10"} <= errors(statically(net, S8, {}, QuantFormat.QDQ))


def test_symmetric_with_a_bias_in_int32(net: Path) -> None:
    assert errors(statically(net, S8, SYMMETRIC, QuantFormat.QDQ)) == {"TRT-E10"}


def test_the_options_that_onnxruntime_names_for_tensorrt(net: Path) -> None:
    assert errors(statically(net, S8, TENSORRT, QuantFormat.QDQ)) == set()


def test_its_operators(net: Path) -> None:
    assert "TRT-E02" in errors(statically(net, U8, {}, QuantFormat.QOperator))


def test_dynamic(net: Path) -> None:
    quantize_dynamic(net, net.with_name("q.onnx"))
    assert errors(net.with_name("q.onnx")) == {"TRT-E02"}
