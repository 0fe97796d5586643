"""Patches times rows is the convolution, for every geometry: against onnxruntime and the onnx reference."""

import math
from itertools import product

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from comq_onnx.errors import ComqError
from comq_onnx.graph.layout import layout_of, to_rows
from comq_onnx.records import ConvGeometry
from comq_onnx.run.session import open_session
from comq_onnx.stats.patches import output_size, patches, sample_positions


def conv_model(geometry: ConvGeometry, x: np.ndarray, weight: np.ndarray) -> onnx.ModelProto:
    attributes = {
        "strides": geometry.strides,
        "dilations": geometry.dilations,
        "group": geometry.group,
        "auto_pad": geometry.auto_pad,
        "kernel_shape": geometry.kernel,
    }
    if geometry.auto_pad == "NOTSET":
        attributes["pads"] = geometry.pads
    if geometry.output_padding:
        attributes["output_padding"] = geometry.output_padding
    if geometry.output_shape:
        attributes["output_shape"] = geometry.output_shape
    node = helper.make_node(
        "ConvTranspose" if geometry.transposed else "Conv", ["x", "w"], ["y"], **attributes
    )
    graph = helper.make_graph(
        [node],
        "conv",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def by_patches(
    geometry: ConvGeometry, image: np.ndarray, weight: np.ndarray, positions: np.ndarray
) -> np.ndarray:
    kind = "conv_transpose" if geometry.transposed else "conv"
    rows = to_rows(weight, layout_of(kind, weight.shape, geometry.group))
    got = patches(image, geometry, positions)
    assert got.shape == (geometry.group, len(positions), rows.shape[1])
    return (got @ rows).swapaxes(1, 2).reshape(-1, len(positions))


def check(geometry: ConvGeometry, spatial: tuple[int, ...], channels: int = 4, out: int = 6) -> None:
    rng = np.random.default_rng(0)
    shape = (channels, out // geometry.group) if geometry.transposed else (out, channels // geometry.group)
    weight = rng.standard_normal((*shape, *geometry.kernel)).astype(np.float32)
    x = rng.standard_normal((2, channels, *spatial)).astype(np.float32)
    want = open_session(conv_model(geometry, x, weight)).run({"x": x})["y"]
    assert output_size(spatial, geometry) == want.shape[2:]
    total = math.prod(want.shape[2:])
    everywhere = np.arange(total)
    for image, y in zip(x, want, strict=True):
        assert np.allclose(by_patches(geometry, image, weight, everywhere), y.reshape(out, -1), atol=1e-4)
    some = sample_positions(total, 3, "layer", 0, 5)
    assert np.allclose(by_patches(geometry, x[0], weight, some), want[0].reshape(out, -1)[:, some], atol=1e-4)


@pytest.mark.parametrize("auto_pad", ["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("group", [1, 2])
def test_conv_2d(auto_pad, group):
    # The runtime has no dilation with SAME padding.
    for strides, dilations in product([(1, 1), (2, 3)], [(1, 1), (2, 1)][: 1 if "SAME" in auto_pad else 2]):
        check(ConvGeometry((3, 2), strides, dilations, (1, 0, 2, 1), auto_pad, group), (9, 8))


@pytest.mark.parametrize("auto_pad", ["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"])
def test_conv_1d_and_3d(auto_pad):
    check(ConvGeometry((5,), (2,), (1,), (2, 1), auto_pad, 1), (17,))
    dilations = (1, 1, 1) if "SAME" in auto_pad else (1, 1, 2)
    check(ConvGeometry((2, 3, 2), (1, 2, 1), dilations, (1, 0, 1, 0, 2, 1), auto_pad, 2), (4, 5, 6))


def test_depthwise_and_multiplied_depthwise():
    check(ConvGeometry((3, 3), (2, 2), (1, 1), (1, 1, 1, 1), "NOTSET", 6), (7, 7), channels=6)
    check(ConvGeometry((3, 3), (1, 1), (1, 1), (1, 1, 1, 1), "NOTSET", 3), (7, 7), channels=3)
    check(ConvGeometry((3, 3), (2, 2), (1, 1), (0, 0, 0, 0), "NOTSET", 6, True), (4, 4), channels=6)


def test_pointwise():
    check(ConvGeometry((1, 1), (1, 1), (1, 1), (0, 0, 0, 0), "NOTSET", 1), (5, 4))
    check(ConvGeometry((1, 1), (2, 2), (1, 1), (0, 0, 0, 0), "NOTSET", 2), (5, 4))


TRANSPOSED_2D = list(
    product(
        ["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"],
        [(1, 1), (2, 2), (3, 2), (2, 3)],
        [(1, 1), (2, 1)],
        [(), (1, 0)],
        ["", "smaller", "whole", "larger"],
    )
)


@pytest.mark.parametrize("group", [1, 2])
def test_conv_transpose_2d(group):
    """Every combination that the runtime accepts: it refuses paddings that no input reaches."""
    accepted = 0
    for auto_pad, strides, dilations, padding, shape in TRANSPOSED_2D:
        whole = [
            (n - 1) * s + (k - 1) * d + 1
            for n, s, k, d in zip((5, 4), strides, (3, 2), dilations, strict=True)
        ]
        wanted = tuple(w + {"smaller": -1, "whole": 0, "larger": 1}[shape] for w in whole) if shape else ()
        geometry = ConvGeometry(
            (3, 2), strides, dilations, (1, 0, 0, 1), auto_pad, group, True, padding, wanted
        )
        try:
            check(geometry, (5, 4))
        except ComqError:
            continue
        accepted += 1
    assert accepted > 200


def test_conv_transpose_1d_and_3d():
    check(ConvGeometry((4,), (3,), (1,), (1, 2), "NOTSET", 2, True, (1,)), (6,))
    check(ConvGeometry((2, 3, 2), (2, 1, 2), (1, 2, 1), (0, 1, 0, 1, 0, 0), "NOTSET", 1, True), (3, 4, 2))


@pytest.mark.parametrize("transposed", [False, True])
def test_the_onnx_reference_agrees(transposed):
    rng = np.random.default_rng(0)
    # The reference's ConvTranspose does not know groups.
    geometry = ConvGeometry(
        (3, 3), (2, 2), (1, 1), (1, 0, 1, 1), "NOTSET", 1 if transposed else 2, transposed
    )
    weight = rng.standard_normal((4, 4 if transposed else 2, 3, 3)).astype(np.float32)
    x = rng.standard_normal((1, 4, 6, 5)).astype(np.float32)
    want = ReferenceEvaluator(conv_model(geometry, x, weight)).run(None, {"x": x})[0][0]
    positions = np.arange(math.prod(want.shape[1:]))
    assert np.allclose(by_patches(geometry, x[0], weight, positions), want.reshape(4, -1), atol=1e-4)


def test_positions_are_chosen_by_seed_name_and_sample():
    chosen = sample_positions(10_000, 0, "conv", 7, 256)
    assert len(set(chosen.tolist())) == 256
    assert (np.diff(chosen) > 0).all()
    assert chosen[0] >= 0
    assert chosen[-1] < 10_000
    assert np.array_equal(chosen, sample_positions(10_000, 0, "conv", 7, 256))
    for other in ((1, "conv", 7), (0, "conv2", 7), (0, "conv", 8)):
        assert not np.array_equal(chosen, sample_positions(10_000, *other, 256))


def test_a_small_map_is_seen_whole():
    assert sample_positions(49, 0, "conv", 0).tolist() == list(range(49))
    assert sample_positions(0, 0, "conv", 0).tolist() == []


def test_an_empty_image_gives_padding_only():
    geometry = ConvGeometry((2, 2), (1, 1), (1, 1), (1, 1, 1, 1), "NOTSET", 1)
    got = patches(np.zeros((3, 0, 4), np.float32), geometry, np.arange(5))
    assert got.shape == (1, 5, 12)
    assert not got.any()
