"""ONNX's own test cases through the whole program: each is quantized, or there is a reason why not.

Every case of ``onnx.backend.test`` that needs no download is loaded and searched for weights; where there are
any, they are rounded to 8 bits on the case's own inputs, and the file's outputs are held against the float
model's, on these inputs and on the same numbers in another order. Cases that feed their weight as an input
are tried a second time with it as a constant ("frozen"), products a third time with the left factor as one.

    python tools/check_backend.py
    python tools/check_backend.py --target ort --list
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from breadth.backend import LEFT_OUT, Case, cases
from breadth.outcome import LIMIT, Outcome, try_case

from comq_onnx import Recipe

STORED_LIMIT = 5e-2
"""Relative distance allowed where activations are stored in 8 bits as well"""
WEIGHTS = Recipe(weights="int8", quantize_embeddings=True, threads=1)
ORT = replace(WEIGHTS, target="ort")
RECIPES: dict[str, tuple[Recipe, float]] = {
    "portable": (WEIGHTS, LIMIT),
    "ort": (ORT, LIMIT),
    "ort, activations int8": (replace(ORT, activations="int8"), STORED_LIMIT),
    "tensorrt": (replace(WEIGHTS, target="tensorrt", quantize_embeddings=False), LIMIT),
    "fakequant": (replace(WEIGHTS, target="fakequant"), LIMIT),
}
"""By what is said on the left of the table: how, and the largest relative error allowed"""
Tried = list[tuple[Case, Outcome]]


def run(name: str, chosen: Iterable[Case]) -> Tried:
    """Every case by one of `RECIPES`."""
    recipe, limit = RECIPES[name]
    return [(case, try_case(case.model, case.feeds, recipe, limit)) for case in chosen]


def counts(tried: Tried) -> list[str]:
    """Cells of one line of the table."""
    kinds = Counter(outcome.kind for _, outcome in tried)
    worst = max((o.error for _, o in tried if o.kind == "quantized"), default=0.0)
    shown = ("quantized", "nothing", "refused", "float fails", "defect")
    return [str(len(tried)), *(str(kinds[kind]) for kind in shown), f"{100 * worst:.2g}"]


def reasons(tried: Tried) -> list[tuple[str, str, int]]:
    """Why cases were not quantized, with their number, the frequent ones first."""
    found = Counter((o.kind, o.why) for _, o in tried if o.kind != "quantized")
    return [(kind, why, count) for (kind, why), count in found.most_common()]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = (head, ("---",) * len(head), *rows)
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", choices=RECIPES, action="append", help="all, where it is not given")
    parser.add_argument("--list", action="store_true", help="a line for every case")
    args = parser.parse_args()
    chosen, rows, failed = list(cases()), [], False
    found: dict[str, Tried] = {}
    for name in args.target or RECIPES:
        found[name] = run(name, chosen)
        for case, outcome in found[name]:
            if outcome.kind == "defect" or args.list:
                print(
                    f"{name}: {case.name}: {outcome.kind} {outcome.error:.2g} {outcome.why}", file=sys.stderr
                )
        rows.append((name, *counts(found[name])))
        failed = failed or any(outcome.kind == "defect" for _, outcome in found[name])
    head = ("target", "cases", "quantized", "nothing to quantize", "refused", "float model does not run",
            "defects", "largest error %")  # fmt: skip
    print(table(head, rows))
    print(f"\nLeft out: {LEFT_OUT}.\n")
    for name, tried in found.items():
        lines = ((kind, why, str(count)) for kind, why, count in reasons(tried))
        print(f"{name}:\n\n{table(('outcome', 'reason', 'cases'), lines)}\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
