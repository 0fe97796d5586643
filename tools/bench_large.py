"""A transformer stack larger than the memory it is quantized in: peak, sizes and what comes out.

    python tools/bench_large.py                        # 6 GB of float32 weights under 4 GB
    python tools/bench_large.py --gigabytes 0.2 --limit 2 --keep /tmp/stack

The command runs in a child with ``RLIMIT_DATA`` at the limit: the kernel refuses it any private writable
memory beyond, touched or not. Resident pages are watched besides: those of the process itself (anonymous) and
those mapped from files, which the kernel takes back when it needs them. ``ru_maxrss`` counts both.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from comq_onnx.evaluate.agreement import deviation
from comq_onnx.evaluate.room import located_message
from comq_onnx.graph.external import point_to
from comq_onnx.run.parts import outputs_in_parts
from comq_onnx.run.session import SessionOptions, open_session, outputs_on

GB, MIB = 10**9, 1 << 20
WIDTH, HEADS, TOKENS = 1024, 16, 64
GROWTH = 2  # of the feed-forward net
PART = 256 * MIB
POLL = 0.05


class Weights:
    """Random matrices written to a data file one at a time."""

    def __init__(self, path: Path) -> None:
        self.path, self.file, self.rng = path, path.open("wb"), np.random.default_rng(0)
        self.tensors: list[TensorProto] = []

    def matrix(self, name: str, rows: int, cols: int, gain: float = 1.0) -> str:
        values = self.rng.standard_normal((rows, cols), np.float32) * np.float32(gain / rows**0.5)
        # Channels of different size, and a few large weights, as trained matrices have them.
        values *= self.rng.lognormal(0, 0.5, (rows, 1)).astype(np.float32)
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=values.shape)
        offset = self.file.tell()
        self.file.write(values.tobytes())
        point_to(tensor, self.path.name, offset, values.nbytes)
        self.tensors.append(tensor)
        return name

    def small(self, name: str, values: np.ndarray) -> str:
        self.tensors.append(numpy_helper.from_array(values, name))
        return name


def block(weights: Weights, at: int, x: str, width: int) -> tuple[list[onnx.NodeProto], str]:
    """Attention and a feed-forward net with residuals, normalised in front."""
    nodes, stem = [], f"block{at}/"

    def node(op: str, inputs: list[str], name: str, **attributes: object) -> str:
        nodes.append(helper.make_node(op, inputs, [stem + name + ":0"], stem + name, **attributes))
        return stem + name + ":0"

    def normed(name: str, tensor: str) -> str:
        scale = weights.small(stem + name + "/scale", np.ones(width, np.float32))
        return node("LayerNormalization", [tensor, scale], name, axis=-1)

    def product(name: str, tensor: str, rows: int, cols: int, gain: float = 1.0) -> str:
        bias = weights.small(stem + name + "/bias", np.zeros(cols, np.float32))
        made = node("MatMul", [tensor, weights.matrix(stem + name + "/weight", rows, cols, gain)], name)
        return node("Add", [made, bias], name + "/add")

    def heads(name: str, tensor: str, perm: list[int]) -> str:
        shaped = node("Reshape", [tensor, "split"], name + "/split")
        return node("Transpose", [shaped], name + "/heads", perm=perm)

    h = normed("norm1", x)
    q = heads("q", product("query", h, width, width), [0, 2, 1, 3])
    k = heads("k", product("key", h, width, width), [0, 2, 3, 1])
    v = heads("v", product("value", h, width, width), [0, 2, 1, 3])
    scores = node(
        "Softmax", [node("Mul", [node("MatMul", [q, k], "qk"), "shrink"], "scaled")], "softmax", axis=-1
    )
    mixed = node("Transpose", [node("MatMul", [scores, v], "mix")], "back", perm=[0, 2, 1, 3])
    joined = node("Reshape", [mixed, "join"], "joined")
    x = node("Add", [x, product("output", joined, width, width, 0.3)], "residual1")
    h = node("Gelu", [product("up", normed("norm2", x), width, GROWTH * width)], "gelu")
    return nodes, node("Add", [x, product("down", h, GROWTH * width, width, 0.3)], "residual2")


def make_stack(folder: Path, size: float, width: int) -> Path:
    """``stack.onnx`` and its data, of about `size` bytes, and ``samples.npz`` beside them."""
    path = folder / "stack.onnx"
    weights = Weights(folder / "stack.onnx.data")
    weights.small("split", np.array([0, 0, HEADS, width // HEADS], np.int64))
    weights.small("join", np.array([0, 0, width], np.int64))
    weights.small("shrink", np.array((width // HEADS) ** -0.5, np.float32))
    nodes, x = [], "x"
    for at in range(max(1, round(size / (4 * (4 + 2 * GROWTH) * width * width)))):
        more, x = block(weights, at, x, width)
        nodes += more
    weights.file.close()
    shape = ["batch", "tokens", width]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", x)]
    graph = helper.make_graph(nodes, "stack", ends[:1], ends[1:], weights.tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    rng = np.random.default_rng(1)
    mixing = rng.standard_normal((width, width), np.float32) / width**0.5
    samples = rng.standard_normal((40, TOKENS, width), np.float32) @ mixing
    np.savez(folder / "samples.npz", x=samples[:32])
    np.savez(folder / "unseen.npz", x=samples[32:])
    return path


def watched(command: list[str], limit: int, log: Path) -> dict[str, float]:
    """Run a command under a limit; its exit code, time, and peaks in MiB."""
    peaks = {"anonymous": 0.0, "mapped": 0.0}
    started = time.monotonic()
    with log.open("wb") as file:
        child = subprocess.Popen(
            command,
            stdout=file,
            stderr=file,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)),
        )
        done = threading.Event()

        def watch() -> None:
            while not done.wait(POLL):
                try:
                    status = Path(f"/proc/{child.pid}/status").read_text()
                except OSError:
                    return
                found = dict(line.split(":", 1) for line in status.splitlines())
                for key, field in (("anonymous", "RssAnon"), ("mapped", "RssFile")):
                    if field in found:
                        peaks[key] = max(peaks[key], int(found[field].split()[0]) / 1024)

        thread = threading.Thread(target=watch)
        thread.start()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        done.set()
        thread.join()
    seconds = time.monotonic() - started
    return {"exit": child.returncode, "seconds": seconds, "all": usage.ru_maxrss / 1024, **peaks}


LOAD = (
    "import sys, numpy as np, onnxruntime as ort\n"
    "s = ort.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])\n"
    "x = np.load(sys.argv[2])['x']\n"
    "np.save(sys.argv[3], np.concatenate([s.run(None, {'x': one[None]})[0] for one in x]))\n"
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=6.0)
    parser.add_argument("--limit", type=float, default=4.0, help="GB of memory")
    parser.add_argument("--width", type=int, default=WIDTH)
    parser.add_argument("--target", default="portable")
    parser.add_argument("--inputs", default="auto")
    parser.add_argument("--keep", type=Path, help="folder that stays; a temporary one otherwise")
    parser.add_argument("rest", nargs="*", help="more flags of comq-onnx, after --")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="comq-large-") as scratch:
        folder = args.keep or Path(scratch)
        folder.mkdir(exist_ok=True)
        report(folder, args)


def report(folder: Path, args: argparse.Namespace) -> None:
    """Make the stack, quantize it, run what came of it, and print the figures."""
    model, out, limit = folder / "stack.onnx", folder / "stack_int4.onnx", int(args.limit * GB)
    if not model.exists():
        make_stack(folder, args.gigabytes * GB, args.width)
    float_bytes = (folder / "stack.onnx.data").stat().st_size
    command = [sys.executable, "-m", "comq_onnx", str(model), "-o", str(out), "--target", args.target]
    command += ["--calibration-data", str(folder / "samples.npz"), "--memory", f"{limit / GB}GB"]
    command += ["--inputs", args.inputs, *args.rest]
    found = watched(command, limit, folder / "log.txt")
    print(f"exit {found['exit']:.0f} after {found['seconds']:.0f} s; the log ends:")
    print("\n".join((folder / "log.txt").read_text(errors="replace").splitlines()[-24:]))
    print(f"float weights {float_bytes:,} bytes, limit {limit:,} bytes ({float_bytes / limit:.2f}x)")
    print(
        f"peak resident {found['all'] * MIB / limit:.2f} of the limit: {found['all']:,.0f} MiB in all, "
        f"at most {found['anonymous']:,.0f} MiB anonymous and {found['mapped']:,.0f} MiB mapped from files"
    )
    if found["exit"]:
        sys.exit(1)
    files = [file for file in (out, out.with_name(out.name + ".data")) if file.exists()]
    print(f"written {sum(f.stat().st_size for f in files):,} bytes in {', '.join(f.name for f in files)}")
    load = [sys.executable, "-c", LOAD, str(out), str(folder / "unseen.npz"), str(folder / "whole.npy")]
    loaded = watched(load, 1 << 40, folder / "load.txt")
    print(f"loaded as a whole and run by onnxruntime: exit {loaded['exit']:.0f}, {loaded['all']:,.0f} MiB")
    unseen = [{"x": one[None]} for one in np.load(folder / "unseen.npz")["x"]]
    room, options = (PART, PART), SessionOptions()
    truth = outputs_in_parts(located_message(model), unseen, options, room)
    parts = outputs_in_parts(located_message(out), unseen, options, room)
    name = next(iter(truth[0]))
    whole = [{name: one[None]} for one in np.load(folder / "whole.npy")]
    distances = {
        "int4 in parts from float in parts, unseen samples": deviation(truth, parts, name),
        "int4 as a whole (int8 activations in the kernels) from float": deviation(truth, whole, name),
        "int4 as a whole from int4 in parts": deviation(parts, whole, name),
    }
    for text, far in distances.items():
        print(f"{text}: relative {far:.4f} ({-20 * np.log10(far):.1f} dB)")
    if float_bytes < GB:
        far = deviation(truth, outputs_on(open_session(model), unseen), name)
        print(f"float in parts from float as a whole: relative {far:.2g}")
    print(json.dumps({"float_bytes": float_bytes, "limit": limit, **found}))


if __name__ == "__main__":
    main()
