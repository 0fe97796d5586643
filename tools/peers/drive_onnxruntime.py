"""onnxruntime's quantizers. Its `gptq` is left out: what it does with its Hessian does not reach the codes.

The docstring of an option is the call that it makes, for the page.
"""

from pathlib import Path

import onnx
from feeds import Feeds, Reader, Request, drive
from onnxruntime.quantization import (
    CalibrationMethod,
    QuantFormat,
    QuantType,
    matmul_nbits_quantizer,
    quant_pre_process,
    quantize_static,
)


def _loaded(request: Request, opset: int) -> onnx.ModelProto:
    """The model, raised to `opset` where it is below: what is written needs it and would be invalid."""
    model = onnx.load(request["model"])
    if model.opset_import[0].version < opset:
        model = onnx.version_converter.convert_version(model, opset)
    return model


def _nbits(request: Request, opset: int = 0, **options) -> None:
    made = matmul_nbits_quantizer.MatMulNBitsQuantizer(_loaded(request, opset), **options)
    made.process()
    made.model.save_model_to_file(request["output"])


def nbits_qdq(request: Request, feeds: Feeds) -> None:
    """MatMulNBitsQuantizer(model, bits=4, block_size=BLOCK, is_symmetric=True, quant_format=QuantFormat.QDQ), opset raised to 21"""  # noqa: E501
    # It raises the opset itself, but only the number: the file is then invalid.
    _nbits(request, 21, bits=4, block_size=request["block"], is_symmetric=True, quant_format=QuantFormat.QDQ)


def nbits_default(request: Request, feeds: Feeds) -> None:
    """MatMulNBitsQuantizer(model, bits=BITS, block_size=BLOCK): MatMulNBits with zero points, its default; blocks of 32 at W8 too"""  # noqa: E501
    _nbits(request, bits=request["bits"], block_size=max(request["block"], 32))


def nbits_hqq(request: Request, feeds: Feeds) -> None:
    """MatMulNBitsQuantizer(model, algo_config=HQQWeightOnlyQuantConfig(block_size=BLOCK, bits=4))"""
    config = matmul_nbits_quantizer.HQQWeightOnlyQuantConfig(block_size=request["block"], bits=4)
    _nbits(request, algo_config=config)


def nbits_k_quant(request: Request, feeds: Feeds) -> None:
    """MatMulNBitsQuantizer(model, block_size=BLOCK, algo_config=KQuantWeightOnlyQuantConfig())"""
    config = matmul_nbits_quantizer.KQuantWeightOnlyQuantConfig()
    _nbits(request, block_size=request["block"], algo_config=config)


def _static(request: Request, feeds: Feeds, method: CalibrationMethod) -> None:
    prepared = str(Path("prepared.onnx").absolute())
    model = str(Path("raised.onnx").absolute())
    onnx.save(_loaded(request, 13), model)
    try:
        quant_pre_process(model, prepared)
    except Exception as error:  # noqa: BLE001 - it raises nothing narrower
        print(f"without symbolic shapes: {error}")
        quant_pre_process(model, prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared,
        request["output"],
        Reader(feeds),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=method,
    )


def static_minmax(request: Request, feeds: Feeds) -> None:
    """quant_pre_process(path, prepared), with skip_symbolic_shape=True where that fails; quantize_static(prepared, out, reader, QuantFormat.QDQ, per_channel=True, activation_type=QUInt8, weight_type=QInt8), opset raised to 13"""  # noqa: E501
    _static(request, feeds, CalibrationMethod.MinMax)


def static_percentile(request: Request, feeds: Feeds) -> None:
    """As `static_minmax`, calibrate_method=CalibrationMethod.Percentile"""
    _static(request, feeds, CalibrationMethod.Percentile)


OPTIONS = {
    "nbits_qdq": nbits_qdq,
    "nbits_default": nbits_default,
    "nbits_hqq": nbits_hqq,
    "nbits_k_quant": nbits_k_quant,
    "static_minmax": static_minmax,
    "static_percentile": static_percentile,
}

if __name__ == "__main__":
    drive(OPTIONS)
