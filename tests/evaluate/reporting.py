"""Reports made up for tests."""

from comq_onnx.evaluate.report import Report
from comq_onnx.evaluate.verify import Check, Fidelity, Verification
from comq_onnx.records import LayerReport


def line(name: str, before: float | None, after: float | None, drift: float | None = None) -> LayerReport:
    """A quantized layer."""
    return LayerReport(
        name, "MatMul", "w", (4, 4), "int4 channel", 64, 8, before, after, "DequantizeLinear", drift=drift
    )


def kept(name: str) -> LayerReport:
    return LayerReport(name, "LSTM", "w", (4, 4), "float", 64, 64, reason="its op is not quantized")


def halved(name: str) -> LayerReport:
    """A weight stored as float16."""
    return LayerReport(name, "Conv", "w", (4, 4), "float16", 64, 32, form="float16", choice="on disk")


def report(*lines: LayerReport) -> Report:
    """A run that quantized and kept these, with a failed check and a note."""
    checks = (Check("valid ONNX", True, "the checker accepts it"), Check("lint", False, "a < b"))
    return Report(
        version="1.2.3",
        recipe={},
        target="portable",
        files=("out.onnx",),
        bytes_before=1000,
        bytes_after=250,
        opset_before=17,
        opset_after=21,
        calibration="8 samples of data.npz",
        synthetic=False,
        lines=lines,
        verification=Verification(checks, (Fidelity("y", 31.5, None),)),
        notes=("tokens where 'm & n' is 0 are left out",),
        seconds=1.0,
    )
