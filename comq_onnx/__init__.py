"""Quantize ONNX models after training, without backpropagation.

from comq_onnx import Recipe, check, compare, quantize
report = quantize("model.onnx", "model_int4.onnx", data="samples.npz", recipe=Recipe(weights="int4"))
for finding in check("model_int4.onnx", "tensorrt"):
    print(finding)
print(compare("model.onnx", "model_int4.onnx", data="test.npz").settings["exact"].outputs)
"""

from typing import TYPE_CHECKING, Any

from comq_onnx.errors import ComqError
from comq_onnx.recipe import Recipe
from comq_onnx.version import __version__

if TYPE_CHECKING:
    from comq_onnx.evaluate.compare import CompareOptions, compare
    from comq_onnx.evaluate.comparison import Comparison
    from comq_onnx.pipeline import quantize
    from comq_onnx.run.feeds.text import TextFile
    from comq_onnx.targets.check import check
    from comq_onnx.targets.findings import Finding

__all__ = [
    "CompareOptions",
    "Comparison",
    "ComqError",
    "Finding",
    "Recipe",
    "TextFile",
    "__version__",
    "check",
    "compare",
    "quantize",
]


def __getattr__(name: str) -> Any:
    """Load the program itself on first use, so that ``--help`` and ``--version`` answer at once."""
    if name == "quantize":
        from comq_onnx.pipeline import quantize

        return quantize
    if name == "TextFile":
        from comq_onnx.run.feeds.text import TextFile

        return TextFile
    if name == "check":
        from comq_onnx.targets.check import check

        return check
    if name in ("compare", "CompareOptions"):
        from comq_onnx.evaluate import compare

        return getattr(compare, name)
    if name == "Comparison":
        from comq_onnx.evaluate.comparison import Comparison

        return Comparison
    if name == "Finding":
        from comq_onnx.targets.findings import Finding

        return Finding
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
