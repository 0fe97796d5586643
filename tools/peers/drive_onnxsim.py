"""onnxsim's quantizers, on the simplified model at the opset that it asks for.

The docstring of an option is the call that it makes, for the page.
"""

import onnx
import onnxsim
from feeds import Feeds, Request, drive
from onnxsim.calibration import quantize_static


def _prepared(request: Request) -> onnx.ModelProto:
    """Simplified, with shapes, at opset 21: below it the blocks are left out without a word."""
    model = onnx.load(request["model"])
    if model.opset_import[0].version < 21:
        model = onnx.version_converter.convert_version(model, 21)
        model.ir_version = 10
    return onnx.shape_inference.infer_shapes(onnxsim.simplify(model)[0])


def _write(request: Request, model: onnx.ModelProto) -> None:
    """The weights that it replaced are still in the model; `simplify` removes them, as its docs advise."""
    onnx.save(onnxsim.simplify(model)[0], request["output"])


def int4(request: Request, feeds: Feeds) -> None:
    """simplify(quantize_weight_only_int4(simplify(model))), blocks of 32, opset raised to 21"""
    _write(request, onnxsim.quantize_weight_only_int4(_prepared(request)))


def _improved(request: Request, feeds: Feeds, how) -> None:
    plain = _prepared(request)
    _write(request, how(plain, onnxsim.quantize_weight_only_int4(plain), feeds))


def gptq(request: Request, feeds: Feeds) -> None:
    """apply_gptq(float, int4, feeds), float and int4 as in `int4`"""
    _improved(request, feeds, onnxsim.apply_gptq)


def quantease(request: Request, feeds: Feeds) -> None:
    """apply_quantease(float, int4, feeds)"""
    _improved(request, feeds, onnxsim.apply_quantease)


def awq(request: Request, feeds: Feeds) -> None:
    """apply_awq(float, int4, feeds)"""
    _improved(request, feeds, onnxsim.apply_awq)


def int8(request: Request, feeds: Feeds) -> None:
    """quantize_weight_only(simplify(model))"""
    _write(request, onnxsim.quantize_weight_only(_prepared(request)))


def int8_bias(request: Request, feeds: Feeds) -> None:
    """correct_bias(float, quantize_weight_only(float), feeds), float = simplify(model)"""
    plain = _prepared(request)
    _write(request, onnxsim.correct_bias(plain, onnxsim.quantize_weight_only(plain), feeds))


def static_minmax(request: Request, feeds: Feeds) -> None:
    """quantize_static(simplify(model), feeds)"""
    _write(request, quantize_static(_prepared(request), feeds))


def static_entropy(request: Request, feeds: Feeds) -> None:
    """quantize_static(simplify(model), feeds, method="entropy")"""
    _write(request, quantize_static(_prepared(request), feeds, method="entropy"))


OPTIONS = {
    "int4": int4,
    "gptq": gptq,
    "quantease": quantease,
    "awq": awq,
    "int8": int8,
    "int8_bias": int8_bias,
    "static_minmax": static_minmax,
    "static_entropy": static_entropy,
}

if __name__ == "__main__":
    drive(OPTIONS)
