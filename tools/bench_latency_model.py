"""How well `comq_onnx.latency` tells the time of whole files: predicted against measured, as shares of float.

    python tools/bench_latency_model.py --cache build/zoo --threads 1

The cache holds ``minilm-script14.onnx``, ``resnet18.onnx`` and ``stack.onnx`` (`tools/bench_latency.py` makes
them). All files of a model and the float model take turns. `mixed` stores every third layer as int8, int4 and
float; the solver does not change the speed, weights are rounded to nearest.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from comq_onnx import pipeline
from comq_onnx.grid import Grid
from comq_onnx.latency import FLOAT, LatencyModel, measure_latency
from comq_onnx.planning import Opened, open_run
from comq_onnx.recipe import Recipe
from comq_onnx.run.timing import time_models
from comq_onnx.targets import TARGETS

TOKENS, WIDTH, IMAGE = 128, 4096, (1, 3, 224, 224)
FORMS = ("int8", "int4", FLOAT)


@dataclass(frozen=True)
class Case:
    name: str
    file: str
    feeds: Mapping[str, np.ndarray]


def cases() -> list[Case]:
    rng = np.random.default_rng(0)
    ids = rng.integers(1000, 20000, (1, TOKENS))
    tokens = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    few = {name: value[:, :16] for name, value in tokens.items()}
    rows = rng.standard_normal((64, WIDTH), np.float32)
    return [
        Case("MiniLM, 128 tokens", "minilm-script14.onnx", tokens),
        Case("MiniLM, 16 tokens", "minilm-script14.onnx", few),
        Case("ResNet-18", "resnet18.onnx", {"x": rng.standard_normal(IMAGE, np.float32)}),
        Case("stack of 4096, 1 row", "stack.onnx", {"x": rows[:1]}),
        Case("stack of 4096, 64 rows", "stack.onnx", {"x": rows}),
    ]


def choices(opened: Opened, grids: Mapping[str, Mapping[str, Grid]]) -> dict[str, dict[str, str]]:
    """What is stored how, by name of the choice and of the layer."""
    names = [layer.name for layer in opened.plan.layers]
    forms = {
        "int4": dict.fromkeys(names, "int4"),
        "int8": dict.fromkeys(names, "int8"),
        "mixed": {name: FORMS[place % len(FORMS)] for place, name in enumerate(names)},
    }
    return {
        label: {name: str(grids[name][form]) if form != FLOAT else FLOAT for name, form in chosen.items()}
        for label, chosen in forms.items()
    }


def file_of(
    opened: Opened, choice: Mapping[str, str], grids: Mapping[str, Sequence[Grid]], recipe: Recipe
) -> onnx.ModelProto:
    """The model that is written for a choice."""
    kept = tuple(layer for layer in opened.plan.layers if choice[layer.name] != FLOAT)
    taken = {layer.name: next(g for g in grids[layer.name] if str(g) == choice[layer.name]) for layer in kept}
    chosen = replace(opened, plan=replace(opened.plan, layers=kept, grids=taken))
    return pipeline.write(chosen, pipeline.solve_model(chosen, recipe), recipe).model


def bench(case: Case, cache: Path, args: argparse.Namespace) -> None:
    rows = len(next(iter(case.feeds.values())))
    recipe = Recipe(solver="rtn", inputs="float", target=args.target, threads=args.threads, batch_size=rows)
    opened = open_run(cache / case.file, dict(case.feeds), recipe)
    target = TARGETS[recipe.target]
    grids = {
        layer.name: {f"int{bits}": target.grid(layer, recipe, bits)[0] for bits in (4, 8)}
        for layer in opened.plan.layers
    }
    candidates = {name: tuple(by.values()) for name, by in grids.items()}
    started = time.perf_counter()
    model = measure_latency(opened, candidates, recipe)
    took = time.perf_counter() - started
    chosen = choices(opened, grids)
    files: list[onnx.ModelProto] = [opened.plan.prepared]
    files += [file_of(opened, choice, candidates, recipe) for choice in chosen.values()]
    seconds = time_models(files, case.feeds, args.threads)
    for (label, choice), measured in zip(chosen.items(), seconds[1:], strict=True):
        print(line(case.name, label, model, choice, measured / seconds[0]), flush=True)
    print(
        f"    float {1e3 * model.whole:.2f} ms, again {1e3 * seconds[0]:.2f} ms; "
        f"rest {1e3 * model.rest:.2f} ms; the latency model took {took:.1f} s"
    )


def line(name: str, label: str, model: LatencyModel, choice: Mapping[str, str], measured: float) -> str:
    predicted = model.seconds(choice) / model.seconds({})
    return (
        f"| {name} | {label} | {predicted:.3f} | {measured:.3f} | {100 * (predicted / measured - 1):+.0f} % |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cache", type=Path, default=Path("build/zoo"))
    parser.add_argument("--target", choices=("ort", "portable"), default="ort")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--models", default="", help="only those whose name contains this")
    args = parser.parse_args()
    print("| model | choice | predicted | measured | error |\n|---|---|---:|---:|---:|")
    for case in cases():
        if args.models in case.name:
            bench(case, args.cache, args)


if __name__ == "__main__":
    main()
