"""Which 8-bit products of onnxruntime overflow on processors without VNNI: measured under an emulator.

The script runs itself under qemu-user as an older processor and compares tiny models with exact integer
arithmetic. Each output channel has a weight of `--code` at two rows of the reduction and 0 elsewhere, one
channel for every pair of rows, and every activation is 255: the pairs whose sum of two products is wrong are
those that the kernel adds in 16 bits.

    python tools/check_saturation.py --cpus native,Haswell,Nehalem --codes 127,63,-128,-64

`native` is this processor, without an emulator. A processor that cannot be emulated is skipped with a reason.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import onnx
import onnx.parser
import onnxruntime
from onnx import numpy_helper

EMULATOR = "qemu-x86_64"
TIMEOUT = 240
LARGEST = 255
ROWS = 16
PAIRS = tuple(combinations(range(ROWS), 2))
Pairs = list[tuple[int, int]]


def pair_codes(code: int) -> np.ndarray:
    """int8 ``(ROWS, pairs)``: a column for each pair of rows."""
    codes = np.zeros((ROWS, len(PAIRS)), dtype=np.int8)
    for column, pair in enumerate(PAIRS):
        codes[list(pair), column] = code
    return codes


def graph(text: str, constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    made = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 19]> {text}')
    made.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
    return made


def constants(weight: np.ndarray, code: int) -> dict[str, np.ndarray]:
    """The weight, its grid, and an output grid of 64 steps up to twice the largest product."""
    bottom = np.uint8(0 if code > 0 else 255)
    return {
        "W": weight,
        "one": np.array(1.0, dtype=np.float32),
        "zero": np.array(0, dtype=np.int8),
        "low": np.array(0, dtype=np.uint8),
        "step": np.array(2 * LARGEST * abs(code) / 64, dtype=np.float32),
        "bottom": np.array(bottom),
    }


STORED = "xq = QuantizeLinear(x, one, low) xd = DequantizeLinear(xq, one, low)"
WEIGHT = "wd = DequantizeLinear(W, one, zero)"
OUTPUT = "yq = QuantizeLinear(p, step, bottom) y = DequantizeLinear(yq, step, bottom)"


def matmul(rows: int, body: str, code: int) -> tuple[onnx.ModelProto, tuple[int, ...]]:
    shape = (rows, ROWS)
    text = f"g (float[{rows},{ROWS}] x) => (float[{rows},{len(PAIRS)}] y) {{ {body} }}"
    return graph(text, constants(pair_codes(code), code)), shape


def conv(groups: int, kernel: int, code: int) -> tuple[onnx.ModelProto, tuple[int, ...]]:
    """A Conv whose reduction runs over positions, then over channels, as `saturation` reads it.

    It is depthwise where there are as many groups as pairs of rows.
    """
    channels = ROWS // kernel**2
    weight = pair_codes(code).T.reshape(len(PAIRS), kernel, kernel, channels).transpose(0, 3, 1, 2)
    shape = (1, channels * groups, kernel + 3, kernel + 3)
    body = f"{STORED} {WEIGHT} p = Conv<group = {groups}>(xd, wd) {OUTPUT}"
    dims = ",".join(map(str, shape))
    text = f"g (float[{dims}] x) => (float[1,{len(PAIRS)},4,4] y) {{ {body} }}"
    return graph(text, constants(np.ascontiguousarray(weight), code)), shape


def weight_only(code: int) -> tuple[onnx.ModelProto, tuple[int, ...]]:
    """An int8 weight in front of a float product: onnxruntime rounds the activations itself.

    The reduction is one block of 64: MatMulNBits has no smaller one that is fast.
    """
    codes = np.zeros((64, len(PAIRS)), dtype=np.int8)
    codes[:ROWS] = pair_codes(code)
    text = (
        f"g (float[1,64] x) => (float[1,{len(PAIRS)}] y) "
        "{ wd = DequantizeLinear<axis = 0, block_size = 64>(W, scales) y = MatMul(x, wd) }"
    )
    made = graph(text, {"W": codes, "scales": np.ones((1, len(PAIRS)), dtype=np.float32)})
    made.opset_import[0].version, made.ir_version = 21, 10
    return made, (1, 64)


PLAIN = f"{STORED} {WEIGHT} y = MatMul(xd, wd)"
DYNAMIC = (
    "xq, xs, xz = DynamicQuantizeLinear(x) i = MatMulInteger(xq, W, xz, zero) "
    "f = Cast<to = 1>(i) y = Mul(f, xs)"
)
GEMM = f"{STORED} {WEIGHT} p = Gemm(xd, wd) {OUTPUT}"
QLINEAR = f"{STORED} {WEIGHT} p = MatMul(xd, wd) {OUTPUT}"
SIGNED = PLAIN.replace("low", "signed")
Case = Callable[[int], tuple[onnx.ModelProto, tuple[int, ...]]]
CASES: dict[str, Case] = {
    "MatMul, 1 row": lambda code: matmul(1, PLAIN, code),
    "MatMul, 64 rows": lambda code: matmul(64, PLAIN, code),
    "MatMul with a stored output, 64 rows": lambda code: matmul(64, QLINEAR, code),
    "Gemm with a stored output, 64 rows": lambda code: matmul(64, GEMM, code),
    "MatMul of int8 activations, 64 rows": lambda code: signed(matmul(64, SIGNED, code)),
    "MatMulInteger, 1 row": lambda code: matmul(1, DYNAMIC, code),
    "MatMulInteger, 64 rows": lambda code: matmul(64, DYNAMIC, code),
    "Conv 1x1, 16 channels": lambda code: conv(1, 1, code),
    "Conv 2x2, 4 channels": lambda code: conv(1, 2, code),
    "Conv 4x4, 1 channel": lambda code: conv(1, 4, code),
    "Conv 2x2, 4 channels, 2 groups": lambda code: conv(2, 2, code),
    "Conv 4x4, depthwise": lambda code: conv(len(PAIRS), 4, code),
    "MatMul of a weight alone, 1 row": weight_only,
}


def signed(made: tuple[onnx.ModelProto, tuple[int, ...]]) -> tuple[onnx.ModelProto, tuple[int, ...]]:
    made[0].graph.initializer.append(numpy_helper.from_array(np.array(-128, dtype=np.int8), "signed"))
    return made


def wrong_pairs(name: str, code: int) -> tuple[list[str], Pairs]:
    """Operators that onnxruntime ran, and the pairs of rows whose sums are wrong."""
    model, shape = CASES[name](code)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    options.enable_profiling = True
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (y,) = session.run(None, {"x": np.full(shape, LARGEST, dtype=np.float32)})
    operators = read_profile(session.end_profiling())
    channels = np.moveaxis(np.asarray(y), 1, 0).reshape(len(PAIRS), -1)
    exact = 2 * LARGEST * code
    wrong = np.any(np.abs(channels - exact) > 0.02 * abs(exact), axis=1)
    return operators, [pair for pair, bad in zip(PAIRS, wrong, strict=True) if bad]


def read_profile(path: str) -> list[str]:
    with open(path, encoding="utf-8") as handle:
        events = json.load(handle)
    os.remove(path)
    kernels = [e["args"]["op_name"] for e in events if e["name"].endswith("_kernel_time")]
    return [name for name in dict.fromkeys(kernels) if name not in ("QuantizeLinear", "DequantizeLinear")]


def described(pairs: Pairs) -> str:
    """A set of pairs in words."""
    if not pairs:
        return "exact"
    if pairs == [(i, i + 1) for i in range(0, ROWS, 2)]:
        return "wrong: rows 0 and 1, 2 and 3, and so on"
    if len(pairs) == len(PAIRS):
        return "wrong: all pairs"
    return f"wrong: {len(pairs)} pairs, {' '.join(f'{a}-{b}' for a, b in pairs[:12])}"


def measure(codes: Sequence[int]) -> dict[str, dict[str, tuple[list[str], str]]]:
    found: dict[str, dict[str, tuple[list[str], str]]] = {}
    for name in CASES:
        for code in codes:
            operators, pairs = wrong_pairs(name, code)
            found.setdefault(name, {})[str(code)] = operators, described(pairs)
    return found


def elsewhere(cpu: str, codes: Sequence[int]) -> dict[str, dict[str, tuple[list[str], str]]] | str:
    """What this script says as another processor, or why it says nothing."""
    emulator = [] if cpu == "native" else [shutil.which(EMULATOR), "-cpu", cpu]
    if None in emulator:
        return f"{EMULATOR} is not installed (the package qemu-user)"
    # The interpreter itself: a script that starts it would leave the emulator.
    command = [*emulator, os.path.realpath(sys.executable), os.path.abspath(__file__), "--child"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command.append("--codes=" + ",".join(map(str, codes)))
    try:
        done = subprocess.run(
            [part for part in command if part],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer in {TIMEOUT} s"
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it ended without a word"]
        return f"it does not run there: {said[-1]} (code {done.returncode})"
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cpus", default="native,Haswell,Nehalem")
    parser.add_argument("--codes", default="127,63,-128,-64", help="the two weights of a pair")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    codes = [int(code) for code in args.codes.split(",")]
    if args.child:
        print(json.dumps(measure(codes)))
        return 0
    for cpu in args.cpus.split(","):
        found = elsewhere(cpu, codes)
        print(f"## {cpu}\n")
        if isinstance(found, str):
            print(f"skipped: {found}\n")
            continue
        print(f"| product | ran as | {' | '.join(map(str, codes))} |\n|---|---|{'---|' * len(codes)}")
        for name, row in found.items():
            ran = ", ".join(row[str(codes[0])][0])
            print(f"| {name} | {ran} | {' | '.join(row[str(code)][1] for code in codes)} |")
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
