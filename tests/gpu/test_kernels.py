"""The loops on a GPU against the NumPy reference, on the cases of the CPU's tests and on long columns."""

from collections.abc import Callable

import numpy as np
import pytest
from backends import kernel_cases as cases
from backends.kernel_cases import SIZES, Size, make

from comq_onnx.backends import numpy_
from comq_onnx.backends.cupy_ import BATCHED_ROWS, CudaBackend
from comq_onnx.backends.protocol import on_host

LOOPS: dict[str, Callable] = {
    "descend": cases.descended,
    "refit": lambda backend, case: cases.descended(backend, case, refit=True),
    "kick": cases.kicked,
    "sweep_ordered": cases.swept_in_order,
}
PAIRS = [(loop, size) for size in SIZES for loop in LOOPS if loop != "refit" or size.blocks == 1]
LONG = [Size(1, 3, 1024, blocks=8), Size(1, 2, 4096, own_bounds=True)]


@pytest.mark.parametrize(("loop", "size"), PAIRS, ids=str)
def test_loops_make_the_references_moves_in_float64(gpu: CudaBackend, loop: str, size: Size) -> None:
    case = make(size)
    cases.check_exact(case, LOOPS[loop](gpu, case), LOOPS[loop](numpy_, case))


@pytest.mark.parametrize(("loop", "size"), PAIRS, ids=str)
def test_loops_are_close_to_the_reference_in_float32(gpu: CudaBackend, loop: str, size: Size) -> None:
    case = make(size, np.float32)
    cases.check_close(case, LOOPS[loop](gpu, case), LOOPS[loop](numpy_, case))


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["descend", "kick", "sweep_ordered"])
@pytest.mark.parametrize("size", LONG, ids=str)
def test_long_columns_are_close_to_the_reference(gpu: CudaBackend, loop: str, size: Size) -> None:
    case = make(size, np.float32)
    got, wanted = LOOPS[loop](gpu, case), LOOPS[loop](numpy_, case)
    losses = [case.loss(answer["p"], answer["scale"]).sum() for answer in (got, wanted)]
    assert losses[0] == pytest.approx(losses[1], rel=cases.SAME_LOSS)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_feedback_and_rounding_errors(gpu: CudaBackend, size: Size, dtype: type) -> None:
    case, natural = make(size, dtype), make(size, dtype, ordered=False)
    same = cases.feedback(gpu, case) == cases.feedback(numpy_, case)
    assert same.mean() >= (1 if dtype is np.float64 else cases.SAME_CODES)
    got, wanted = (cases.rounding_errors(backend, natural) for backend in (gpu, numpy_))
    np.testing.assert_allclose(got, wanted, rtol=1e-12 if dtype is np.float64 else 1e-5, atol=1e-30)


@pytest.mark.parametrize("loop", LOOPS)
def test_the_same_bits_on_every_run(gpu: CudaBackend, loop: str) -> None:
    case = make(Size(1, 40, 300), np.float32)
    first, second = LOOPS[loop](gpu, case), LOOPS[loop](gpu, case)
    assert all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("rows", [5, BATCHED_ROWS + 1])
def test_a_factor_and_its_refusal(gpu: CudaBackend, groups: int, rows: int) -> None:
    x = np.random.default_rng(0).normal(size=(groups, rows, 2 * rows))
    gram = x @ x.swapaxes(1, 2)
    got = on_host(gpu.cholesky(cases.on(gpu, gram)))
    np.testing.assert_allclose(got, np.linalg.cholesky(gram), rtol=1e-9, atol=1e-9)
    gram[-1, 2, 2] = -1
    with pytest.raises(np.linalg.LinAlgError):
        gpu.cholesky(cases.on(gpu, gram))
