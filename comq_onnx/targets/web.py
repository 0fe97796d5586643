"""onnxruntime-web in a browser: codes in the download, floats in memory, and 8-bit kernels where they help.

There is no kernel for 4-bit products, so that a DequantizeLinear before a product is recomputed on every
call; ``Cast * scale`` is folded when the file is loaded. 8-bit kernels are faster than float on dense
convolutions and on products of many rows, and much slower on depthwise convolutions (measured in
onnxruntime-web 1.30, WASM).
"""

from dataclasses import replace

from comq_onnx.targets import ort
from comq_onnx.targets.placement import Site
from comq_onnx.targets.qdq import QdqTarget
from comq_onnx.targets.rules import web


def refuses(site: Site) -> str:
    """Besides what onnxruntime refuses: all convolutions of a net with depthwise ones."""
    conv = site.layer.op == "Conv"
    if conv and site.depthwise_net and not site.size_first:
        return "8-bit depthwise convolutions are slow in a browser, and the net has some"
    return ort.refuses(site)


EIGHT_BIT = replace(ort.EIGHT_BIT, refuses=refuses)
WEB = QdqTarget(
    name="web", packed_int2=True, rules=web.RULES, eight_bit=EIGHT_BIT, dynamic=True, linear=False
)
