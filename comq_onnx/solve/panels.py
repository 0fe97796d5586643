"""Cutting a layer into pieces that are solved apart: columns never interact, groups neither."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from comq_onnx.backends.engine import Engine
from comq_onnx.backends.protocol import Array
from comq_onnx.solve.pose import Posed

COLUMNS = 48
"""Columns of a piece at least, where the group has them: matrix products of fewer rows are slow."""

Piece = tuple[slice, slice]
"""Groups and columns"""
Answer = tuple[Array | None, ...]
"""Arrays ``(G, M, ...)`` about some columns"""


def pieces(posed: Posed, cells: int) -> list[Piece]:
    """A partition of the layer into pieces of about `cells` weights, by its shape alone."""
    groups, cols, rows = posed.weight.shape
    if posed.tied:
        return [(slice(0, groups), slice(0, cols))]
    width = min(cols, max(COLUMNS, cells // rows))
    count = -(-cols // width)
    width = -(-cols // (count + count % 2)) if count > 1 else cols  # an even number, for two or four threads
    tall = max(1, cells // (rows * cols)) if width == cols else 1
    return [
        (slice(g, min(g + tall, groups)), slice(m, min(m + width, cols)))
        for g in range(0, groups, tall)
        for m in range(0, cols, width)
    ]


def taken(posed: Posed, groups: slice | Array, cols: slice | Array) -> Posed:
    """Some groups and columns as a problem of their own, one of the two as a slice.

    Of slices nothing is copied but the weights.
    """
    return replace(
        posed,
        weight=posed.xp.ascontiguousarray(posed.weight[groups, cols]),
        exponent=posed.exponent[groups, cols],
        gram=posed.gram[groups],
        level=posed.level[groups],
        live=posed.live[groups],
    )


def by_pieces(posed: Posed, engine: Engine, solve: Callable[[Posed, slice], Answer]) -> Answer:
    """The answers of ``solve(part, groups)`` for all pieces, put together array by array."""
    todo = pieces(posed, engine.cells)
    answers = list(engine.map(lambda piece: solve(taken(posed, *piece), piece[0]), todo))
    if len(todo) == 1:
        return answers[0]
    return tuple(_assembled(posed, todo, parts) for parts in zip(*answers, strict=True))


def _assembled(posed: Posed, places: list[Piece], parts: tuple[Array | None, ...]) -> Array | None:
    """``(G, M, ...)`` from what the pieces have of it."""
    first = parts[0]
    if first is None:
        return None
    whole = posed.xp.empty((*posed.weight.shape[:2], *first.shape[2:]), first.dtype)
    for place, part in zip(places, parts, strict=True):
        whole[place] = part
    return whole


def column_losses(posed: Posed, error: Array) -> Array:
    """``(G, M)`` float64: ``e^T gram e`` of every column of `error` ``(G, M, K)``."""
    return (error * (error @ posed.gram)).sum(axis=2, dtype=np.float64)
