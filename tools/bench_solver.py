"""Held-out layer error of every solver on MiniLM's MatMuls, beside the figures set as goals.

Protocol: the encoder exported from its wheel (opset 14), 128 calibration and 256 held-out docstrings of the
standard library (80 to 600 characters, seed 0), cut to 128 tokens, no padding; MatMuls 0, 3, 4, 5, 16, 17,
33, 35; symmetric per-channel. The figure is the geometric mean over the layers of
``E ||y - y'||^2 / E ||W^T x||^2`` on the held-out tokens. In the first table every row has the folded bias;
the second shows every solver without one.

    OMP_NUM_THREADS=1 python tools/bench_solver.py --cache build/zoo
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import minilm
import numpy as np
import onnx
import onnxruntime

from comq_onnx.grid import Grid, dequantize
from comq_onnx.records import InputStats, Problem
from comq_onnx.solve import rtn
from comq_onnx.solve.layer import solve_layer
from comq_onnx.solve.pose import pose
from comq_onnx.stats.gram import merged

MATMULS = (0, 3, 4, 5, 16, 17, 33, 35)
ROWS = ("rtn", "rtn searched", "comq-paper", "gptq", "comq")
GOALS = {
    "rtn": (0.0126, 0.0636, 0.3367),
    "rtn searched": (0.0086, 0.0286, 0.1133),
    "comq-paper": (0.0037, 0.0126, 0.0487),
    "gptq": (0.0032, 0.0111, 0.0448),
    "comq": (0.0027, 0.0084, 0.0294),
}


def constant_matmuls(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The MatMul nodes with a constant right side, in the file's order."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in constants]


def input_stats(
    model: onnx.ModelProto, names: Sequence[str], batches: list[dict[str, np.ndarray]]
) -> dict[str, InputStats]:
    """Mean and Gram of the tensors `names` over all tokens of `batches`, in float64."""
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    opened.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    session = onnxruntime.InferenceSession(opened.SerializeToString(), providers=["CPUExecutionProvider"])
    sums: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    count = 0
    for feed in batches:
        count += feed[minilm.INPUTS[0]].size
        for name, value in zip(names, session.run(list(names), feed), strict=True):
            x = value.reshape(-1, value.shape[-1]).astype(np.float64)
            mean, gram = sums.get(name, (0.0, 0.0))
            sums[name] = (mean + x.sum(axis=0), gram + x.T @ x)
    return {name: InputStats(m[None] / count, g[None] / count, count) for name, (m, g) in sums.items()}


def solved(problem: Problem, row: str, compensate: bool) -> tuple[np.ndarray, np.ndarray]:
    """Weight error ``(1, K, M)`` and bias ``(1, M)`` of one row of the table."""
    if row == "rtn searched":
        posed = pose(problem, centred=False)
        p, scale, _ = rtn.solve(posed, search=True)
        error = problem.weight - np.ldexp(scale * p, posed.exponent)
        bias = np.einsum("gk,gkm->gm", problem.stats.mean, error) if compensate else None
    else:
        answer = solve_layer(problem, row, compensate)
        error = problem.weight - dequantize(answer.codes, answer.scale, answer.zero_point, answer.grid)
        bias = answer.bias
    return error, np.zeros_like(error[:, 0]) if bias is None else bias


def held_out_error(weight: np.ndarray, error: np.ndarray, bias: np.ndarray, stats: InputStats) -> float:
    """``E ||error^T x - bias||^2 / E ||weight^T x||^2`` on the rows of `stats`."""
    power = np.vdot(error, stats.gram @ error) + np.vdot(bias, bias)
    power -= 2 * np.vdot(bias, np.einsum("gk,gkm->gm", stats.mean, error))
    return float(power / np.vdot(weight, stats.gram @ weight))


@dataclass(frozen=True)
class Case:
    """One MatMul: its weight, and its inputs' statistics on both sides of the split."""

    weight: np.ndarray
    seen: InputStats
    unseen: InputStats


def read_cases(cache: Path, every: bool) -> list[Case]:
    """The MatMuls of the protocol, or all 36."""
    model = onnx.load(minilm.export(cache))
    nodes = constant_matmuls(model)
    nodes = nodes if every else [nodes[i] for i in MATMULS]
    names = list(dict.fromkeys(node.input[0] for node in nodes))
    known, held_out = (minilm.feeds(texts) for texts in minilm.split())
    middle = len(known) // 2
    first, second = (input_stats(model, names, part) for part in (known[:middle], known[middle:]))
    seen = {name: merged(first[name], second[name]) for name in names}
    unseen = input_stats(model, names, held_out)
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return [
        Case(tensors[node.input[1]].astype(np.float64)[None], seen[node.input[0]], unseen[node.input[0]])
        for node in nodes
    ]


def cell(cases: list[Case], grid: Grid, row: str, compensate: bool) -> str:
    """Geometric mean of the held-out errors, and the seconds it took to solve."""
    errors, started = [], time.perf_counter()
    for case in cases:
        answer = solved(Problem(case.weight, case.seen, grid), row, compensate)
        errors.append(held_out_error(case.weight, *answer, case.unseen))
    return f"{np.exp(np.mean(np.log(errors))):12.5f} ({time.perf_counter() - started:6.1f}s)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, default=Path("build/zoo"), help="folder for the exported model")
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 3, 2])
    parser.add_argument("--block", type=int, default=0, help="block size; 0 is per channel")
    parser.add_argument("--asymmetric", action="store_true")
    parser.add_argument("--all", action="store_true", help="all 36 MatMuls instead of eight")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS)
    options = parser.parse_args()
    cases = read_cases(options.cache, options.all)
    place = {"granularity": "block", "block_size": options.block} if options.block else {}
    grids = [Grid(bits, symmetric=not options.asymmetric, **place) for bits in options.bits]
    print(f"{len(cases)} MatMuls, {cases[0].seen.count} calibration tokens, {cases[0].unseen.count} held out")
    comparable = not (options.block or options.asymmetric or options.all) and options.bits == [4, 3, 2]
    for compensate, title in ((True, "with the folded bias"), (False, "without a bias")):
        print(f"\n{title:24s}" + "".join(f"{grid!s:>22s}" for grid in grids) + "   (seconds, all layers)")
        for row in options.rows:
            line = f"{row:24s}" + "".join(cell(cases, grid, row, compensate) for grid in grids)
            if compensate and comparable:
                line += "   goals: " + " ".join(f"{value:.4f}" for value in GOALS[row])
            print(line, flush=True)


if __name__ == "__main__":
    main()
