"""comq-onnx itself, by its Python interface. The docstring of an option is the call, for the page."""

from pathlib import Path

import onnx
from feeds import Feeds, Request, drive

from comq_onnx import Recipe, quantize


def _quantize(request: Request, feeds: Feeds, **fields) -> None:
    recipe = Recipe(weights=f"int{request['bits']}", block_size=request["block_size"], **fields)
    quantize(Path(request["model"]), Path(request["output"]), data=feeds, recipe=recipe)


def comq(request: Request, feeds: Feeds) -> None:
    """quantize(path, out, data=feeds, recipe=Recipe(weights="intBITS", block_size=BLOCK, activations="none"))"""  # noqa: E501
    _quantize(request, feeds, activations="none")


def rtn(request: Request, feeds: Feeds) -> None:
    """As `comq`, with solver="rtn" besides: plain rounding"""
    _quantize(request, feeds, activations="none", solver="rtn")


def comq_matmul(request: Request, feeds: Feeds) -> None:
    """As `comq`, with op_types_to_quantize=("MatMul", "Gemm") besides: what most tools quantize to 4 bits"""
    present = {node.op_type for node in onnx.load(request["model"]).graph.node}
    products = tuple(sorted({"MatMul", "Gemm"} & present))  # an operator that is not there is an error
    _quantize(request, feeds, activations="none", op_types_to_quantize=products)


def comq_int8(request: Request, feeds: Feeds) -> None:
    """quantize(path, out, data=feeds, recipe=Recipe(weights="int8", activations="int8", target="ort"))"""
    _quantize(request, feeds, activations="int8", target="ort")


OPTIONS = {"comq": comq, "rtn": rtn, "comq_matmul": comq_matmul, "comq_int8": comq_int8}

if __name__ == "__main__":
    drive(OPTIONS)
