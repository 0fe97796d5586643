"""Deep nets of random weights, in which errors of one layer reach the next, and samples for them."""

import numpy as np
import onnx
from graphs import model, weight


def deep(layers: int = 6, width: int = 24, seed: int = 0) -> onnx.ModelProto:
    """Residual blocks ``x + f(x)``."""
    lines, weights, at = [], {}, "x"
    for i in range(layers):
        weights[f"w{i}"] = weight(width, width, seed=100 * seed + i) * np.float32(1.4)
        weights[f"b{i}"] = weight(width, seed=100 * seed + 50 + i)
        lines.append(f"m{i} = MatMul({at}, w{i}) a{i} = Add(m{i}, b{i})")
        lines.append(f"r{i} = Tanh(a{i}) s{i} = Add(r{i}, {at})")
        at = f"s{i}"
    weights["out"] = weight(width, 8, seed=100 * seed + 99)
    text = f"g (float[N,{width}] x) => (float[N,8] y) {{ {' '.join(lines)} y = MatMul({at}, out) }}"
    return model(text, **weights)


def cnn(seed: int = 0) -> onnx.ModelProto:
    def conv(out: int, into: int, number: int) -> np.ndarray:
        return weight(9 * into, out, seed=10 * seed + number).T.reshape(out, into, 3, 3) * np.float32(1.4)

    return model(
        """g (float[N,3,10,10] x) => (float[N,8] y) {
        c1 = Conv<pads=[1,1,1,1]>(x, w1) r1 = Relu(c1) c2 = Conv<pads=[1,1,1,1]>(r1, w2) r2 = Relu(c2)
        c3 = Conv<pads=[1,1,1,1], group=12>(r2, w3) r3 = Relu(c3)
        c4 = Conv<pads=[1,1,1,1]>(r3, w4) r4 = Relu(c4)
        c5 = Conv<pads=[1,1,1,1]>(r4, w5) r5 = Relu(c5) p = GlobalAveragePool(r5) f = Flatten(p)
        y = MatMul(f, w6) }""",
        w1=conv(12, 3, 1),
        w2=conv(12, 12, 2),
        w3=conv(12, 1, 3),
        w4=conv(12, 12, 4),
        w5=conv(12, 12, 5),
        w6=weight(12, 8, seed=10 * seed + 6),
    )


def samples(proto: onnx.ModelProto, count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Correlated along the last axis, and not centred."""
    shape = [dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim[1:]]
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(77).standard_normal((shape[-1], shape[-1])) / np.sqrt(shape[-1])
    return {"x": (rng.standard_normal((count, *shape)) @ mix + 0.2).astype(np.float32)}
