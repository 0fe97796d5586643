"""What a run costs, in multiply-adds of a large float32 product.

Each factor says how many of those one unit of a kind of work takes: fitted to the processor time of its kind
on real models, which `tools/bench_estimate.py` compares with what comes out. Divided by the speed of such a
product where the run is to be, work becomes seconds. That is good to a factor of about two: how many codes a
sweep moves, and so what it takes, is for the data to say.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from onnx import NodeProto

from comq_onnx.graph.shapes import TensorShape
from comq_onnx.grid import Grid
from comq_onnx.recipe import Recipe
from comq_onnx.records import Layer
from comq_onnx.solve.effort import settings_for
from comq_onnx.stats.taps import Tap, taps_of

Shapes = Mapping[str, TensorShape]

# Forward passes: of a product's multiply-add, an element that is written, a node that is executed once.
PRODUCT, ELEMENT, NODE = 1.0, 25.0, 1.5e4
# Between two segments: of a byte that is carried, a call of a session, a session that is opened.
BYTE, CALL, SESSION = 9.0, 8e5, 1e8
# Statistics: of a cell's multiply-add, an element of a row of dense inputs and of patches, a sample whose
# patches are cut out.
GRAM, DENSE, PATCH, IMAGE = 1.1, 360.0, 550.0, 3e6
# Solving: of a layer, of a group, of the cells of a Gram times its rows, and more where the input drifted.
LAYER, GROUP, CUBE, DRIFT = 3e8, 1.2e6, 5.0, 7.0
# Of a Gram's cells times the columns for each start, and more where scales come in blocks; of a kick of each
# weight.
START, BLOCK, KICK = 1.9, 8.0, 800.0
# Of a run, whatever the model: compiled loops are fetched. Of a weight that is read, written and checked.
LAUNCH, CHECK = 3e10, 5e3
BASELINES = {"rtn": (0.0, 10.0), "gptq": (5.0, 20.0), "comq-paper": (0.0, 60.0)}
"""Of a baseline: for the cells of a Gram times its rows, and times the columns"""


@dataclass(frozen=True)
class Forward:
    """What one execution of some nodes on one batch consists of."""

    products: int
    """Multiply-adds of MatMul, Gemm and Conv nodes"""
    elements: int
    """Elements that nodes write"""
    nodes: int

    @property
    def work(self) -> float:
        return PRODUCT * self.products + ELEMENT * self.elements + NODE * self.nodes


def forward_of(nodes: Iterable[NodeProto], shapes: Shapes) -> Forward:
    """Of nodes whose shapes are known; what is unknown counts as nothing."""
    listed = list(nodes)
    written = sum(shapes[name].size for node in listed for name in node.output if name in shapes)
    return Forward(sum(products_of(node, shapes) for node in listed), written, len(listed))


def products_of(node: NodeProto, shapes: Shapes) -> int:
    """Multiply-adds of a node; 0 where it is no product or its shapes are unknown."""
    if len(node.input) < 2 or any(name not in shapes for name in (*node.input[:2], node.output[0])):
        return 0
    first, second = shapes[node.input[0]], shapes[node.input[1]]
    made = shapes[node.output[0]]
    if node.op_type == "MatMul":
        return made.size * (first.shape[-1] if first.shape else 1)
    if node.op_type == "Gemm":
        return made.size * first.size // max(made.shape[0], 1)
    if node.op_type == "Conv":
        return made.size * math.prod(second.shape[1:])
    if node.op_type == "ConvTranspose":
        return first.size * math.prod(second.shape[1:])
    return 0


def moving(names: Iterable[str], shapes: Shapes) -> float:
    """Work of carrying these tensors of one batch out of a session, or into one."""
    return BYTE * sum(shapes[name].bytes for name in names if name in shapes)


def summing(tap: Tap, rows: int, samples: int, drifting: bool) -> tuple[float, float]:
    """Work of the statistics of one tap on `rows` rows per group: what cores share, and what one has to do.

    `drifting` where the rows of two networks are compared.
    """
    times = 2 if drifting else 1
    elements = rows * tap.rows * tap.groups
    product = GRAM * elements * tap.rows
    if tap.kind != "conv":
        return times * (product + DENSE * elements), 0.0
    return times * (product + PATCH * elements), times * IMAGE * samples


def solving(layer: Layer, grid: Grid, recipe: Recipe, drifting: bool) -> float:
    """Work of solving one layer."""
    layout, solver = layer.layout, "rtn" if layer.op == "Gather" else recipe.solver
    groups, rows, cols = layout.groups, layout.rows, layout.cols
    settings = settings_for(recipe.effort, rows)
    cube, square = groups * rows**3, groups * rows * rows * cols
    fixed = LAYER + GROUP * groups
    if solver in BASELINES:
        of_cube, of_square = BASELINES[solver]
        return fixed + of_cube * cube + (0.0 if layer.op == "Gather" else of_square * square)
    starts = sum(map(len, settings.rounds))
    each = START + (BLOCK if grid.blocks(rows) > 1 else 0.0)
    kicks = KICK * settings.kicks * groups * rows * cols
    of_cube = CUBE + (DRIFT if drifting else 0.0)
    return fixed + of_cube * cube + each * starts * square + kicks


def work_of(
    layer: Layer,
    rows_seen: int,
    grid: Grid | None = None,
    recipe: Recipe | None = None,
    drifting: bool = True,
) -> float:
    """Work of one layer's statistics and of solving it: a weight for progress, in the module's unit.

    `rows_seen` is the number of calibration rows per group. Layers that share a tap share the statistics;
    here each has them. Without a grid a scale per channel is meant, without a recipe the defaults.
    """
    taps = taps_of([layer])
    sums = summing(taps[0], rows_seen, 0, drifting)[0] if taps else 0.0
    return sums + solving(layer, grid or Grid(4), recipe or Recipe(), drifting)


def checking(layers: Iterable[Layer]) -> float:
    """Work of reading the model, writing the file and verifying it."""
    return LAUNCH + CHECK * sum(math.prod(layer.layout.shape) for layer in layers)
