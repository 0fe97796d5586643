"""AIMET-onnx without training: rounding, and SeqMSE, which searches scales by the layers' outputs.

The docstring of an option is the call that it makes, for the page.
"""

import onnx
from aimet_onnx import QuantizationSimModel, apply_seq_mse
from aimet_onnx.common.defs import qtype
from aimet_onnx.quantsim import set_blockwise_quantization_for_weights
from feeds import Feeds, Request, drive


def _sim(request: Request, activations: bool = False) -> QuantizationSimModel:
    model = onnx.load(request["model"])
    sim = QuantizationSimModel(model, param_type=qtype.int(request["bits"]), activation_type=qtype.int(8))
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


def seq_mse(request: Request, feeds: Feeds) -> None:
    """As `rtn`, with apply_seq_mse(sim, feeds) before compute_encodings"""
    sim = _sim(request)
    apply_seq_mse(sim, feeds)
    _write(request, feeds, sim)


def _blocks(request: Request) -> QuantizationSimModel:
    sim = _sim(request)
    set_blockwise_quantization_for_weights(
        sim, ("MatMul", "Gemm"), request["bits"], symmetric=True, block_size=request["block"]
    )
    return sim


def blocks(request: Request, feeds: Feeds) -> None:
    """As `rtn`, with set_blockwise_quantization_for_weights(sim, ("MatMul", "Gemm"), BITS, True, BLOCK): Conv per channel"""  # noqa: E501
    _write(request, feeds, _blocks(request))


def blocks_seq_mse(request: Request, feeds: Feeds) -> None:
    """As `blocks`, with apply_seq_mse(sim, feeds) before compute_encodings"""
    sim = _blocks(request)
    apply_seq_mse(sim, feeds)
    _write(request, feeds, sim)


def int8_activations(request: Request, feeds: Feeds) -> None:
    """sim = QuantizationSimModel(model, param_type=int8, activation_type=int8); sim.compute_encodings(feeds); sim.to_onnx_qdq(prequantize_constants=True)"""  # noqa: E501
    _write(request, feeds, _sim(request, activations=True))


OPTIONS = {
    "rtn": rtn,
    "seq_mse": seq_mse,
    "blocks": blocks,
    "blocks_seq_mse": blocks_seq_mse,
    "int8_activations": int8_activations,
}

if __name__ == "__main__":
    drive(OPTIONS)
