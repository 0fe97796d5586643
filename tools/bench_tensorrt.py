"""Engines of TensorRT, beside that of the float model in float16: their size, the types their products
compute in, and, where a GPU and CuPy are, how close they are to onnxruntime and how fast.

    python tools/bench_tensorrt.py --models glyphs,efficientnet-lite0 --keep build/trt

Weights are rounded (`--solver`): codes change neither size nor time. Without a GPU engines are built and not
run: the last three columns are empty. `x` is the float16 engine's bytes, or time, over those of the row.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from zoo.catalogue import ZOO, choose
from zoo.model import Feed, Places, UnavailableError

from comq_onnx import ComqError, Recipe, quantize
from comq_onnx.evaluate.agreement import deviation
from comq_onnx.graph.half import to_half
from comq_onnx.graph.io import load, to_proto
from comq_onnx.planning import open_run
from comq_onnx.run.session import SessionOptions, open_session, outputs_on
from comq_onnx.run.tensorrt_ import Engine, build_engine, tensorrt_missing
from comq_onnx.stats.extremes import extremes
from comq_onnx.targets.engine_shapes import profile

GLYPHS = Path(__file__).parent.parent / "samples" / "glyphs"
WAYS: Mapping[str, dict[str, str]] = {
    "W8A8": {"weights": "int8"},
    "W4 (Conv W8A8)": {"weights": "int4"},
    "W4, no activations": {"weights": "int4", "activations": "none"},
    "W8A8, rest float32": {"weights": "int8", "high_precision_dtype": "fp32"},
    "W4, rest float32": {"weights": "int4", "activations": "none", "high_precision_dtype": "fp32"},
}
CALLS = 200
HEAD = "| model | file | bytes x | engine bytes | x | products | s to build | distance | ms | x |"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ", ".join(model.name for model in ZOO)
    parser.add_argument("--models", default="glyphs", help=f"glyphs, {names}; separated by commas")
    parser.add_argument("--ways", default=",".join(map(str, range(len(WAYS)))), help=f"of {list(WAYS)}")
    parser.add_argument("--solver", default="rtn")
    parser.add_argument("--batches", type=int, default=4, help="of samples: calibrated with, and run")
    parser.add_argument("--cache", type=Path, default=Path("build/zoo"), help="folder of exported models")
    parser.add_argument("--keep", type=Path, help="folder for the files that were built")
    args = parser.parse_args()
    if missing := tensorrt_missing():
        raise SystemExit(missing)
    print(f"{HEAD}\n|---|---|---:|---:|---:|---|---:|---:|---:|---:|", flush=True)
    for name in args.models.split(","):
        try:
            path, samples = opened(name, args.cache)
            samples = samples[: args.batches]
        except UnavailableError as error:
            print(f"| {name} | skipped: {error} |")
            continue
        with tempfile.TemporaryDirectory() as folder:
            table(name, path, samples, args.keep or Path(folder), args)
    return 0


def opened(name: str, cache: Path) -> tuple[Path, list[Feed]]:
    """A model's file and its calibration samples."""
    if name == "glyphs":
        with np.load(GLYPHS / "calibration.npz") as arrays:
            images = arrays["image"]
        return GLYPHS / "glyphs.onnx", [{"image": images[i : i + 16]} for i in range(0, len(images), 16)]
    (model,) = choose(name)
    places = Places(cache, limit=1)
    return model.file(places), model.task(places).calibration


def table(name: str, path: Path, samples: list[Feed], folder: Path, args: argparse.Namespace) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    files = [("float16", half(path, samples, folder / f"{name}-float16.onnx"))]
    for index in map(int, args.ways.split(",")):
        way, how = list(WAYS.items())[index]
        recipe = Recipe(target="tensorrt", solver=args.solver, **how)  # pyright: ignore
        out = folder / f"{name}-{index}.onnx"
        try:
            quantize(path, out, samples, recipe)
            files.append((way, out))
        except ComqError as error:
            print(f"| {name} | {way} | skipped: {error} |", flush=True)
    truth, base = reference(path, samples), None
    for way, file in files:
        engine = engine_of(file, samples)
        base = base or engine
        ratio = file.stat().st_size / path.stat().st_size
        print(row(f"| {name} | {way} | {ratio:.2f}", engine, base, truth), flush=True)


def half(path: Path, samples: list[Feed], into: Path) -> Path:
    """The float model as the target prepares it, in float16."""
    at = open_run(path, samples, Recipe(target="tensorrt", activations="int8"))
    proto = to_proto(load(at.plan.prepared))
    onnx.save(to_half(proto, extremes(proto, at.calibration.batches(), "cpu")).proto, into)
    return into


def reference(path: Path, samples: list[Feed]) -> list[dict[str, np.ndarray]]:
    return outputs_on(open_session(path, SessionOptions()), samples)


def engine_of(file: Path, samples: Sequence[Feed]) -> Engine:
    fed: dict[str, list[tuple[int, ...]]] = {}
    for sample in samples:
        for name, value in sample.items():
            fed.setdefault(name, []).append(value.shape)
    ranges = profile(onnx.load(file, load_external_data=False), fed)
    return build_engine(file, ranges, samples, calls=CALLS)


def row(start: str, engine: Engine, base: Engine, truth: list[dict[str, np.ndarray]]) -> str:
    """Distance is the largest relative one of an output from the float model's in onnxruntime."""
    if not engine.built:
        return f"{start} | refused: {engine.error} |"
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(engine.computes_in().items()))
    built = f"{engine.bytes:,} | {base.bytes / engine.bytes:.2f} | {kinds} | {engine.seconds:.1f}"
    if engine.outputs is None:
        return f"{start} | {built} | not run: {engine.not_run} |"
    far = max(deviation(truth, engine.outputs, key) for key in truth[0])
    times = f"{engine.milliseconds:.3f} | {base.milliseconds / engine.milliseconds:.2f}"
    return f"{start} | {built} | {far:.2g} | {times} |"


if __name__ == "__main__":
    sys.exit(main())
