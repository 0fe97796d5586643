"""NVIDIA Model Optimizer. The docstring of an option is the call that it makes, for the page."""

from feeds import Feeds, Reader, Request, drive
from modelopt.onnx.quantization import quantize


def _quantize(request: Request, feeds: Feeds, mode: str, method: str, **more) -> None:
    quantize(
        onnx_path=request["model"],
        quantize_mode=mode,
        calibration_method=method,
        calibration_data_reader=Reader(feeds),
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=request["output"],
        **more,
    )


def rtn_dq(request: Request, feeds: Feeds) -> None:
    """quantize(path, "int4", calibration_method="rtn_dq", block_size=BLOCK, high_precision_dtype="fp32")"""
    _quantize(request, feeds, "int4", "rtn_dq", block_size=request["block"])


def awq_clip(request: Request, feeds: Feeds) -> None:
    """quantize(path, "int4", calibration_method="awq_clip", block_size=BLOCK, high_precision_dtype="fp32", calibration_data_reader=...)"""  # noqa: E501
    _quantize(request, feeds, "int4", "awq_clip", block_size=request["block"])


def awq_lite(request: Request, feeds: Feeds) -> None:
    """As `awq_clip`, with calibration_method="awq_lite" instead"""
    _quantize(request, feeds, "int4", "awq_lite", block_size=request["block"])


def entropy(request: Request, feeds: Feeds) -> None:
    """quantize(path, "int8", high_precision_dtype="fp32", calibration_data_reader=...): entropy, its default"""  # noqa: E501
    _quantize(request, feeds, "int8", "entropy")


def max_(request: Request, feeds: Feeds) -> None:
    """quantize(path, "int8", calibration_method="max", high_precision_dtype="fp32", calibration_data_reader=...)"""  # noqa: E501
    _quantize(request, feeds, "int8", "max")


OPTIONS = {
    "rtn_dq": rtn_dq,
    "awq_clip": awq_clip,
    "awq_lite": awq_lite,
    "entropy": entropy,
    "max": max_,
}

if __name__ == "__main__":
    drive(OPTIONS)
