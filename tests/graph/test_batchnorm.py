import numpy as np
import pytest
from graph.preparing import check, model, norm, ops, rand

from comq_onnx.graph.io import load
from comq_onnx.graph.prepare import prepare


@pytest.mark.parametrize("opset", [7, 9, 14, 15, 21])
@pytest.mark.parametrize("bias", ["", ", b"])
def test_batchnorm_goes_into_conv(opset, bias, same):
    proto = model(
        f"c = Conv <group = 2> (x, w{bias}) y = BatchNormalization <epsilon = 0.01> (c, s, o, m, v)",
        "float[1, 4, 5, 5] x",
        "float[1, 6, 3, 3] y",
        opset,
        w=rand(6, 2, 3, 3),
        **({"b": rand(6)} if bias else {}),
        **norm(6),
    )
    assert ops(check(proto, {"x": rand(1, 4, 5, 5)}, same)) == ["Conv"]


@pytest.mark.parametrize("group", [1, 3])
def test_batchnorm_goes_into_conv_transpose(group, same):
    proto = model(
        f"c = ConvTranspose <group = {group}> (x, w) y = BatchNormalization (c, s, o, m, v)",
        "float[1, 6, 4] x",
        f"float[1, {2 * group}, 6] y",
        w=rand(6, 2, 3),
        **norm(2 * group),
    )
    assert ops(check(proto, {"x": rand(1, 6, 4)}, same)) == ["ConvTranspose"]


@pytest.mark.parametrize("c", [(3,), (1, 3), (1,), ()])
def test_batchnorm_goes_into_gemm(c, same):
    proto = model(
        "h = Gemm <transB = 1> (x, w, b) y = BatchNormalization (h, s, o, m, v)",
        "float[2, 4] x",
        "float[2, 3] y",
        w=rand(3, 4),
        b=rand(*c),
        **norm(3),
    )
    assert ops(check(proto, {"x": rand(2, 4)}, same)) == ["Gemm"]


@pytest.mark.parametrize(
    ("body", "outputs", "weights"),
    [
        (
            "c = Conv(x, w) y = BatchNormalization(c, s, o, m, v) z = Relu(c)",
            "float[n, 3, 1] y, float[n, 3, 1] z",
            {},
        ),
        ("c = Conv(x, w) y = BatchNormalization(c, s, o, m, v)", "float[n, 3, 1] y, float[n, 3, 1] c", {}),
        ("c = Conv(x, w) y = BatchNormalization(c, s2, o, m, v)", "float[n, 3, 1] y", {}),
        ("w2 = Relu(w) c = Conv(x, w2) y = BatchNormalization(c, s, o, m, v)", "float[n, 3, 1] y", {}),
    ],
    ids=["two readers", "graph output", "computed scale", "computed weight"],
)
def test_batchnorm_stays_where_it_cannot_be_folded(body, outputs, weights, same):
    proto = model(body, "float[n, 4, 2] x, float[3] s2", outputs, w=rand(3, 4, 2), **norm(3))
    feeds = {"x": rand(2, 4, 2), "s2": rand(3)}
    assert "BatchNormalization" in ops(check(proto, feeds, same))


def test_batchnorm_in_training_mode_stays():
    proto = model(
        "c = Conv(x, w) y, rm, rv = BatchNormalization <training_mode = 1> (c, s, o, m, v)",
        "float[2, 4, 2] x",
        "float[2, 3, 1] y",
        w=rand(3, 4, 2),
        **norm(3),
    )
    assert "BatchNormalization" in ops(prepare(load(proto), 0))


def test_batchnorm_that_overflows_half_precision_stays():
    parameters = {name: value.astype(np.float16) for name, value in norm(3).items()}
    parameters["s"] = np.full(3, 60000, np.float16)
    proto = model(
        "c = Conv(x, w) y = BatchNormalization(c, s, o, m, v)",
        "float16[2, 4, 2] x",
        "float16[2, 3, 1] y",
        w=np.full((3, 4, 2), 30, np.float16),
        **parameters,
    )
    assert "BatchNormalization" in ops(prepare(load(proto), 0))


def test_a_conv_weight_shared_with_another_conv_is_folded_for_one_only(same):
    proto = model(
        "c = Conv(x, w, b) y = BatchNormalization(c, s, o, m, v) z = Conv(x, w, b)",
        "float[2, 4, 2] x",
        "float[2, 3, 1] y, float[2, 3, 1] z",
        w=rand(3, 4, 2),
        b=rand(3),
        **norm(3),
    )
    assert ops(check(proto, {"x": rand(2, 4, 2)}, same)) == ["Conv", "Conv"]
