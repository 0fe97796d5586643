"""onnxruntime alone: the portable file, 2-bit codes packed as int2 (opset 25), and 8-bit activations.

Activations are uint8: after a Relu their zero point is 0, which lets the runtime drop the Relu. All of this
was measured in onnxruntime 1.31 on an x64 CPU. Products of two activations stay float: in 8 bits MiniLM and a
ViT are no faster, and further from float.
"""

from comq_onnx.records import ActivationKind
from comq_onnx.targets.patterns import COMPUTERS, MATRIX_ADDED, MOVERS, adds_matrix
from comq_onnx.targets.placement import ActivationRules, Site
from comq_onnx.targets.qdq import QdqTarget
from comq_onnx.targets.rules import onnxruntime


def refuses(site: Site) -> str:
    """Layers that would be slower with 8-bit activations than in float, or gain nothing."""
    layer = site.layer
    if layer.dtype != "float32":
        return f"no 8-bit kernel for {layer.dtype} activations"
    if layer.op == "ConvTranspose":
        return "" if site.size_first else "8-bit ConvTranspose is slower than float"
    if adds_matrix(site.node, layer.layout.cols) and not site.size_first:
        return MATRIX_ADDED
    if site.pooled and not site.size_first:
        return "it computes one position: nothing to gain"
    return ""


EIGHT_BIT = ActivationRules(
    kind=ActivationKind(signed=False, symmetric=False),
    outputs=frozenset(("Conv",)),
    float_bias=False,
    apart=False,
    carried=MOVERS | COMPUTERS,
    residuals=False,
    products=False,
    refuses=refuses,
    twin_products=True,
)
ORT = QdqTarget(
    name="ort",
    packed_int2=True,
    rules=onnxruntime.RULES,
    eight_bit=EIGHT_BIT,
    dynamic=True,
    contrib=True,
    pays=True,
)
