"""The size that is told is the size of the file that is written."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from evaluate.estimating import convolutions, residual
from graphs import model, weight

from comq_onnx.pipeline import quantize
from comq_onnx.planning import plan
from comq_onnx.recipe import Recipe
from comq_onnx.targets.size import file_bytes


def embedded() -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    text = """g (int64[B,S] ids) => (float[B,S,32] y) {
      e = Gather<axis=0>(table, ids)
      y = MatMul(e, w)
    }"""
    made = model(text, table=weight(300, 64), w=weight(64, 32))
    for node in made.graph.node:
        node.name = f"n_{node.output[0]}"
    return made, {"ids": np.arange(48, dtype=np.int64).reshape(6, 8)}


@pytest.mark.parametrize("made", [residual, convolutions, embedded])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weights": "int8"},
        {"symmetric": False},
        {"weights": "int2", "target": "ort"},
        {"block_size": "16", "first_last": "int8"},
        {"quantize_embeddings": True, "weight_form": "dq"},
        {"solver": "rtn"},
        {"target": "fakequant"},
    ],
)
def test_it_is_the_size_of_the_file(made, options: dict, tmp_path: Path) -> None:
    proto, data = made()
    recipe = Recipe(effort="fast", **options)
    planned = plan(proto, recipe)
    told = file_bytes(planned.prepared, planned.layers, planned.grids, recipe)
    quantize(proto, tmp_path / "out.onnx", data, recipe)
    written = onnx.load(tmp_path / "out.onnx")
    # How it was made is not known before it is made.
    stamped = [entry for entry in written.metadata_props if entry.key.startswith("comq.")]
    assert len(stamped) == 3
    for entry in stamped:
        written.metadata_props.remove(entry)
    assert told == written.ByteSize()
