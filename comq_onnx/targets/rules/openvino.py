"""What OpenVINO asks of a file on a CPU: measured with version 2026.4."""

from comq_onnx.targets.findings import Rule
from comq_onnx.targets.rules import activations, loading, weights

RULES: tuple[Rule, ...] = (
    Rule(
        "OV-E01",
        "error",
        "No tensor has a 2-bit type.",
        "store 2-bit codes in int4, or as MatMulNBits",
        loading.two_bit_codes,
    ),
    Rule(
        "OV-E02",
        "error",
        "Blocks divide the axis they lie along.",
        "use a block size that divides it, or one scale per channel",
        weights.ragged_blocks,
    ),
    Rule(
        "OV-E03",
        "error",
        "Blocks lie along the axis that is summed over.",
        "use axis 0 on a [K, N] weight",
        weights.blocks_along_outputs,
    ),
    Rule(
        "OV-E04",
        "error",
        "Scales without blocks lie along the output channels: results are wrong, or the process dies.",
        "use axis 1 on a [K, N] weight, or blocks",
        weights.scales_along_rows,
    ),
    Rule(
        "OV-E05",
        "error",
        "Bit operations do not compute codes that a zero point is subtracted from.",
        "store the codes in int4 or uint4: the result is wrong",
        activations.computed_codes,
    ),
    Rule(
        "OV-E06",
        "error",
        "MatMulNBits has 2, 4 or 8 bits.",
        "store 3 bits in 4",
        loading.matmulnbits_bits,
    ),
    Rule(
        "OV-E07",
        "error",
        "The block size of MatMulNBits is a power of two from 16 on.",
        "use blocks of 128",
        loading.matmulnbits_block_power,
    ),
    Rule(
        "OV-E08",
        "error",
        "Scales are finite, and positive where they divide.",
        "calibrate again",
        loading.unusable_scales,
    ),
    Rule(
        "OV-W01",
        "warning",
        "int4 codes have no zero point.",
        "use a symmetric grid, or uint4",
        weights.four_bit_zero_point,
    ),
    Rule(
        "OV-W02",
        "warning",
        "Blocks are larger than 16, and of 4-bit codes smaller than 256.",
        "use blocks of 32 to 128",
        weights.float_path_block,
    ),
    Rule(
        "OV-W03",
        "warning",
        "Activations are not quantized dynamically in the graph.",
        "quantize the weights alone: the runtime does the rest",
        activations.integer_operators,
    ),
    Rule(
        "OV-W04",
        "warning",
        "Weights of 8-bit products are int8 when they meet the product.",
        "put a Cast to int8 before the DequantizeLinear",
        activations.four_bit_codes,
    ),
    Rule(
        "OV-W05",
        "warning",
        "Weights of 8-bit products are int8.",
        "store the weight in int8",
        activations.unsigned_weight,
    ),
    Rule(
        "OV-W06",
        "warning",
        "A quantized weight is the right operand.",
        "write it as (codes cast to float) * scale",
        weights.left_operand,
    ),
    Rule(
        "OV-W07",
        "warning",
        "MatMulNBits has no float zero points.",
        "store the zero points in uint8",
        loading.matmulnbits_any_float_zero_point,
    ),
)
