"""What other quantizers write, in their form, and which of TensorRT's rules it breaks."""

import ml_dtypes
import numpy as np
from qdq_files import CONV, F32, I4, I8, INT4_MATMUL, MATMUL8, File, codes, scales
from trt_valid import in_float32

U8 = np.uint8
SIDE = {"xs": np.array(0.02, F32), "ys": np.array(0.05, F32)}

ORT_STATIC = File(
    """g (float[N,3,8,8] x) => (float[N,4,8,8] y) {
      xq = QuantizeLinear(x, xs, xz)
      xd = DequantizeLinear(xq, xs, xz)
      wd = DequantizeLinear<axis=0>(wq, ws, wz)
      bd = DequantizeLinear<axis=0>(bq, bs, bz)
      c = Conv(xd, wd, bd)
      r = Relu(c)
      yq = QuantizeLinear(r, ys, yz)
      y = DequantizeLinear(yq, ys, yz)
    }""",
    SIDE
    | {
        "xz": np.array(114, U8),
        "yz": np.array(0, U8),
        "wq": codes(4, 3, 1, 1),
        "ws": scales(4, dtype=F32),
        "wz": np.zeros(4, I8),
        "bq": codes(4, dtype=np.int32),
        "bs": scales(4, dtype=F32) * F32(0.02),
        "bz": np.zeros(4, np.int32),
    },
    opset=13,
    ir=7,
)
QOPERATOR = File(
    """g (float[N,3,8,8] x) => (float[N,4,8,8] y) {
      xq = QuantizeLinear(x, xs, xz)
      c = QLinearConv(xq, xs, xz, wq, ws, wz, ys, yz, bq)
      y = DequantizeLinear(c, ys, yz)
    }""",
    ORT_STATIC.arrays,
    opset=13,
    ir=7,
)
DYNAMIC = File(
    """g (float[N,16] x) => (float[N,8] y) {
      xq, xs, xz = DynamicQuantizeLinear(x)
      i = MatMulInteger(xq, wq, xz)
      f = Cast<to=1>(i)
      s = Mul(xs, ws)
      m = Mul(f, s)
      y = Add(m, b)
    }""",
    {"wq": codes(16, 8), "ws": np.array(0.02, F32), "b": scales(8, dtype=F32)},
    opset=13,
    ir=7,
)
NBITS = File(
    """g (float[N,64] x) => (float[N,8] y) {
      y = com.microsoft.MatMulNBits<K=64, N=8, bits=4, block_size=32, accuracy_level=4>(x, wq, ws)
    }""",
    {"wq": np.ones((8, 2, 16), U8), "ws": scales(16, dtype=F32)},
)
GATHER_BLOCKS = File(
    """g (int64[N] x) => (float[N,64] y) {
      y = com.microsoft.GatherBlockQuantized<block_size=32, quantize_axis=1, gather_axis=0>(wq, x, ws)
    }""",
    {"wq": codes(16, 64, dtype=I4), "ws": scales(16, 2, dtype=F32)},
)
CONTRIB_QDQ = File(
    """g (float[N,16] x) => (float[N,16] y) {
      q = com.microsoft.QuantizeLinear(x, xs, xz)
      y = com.microsoft.DequantizeLinear(q, xs, xz)
    }""",
    SIDE | {"xz": np.array(0, np.uint16)},
    opset=17,
)
MODELOPT_INT4 = File(
    """g (float16[N,128] x) => (float16[N,8] y) {
      w = trt.TRT_INT4DequantizeLinear<axis=0, block_size=64>(wq, ws)
      y = MatMul(x, w)
    }""",
    {"wq": codes(128, 8), "ws": scales(2, 8)},
    opset=19,
    ir=9,
)
MODELOPT_INT8 = in_float32(CONV)
ASYMMETRIC = in_float32(MATMUL8).but(z=np.array(-17, I8))
TORCH_CHANNELS = File(
    """g (float[N,3,8,8] x) => (float[N,4,8,8] y) {
      xs = Constant<value = float {0.02}>()
      xz = Constant<value = int8 {0}>()
      xq = QuantizeLinear(x, xs, xz)
      xd = DequantizeLinear(xq, xs, xz)
      wz = Identity(zeros)
      wq = QuantizeLinear<axis=0>(weight, ws, wz)
      wd = DequantizeLinear<axis=0>(wq, ws, wz)
      y = Conv(xd, wd, bias)
    }""",
    {
        "weight": scales(4, 3, 1, 1, dtype=F32),
        "zeros": np.zeros(4, I8),
        "ws": scales(4, dtype=F32),
        "bias": scales(4, dtype=F32),
    },
    opset=13,
    ir=7,
)
GROUPED_UINT4 = File(
    """g (float16[N,128] x) => (float16[N,8] y) {
      w = DequantizeLinear<axis=0, block_size=32>(wq, ws, wz)
      y = MatMul(x, w)
    }""",
    {
        "wq": np.abs(codes(128, 8)).astype(ml_dtypes.uint4),
        "ws": scales(4, 8),
        "wz": np.full((4, 8), 7).astype(ml_dtypes.uint4),
    },
)
CAST_SCALE = File(
    """g (float[N,3,8,8] x) => (float[N,4,8,8] y) {
      f = Cast<to=1>(wq)
      w = Mul(f, ws)
      y = Conv(x, w)
    }""",
    {"wq": codes(4, 3, 1, 1, dtype=I4), "ws": scales(4, 1, 1, 1, dtype=F32)},
)
TWO_BITS = INT4_MATMUL.but(wq=np.ones((128, 8), ml_dtypes.int2), opset=25, ir=13)

FOREIGN = {
    "onnxruntime static, uint8": (ORT_STATIC, {"TRT-E10", "TRT-W09"}),
    "onnxruntime static, int8": (
        ORT_STATIC.but(xz=np.array(0, I8), yz=np.array(0, I8)),
        {"TRT-E10", "TRT-W09"},
    ),
    "onnxruntime QOperator": (QOPERATOR, {"TRT-E02", "TRT-E10"}),
    "onnxruntime dynamic": (DYNAMIC, {"TRT-E02"}),
    "onnxruntime MatMulNBits": (NBITS, {"TRT-E02"}),
    "onnxruntime GatherBlockQuantized": (GATHER_BLOCKS, {"TRT-E02"}),
    "onnxruntime 16 bits": (CONTRIB_QDQ, {"TRT-E02"}),
    "modelopt int8": (MODELOPT_INT8, {"TRT-W09"}),
    "modelopt int4 below opset 21": (MODELOPT_INT4, set()),
    "NNCF asymmetric": (ASYMMETRIC, {"TRT-E07", "TRT-W09"}),
    "torch.onnx per channel": (TORCH_CHANNELS, {"TRT-W09"}),
    "uint4 groups of 32": (GROUPED_UINT4, {"TRT-E10"}),
    "packed int2": (TWO_BITS, {"TRT-E10", "TRT-W10"}),
    "int4 convolution by Cast and scale": (CAST_SCALE, {"TRT-E22"}),
}
"""File, and the rules it breaks."""
