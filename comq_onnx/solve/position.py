"""A bias for each position of a layer's output, as far as samples held out bear it out.

The bias that compensates best is the mean of ``y - y'`` (Bias Compensation, arXiv 2404.01892). Over all
positions together it is the channel's, for each position apart it has as many numbers as a sample of the
output, and from few samples that is mostly noise. So it is drawn towards the channel's bias:
``b = b_channel + s (b_position - b_channel)``.
"""

import numpy as np

LEAST = 0.1
"""A smaller s is taken for noise: it is not worth the bytes of a tensor."""


ROUNDING = 1e-12
"""Of the means' energy: positions that differ by less do so by rounding."""


def share(first: np.ndarray, second: np.ndarray) -> float:
    """The s in [0, 1] for the mean over all samples, by two means over halves of them, of the same shape.

    With a bias ``s d1`` from the first half, the error on the second changes by ``s^2 |d1|^2 - 2 s d1.d2``,
    and the other way about: the sum is least at ``s = 2 d1.d2 / (|d1|^2 + |d2|^2)``. The mean of all samples
    has half the noise of either, which makes it ``2 s / (1 + s)``, the formula of Spearman and Brown. Means
    that do not agree give 0.
    """
    energy = float(np.vdot(first, first) + np.vdot(second, second))
    if energy <= 0:
        return 0.0
    judged = min(1.0, max(0.0, 2 * float(np.vdot(first, second)) / energy))
    return 2 * judged / (1 + judged)


def position_part(
    halves: tuple[np.ndarray, np.ndarray], sizes: tuple[int, int], channel: np.ndarray
) -> tuple[np.ndarray, float]:
    """What is added to the channel bias at each position, and s; zero where s is below `LEAST`.

    `halves` are the means of ``y - y'`` over the first and the second half of the samples, without channel
    bias, in the shape of the output without its batch axis; `sizes` are how many samples each has. `channel`
    is the channel bias as it is added to the output: axes of size 1, or that it lacks, are positions.
    """
    shape = halves[0].shape
    channel = channel.reshape((1,) * (len(shape) - channel.ndim) + channel.shape)
    places = tuple(axis for axis, size in enumerate(channel.shape) if size == 1)
    first, second = (half - half.mean(axis=places, keepdims=True) for half in halves)
    s = share(first, second)
    energy = sum(float(np.vdot(half, half)) for half in halves)
    if s < LEAST or float(np.vdot(first, first) + np.vdot(second, second)) <= ROUNDING * energy:
        return np.zeros(shape), 0.0
    whole = np.average(np.stack(halves), axis=0, weights=sizes)
    return s * (whole - channel), s
