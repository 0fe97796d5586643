"""What TensorRT makes of a file, in words and as checks."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx

from comq_onnx.evaluate.agreement import Check, Outputs, check_agreement
from comq_onnx.run.tensorrt_ import Engine, build_engine
from comq_onnx.targets.engine_shapes import profile


def engine_of(path: Path, batches: Sequence[Mapping[str, np.ndarray]] = ()) -> Engine:
    """The engine of the file at `path` for the shapes of `batches`, which are run where a GPU is.

    ComqError where no package of TensorRT works here, or the file is not ONNX.
    """
    shapes: dict[str, list[tuple[int, ...]]] = {}
    for batch in batches:
        for name, value in batch.items():
            shapes.setdefault(name, []).append(np.shape(value))
    return build_engine(path, profile(onnx.load(path, load_external_data=False), shapes), batches)


def told(engine: Engine) -> str:
    """Size and time of an engine and the types in it, or why there is none, as a clause."""
    if not engine.built:
        return f"it refuses the file: {engine.error}"
    products = ", ".join(f"{count} {kind}" for kind, count in sorted(engine.computes_in().items()))
    stored = ", ".join(f"{size:,} bytes {kind}" for kind, size in sorted(engine.constants.items()))
    parts = [f"{engine.bytes:,} bytes, built in {engine.seconds:.1f} s"]
    parts += [f"products: {products}"] if products else []
    parts += [f"weights and scales: {stored}"] if stored else []
    return "; ".join(parts)


def engine_checks(engine: Engine, reference: Outputs, limit: float) -> list[Check]:
    """An engine is built; and where it ran, it answers as onnxruntime does, up to `limit`."""
    name = f"{engine.runtime} builds an engine"
    if engine.outputs is None:
        ran = f"; not run: {engine.not_run}" if engine.not_run else ""
        return [Check(name, engine.built, told(engine) + ran)]
    same = check_agreement("TensorRT = onnxruntime, as deployed", reference, engine.outputs, limit)
    return [Check(name, True, f"{told(engine)}; run on {engine.device}"), same]
