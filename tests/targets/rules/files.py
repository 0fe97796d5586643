"""Small files written as ONNX text; their constants are made from a short description of each."""

import re

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

OPS = {"com.microsoft": 1}
TYPES = {"float": np.float32, "float16": np.float16, "int4": ml_dtypes.int4, "uint4": ml_dtypes.uint4} | {
    "int2": ml_dtypes.int2,
    "uint2": ml_dtypes.uint2,
}
SPEC = re.compile(r"(?P<type>[a-z]+\d*)(\[(?P<dims>[\d,]*)\])?(=(?P<value>.+))?")
LIMITS = {"int8": (-60, 61), "uint8": (0, 256), "int4": (-7, 8), "uint4": (0, 16), "int2": (-2, 2)} | {
    "uint2": (0, 4),
    "int32": (-900, 901),
}


def array(spec: str, made: dict[str, np.ndarray], seed: int) -> np.ndarray:
    """What `spec` describes: ``int8[4,2]`` random, ``uint8=3`` a scalar, ``float[2]=a*b`` of other arrays."""
    found = SPEC.fullmatch(spec)
    assert found, spec
    dims = [int(d) for d in (found["dims"] or "").split(",") if d]
    dtype = np.dtype(TYPES.get(found["type"], found["type"]))
    rng = np.random.default_rng(seed)
    if found["value"] and "*" in found["value"]:
        left, right = found["value"].split("*")
        return (made[left] * made[right]).astype(dtype)
    if found["value"]:
        return np.full(dims, float(found["value"])).astype(dtype)
    if found["type"].startswith("float"):
        return rng.uniform(0.01, 0.02, dims).astype(dtype)
    return rng.integers(*LIMITS[found["type"]], dims).astype(dtype)


def file(signature: str, body: str, opset: int = 21, ir: int = 0, **specs: str) -> onnx.ModelProto:
    """A model of ``inputs -> outputs``, the nodes of `body`, and an initializer for each of `specs`."""
    inputs, outputs = signature.split(" -> ")
    version = ir or (13 if opset >= 25 else 11 if opset >= 23 else 10)
    header = f'<ir_version: {version}, opset_import: ["": {opset}, "com.microsoft": 1]>'
    proto = onnx.parser.parse_model(f"{header} g ({inputs}) => ({outputs}) {{ {body} }}")
    made: dict[str, np.ndarray] = {}
    for seed, (name, spec) in enumerate(specs.items()):
        made[name] = array(spec, made, seed)
        proto.graph.initializer.append(numpy_helper.from_array(made[name], name))
    return proto


def feeds(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Values for the inputs; an axis that has a name is 3 long."""
    rng, made = np.random.default_rng(9), {}
    for info in proto.graph.input:
        shape = [d.dim_value or 3 for d in info.type.tensor_type.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        integral = np.issubdtype(dtype, np.integer)
        made[info.name] = (rng.integers(0, 5, shape) if integral else rng.normal(size=shape)).astype(dtype)
    return made


def session(proto: onnx.ModelProto, optimize: bool = True, saved: str = "") -> onnxruntime.InferenceSession:
    """A session of onnxruntime on a CPU at its default settings, or without optimisation."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.optimized_model_filepath = saved
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])


def optimized(proto: onnx.ModelProto, folder) -> onnx.ModelProto:
    """The graph that onnxruntime makes of a file."""
    path = folder / "optimized.onnx"
    session(proto, saved=str(path))
    return onnx.load(path)


def deviation(proto: onnx.ModelProto) -> float:
    """Largest relative L2 distance of an output from that of the graph that is not optimised."""
    values = feeds(proto)
    plain, fast = session(proto, False).run(None, values), session(proto).run(None, values)
    pairs = [(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in zip(plain, fast, strict=True)]
    return max(float(np.linalg.norm(a - b) / np.linalg.norm(a)) for a, b in pairs)
