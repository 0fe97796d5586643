"""Weights stored as float16 and computed in float32: half the bytes on disk, read by every runtime.

A Cast in front of the reader is folded when the file is loaded; an embedding's rows are cast behind the
lookup, so that its table stays float16 in memory too.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from comq_onnx.graph.edit import insert_after, replace_weight, weight_index
from comq_onnx.graph.io import Model
from comq_onnx.graph.layout import weight_tensor
from comq_onnx.graph.locate import free_name, names_in, node_of
from comq_onnx.graph.tensors import bytes_of, float_tensor, values_of
from comq_onnx.recipe import Recipe
from comq_onnx.records import Layer
from comq_onnx.targets.piece import FLOAT_TYPES
from comq_onnx.targets.target import HALVED, Target, Written

Constants = dict[tuple[str, tuple[int, ...]], gs.Constant]
"""What is stored as float16 so far, by digest and shape: equal weights are stored once"""


def store_halved(model: Model, layers: Sequence[Layer], target: Target, recipe: Recipe) -> list[Written]:
    """Store the weights of `layers`, which are not quantized, as float16 in ``model.graph``, in place.

    In a graph that is made float16 as a whole nothing is done here. A target without codes has the rounded
    values as floats. Weights with a value that float16 does not reach stay, and their note says so.
    """
    taken: set[str] = names_in(model) if layers else set()
    held: Constants = {}
    written = []
    for layer in layers:
        size = bytes_of(weight_tensor(model, layer))
        if layer.dtype in ("float16", "bfloat16"):
            written.append(Written(layer.name, HALVED, size, choice=f"the model has it in {layer.dtype}"))
        elif target.half(recipe):
            written.append(Written(layer.name, HALVED, size // 2, choice="as all of the float16 graph"))
        else:
            written.append(_store(model, layer, target.stores_codes, (taken, held)))
    return written


def _store(model: Model, layer: Layer, cast: bool, names: tuple[set[str], Constants]) -> Written:
    """One weight as float16 behind a Cast, or without `cast` as what it is rounded to."""
    weight, (taken, held) = weight_tensor(model, layer), names
    values = values_of(weight)
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float16)
    if np.isinf(rounded).any():
        largest = float(np.abs(values).max())
        return Written(
            layer.name, "", bytes_of(weight), note=f"float16 ends before its value of {largest:.3g}"
        )
    if not cast:
        shared = len(weight.outputs) > 1 or any(weight is tensor for tensor in model.graph.outputs)
        name = free_name(f"{layer.weight}_half", taken) if shared else layer.weight
        stored = float_tensor(name, rounded, layer.dtype)
        replace_weight(model, layer, [], stored)
        said = f"rounded to float16, stored as {layer.dtype}"
        return Written(layer.name, HALVED, bytes_of(stored), choice=said)
    key = hashlib.sha256(rounded.tobytes()).hexdigest(), rounded.shape
    if key not in held:
        held[key] = float_tensor(free_name(f"{layer.weight}_half", taken), rounded, "float16")
    _read_cast(model, layer, held[key], taken)
    return Written(layer.name, HALVED, bytes_of(held[key]), choice="on disk: computed in float32")


def _read_cast(model: Model, layer: Layer, half: gs.Constant, taken: set[str]) -> None:
    """Let the layer's node read `half`, cast before it, or behind it where it looks up rows."""
    node, graph = node_of(model, layer)
    name = free_name(f"{layer.weight}_Cast", taken)
    to: dict[str, object] = {"to": FLOAT_TYPES[layer.dtype]}
    made = gs.Variable(free_name(f"{name}_output", taken))
    if layer.op != "Gather":
        replace_weight(model, layer, [gs.Node("Cast", name, to, inputs=[half], outputs=[made])], made)
        return
    output = node.outputs[0]
    node.inputs[weight_index(layer.layout)], node.outputs[0] = half, made
    insert_after(graph, node, [gs.Node("Cast", name, to, inputs=[made], outputs=[output])])
