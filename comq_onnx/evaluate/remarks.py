"""What a user must be told about a run, in sentences: size against speed, fallbacks, synthetic inputs."""

from collections.abc import Sequence
from math import prod

from comq_onnx.evaluate.verify import Verification
from comq_onnx.recipe import Recipe
from comq_onnx.records import LayerReport
from comq_onnx.run.data import Calibration
from comq_onnx.targets import TARGETS
from comq_onnx.targets.target import CAST_SCALE, HALVED, PLAIN, PLANES

FAR = (
    "output '{name}' is only {db:.1f} dB close to the float model's: try the file on your task before you "
    "use it, or spend more bits (--first-last int8, --weights int8, --nodes-to-exclude)."
)
HELD = {"2": 4, "3": 4, "5": 8, "6": 8}
"""Bits of the type that holds codes of so many"""
FAR_DB = 10.0
"""Below this a tenth of the output's energy is noise."""
DISK_ONLY = (
    "stored as Cast*scale or bit planes: {count} of {total} layers. That saves disk and download, not time "
    "or memory (onnxruntime folds them to float when it loads the file); it is not a form for TensorRT."
)
DYNAMIC_INT8 = (
    "run by onnxruntime's low-bit kernels: {count} of {total} layers. These round activations to int8 by "
    "default (about 0.6 % per layer, not counted in the table); "
    "session.qdq_matmulnbits_accuracy_level=1 turns that off."
)
WIDER = (
    "codes of {count} of {total} layers take more bits in the file than they have, {held}: small layers, "
    "zero points, and kernels that read no others."
)
FLOATS = (
    "weights are stored as the floats that their codes stand for: the file is as large as the float file, "
    "and for converters that have a quantizer of their own."
)
POSITIONS = (
    "--bias position adds {size:,} bytes to {count} layers, in float: numbers for each position and channel, "
    "and an Add for each layer on every call."
)
UNFUSED = (
    "recomputed by onnxruntime on every call (--weight-form dq): {count} of {total} layers. "
    "Expect the file to be slower than float."
)
EIGHT_BIT = (
    "computed with 8-bit activations: {count} of {total} layers. SQNR in the table is that of weights alone; "
    "the distance to the float model counts both."
)
SYNTHETIC = (
    "{what}. The weights were fitted to made-up inputs; "
    "pass --calibration-data with real samples before you trust the accuracy."
)


def remarks(
    lines: Sequence[LayerReport], recipe: Recipe, calibration: Calibration, checks: Verification
) -> tuple[str, ...]:
    """The sentences for the summary and the report, most important first."""
    told = []
    if calibration.synthetic:
        told.append(SYNTHETIC.format(what=calibration.description))
    told.extend(calibration.notes)
    for output in checks.fidelity:
        if output.sqnr_db is not None and output.sqnr_db < FAR_DB:
            told.append(FAR.format(name=output.output, db=output.sqnr_db))
    stored = [line for line in lines if line.form not in ("", HALVED)]
    folded = [line for line in stored if line.form in (CAST_SCALE, PLANES) and line.op != "Gather"]
    dequantized = [line for line in stored if line.form == "DequantizeLinear"]
    unfused = [line for line in dequantized if line.op not in ("MatMul", "Gemm")]
    fused = len(dequantized) - len(unfused)
    here = TARGETS[recipe.target].for_onnxruntime
    if folded:
        told.append(DISK_ONLY.format(count=len(folded), total=len(stored)))
    if fused and here:
        told.append(DYNAMIC_INT8.format(count=fused, total=len(stored)))
    if unfused and here:
        told.append(UNFUSED.format(count=len(unfused), total=len(stored)))
    counted = [line for line in stored if line.activations == "8-bit"]
    if counted:
        told.append(EIGHT_BIT.format(count=len(counted), total=len(stored)))
    if recipe.bias == "position":
        wider = [line.bias_bytes for line in stored if line.bias_bytes]
        told.append(POSITIONS.format(size=sum(wider), count=len(wider)))
    if any(line.form == PLAIN for line in stored):
        told.append(FLOATS)
    elif wider := [(line, bits) for line in stored if (bits := _wider(line))]:
        held = " or ".join(str(bits) for bits in sorted({bits for _, bits in wider}))
        told.append(WIDER.format(count=len(wider), total=len(stored), held=held))
    return tuple(told)


def _wider(line: LayerReport) -> int:
    """Bits that each code of a layer takes in the file, where it has fewer; 0 elsewhere."""
    bits = line.grid.split()[0].removeprefix("u").removeprefix("int")
    held = HELD.get(bits, 0)
    packed = line.form == PLANES or 8 * line.bytes_after < held * prod(line.shape)
    return 0 if packed else held
