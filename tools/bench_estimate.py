"""What ``--dry-run`` says beside what a run takes: node executions, live memory, bytes of the file, time.

    python tools/bench_estimate.py CACHE [--threads 1] [--models glyphs,minilm,efficientnet-lite0]

CACHE is the folder of the exported models (`tools/minilm.py`, `tools/zoo`). What is told is for a machine on
which nothing else runs; where something does, ``--threads 1`` and the processor time are the just comparison.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import minilm
from zoo import efficientnet, photographs
from zoo.model import Places

from comq_onnx.evaluate.estimate import estimate
from comq_onnx.evaluate.speed import measured_speed
from comq_onnx.pipeline import quantize
from comq_onnx.planning import open_run
from comq_onnx.recipe import Recipe
from comq_onnx.targets.size import file_bytes

GLYPHS = Path(__file__).parents[1] / "samples" / "glyphs"


def source(name: str, cache: Path) -> tuple[Path, Any]:
    """A model and its calibration data."""
    if name == "glyphs":
        return GLYPHS / "glyphs.onnx", GLYPHS / "calibration.npz"
    if name == "minilm":
        return minilm.export(cache), minilm.feeds(minilm.split()[0])
    crops = photographs.crops(
        photographs.CALIBRATION, efficientnet.CALIBRATION_CROPS, efficientnet.SIZE, seed=0
    )
    return efficientnet.file(Places(cache)), efficientnet.feeds(crops)


def compare(name: str, inputs: str, cache: Path, threads: int) -> str:
    """One line of the table."""
    path, data = source(name, cache)
    recipe = Recipe(inputs=inputs, threads=threads)
    opened = open_run(path, data, recipe)
    plan = opened.plan
    told = estimate(plan.prepared, plan.layers, plan.grids, opened.calibration, recipe, inputs)
    size = file_bytes(plan.prepared, plan.layers, plan.grids, recipe)
    with tempfile.TemporaryDirectory() as folder:
        clock = time.process_time()
        report = quantize(path, Path(folder) / "out.onnx", data, recipe)
        spent = time.process_time() - clock
    seconds = sum(told.work.seconds(measured_speed(threads)).values())
    return (
        f"{name:20} {inputs:10} {seconds:8.1f} {report.seconds:8.1f} {spent:8.1f} "
        f"{size:12,} {report.bytes_after:12,}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--models", default="glyphs,minilm,efficientnet-lite0")
    given = parser.parse_args()
    heads = ("model", "inputs", "told, s", "clock, s", "CPU, s", "bytes told", "bytes")
    print("{:20} {:10} {:>8} {:>8} {:>8} {:>12} {:>12}".format(*heads))
    for name in given.models.split(","):
        for inputs in ("float", "quantized"):
            print(compare(name, inputs, given.cache, given.threads), flush=True)


if __name__ == "__main__":
    main()
