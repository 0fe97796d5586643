"""Bringing a model into the one form that the rest of the program knows: read `PASSES` from top to bottom."""

from collections.abc import Callable

from comq_onnx.graph.absorb import drop_identities, fold_addends, fold_pads
from comq_onnx.graph.batchnorm import fold_batchnorms
from comq_onnx.graph.copy import copy_model
from comq_onnx.graph.fold import fold_constant_chains, take_in_constant_nodes
from comq_onnx.graph.gemm import normalise_gemms
from comq_onnx.graph.io import Model
from comq_onnx.graph.naming import name_uniquely
from comq_onnx.graph.untie import untie_weights

PASSES: tuple[Callable[[Model], None], ...] = (
    name_uniquely,
    take_in_constant_nodes,
    fold_constant_chains,
    normalise_gemms,
    fold_batchnorms,
    untie_weights,
)
"""Each pass edits the graph in place and changes no output beyond rounding."""


ABSORBING: tuple[Callable[[Model], None], ...] = (drop_identities, fold_addends, fold_pads)
"""Besides, where 8-bit kernels are to be matched."""


def prepare(model: Model, opset: int, absorb: bool = False) -> Model:
    """A copy of `model` at `opset` or above, ready for `find.find_layers`; `model` itself is not changed.

    Nodes and tensors have names of their own; the weight of a node that can be quantized is a constant which
    no other node reads; every Gemm with a constant weight has ``transA = transB = 0, alpha = beta = 1``; no
    BatchNormalization follows a convolution or Gemm it could be folded into. Weights are shared with `model`,
    not copied; changed ones are computed when they are read. Model-local functions were inlined by `io.load`.

    Raises
    ------
    ComqError
        An operator of the model cannot be brought to `opset`.
    """
    ready = copy_model(model, opset)
    for step in (*PASSES, *(ABSORBING if absorb else ())):
        step(ready)
    return ready
