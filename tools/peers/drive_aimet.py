"""AIMET-onnx without training: rounding, and SeqMSE, which searches scales by the layers' outputs.

The docstring of an option is the call that it makes, for the page.
"""

import onnx
import onnxsim
from aimet_onnx import QuantizationSimModel, apply_seq_mse
from aimet_onnx.common.defs import qtype
from aimet_onnx.quantsim import set_blockwise_quantization_for_weights
from feeds import Feeds, Request, drive, first


def _sim(
    request: Request, simplify: bool = False, activations: bool = False, scheme: str = "min_max"
) -> QuantizationSimModel:
    model = onnx.load(request["model"])
    if simplify:  # SeqMSE fails on constants that are computed in the graph
        model = onnxsim.simplify(model)[0]
    weights, stored = qtype.int(request["bits"]), qtype.int(8)
    sim = QuantizationSimModel(model, param_type=weights, activation_type=stored, quant_scheme=scheme)
    if not activations:
        # Its exporter has no form for activations of type float32; those of no quantizer stay float.
        for name in sim.activation_names:
            if name in sim.qc_quantize_op_dict:
                sim.qc_quantize_op_dict[name].enabled = False
    return sim


def _write(request: Request, feeds: Feeds, sim: QuantizationSimModel) -> None:
    sim.compute_encodings(feeds)
    onnx.save(sim.to_onnx_qdq(prequantize_constants=True), request["output"])


def rtn(request: Request, feeds: Feeds) -> None:
    """sim = QuantizationSimModel(model, param_type=intBITS, activation_type=int8), activation quantizers disabled; sim.compute_encodings(feeds); sim.to_onnx_qdq(prequantize_constants=True)"""  # noqa: E501
    _write(request, feeds, _sim(request))


def _searched(request: Request, feeds: Feeds, sim: QuantizationSimModel) -> None:
    apply_seq_mse(sim, feeds)
    _write(request, feeds, sim)


def seq_mse(request: Request, feeds: Feeds) -> None:
    """As `rtn`, with onnxsim.simplify(model) first and apply_seq_mse(sim, feeds) before compute_encodings"""
    _searched(request, feeds, _sim(request, simplify=True))


def seq_mse_16(request: Request, feeds: Feeds) -> None:
    """As `seq_mse`, with the first 16 samples alone"""
    _searched(request, first(feeds, 16), _sim(request, simplify=True))


def _blocks(request: Request, simplify: bool = False) -> QuantizationSimModel:
    sim = _sim(request, simplify)
    set_blockwise_quantization_for_weights(
        sim, ("MatMul", "Gemm"), request["bits"], symmetric=True, block_size=request["block"]
    )
    return sim


def blocks(request: Request, feeds: Feeds) -> None:
    """As `rtn`, with set_blockwise_quantization_for_weights(sim, ("MatMul", "Gemm"), BITS, True, BLOCK): Conv per channel"""  # noqa: E501
    _write(request, feeds, _blocks(request))


def blocks_seq_mse(request: Request, feeds: Feeds) -> None:
    """As `blocks`, with onnxsim.simplify(model) first and apply_seq_mse(sim, feeds) before compute_encodings"""  # noqa: E501
    _searched(request, feeds, _blocks(request, simplify=True))


def blocks_seq_mse_16(request: Request, feeds: Feeds) -> None:
    """As `blocks_seq_mse`, with the first 16 samples alone"""
    _searched(request, first(feeds, 16), _blocks(request, simplify=True))


def int8_activations(request: Request, feeds: Feeds) -> None:
    """sim = QuantizationSimModel(onnxsim.simplify(model)[0], param_type=int8, activation_type=int8); sim.compute_encodings(feeds); sim.to_onnx_qdq(prequantize_constants=True)"""  # noqa: E501
    _write(request, feeds, _sim(request, simplify=True, activations=True))


def int8_tf_enhanced(request: Request, feeds: Feeds) -> None:
    """As `int8_activations`, with quant_scheme="tf_enhanced" """
    _write(request, feeds, _sim(request, simplify=True, activations=True, scheme="tf_enhanced"))


OPTIONS = {
    "rtn": rtn,
    "seq_mse": seq_mse,
    "seq_mse_16": seq_mse_16,
    "blocks": blocks,
    "blocks_seq_mse": blocks_seq_mse,
    "blocks_seq_mse_16": blocks_seq_mse_16,
    "int8_activations": int8_activations,
    "int8_tf_enhanced": int8_tf_enhanced,
}

if __name__ == "__main__":
    drive(OPTIONS)
