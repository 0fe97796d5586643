"""COMQ as published keeps a residual of every calibration row; in Gram form, of every row of the weight."""

import time

import numba
import numpy as np

from comq_onnx.backends.engine import Engine, single_threaded_blas
from comq_onnx.grid import Grid
from comq_onnx.records import Problem
from comq_onnx.solve import paper
from comq_onnx.solve.pose import pose
from comq_onnx.solve.scales import searched
from comq_onnx.stats.gram import GramSum


def residual_form(x: np.ndarray, weight: np.ndarray, scale: np.ndarray, bits: int) -> np.ndarray:
    """The literal form, column by column: two passes over a column of `x` a visit. Codes ``(K, M)``."""
    lo, hi = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    norms = np.linalg.norm(x, axis=0)
    columns, codes = np.asfortranarray(x), np.empty_like(weight)
    for m in range(weight.shape[1]):
        w, d = weight[:, m], scale[m]
        order = np.argsort(-norms * np.abs(w), kind="stable")
        q, rest, goal = w / d, np.zeros(len(x), x.dtype), x @ w
        for _ in range(paper.SWEEPS):
            for i in order:
                column = columns[:, i]
                step = np.clip(np.rint(q[i] + column @ rest / (d * norms[i] ** 2)), lo, hi)
                rest -= column * (d * (step - q[i]))
                q[i] = step
            fitted = columns @ q
            d = fitted @ goal / (fitted @ fitted)
            rest = goal - d * fitted
        codes[:, m] = q
    return codes


@numba.njit(nogil=True, fastmath=True)
def compiled_form(columns, weight, order, start, lo, hi, sweeps):
    """The same compiled, with nothing but the two passes in its inner loop; `columns` ``(K, N)``."""
    rows, count = columns.shape
    codes = np.empty_like(weight)
    norms = np.empty(rows, columns.dtype)
    for i in range(rows):
        norms[i] = np.sum(columns[i] * columns[i])
    rest = np.empty(count, columns.dtype)
    fitted = np.empty(count, columns.dtype)
    for m in range(weight.shape[1]):
        d, q = start[m], weight[:, m] / start[m]
        rest[:] = 0
        for _ in range(sweeps):
            for i in order[:, m]:
                x = columns[i]
                slope = columns.dtype.type(0)
                for n in range(count):
                    slope += x[n] * rest[n]
                step = min(max(np.round(q[i] + slope / (d * norms[i])), lo), hi)
                moved = d * (step - q[i])
                for n in range(count):
                    rest[n] -= x[n] * moved
                q[i] = step
            top, bottom = 0.0, 0.0
            fitted[:] = 0
            for i in range(rows):
                for n in range(count):
                    fitted[n] += columns[i, n] * q[i]
            for n in range(count):
                top += fitted[n] * (rest[n] + d * fitted[n])
                bottom += fitted[n] * fitted[n]
            fresh = top / bottom
            for n in range(count):
                rest[n] += (d - fresh) * fitted[n]
            d = columns.dtype.type(fresh)
        codes[:, m] = q
    return codes


def compare(engine: Engine, rows: int = 768, cols: int = 768, count: int = 20_000, sample: int = 32) -> None:
    """Print the times on one thread; the residual forms are timed on `sample` columns and scaled up."""
    rng = np.random.default_rng(0)
    mix = (rng.standard_normal((rows, rows)) * np.geomspace(2, 0.1, rows) / np.sqrt(rows)).astype(np.float32)
    x = rng.standard_normal((count, rows), dtype=np.float32) @ mix
    weight = rng.standard_normal((rows, cols)).astype(np.float32)
    one = Engine(engine.backend, 1)
    with single_threaded_blas():
        for _ in range(2):  # the first compiles
            started = time.perf_counter()
            total = GramSum(1, rows)
            total.add(x[None])
            stats = total.stats()
            posed = pose(Problem(weight[None].astype(np.float64), stats, Grid(4)), centred=False)
            codes, _, _ = paper.solve(posed, one)
            gram = time.perf_counter() - started
        start = np.ldexp(searched(posed, engine.backend)[0], posed.exponent)[0, :, 0].astype(np.float32)
        started = time.perf_counter()
        literal = residual_form(x, weight[:, :sample], start[:sample], 4)
        plain = (time.perf_counter() - started) * cols / sample
        columns = np.ascontiguousarray(x.T)
        norms = np.linalg.norm(x, axis=0)
        order = np.argsort(-norms[:, None] * np.abs(weight), axis=0, kind="stable")
        compiled_form(columns[:, :64].copy(), weight[:, :1], order[:, :1], start, -8, 7, 1)
        started = time.perf_counter()
        compiled_form(columns, weight[:, :sample].copy(), order, start, -8, 7, paper.SWEEPS)
        compiled = (time.perf_counter() - started) * cols / sample
    same = (literal == codes[0, :sample].T).mean()
    print(f"comq-paper, {rows} x {cols}, {count} calibration rows, {paper.SWEEPS} sweeps, one thread:")
    print(f"  Gram form, Gram accumulation included: {gram:.2f} s")
    print(f"  residual form, NumPy with BLAS: {plain / gram:.0f}x that; compiled: {compiled / gram:.0f}x")
    print(f"  codes of the two forms that agree (float32 both): {100 * same:.2f} %")
