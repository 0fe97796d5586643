"""Quantize ONNX models after training, without backpropagation.

from comq_onnx import check, compare, quantize
report = quantize("model.onnx", "model_int4.onnx", data="samples.npz", weights="int4", target="ort")
print(report)
for finding in check("model_int4.onnx", "tensorrt"):
    print(finding)
print(compare("model.onnx", "model_int4.onnx", data="test.npz").settings["exact"].outputs)

`docs/api.md` describes every name here.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from comq_onnx.errors import ComqError
from comq_onnx.recipe import Recipe
from comq_onnx.version import __version__

if TYPE_CHECKING:
    from comq_onnx.evaluate.compare import CompareOptions, compare
    from comq_onnx.evaluate.comparison import Comparison
    from comq_onnx.evaluate.report import Report
    from comq_onnx.keywords import read_recipe, write_recipe
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
    "Report",
    "TextFile",
    "__version__",
    "check",
    "compare",
    "quantize",
    "read_recipe",
    "write_recipe",
]

_PLACES = {
    "CompareOptions": "comq_onnx.evaluate.compare",
    "Comparison": "comq_onnx.evaluate.comparison",
    "Finding": "comq_onnx.targets.findings",
    "Report": "comq_onnx.evaluate.report",
    "TextFile": "comq_onnx.run.feeds.text",
    "check": "comq_onnx.targets.check",
    "compare": "comq_onnx.evaluate.compare",
    "quantize": "comq_onnx.pipeline",
    "read_recipe": "comq_onnx.keywords",
    "write_recipe": "comq_onnx.keywords",
}


def __getattr__(name: str) -> Any:
    """Load the program itself on first use, so that ``--help`` and ``--version`` answer at once."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    """The public names, for completion: most are not loaded yet."""
    return sorted(__all__)
