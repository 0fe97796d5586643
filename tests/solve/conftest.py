"""Every numeric test runs on every backend; problems are made here."""

from collections.abc import Callable

import numpy as np
import pytest
from backends.cuda_on_cpu import cuda_on_cpu_backend

from comq_onnx.backends import numba_, numpy_
from comq_onnx.backends.engine import Engine
from comq_onnx.backends.protocol import Backend
from comq_onnx.grid import Grid
from comq_onnx.records import InputStats, Problem

MakeProblem = Callable[..., tuple[Problem, np.ndarray]]


BACKENDS = {"numpy": lambda: numpy_, "numba": lambda: numba_, "cuda-on-cpu": cuda_on_cpu_backend}


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    return BACKENDS[request.param]()


@pytest.fixture
def engine(backend: Backend) -> Engine:
    return Engine(backend, threads=1 if backend is numpy_ else 2)


@pytest.fixture
def make_problem() -> MakeProblem:
    """A function ``(grid, groups, rows, cols, seed, samples) -> (problem, inputs)``.

    Inputs are correlated and not centred, as activations are; ``(groups, samples, rows)``.
    """

    def make(grid: Grid, groups: int = 1, rows: int = 24, cols: int = 6, seed: int = 0, samples: int = 0):
        rng = np.random.default_rng(seed)
        mix = rng.normal(size=(groups, rows, rows)) * np.linspace(0.2, 2, rows)
        x = rng.normal(size=(groups, samples or 5 * rows + 7, rows)) @ mix + rng.normal(
            size=(groups, 1, rows)
        )
        weight = rng.normal(size=(groups, rows, cols)) * rng.uniform(0.1, 3, (groups, 1, cols))
        return Problem(weight, stats_of(x), grid), x

    return make


def stats_of(x: np.ndarray) -> InputStats:
    """Statistics of inputs ``(groups, samples, rows)``."""
    return InputStats(x.mean(axis=1), x.swapaxes(1, 2) @ x / x.shape[1], x.shape[1])
