"""Threads and devices."""

import threading
from importlib.util import find_spec

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from comq_onnx.backends import numba_, numpy_
from comq_onnx.backends.engine import Engine, cpu_engine, open_engine, single_threaded_blas
from comq_onnx.errors import ComqError


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_order_whatever_finishes_first(threads: int) -> None:
    gate = threading.Event()

    def work(item: int) -> int:
        if item == 0 and threads > 1:
            gate.wait(10)
        if item == 1:
            gate.set()
        return item * item

    assert list(Engine(numpy_, threads).map(work, range(6))) == [0, 1, 4, 9, 16, 25]  # type: ignore[arg-type]


def test_an_error_of_a_thread_is_raised() -> None:
    def work(item: int) -> float:
        return 1 / (item - 2)

    with pytest.raises(ZeroDivisionError):
        list(Engine(numpy_, 2).map(work, range(4)))  # type: ignore[arg-type]


def test_the_cpu_engine_is_the_compiled_one_on_all_cores() -> None:
    assert cpu_engine().backend is numba_
    assert cpu_engine().threads >= 1
    assert cpu_engine(3).threads == 3
    assert open_engine("auto", 2) == open_engine("cpu", 2) == cpu_engine(2)


@pytest.mark.skipif(find_spec("cupy") is not None, reason="CuPy is installed")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_gpu_that_cannot_be_used_is_one_sentence(device: str) -> None:
    with pytest.raises(ComqError, match=r"cupy|CuPy"):
        open_engine(device)


def test_products_run_on_one_thread_inside_and_as_before_outside() -> None:
    def counts() -> set[int]:
        np.ones((2, 2)) @ np.ones((2, 2))
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    before = counts()
    with single_threaded_blas():
        assert counts() == {1}
        with single_threaded_blas():
            assert counts() == {1}
        assert counts() == {1}
    assert counts() == before
