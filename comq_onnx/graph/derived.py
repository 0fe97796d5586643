"""Tensors that follow from constants alone, though the file computes them at run time."""

from dataclasses import dataclass

import onnx_graphsurgeon as gs

from comq_onnx.graph.io import Model
from comq_onnx.graph.locate import nodes_of
from comq_onnx.graph.tensors import bytes_of, dtype_of

_RANDOM_OPS = {
    "RandomNormal",
    "RandomUniform",
    "RandomNormalLike",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
}
_NARROW = {"int8", "uint8", "int4", "uint4", "int2", "uint2"}


@dataclass(frozen=True)
class Root:
    """Where a tensor that depends on no activation comes from."""

    constant: gs.Constant | None
    """The largest constant it is computed from; None if there is none."""
    op: str
    """The operator that computes it last"""
    quantized: bool
    """Whether it is a dequantized weight"""


def constant_roots(model: Model) -> dict[int, Root]:
    """Roots of every tensor, by id, that a node computes from constants only. No value is loaded."""
    roots: dict[int, Root] = {}
    for node, _ in nodes_of(model):
        if node.op in _RANDOM_OPS or any(node.subgraphs()):
            continue
        inputs = [tensor for tensor in node.inputs if not tensor.is_empty()]
        known = [_root(tensor, roots) for tensor in inputs]
        if node.op != "Constant" and (not known or any(root is None for root in known)):
            continue
        root = _combine(node.op, [root for root in known if root is not None])
        roots.update((id(tensor), root) for tensor in node.outputs)
    return roots


def _root(tensor: gs.Tensor, roots: dict[int, Root]) -> Root | None:
    if isinstance(tensor, gs.Constant):
        return Root(tensor, "", dtype_of(tensor).name in _NARROW and len(tensor.shape) >= 2)
    return roots.get(id(tensor))


def _combine(op: str, roots: list[Root]) -> Root:
    constants = [root.constant for root in roots if root.constant is not None]
    largest = max(constants, key=bytes_of, default=None)
    quantized = op in ("QuantizeLinear", "DequantizeLinear") or any(root.quantized for root in roots)
    return Root(largest, op, quantized)
