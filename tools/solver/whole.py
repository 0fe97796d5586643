"""Time to solve whole models, beside one float pass over their calibration data on the same cores."""

import time
from pathlib import Path

import minilm
import numpy as np
from zoo import efficientnet, photographs
from zoo.model import Feed, Places
from zoo.runner import open_file

from comq_onnx import pipeline
from comq_onnx.parallel import solve_all, survey
from comq_onnx.planning import open_run
from comq_onnx.recipe import Recipe

SAMPLES = 256


def minilm_data(places: Places) -> tuple[Path, list[Feed]]:
    """256 sentences of 128 tokens: docstrings joined and cut."""
    known, more = minilm.split()
    texts = [" ".join((known + more)[i : i + 12]) for i in range(SAMPLES)]
    feeds = [feed for feed in minilm.feeds(texts) if feed[minilm.INPUTS[0]].shape[1] == minilm.TOKENS]
    return minilm.export(places.cache), (feeds * 2)[:SAMPLES]


def efficientnet_data(places: Places) -> tuple[Path, list[Feed]]:
    crops = photographs.crops(photographs.CALIBRATION, SAMPLES, efficientnet.SIZE, seed=0)
    return efficientnet.file(places), [{"input": efficientnet.as_input(crop[None])} for crop in crops]


def compare(places: Places, threads: int) -> None:
    """Print each model's solve time over its float pass."""
    for name, data in (
        ("MiniLM, 256 x 128 tokens", minilm_data),
        ("EfficientNet-Lite0, 256 images", efficientnet_data),
    ):
        path, feeds = data(places)
        session = open_file(path, threads)
        session.run(None, feeds[0])
        started = time.perf_counter()
        for feed in feeds:
            session.run(None, feed)
        forward = time.perf_counter() - started
        recipe = Recipe(threads=threads)
        started = time.perf_counter()
        surveyed = survey(open_run(path, feeds, recipe), recipe)
        calibrate = time.perf_counter() - started
        line = [f"{name}: float pass {forward:.1f} s; statistics {calibrate / forward:.2f}x"]
        for solver, effort in (("gptq", "normal"), ("comq", "fast"), ("comq", "normal"), ("comq", "max")):
            chosen = Recipe(threads=threads, solver=solver, effort=effort)  # pyright: ignore[reportArgumentType]
            started = time.perf_counter()
            solve_all(surveyed, chosen)
            spent = time.perf_counter() - started
            line.append(f"{solver if solver == 'gptq' else effort} {spent / forward:.2f}x")
        print("; ".join(line), flush=True)


def same_files(places: Places, folder: Path) -> None:
    """Print whether one and two threads write the same bytes."""
    path, feeds = efficientnet_data(places)
    written = []
    for threads in (1, 2):
        out = folder / f"threads{threads}.onnx"
        pipeline.quantize(path, out, feeds[:16], Recipe(threads=threads))
        written.append(np.frombuffer(out.read_bytes(), np.uint8))
    print("files of 1 and 2 threads:", "identical" if np.array_equal(*written) else "DIFFERENT")
