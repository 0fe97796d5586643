"""What the choice of 8-bit ranges is worth, on the glyph classifier in samples/.

Weights are int8, rounded to nearest; activations are stored in 8 bits by each method; the file is scored on
the test images as onnxruntime runs it. `mse, values alone` is `mse` without regard to the functions that
values are seen through.

    python tools/bench_ranges.py
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import onnxruntime

from comq_onnx import pipeline
from comq_onnx.activations import choose_values, grid_of, grouped, quantized_floats
from comq_onnx.graph.io import save
from comq_onnx.planning import open_run
from comq_onnx.recipe import CalibrationMethod, Recipe
from comq_onnx.records import ValueGrid
from comq_onnx.stats.values import watch
from comq_onnx.targets import TARGETS

GLYPHS = Path(__file__).parents[1] / "samples" / "glyphs"
TARGET = "ort"


def accuracy(path: Path) -> float:
    """Per cent of the test images."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    with np.load(GLYPHS / "test.npz") as test:
        images, labels = test["image"], test["label"]
    name = session.get_inputs()[0].name
    answers = [session.run(None, {name: images[i : i + 1]})[0] for i in range(len(images))]
    return 100.0 * float(np.mean(np.concatenate(answers).argmax(axis=-1) == labels))


def main() -> int:
    model = GLYPHS / "glyphs.onnx"
    recipe = Recipe(weights="int8", solver="rtn", inputs="float", activations="int8", target=TARGET)
    opened = open_run(model, GLYPHS / "calibration.npz", recipe)
    solved = pipeline.solve_model(opened, recipe)
    placed = opened.plan.placement.values
    rules = TARGETS[TARGET].activations(recipe, True)
    assert rules is not None
    names = [value.tensor for value in placed]
    seen = watch(quantized_floats(opened, solved), names, opened.calibration, recipe)
    alone: dict[str, ValueGrid] = {}
    for members in grouped(placed):
        grid = grid_of(members, seen, ({}, {}), rules.kind, recipe)
        alone |= {value.tensor: grid for value in members}
    choices = {"mse, values alone": alone}
    for method in get_args(CalibrationMethod):
        choices[method] = choose_values(opened, solved, replace(recipe, calibration_method=method))
    print(f"| ranges | accuracy % |\n|---|---:|\n| float model | {accuracy(model):.2f} |")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "glyphs.onnx"
        for name, grids in choices.items():
            save(pipeline.write(opened, solved, recipe, grids).model, path)
            print(f"| {name} | {accuracy(path):.2f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
