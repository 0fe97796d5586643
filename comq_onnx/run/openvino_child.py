"""The program that runs a file in OpenVINO: ``python openvino_child.py FOLDER``.

Run as a script in a process of its own (`openvino_` starts it and says why), so it imports nothing of ours.
It answers after each set of options, so that one that kills the process leaves the answers before it.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import openvino


def main(folder: Path) -> None:
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    batches = [{name: load(folder, record) for name, record in batch.items()} for batch in request["batches"]]
    core, answers = openvino.Core(), []
    for number, options in enumerate(request["options"]):
        answers.append(answer(core, request, options, batches, folder / f"out-{number}"))
        draft = folder / "answer.part"
        draft.write_text(json.dumps({"answers": answers}), encoding="utf-8")
        os.replace(draft, folder / "answer.json")


def answer(
    core: openvino.Core, request: dict[str, Any], options: dict[str, str], batches: list[dict], stem: Path
) -> dict[str, Any]:
    """Records of the outputs of each batch, or the runtime's reason why there are none."""
    try:
        model = core.compile_model(request["model"], "CPU", options)
        found = [outputs(model, feeds, request["outputs"]) for feeds in batches]
    except (RuntimeError, ValueError, TypeError) as error:
        return {"error": reason(str(error))}
    records = []
    for i, values in enumerate(found):
        record = {}
        for j, (name, value) in enumerate(values.items()):
            file = stem.with_name(f"{stem.name}-{i}-{j}.bin")
            file.write_bytes(np.ascontiguousarray(value).tobytes())
            record[name] = {"file": file.name, "dtype": value.dtype.name, "shape": list(value.shape)}
        records.append(record)
    return {"batches": records}


def outputs(model: openvino.CompiledModel, feeds: dict, names: list[str]) -> dict[str, np.ndarray]:
    """The model's outputs by their ONNX names; an output may have several, or none that was kept."""
    known = {name for port in model.inputs for name in port.get_names()}
    result = model({name: value for name, value in feeds.items() if name in known})
    found = {name: np.array(result[port]) for port in model.outputs for name in port.get_names()}
    if len(model.outputs) == len(names):
        # Results keep the order of the graph's outputs.
        for name, port in zip(names, model.outputs, strict=True):
            found.setdefault(name, np.array(result[port]))
    return {name: found[name] for name in names if name in found}


def load(folder: Path, record: dict[str, Any]) -> np.ndarray:
    if record["dtype"] == "bfloat16":
        import ml_dtypes

        dtype = np.dtype(ml_dtypes.bfloat16)
    else:
        dtype = np.dtype(record["dtype"])
    return np.frombuffer((folder / record["file"]).read_bytes(), dtype).reshape(record["shape"]).copy()


def reason(text: str) -> str:
    """The last line that says something: the ones before it name source files."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return (told or lines or ["it gives no reason"])[-1].rstrip(".")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
