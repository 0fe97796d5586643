"""Time of the solvers against the size of a layer, on made-up layers with correlated inputs."""

import time
from pathlib import Path

import numpy as np

from comq_onnx.backends.engine import Engine
from comq_onnx.grid import Grid
from comq_onnx.records import InputStats, Problem
from comq_onnx.solve.layer import solve_layer

ROWS = ("rtn", "gptq", "comq-paper", "comq fast", "comq normal", "comq max")
SIZES = ((64, 64), (128, 128), (256, 256), (384, 384), (512, 512), (768, 768), (1024, 1024), (1536, 384))
SIZES += ((384, 1536), (2048, 2048), (4096, 1024), (1024, 4096), (4096, 4096))
DEPTHWISE = ((1152, 9), (1152, 25))
"""Groups and rows of layers with one column to a group."""
LONGEST_SLOW = 2048
"""Columns up to which the slow rows are timed."""


def problem(groups: int, rows: int, cols: int, seed: int = 0, bits: int = 4) -> Problem:
    """A layer whose inputs have a covariance that falls off over three decades, from 4 rows an input."""
    rng = np.random.default_rng(seed)
    mix = (rng.standard_normal((rows, rows)) * np.geomspace(3, 0.1, rows) / np.sqrt(rows)).astype(np.float32)

    def half() -> InputStats:
        mean, gram = np.zeros((groups, rows)), np.zeros((groups, rows, rows))
        for g in range(groups):
            x = rng.standard_normal((2 * rows + 16, rows), dtype=np.float32) @ mix + np.float32(0.3)
            mean[g], gram[g] = x.mean(axis=0, dtype=np.float64), x.T @ x / len(x)
        return InputStats(mean, gram, 2 * rows + 16)

    first, second = half(), half()
    whole = InputStats((first.mean + second.mean) / 2, (first.gram + second.gram) / 2, 2 * first.count, first)
    return Problem(rng.standard_normal((groups, rows, cols)) * 0.05, whole, Grid(bits))


def seconds(one: Problem, row: str, engine: Engine, least: float = 1.0, most: int = 9) -> float:
    """Shortest of several runs; the first, which may compile, does not count where a run is short."""
    solver, _, effort = row.partition(" ")
    best, total, runs = np.inf, 0.0, 0
    while runs < most and (total < least or runs < 2):
        started = time.perf_counter()
        solve_layer(one, solver, True, effort or "normal", engine)
        spent = time.perf_counter() - started
        best, total, runs = min(best, spent), total + spent, runs + 1
        if spent > 5:
            break
    return float(best)


def run(engine: Engine, longest: int) -> dict[tuple[int, int, int], dict[str, float]]:
    """Print the ladder; seconds by (groups, rows, columns) and row."""
    ladder = {}
    print("| groups x rows x columns | " + " | ".join(ROWS) + " |")
    print("| --- |" + " ---: |" * len(ROWS))
    sizes = [(g, k, 1) for g, k in DEPTHWISE] + [(1, k, m) for k, m in SIZES if max(k, m) <= longest]
    for size in sizes:
        one, times = problem(*size), {}
        for row in ROWS:
            if row in ("comq-paper", "comq max") and size[1] * size[2] > LONGEST_SLOW**2:
                continue
            times[row] = seconds(one, row, engine)
        ladder[size] = times
        cells = [f"{times[row] / times['gptq']:.2f}x" if row in times else "-" for row in ROWS]
        cells[1] = f"{times['gptq']:.4f} s"
        print(f"| {size[0]} x {size[1]} x {size[2]} | " + " | ".join(cells) + " |", flush=True)
    return ladder


def exponents(engine: Engine, longest: int) -> dict[str, float]:
    """Growth of the time of ``comq normal``: in the rows at 512 columns, in the columns at 512 rows."""
    fits = {}
    for name, sizes in (
        ("rows", [(k, 512) for k in (512, 1024, 2048, 4096)]),
        ("columns", [(512, m) for m in (512, 1024, 2048, 4096)]),
        ("both", [(k, k) for k in (512, 1024, 2048, 4096)]),
    ):
        used = [(k, m) for k, m in sizes if max(k, m) <= longest]
        times = [seconds(problem(1, k, m), "comq normal", engine) for k, m in used]
        grows = [max(size) if name != "columns" else size[1] for size in used]
        fits[name] = float(np.polyfit(np.log(grows), np.log(times), 1)[0])
        text = ", ".join(f"{k}x{m} {t:.3f} s" for (k, m), t in zip(used, times, strict=True))
        print(f"time of comq normal grows as {name}^{fits[name]:.2f}: {text}", flush=True)
    return fits


def plot(ladder: dict[tuple[int, int, int], dict[str, float]], path: Path) -> None:
    """Time against rows of square layers, both axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    square = {size[1]: times for size, times in ladder.items() if size[0] == 1 and size[1] == size[2]}
    for row in ROWS:
        rows = [k for k in sorted(square) if row in square[k]]
        axes.loglog(rows, [square[k][row] for k in rows], marker="o", markersize=3, label=row)
    last = max(square)
    guide = [k for k in sorted(square) if k >= 512]
    axes.loglog(guide, [square[last]["gptq"] * (k / last) ** 3 for k in guide], "k:", label="rows^3")
    axes.set_xlabel("rows = columns of the layer")
    axes.set_ylabel("seconds")
    axes.set_title("Time to solve one layer at int4, per channel")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    print(f"scaling plot: {path}")
