"""Whose inputs layers are solved on: what is asked for, what is possible, and what is said of it."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from deep_nets import deep, samples
from graphs import model, weight

from comq_onnx import Recipe
from comq_onnx.cli import main
from comq_onnx.errors import ComqError
from comq_onnx.pipeline import PARALLEL, inputs_for, solve_model
from comq_onnx.planning import open_run

SMALL = {"weights": "int3", "block_size": "channel", "effort": "fast", "threads": 2}


def recipe(**options) -> Recipe:
    return Recipe(**{**SMALL, **options})


RANDOM = "g (float[N,24] x) => (float[N,8] y) {{ h = MatMul(x, a) {} y = MatMul(r, b) }}"


def random(nodes: str) -> onnx.ModelProto:
    weights = {"a": weight(24, 24), "b": weight(24, 8, seed=1), "half": np.float32(0.5)}
    return model(RANDOM.format(nodes), **weights)


def test_what_cannot_be_run_twice_is_solved_in_parallel_and_said() -> None:
    proto = random("n = RandomNormalLike(h) r = Add(h, n)")
    opened = open_run(proto, samples(deep(1), 8), recipe())
    inputs, notes = inputs_for(opened, recipe())
    assert inputs == "float"
    assert notes == (
        "layers were solved on the float network's inputs: 'RandomNormalLike_n' (RandomNormalLike) makes "
        "other numbers on every run",
    )
    assert notes[0] in solve_model(opened, recipe()).notes
    with pytest.raises(ComqError) as error:
        solve_model(opened, recipe(inputs="quantized"))
    assert str(error.value) == (
        "--inputs quantized: layers cannot be solved one after the other: 'RandomNormalLike_n' "
        "(RandomNormalLike) makes other numbers on every run; use --inputs float."
    )


def test_networks_that_part_on_the_way_are_solved_in_parallel_and_said() -> None:
    """How many rows pass depends on what the first layer computes."""
    proto = random("m = ReduceMax<axes=[1], keepdims=0>(h) c = Greater(m, half) r = Compress<axis=0>(h, c)")
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    proto.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "M"
    data = [{"x": samples(deep(1), 40, seed)["x"] / 4} for seed in range(4)]
    opened = open_run(proto, data, recipe(weights="int2"))
    notes = solve_model(opened, recipe(weights="int2")).notes
    assert any(
        note.startswith("layers were solved on the float network's inputs: 'r' is [") for note in notes
    )
    with pytest.raises(ComqError, match=r"in the float one; use --inputs float\.$"):
        solve_model(opened, recipe(weights="int2", inputs="quantized"))


def test_whose_inputs() -> None:
    """The baselines and made-up data are parallel unless asked for otherwise."""
    proto = deep(1)
    real, none = open_run(proto, samples(proto, 4), recipe()), open_run(proto, None, recipe())
    cases = [
        (real, "comq", "auto", "quantized"),
        (real, "comq", "float", "float"),
        (real, "gptq", "auto", "float"),
        (real, "gptq", "quantized", "quantized"),
        (none, "comq", "auto", "float"),
        (none, "comq", "quantized", "quantized"),
    ]
    for opened, solver, inputs, wanted in cases:
        assert inputs_for(opened, recipe(solver=solver, inputs=inputs)) == (wanted, ())


def test_the_recipe_checks_and_tells_its_inputs() -> None:
    with pytest.raises(ComqError, match="--inputs: 'both' is not a value of it; use one of auto, quan"):
        Recipe(inputs="both")  # pyright: ignore
    assert Recipe(inputs="float").as_dict() == {"inputs": "float"}
    assert Recipe().as_dict() == {}


def test_the_command_line(tmp_path: Path) -> None:
    proto = random("n = RandomNormalLike(h) z = Mul(n, nil) r = Add(h, z)")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0), "nil"))
    onnx.save(proto, tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", **samples(deep(1), 8))
    call = [str(tmp_path / "m.onnx"), "--calibration-data", str(tmp_path / "d.npz"), "--effort", "fast"]
    told = CliRunner().invoke(main, [*call, "--inputs", "quantized"])
    assert told.exit_code == 1
    assert told.stderr.splitlines()[-1].startswith("comq-onnx: --inputs quantized: layers cannot be solved")
    assert "Traceback" not in told.output
    assert "use --inputs float." in told.stderr
    assert not (tmp_path / "m_int4.onnx").exists()
    path = tmp_path / "r.json"
    done = CliRunner().invoke(main, [*call, "-q", "--report", str(path)])
    assert done.exit_code == 0, done.output
    notes = json.loads(path.read_text())["notes"]
    assert any("layers were solved on the float network's inputs" in note for note in notes)
    assert CliRunner().invoke(main, [*call, "--inputs", "both"]).exit_code == 2


def apart(nodes: str, **constants: np.ndarray) -> onnx.ModelProto:
    """`nodes` make r of h, and of d: how far h is from what the float network has there."""
    proto = random(f'f = Einsum<equation="ij,jk->ik">(x, kept) g0 = Sub(h, f) d = Abs(g0) {nodes}')
    first = next(t for t in proto.graph.initializer if t.name == "a")
    constants["kept"] = onnx.numpy_helper.to_array(first)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(v, name) for name, v in constants.items())
    return proto


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_quantized_network_that_leaves_the_numbers(value: float) -> None:
    """The float one is fine: by default that is what layers are solved on."""
    proto = apart("c = Greater(d, far) r = Where(c, bad, h)", far=np.float32(0.01), bad=np.float32(value))
    opened = open_run(proto, samples(deep(1), 20), recipe())
    notes = solve_model(opened, recipe()).notes
    said = "the quantized network computes NaN or infinity, first in node 'Where_r' (Where)"
    assert f"{PARALLEL}{said}" in notes
    with pytest.raises(ComqError) as caught:
        solve_model(opened, recipe(inputs="quantized"))
    assert str(caught.value).startswith(f"tensor 'r', calibration sample 0: {said}; keep the layers before")


def test_a_quantized_network_that_does_not_run() -> None:
    """It looks up an entry that the table does not have."""
    proto = apart(
        "m = ReduceMax<keepdims=0>(d) n = Mul(m, far) k = Cast<to=7>(n) e = Gather(steps, k) r = Add(h, e)",
        far=np.float32(100),
        steps=np.ones(1, np.float32),
    )
    opened = open_run(proto, samples(deep(1), 20), recipe())
    notes = solve_model(opened, recipe()).notes
    assert any(note.startswith(f"{PARALLEL}in a part of the quantized") for note in notes)
    told = r"^in a part of the quantized network, the model does not run on .*; use --inputs float\.$"
    with pytest.raises(ComqError, match=told):
        solve_model(opened, recipe(inputs="quantized"))
