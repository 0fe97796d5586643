"""Time of the solvers on a GPU beside the CPU, on layers of growing size.

    python tools/bench_gpu.py
    python tools/bench_gpu.py --rows 1024 4096 --bits 3 --cpu-rows 1024

Weights and inputs are random: time depends on how many codes move, and that hardly on the data. Each solver
is run once untimed on the smallest layer, which compiles what is compiled. The loss is that of the solution
over that of rounding to nearest; the last column is the GPU's loss over the CPU's.
"""

import argparse
import sys
import time
from dataclasses import dataclass

import numpy as np

from comq_onnx.backends.engine import Engine, cpu_engine, open_engine
from comq_onnx.errors import ComqError
from comq_onnx.grid import Grid
from comq_onnx.records import InputStats, Problem
from comq_onnx.solve.effort import EFFORTS
from comq_onnx.solve.layer import solve_layer

CASES = [("gptq", "normal"), ("comq-paper", "normal"), *(("comq", effort) for effort in EFFORTS)]
LADDER = (256, 1024, 4096, 14336)
COLUMNS = 4096
SAMPLES = 4096


@dataclass(frozen=True)
class Measured:
    seconds: float
    loss: float
    """Of the solution, as a part of rounding's"""


def problem_of(rows: int, cols: int, bits: int) -> Problem:
    """A layer whose inputs are correlated, uneven and not centred."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=(SAMPLES, 32)).astype(np.float32)
    x = common @ rng.normal(size=(32, rows)).astype(np.float32) / 6
    x += rng.normal(size=x.shape).astype(np.float32)
    x *= rng.uniform(0.2, 2, rows).astype(np.float32)
    x += 0.3
    whole, half = (
        InputStats(
            part.mean(axis=0, dtype=np.float64)[None],
            (part.T @ part).astype(np.float64)[None] / len(part),
            len(part),
        )
        for part in (x, x[: SAMPLES // 2])
    )
    stats = InputStats(whole.mean, whole.gram, whole.count, half)
    return Problem(rng.normal(size=(1, rows, cols)), stats, Grid(bits))


def measure(problem: Problem, case: tuple[str, str], engine: Engine) -> Measured:
    """Solutions come back to the host, so the GPU has ended when the clock is read."""
    solver, effort = case
    started = time.perf_counter()
    answer = solve_layer(problem, solver, True, effort, engine)
    return Measured(time.perf_counter() - started, answer.quality.solved / answer.quality.rtn)


def line(label: str, gpu: Measured, cpu: Measured | None) -> str:
    """One row of the table."""
    text = f"{label:34s}{gpu.seconds:10.2f}"
    if cpu is None:
        return f"{text}{'-':>10s}{'-':>8s}{gpu.loss:10.4f}{'-':>8s}"
    ratios = f"{cpu.seconds / gpu.seconds:7.1f}x{gpu.loss:10.4f}{gpu.loss / cpu.loss:8.3f}"
    return f"{text}{cpu.seconds:10.2f}{ratios}"


def table(options: argparse.Namespace, gpu: Engine) -> None:
    cpu = cpu_engine()
    print(
        f"{'rows x columns, solver':34s}{'GPU s':>10s}{'CPU s':>10s}{'ratio':>8s}{'loss':>10s}{'GPU/CPU':>8s}"
    )
    smallest = problem_of(min(options.rows), 64, options.bits)
    for case in CASES:
        for engine in (gpu, cpu):
            measure(smallest, case, engine)
    for rows in options.rows:
        problem = problem_of(rows, options.columns, options.bits)
        for case in CASES:
            beside = measure(problem, case, cpu) if rows <= options.cpu_rows else None
            label = f"{rows} x {options.columns}, {' '.join(case) if case[0] == 'comq' else case[0]}"
            print(line(label, measure(problem, case, gpu), beside), flush=True)


def device_name(xp: object, index: int) -> str:
    properties = xp.cuda.runtime.getDeviceProperties(index)  # pyright: ignore[reportAttributeAccessIssue]
    return f"{properties['name'].decode()}, {properties['totalGlobalMem'] / 2**30:.0f} GiB"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", type=int, default=0, help="number of the GPU")
    parser.add_argument("--rows", type=int, nargs="+", default=LADDER)
    parser.add_argument("--columns", type=int, default=COLUMNS)
    parser.add_argument("--bits", type=int, default=4, choices=(2, 3, 4, 8))
    parser.add_argument("--cpu-rows", type=int, default=4096, help="longest columns that the CPU solves too")
    options = parser.parse_args()
    try:
        engine = open_engine(f"cuda:{options.device}")
    except ComqError as error:
        print(error, file=sys.stderr)
        return 1
    name = device_name(engine.backend.xp, options.device)
    print(f"{name}; CPU threads: {cpu_engine().threads}; int{options.bits}")
    table(options, engine)
    return 0


if __name__ == "__main__":
    sys.exit(main())
