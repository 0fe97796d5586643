"""How much damping a Gram takes until it can be factored, and what grids of one layer share of it."""

from dataclasses import fields, replace

import numpy as np
import pytest

from comq_onnx.backends.protocol import Backend
from comq_onnx.grid import Grid
from comq_onnx.records import InputStats, Problem
from comq_onnx.solve.factor import on_grid, ordered
from comq_onnx.solve.pose import pose

ROWS = 12


def singular(least: float, backend: Backend):
    """A posed problem whose Gram has mean diagonal 1 and this smallest eigenvalue."""
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.standard_normal((ROWS, ROWS)))
    values = np.full(ROWS, (ROWS - least) / (ROWS - 1))
    values[0] = least
    gram = (basis * values) @ basis.T
    stats = InputStats(np.zeros((1, ROWS)), gram[None], 100)
    return pose(Problem(rng.standard_normal((1, ROWS, 3)), stats, Grid(4)), True, backend.xp)


@pytest.mark.parametrize(
    ("least", "given", "raised"),
    [(-3e-5, 1e-6, "1.0e-04"), (-2e-3, 1e-6, "1.0e-02"), (-3e-5, 0.0, "1.0e-04"), (-0.3, 0.0, "1.0e+00")],
)
def test_damping_is_raised_tenfold_until_it_suffices(
    backend: Backend, least: float, given: float, raised: str
) -> None:
    found = ordered(singular(least, backend), backend.xp.full(1, given), backend)
    assert found.note == f"the Gram is singular: damping raised to {raised}"
    assert np.isfinite(np.triu(np.asarray(found.coupling)[0])).all()


def test_a_sound_gram_keeps_its_damping(backend: Backend) -> None:
    found = ordered(singular(0.2, backend), backend.xp.full(1, 0.01), backend)
    assert found.note == ""


@pytest.mark.parametrize("grid", [Grid(8), Grid(4, False, "block", 4), Grid(2, True, "block", 6)], ids=str)
def test_what_was_factored_for_one_grid_serves_another(backend: Backend, grid: Grid) -> None:
    one = singular(-3e-5, backend)
    other = replace(one, grid=grid)
    given = backend.xp.full(1, 1e-6)
    for first, wanted in ((one, other), (other, one)):
        found = on_grid(ordered(first, given, backend), wanted)
        for field in fields(found):
            mine, afresh = (getattr(each, field.name) for each in (found, ordered(wanted, given, backend)))
            assert (
                np.array_equal(np.asarray(mine), np.asarray(afresh))
                if field.name != "note"
                else mine == afresh
            )
