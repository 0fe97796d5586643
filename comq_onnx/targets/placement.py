"""Which activation tensors are stored in 8 bits: decided per value, by a target's rules.

A layer that computes in 8 bits needs its input stored so, and, where the runtime fuses only what has 8-bit
outputs too, its output: then everything that reads the output reads the stored form. Between such tensors,
operators that move values, or that runtimes compute in 8 bits themselves, are carried along where all they
read is stored already and somebody behind them wants it stored. All else stays in float.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_graphsurgeon as gs

from comq_onnx.graph.edit import following_add
from comq_onnx.graph.io import Model
from comq_onnx.graph.locate import node_of
from comq_onnx.graph.slots import slots_of
from comq_onnx.graph.tensors import Tensor
from comq_onnx.records import ActivationKind, Layer, Placed, TwinGrid, ValueGrid
from comq_onnx.targets.patterns import (
    MOVERS,
    cannot,
    carried_inputs,
    clip_limits,
    is_depthwise,
    is_product,
    is_row,
    limits_of,
    moves_plainly,
    single_positions,
)


@dataclass(frozen=True)
class ActivationRules:
    """What a runtime wants of 8-bit activations."""

    kind: ActivationKind
    outputs: frozenset[str]
    """Operators of layers that are fused only if their outputs are stored in 8 bits too"""
    float_bias: bool
    """Whether biases stay float; they are int32 at the scale of the products otherwise"""
    apart: bool
    """Whether each reader of a tensor needs a QuantizeLinear of its own"""
    carried: frozenset[str]
    """Operators between layers that are computed in 8 bits"""
    residuals: bool
    """Whether what a layer's output is added to is stored in 8 bits though the output is not"""
    products: bool
    """Whether both inputs of a product of two activations are stored in 8 bits"""
    refuses: Callable[["Site"], str]
    """Why a layer's activations stay float; empty where they do not"""
    twin_products: bool = False
    """Whether they are where --twin-ranges is asked for"""
    mostly: bool = False
    """Whether the target has such files only for models most of whose layers compute in 8 bits"""
    spares: bool = True
    """Whether a layer whose weight was solved for 8-bit activations has a form beside float ones"""
    stored: bool = True
    """Whether activations are stored by grids chosen beforehand; they are rounded on the fly otherwise"""


@dataclass(frozen=True)
class Site:
    """A layer with its place in the graph, as rules look at it."""

    layer: Layer
    node: gs.Node
    depthwise_net: bool
    """Whether any Conv of the model has a group for each few channels"""
    pooled: bool
    """Whether its input has been pooled to one position: a squeeze-and-excite branch"""
    size_first: bool


@dataclass(frozen=True)
class Placement:
    """What is stored in 8 bits, in the order of the graph, and why layers are not."""

    values: tuple[Placed, ...] = ()
    layers: frozenset[str] = frozenset()
    """Names of the layers that compute in 8 bits"""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Why a layer's activations stay float, by its name"""


def _products_alone(site: Site) -> str:
    if site.layer.dtype != "float32":
        return f"no 8-bit kernel for {site.layer.dtype} activations"
    return "" if site.layer.op in ("MatMul", "Gemm") else f"no kernel rounds the input of a {site.layer.op}"


DYNAMIC_RULES = ActivationRules(
    kind=ActivationKind(signed=False, symmetric=False),
    outputs=frozenset(),
    float_bias=True,
    apart=False,
    carried=frozenset(),
    residuals=False,
    products=False,
    refuses=_products_alone,
    stored=False,
)
"""Inputs of products rounded on the fly: nothing is stored in 8 bits."""
NOWHERE = Placement()
"""All activations stay float."""


@dataclass(frozen=True)
class Stored:
    """A placement and the grids that were chosen for it: all that writing 8-bit activations takes."""

    placement: Placement = NOWHERE
    grids: Mapping[str, ValueGrid] = field(default_factory=dict)
    """By tensor"""
    twins: Mapping[str, TwinGrid] = field(default_factory=dict)
    """By tensor, of those that have two ranges in place of one"""


NOTHING_STORED = Stored()


def place(model: Model, layers: Sequence[Layer], rules: ActivationRules, size_first: bool) -> Placement:
    """Decide for a prepared model; nothing is changed."""
    return _Placer(model, layers, rules).run(size_first)


def layers_at(
    model: Model, layers: Sequence[Layer], rules: ActivationRules, placement: Placement
) -> dict[str, list[str]]:
    """The layers for whose sake tensors are stored: those that read them, or need their outputs so."""
    placer, found = _Placer(model, layers, rules), dict[str, list[str]]()
    for layer, node in placer.sites:
        if layer.name in placement.layers:
            found.setdefault(node.inputs[0].name, []).append(layer.name)
            if layer.op in rules.outputs:
                found.setdefault(placer.unit_output(node).name, []).append(layer.name)
    return found


class _Placer:
    """What is known of the graph, and what has been decided so far."""

    def __init__(self, model: Model, layers: Sequence[Layer], rules: ActivationRules) -> None:
        self._graph, self._rules = model.graph, rules
        self.sites = [(layer, node_of(model, layer)[0]) for layer in layers if not layer.in_subgraph]
        self._nested = [layer for layer in layers if layer.in_subgraph]
        self._outputs = {id(tensor) for tensor in model.graph.outputs}
        self._inside = {id(node) for node in model.graph.nodes}
        self._held: set[int] = set()
        """Tensors of which everything reads the stored form"""
        self._read: dict[int, list[str]] = {}
        """Nodes that read the stored form of tensors that others read in float"""
        self._wanted: set[int] = set()
        self._group: dict[int, int] = {}

    def run(self, size_first: bool) -> Placement:
        depthwise = any(is_depthwise(layer) for layer, _ in self.sites)
        positions = single_positions(self._graph)
        reasons = {layer.name: "inside a subgraph" for layer in self._nested}
        chosen: list[tuple[Layer, gs.Node]] = []
        for layer, node in self.sites:
            pooled = node.op == "Conv" and id(node.inputs[0]) in positions
            site = Site(layer, node, depthwise, pooled, size_first)
            if why := cannot(layer) or self._rules.refuses(site):
                reasons[layer.name] = why
            else:
                chosen.append((layer, node))
        products = self._products()
        self._start(chosen, products)
        self._carry()
        for _, node in chosen:
            self._ask(node.inputs[0], node)
        for node in products:
            self._ask(node.inputs[0], node)
            self._ask(node.inputs[1], node)
        if self._rules.residuals:
            self._ask_residuals(chosen)
        values = tuple(self._placed()) if self._rules.stored else ()
        return Placement(values, frozenset(la.name for la, _ in chosen), reasons)

    def _products(self) -> list[gs.Node]:
        """Products of two activations; none where weights are of another type than float32."""
        if not self._rules.products or any(layer.dtype != "float32" for layer, _ in self.sites):
            return []
        return [node for node in self._graph.nodes if is_product(node)]

    def _start(self, chosen: Sequence[tuple[Layer, gs.Node]], products: Sequence[gs.Node]) -> None:
        """Outputs that must be stored, and inputs that somebody wants stored."""
        for layer, node in chosen:
            self._wanted.add(id(node.inputs[0]))
            if layer.op in self._rules.outputs:
                self._held.add(id(self.unit_output(node)))
        for node in products:
            self._wanted.update(id(tensor) for tensor in node.inputs)

    def _carry(self) -> None:
        """Carry operators along whose inputs are stored and whose outputs are wanted so."""
        carried = [n for n in self._graph.nodes if not n.domain and n.op in self._rules.carried]
        for node in reversed(carried):
            output = self.unit_output(node)
            if id(output) in self._wanted and id(output) not in self._outputs:
                self._wanted.update(id(tensor) for tensor in carried_inputs(node))
        for node in carried:
            inputs, output = carried_inputs(node), self.unit_output(node)
            if not inputs or id(output) not in self._wanted or len(node.outputs) != 1:
                continue
            if all(id(tensor) in self._held for tensor in inputs) and moves_plainly(node):
                self._held.add(id(output))
                if node.op in MOVERS and output is node.outputs[0]:
                    for tensor in inputs:
                        self._join(tensor, output)

    def _ask(self, tensor: Tensor, node: gs.Node) -> None:
        if id(tensor) not in self._held:
            self._read.setdefault(id(tensor), []).append(node.name)

    def _ask_residuals(self, chosen: Sequence[tuple[Layer, gs.Node]]) -> None:
        """What the output of a Conv is added to; where that is a Conv's too, of the first one alone."""
        for layer, node in reversed(chosen):
            add = following_add(node, self._graph) if layer.op in ("Conv", "ConvTranspose") else None
            if add is None or add.name in self._read.get(id(node.outputs[0]), ()):
                continue
            for tensor in add.inputs:
                if tensor is not node.outputs[0] and isinstance(tensor, gs.Variable):
                    self._ask(tensor, add)

    def unit_output(self, node: gs.Node) -> Tensor:
        """What a node makes once its bias and the Relu or Clip that alone read it are absorbed."""
        output = node.outputs[0]
        if node.op in ("MatMul", "Gemm") and (add := following_add(node, self._graph)):
            others = [t for t in add.inputs if t is not output]
            if len(others) == 1 and is_row(others[0]):
                output = add.outputs[0]
        while self._alone(output) and clip_limits(reader := output.outputs[0]) is not None:
            output = reader.outputs[0]
        return output

    def _alone(self, tensor: Tensor) -> bool:
        return (
            len(list(slots_of(tensor))) == 1
            and id(tensor) not in self._outputs
            and id(tensor.outputs[0]) in self._inside
        )

    def _join(self, first: Tensor, second: Tensor) -> None:
        a, b = self._root(id(first)), self._root(id(second))
        self._group[b] = a

    def _root(self, key: int) -> int:
        while self._group.get(key, key) != key:
            key = self._group[key]
        return key

    def _placed(self) -> Iterator[Placed]:
        """All that was decided, in the order of the graph."""
        tensors = [*self._graph.inputs, *(t for node in self._graph.nodes for t in node.outputs)]
        names = {id(tensor): tensor.name for tensor in tensors}
        for tensor in tensors:
            key = id(tensor)
            if key not in self._held and key not in self._read:
                continue
            readers = None if key in self._held else tuple(dict.fromkeys(self._read[key]))
            low, high = limits_of(tensor)
            yield Placed(tensor.name, readers, names[self._root(key)], low, high)
