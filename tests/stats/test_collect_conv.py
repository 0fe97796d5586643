"""Convolutions, against all patches written out."""

import numpy as np
import pytest
from stats.collecting import activation, agrees, conv_net, gaussian, model_of, run

from comq_onnx.stats.taps import ROWS_AT_LEAST, ROWS_PER_INPUT


def im2col(x: np.ndarray, kernel: int, stride: int, pad: int) -> np.ndarray:
    """All patches of a batch, written out: ``(n * positions, channels, kernel * kernel)``."""
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    rows = []
    for image in x:
        for i in range(0, x.shape[2] - kernel + 1, stride):
            for j in range(0, x.shape[3] - kernel + 1, stride):
                rows.append(image[:, i : i + kernel, j : j + kernel].reshape(len(image), -1))
    return np.array(rows)


def test_two_runs_give_the_same_bits():
    proto = conv_net()
    x = gaussian(3, 4, 40, 40)
    one, other = run(proto, {"x": x})[0], run(proto, {"x": x})[0]
    for name, stats in one.stats.items():
        assert np.array_equal(stats.gram, other.stats[name].gram)


def test_convolutions_seen_whole():
    x = gaussian(3, 4, 12, 12) + 1
    collected, layers = run(conv_net(), {"x": x})
    full, depth, point = (collected.stats[layer.name] for layer in layers)
    assert agrees(full, im2col(x, 3, 2, 1).reshape(1, -1, 36))
    middle = im2col(activation(conv_net(), "r", x=x), 3, 1, 1)
    assert depth.gram.shape == (8, 9, 9)
    assert agrees(depth, middle.transpose(1, 0, 2))
    last = activation(conv_net(), "d", x=x)
    assert agrees(point, last.transpose(0, 2, 3, 1).reshape(1, -1, 8))


def test_convolutions_subsampled():
    smooth = np.cumsum(np.cumsum(gaussian(24, 4, 80, 80), axis=2), axis=3) / 80
    collected, layers = run(conv_net(), {"x": smooth})
    stats = collected.stats[layers[0].name]
    assert stats.count == 24 * -(-ROWS_AT_LEAST // 24)
    rows = im2col(smooth, 3, 2, 1).reshape(-1, 36).astype(np.float64)
    want = rows.T @ rows / len(rows)
    assert np.linalg.norm(stats.gram[0] - want) < 0.05 * np.linalg.norm(want)
    other = run(conv_net(), {"x": smooth}, seed=1)[0].stats[layers[0].name]
    assert not np.array_equal(stats.gram, other.gram)


@pytest.mark.parametrize(("channels", "wanted"), [(4, ROWS_AT_LEAST), (24, ROWS_PER_INPUT * 600)])
def test_few_samples_are_looked_at_more_closely(channels: int, wanted: int) -> None:
    proto = model_of(
        f"g (float[N, {channels}, H, W] x) => (float[N, 8, A, B] y) {{ y = Conv(x, w) }}",
        w=gaussian(8, channels, 5, 5),
    )
    collected, layers = run(proto, {"x": gaussian(1, channels, 104, 104)})
    assert collected.stats[layers[0].name].count == wanted


def test_large_convolutions_may_be_looked_at_in_some_samples_alone() -> None:
    large = gaussian(7, 4, 40, 40) + 1
    collected, layers = run(conv_net(), {"x": large}, thin=3)
    full, depth, _ = (collected.stats[layer.name] for layer in layers)
    assert agrees(full, im2col(large[::3], 3, 2, 1).reshape(1, -1, 36))
    assert agrees(depth, im2col(activation(conv_net(), "r", x=large)[::3], 3, 1, 1).transpose(1, 0, 2))
    small = gaussian(7, 4, 12, 12) + 1
    collected, layers = run(conv_net(), {"x": small}, thin=3)
    assert agrees(collected.stats[layers[0].name], im2col(small, 3, 2, 1).reshape(1, -1, 36))


def test_conv_transpose():
    x = gaussian(2, 4, 5, 6)
    proto = model_of(
        """g (float[N, 4, 5, 6] x) => (float[N, 6, A, B] y)
        { y = ConvTranspose<strides = [2, 2], group = 2>(x, w) }""",
        w=gaussian(4, 3, 3, 3),
    )
    collected, layers = run(proto, {"x": x})
    stats = collected.stats[layers[0].name]
    zeros = np.zeros((2, 4, 9, 11), np.float32)
    zeros[:, :, ::2, ::2] = x
    patches = im2col(zeros, 3, 1, 2)[..., ::-1].reshape(-1, 2, 18)
    assert agrees(stats, patches.transpose(1, 0, 2))
