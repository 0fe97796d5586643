"""The checks on a written file pass on a good one and catch each way to spoil it."""

import math

import numpy as np
import onnx
import onnx.reference
import pytest
from graphs import model, weight
from onnx import numpy_helper
from targets.layer_cases import CASES, DTYPES, loaded, solve_nearest

from comq_onnx.evaluate.agreement import check_agreement, deviation
from comq_onnx.evaluate.parity import ROUNDED_LIMIT, Limits
from comq_onnx.evaluate.readback import WrittenFile
from comq_onnx.evaluate.runs import Ran
from comq_onnx.evaluate.verify import check_optimized, deployed_limit, fidelity, large_dequantize, verify
from comq_onnx.graph.io import load, to_proto
from comq_onnx.graph.layout import layout_of
from comq_onnx.grid import Grid
from comq_onnx.recipe import Recipe
from comq_onnx.records import ConvGeometry, Layer
from comq_onnx.run.data import Calibration
from comq_onnx.targets import TARGETS

NET = """
g (float[B, 8, 6, 6] x) => (float[B, 32] y, int64[B, 1] top) {
  c = Conv<kernel_shape = [3, 3]>(x, W)
  r = Relu(c)
  f = Flatten(r)
  y = MatMul(f, V)
  top = ArgMax<axis = 1>(y)
}"""
NAMES = ["valid ONNX", "codes = solution", "rules of target portable", "runs in onnxruntime", "weights fused"]
NAMES += ["optimised = unoptimised, exact", "optimised = unoptimised, as deployed"]


def calibration(dtype=np.float32):
    rng = np.random.default_rng(0)
    batches = [{"x": rng.standard_normal((3, 8, 6, 6)).astype(dtype)} for _ in range(6)]
    return Calibration("test", 18, False, 6, lambda: iter(batches))


def written(tmp_path, text=NET, recipe=None, dtype="float32", grid=None, opset=22):
    """Path, float model, layers and solutions of a small network."""
    shapes = {"W": (64, 8, 3, 3), "V": (1024, 32)}
    values = {n: weight(*s, seed=len(s)).astype(DTYPES[dtype]) for n, s in shapes.items()}
    proto = model(text.replace("float", dtype if dtype != "float32" else "float"), opset, 10, **values)
    source = load(proto)
    source.graph.nodes[0].name, source.graph.nodes[3].name = "conv", "fc"
    geometry = ConvGeometry((3, 3), (1, 1), (1, 1), (0, 0, 0, 0), "NOTSET", 1)
    layers = [
        Layer("conv", "Conv", "W", "x", "c", layout_of("conv", shapes["W"]), dtype, geometry),
        Layer("fc", "MatMul", "V", "f", "y", layout_of("matmul", shapes["V"]), dtype),
    ]
    grids = {"conv": Grid((grid or Grid(4)).bits, (grid or Grid(4)).symmetric), "fc": grid or Grid(4)}
    solutions = {la.name: solve_nearest(values[la.weight], la, grids[la.name]) for la in layers}
    TARGETS["portable"].rewrite(source, layers, solutions, recipe or Recipe(size_first=True))
    path = tmp_path / "q.onnx"
    path.write_bytes(to_proto(source).SerializeToString())
    return path, proto, layers, solutions


def failed(verification):
    return [check.name for check in verification.checks if not check.ok]


def check(path, proto, layers, solutions, data=None):
    return verify(path, proto, layers, solutions, data or calibration(), Recipe())


def respoil(path, change):
    proto = onnx.load(path)
    change(proto)
    path.write_bytes(proto.SerializeToString())


@pytest.mark.parametrize("grid", [Grid(4), Grid(4, False, "block", 32), Grid(8), Grid(2)], ids=str)
def test_a_good_file_passes_every_check(tmp_path, grid):
    made = written(tmp_path, grid=grid)
    result = check(*made)
    assert [c.name for c in result.checks] == NAMES
    assert failed(result) == []
    assert result.ok
    assert all(c.detail for c in result.checks)


@pytest.mark.openvino
def test_a_portable_file_is_run_in_openvino(tmp_path):
    pytest.importorskip("openvino")
    made = written(tmp_path)
    result = check(*made)
    assert [c.name for c in result.checks[len(NAMES) :]] == [
        "OpenVINO = onnxruntime, exact",
        "OpenVINO = onnxruntime, as deployed",
    ]
    assert failed(result) == []


@pytest.mark.openvino
def test_a_bfloat16_file_is_not_looked_at_elsewhere(tmp_path):
    text = NET.replace("int64[B, 1] top", "float[B, 32] top").replace("ArgMax<axis = 1>", "Relu")
    last = check(*written(tmp_path, text, dtype="bfloat16")).checks[-1]
    assert (last.name, last.ok) == ("OpenVINO", True)
    assert last.detail.startswith("not looked at: ")


def test_fidelity_is_measured_against_the_float_model(tmp_path):
    path, proto, layers, solutions = written(tmp_path)
    sqnr, agreement = check(path, proto, layers, solutions).fidelity
    assert (sqnr.output, agreement.output) == ("y", "top")
    reference, quantized = (onnx.reference.ReferenceEvaluator(p) for p in (proto, onnx.load(path)))
    signal = noise = equal = 0.0
    for feeds in list(calibration().batches())[:4]:
        (y, top), (z, tip) = reference.run(None, feeds), quantized.run(None, feeds)
        signal, noise, equal = signal + np.sum(y**2), noise + np.sum((y - z) ** 2), equal + np.sum(top == tip)
    assert sqnr.sqnr_db == pytest.approx(10 * math.log10(signal / noise), abs=0.01)
    assert agreement.agreement == pytest.approx(equal / 12)
    assert sqnr.agreement is agreement.sqnr_db is None


def test_a_model_on_the_disk_serves_as_reference(tmp_path):
    path, proto, layers, solutions = written(tmp_path)
    onnx.save(proto, tmp_path / "float.onnx")
    assert check(path, tmp_path / "float.onnx", layers, solutions) == check(path, proto, layers, solutions)


@pytest.mark.parametrize("name", ["W_quantized", "V_quantized"])
def test_one_other_code_is_seen(tmp_path, name):
    made = written(tmp_path)

    def flip(proto):
        tensor = next(t for t in proto.graph.initializer if t.name == name)
        tensor.raw_data = tensor.raw_data[:-1] + bytes([tensor.raw_data[-1] ^ 0x10])

    respoil(made[0], flip)
    result = check(*made)
    assert failed(result) == ["codes = solution"]
    assert next(c for c in result.checks if not c.ok).fatal


@pytest.mark.parametrize("name", ["W_scale", "V_scale", "W_zero_point", "V_zero_point"])
def test_another_scale_or_zero_point_is_seen(tmp_path, name):
    made = written(tmp_path, grid=Grid(8, False))

    def change(proto):
        tensor = next(t for t in proto.graph.initializer if t.name == name)
        values = numpy_helper.to_array(tensor).copy()
        values.flat[3] += 1
        tensor.CopyFrom(numpy_helper.from_array(values, name))

    respoil(made[0], change)
    assert "codes = solution" in failed(check(*made))


def test_a_damaged_file_is_reported_and_nothing_else_is_tried(tmp_path):
    made = written(tmp_path)
    respoil(made[0], lambda proto: proto.graph.node[-1].input.append("nowhere"))
    result = check(*made)
    assert failed(result) == ["valid ONNX"]
    assert len(result.checks) == 1
    assert result.checks[0].fatal


def test_a_file_that_does_not_load_is_reported(tmp_path):
    made = written(tmp_path)

    def foreign(proto):
        proto.opset_import.add(domain="nobody", version=1)
        proto.graph.node[-1].domain = "nobody"

    respoil(made[0], foreign)
    result = check(*made)
    assert failed(result) == ["runs in onnxruntime"]
    assert result.checks[-1].fatal


def test_a_weight_that_is_recomputed_is_reported(tmp_path):
    made = written(tmp_path)

    def negative_axis(proto):
        linear = next(n for n in proto.graph.node if n.op_type == "DequantizeLinear")
        next(a for a in linear.attribute if a.name == "axis").i = -2

    respoil(made[0], negative_axis)
    result = check(*made)
    assert failed(result) == ["rules of target portable", "weights fused"]
    assert "V_quantized" in next(c for c in result.checks if c.name == "weights fused").detail


def test_a_dequantize_linear_that_was_asked_for_is_not_a_fault(tmp_path):
    result = check(*written(tmp_path, recipe=Recipe(weight_form="dq")))
    assert result.ok
    assert "--weight-form dq" in next(c for c in result.checks if c.name == "weights fused").detail


def test_half_precision(tmp_path):
    made = written(tmp_path, dtype="float16")
    result = check(*made, calibration(np.float16))
    assert failed(result) == []
    assert result.fidelity[0].sqnr_db > 10


@pytest.mark.openvino
def test_half_precision_in_openvino(tmp_path):
    pytest.importorskip("openvino")
    assert failed(check(*written(tmp_path, dtype="float16"), calibration(np.float16))) == []


def test_bfloat16_is_run_in_float32(tmp_path):
    text = NET.replace("int64[B, 1] top", "float[B, 32] top").replace("ArgMax<axis = 1>", "Relu")
    result = check(*written(tmp_path, text, dtype="bfloat16"))
    assert failed(result) == []
    assert "float32 form" in next(c for c in result.checks if c.name == "runs in onnxruntime").detail


@pytest.mark.parametrize("grid", [Grid(4), Grid(8, False), Grid(4, True, "block", 32)], ids=str)
@pytest.mark.parametrize("kind", CASES)
def test_every_form_is_read_back(kind, grid):
    case, layer = CASES[kind], CASES[kind].layer()
    if layer.layout.rows % 32:
        grid = Grid(grid.bits, grid.symmetric)
    solution = solve_nearest(case.weight(), layer, grid)
    source = loaded(case, 21)
    TARGETS["portable"].rewrite(source, [layer], {"n": solution}, Recipe())
    read = WrittenFile(to_proto(source)).weight(layer)
    assert read.initializer == "W_quantized"
    assert read.codes is not None
    step = float(solution.scale.max())
    assert np.abs(read.values - case.weight()).max() <= step * (1 if grid.symmetric else 1.5)


def test_a_float_weight_is_not_taken_for_a_solution(tmp_path):
    path, proto, layers, solutions = written(tmp_path)
    respoil(path, lambda p: p.CopyFrom(proto))
    respoil(
        path, lambda p: (setattr(p.graph.node[0], "name", "conv"), setattr(p.graph.node[3], "name", "fc"))
    )
    assert failed(check(path, proto, layers, solutions)) == ["codes = solution"]
    respoil(path, lambda p: setattr(p.graph.node[0], "name", "other"))
    assert (
        "conv: the node is not in the written file" in check(path, proto, layers, solutions).checks[1].detail
    )


def one(values):
    return [{"y": np.asarray(values)}]


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ([3.0, 4.0], [3.0, 4.0], 0.0),
        ([3.0, 4.0], [3.0, 4.5], 0.1),
        ([0.0, 0.0], [0.0, 1e-9], math.inf),
        ([np.nan, 1.0, np.inf], [np.nan, 1.0, np.inf], 0.0),
        ([np.nan, 1.0], [2.0, 1.0], math.inf),
        ([1.0, 2.0], [1.0, 2.0, 3.0], math.inf),
        ([1, 2, 3, 4], [1, 2, 3, 5], 0.25),
        ([True, False], [True, False], 0.0),
    ],
)
def test_deviation(left, right, expected):
    assert deviation(one(left), one(right), "y") == pytest.approx(expected)


def test_agreement_names_the_output_that_deviates():
    found = check_agreement("c", one([3.0, 4.0]), one([3.0, 4.5]), 0.01)
    assert not found.ok
    assert found.detail == "'y' deviates by 0.1"
    assert check_agreement("c", one([3.0, 4.0]), one([3.0, 4.5]), 0.2).ok


def test_fidelity_of_outputs_whose_shapes_differ_is_unknown():
    (line,) = fidelity(one([1.0, 2.0]), one([1.0]))
    assert line.sqnr_db is line.agreement is None


def test_the_deployed_limit_grows_with_the_root_of_the_fused_layers():
    layer = CASES["matmul"].layer()
    assert deployed_limit([layer] * 4) == deployed_limit([CASES["conv"].layer()] * 99) == 0.02
    assert deployed_limit([layer] * 36) == pytest.approx(0.06)


def test_samples_that_the_float_model_refuses_are_told_from_a_bad_file(tmp_path):
    short = Calibration("short", 1, False, 1, lambda: iter([{"x": np.zeros((1, 8, 5, 5), np.float32)}]))
    result = check(*written(tmp_path), short)
    assert failed(result) == ["the float model runs"]


@pytest.mark.parametrize(
    ("rounds", "apart", "ok", "fatal"),
    [
        (True, 0.02, True, True),
        (True, 0.15, False, False),  # the file itself is 0.1 from the float model
        (True, 0.25, False, True),
        (False, 0.02, False, True),
        (False, 0.0005, True, True),
    ],
)
def test_what_rounding_explains_is_no_reason_not_to_write(rounds, apart, ok, fatal):
    """Outputs at right angles: [1, 0], 0.1 away from it, and `apart` away from that."""

    def outputs(x, y, z):
        return [{"y": np.array([x, y, z])}]

    plain = outputs(1.0, 0.1, 0.0)
    ran = Ran(plain, outputs(1.0, 0.1, apart), plain, None)
    limits = Limits(ROUNDED_LIMIT, ROUNDED_LIMIT) if rounds else Limits()
    exact, deployed = check_optimized(outputs(1.0, 0.0, 0.0), ran, limits)
    assert (exact.ok, exact.fatal) == (ok, fatal)
    assert (deployed.ok, deployed.fatal) == (True, False)


def test_a_long_int32_bias_is_no_weight_that_is_recomputed():
    text = """g (float[B, 5000] x) => (float[B, 5000] y) {
        b = DequantizeLinear(bias, s) w = DequantizeLinear(codes, s) h = Add(x, b) y = Add(h, w)
    }"""
    codes = np.ones(5000, np.int8)
    net = model(text, bias=codes.astype(np.int32), codes=codes, s=np.float32(0.5).reshape(()))
    assert large_dequantize(net) == ["codes"]
