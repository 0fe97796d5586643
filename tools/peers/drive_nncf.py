"""NNCF on ONNX models. The docstring of an option is the call that it makes, for the page."""

import nncf
import onnx
from feeds import Feeds, Request, drive
from nncf.quantization.advanced_parameters import AdvancedCompressionParameters, GroupSizeFallbackMode

ADJUSTED = AdvancedCompressionParameters(
    group_size_fallback_mode=GroupSizeFallbackMode.ADJUST, min_adjusted_group_size=8
)
"""Smaller blocks where the size does not divide a weight, which is else an error"""


def _loaded(request: Request, opset: int) -> onnx.ModelProto:
    """The model, raised to `opset` where it is below: NNCF's own advice for scales per channel."""
    model = onnx.load(request["model"])
    if model.opset_import[0].version < opset:
        model = onnx.version_converter.convert_version(model, opset)
        model.ir_version = max(model.ir_version, 10)
    return model


def _compress(request: Request, mode: nncf.CompressWeightsMode, **options) -> None:
    # Embeddings stay float, as with everyone else here.
    kept = nncf.IgnoredScope(types=["Gather"], validate=False)
    made = nncf.compress_weights(_loaded(request, 21), mode=mode, ignored_scope=kept, **options)
    onnx.save(made, request["output"])


def _int4(request: Request, **options) -> None:
    _compress(
        request,
        nncf.CompressWeightsMode.INT4_SYM,
        group_size=request["block"],
        all_layers=True,
        backup_mode=nncf.BackupMode.NONE,
        advanced_parameters=ADJUSTED,
        **options,
    )


def int4_sym(request: Request, feeds: Feeds) -> None:
    """compress_weights(model, mode=INT4_SYM, group_size=BLOCK, all_layers=True, backup_mode=NONE, ignored_scope=Gather, group_size_fallback_mode=ADJUST, min_adjusted_group_size=8), opset raised to 21"""  # noqa: E501
    _int4(request)


def int4_awq_scales(request: Request, feeds: Feeds) -> None:
    """As `int4_sym`, with awq=True, scale_estimation=True, dataset=nncf.Dataset(feeds)"""
    _int4(request, awq=True, scale_estimation=True, dataset=nncf.Dataset(feeds))


def int8_sym(request: Request, feeds: Feeds) -> None:
    """compress_weights(model, mode=INT8_SYM, ignored_scope=Gather), opset raised to 21"""
    _compress(request, nncf.CompressWeightsMode.INT8_SYM)


def _quantize(request: Request, feeds: Feeds, **options) -> None:
    transformer = {"model_type": nncf.ModelType.TRANSFORMER} if request["transformer"] else {}
    made = nncf.quantize(_loaded(request, 13), nncf.Dataset(feeds), **transformer, **options)
    onnx.save(made, request["output"])


def quantize(request: Request, feeds: Feeds) -> None:
    """quantize(model, nncf.Dataset(feeds)), model_type=TRANSFORMER for MiniLM, opset raised to 13"""
    _quantize(request, feeds)


def quantize_bias(request: Request, feeds: Feeds) -> None:
    """As `quantize`, with fast_bias_correction=False, preset=MIXED"""
    _quantize(request, feeds, fast_bias_correction=False, preset=nncf.QuantizationPreset.MIXED)


OPTIONS = {
    "int4_sym": int4_sym,
    "int4_awq_scales": int4_awq_scales,
    "int8_sym": int8_sym,
    "quantize": quantize,
    "quantize_bias": quantize_bias,
}

if __name__ == "__main__":
    drive(OPTIONS)
