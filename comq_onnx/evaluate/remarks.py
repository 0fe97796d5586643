"""What a user must be told about a run, in sentences: size against speed, fallbacks, synthetic inputs."""

from collections.abc import Sequence

from comq_onnx.recipe import Recipe
from comq_onnx.records import LayerReport
from comq_onnx.run.data import Calibration

DISK_ONLY = (
    "{count} of {total} layers are stored as Cast*scale: that saves disk and download, not time or memory "
    "(onnxruntime folds them to float when it loads the file); it is not a form for TensorRT."
)
DYNAMIC_INT8 = (
    "{count} MatMul/Gemm layers run in onnxruntime's low-bit kernels, which round activations to int8 by "
    "default (about 0.5 % per layer, not counted in the table); "
    "session.qdq_matmulnbits_accuracy_level=1 turns that off."
)
INT3 = "int3 codes are stored in int4: the file is as large as an int4 file."
INT2_CONTAINER = (
    "int2 codes are stored in int4 on this target: the file is as large as an int4 file; "
    "--target ort packs them."
)
UNFUSED = (
    "{count} layers keep a DequantizeLinear that onnxruntime recomputes on every call (--weight-form dq): "
    "expect it to be slower than float."
)
SYNTHETIC = (
    "{what}. The weights were fitted to made-up inputs; "
    "pass --calibration-data with real samples before you trust the accuracy."
)


def remarks(lines: Sequence[LayerReport], recipe: Recipe, calibration: Calibration) -> tuple[str, ...]:
    """The sentences for the summary and the report, most important first."""
    told = []
    if calibration.synthetic:
        told.append(SYNTHETIC.format(what=calibration.description))
    stored = [line for line in lines if line.form]
    folded = [line for line in stored if line.form == "Cast*scale" and line.op != "Gather"]
    dequantized = [line for line in stored if line.form == "DequantizeLinear"]
    unfused = [line for line in dequantized if line.op not in ("MatMul", "Gemm")]
    fused = len(dequantized) - len(unfused)
    if folded:
        told.append(DISK_ONLY.format(count=len(folded), total=len(stored)))
    if fused:
        told.append(DYNAMIC_INT8.format(count=fused))
    if unfused:
        told.append(UNFUSED.format(count=len(unfused)))
    if recipe.bits == 3:
        told.append(INT3)
    if recipe.bits == 2 and recipe.target != "ort":
        told.append(INT2_CONTAINER)
    return tuple(told)
