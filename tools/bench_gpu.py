"""Time of the solvers on a GPU beside the CPU, on layers of growing size.

    python tools/bench_gpu.py
    python tools/bench_gpu.py --rows 1024 4096 --bits 3 --cpu-rows 1024
    python tools/bench_gpu.py --rows --model efficientnet.onnx calibration.npz --stack 4

Weights and inputs are random: time depends on how many codes move, and that hardly on the data. Each solver
is run twice on each layer and the second counts: the first compiles what that size needs. The loss is that of
the solution over that of rounding to nearest; the last column is the GPU's loss over the CPU's.

`--model` and `--stack` (of so many residual blocks, 1024 to 4096 to 1024, random) time whole runs: reading,
calibration, solving in sequence, verifying; each twice, of which the second counts.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from comq_onnx.backends.engine import Engine, cpu_engine, open_engine
from comq_onnx.errors import ComqError
from comq_onnx.grid import Grid
from comq_onnx.pipeline import quantize
from comq_onnx.recipe import Recipe
from comq_onnx.records import InputStats, Problem
from comq_onnx.solve.effort import EFFORTS
from comq_onnx.solve.layer import solve_layer

CASES = [("gptq", "normal"), ("comq-paper", "normal"), *(("comq", effort) for effort in EFFORTS)]
LADDER = (256, 1024, 4096, 14336)
COLUMNS = 4096
SAMPLES = 4096
WIDTH, WIDE, TOKENS = 1024, 4096, 64


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
    for _ in range(2):
        started = time.perf_counter()
        answer = solve_layer(problem, solver, True, effort, engine)
        spent = time.perf_counter() - started
    return Measured(spent, answer.quality.solved / answer.quality.rtn)


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
    for rows in options.rows:
        problem = problem_of(rows, options.columns, options.bits)
        for case in CASES:
            beside = measure(problem, case, cpu) if rows <= options.cpu_rows else None
            label = f"{rows} x {options.columns}, {' '.join(case) if case[0] == 'comq' else case[0]}"
            print(line(label, measure(problem, case, gpu), beside), flush=True)


def stack(blocks: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Residual blocks with random weights, and 64 samples of tokens that share directions."""
    rng, nodes, weights, value = np.random.default_rng(0), [], [], "x0"
    for block in range(blocks):
        for name, shape in (("up", (WIDTH, WIDE)), ("down", (WIDE, WIDTH))):
            values = rng.normal(size=shape).astype(np.float32) / shape[0] ** 0.5
            weights.append(numpy_helper.from_array(values, f"{name}{block}"))
        nodes += [
            helper.make_node("MatMul", [value, f"up{block}"], [f"h{block}"]),
            helper.make_node("Relu", [f"h{block}"], [f"r{block}"]),
            helper.make_node("MatMul", [f"r{block}", f"down{block}"], [f"d{block}"]),
            helper.make_node("Add", [value, f"d{block}"], [f"x{block + 1}"]),
        ]
        value = f"x{block + 1}"
    ends = [
        helper.make_tensor_value_info(end, TensorProto.FLOAT, ["N", TOKENS, WIDTH]) for end in ("x0", value)
    ]
    graph = helper.make_graph(nodes, "stack", ends[:1], ends[1:], weights)
    data = rng.normal(size=(64, TOKENS, 32)) @ rng.normal(size=(32, WIDTH)) / 6
    data += rng.normal(size=data.shape)
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])
    return model, {"x0": data.astype(np.float32)}


def whole_run(label: str, model: Any, data: Any, device: str) -> None:
    """One row: seconds of a second run on the GPU and on the CPU, the share of error power in the output."""
    seconds, powers = [], []
    for where in (device, "cpu"):
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(2):
                report = quantize(model, Path(folder) / "out.onnx", data, Recipe(device=where))
        seconds.append(report.seconds)
        powers.append(10 ** (-min(line.sqnr_db or 0 for line in report.verification.fidelity) / 10))
    ratio = f"{seconds[1] / seconds[0]:7.1f}x"
    print(
        f"{label:34s}{seconds[0]:10.2f}{seconds[1]:10.2f}{ratio}{powers[0]:10.2g}{powers[0] / powers[1]:8.3f}"
    )


def device_name(xp: object, index: int) -> str:
    properties = xp.cuda.runtime.getDeviceProperties(index)  # pyright: ignore[reportAttributeAccessIssue]
    return f"{properties['name'].decode()}, {properties['totalGlobalMem'] / 2**30:.0f} GiB"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", type=int, default=0, help="number of the GPU")
    parser.add_argument("--rows", type=int, nargs="*", default=LADDER)
    parser.add_argument("--columns", type=int, default=COLUMNS)
    parser.add_argument("--bits", type=int, default=4, choices=(2, 3, 4, 8))
    parser.add_argument("--cpu-rows", type=int, default=4096, help="longest columns that the CPU solves too")
    parser.add_argument("--model", nargs=2, metavar=("FILE", "DATA"), help="a whole run on this model")
    parser.add_argument("--stack", type=int, default=0, metavar="BLOCKS", help="a run on made-up blocks")
    options = parser.parse_args()
    try:
        engine = open_engine(f"cuda:{options.device}")
    except ComqError as error:
        print(error, file=sys.stderr)
        return 1
    name = device_name(engine.backend.xp, options.device)
    print(f"{name}; CPU threads: {cpu_engine().threads}; int{options.bits}")
    table(options, engine)
    device = f"cuda:{options.device}"
    if options.model:
        whole_run(Path(options.model[0]).name, *options.model, device)
    if options.stack:
        whole_run(f"stack of {options.stack} blocks", *stack(options.stack), device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
