"""Tensors that are moved out of memory keep their values; what weighs them moves nothing."""

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper

from comq_onnx.errors import ComqError
from comq_onnx.graph.external import is_external, name_absolutely
from comq_onnx.graph.outside import Nowhere, ScratchFile
from comq_onnx.graph.tensors import Stored, quantized_tensor, stored_bytes


def test_values_come_back_from_the_file(tmp_path: Path) -> None:
    outside, rng = ScratchFile(), np.random.default_rng(0)
    arrays = [rng.standard_normal((40, 50)), rng.standard_normal((300, 7)).astype(np.float16), np.arange(900)]
    tensors = [numpy_helper.from_array(array, str(i)) for i, array in enumerate(arrays)]
    tensors.append(quantized_tensor("q", rng.integers(-8, 8, (64, 65)), TensorProto.INT4)._values.tensor)
    before = [Stored(tensor).load() for tensor in tensors]
    for tensor in tensors:
        outside.take(tensor)
        outside.take(tensor)  # is out already
        assert is_external(tensor)
        assert not tensor.raw_data
    for tensor, array in zip(tensors, before, strict=True):
        np.testing.assert_array_equal(Stored(tensor).load(), array)


def test_small_values_stay_and_the_folder_goes_with_its_owner() -> None:
    outside, tensor = ScratchFile(), numpy_helper.from_array(np.arange(3.0))
    outside.take(tensor)
    assert not is_external(tensor)
    folder = outside.folder
    outside.take(numpy_helper.from_array(np.zeros(999)))
    assert list(folder.iterdir())
    del outside
    assert not folder.exists()


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("comq_onnx.graph.outside.append", full)
    with pytest.raises(ComqError, match="No space left on device"):
        ScratchFile().take(numpy_helper.from_array(np.zeros(999)))


def test_weighing_writes_nothing() -> None:
    scale, tensor = Nowhere(), numpy_helper.from_array(np.zeros((30, 40), np.float32))
    scale.take(tensor)
    assert scale.bytes == stored_bytes(tensor) == 4800


def test_names_that_leave_the_folder_are_refused(tmp_path: Path) -> None:
    from onnx import GraphProto

    (tmp_path / "w").write_bytes(bytes(4000))
    tensor = TensorProto(
        name="w", data_type=TensorProto.FLOAT, dims=[1000], data_location=TensorProto.EXTERNAL
    )
    tensor.external_data.add(key="location", value="w")
    graph = GraphProto(initializer=[tensor])
    name_absolutely(graph, tmp_path / "m.onnx", stored_bytes)
    assert graph.initializer[0].external_data[0].value == str((tmp_path / "w").resolve())
    graph = GraphProto(initializer=[tensor])
    graph.initializer[0].external_data[0].value = "../w"
    with pytest.raises(ComqError, match="outside"):
        name_absolutely(graph, tmp_path / "m.onnx", stored_bytes)
