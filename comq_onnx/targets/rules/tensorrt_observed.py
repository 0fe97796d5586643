"""What no document says, and the builder of TensorRT for RTX 1.7 made known."""

from collections import defaultdict
from collections.abc import Iterator

from onnx import TensorProto

from comq_onnx.graph.scopes import Scope
from comq_onnx.targets.findings import Rule
from comq_onnx.targets.rules.linears import Linear, Use, is_product, linears, uses
from comq_onnx.targets.rules.tensorrt_scales import Breaches
from comq_onnx.targets.view import View, named

INT4 = TensorProto.INT4


def _shared(view: View) -> Breaches:
    """INT4 codes that several products read; others that are read in several graphs.

    Two products of one INT4 weight end the builder's process, unless one of them reads what the other makes.
    Where a branch reads codes of the graph around it and something else reads them too, it refuses the file.
    """
    readers: defaultdict[tuple[str, int], list[Linear]] = defaultdict(list)
    for linear in linears(view):
        if linear.is_weight and not linear.quantizes and linear.source is None:
            codes = linear.node.input[0]
            readers[codes, id(_home(codes, linear.scope))].append(linear)
    for found in readers.values():
        if found[0].type == INT4:
            products = {id(use.node) for linear in found for use in _products(linear, view)}
            if len(products) > 1:
                yield found[0].name, f"{len(products)} products read its INT4 weight"
        elif len({id(linear.scope) for linear in found}) > 1:
            yield found[0].name, f"its codes are read in {len(found)} places, not all in one graph"


def _products(linear: Linear, view: View) -> Iterator[Use]:
    return (use for use in uses(linear.node.output[0], linear.scope, view) if is_product(use.node))


def _home(name: str, scope: Scope) -> Scope:
    """The scope that `name` belongs to."""
    while scope.outer is not None and name not in scope.tensors and name not in scope.producers:
        scope = scope.outer
    return scope


def _listed_scale(view: View) -> Breaches:
    """A Conv with such an activation computes in float; one with such a weight is refused."""
    for linear in linears(view):
        scale = view.shape(linear.scale, linear.scope)
        if linear.quantizes or linear.block or scale is None or list(scale) != [1]:
            continue
        data = view.shape(linear.node.input[0], linear.scope)
        axis = linear.axis(len(data)) if data else 0
        if data and 0 <= axis < len(data) and data[axis] == 1:
            continue
        readers = [use.node for use in uses(linear.node.output[0], linear.scope, view)]
        if convolutions := [node for node in readers if is_product(node) and node.op_type == "Conv"]:
            yield linear.name, f"its one scale is a list, and {named(convolutions[0])} reads it"


RULES = (
    Rule(
        "TRT-W11",
        "warning",
        "Codes are stored for each product: INT4 ones are not shared, others not between graphs.",
        "store the codes once for each product",
        _shared,
    ),
    Rule(
        "TRT-W12",
        "warning",
        "The one scale of what a Conv reads is a scalar, not a list of one.",
        "give scale and zero point the shape []",
        _listed_scale,
    ),
)
