"""Error and time of every solver, on real layers and on a ladder of sizes.

    python tools/bench_solver.py --cache build/zoo

Parts (``--parts``):

minilm
    Held-out error on MiniLM's MatMuls: the encoder exported from its wheel (opset 14), 128 calibration and
    256 held-out docstrings of the standard library (80 to 600 characters, seed 0), cut to 128 tokens, no
    padding; MatMuls 0, 3, 4, 5, 16, 17, 33, 35. The figure is the geometric mean over the layers of
    ``E ||y - y'||^2 / E ||W^T x||^2`` on the held-out tokens. Every row has the folded bias; then without.
conv
    The same on the convolutions of EfficientNet-Lite0 and the PP-OCR detector, each judged on the test data
    of `bench_accuracy.py`.
ablation
    The same MatMuls with a part of the solver left out or changed, as parts of its error and time.
ladder
    Time against size, ratios to `gptq` in the same run, exponents of growth, and a picture.
residual
    COMQ as published in Gram form and in residual form.
whole
    Time to solve whole models over one float pass on the same cores; files of 1 and 2 threads compared.
"""

import argparse
import tempfile
from pathlib import Path

from solver import ablation, accuracy, cases, ladder, residual, whole
from zoo.model import Places

from comq_onnx.backends.engine import cpu_engine
from comq_onnx.grid import Grid

PARTS = ("minilm", "ablation", "conv", "ladder", "residual", "whole")


def grids_of(options: argparse.Namespace, block: int) -> list[Grid]:
    place = {"granularity": "block", "block_size": block} if block else {}
    return [Grid(bits, symmetric=not options.asymmetric, **place) for bits in options.bits]


def run_minilm(options: argparse.Namespace) -> None:
    found = cases.minilm_cases(options.cache, options.all)
    print(f"{len(found)} MatMuls of MiniLM, {found[0].seen.count} tokens, {found[0].unseen.count} held out")
    engine = cpu_engine(options.threads)
    for block in options.blocks:
        grids = grids_of(options, block)
        plain = not (block or options.asymmetric or options.all) and options.bits == [4, 3, 2]
        print("\nwith the folded bias\n")
        cells = accuracy.table(found, grids, tuple(options.rows), True, engine)
        print()
        accuracy.print_ratios(cells, grids, plain)
        if not block:
            print("\nwithout a bias\n")
            accuracy.table(found, grids, tuple(options.rows), False, engine)


def run_conv(options: argparse.Namespace) -> None:
    engine = cpu_engine(options.threads)
    for name, model in cases.CONV_MODELS.items():
        found = cases.conv_cases(model, Places(options.cache))
        kinds = {
            "dense": [case for case in found if len(case.weight) == 1],
            "depthwise": [case for case in found if len(case.weight) > 1],
        }
        for kind, chosen in kinds.items():
            for block in options.blocks if kind == "dense" else [0]:
                print(f"\n{len(chosen)} {kind} convolutions of {name}, with the folded bias\n")
                grids = grids_of(options, block)
                cells = accuracy.table(chosen, grids, tuple(options.rows), True, engine)
                print()
                accuracy.print_ratios(cells, grids, False)


def run_ladder(options: argparse.Namespace) -> None:
    engine = cpu_engine(options.threads)
    times = ladder.run(engine, options.longest)
    print()
    ladder.exponents(engine, options.longest)
    ladder.plot(times, options.plot)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, default=Path("build/zoo"), help="folder for exported models")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 3, 2])
    parser.add_argument("--blocks", type=int, nargs="+", default=[0, 32, 128], help="0 is per channel")
    parser.add_argument("--asymmetric", action="store_true")
    parser.add_argument("--all", action="store_true", help="all 36 MatMuls instead of eight")
    parser.add_argument(
        "--rows", nargs="+", default=list(accuracy.ROWS), choices=accuracy.ROWS + accuracy.COARSE
    )
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--longest", type=int, default=4096, help="longest columns of the ladder")
    parser.add_argument("--plot", type=Path, default=Path("docs/solver_scaling.png"))
    options = parser.parse_args()
    for part in options.parts:
        print(f"\n## {part}\n", flush=True)
        if part == "minilm":
            run_minilm(options)
        elif part == "ablation":
            found = cases.minilm_cases(options.cache, options.all)
            ablation.table(found, grids_of(options, 0), cpu_engine(options.threads))
        elif part == "conv":
            run_conv(options)
        elif part == "ladder":
            run_ladder(options)
        elif part == "residual":
            residual.compare(cpu_engine(options.threads))
        else:
            places = Places(options.cache)
            whole.compare(places, options.threads)
            with tempfile.TemporaryDirectory() as folder:
                whole.same_files(places, Path(folder))


if __name__ == "__main__":
    main()
