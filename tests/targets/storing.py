"""Small models solved by rounding, their activations stored by hand-made grids, and computed literally."""

from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnxruntime
from graphs import balanced, weight
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from targets.layer_cases import dequantized, shaped_model, solve_nearest

from comq_onnx.graph.find import find_layers
from comq_onnx.graph.io import Model, load, to_proto
from comq_onnx.graph.prepare import prepare
from comq_onnx.planning import Plan, plan
from comq_onnx.recipe import Recipe
from comq_onnx.records import ActivationKind, Solution, ValueGrid
from comq_onnx.targets import TARGETS
from comq_onnx.targets.placement import Placement, Stored, place
from comq_onnx.targets.rules.saturation import saturation
from comq_onnx.targets.target import Written
from comq_onnx.targets.view import View

Arrays = dict[str, np.ndarray]
UINT8, INT8 = ActivationKind(False, False), ActivationKind(True, True)
CONV = "Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>"
SQUARE = {f"W{i}": weight(8, 8, 3, 3, seed=i) for i in (1, 2, 3)}
BIASES = {f"b{i}": weight(8, seed=i) for i in (1, 2, 3)}


@dataclass(frozen=True)
class Bed:
    """A model with activations in 8 bits, and all that it was made of."""

    plan: Plan
    solutions: dict[str, Solution]
    """As they lie in the file"""
    grids: dict[str, ValueGrid]
    written: list[Written]
    proto: onnx.ModelProto

    @property
    def stored(self) -> dict[str, tuple[str, ...] | None]:
        """Readers of the stored form, by tensor."""
        return {value.tensor: value.readers for value in self.plan.placement.values}

    @property
    def ops(self) -> list[str]:
        return [node.op_type for node in self.proto.graph.node]

    def forms(self) -> list[str]:
        return [said.form for said in self.written]

    def constants(self) -> dict[str, onnx.TensorProto]:
        return {tensor.name: tensor for tensor in self.proto.graph.initializer}

    def maker(self, tensor: str) -> onnx.NodeProto:
        return next(node for node in self.proto.graph.node if tensor in node.output)


def placed(proto: onnx.ModelProto, target: str, products: bool = False, **how) -> tuple[Model, Placement]:
    """The prepared model and what of it is stored; with `products`, for products of two activations too."""
    recipe = Recipe(**({"target": target, "weights": "int8", "activations": "int8"} | how))
    rules = TARGETS[target].activations(recipe, True)
    ready = prepare(load(proto), 13, absorb=True)
    layers, _ = find_layers(ready, recipe)
    return ready, place(ready, layers, replace(rules, products=products), recipe.size_first)


def store(
    proto: onnx.ModelProto, feeds: Arrays, target: str, bias: float = 0.0, products: bool = False, **how
) -> Bed:
    """Write `proto` for `target`, with int8 weights and activations unless `how` says otherwise.

    int8 weights keep to 7 bits: so the file computes the same on processors that add products in 16 bits.
    `bias` is what every layer's compensating bias is filled with.
    """
    narrow = {"target": target, "weights": "int8", "activations": "int8", "reduce_range": True}
    recipe = Recipe(**(narrow | how))
    made = plan(proto, recipe, given=True)
    if products:
        rules = replace(TARGETS[target].activations(recipe, True), products=True)
        made = replace(made, placement=place(load(made.prepared), made.layers, rules, recipe.size_first))
    model = load(made.prepared)
    weights = weights_of(made.prepared)
    solutions = {}
    for layer in made.layers:
        added = np.full((layer.layout.groups, layer.layout.cols), bias) if bias else None
        solutions[layer.name] = solve_nearest(weights[layer.weight], layer, made.grids[layer.name], added)
    rules = TARGETS[target].activations(recipe, True)
    grids = ranges(made, feeds, rules.kind) if rules else {}
    said = TARGETS[target].rewrite(model, made.layers, solutions, recipe, Stored(made.placement, grids))
    solutions |= {w.layer: w.solution for w in said if w.solution is not None}
    result = to_proto(model)
    onnx.checker.check_model(result, full_check=True)
    # On processors that add products in 16 bits a test of this file would fail, and on others pass.
    assert not list(saturation(View(result)))
    return Bed(made, solutions, grids, said, result)


def weights_of(proto: onnx.ModelProto) -> Arrays:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def ranges(made: Plan, feeds: Arrays, kind: ActivationKind) -> dict[str, ValueGrid]:
    """The smallest grid that holds what each group of tensors is on `feeds`, within its limits."""
    values = made.placement.values
    seen = all_values(made.prepared, feeds)
    grids = {}
    for group in {value.group for value in values}:
        members = [value for value in values if value.group == group]
        every = np.concatenate([seen[value.tensor].reshape(-1) for value in members])
        high = max(value.high for value in members)
        grid = min_max(every, kind, high)
        grids |= {value.tensor: grid for value in members}
    return grids


def min_max(values: np.ndarray, kind: ActivationKind, high: float = np.inf) -> ValueGrid:
    low, top = min(0.0, float(values.min())), max(0.0, float(values.max()))
    if kind.symmetric:
        return ValueGrid(float(np.float32(max(-low, top) / 127 + 1e-9)), 0, kind)
    scale = np.float32((top - low) / 255 + 1e-9)
    zero = int(np.rint(-low / scale))
    while np.float32(scale * np.float32(255 - zero)) > np.float32(high):
        scale = np.nextafter(scale, np.float32(0))
    return ValueGrid(float(scale), zero, kind)


def all_values(proto: onnx.ModelProto, feeds: Arrays) -> Arrays:
    """Every tensor of the main graph, in float, each node computed by its definition."""
    return _interpret(proto, feeds, {}, lambda name, node: False)[0]


def literal(bed: Bed, feeds: Arrays) -> list[np.ndarray]:
    """The outputs of the planned model by definition: weights as solved, stored tensors as codes say."""
    proto = onnx.ModelProto()
    proto.CopyFrom(bed.plan.prepared)
    by_weight = {layer.weight: layer for layer in bed.plan.layers}
    for tensor in proto.graph.initializer:
        if layer := by_weight.get(tensor.name):
            values = dequantized(bed.solutions[layer.name], layer).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    def is_stored(name: str, node: str) -> bool:
        return name in bed.stored and (bed.stored[name] is None or node in bed.stored[name])

    values, rounded = _interpret(proto, feeds, bed.grids, is_stored)
    return [(rounded if is_stored(o.name, "") else values)[o.name] for o in proto.graph.output]


def _interpret(proto, feeds, grids, is_stored) -> tuple[Arrays, Arrays]:
    values = weights_of(proto) | dict(feeds)
    rounded = {name: through(values[name], grids[name]) for name in feeds if name in grids}
    for node in proto.graph.node:
        reads = [name for name in node.input if name]
        ends = [helper.make_empty_tensor_value_info(name) for name in dict.fromkeys(reads)]
        outs = [helper.make_empty_tensor_value_info(name) for name in node.output if name]
        alone = helper.make_model(
            helper.make_graph([node], "one", ends, outs), opset_imports=proto.opset_import, ir_version=10
        )
        inputs = {name: (rounded if is_stored(name, node.name) else values)[name] for name in reads}
        for info, value in zip(outs, ReferenceEvaluator(alone).run(None, inputs), strict=True):
            values[info.name] = value
            if info.name in grids:
                rounded[info.name] = through(value, grids[info.name])
    return values, rounded


def through(values: np.ndarray, grid: ValueGrid) -> np.ndarray:
    """What the codes of `values` stand for: ``s * (clip(round(x / s) + z) - z)``."""
    low, high = (-128, 127) if grid.kind.signed else (0, 255)
    scale = np.float32(grid.scale)
    codes = np.clip(np.rint(values / scale).astype(np.int64) + grid.zero_point, low, high)
    return (codes - grid.zero_point).astype(np.float32) * scale


def outputs(proto: onnx.ModelProto, feeds: Arrays, optimize: bool = False, path=None) -> list[np.ndarray]:
    """All outputs in onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if path:
        options.optimized_model_filepath = str(path)
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)


def deviation(found: np.ndarray, expected: np.ndarray) -> float:
    """Relative L2 distance."""
    assert found.shape == expected.shape
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def check_runs(bed: Bed, feeds: Arrays, folder, limit: float = 2e-3) -> list[str]:
    """Both ways onnxruntime runs the file give what the definition does; operators of its optimised graph."""
    expected = literal(bed, feeds)
    path = folder / "optimized.onnx"
    plain, fused = outputs(bed.proto, feeds), outputs(bed.proto, feeds, True, path)
    for wanted, one, other in zip(expected, plain, fused, strict=True):
        assert deviation(one, wanted) <= limit
        assert deviation(other, one) <= limit
    return [node.op_type for node in onnx.load(path).graph.node]


def images(*shape: int, seed: int = 1) -> Arrays:
    return {"x": np.random.default_rng(seed).standard_normal(shape, np.float32)}


def net(body, head="float[B, 8, 10, 10] x", opset=17, **weights):
    return shaped_model(f"g ({head}) => (float[] y) {{ {body} }}", opset, **weights)


def rows(*shape, seed=1):
    return {"x": np.random.default_rng(seed).standard_normal(shape, np.float32)}


def one_layer(op, target="ort", how=None, **weights):
    """A product with a weight whose codes take all 8 bits, unless `how` says otherwise."""
    body = {
        "MatMul": "y = MatMul(x, W)",
        "Gemm": "y = Gemm(x, W, b)",
        "Add": "h = MatMul(x, W) y = Add(h, b)",
    }[op]
    values = {"W": balanced(weight(16, 8, seed=2)), "b": weight(8, seed=3)} | weights
    if op == "MatMul":
        del values["b"]
    feeds = rows(5, 16)
    how = {"reduce_range": False} | (how or {})
    return store(net(body, "float[B, 16] x", **values), feeds, target, **how), feeds, values


def int8_recipe():
    return Recipe(target="ort", weights="int8", activations="int8")
