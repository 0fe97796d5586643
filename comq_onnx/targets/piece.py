"""What one weight is made of in the file: nodes in order, and the constants they read."""

from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from comq_onnx.graph.locate import free_name
from comq_onnx.graph.outside import Outside
from comq_onnx.graph.tensors import array_tensor, bytes_of, float_tensor, message_of, quantized_tensor
from comq_onnx.records import Layer

FLOAT_TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "float64": TensorProto.DOUBLE,
}


@dataclass
class Piece:
    """Nodes that produce one weight, in order, and the bytes of what they read."""

    layer: Layer
    taken: set[str]
    """Names in use in the whole model; each new name is added"""
    half: bool = False
    """Whether the graph is to be made float16, so that float32 scales take half the bytes in the file"""
    outside: Outside | None = None
    """Takes the values of large constants"""
    nodes: list[gs.Node] = field(default_factory=list)
    bytes: int = 0

    @property
    def node_bytes(self) -> int:
        """About what the nodes take in the file, and all that they read besides `bytes`."""
        read = {t.name: bytes_of(t) for node in self.nodes for t in node.inputs if isinstance(t, gs.Constant)}
        return sum(map(_node_bytes, self.nodes)) + max(0, sum(read.values()) - self.bytes)

    def name(self, suffix: str) -> str:
        return free_name(f"{self.layer.weight}_{suffix}", self.taken)

    def integers(self, suffix: str, values: np.ndarray, bits: int) -> gs.Constant:
        tensor = quantized_tensor(self.name(suffix), values, integer_type(bits, values.dtype == np.int8))
        self.bytes += bytes_of(tensor)
        return self._kept(tensor)

    def floats(self, suffix: str, values: np.ndarray) -> gs.Constant:
        tensor = float_tensor(self.name(suffix), values, self.layer.dtype)
        self.bytes += bytes_of(tensor) // (2 if self.half and self.layer.dtype == "float32" else 1)
        return self._kept(tensor)

    def _kept(self, tensor: gs.Constant) -> gs.Constant:
        if self.outside is not None:
            self.outside.take(message_of(tensor))
        return tensor

    def node(self, op: str, inputs: list[gs.Tensor], **attrs: object) -> gs.Variable:
        name = self.name(op)
        out = gs.Variable(free_name(f"{name}_output", self.taken))
        self.nodes.append(gs.Node(op, name, attrs=attrs, inputs=inputs, outputs=[out]))
        return out

    def cast(self, tensor: gs.Tensor) -> gs.Variable:
        return self.node("Cast", [tensor], to=FLOAT_TYPES[self.layer.dtype])


def integer_type(bits: int, signed: bool) -> int:
    """The TensorProto element type that packs codes of `bits` (2, 4 or 8)."""
    return getattr(TensorProto, f"{'' if signed else 'U'}INT{bits}")


def reshape(piece: Piece, tensor: gs.Variable, shape: tuple[int, ...]) -> gs.Variable:
    constant = array_tensor(piece.name("shape"), np.asarray(shape, np.int64))
    return piece.node("Reshape", [tensor, constant])


def _node_bytes(node: gs.Node) -> int:
    """Strings have two bytes before them, an attribute about 20, a constant a header of about 12."""
    named = [node.name, node.op, *(tensor.name for tensor in (*node.inputs, *node.outputs))]
    held = [tensor for tensor in node.inputs if isinstance(tensor, gs.Constant)]
    headers = sum(len(tensor.name) + 12 for tensor in held)
    return sum(len(name) + 2 for name in named) + 20 * len(node.attrs) + headers + 3
