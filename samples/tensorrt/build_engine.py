"""Builds glyphs_trt.plan from glyphs_trt.onnx. NEVER RUN HERE: written by TensorRT's documentation.

Needs an NVIDIA GPU and `pip install tensorrt`. The file itself says what is int8 and what is float16:
there is no calibrator, and no flag for precision.
"""

import sys
from pathlib import Path

try:
    import tensorrt as trt
except ImportError:
    sys.exit("TensorRT is not installed: pip install tensorrt, on a machine with an NVIDIA GPU")

logger = trt.Logger(trt.Logger.WARNING)
builder = trt.Builder(logger)
# Types as the file has them. From version 11 on there is no other way, and the flag is of no use.
flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
network = builder.create_network(0 if flag is None else 1 << int(flag))
parser = trt.OnnxParser(network, logger)
if not parser.parse_from_file("glyphs_trt.onnx"):
    sys.exit("\n".join(str(parser.get_error(i)) for i in range(parser.num_errors)))
config = builder.create_builder_config()
profile = builder.create_optimization_profile()
profile.set_shape("image", min=(1, 1, 32, 32), opt=(8, 1, 32, 32), max=(64, 1, 32, 32))
config.add_optimization_profile(profile)
engine = builder.build_serialized_network(network, config)
if engine is None:
    sys.exit("TensorRT built no engine; its log above says why")
Path("glyphs_trt.plan").write_bytes(engine)
