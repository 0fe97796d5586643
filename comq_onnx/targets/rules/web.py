"""What onnxruntime-web asks: what onnxruntime does, and nothing that its WASM build has no kernel for."""

from comq_onnx.targets.findings import Rule
from comq_onnx.targets.rules import activations, loading, onnxruntime, saturation, weights
from comq_onnx.targets.rules.onnxruntime_speed import ACTIVATION_WARNINGS

OWN: tuple[Rule, ...] = (
    Rule(
        "WEB-W01",
        "warning",
        "Weight-only products have no DequantizeLinear.",
        "write the weight as (codes cast to float) * scale",
        weights.float_kernel,
    ),
    Rule(
        "WEB-W02",
        "warning",
        "There is no MatMulNBits.",
        "write the weight as (codes cast to float) * scale",
        loading.matmulnbits,
    ),
    Rule(
        "WEB-W03",
        "warning",
        "Depthwise Convs are in float.",
        "leave the depthwise Conv in float",
        activations.depthwise,
    ),
    Rule(
        "WEB-W04",
        "warning",
        "The opset is at most 21, unless 2-bit codes need more.",
        "export at opset 21",
        loading.opset_above_21,
    ),
    Rule(
        "WEB-W05",
        "warning",
        "A Gather reads no DequantizeLinear.",
        "look up codes and scales, then multiply",
        weights.gather_weight,
    ),
)
"""Slower than float in WASM."""
NATIVE = (saturation.saturation, activations.unsigned_weight, activations.unsigned_depthwise)
"""About instructions of x64 processors."""
RULES: tuple[Rule, ...] = (
    *onnxruntime.ERRORS,
    *(rule for rule in ACTIVATION_WARNINGS if rule.breaches not in NATIVE),
    *OWN,
)
