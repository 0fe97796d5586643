"""The rules of TensorRT 10 and 11, for any ONNX file.

They are read from NvInfer.h 11.1, the parser of onnx-tensorrt 10.1, NVIDIA's documentation of quantization
and of opsets, and issues of those projects (TensorRT 2380, 1694, 3360, 4832; onnx-tensorrt 850;
Model-Optimizer 156, 178); TRT-W11 and W12 from what TensorRT for RTX 1.7 does. Its builder, which needs no
GPU, was given the files that break each rule: it refuses all that break TRT-E05 to E08, E17 and E22 and some
that break E02 to E04, E10 and E15, and builds the others, mostly without 8-bit or 4-bit kernels
(docs/targets.md). The rules stand: TensorRT itself, which needs a GPU to build, has not been asked.

TensorRT 11 reads opsets to 25 and TensorRT 10 to 21: above 25 is an error, from 22 on a warning (TRT-W10).
Operators of the domain ``trt`` are TensorRT's own, which its quantizers write for opsets that lack the
standard ones; rules on scales leave them alone. TRT-E22 and TRT-W10 are no check of the parser's: they follow
from the types and opsets that these sources name.
"""

from comq_onnx.targets.findings import Rule
from comq_onnx.targets.rules import tensorrt_observed, tensorrt_placement, tensorrt_scales, tensorrt_weights
from comq_onnx.targets.rules.tensorrt_scales import Breaches
from comq_onnx.targets.view import DEFAULT_DOMAINS, View, named

MOST_OPSET, MOST_OPSET_10, MOST_IR = 25, 21, 13
FOREIGN_DOMAINS = ("com.microsoft", "com.ms.internal")
UNREAD = (
    "QLinearConv",
    "QLinearMatMul",
    "ConvInteger",
    "MatMulInteger",
    "DynamicQuantizeLinear",
)
SHOWN = 3
IN_FLOAT32 = "TRT-W09"


def _too_new(view: View) -> Breaches:
    if view.opset > MOST_OPSET:
        yield "the model", f"its opset is {view.opset}"
    if view.proto.ir_version > MOST_IR:
        yield "the model", f"its IR version is {view.proto.ir_version}"


def _unread_operator(view: View) -> Breaches:
    for node, _ in view.nodes():
        if node.domain.startswith(FOREIGN_DOMAINS):
            yield named(node), f"{node.domain}.{node.op_type} is onnxruntime's own operator"
        elif node.op_type in UNREAD and node.domain in DEFAULT_DOMAINS:
            yield named(node), f"{node.op_type} has no kernel"


def _functions(view: View) -> Breaches:
    names = [function.name for function in view.proto.functions]
    if names:
        more = ", ..." if len(names) > SHOWN else ""
        yield "the model", f"it has {len(names)} functions of its own ({', '.join(names[:SHOWN])}{more})"


def _newer_than_10(view: View) -> Breaches:
    if MOST_OPSET_10 < view.opset <= MOST_OPSET:
        yield "the model", f"its opset is {view.opset}"


RULES: tuple[Rule, ...] = (
    Rule(
        "TRT-E01",
        "error",
        f"The opset is at most {MOST_OPSET} and the IR version at most {MOST_IR}.",
        f"export with opset {MOST_OPSET_10}, IR version 10",
        _too_new,
    ),
    Rule(
        "TRT-E02",
        "error",
        "No operator is onnxruntime's own (com.microsoft), a QLinear or Integer operator or "
        "DynamicQuantizeLinear.",
        "write QuantizeLinear and DequantizeLinear around the float operator",
        _unread_operator,
    ),
    *tensorrt_scales.RULES,
    *tensorrt_weights.RULES,
    Rule(
        "TRT-W01",
        "warning",
        "There are no model-local functions.",
        "inline them with onnx.inliner",
        _functions,
    ),
    *tensorrt_placement.RULES,
    Rule(
        "TRT-W10",
        "warning",
        f"The opset is at most {MOST_OPSET_10}, which TensorRT 10 reads too.",
        "use TensorRT 11, or export with a lower opset",
        _newer_than_10,
    ),
    *tensorrt_observed.RULES,
)
