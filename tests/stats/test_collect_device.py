"""The pass on a GPU, with an array library as strict as CuPy, against the pass on the CPU.

A session runs on the CPU and hands out its outputs as a GPU's does: as arrays of that library, in memory that
the next run writes over.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from backends.strict_arrays import Library, StrictArray
from stats.collecting import conv_net, gaussian, masked, mlp, model_of, run

from comq_onnx.backends.engine import Engine
from comq_onnx.errors import ComqError
from comq_onnx.records import InputStats
from comq_onnx.run.session import Session, SessionOptions, open_session
from comq_onnx.stats import collect as collecting
from comq_onnx.stats.collect import Collected
from comq_onnx.stats.taps import ROWS_AT_LEAST

DEVICE = "cuda:0"


class Gpu:
    """Stands for a GPU: its library, and a record of what goes back and forth."""

    def __init__(self) -> None:
        self.free = 1 << 40
        self.waits = 0
        self.uploaded: list[int] = []
        """Sizes of the host's arrays that were taken to the device."""
        self.fetched: list[tuple[int, ...]] = []
        """Shapes of the arrays that were copied to the host."""
        self._handed: list[np.ndarray] = []
        self.xp = Library()
        self.xp.asarray = self._asarray
        self.xp.cuda = SimpleNamespace(
            get_current_stream=lambda: SimpleNamespace(synchronize=self._wait),
            runtime=SimpleNamespace(memGetInfo=lambda: (self.free, 1 << 40)),
        )
        self.xp.get_default_memory_pool = lambda: SimpleNamespace(free_all_blocks=lambda: None)
        self.engine = Engine(SimpleNamespace(xp=self.xp))

    def open(self, model: onnx.ModelProto, options: SessionOptions) -> Any:
        """In the place of `open_session`."""
        assert options.device == DEVICE
        session = open_session(model)
        return SimpleNamespace(run=session.run, run_on_device=lambda feeds: self._run(session, feeds))

    def _run(self, session: Session, feeds: dict[str, np.ndarray]) -> dict[str, StrictArray]:
        for array in self._handed:
            array[...] = np.nan
        values = {name: np.array(value) for name, value in session.run(feeds).items()}
        self._handed = list(values.values())
        return {name: value.view(StrictArray) for name, value in values.items()}

    def _asarray(self, values: Any) -> StrictArray:
        if not isinstance(values, StrictArray):
            self.uploaded.append(values.size)
        return np.asarray(values).view(StrictArray)

    def _wait(self) -> None:
        self.waits += 1


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    made = Gpu()
    get = StrictArray.get

    def recorded(array: StrictArray) -> np.ndarray:
        made.fetched.append(array.shape)
        return get(array)

    monkeypatch.setattr(StrictArray, "get", recorded)
    monkeypatch.setattr(collecting, "open_session", made.open)
    return made


def on_both(gpu: Gpu, monkeypatch: pytest.MonkeyPatch, *args: Any, **options: Any) -> list[Collected]:
    device = run(*args, engine=gpu.engine, device=DEVICE, **options)[0]
    monkeypatch.setattr(collecting, "open_session", open_session)
    return [device, run(*args, **options)[0]]


def agree(got: InputStats | None, wanted: InputStats | None) -> bool:
    if got is None or wanted is None:
        return got is wanted
    assert type(got.gram) is type(got.mean) is np.ndarray
    assert got.gram.dtype == got.mean.dtype == np.float64
    spread = np.sqrt(np.diagonal(wanted.gram, axis1=1, axis2=2)) + 1e-9
    close = np.abs(got.gram - wanted.gram) <= 1e-6 * spread[:, :, None] * spread[:, None, :]
    return (
        got.count == wanted.count
        and np.allclose(got.mean, wanted.mean, rtol=1e-6, atol=1e-7)
        and bool(close.all())
        and agree(got.half, wanted.half)
    )


def batched(shape: tuple[int, ...], weight: tuple[int, ...]) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    dims = ", ".join(map(str, shape))
    op = "MatMul(w, h)" if weight[-1] == shape[-2] else "MatMul(h, w)"
    body = f"g (float[{dims}] x) => (float[A] y) {{ h = Abs(x) y = {op} }}"
    proto = model_of(body, w=gaussian(*weight))
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    return proto, {"x": gaussian(4, *shape)}


def transposed() -> onnx.ModelProto:
    return model_of(
        """g (float[N, 4, 5, 6] x) => (float[N, 6, A, B] y)
        { h = Relu(x) y = ConvTranspose<strides = [2, 2], pads = [1, 1, 1, 1], group = 2>(h, w) }""",
        w=gaussian(4, 3, 3, 3),
    )


def double() -> onnx.ModelProto:
    body = "g (double[N, S, 16] x) => (double[N, S, 8] y) { h = Exp(x) y = MatMul(h, w) }"
    return model_of(body, w=gaussian(16, 8).astype(np.float64))


def padded_tokens() -> dict[str, np.ndarray]:
    x, mask = gaussian(4, 6, 16), np.tri(4, 6, 2, np.int64)
    return {"x": np.where(mask[..., None] == 0, np.float32(1e3), x), "attention_mask": mask}


CASES = {
    "dense": (mlp(), {"x": gaussian(7, 5, 16) + 2}),
    "float64": (double(), {"x": gaussian(7, 200, 16).astype(np.float64)}),
    "masked": (masked(), padded_tokens()),
    "convolutions": (conv_net(), {"x": gaussian(7, 4, 12, 12) + 1}),
    "sampled convolutions": (conv_net(), {"x": gaussian(7, 4, 40, 40) + 1}),
    "transposed convolution": (transposed(), {"x": gaussian(7, 4, 5, 6)}),
    "batched": batched((2, 3, 5, 16), (3, 16, 8)),
    "batched, broadcast": batched((1, 5, 16), (3, 16, 8)),
    "batched on the left": batched((3, 16, 5), (3, 8, 16)),
}


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_statistics_are_those_of_the_cpu(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch, case: str, batch_size: int
) -> None:
    got, wanted = on_both(gpu, monkeypatch, *CASES[case], batch_size=batch_size)
    assert list(got.stats) == list(wanted.stats)
    assert any(wanted.stats.values())
    assert all(agree(got.stats[name], wanted.stats[name]) for name in wanted.stats)
    assert (got.passes, got.samples, got.rows, got.notes) == (1, wanted.samples, wanted.rows, wanted.notes)


def test_what_is_computed_on_the_gpu_stays_there(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the input goes up, and each mean and each Gram comes down once a pass for each half."""
    x = gaussian(6, 5, 16)
    run(mlp(), {"x": x}, engine=gpu.engine, device=DEVICE)
    assert gpu.uploaded == [5 * 16] * 6
    shapes = [(1, 16), (1, 16, 16)] * 2 + [(1, 32), (1, 32, 32)] * 2
    assert gpu.fetched == shapes
    assert gpu.waits == 6


def test_patches_are_cut_on_the_gpu(gpu: Gpu) -> None:
    run(conv_net(), {"x": gaussian(2, 4, 100, 100)}, engine=gpu.engine, device=DEVICE)
    images = [size for size in gpu.uploaded if size == 4 * 100 * 100]
    assert len(images) == 2
    # An index for each patch and kernel tap, whatever the number of channels.
    assert all(size <= 9 * ROWS_AT_LEAST // 2 for size in gpu.uploaded if size not in images)


def test_a_gpu_sums_what_a_cpu_computes(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "open_session", open_session)
    data = {"x": gaussian(7, 5, 16)}
    got, wanted = run(mlp(), data, engine=gpu.engine)[0], run(mlp(), data)[0]
    assert all(agree(got.stats[name], wanted.stats[name]) for name in wanted.stats)


def test_what_does_not_fit_on_the_gpu_is_done_in_turns(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu.free = 4096
    got, wanted = on_both(gpu, monkeypatch, mlp(), {"x": gaussian(6, 5, 16)})
    assert (got.passes, wanted.passes) == (2, 1)
    assert got.scratch is None
    assert all(agree(got.stats[name], wanted.stats[name]) for name in wanted.stats)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_half_inputs_are_widened_on_the_way(gpu: Gpu, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    proto = model_of(f"g ({kind}[N, 16] x) => ({kind}[N, 8] y) {{ y = MatMul(x, w) }}")
    elem = {"float16": onnx.TensorProto.FLOAT16, "bfloat16": onnx.TensorProto.BFLOAT16}[kind]
    weight = gaussian(16, 8).astype(onnx.helper.tensor_dtype_to_np_dtype(elem))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    got, wanted = on_both(gpu, monkeypatch, proto, {"x": gaussian(9, 16)})
    assert all(agree(got.stats[name], wanted.stats[name]) for name in wanted.stats)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("dtype", ["float", "double"])
def test_an_activation_that_is_not_finite_names_tensor_and_sample(
    gpu: Gpu, batch_size: int, dtype: str
) -> None:
    body = f"g ({dtype}[N, 4, 16] x) => ({dtype}[N, 4, 8] y) {{ h = Log(x) y = MatMul(h, w) }}"
    wide = np.float64 if dtype == "double" else np.float32
    x = (np.abs(gaussian(5, 4, 16)) + 0.1).astype(wide)
    x[4, 2, 3] = -1
    with pytest.raises(
        ComqError, match="tensor 'h', calibration sample 4: the float model computes NaN or infinity"
    ):
        run(
            model_of(body, w=gaussian(16, 8).astype(wide)),
            {"x": x},
            engine=gpu.engine,
            device=DEVICE,
            batch_size=batch_size,
        )


def test_padding_that_is_not_finite_is_no_error(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    proto = model_of(
        """g (float[N, S, 16] x, int64[N, S] attention_mask) => (float[N, S, 8] y)
        { h = Log(x) y = MatMul(h, w) }""",
        w=gaussian(16, 8),
    )
    mask = np.tri(4, 6, 2, np.int64)
    x = np.where(mask[..., None] == 0, np.float32(-1), np.abs(gaussian(4, 6, 16)) + np.float32(0.1))
    got, wanted = on_both(gpu, monkeypatch, proto, {"x": x, "attention_mask": mask}, batch_size=2)
    assert all(agree(got.stats[name], wanted.stats[name]) for name in wanted.stats)


def test_an_activation_that_does_not_meet_the_weight(gpu: Gpu) -> None:
    proto = model_of(
        "g (float[N, S] x) => (float[A, B] y) { h = Relu(x) y = MatMul(h, w) }", w=gaussian(16, 8)
    )
    with pytest.raises(ComqError, match=r"tensor 'h': its shape \[1, 8\] does not meet the weight of"):
        run(proto, {"x": gaussian(3, 8)}, engine=gpu.engine, device=DEVICE)
