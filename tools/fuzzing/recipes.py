"""Recipes and command lines of random keys, types and values."""

import json
import random
from pathlib import Path

from fuzzing.attempt import CANARY_MODULE, OUTPUT, Attempt
from fuzzing.graphs import corpus
from fuzzing.models import QUICK
from fuzzing.protos import mutate_bytes

KEYS = (
    "weights",
    "activations",
    "calibration_method",
    "target-size",
    "avg-bits",
    "target-latency",
    "max_drop",
)
KEYS += (
    "symmetric",
    "block-size",
    "solver",
    "effort",
    "bias",
    "inputs",
    "mrecg",
    "target",
    "high-precision-dtype",
)
KEYS += (
    "matmulnbits",
    "size-first",
    "reduce-range",
    "twin-ranges",
    "weight-form",
    "first-last",
    "rule",
    "keep-float",
)
KEYS += (
    "quantize-embeddings",
    "nodes-to-quantize",
    "nodes-to-exclude",
    "op-types-to-quantize",
    "preprocess",
    "seed",
)
KEYS += (
    "calibration-samples",
    "batch-size",
    "calibration-shapes",
    "max-length",
    "mask-input",
    "memory",
    "device",
)
KEYS += ("threads", "metric", "nonsense", "model", "calibration-data")
USUAL = {
    "weights": ("int4", "int8", "int6", "int5", "int3", "int2"),
    "block-size": ("16", "32", "channel", "tensor", "auto"),
}
USUAL |= {"solver": ("comq", "comq-paper", "gptq", "rtn"), "target": ("ort", "tensorrt", "fakequant")}
USUAL |= {
    "activations": ("auto", "none", "int8", "dynamic"),
    "bias": ("auto", "channel", "none", "position", "block"),
}
USUAL |= {
    "rule": ("MatMul=int8", ".*=float", "y=int3:16", "=", "a=b", "(=int4", "(a+)+$=int8", ".*=int2:channel")
}
USUAL |= {
    "target-size": ("3kB", "0.5x", "-1MB", "1e99GB", "0x", "nanMB"),
    "avg-bits": ("4.5", "0.01", "33", "nan"),
}
USUAL |= {
    "calibration-shapes": ("x:2x16", "x:1x99999999999999", "x:0x0", "y:1", ":", "x:-1x16", "x:1x16,x:2x16")
}
USUAL |= {
    "memory": ("1GB", "1MB", "0.0000001", "1e400", "-3GB", "nan"),
    "threads": ("1", "0", "-2", "99999999999"),
}
USUAL |= {
    "calibration-samples": ("2", "0", "-1", "99999999999999999999"),
    "batch-size": ("2", "0", "123456789012"),
}
USUAL |= {
    "seed": ("1", "-1", "99999999999999999999999"),
    "mrecg": ("1", "-1", "9999999999"),
    "max_drop": ("1%", "x"),
}
USUAL |= {
    "calibration_method": ("mse", "minmax", "percentile", "entropy", "output-error"),
    "inputs": ("quantized",),
}
USUAL |= {
    "high-precision-dtype": ("fp16", "fp32"),
    "mask-input": ("x", "none"),
    "device": ("cpu", "cuda", "cuda:9", "tpu"),
}
USUAL |= {
    "first-last": ("int8",),
    "weight-form": ("dq",),
    "nodes-to-exclude": (".*", "(", "MatMul"),
    "effort": ("fast",),
}
THINGS = ("", "x", "0", "-1", "1e999", "nan", "true", "\x1b[31m", "[/b]", "ü", "9" * 5000, "(" * 2000, "a\nb")
FLAGS = ("symmetric", "matmulnbits", "size-first", "reduce-range", "twin-ranges", "quantize-embeddings")


def make_recipe(rng: random.Random, folder: Path) -> Attempt:
    """A recipe file or flags, for a small model that is whole."""
    name = rng.choice(("chain", "convnet", "words", "gemm", "half", "residual"))
    path = folder / "model.onnx"
    path.write_bytes(dict(corpus())[name].SerializeToString())
    words = [str(path), "-o", str(folder / OUTPUT), *rng.choice((QUICK, QUICK[:4]))]
    words += rng.choice((["--quiet"], [], []))
    if rng.randrange(
        5
    ):  # the default target's files are run in a process of OpenVINO's too, which takes long
        words += ["--target", "ort"]
    if rng.random() < 0.5:
        config = folder / rng.choice(("recipe.toml", "recipe.toml", "recipe.txt"))
        how, data = _file(rng)
        config.write_bytes(data)
        return Attempt(f"recipe: {how}", (*words, "--config", str(config)))
    more = _flags(rng, folder)
    return Attempt(f"flags: {' '.join(more)[:120]}", (*words, *more), may_run=True)


def _value(key: str, rng: random.Random) -> str:
    return rng.choice(USUAL[key]) if key in USUAL and rng.random() < 0.75 else rng.choice(THINGS)


def _file(rng: random.Random) -> tuple[str, bytes]:
    lines = []
    for key in rng.sample([key for key in KEYS if key != "metric"], rng.choice((1, 1, 2, 3, 5))):
        written = key if rng.random() < 0.6 else key.replace("-", "_")
        value = _value(key, rng)
        typed: object = value
        draw = rng.random()
        if draw < 0.35:
            try:
                typed = json.loads(value.lower())
            except (ValueError, RecursionError):
                typed = value
        elif draw < 0.5:
            typed = (
                [value]
                if key in ("rule", "keep-float")
                else rng.choice(([value], [1], True, 0, -1, 4.5, 2**70))
            )
        lines.append(f"{written} = {json.dumps(typed)}")
    data = "\n".join(lines).encode()
    if rng.random() < 0.15:
        how, data = mutate_bytes(data + b"\n", data + b"\n", rng)
        return f"{how} {lines}", data
    return ", ".join(lines)[:160], data


def _flags(rng: random.Random, folder: Path) -> list[str]:
    words: list[str] = []
    for key in rng.sample(KEYS, rng.choice((1, 1, 2, 3))):
        flag = "--" + key.replace("_", "-")
        if key in FLAGS:
            words += [flag]
        elif key == "metric":
            words += [flag, rng.choice((f"{CANARY_MODULE}:call", "none:x", "x", ":", "json:nothing"))]
        else:
            words += [flag, _value(key, rng)]
    if rng.random() < 0.15:
        words += rng.choice(
            (
                ["--report", str(folder / "no" / "r.html")],
                ["--report", str(folder / "r.txt")],
                ["--save-config", str(folder / "r.toml")],
                ["--resume", str(folder / "kept")],
                ["--resume", str(folder / "model.onnx")],
                ["--config", str(folder)],
                ["--tokenizer", "x"],
            )
        )
    return words
