"""BatchNormalization folded into the convolution or Gemm before it.

With ``f = scale / sqrt(var + epsilon)`` per output channel, ``BN(W x + b) = (f W) x + f (b - mean) + B``.
"""

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from comq_onnx.graph.io import Model
from comq_onnx.graph.locate import free_name, graphs_of, names_in
from comq_onnx.graph.slots import attribute, is_standard
from comq_onnx.graph.tensors import FLOAT_DTYPES, Derived, dtype_of, float_tensor, shape_of, values_of


@dataclass(frozen=True)
class _Affine:
    """What a BatchNormalization does to each channel: ``factor * y + shift``, float64 ``[channels]``."""

    factor: np.ndarray
    shift: np.ndarray


def fold_batchnorms(model: Model) -> None:
    """Fold each BatchNormalization in inference mode into a Conv, ConvTranspose or Gemm that feeds it alone.

    Weight, bias and statistics must be constants. The arithmetic is float64, then rounded to the weight's
    type; where that type cannot hold the result, the node stays.
    """
    taken = names_in(model)
    for graph in graphs_of(model):
        outputs = {id(tensor) for tensor in graph.outputs}
        for norm in [node for node in graph.nodes if is_standard(node, "BatchNormalization")]:
            source = norm.inputs[0]
            if len(source.inputs) != 1 or len(source.outputs) != 1 or id(source) in outputs:
                continue
            producer = source.inputs[0]
            affine = _affine(norm)
            if affine is not None and _accepts(producer, graph, affine):
                _fold(producer, norm, graph, affine, taken)


def _affine(norm: gs.Node) -> _Affine | None:
    """The map of an inference-mode BatchNormalization with constant parameters; None for any other."""
    training = attribute(norm, "training_mode", 0) or not attribute(norm, "spatial", 1)
    if training or any(not tensor.is_empty() for tensor in norm.outputs[1:]):
        return None
    if not all(isinstance(tensor, gs.Constant) for tensor in norm.inputs[1:5]):
        return None
    scale, offset, mean, var = (values_of(tensor).astype(np.float64) for tensor in norm.inputs[1:5])
    if len({values.shape for values in (scale, offset, mean, var)}) > 1:
        return None  # no runtime would run it
    with np.errstate(all="ignore"):  # what is not finite is folded into nothing
        factor = scale / np.sqrt(var + attribute(norm, "epsilon", 1e-5))
        return _Affine(factor, offset - factor * mean)


def _accepts(node: gs.Node, graph: gs.Graph, affine: _Affine) -> bool:
    """Whether `affine` can be folded into `node`."""
    if not is_standard(node, "Conv", "ConvTranspose", "Gemm") or not any(
        other is node for other in graph.nodes
    ):
        return False
    weight = node.inputs[1]
    if not isinstance(weight, gs.Constant) or dtype_of(weight).name not in FLOAT_DTYPES:
        return False
    if len(node.inputs) > 2 and not isinstance(node.inputs[2], gs.Constant) and not node.inputs[2].is_empty():
        return False
    bias = _bias(node)
    if bias.size != bias.shape[-1]:
        return False  # the C of a Gemm may differ from row to row
    if bias.size not in (1, affine.factor.size):
        return False  # no runtime would run it
    try:
        fits = np.broadcast_shapes(shape_of(weight), _per_output(affine.factor, node).shape) == shape_of(
            weight
        )
    except ValueError:
        fits = False
    if not fits:
        return False  # no runtime would run it
    with np.errstate(all="ignore"):
        shift = affine.shift + affine.factor * bias.reshape(-1)
    if not (np.isfinite(affine.factor).all() and np.isfinite(shift).all()):
        return False
    if dtype_of(weight).name != "float16":
        return True
    with np.errstate(all="ignore"):
        scaled = values_of(weight).astype(np.float64) * _per_output(affine.factor, node)
    return max(np.abs(shift).max(), np.abs(scaled).max(initial=0.0)) <= np.finfo(np.float16).max


def _fold(node: gs.Node, norm: gs.Node, graph: gs.Graph, affine: _Affine, taken: set[str]) -> None:
    weight = node.inputs[1]
    held, dtype, shape = weight._values, dtype_of(weight), shape_of(weight)
    factor = _per_output(affine.factor, node)
    bias = affine.shift + affine.factor * _bias(node).reshape(-1)

    def compute() -> np.ndarray:
        array = held if isinstance(held, np.ndarray) else held.load()
        with np.errstate(all="ignore"):  # weights that are not finite are refused where they are met
            return (array.astype(np.float64) * factor).astype(dtype)

    name = weight.name if len(weight.outputs) == 1 else free_name(weight.name, taken)
    node.inputs[1] = gs.Constant(name, Derived(shape, dtype, compute))
    _set_bias(node, bias, dtype.name, taken)
    result = norm.outputs[0]
    norm.inputs.clear()
    norm.outputs.clear()
    node.outputs[0] = result
    graph.nodes = [other for other in graph.nodes if other is not norm]


def _set_bias(node: gs.Node, bias: np.ndarray, dtype: str, taken: set[str]) -> None:
    old = node.inputs[2] if len(node.inputs) > 2 else None
    if old is not None and not old.is_empty() and len(old.outputs) == 1:
        name = old.name
    else:
        name = free_name(f"{node.name}_bias", taken)
    constant = float_tensor(name, bias, dtype)
    if old is None:
        node.inputs.append(constant)
    else:
        node.inputs[2] = constant


def _bias(node: gs.Node) -> np.ndarray:
    """The node's bias, float64, as something that broadcasts against ``[channels]``."""
    if len(node.inputs) < 3 or node.inputs[2].is_empty():
        return np.zeros(1)
    return np.atleast_1d(values_of(node.inputs[2]).astype(np.float64))


def _per_output(values: np.ndarray, node: gs.Node) -> np.ndarray:
    """``[channels]`` as an array that broadcasts against the node's weight."""
    shape = shape_of(node.inputs[1])
    if node.op == "Gemm":
        return values.reshape(1, -1)
    ones = (1,) * (len(shape) - 2)
    if node.op == "Conv":
        return values.reshape(-1, 1, *ones)
    group = attribute(node, "group", 1)
    per_group = values.reshape(group, 1, shape[1])
    return np.repeat(per_group, shape[0] // group, axis=1).reshape(shape[0], shape[1], *ones)
