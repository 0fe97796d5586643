"""Builds glyphs_trt.plan from glyphs_trt.onnx, with TensorRT for RTX on any machine or with TensorRT.

    pip install tensorrt-rtx-cu13     # builds without a GPU; engines for RTX GPUs
    pip install tensorrt              # needs an NVIDIA GPU, and builds for that one

The file itself says what is int8 and what is float16: there is no calibrator, and no flag for precision.
"""

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

found = [name for name in ("tensorrt", "tensorrt_rtx") if find_spec(name)]
if not found:
    sys.exit("TensorRT is not installed: pip install tensorrt-rtx-cu13, or pip install tensorrt beside a GPU")
trt = import_module(found[0])
logger = trt.Logger(trt.Logger.ERROR)
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
print(f"glyphs_trt.plan: {engine.nbytes:,} bytes, by {trt.__name__} {trt.__version__}")
