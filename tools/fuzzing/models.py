"""Broken and hostile models as command lines."""

import random
from pathlib import Path

from onnx import ModelProto

from fuzzing.attempt import OUTPUT, Attempt
from fuzzing.graphs import corpus
from fuzzing.protos import mutate_bytes, mutate_fields
from fuzzing.traps import TRAPS

LIMIT = 1 << 22
"""Bytes of a model that is written to disk"""
QUICK = ("--effort", "fast", "--threads", "1", "--calibration-samples", "4")
TARGETS = ("ort", "ort", "ort", "tensorrt", "fakequant")


def make_model(rng: random.Random, folder: Path) -> Attempt:
    """A mutated model, and a command that reads it."""
    name, seed = rng.choice(corpus())
    model = ModelProto()
    model.CopyFrom(seed)
    kind = rng.choice(("bytes", "fields", "fields", "trap", "trap", "trap"))
    path = folder / "model.onnx"
    if kind == "bytes":
        other = rng.choice(corpus())[1].SerializeToString()
        how, data = mutate_bytes(model.SerializeToString(), other, rng)
    else:
        traps = rng.choices(TRAPS, k=rng.choice((1, 1, 1, 2)))
        how = mutate_fields(model, rng) if kind == "fields" else _sprung(model, traps, rng, folder)
        data = model.SerializeToString()
    path.write_bytes(data[:LIMIT])
    return Attempt(f"{name}: {kind}: {how}", command(path, rng))


def _sprung(model: ModelProto, traps: list, rng: random.Random, folder: Path) -> str:
    said = []
    for trap in traps:
        if model.graph.node and model.graph.output and model.graph.input:
            try:
                said.append(trap(model, rng, folder))
            except (ValueError, TypeError, IndexError, FileExistsError):
                said.append(f"{trap.__name__} does not go with it")
    return " + ".join(said)


def command(path: Path, rng: random.Random) -> tuple[str, ...]:
    """Mostly quantizing, with a few flags; one in six is another command."""
    draw = rng.random()
    if draw < 0.06:
        return ("inspect", str(path))
    if draw < 0.11:
        return (
            "check",
            str(path),
            "--target",
            rng.choice(("portable", "ort", "tensorrt", "openvino", "web")),
        )
    if draw < 0.16:
        return ("compare", str(path), str(path), "--samples", "4")
    words = [str(path), "-o", str(path.with_name(OUTPUT)), *QUICK, "--target", rng.choice(TARGETS)]
    words += ["--weights", rng.choice(("int8", "int6", "int5", "int4", "int4", "int3", "int2"))]
    words += rng.choice(((), ("--quiet",), ("--quiet",), ("--inputs", "quantized"), ("--dry-run",)))
    words += rng.choice(((), (), ("--asymmetric",), ("--solver", "rtn"), ("--activations", "int8")))
    words += rng.choice(((), (), (), ("--quantize-embeddings",), ("--high-precision-dtype", "fp16")))
    if rng.random() < 0.03:
        words += ["--report", str(path.with_name("report.html"))]
    return tuple(words)
