"""What crosses a seam between packages. Frozen records and nothing else: no behaviour lives here."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from comq_onnx.grid import Grid

LayoutKind = Literal["matmul", "matmul_left", "conv", "conv_transpose", "gather"]


@dataclass(frozen=True)
class Layout:
    """How a weight tensor maps to rows ``(groups, rows, cols)``; `graph.layout` does the mapping.

    ========== =========================== =================================================
    kind       weight tensor               rows layout
    ========== =========================== =================================================
    matmul       ``[*batch, K, N]``          groups = prod(batch), rows = K, cols = N
    matmul_left  ``[*batch, M, K]``          groups = prod(batch), rows = K, cols = M
    conv         ``[O, I/g, *kernel]``       groups = g, rows = I/g * prod(kernel), cols = O/g
    conv_transpose ``[I, O/g, *kernel]``     groups = g, rows = I/g * prod(kernel), cols = O/g
    gather       ``[V, D]``                  groups = 1, rows = D, cols = V (a column per entry)
    ========== =========================== =================================================

    A Gemm has the kind ``matmul``: `graph.prepare` brings it to ``transA = transB = 0, alpha = beta = 1``.
    """

    kind: LayoutKind
    shape: tuple[int, ...]
    groups: int
    rows: int
    cols: int
    vector: bool = False
    """Whether a MatMul multiplies a vector: its output has no axis for the vector's side"""


@dataclass(frozen=True)
class ConvGeometry:
    """Attributes of a Conv or ConvTranspose that decide which inputs a row of the weight meets."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    """Begin of each axis, then end of each axis, as ONNX has it; ignored unless auto_pad is NOTSET."""
    auto_pad: str
    group: int
    transposed: bool = False
    output_padding: tuple[int, ...] = ()
    output_shape: tuple[int, ...] = ()

    def fits(self, channels: int) -> bool:
        """Whether a weight with so many channels on its first axis can be run so."""
        axes = len(self.kernel)
        sizes = len(self.strides) == len(self.dilations) == axes and len(self.pads) == 2 * axes
        steps = min((*self.strides, *self.dilations), default=0) >= 1
        padded = not self.output_padding or len(self.output_padding) == axes
        return sizes and steps and padded and self.group >= 1 and channels % self.group == 0


@dataclass(frozen=True)
class Layer:
    """One node whose constant weight is to be quantized, in the prepared graph."""

    name: str
    """Name of the node; unique in the prepared graph, subgraphs included."""
    op: str
    """``MatMul``, ``Gemm``, ``Conv``, ``ConvTranspose`` or ``Gather``."""
    weight: str
    """Name of the float weight tensor; read by this node alone after `graph.prepare`."""
    input: str
    """Name of the activation tensor that meets the weight."""
    output: str
    layout: Layout
    dtype: str
    """Element type of the weight: ``float32``, ``float16``, ``bfloat16`` or ``float64``."""
    geometry: ConvGeometry | None = None
    in_subgraph: bool = False
    """True inside an If, Loop or Scan body: no activations are seen there, so it is solved data-free."""


@dataclass(frozen=True)
class Skipped:
    """A weight that stays float, and why."""

    name: str
    """The node that reads it."""
    op: str
    weight: str
    shape: tuple[int, ...]
    bytes: int
    reason: str


@dataclass(frozen=True)
class Drift:
    """How the float network's input x of a layer differs from x', what the quantized network makes of it."""

    mean: np.ndarray
    """``(groups, rows)``: the mean of ``x - x'``"""
    cross: np.ndarray
    """``(groups, rows, rows)``: the mean of ``(x - x') x'^T``, not centred"""
    energy: float
    """``E ||x - x'||^2 / E ||x||^2``"""
    residual_mean: np.ndarray | None = None
    """``(groups, cols)``: the mean of ``r - r'``, r what the float network adds the layer's output to; None
    where it is added to nothing"""
    residual_cross: np.ndarray | None = None
    """``(groups, cols, rows)``: the mean of ``(r - r') x'^T``"""


@dataclass(frozen=True)
class InputStats:
    """Sums over calibration rows of the vectors x that a layer's rows multiply, in float64.

    `gram` is the mean of ``x x^T`` (not centred) and `mean` the mean of x; the covariance is
    ``gram - mean mean^T``. `groups` is that of the layer's layout: a grouped Conv has one Gram per group.
    """

    mean: np.ndarray
    """``(groups, rows)``"""
    gram: np.ndarray
    """``(groups, rows, rows)``"""
    count: int
    """Rows summed, per group."""
    half: "InputStats | None" = None
    """The same sums over the first half of the samples alone, so that the other half can judge a solution;
    None where there is one sample only."""
    drift: Drift | None = None
    """Where these are the quantized network's inputs, how the float network's differ; None where they are the
    float network's own."""


@dataclass(frozen=True)
class Problem:
    """One layer to solve: find codes and scales on `grid` close to `weight` under the inputs' Gram."""

    weight: np.ndarray
    """``(groups, rows, cols)`` float64, finite"""
    stats: InputStats | None
    """None where no activations were seen: the identity Gram and a zero mean are used."""
    grid: Grid
    scale_dtype: str = "float32"
    """Type the scales will be stored in; they are rounded to it before the last sweep."""


@dataclass(frozen=True)
class Quality:
    """Expected squared output error of a layer on its calibration inputs, summed over output channels."""

    signal: float
    """``E ||W^T x||^2`` of the float layer, bias left out"""
    rtn: float
    """error of round-to-nearest, absmax scale, without a compensating bias: the "before" of the report"""
    solved: float
    """error of the solution, with its compensating bias: the "after" of the report"""


@dataclass(frozen=True)
class Solution:
    """Codes and scales of one layer, in row layout, and the bias that compensates their mean error.

    The written initializers hold exactly these codes and these scales; nothing is rounded again.
    """

    grid: Grid
    codes: np.ndarray
    """``(groups, rows, cols)``, `grid.code_dtype`"""
    scale: np.ndarray
    """``(groups, blocks, cols)`` float32, each exactly representable in the problem's `scale_dtype`"""
    zero_point: np.ndarray | None
    """``(groups, blocks, cols)``, `grid.code_dtype`; None for a symmetric grid"""
    bias: np.ndarray | None
    """``(groups, cols)`` float64, added to the layer's output; None where no compensation was asked"""
    quality: Quality
    note: str = ""
    """A fallback the user must hear of, as a clause; empty when all went as planned."""
    position_bias: np.ndarray | None = None
    """Added to the node's output besides `bias`, in its shape without the batch axis; float64"""


@dataclass(frozen=True)
class BlockBias:
    """What is added to the output of a residual Add, to make up for what the block's layers leave."""

    node: str
    """Name of the Add"""
    values: np.ndarray
    """One number for each channel, in a shape that broadcasts against the output; float64"""
    dtype: str
    """Element type of the output in the file"""


@dataclass(frozen=True)
class ActivationKind:
    """Which 8-bit codes a target stores activations in."""

    signed: bool
    """int8 codes in [-128, 127], or uint8 codes in [0, 255]"""
    symmetric: bool
    """Whether the zero point is always 0"""


@dataclass(frozen=True)
class ValueGrid:
    """How one activation tensor is stored in 8 bits: ``x ~ scale * (code - zero_point)``, per tensor."""

    scale: float
    """Positive, and exactly a float32"""
    zero_point: int
    """The code that stands for 0"""
    kind: ActivationKind
    """Of the codes"""


@dataclass(frozen=True)
class TwinGrid:
    """Two grids of one activation: of the terms of ``x = min(x, threshold) + max(x - threshold, 0)``."""

    threshold: float
    """Exactly what the highest code of `small` stands for, in float32: storing x there is what clips it"""
    small: ValueGrid
    large: ValueGrid
    """Of a coarser scale; its zero is 0, and stands for all values up to the threshold"""
    gain: float
    """How many times the expected squared error of one grid is that of the two"""


@dataclass(frozen=True)
class Smoothed:
    """Scales of an activation's channels that were moved into the weights of the products that read it."""

    tensor: str
    """Name in the graph before"""
    scale: np.ndarray = field(repr=False, compare=False)
    """One for each channel, on the last axis: what it is divided by, and the rows of weights multiplied by"""
    gain: float
    """How many times the expected squared error at the products' outputs is smaller"""
    into: str = ""
    """Nodes whose constants the division went into; empty where it is a Mul of its own"""


@dataclass(frozen=True)
class Placed:
    """One activation tensor that is to be stored in 8 bits."""

    tensor: str
    """Name in the prepared graph"""
    readers: tuple[str, ...] | None
    """Nodes that read the stored form; None where everything does, the graph's outputs included"""
    group: str
    """Tensors of one group share a grid: operators between them only move values"""
    low: float = float("-inf")
    """What an absorbed Relu or Clip keeps values above"""
    high: float = float("inf")
    """What an absorbed Clip keeps values below"""


@dataclass(frozen=True)
class LayerReport:
    """One line of the final table."""

    name: str
    """Of the node"""
    op: str
    """Its operator"""
    weight: str
    """Name of the weight tensor"""
    shape: tuple[int, ...]
    """Of the weight tensor"""
    grid: str
    """``int4 b128``; ``float16`` for a weight that is stored so, ``float`` for one that was kept"""
    bytes_before: int
    """Of the float weight"""
    bytes_after: int
    """Of what is stored in its place: codes, scales and zero points"""
    sqnr_before: float | None = None
    """Signal over error of the layer's output by round-to-nearest, in dB; None without a signal, and for
    what is not quantized"""
    sqnr_after: float | None = None
    """The same as solved, with the compensating bias"""
    form: str = ""
    """How the writer stored it: ``DequantizeLinear``, ``Cast*scale``, ``bit planes``, ``float16``; empty
    where it stays"""
    reason: str = ""
    """Why it stayed float, or what fell back; empty otherwise"""
    seconds: float = field(default=0.0, compare=False)
    """That solving it took"""
    drift: float | None = None
    """``E ||x - x'||^2 / E ||x||^2`` of its input, x the float network's and x' the quantized one's; None
    where the layer was not solved on the quantized network's input"""
    bias_bytes: int = 0
    """Of a bias for each position, besides `bytes_after`"""
    activations: str = ""
    """Where 8-bit activations were asked for: ``8-bit``, or why they stay float"""
    choice: str = ""
    """Why the form is what it is, where that is no fallback"""
