"""The program that builds a file's engine and runs it: ``python tensorrt_child.py FOLDER``.

Run as a script in a process of its own (`tensorrt_` starts it and says why), so it imports nothing of ours.
It answers when it starts, when the engine is built and when that has run, so that what kills the process
leaves the answer before. The builder of TensorRT for RTX needs no GPU; TensorRT's own does, and running.
"""

import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT for RTX"}
"""Those that are tried, in this order"""
PRODUCT = re.compile(
    rb'(corrltn|deconvolution|fully_connected)=\{ name="([^"]*)" output=\{[^{}]*\} input=\{([^{}]*)\}'
)
TENSOR = re.compile(rb'tensor=\{[ -~]*? name="([^"]*)"[ -~]* type=(\w+) ')
CONSTANT = re.compile(rb"tensor=\{[ -~]*? const_payload_size=(\d+) [ -~]* type=(\w+) ")
"""What the plan of TensorRT for RTX 1.7 says of its steps and constants; no interface promises it"""
WARM_UP, CALLS = 5, 50


def main(folder: Path) -> None:
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    try:
        trt, builder, log = open_builder()
    except RefusedError as error:
        put(folder, {"unusable": str(error)})
        return
    answer: dict[str, Any] = {"version": f"{PACKAGES[trt.__name__]} {trt.__version__}"}
    put(folder, answer)
    started = time.perf_counter()
    try:
        plan = build(trt, builder, log, request, answer)
    except RefusedError as error:
        put(folder, answer | {"error": str(error)})
        return
    answer |= {"bytes": len(plan), "seconds": time.perf_counter() - started}
    answer |= {"products": list(products_of(plan)), "constants": constants_of(plan)}
    put(folder, answer)
    if request["save"]:
        Path(request["save"]).write_bytes(plan)
    if request["batches"]:
        answer |= ran(trt, plan, log, folder, request)
        put(folder, answer)


class RefusedError(Exception):
    """The runtime does not work, or does not take the file; its own words."""


def open_builder() -> tuple[Any, Any, Any]:
    """The first package whose builder works here, that builder, and the log that it writes to."""
    why = "no package of TensorRT is installed"
    for name in PACKAGES:
        if find_spec(name) is None:
            continue
        trt = __import__(name)
        log = log_of(trt)
        try:
            return trt, trt.Builder(log), log
        except TypeError as error:  # what the bindings make of a builder that cannot be
            why = f"{PACKAGES[name]} makes no builder here: {(log.errors or [str(error)])[-1]}"
    raise RefusedError(why)


def log_of(trt: Any) -> Any:
    """A logger that keeps the errors and prints nothing."""

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)

    return Log()


def build(trt: Any, builder: Any, log: Any, request: dict[str, Any], answer: dict[str, Any]) -> bytes:
    """The requested file's engine, serialised, in the types of the file. RefusedError where there is none."""
    # From version 11 on all networks are strongly typed, and the flag may be gone.
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(request["model"]):
        raise RefusedError(parser_reason(parser, log))
    answer["parsed"] = True
    config = builder.create_builder_config()
    if request["profile"]:
        profile = builder.create_optimization_profile()
        for name, shapes in request["profile"].items():
            profile.set_shape(name, *shapes)
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise RefusedError(plain(log.errors[0]) if log.errors else "it builds no engine and gives no reason")
    return bytes(plan)


def parser_reason(parser: Any, log: Any) -> str:
    if not parser.num_errors:
        return plain(log.errors[0]) if log.errors else "its parser gives no reason"
    error = parser.get_error(0)
    node, said = error.node_name() or error.node_operator(), plain(error.desc())
    return f"node '{node}': {said}" if node else said


def plain(text: str) -> str:
    """One line, without the places in the runtime's source and the error of the GPU that is not there."""
    text = " ".join(text.split()).split(" [checkMacros")[0]
    text = re.sub(r"^.*?Error Code \d+: ", "", text)
    text = re.sub(r" In \w+ at \S+:\d+", "", text)
    text = re.sub(r"Assertion failed: (.+): (?=[A-Z])", "", text)
    return text.strip().rstrip(".")[:400] or "it gives no reason"


def products_of(plan: bytes) -> Iterator[list[str]]:
    """Names of layers that are products, each with the types of what it multiplies; none where unknown.

    Products with few rows are part of generated kernels, which do not say so.
    """
    types = {name: kind.decode() for name, kind in TENSOR.findall(plan)}
    for _, name, inputs in PRODUCT.findall(plan):
        read = re.findall(rb'"([^"]*)"', inputs)[:2]
        yield [name.decode(errors="replace"), *(types.get(tensor, "") for tensor in read)]


def constants_of(plan: bytes) -> dict[str, int]:
    """Bytes of the engine's constants by their type; none where unknown."""
    found: Counter[str] = Counter()
    for size, kind in CONSTANT.findall(plan):
        found[kind.decode()] += int(size)
    return dict(found)


def put(folder: Path, answer: dict[str, Any]) -> None:
    draft = folder / "answer.part"
    draft.write_text(json.dumps(answer), encoding="utf-8")
    os.replace(draft, folder / "answer.json")


def ran(trt: Any, plan: bytes, log: Any, folder: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Records of the outputs of each batch and the time of a call, or why there are none."""
    if find_spec("cupy") is None:
        return {"not_run": "that takes a GPU and CuPy"}
    import cupy  # pyright: ignore[reportMissingImports]

    log.errors.clear()
    try:
        device = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
        engine = trt.Runtime(log).deserialize_cuda_engine(plan)
        context = engine and engine.create_execution_context()
        if not context:
            reason = plain(log.errors[0]) if log.errors else "it gives no reason"
            return {"not_run": f"the engine does not load on {device}: {reason}"}
        records, milliseconds = [], 0.0
        for i, batch in enumerate(request["batches"]):
            feeds = {name: load(folder, record) for name, record in batch.items()}
            outputs, milliseconds = call(trt, engine, context, feeds, request["calls"])
            records.append(
                {
                    name: save(folder, f"out-{i}-{j}.bin", outputs[name])
                    for j, name in enumerate(request["outputs"])
                }
            )
    except (cupy.cuda.runtime.CUDARuntimeError, RuntimeError, ValueError, TypeError, KeyError) as error:
        return {"not_run": plain((log.errors or [str(error)])[0])}
    return {"batches": records, "milliseconds": milliseconds, "device": device}


def call(trt: Any, engine: Any, context: Any, feeds: dict, calls: int) -> tuple[dict[str, np.ndarray], float]:
    """Outputs by name, and the median time of `calls` more calls in ms. RuntimeError where it does not."""
    import cupy  # pyright: ignore[reportMissingImports]

    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    held = {}
    for name in inputs:
        held[name] = cupy.asarray(feeds[name].astype(trt.nptype(engine.get_tensor_dtype(name)), order="C"))
        if not context.set_input_shape(name, held[name].shape):
            raise RuntimeError(f"input '{name}' has a shape that the engine was not built for")
    for name in set(names) - set(inputs):
        shape, dtype = tuple(context.get_tensor_shape(name)), trt.nptype(engine.get_tensor_dtype(name))
        if min(shape, default=1) < 0:
            raise RuntimeError(f"the shape of output '{name}' depends on the data")
        held[name] = cupy.empty(shape, dtype)
    for name, array in held.items():
        context.set_tensor_address(name, array.data.ptr)
    cupy.cuda.Device().synchronize()  # what was copied there is seen by all streams
    with cupy.cuda.Stream(non_blocking=True) as stream:
        run_once(context, stream)
        found = {name: cupy.asnumpy(held[name]) for name in names if name not in inputs}
        times = [run_once(context, stream) for _ in range(calls and calls + WARM_UP)][WARM_UP:]
    return found, float(np.median(times)) if times else 0.0


def run_once(context: Any, stream: Any) -> float:
    """One call; its time on the device in ms."""
    import cupy  # pyright: ignore[reportMissingImports]

    before, after = cupy.cuda.Event(), cupy.cuda.Event()
    before.record(stream)
    if not context.execute_async_v3(stream.ptr):
        raise RuntimeError("the engine does not run")
    after.record(stream)
    stream.synchronize()
    return cupy.cuda.get_elapsed_time(before, after)


def load(folder: Path, record: dict[str, Any]) -> np.ndarray:
    if record["dtype"] == "bfloat16":
        import ml_dtypes

        dtype = np.dtype(ml_dtypes.bfloat16)
    else:
        dtype = np.dtype(record["dtype"])
    return np.frombuffer((folder / record["file"]).read_bytes(), dtype).reshape(record["shape"]).copy()


def save(folder: Path, file: str, value: np.ndarray) -> dict[str, Any]:
    (folder / file).write_bytes(np.ascontiguousarray(value).tobytes())
    return {"file": file, "dtype": value.dtype.name, "shape": list(value.shape)}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
