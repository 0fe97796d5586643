"""The other way round from `graph.untie`: weights that stayed float and are equal are stored once."""

import hashlib

import onnx_graphsurgeon as gs

from comq_onnx.graph.io import Model
from comq_onnx.graph.locate import nodes_of
from comq_onnx.graph.slots import weight_input
from comq_onnx.graph.tensors import FLOAT_DTYPES, bytes_of, dtype_of, shape_of, values_of

NOTABLE_BYTES = 1024


def share_equal_weights(model: Model) -> int:
    """Let nodes whose float weights are equal, bit for bit, read one constant; the bytes saved.

    Meant for a model that is about to be written: a table that two embeddings look up was given to each of
    them, in case it would be quantized.
    """
    first: dict[tuple[str, tuple[int, ...], bytes], gs.Constant] = {}
    saved = 0
    for node, place, weight in _float_weights(model):
        digest = hashlib.sha256(values_of(weight).tobytes()).digest()
        kept = first.setdefault((dtype_of(weight).name, shape_of(weight), digest), weight)
        if kept is not weight:
            alone = len(weight.outputs) == 1 and not any(weight is tensor for tensor in model.graph.outputs)
            node.inputs[place] = kept
            saved += bytes_of(weight) if alone else 0
    return saved


def _float_weights(model: Model) -> list[tuple[gs.Node, int, gs.Constant]]:
    """Weights of notable size; only where two have one shape is it worth reading them."""
    found = []
    for node, _ in nodes_of(model):
        place = weight_input(node)
        weight = None if place is None else node.inputs[place]
        if isinstance(weight, gs.Constant) and dtype_of(weight).name in FLOAT_DTYPES:
            found.append((node, place, weight))
    shapes = [shape_of(weight) for _, _, weight in found]
    return [
        entry
        for entry, shape in zip(found, shapes, strict=True)
        if shapes.count(shape) > 1 and bytes_of(entry[2]) >= NOTABLE_BYTES
    ]
