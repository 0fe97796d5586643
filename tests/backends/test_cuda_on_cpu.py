"""The GPU's kernels, compiled as C++, against the NumPy reference: one thread to a block, and several."""

from collections.abc import Callable

import numpy as np
import pytest
from backends import kernel_cases as cases
from backends.cuda_on_cpu import HostLauncher, cuda_on_cpu_backend
from backends.kernel_cases import SIZES, Size, make

from comq_onnx.backends import cupy_, numpy_
from comq_onnx.backends.cupy_ import CudaBackend
from comq_onnx.backends.protocol import Steps

LOOPS: dict[str, Callable] = {
    "descend": cases.descended,
    "refit": lambda backend, case: cases.descended(backend, case, refit=True),
    "kick": cases.kicked,
    "sweep_ordered": cases.swept_in_order,
}
SIZED = pytest.mark.parametrize("size", SIZES, ids=str)
FEW = [Size(2, 2, 9, blocks=2, own_bounds=True), Size(1, 2, 70, dead=3)]


def pairs(sizes: list[Size]) -> list:
    """Every loop on every size; the loop that refits has one scale to a column."""
    fit = [(loop, size) for size in sizes for loop in LOOPS if loop != "refit" or size.blocks == 1]
    return [pytest.param(loop, size, id=f"{loop}-{size}") for loop, size in fit]


LOOPED = pytest.mark.parametrize(("loop", "size"), pairs(SIZES))


@LOOPED
def test_loops_make_the_references_moves_in_float64(loop: str, size: Size) -> None:
    case = make(size)
    cases.check_exact(case, LOOPS[loop](cuda_on_cpu_backend(), case), LOOPS[loop](numpy_, case))


@LOOPED
def test_loops_are_close_to_the_reference_in_float32(loop: str, size: Size) -> None:
    case = make(size, np.float32)
    cases.check_close(case, LOOPS[loop](cuda_on_cpu_backend(), case), LOOPS[loop](numpy_, case))


@pytest.mark.parametrize(("loop", "size"), pairs([size for size in SIZES if size.cols > 1]))
def test_loops_give_the_compiled_loops_bits_in_float64(loop: str, size: Size) -> None:
    """Sums over a column may be added in another order; whatever follows one row after another may not."""
    numba_ = pytest.importorskip("comq_onnx.backends.numba_", reason="numba is not installed")
    case = make(size)
    got, wanted = LOOPS[loop](cuda_on_cpu_backend(), case), LOOPS[loop](numba_, case)
    assert np.array_equal(got["p"], wanted["p"])
    if loop != "refit":
        assert np.array_equal(got["rest"], wanted["rest"])


@SIZED
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_feedback_is_the_references(size: Size, dtype: type) -> None:
    case = make(size, dtype)
    same = cases.feedback(cuda_on_cpu_backend(), case) == cases.feedback(numpy_, case)
    assert same.mean() >= (1 if dtype is np.float64 else cases.SAME_CODES)


@SIZED
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_rounding_errors_are_the_references(size: Size, dtype: type) -> None:
    case = make(size, dtype, ordered=False)
    got = cases.rounding_errors(cuda_on_cpu_backend(), case)
    assert got.dtype == dtype
    np.testing.assert_allclose(
        got, cases.rounding_errors(numpy_, case), rtol=1e-12 if dtype is np.float64 else 1e-5, atol=1e-30
    )


@pytest.mark.parametrize(("loop", "size"), pairs(FEW))
def test_threads_of_a_block_make_the_moves_of_one(loop: str, size: Size) -> None:
    """The search for the first row that moves, by several threads, in any order between two barriers."""
    case = make(size)
    alone = LOOPS[loop](cuda_on_cpu_backend(), case)
    for threads in (4, 32):
        answers = [LOOPS[loop](cuda_on_cpu_backend(threads, order), case) for order in (0, 1, 2, 3)]
        for answer in answers:
            cases.check_exact(case, answer, alone)
            assert all(np.array_equal(answer[name], answers[0][name]) for name in answer)


@pytest.mark.parametrize("size", FEW, ids=str)
def test_threads_of_a_block_sum_and_round_as_one(size: Size) -> None:
    case, natural = make(size), make(size, ordered=False)
    rounded = cases.feedback(cuda_on_cpu_backend(), case)
    errors = cases.rounding_errors(cuda_on_cpu_backend(), natural)
    for order in (0, 1, 2):
        backend = cuda_on_cpu_backend(0, order)
        assert np.array_equal(cases.feedback(backend, case), rounded)
        np.testing.assert_allclose(cases.rounding_errors(backend, natural), errors, rtol=1e-12)


@pytest.mark.parametrize(("loop", "size"), pairs([Size(2, 3, 25)]))
def test_a_column_that_is_too_long_for_shared_memory(loop: str, size: Size) -> None:
    case = make(size)
    small, large = (LOOPS[loop](cuda_on_cpu_backend(shared_bytes=size), case) for size in (100, 1 << 16))
    assert all(np.array_equal(small[name], large[name]) for name in small)


def test_a_missing_barrier_is_seen() -> None:
    """Take away each barrier of a sweep in turn: some order of the threads gives itself away."""
    cuda_on_cpu_backend()
    head, loop = cupy_.source().split("bool sweep(", 1)
    case = make(Size(2, 3, 70))
    wanted = cases.descended(cuda_on_cpu_backend(), case)
    for number in range(3):
        parts = loop.split("__syncthreads();", number + 1)
        text = head + "bool sweep(" + "__syncthreads();".join(parts[:-1]) + parts[-1]
        seen = False
        for order in range(4):
            try:
                got = cases.descended(CudaBackend(np, HostLauncher(32, order, text=text)), case)
            except AssertionError:
                seen = True
            else:
                seen |= not np.array_equal(got["rest"], wanted["rest"])
        assert seen, f"barrier {number}"


def test_columns_that_settled_are_told_from_those_that_moved() -> None:
    case = make(Size(2, 3, 25))
    settled = cases.descended(numpy_, case, 50)
    again = case.fresh()
    again.p[:] = settled["p"]
    assert not cases.descended(cuda_on_cpu_backend(), again)["moved"].any()


def test_a_factor_is_refused_where_there_is_none() -> None:
    backend = cuda_on_cpu_backend()
    gram = np.stack([np.eye(3), -np.eye(3)])
    for some in (gram, gram[1:]):
        with pytest.raises(np.linalg.LinAlgError):
            backend.cholesky(some)
    for size in (3, cupy_.BATCHED_ROWS + 1):
        good = np.stack([4 * np.eye(size), np.eye(size)])
        assert np.array_equal(backend.cholesky(good), np.sqrt(good))


def test_what_is_only_read_may_be_read_only_broadcast_or_strided() -> None:
    case = make(Size(2, 3, 9, own_bounds=True))
    wanted = cases.descended(cuda_on_cpu_backend(), case)
    gram = np.broadcast_to(case.gram[:, None], (2, 2, 9, 9))[:, 1]
    pull, block_of = case.weight @ case.gram, np.zeros((2, 9), np.int32)
    for values in (gram, pull, block_of):
        values.flags.writeable = False
    p, rest = case.p.copy(), case.residual
    steps = Steps(case.steps.scale, np.asfortranarray(case.steps.lo), case.steps.hi[::1], block_of)
    cuda_on_cpu_backend().descend(gram, pull, rest, p, steps, 8, False)
    assert np.array_equal(p, wanted["p"])


def test_what_is_changed_in_place_must_be_contiguous() -> None:
    case = make(Size(1, 4, 9))
    with pytest.raises(ValueError, match="contiguous"):
        cuda_on_cpu_backend().descend(
            case.gram, case.weight, case.residual, np.asfortranarray(case.p), case.steps, 1, False
        )
    blocked = make(Size(1, 4, 9, blocks=3))
    with pytest.raises(ValueError, match="one scale"):
        cases.descended(cuda_on_cpu_backend(), blocked, refit=True)


@pytest.mark.parametrize("rows", [1, 9, 513, 4096, 14336, 10**6])
def test_a_block_is_a_power_of_two_of_threads(rows: int) -> None:
    threads = cupy_.threads_for(rows)
    assert threads.bit_count() == 1
    assert cupy_.WARP <= threads <= cupy_.MOST_THREADS
    assert f"MAX_THREADS = {cupy_.MOST_THREADS};" in cupy_.source()
