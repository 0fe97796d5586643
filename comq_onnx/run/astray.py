"""Where NaN and infinity come from: the node that first makes them of finite inputs."""

from collections.abc import Mapping

import numpy as np
from onnx import NodeProto

from comq_onnx.errors import ComqError
from comq_onnx.graph.cut import reads_of
from comq_onnx.run.session import SessionOptions, is_float, open_session
from comq_onnx.run.tapped import TappedModel, needed_nodes

AT_ONCE = 64
"""Tensors fetched in one run"""
Astray = tuple[bool, bool]
"""Whether a tensor holds NaN, and whether it holds infinity"""


def origin(
    model: TappedModel, tensor: str, feeds: Mapping[str, np.ndarray], options: SessionOptions
) -> NodeProto | None:
    """The node, of those that `tensor` depends on, whose NaN or infinity ends in it; None where none is seen.

    NaN is followed to the first node that makes it of inputs without, infinity likewise: masks of minus
    infinity are meant, and lead nowhere by themselves. `model` is in float32 or wider, its nodes sorted.
    """
    nodes = needed_nodes(model.nodes, [tensor])
    makers = {name: node for node in nodes for name in node.output if name}
    seen = _looked_at(model, list(makers), feeds, options)
    seen |= {name: _astray(value) for name, value in feeds.items()}
    if tensor not in makers or not any(seen.get(tensor, (False, False))):
        return None
    nan = seen[tensor][0]
    while True:
        node = makers[tensor]
        before = [
            name for name in reads_of(node) if name in makers and seen.get(name, (False, False))[not nan]
        ]
        if not before:
            return node
        tensor = min(before)


def _looked_at(
    model: TappedModel, names: list[str], feeds: Mapping[str, np.ndarray], options: SessionOptions
) -> dict[str, Astray]:
    """What is astray in each of these tensors; those that are no tensors of floats are left out."""
    found = {}
    for first in range(0, len(names), AT_ONCE):
        some = names[first : first + AT_ONCE]
        try:
            session = open_session(model.with_outputs(some), options)
            floats = [spec.name for spec in session.outputs if is_float(spec.dtype)]
            answers = session.run(feeds, floats)
        except ComqError:  # what cannot be looked at is not the origin that is told
            continue
        found |= {name: _astray(value) for name, value in answers.items()}
    return found


def _astray(value: np.ndarray) -> Astray:
    if not is_float(value.dtype):
        return False, False
    wide = value.astype(np.float32) if value.dtype.kind != "f" else value
    return bool(np.isnan(wide).any()), bool(np.isinf(wide).any())
