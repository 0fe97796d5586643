"""How hard the default solver tries, by the names that users know."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Settings:
    """What one level of effort does to each column.

    Judged on MiniLM's MatMuls and sentences that no benchmark reports.
    """

    rounds: tuple[tuple[float, ...], ...]
    """Per round, factors on the best scale so far, each of which starts one rounding with feedback"""
    kicks: int
    """Tries of the local search that follows"""
    spectrum: bool = False
    """Whether the Gram's eigenvalues are taken from samples held out, instead of one damping for all"""
    sweeps: int = 10
    """Most sweeps of a start; a column that no longer moves is left alone"""
    guarded: bool = True
    """Whether a column that rounding to nearest serves better is rounded"""


DEPTH = 4
"""Rows moved by one kick."""
MANY_STARTS = ((1.0, 0.95, 0.9, 0.85), (0.96, 0.98, 1.02, 1.04), (0.985, 0.99, 1.005, 1.01))
EFFORTS = {
    "fast": Settings(rounds=((1.0,),), kicks=0),
    "normal": Settings(rounds=((1.0, 0.93),), kicks=32),
    "max": Settings(rounds=MANY_STARTS, kicks=360, spectrum=True),
}
SHORT_ROWS = 64
"""Columns up to this long cost next to nothing: at ``normal`` too all starts are tried."""
SPECTRUM_ROWS = 2048
"""Longest columns whose Gram is decomposed: the work grows as the cube and is slow work."""


def settings_for(effort: str, rows: int) -> Settings:
    """What is done to a column of `rows` rows."""
    chosen = EFFORTS[effort]
    if effort == "normal" and rows <= SHORT_ROWS:
        return replace(chosen, rounds=MANY_STARTS)
    return replace(chosen, spectrum=chosen.spectrum and rows <= SPECTRUM_ROWS)
