"""Activations from the CUDA execution provider, taken by CuPy without a copy, and their sums on the GPU."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from comq_onnx.backends.cupy_ import CudaBackend
from comq_onnx.errors import ComqError
from comq_onnx.run.session import Session, SessionOptions, open_session
from comq_onnx.stats.device_gram import DeviceGramSum
from comq_onnx.stats.gram import CHUNK_ROWS, GramSum

WIDTH = 96


def model() -> onnx.ModelProto:
    weight = np.random.default_rng(0).normal(size=(32, WIDTH)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Relu", ["y"], ["z"])]
    graph = helper.make_graph(
        nodes,
        "dense",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 32])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", WIDTH]) for name in "yz"],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])


@pytest.fixture(scope="module")
def session(gpu: CudaBackend) -> Session:
    try:
        return open_session(model(), SessionOptions(device="cuda:0"))
    except ComqError as error:
        pytest.skip(str(error))


def batch(seed: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).normal(size=(500, 32)).astype(np.float32)}


def test_outputs_are_the_cpus(session: Session) -> None:
    wanted = open_session(model()).run(batch(0))
    for name, value in session.run(batch(0)).items():
        np.testing.assert_allclose(value, wanted[name], rtol=1e-4, atol=1e-4)


def test_outputs_stay_on_the_gpu(session: Session, gpu: CudaBackend) -> None:
    plain = session.run(batch(0))
    tensors = session.run_on_device(batch(0))
    for name, tensor in tensors.items():
        array = gpu.xp.asarray(tensor)
        assert array.data.ptr == tensor.value.data_ptr()
        assert np.array_equal(array.get(), plain[name])


def test_an_array_keeps_its_memory_alive(session: Session, gpu: CudaBackend) -> None:
    array = gpu.xp.asarray(session.run_on_device(batch(0), ["z"])["z"])
    for seed in range(1, 20):
        session.run_on_device(batch(seed))
    assert np.array_equal(array.get(), session.run(batch(0), ["z"])["z"])


def test_sums_are_as_near_to_float64_as_float32_comes(session: Session, gpu: CudaBackend) -> None:
    """The roundings of a chunk's sum of 512 products go all ways, so their sum grows with the root of 512."""
    device, host, rows = DeviceGramSum(1, WIDTH, gpu.xp), GramSum(1, WIDTH), []
    for seed in range(5):
        array = gpu.xp.asarray(session.run_on_device(batch(seed), ["z"])["z"])
        device.add(array[None])
        rows.append(array.get())
        host.add(rows[-1][None])
    x = np.concatenate(rows).astype(np.float64)
    wanted = x.T @ x / len(x)
    spread = np.sqrt(np.diagonal(wanted)) + 1e-9
    bound = 4 * CHUNK_ROWS**0.5 * 2**-24
    for sums in (device, host):
        got = sums.stats()
        assert got is not None
        np.testing.assert_allclose(got.mean[0], x.mean(axis=0), rtol=1e-6, atol=1e-6)
        assert (np.abs(got.gram[0] - wanted) <= bound * np.outer(spread, spread)).all()
        assert np.array_equal(got.gram, got.gram.swapaxes(1, 2))
