"""What onnxruntime asks of a file on a CPU: measured with versions 1.17 to 1.32."""

from comq_onnx.targets.findings import Rule
from comq_onnx.targets.rules import activations, loading
from comq_onnx.targets.rules.onnxruntime_speed import ACTIVATION_WARNINGS, WEIGHT_WARNINGS

ERRORS: tuple[Rule, ...] = (
    Rule(
        "ORT-E01",
        "error",
        "The IR version is at most 13.",
        "set ir_version to the lowest one that holds the opset",
        loading.ir_too_new,
    ),
    Rule(
        "ORT-E02",
        "error",
        "The opset is at most 26.",
        "export at a lower opset",
        loading.opset_too_new,
    ),
    Rule(
        "ORT-E03",
        "error",
        "At opset 21 and above, int8 activations of three or more axes do not meet MatMul + Add.",
        "use opset 20 or uint8 activations",
        loading.signed_activation_of_gemm,
    ),
    Rule(
        "ORT-E04",
        "error",
        "2-bit weights do not meet 8-bit activations.",
        "put a Cast to int8 before the DequantizeLinear",
        loading.two_bit_weight_of_eight_bit_product,
    ),
    Rule(
        "ORT-E05",
        "error",
        "A weight has the type of its scales.",
        "leave output_dtype out and store the scales in that type",
        loading.output_type_of_half_scales,
    ),
    Rule(
        "ORT-E06",
        "error",
        "MatMulNBits has 2, 4 or 8 bits.",
        "store 3 bits in 4",
        loading.matmulnbits_bits,
    ),
    Rule(
        "ORT-E07",
        "error",
        "The block size of MatMulNBits is a power of two from 16 to 256.",
        "use blocks of 128",
        loading.matmulnbits_block,
    ),
    Rule(
        "ORT-E08",
        "error",
        "8-bit MatMulNBits has no float zero points.",
        "store the zero points in uint8",
        loading.matmulnbits_float_zero_point_of_8_bits,
    ),
    Rule(
        "ORT-E09",
        "error",
        "The scale of an int32 bias of a Gemm is that of the activation times that of the weight.",
        "store the bias at sx * sw, per channel: QGemm does not read its scale",
        activations.bias_scale,
    ),
    Rule(
        "ORT-E10",
        "error",
        "4 divides the columns of a 2-bit weight.",
        "store the codes in int4",
        loading.two_bit_columns,
    ),
    Rule(
        "ORT-E11",
        "error",
        "The weight of an 8-bit product has one scale, or one for each output channel.",
        "use one scale per output channel: it fails when it runs",
        loading.weight_scales_of_eight_bit_product,
    ),
    Rule(
        "ORT-E12",
        "error",
        "Functions are written as the opset of the model asks.",
        "inline the functions",
        loading.functions_of_other_opset,
    ),
    Rule(
        "ORT-E13",
        "error",
        "Scales are finite, and positive where they divide.",
        "calibrate again",
        loading.unusable_scales,
    ),
)
"""Does not load, fails when it runs, or computes something else."""

RULES: tuple[Rule, ...] = (*ERRORS, *WEIGHT_WARNINGS, *ACTIVATION_WARNINGS)
