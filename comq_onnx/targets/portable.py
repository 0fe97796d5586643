"""One file for onnxruntime, OpenVINO and whatever else reads opset 21: 2-bit codes lie in int4 tensors.

With 8-bit activations there is one form that all of them run fast, and for products alone: int8 codes around
zero, a float bias, and outputs stored in 8 bits too. No form of an 8-bit Conv is fast everywhere: TensorRT
refuses uint8, and onnxruntime cannot take a Relu into int8 codes around zero.
"""

from comq_onnx.records import ActivationKind
from comq_onnx.targets.placement import ActivationRules, Site
from comq_onnx.targets.qdq import QdqTarget
from comq_onnx.targets.rules import portable


def refuses(site: Site) -> str:
    """All but the products of float32 transformers."""
    if site.layer.dtype != "float32":
        return f"no 8-bit kernel for {site.layer.dtype} activations"
    if site.layer.op not in ("MatMul", "Gemm"):
        return f"no form of an 8-bit {site.layer.op} is fast in every runtime"
    return ""


EIGHT_BIT = ActivationRules(
    kind=ActivationKind(signed=True, symmetric=True),
    outputs=frozenset(),
    float_bias=True,
    apart=True,
    carried=frozenset(),
    residuals=False,
    products=False,
    refuses=refuses,
    mostly=True,
)
PORTABLE = QdqTarget(name="portable", packed_int2=False, rules=portable.RULES, eight_bit=EIGHT_BIT, pays=True)
