"""Finding what can be quantized: every weight is a Layer, or it is Skipped and carries the reason."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs

from comq_onnx.errors import ComqError
from comq_onnx.graph.derived import Root, constant_roots
from comq_onnx.graph.io import Model
from comq_onnx.graph.layout import layout_of
from comq_onnx.graph.locate import node_of, nodes_of
from comq_onnx.graph.rules import governed
from comq_onnx.graph.slots import RECURRENT_INPUTS, WEIGHT_INPUTS, attribute, weight_input
from comq_onnx.graph.tensors import FLOAT_DTYPES, Tensor, bytes_of, dtype_of, shape_of, values_of
from comq_onnx.recipe import Recipe
from comq_onnx.records import ConvGeometry, Layer, LayoutKind, Skipped
from comq_onnx.rules import KEEP_FLOAT, RULE, Rule, parse_rule

__all__ = ["find_layers", "node_of"]

NOTABLE_SIZE = 1024
"""A constant of fewer elements is only mentioned where an operator multiplies by it."""

EMBEDDING_REASON = "embedding table: use --quantize-embeddings"
COMPUTED_REASON = "weight is computed at run time"
QUANTIZED_REASON = "already quantized"

_MULTIPLIES = {*WEIGHT_INPUTS, *RECURRENT_INPUTS, "Einsum", "DeformConv"}
_QUANTIZED_OPS = {
    "ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul",
    "MatMulNBits", "GatherBlockQuantized", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QGemm",
}  # fmt: skip


@dataclass(frozen=True)
class _Candidate:
    """A node that could be quantized, before the recipe has its say."""

    node: gs.Node
    weight: gs.Constant
    layer: Layer


def find_layers(model: Model, recipe: Recipe) -> tuple[list[Layer], list[Skipped]]:
    """Layers to quantize and weights that stay float, both in order of execution.

    A weight is a floating-point constant of two or more axes that an operator multiplies by, or any such
    constant of notable size; bodies of If, Loop and Scan are searched too. Neither shapes of activations nor
    the activations themselves are needed. Patterns are searched in node names with `re.search`. Layers that a
    rule stores as float16 are among the layers; an embedding is one where a rule says so.

    Raises
    ------
    ComqError
        A pattern or operator type matches nothing, a pattern is not a regular expression, or a weight to be
        quantized holds NaN or Inf.
    """
    candidates, skipped = _survey(model, recipe)
    _check_rules(recipe, candidates)
    rules = governed((c.layer for c in candidates), recipe)
    offered = [c for c in candidates if _is_offered(c.layer, recipe, rules.get(c.layer.name))]
    quantize = [_compile(p, "--nodes-to-quantize", offered) for p in recipe.nodes_to_quantize]
    exclude = [_compile(p, "--nodes-to-exclude", offered) for p in recipe.nodes_to_exclude]
    _check_op_types(recipe, offered)
    layers: list[Layer] = []
    for candidate in candidates:
        layer, rule = candidate.layer, rules.get(candidate.layer.name)
        reason = _kept(layer, recipe, rule)
        if _is_offered(layer, recipe, rule):  # what is left out of the selection is that first of all
            reason = _not_selected(layer, recipe, quantize, exclude) or reason
        if reason:
            skipped.append(_skipped(candidate.node, candidate.weight, reason))
        else:
            _check_finite(candidate)
            layers.append(layer)
    order = {node.name: place for place, (node, _) in enumerate(nodes_of(model))}
    return layers, sorted(skipped, key=lambda s: order[s.name])


def _survey(model: Model, recipe: Recipe) -> tuple[list[_Candidate], list[Skipped]]:
    """Candidates, and the weights that no recipe could have quantized."""
    roots = constant_roots(model)
    candidates: list[_Candidate] = []
    entries: list[Skipped] = []
    for node, graph in nodes_of(model):
        if node.outputs and id(node.outputs[0]) in roots:
            continue  # a step of computing a weight; the node that reads the result is the one to name
        place = weight_input(node)
        for index, tensor in enumerate(node.inputs):
            if isinstance(tensor, gs.Constant):
                reason = _obstacle(node, index, tensor, recipe)
                if index == place and not reason:
                    layer = _layer(node, index, tensor, graph is not model.graph)
                    candidates.append(_Candidate(node, tensor, layer))
                elif reason and _is_notable(node, index, tensor):
                    entries.append(_skipped(node, tensor, reason))
            elif entry := _computed(node, index, tensor, roots):
                entries.append(entry)
    # A weight that several nodes read is one weight: only its first reader is named.
    return candidates, list({entry.weight: entry for entry in reversed(entries)}.values())


def _obstacle(node: gs.Node, index: int, weight: gs.Constant, recipe: Recipe) -> str:
    """Why the constant at `index` of `node` can never be quantized; empty where it can."""
    dtype = dtype_of(weight).name
    if node.op in _QUANTIZED_OPS and dtype not in FLOAT_DTYPES:
        return QUANTIZED_REASON
    if not node.domain and dtype not in FLOAT_DTYPES:
        return f"{dtype} weights are not supported"
    if node.domain or node.op not in WEIGHT_INPUTS or index not in WEIGHT_INPUTS[node.op]:
        return (
            "the constant is the left operand of a Gemm"
            if node.op == "Gemm" and index == 0
            else _foreign(node)
        )
    if all(isinstance(node.inputs[i], gs.Constant) for i in (0, 1)):
        return "both operands are constant"
    return _shape_obstacle(node, weight, recipe)


def _foreign(node: gs.Node) -> str:
    """Why a constant is left alone that `node` reads, but not as a weight that is known here."""
    if node.domain:
        return f"custom operator {node.domain}::{node.op} is left alone"
    if node.op in _MULTIPLIES and node.op not in WEIGHT_INPUTS:
        return f"{node.op} weights are not supported"
    return f"operand of {node.op}, not a weight"


def _shape_obstacle(node: gs.Node, weight: gs.Constant, recipe: Recipe) -> str:
    shape = shape_of(weight)
    if 0 in shape:
        return "weight has no elements"
    if len(shape) < 2:
        return "a vector, not a matrix"
    if node.op == "Gemm" and any(attribute(node, flag, 0) for flag in ("transA", "transB")):
        return "Gemm is not in the form MatMul + Add: the model was not prepared"
    if node.op in ("Conv", "ConvTranspose") and not _geometry(node, shape).fits(shape[0]):
        return "strides, pads or groups do not go with the weight's shape"
    if node.op == "Gather":
        if attribute(node, "axis", 0) == 0 and len(shape) == 2:
            return ""  # the recipe decides
        return "Gather does not look up rows of a table" if recipe.quantize_embeddings else EMBEDDING_REASON
    return ""


def _is_notable(node: gs.Node, index: int, weight: gs.Constant, quantized: bool = False) -> bool:
    """Whether a report would be incomplete without this constant."""
    shape, name = shape_of(weight), dtype_of(weight).name
    if not (quantized or node.op in _QUANTIZED_OPS or name in FLOAT_DTYPES or name.startswith("float")):
        return False
    if not node.domain and index not in RECURRENT_INPUTS.get(node.op, (index,)):
        return False  # biases and peephole weights are small
    multiplies = node.op in _QUANTIZED_OPS or (node.op in _MULTIPLIES and not node.domain)
    if int(np.prod(shape)) >= NOTABLE_SIZE:
        return len(shape) >= 2 or multiplies
    return len(shape) >= 2 and multiplies


def _computed(node: gs.Node, index: int, tensor: Tensor, roots: dict[int, Root]) -> Skipped | None:
    """The entry of a weight that is not a constant; None where the input is an ordinary activation."""
    is_weight = not node.domain and index in (
        *WEIGHT_INPUTS.get(node.op, ()),
        *RECURRENT_INPUTS.get(node.op, ()),
    )
    root = roots.get(id(tensor))
    if root is not None and root.constant is not None:
        if not _is_notable(node, index, root.constant, root.quantized):
            if not is_weight or node.op == "Gather":
                return None
            return Skipped(node.name, node.op, tensor.name, (), 0, f"{COMPUTED_REASON} by {root.op}")
        reason = f"{COMPUTED_REASON} by {root.op}"
        if root.quantized:
            reason = QUANTIZED_REASON
        elif not is_weight or node.op in RECURRENT_INPUTS:
            reason = _foreign(node)
        return _skipped(node, root.constant, reason)
    if not is_weight or node.op not in ("Conv", "ConvTranspose", "Gemm"):
        return None  # the product of two activations has no weight
    reason = COMPUTED_REASON if root is None else f"{COMPUTED_REASON} by {root.op}"
    shape = tuple(size if isinstance(size, int) else 0 for size in tensor.shape or ())
    return Skipped(node.name, node.op, tensor.name, shape, 0, reason)


def _layer(node: gs.Node, index: int, weight: gs.Constant, in_subgraph: bool) -> Layer:
    shape = shape_of(weight)
    kinds: dict[str, LayoutKind] = {"Conv": "conv", "ConvTranspose": "conv_transpose", "Gather": "gather"}
    kind = kinds.get(node.op, "matmul_left" if node.op == "MatMul" and index == 0 else "matmul")
    geometry = _geometry(node, shape) if node.op in ("Conv", "ConvTranspose") else None
    layout = layout_of(kind, shape, geometry.group if geometry else 1)
    other = node.inputs[1 if index == 0 else 0]
    return Layer(
        name=node.name,
        op=node.op,
        weight=weight.name,
        input=other.name,
        output=node.outputs[0].name,
        layout=replace(layout, vector=node.op == "MatMul" and len(other.shape or ()) == 1),
        dtype=dtype_of(weight).name,
        geometry=geometry,
        in_subgraph=in_subgraph,
    )


def _geometry(node: gs.Node, shape: tuple[int, ...]) -> ConvGeometry:
    axes = len(shape) - 2
    return ConvGeometry(
        kernel=tuple(shape[2:]),
        strides=tuple(attribute(node, "strides") or (1,) * axes),
        dilations=tuple(attribute(node, "dilations") or (1,) * axes),
        pads=tuple(attribute(node, "pads") or (0,) * (2 * axes)),
        auto_pad=attribute(node, "auto_pad", "NOTSET"),
        group=attribute(node, "group", 1),
        transposed=node.op == "ConvTranspose",
        output_padding=tuple(attribute(node, "output_padding") or ()),
        output_shape=tuple(attribute(node, "output_shape") or ()),
    )


def _skipped(node: gs.Node, weight: gs.Constant, reason: str) -> Skipped:
    return Skipped(node.name, node.op, weight.name, shape_of(weight), bytes_of(weight), reason)


def _is_offered(layer: Layer, recipe: Recipe, rule: Rule | None) -> bool:
    """Whether the recipe selects from it: embeddings only where they are asked for."""
    return layer.op != "Gather" or recipe.quantize_embeddings or (rule is not None and rule.width != "float")


def _kept(layer: Layer, recipe: Recipe, rule: Rule | None) -> str:
    """Why a layer stays float that the selection does not leave out; empty where it does not."""
    if rule is not None and rule.width == "float":
        return f"kept float by {rule.flag}"
    return "" if _is_offered(layer, recipe, rule) else EMBEDDING_REASON


def _check_rules(recipe: Recipe, candidates: Sequence[_Candidate]) -> None:
    for text in recipe.rules:
        _compile(parse_rule(text).pattern, RULE, candidates)
    for pattern in recipe.keep_float:
        _compile(pattern, KEEP_FLOAT, candidates)


def _not_selected(
    layer: Layer, recipe: Recipe, quantize: Sequence[re.Pattern[str]], exclude: Sequence[re.Pattern[str]]
) -> str:
    if recipe.op_types_to_quantize and layer.op not in recipe.op_types_to_quantize:
        return "not selected by --op-types-to-quantize"
    if any(pattern.search(layer.name) for pattern in exclude):
        return "excluded by --nodes-to-exclude"
    if quantize and not any(pattern.search(layer.name) for pattern in quantize):
        return "not selected by --nodes-to-quantize"
    return ""


def _compile(pattern: str, flag: str, candidates: Iterable[_Candidate]) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ComqError(
            f"{pattern!r} is not a regular expression ({error})", where=flag, fix="escape special characters"
        ) from error
    if not any(compiled.search(candidate.layer.name) for candidate in candidates):
        raise ComqError(
            f"{pattern!r} matches no quantizable node",
            where=flag,
            fix="see the node names with `comq-onnx --dry-run`",
        )
    return compiled


def _check_op_types(recipe: Recipe, candidates: Sequence[_Candidate]) -> None:
    present = {candidate.layer.op for candidate in candidates}
    for op in recipe.op_types_to_quantize:
        if op not in present:
            fix = (
                f"use one of {', '.join(sorted(present))}" if present else "the model has no quantizable node"
            )
            raise ComqError(
                f"no quantizable node has the type {op!r}", where="--op-types-to-quantize", fix=fix
            )


def _check_finite(candidate: _Candidate) -> None:
    if not np.isfinite(values_of(candidate.weight)).all():
        raise ComqError(
            "it contains NaN or Inf",
            where=f"weight {candidate.weight.name!r} of node {candidate.node.name!r}",
            fix="export a sound model, or leave the node out with --nodes-to-exclude",
        )
