"""Which products with a low-bit weight are faster fused than in float: what `blocks.fused_pays` is made of.

One weight, float and behind a DequantizeLinear as the target `ort` writes it with --size-first, timed in turn
in onnxruntime on one thread (thread CPU time), at several numbers of rows of activations. A number is the
float time over the fused one, the worst of all rows; `pays` is what the rule says.

    python tools/bench_products.py --rows 1,16,64,256 --bits 4
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from timing.runtimes import time_in_onnxruntime

from comq_onnx import Recipe, quantize
from comq_onnx.graph.layout import layout_of
from comq_onnx.targets.blocks import AUTO_BLOCK, dividing_block, fused_pays

SHAPES = (
    "64x192,128x512,192x768,256x64,256x128,256x256,320x320,352x352,384x384,608x608,768x10,768x64,768x3072"
)
COPIES = 4
"""Weights in a file: what a session does besides its products is shared"""


def model(rows: int, cols: int) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal((rows, cols), dtype=np.float32) / rows**0.5, f"w{i}")
        for i in range(COPIES)
    ]
    nodes = [helper.make_node("MatMul", ["x", f"w{i}"], [f"y{i}"], f"n{i}") for i in range(COPIES)]
    value = helper.make_tensor_value_info
    inputs = [value("x", TensorProto.FLOAT, [1, "r", rows])]
    outputs = [value(f"y{i}", TensorProto.FLOAT, [1, "r", cols]) for i in range(COPIES)]
    graph = helper.make_graph(nodes, "products", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", default=SHAPES, help="of weights, KxN")
    parser.add_argument("--rows", default="1,16,64,256", help="of activations")
    parser.add_argument("--bits", type=int, default=4, choices=(4, 8))
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    counts = [int(count) for count in args.rows.split(",")]
    print("| K x N | block | worst | pays |\n|---|---:|---:|---|")
    rng = np.random.default_rng(1)
    for shape in args.shapes.split(","):
        rows, cols = (int(size) for size in shape.split("x"))
        recipe = Recipe(weights=f"int{args.bits}", solver="rtn", target="ort", size_first=True)  # pyright: ignore[reportArgumentType]
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder) / "float.onnx", Path(folder) / "fused.onnx"]
            onnx.save(model(rows, cols), files[0])
            data = {"x": rng.standard_normal((2, 8, rows), dtype=np.float32)}
            quantize(files[0], files[1], data, recipe)
            ratios = []
            for count in counts:
                feeds = {"x": rng.standard_normal((1, count, rows), dtype=np.float32)}
                plain, fused = map(np.median, time_in_onnxruntime(files, feeds, args.rounds))
                ratios.append(float(plain / fused))
        block = 0 if args.bits == 8 else dividing_block(rows, AUTO_BLOCK)
        pays = fused_pays(layout_of("matmul", (rows, cols)), args.bits, block)
        print(f"| {shape} | {block or '-'} | {min(ratios):.2f} | {'yes' if pays else 'no'} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
