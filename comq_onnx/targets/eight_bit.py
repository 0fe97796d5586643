"""How layers that compute in 8 bits are written: weights, biases, and the Q/DQ pairs around activations.

The codes of a weight lie in the file as narrow as they are; a Cast brings them to int8 when the model is
loaded, and the kernels see an int8 weight with a zero point, without which onnxruntime does not fuse a Gemm.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from comq_onnx.graph.edit import BIAS_INPUT, as_vector, following_add, insert_after, insert_before
from comq_onnx.graph.io import Model, to_proto
from comq_onnx.graph.layout import from_rows
from comq_onnx.graph.locate import free_name, node_of, nodes_of
from comq_onnx.graph.precision import element_types
from comq_onnx.graph.slots import slots_of
from comq_onnx.graph.tensors import Tensor, array_tensor, dtype_of, float_tensor, quantized_tensor
from comq_onnx.records import Layer, Solution, ValueGrid
from comq_onnx.targets.piece import Piece
from comq_onnx.targets.placement import Stored

INT32 = np.iinfo(np.int32)
MOST_STEPS = 2.0**30
"""Of a bias: half of what int32 holds is left for the sum of the products."""


def channel_axis(layer: Layer) -> int:
    """The axis of a weight along which its output channels lie."""
    return {"conv": 0, "conv_transpose": 1}.get(layer.layout.kind, len(layer.layout.shape) - 1)


def eight_bit_weight(piece: Piece, solution: Solution, bits: int) -> gs.Variable:
    """``DequantizeLinear(codes, scale, 0)``; codes stored in fewer than 8 `bits` are cast to int8.

    ValueError where the solution has blocks or zero points.
    """
    layout = piece.layer.layout
    if solution.scale.shape[1] != 1 or solution.zero_point is not None:
        raise ValueError(f"{piece.layer.name}: 8-bit kernels take one scale per channel and no zero point")
    codes: gs.Tensor = piece.integers("quantized", from_rows(solution.codes, layout), bits)
    if bits < 8:
        codes = piece.node("Cast", [codes], to=TensorProto.INT8)
    scale = solution.scale[:, 0].reshape(-1)
    zero = piece.integers("zero_point", np.zeros(scale.shape, np.int8), 8)
    linear = [codes, piece.floats("scale", scale), zero]
    return piece.node("DequantizeLinear", linear, axis=channel_axis(piece.layer))


def room_for_bias(model: Model, layer: Layer, solution: Solution, grid: ValueGrid) -> Solution:
    """A solution whose products are not too small beside the layer's bias, for it to be int32 at their scale.

    A channel whose weights are next to nothing has a scale so small that its bias would be more than 2^30
    steps of it. It gets a larger scale: what is rounded away is below a 2^-30th of the bias for each product.
    Kernels that find a float bias round it to int32 themselves, and clip it.
    """
    vector = _bias_vector(model, layer)
    if vector is None:
        return solution
    old = solution.scale[:, 0].reshape(-1)
    least = np.abs(vector.astype(np.float64)) / (grid.scale * MOST_STEPS)
    if np.all(least <= old):
        return solution
    scale = np.maximum(old, least).astype(np.float32)
    groups, _, cols = solution.codes.shape
    ratio = (old / scale).reshape(groups, 1, cols)
    codes = np.rint(solution.codes * ratio).astype(solution.codes.dtype)
    said = (
        f"{np.count_nonzero(scale != old)} channels of next to no weight have a larger scale, for their bias"
    )
    note = f"{solution.note}; {said}" if solution.note else said
    return replace(solution, codes=codes, scale=scale.reshape(groups, 1, cols), note=note)


def integer_bias(model: Model, layer: Layer, solution: Solution, grid: ValueGrid, taken: set[str]) -> str:
    """Store the constant bias of a layer as int32 at the scale of its products, exactly: ``sx * sw``.

    Kernels add it to their sums without looking at its scale. The answer says why the bias stays float, empty
    where it does not. ValueError where it has no room (`room_for_bias`).
    """
    node, graph = node_of(model, layer)
    holder, index = _bias_place(node, graph, layer)
    if holder is None:
        return ""
    vector = _bias_vector(model, layer)
    if vector is None:
        return "its bias is not one finite number for each channel"
    with np.errstate(over="ignore"):
        scale = np.float32(grid.scale) * solution.scale[:, 0].reshape(-1).astype(np.float32)
    if not np.isfinite(scale).all():
        return "the scale of its products is beyond float32"
    steps = np.rint(vector.astype(np.float64) / scale.astype(np.float64))
    if np.any(np.abs(steps) > INT32.max):
        raise ValueError(f"{layer.name}: its bias has no room in int32")
    name = free_name(f"{layer.weight}_bias_DequantizeLinear", taken)
    stem = free_name(f"{layer.weight}_bias", taken)
    codes = array_tensor(free_name(f"{stem}_quantized", taken), steps.astype(np.int32))
    scales = float_tensor(free_name(f"{stem}_scale", taken), scale, "float32")
    output = gs.Variable(free_name(f"{name}_output", taken))
    linear = gs.Node("DequantizeLinear", name, attrs={"axis": 0}, inputs=[codes, scales], outputs=[output])
    insert_before(graph, node, [linear])
    holder.inputs[index] = output
    return ""


def _bias_vector(model: Model, layer: Layer) -> np.ndarray | None:
    """The bias of a layer as ``[channels]``; None where it has none of that form, or a boundless one."""
    holder, index = _bias_place(*node_of(model, layer), layer)
    if holder is None:
        return None
    vector = as_vector(holder.inputs[index], layer.layout.groups * layer.layout.cols)
    return vector if vector is not None and np.isfinite(vector).all() else None


def _bias_place(node: gs.Node, graph: gs.Graph, layer: Layer) -> tuple[gs.Node | None, int]:
    """The node that adds a layer's bias, and which of its inputs that is."""
    if layer.op == "MatMul":
        add = following_add(node, graph)
        places = [i for i, t in enumerate(add.inputs) if isinstance(t, gs.Constant)] if add else []
        return (add, places[0]) if places else (None, 0)
    has_bias = len(node.inputs) > BIAS_INPUT and not node.inputs[BIAS_INPUT].is_empty()
    return (node, BIAS_INPUT) if has_bias else (None, 0)


def store_activations(model: Model, stored: Stored, apart: bool, taken: set[str]) -> None:
    """Put a QuantizeLinear and a DequantizeLinear behind each tensor that is to be stored in 8 bits.

    Those of two ranges are left alone.

    With `apart`, each reader has a QuantizeLinear of its own, and their scales differ by a float32 step:
    where int8 codes have several readers onnxruntime fuses none, and it merges nodes that are equal. Names of
    graph outputs stay.
    """
    graph = model.graph
    made: list[Tensor] = [*graph.inputs, *(t for n in graph.nodes for t in n.outputs)]
    tensors = {tensor.name: tensor for tensor in made}
    values = [value for value in stored.placement.values if value.tensor not in stored.twins]
    half = _halves(model, [tensors[value.tensor] for value in values])
    for value in values:
        kind = "float16" if value.tensor in half else "float32"
        pair = _Pair(stored.grids[value.tensor], kind, apart, taken)
        _store(graph, tensors[value.tensor], value.readers, pair)


@dataclass
class _Pair:
    """The nodes that store one tensor and restore it, as they are made."""

    grid: ValueGrid
    kind: str
    """Element type of the tensor, and so of its scale"""
    apart: bool
    taken: set[str]
    nodes: list[gs.Node] = field(default_factory=list)
    constants: tuple[gs.Constant, gs.Constant] | None = None

    def restored(self, tensor: Tensor, into: gs.Variable | None = None) -> gs.Variable:
        """What one more reader of `tensor` reads, or `into`."""
        name = tensor.name
        if self.apart or self.constants is None:
            self.constants = self._scale(tensor), self._zero(name)
            self._add("QuantizeLinear", tensor, gs.Variable(free_name(f"{name}_quantized", self.taken)))
        stored = next(node for node in reversed(self.nodes) if node.op == "QuantizeLinear").outputs[0]
        into = into or gs.Variable(free_name(f"{name}_dequantized", self.taken), tensor.dtype, tensor.shape)
        self._add("DequantizeLinear", stored, into)
        return into

    def _add(self, op: str, source: gs.Tensor, into: gs.Variable) -> None:
        inputs = [source, *(self.constants or ())]
        name = free_name(f"{into.name}_{op}", self.taken)
        self.nodes.append(gs.Node(op, name, inputs=inputs, outputs=[into]))

    def _scale(self, tensor: Tensor) -> gs.Constant:
        made = sum(node.op == "QuantizeLinear" for node in self.nodes)
        scale, name = np.float32(self.grid.scale), free_name(f"{tensor.name}_scale", self.taken)
        for _ in range(made):
            scale = np.nextafter(scale, np.float32(np.inf))
        return float_tensor(name, np.asarray(scale), self.kind)

    def _zero(self, name: str) -> gs.Constant:
        signed = self.grid.kind.signed
        code = np.asarray(self.grid.zero_point, np.int8 if signed else np.uint8)
        kind = TensorProto.INT8 if signed else TensorProto.UINT8
        return quantized_tensor(free_name(f"{name}_zero_point", self.taken), code, kind)


def _store(graph: gs.Graph, tensor: Tensor, readers: Iterable[str] | None, pair: _Pair) -> None:
    maker = tensor.inputs[0] if tensor.inputs else None
    slots = [(n, i) for n, i in slots_of(tensor) if readers is None or n.name in readers]
    output = tensor if readers is None and any(t is tensor for t in graph.outputs) else None
    if output is not None and maker is not None:
        # The graph's output keeps its name: what is restored takes it over.
        before = free_name(f"{output.name}_before_storage", pair.taken)
        tensor = gs.Variable(before, output.dtype, output.shape)
        maker.outputs[[t is output for t in maker.outputs].index(True)] = tensor
    made: dict[int, gs.Variable] = {}
    for node, index in slots:
        if id(node) not in made:
            made[id(node)] = pair.restored(tensor)
        node.inputs[index] = made[id(node)]
    if output is not None:
        pair.restored(tensor, output)
    if maker is None:
        graph.nodes = [*pair.nodes, *graph.nodes]
    else:
        insert_after(graph, maker, pair.nodes)


def _halves(model: Model, tensors: Sequence[Tensor]) -> set[str]:
    """Names of those of `tensors` that are float16; inferred where files do not say, as most do not."""
    unknown = [tensor.name for tensor in tensors if tensor.dtype is None]
    half = {t.name for t in tensors if t.dtype is not None and np.dtype(t.dtype) == np.float16}
    if unknown and _has_half(model):
        types = element_types(to_proto(model))
        half.update(name for name in unknown if types.get(name) == TensorProto.FLOAT16)
    return half


def _has_half(model: Model) -> bool:
    """Whether anything in the model is float16; where nothing is, inferring types is time lost."""
    read = (tensor for node, _ in nodes_of(model) for tensor in node.inputs)
    known = [dtype_of(t) if isinstance(t, gs.Constant) else t.dtype for t in read]
    return any(kind is not None and np.dtype(kind) == np.float16 for kind in known)
