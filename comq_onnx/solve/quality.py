"""What a layer loses on its calibration inputs, from their mean and Gram."""

from dataclasses import dataclass

import numpy as np

from comq_onnx.backends.engine import Engine
from comq_onnx.backends.protocol import Array
from comq_onnx.records import InputStats, Quality
from comq_onnx.solve import rtn
from comq_onnx.solve.panels import Piece, column_losses, pieces, taken
from comq_onnx.solve.pose import Posed
from comq_onnx.solve.rtn import Rounded
from comq_onnx.solve.scales import spread

Losses = tuple[Array, Array]
"""``(G, M)`` under a posed Gram: of an answer, and of rounding to nearest"""


@dataclass(frozen=True)
class Kind:
    """What the posed Gram and the answer are."""

    centred: bool
    """Whether the means were taken out of the posed Gram"""
    compensated: bool
    """Whether a bias takes the mean out of the answer's error"""


def measured(
    posed: Posed,
    answer: Rounded,
    stats: InputStats | None,
    kind: Kind,
    engine: Engine,
    losses: Losses | None = None,
) -> Quality:
    """Squared output of the float layer, of rounding's error, and of the answer's.

    `losses` saves the two products they took, where a solver knows them. All is in float32 where the layer
    was solved in float32.
    """
    mean = None if stats is None else posed.xp.asarray(stats.mean)

    def piece(place: Piece) -> np.ndarray:
        part = taken(posed, *place)
        p, scale = answer[0][place], answer[1][place]
        plain, size, _ = rtn.solve(part)
        errors = part.weight, part.weight - spread(size, part) * plain, part.weight - spread(scale, part) * p
        known = (None, None, None) if losses is None else (None, losses[1][place], losses[0][place])
        total = []
        for error, loss, bias in zip(errors, known, (False, False, kind.compensated), strict=True):
            loss = column_losses(part, error) if loss is None else loss
            # The posed Gram lacks the squared mean if it is centred; a bias takes it out.
            share = float(kind.centred) - float(bias)
            loss = loss * part.level[:, None] + share * _shift(error, mean, place[0])
            total.append(float(posed.xp.ldexp(loss, 2 * part.exponent[:, :, 0]).sum()))
        return np.array(total)

    signal, plain, solved = np.sum(list(engine.map(piece, pieces(posed, engine.cells))), axis=0).tolist()
    return Quality(max(signal, 0.0), max(plain, 0.0), max(solved, 0.0))


def _shift(error: Array, mean: Array | None, groups: slice) -> Array | float:
    """``(G, M)``: the squared mean of the output that `error` makes."""
    if mean is None:
        return 0.0
    return ((error @ mean[groups, :, None])[:, :, 0]) ** 2
