"""Problems for the loops of a backend, and what its answers must have in common with the NumPy reference.

Used on the CPU with the kernels compiled as C++, and on a GPU.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from comq_onnx.backends import numpy_
from comq_onnx.backends.protocol import Backend, Steps, on_host
from comq_onnx.solve.factor import coupling


@dataclass(frozen=True)
class Size:
    """Groups, columns, rows, and scales to a column; bounds and dead rows."""

    groups: int
    cols: int
    rows: int
    blocks: int = 1
    own_bounds: bool = False
    dead: int = 0

    def __str__(self) -> str:
        extra = "-bounds" * self.own_bounds + f"-dead{self.dead}" * bool(self.dead)
        return f"G{self.groups}-M{self.cols}-K{self.rows}-B{self.blocks}{extra}"


SIZES = [
    Size(1, 1, 1),
    Size(1, 6, 9),
    Size(5, 1, 9, own_bounds=True),
    Size(3, 4, 25, blocks=3, own_bounds=True),
    Size(2, 3, 25, dead=4),
    Size(1, 5, 150, blocks=5),
    Size(2, 3, 150, own_bounds=True, dead=11),
    Size(1, 4, 300),
    Size(1, 2, 300, blocks=10, own_bounds=True),
]


@dataclass(frozen=True)
class Case:
    """A weight and a Gram, rows in the order of visit: dead rows are the last ones."""

    gram: np.ndarray
    weight: np.ndarray
    steps: Steps
    p: np.ndarray
    """Rounded to nearest"""

    @property
    def residual(self) -> np.ndarray:
        return (self.weight - self.steps.spread(self.steps.scale) * self.p) @ self.gram

    def fresh(self) -> "Case":
        """The same problem in arrays of its own."""
        steps = replace(self.steps, scale=self.steps.scale.copy())
        return replace(self, steps=steps, p=self.p.copy())

    def loss(self, p: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """``(G, M)``, in float64."""
        error = (self.weight - self.steps.spread(scale) * p).astype(np.float64)
        return np.einsum("gmk,gkl,gml->gm", error, self.gram.astype(np.float64), error)


def make(size: Size, dtype: Any = np.float64, seed: int = 0, ordered: bool = True) -> Case:
    """A random case; blocks are shuffled as an order of visit does it, or in natural order."""
    rng = np.random.default_rng(seed)
    groups, cols, rows, blocks = size.groups, size.cols, size.rows, size.blocks
    x = rng.normal(size=(groups, 3 * rows + 4, rows)) @ rng.normal(size=(groups, rows, rows))
    gram = x.swapaxes(1, 2) @ x / x.shape[1]
    gram /= np.diagonal(gram, axis1=1, axis2=2).mean(axis=1)[:, None, None]
    if size.dead:
        gram[:, rows - size.dead :] = gram[:, :, rows - size.dead :] = 0
    weight = rng.normal(size=(groups, cols, rows))
    scale = rng.uniform(0.2, 0.6, (groups, cols, blocks))
    lo = rng.integers(-6, -2, scale.shape).astype(float) if size.own_bounds else np.full((1, 1, 1), -4.0)
    natural = np.arange(rows) * blocks // rows
    block_of = np.stack([rng.permutation(natural) if ordered else natural for _ in range(groups)])
    steps = Steps(*(values.astype(dtype) for values in (scale, lo, lo + 7)), block_of)
    weight = weight.astype(dtype)
    p = np.clip(np.rint(weight / steps.spread(steps.scale)), steps.spread(steps.lo), steps.spread(steps.hi))
    return Case(gram.astype(dtype), weight, steps, p)


def on(backend: Backend, values: Any) -> Any:
    """Arrays of the backend from NumPy's; copies, so that what is changed in place is its own."""
    if isinstance(values, Steps):
        parts = (values.scale, values.lo, values.hi, values.block_of)
        return Steps(*(backend.xp.array(part) for part in parts))
    return backend.xp.array(values)


def feedback(backend: Backend, case: Case) -> np.ndarray:
    """Steps from rounding with feedback on the backend."""
    groups, rows, _ = case.gram.shape
    damping = np.full(groups, 0.01, case.gram.dtype)
    factor = coupling(case.gram, np.ones((groups, rows), dtype=bool), damping, numpy_)  # pyright: ignore
    return on_host(backend.feedback(on(backend, factor), on(backend, case.weight), on(backend, case.steps)))


Answer = dict[str, np.ndarray]


def descended(backend: Backend, case: Case, sweeps: int = 8, refit: bool = False) -> Answer:
    steps, p, rest = (on(backend, values) for values in (case.steps, case.p, case.residual))
    gram, pull = on(backend, case.gram), on(backend, case.weight @ case.gram)
    moved = backend.descend(gram, pull, rest, p, steps, sweeps, refit)
    return {"p": on_host(p), "rest": on_host(rest), "scale": on_host(steps.scale), "moved": on_host(moved)}


def kicked(backend: Backend, case: Case, kicks: int = 12) -> Answer:
    """A settled case after iterated local search."""
    start = descended(numpy_, case, 50)  # pyright: ignore[reportArgumentType]
    steps, p, rest = (on(backend, values) for values in (case.steps, start["p"], start["rest"]))
    picks = np.random.default_rng(7).random((kicks, 3))
    backend.kick(on(backend, case.gram), rest, p, steps, picks)
    return {"p": on_host(p), "rest": on_host(rest), "scale": case.steps.scale}


def swept_in_order(backend: Backend, case: Case) -> Answer:
    """From floats, every column in an order of its own."""
    start = case.weight / case.steps.spread(case.steps.scale)
    order = np.argsort(np.random.default_rng(3).random(start.shape), axis=2)
    steps, p, rest = (on(backend, values) for values in (case.steps, start, np.zeros_like(start)))
    backend.sweep_ordered(on(backend, case.gram), rest, p, steps, on(backend, order))
    return {"p": on_host(p), "rest": on_host(rest), "scale": case.steps.scale}


def rounding_errors(backend: Backend, case: Case) -> np.ndarray:
    importance = np.abs(np.diagonal(case.gram, axis1=1, axis2=2)).copy()
    return on_host(
        backend.rounding_errors(*(on(backend, v) for v in (case.weight, importance, case.steps)), (1.0, 0.7))
    )


def check_exact(case: Case, got: Answer, wanted: Answer) -> None:
    """The same codes; residuals and scales up to the order of sums in float64."""
    assert np.array_equal(got["p"], wanted["p"])
    np.testing.assert_allclose(got["scale"], wanted["scale"], rtol=1e-12)
    np.testing.assert_allclose(got["rest"], wanted["rest"], atol=1e-10)


SAME_CODES = 0.9
SAME_LOSS = 0.02
RESIDUAL = 2e-5


def check_close(case: Case, got: Answer, wanted: Answer) -> None:
    """In float32, where a tie may break either way and leads elsewhere: most codes, and losses.

    The residual must be that of the codes themselves, up to float32.
    """
    assert (got["p"] == wanted["p"]).mean() >= SAME_CODES
    losses = [case.loss(answer["p"], answer["scale"]).sum() for answer in (got, wanted)]
    assert abs(losses[0] - losses[1]) <= SAME_LOSS * losses[1] + 1e-12
    error = case.weight - case.steps.spread(got["scale"]) * got["p"]
    peak = np.abs(case.weight @ case.gram).max()
    np.testing.assert_allclose(got["rest"], error @ case.gram, atol=RESIDUAL * max(float(peak), 1.0))
