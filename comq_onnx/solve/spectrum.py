"""Eigenvalues of a Gram matrix corrected on samples held out.

The eigenvalues of a Gram from few samples are spread too far: the small ones are too small, and codes that
lean on them do not carry over. The eigenvectors of one half of the samples, with the variances that the other
half has along them, make an estimate without that bias; the mean of the two ways round is taken (NERCOME:
Lam, Annals of Statistics 44, 2016; `halves` are whole samples, so correlated rows do no harm).
"""

from typing import Any

from comq_onnx.backends.protocol import Array
from comq_onnx.moments import halves
from comq_onnx.records import InputStats
from comq_onnx.solve.pose import Posed, second_moment

FLOOR = 1e-4
"""Damping that is left to add, as a part of mean(diag)."""


def estimated(stats: InputStats, posed: Posed, centred: bool) -> Array:
    """The estimate ``(G, K, K)`` in the units of ``posed.gram``."""
    xp = posed.xp
    first, second = halves(stats, xp)
    total = _along(first, second, centred, xp) + _along(second, first, centred, xp)
    live = posed.live[:, :, None] & posed.live[:, None, :]
    level = xp.where(posed.level > 0, posed.level, 1)
    total = (total + total.swapaxes(1, 2)) * live / (4 * level[:, None, None])
    return xp.ascontiguousarray(total.astype(posed.gram.dtype))


def _along(vectors: InputStats, values: InputStats, centred: bool, xp: Any) -> Array:
    """Eigenvectors of one part, variances of another about the first one's mean, ``(G, K, K)``."""
    basis = xp.stack([xp.linalg.eigh(gram)[1] for gram in second_moment(vectors, centred, xp)])
    variance = (basis * (xp.asarray(values.gram) @ basis)).sum(axis=1)
    if centred:
        seen, unseen = ((basis * xp.asarray(part.mean)[:, :, None]).sum(axis=1) for part in (vectors, values))
        variance = variance + seen * seen - 2 * seen * unseen
    return (basis * variance[:, None, :]) @ basis.swapaxes(1, 2)
