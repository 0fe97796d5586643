"""The one place, with `device`, that knows onnxruntime: sessions with pinned options, errors in one sentence.

Two options decide what a measurement means, and both differ from the runtime's defaults:

* A `DequantizeLinear` in front of a MatMul is fused to `MatMulNBits`, which by default rounds the
  *activations* to int8. With `exact` the fused kernel computes in float, so that what is measured is the
  error of the weights.
* Where a fused kernel is slow at exact settings, `fold_dq` computes every constant `DequantizeLinear` once,
  when the session is opened: float speed at the memory of the float model.

On a GPU a session computes float32 as such, never in TF32, and a model that the GPU cannot take is an error:
the runtime itself would go on with the CPU and say nothing.
"""

import contextlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state  # pyright: ignore[reportAttributeAccessIssue]

from comq_onnx.errors import ComqError, MemoryExhaustedError
from comq_onnx.graph import io
from comq_onnx.graph.external import is_external, tensors_of
from comq_onnx.graph.spill import bytes_to_write
from comq_onnx.graph.tensors import stored_bytes
from comq_onnx.run.device import CUDA, SILENT, parsed, preloaded, providers
from comq_onnx.run.mapped import filled, mapped_values
from comq_onnx.run.plain import plain_array
from comq_onnx.run.reason import is_exhausted, reason

# The runtime's exceptions have no common base but Exception, and which of them exist depends on its version.
RUNTIME_ERRORS: tuple[type[Exception], ...] = (
    *(kind for kind in vars(ort_state).values() if isinstance(kind, type) and issubclass(kind, Exception)),
    RuntimeError,
    ValueError,
)
IN_MEMORY_LIMIT = 1 << 30
"""Bytes of tensors above which a proto is opened from a temporary file (protobuf stops at 2 GB)."""
BIAS_OPTIMIZER = "WeightBiasQuantization"
# Every supported onnxruntime reads IR 10; newer headers are lowered to what their opset needs.
READABLE_IR = 10

_TYPES = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(double)": np.dtype(np.float64),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(bfloat16)": np.dtype(ml_dtypes.bfloat16),
    "tensor(bool)": np.dtype(np.bool_),
    "tensor(string)": np.dtype(np.str_),
    **{f"tensor({name})": np.dtype(name) for name in ("int8", "int16", "int32", "int64")},
    **{f"tensor({name})": np.dtype(name) for name in ("uint8", "uint16", "uint32", "uint64")},
}


@dataclass(frozen=True)
class SessionOptions:
    """How a session computes. Same options, same input, same thread count: the same bits."""

    optimize: bool = True
    """Graph optimisation at its highest level, or none at all."""
    exact: bool = True
    """Fused weight-only kernels compute in float; off, they round activations to int8 as deployments do."""
    float_bias: bool = False
    """Float biases beside 8-bit inputs stay float, also where a fused kernel would take integers"""
    fold_dq: bool = False
    """Dequantize constants once, at load."""
    threads: int = 0
    """Threads of one operator; 0 lets the runtime choose."""
    optimized_path: Path | None = None
    """Where the optimised graph is written, to see what was fused."""
    device: str = "cpu"
    """``cpu``, or ``cuda:i`` for one of NVIDIA's GPUs"""


@dataclass(frozen=True)
class TensorSpec:
    """A graph input or output. The dtype is `object` where it is no tensor (a sequence, a map)."""

    name: str
    dtype: np.dtype
    shape: tuple[int | None, ...]
    """None for a dynamic dimension."""


@dataclass(frozen=True)
class DeviceTensor:
    """An output in its device's memory: ``cupy.asarray(tensor)`` takes it without a copy.

    The memory lives as long as this record, which CuPy's array holds on to.
    """

    value: onnxruntime.OrtValue

    @property
    def __cuda_array_interface__(self) -> dict[str, object]:
        if self.value.device_name() != "cuda":
            raise AttributeError("the tensor is not in a GPU's memory")
        dtype = _TYPES[self.value.data_type()]
        # The run has ended when the tensor is handed out, so that no stream is to be waited for.
        pointer = (self.value.data_ptr(), False)
        return {"shape": tuple(self.value.shape()), "typestr": dtype.str, "data": pointer, "version": 3}


class Session:
    """A loaded model. Made by `open_session`."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        where: str,
        device: str = "cpu",
        mapped: Sequence[onnxruntime.OrtValue] = (),
    ) -> None:
        self._session, self._where = session, where
        self._mapped = mapped  # the runtime reads them where they are
        self._device = parsed(device)
        self.inputs = tuple(_spec(node) for node in session.get_inputs())
        self.outputs = tuple(_spec(node) for node in session.get_outputs())

    def run(
        self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Outputs by name, all of them or those asked for.

        Floating feeds are cast to the input's own floating type, so that one set of float32 samples serves a
        float32 model and its float16 form. Feeds the model has no input for are left out. An output that is
        no tensor comes as `plain_array` makes it.
        ComqError where the model cannot compute on these feeds.
        """
        names = self._names(outputs)
        if not names:
            return {}
        fed = self._fed(feeds)
        with self._explained(fed):
            values = self._session.run(names, fed, _run_options())
        return dict(zip(names, map(plain_array, values), strict=True))

    def run_on_device(
        self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None
    ) -> dict[str, DeviceTensor]:
        """As `run`, with the outputs left in the memory of the session's device."""
        names = self._names(outputs)
        if not names:
            return {}
        fed, (kind, index) = self._fed(feeds), self._device
        with self._explained(fed):
            binding = self._session.io_binding()
            for name, value in fed.items():
                binding.bind_cpu_input(name, np.ascontiguousarray(value))
            for name in names:
                binding.bind_output(name, kind, index)
            self._session.run_with_iobinding(binding, _run_options())
            binding.synchronize_outputs()
            values = binding.get_outputs()
        return {name: DeviceTensor(value) for name, value in zip(names, values, strict=True)}

    def _names(self, outputs: Sequence[str] | None) -> list[str]:
        return [spec.name for spec in self.outputs] if outputs is None else list(outputs)

    def _fed(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        missing = [spec.name for spec in self.inputs if spec.name not in feeds]
        if missing:
            raise ComqError(f"no value is fed to {_quoted(missing)}", where=self._where)
        return {spec.name: _as_fed(feeds[spec.name], spec) for spec in self.inputs}

    @contextlib.contextmanager
    def _explained(self, fed: Mapping[str, np.ndarray]) -> Iterator[None]:
        """Errors of the runtime become one sentence that names what was fed."""
        try:
            yield
        except (*RUNTIME_ERRORS, MemoryError) as error:
            shapes = ", ".join(f"'{name}' {value.dtype}{list(value.shape)}" for name, value in fed.items())
            if is_exhausted(error):
                raise MemoryExhaustedError(
                    f"memory ran out on {shapes}: {reason(error)}",
                    where=self._where,
                    fix="lower --batch-size, or give the machine more memory",
                ) from error
            raise ComqError(
                f"the model does not run on {shapes}: {reason(error)}",
                where=self._where,
                fix="check the shapes and the range of the values that are fed",
            ) from error


def open_session(
    model: onnx.ModelProto | Path,
    options: SessionOptions | None = None,
    given: Mapping[str, np.ndarray] | None = None,
) -> Session:
    """Load a model on its device. ComqError with the runtime's reason where it does not load.

    A proto of an IR version newer than the runtime may know is opened at the version its opset needs; a file
    is opened as it is. `given` are values of initializers that the proto declares by `mapped.stub`: on a CPU
    they are used where they are, and must not be changed.
    """
    chosen = options or SessionOptions()
    if isinstance(model, Path):
        if not model.is_file():
            raise ComqError("the file does not exist", where=str(model), fix="check the path")
        return _load(str(model), chosen, model.name)
    name = model.graph.name or "model"
    external = [tensor for tensor in tensors_of(model.graph) if is_external(tensor)]
    inside = bytes_to_write(model.graph) - sum(map(stored_bytes, external))
    mapped = mapped_values(model, external, given or {}, chosen.device)
    if inside < IN_MEMORY_LIMIT and mapped is not None:
        return _load(model.SerializeToString() + _ir_field(model), chosen, name, mapped)
    if given:
        model = filled(model, given)
    with tempfile.TemporaryDirectory(prefix="comq-") as folder:
        path = Path(folder) / "model.onnx"
        io.save(model, path)
        with path.open("ab") as file:
            file.write(_ir_field(model))
        return _load(str(path), chosen, name)


def outputs_on(
    session: Session, batches: Iterable[Mapping[str, np.ndarray]], outputs: Sequence[str] | None = None
) -> list[dict[str, np.ndarray]]:
    """What the model answers to each batch, in order: ``outputs_on(session, calibration.batches())``."""
    return [session.run(batch, outputs) for batch in batches]


def _load(
    model: str | bytes,
    options: SessionOptions,
    where: str,
    mapped: Mapping[str, np.ndarray] | None = None,
) -> Session:
    kind, _ = parsed(options.device)
    missing = preloaded(options.device) if kind == "cuda" else ""
    chosen = providers(options.device)
    ort_options = _ort_options(options)
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(value) for name, value in (mapped or {}).items()}
    if values:
        ort_options.add_external_initializers(list(values), list(values.values()))
    try:
        session = onnxruntime.InferenceSession(
            model, ort_options, providers=chosen, disabled_optimizers=_left_out(options)
        )
    except (*RUNTIME_ERRORS, MemoryError) as error:
        if is_exhausted(error):
            raise MemoryExhaustedError(
                f"memory ran out: {reason(error)}", where=where, fix="give the machine more memory"
            ) from error
        raise ComqError(f"onnxruntime does not load the model: {reason(error)}", where=where) from error
    if kind == "cuda" and session.get_providers()[0] != CUDA:
        why = f" ({missing})" if missing else ""
        raise ComqError(
            f"onnxruntime cannot use the GPU{why}",
            where=options.device,
            fix='update the driver, pip install "onnxruntime-gpu[cuda,cudnn]", or choose the device cpu',
        )
    return Session(session, where, options.device, tuple(values.values()))


def _run_options() -> onnxruntime.RunOptions:
    options = onnxruntime.RunOptions()
    options.log_severity_level = SILENT
    return options


def _ort_options(options: SessionOptions) -> onnxruntime.SessionOptions:
    chosen = onnxruntime.SessionOptions()
    chosen.log_severity_level = SILENT
    chosen.use_deterministic_compute = True
    chosen.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    chosen.intra_op_num_threads = options.threads
    chosen.inter_op_num_threads = 1
    # Between two runs there is other work for the cores than to wait for the next.
    chosen.add_session_config_entry("session.intra_op.allow_spinning", "0")
    level = onnxruntime.GraphOptimizationLevel
    chosen.graph_optimization_level = level.ORT_ENABLE_ALL if options.optimize else level.ORT_DISABLE_ALL
    chosen.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1" if options.exact else "4")
    if options.fold_dq:
        chosen.add_session_config_entry("session.disable_quant_qdq", "1")
    if options.optimized_path is not None:
        chosen.optimized_model_filepath = str(options.optimized_path)
    return chosen


def _left_out(options: SessionOptions) -> list[str]:
    """Optimisers that are not to run. The one on biases divides by a product of scales in their own type.

    In float16 that product is often too small to be told from 0, and the biases are lost.
    """
    return [BIAS_OPTIMIZER] if options.float_bias else []


def _spec(node: onnxruntime.NodeArg) -> TensorSpec:
    dims = tuple(dim if isinstance(dim, int) and dim >= 0 else None for dim in node.shape or ())
    return TensorSpec(node.name, _TYPES.get(node.type, np.dtype(object)), dims)


def _as_fed(value: np.ndarray, spec: TensorSpec) -> np.ndarray:
    value = np.asarray(value)
    if value.dtype == spec.dtype or not (is_float(value.dtype) and is_float(spec.dtype)):
        return value
    return value.astype(spec.dtype)


def is_float(dtype: np.dtype) -> bool:
    """Whether it is a floating type, bfloat16 included, which NumPy counts among the opaque ones."""
    return dtype.kind == "f" or dtype == ml_dtypes.bfloat16


def _ir_field(model: onnx.ModelProto) -> bytes:
    """The IR version to open a proto at, as a protobuf field: of two values the last one counts."""
    version = model.ir_version
    if not 0 < version <= READABLE_IR:
        needed = onnx.helper.find_min_ir_version_for(list(model.opset_import), ignore_unknown=True)
        version = max(READABLE_IR, needed)
    return bytes((onnx.ModelProto.IR_VERSION_FIELD_NUMBER << 3, version))


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
