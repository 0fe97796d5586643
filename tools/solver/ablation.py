"""What each part of the default solver is worth: error and time with the part left out or changed."""

import time
from dataclasses import dataclass, replace

import numpy as np

from comq_onnx.backends.engine import Engine, single_threaded_blas
from comq_onnx.grid import Grid
from comq_onnx.records import Problem
from comq_onnx.solve import comq
from comq_onnx.solve.damping import chosen
from comq_onnx.solve.effort import EFFORTS, MANY_STARTS, Settings
from comq_onnx.solve.pose import pose
from comq_onnx.solve.spectrum import FLOOR, estimated
from solver.cases import Case, deviation, held_out_error


@dataclass(frozen=True)
class Variant:
    """The solver with something changed."""

    settings: Settings
    damping: float | None = None
    """By hand; None for the one that held-out samples choose"""
    spectrum: bool = False
    oracle: bool = False
    """Solve on the inputs it is judged on: what no calibration can reach"""


NORMAL = EFFORTS["normal"]
VARIANTS = {
    "normal": Variant(NORMAL),
    "without kicks": Variant(replace(NORMAL, kicks=0)),
    "one start": Variant(replace(NORMAL, rounds=((1.0,),))),
    "twelve starts instead of kicks": Variant(replace(NORMAL, rounds=MANY_STARTS, kicks=0)),
    "ten times the kicks": Variant(replace(NORMAL, kicks=10 * NORMAL.kicks)),
    "damping 0.001 by hand": Variant(NORMAL, damping=0.001),
    "damping 0.01 by hand": Variant(NORMAL, damping=0.01),
    "eigenvalues corrected": Variant(NORMAL, spectrum=True),
    "solved on the test inputs": Variant(NORMAL, damping=0.003, oracle=True),
}


def error_of(case: Case, grid: Grid, variant: Variant, engine: Engine) -> float:
    """Held-out error of one layer."""
    problem = Problem(case.weight, case.unseen if variant.oracle else case.seen, grid)
    with single_threaded_blas():
        posed, gram = pose(problem, True), None
        damping = np.full(len(posed.live), variant.damping or FLOOR)
        if variant.spectrum:
            gram = estimated(case.seen, posed, True)
        elif variant.damping is None:
            damping = chosen(case.seen, posed, True, engine)
        (p, scale, _), _, _ = comq.solve(posed, damping, engine, variant.settings, gram)
    error = deviation(problem, posed, p, scale)
    return held_out_error(case, error, np.einsum("gk,gkm->gm", problem.stats.mean, error))


def table(cases: list[Case], grids: list[Grid], engine: Engine) -> None:
    """Print each variant's geometric mean of held-out errors and its time, as parts of ``normal``'s."""
    base: list[float] = []
    print("| variant | " + " | ".join(f"{grid}: error" for grid in grids) + " | time |")
    print("| --- |" + " ---: |" * (len(grids) + 1))
    for name, variant in VARIANTS.items():
        started = time.perf_counter()
        means = [
            float(np.exp(np.mean([np.log(error_of(case, grid, variant, engine)) for case in cases])))
            for grid in grids
        ]
        figures = [*means, time.perf_counter() - started]
        base = base or figures
        cells = [f"{figure / first:.3f}x" for figure, first in zip(figures, base, strict=True)]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
