"""Run the command on broken and hostile models, calibration data and recipes, and count what comes of it.

Every input is made from its kind, the seed and its number, and is the same on every machine. It may end in a
file, in one sentence that says what is wrong, or in the usage; anything else is a finding: a traceback, a
warning, a process that dies, hangs for 10 s or takes more than 3 GB, a half-written file, code that was run.
The files of findings are kept in --keep. Ends with exit code 1 where there are any.

    python tools/fuzz.py --inputs 20000 --workers 2 --keep findings
    python tools/fuzz.py --one models 0 17 --keep findings
"""

import argparse
import itertools
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

from fuzzing.judge import GOOD, MAKERS, Verdict, attempt_of, judge
from fuzzing.workers import Job, run_all

SHARES = {"models": 6, "data": 3, "recipes": 1}
"""Inputs of each kind in ten"""


def jobs_of(seed: int, first: int, count: int) -> list[Job]:
    """Kinds in turn by their share."""
    turn = [kind for kind, share in SHARES.items() for _ in range(share)]
    return [(turn[number % len(turn)], seed, number) for number in range(first, first + count)]


def one(job: Job, folder: Path) -> int:
    """Run one input in this process and show everything; its files stay in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    attempt = attempt_of(*job, folder)
    print(attempt.label, *attempt.words, sep="\n  ")
    verdict = judge(attempt, folder.absolute())
    print(verdict.outcome, verdict.place, verdict.detail, sep="\n")
    return verdict.outcome not in GOOD


def keep(job: Job, verdict: Verdict, folder: Path) -> None:
    """Keep the files of a finding."""
    kept = folder.absolute() / "-".join(map(str, job)) / "in"
    kept.mkdir(parents=True, exist_ok=True)
    try:
        attempt = attempt_of(*job, kept)
        words = "\n  ".join((attempt.label, *attempt.words))
    except FileExistsError:
        words = "kept before"
    (kept.parent / "finding.txt").write_text(
        f"{verdict.outcome} {verdict.place}\n{words}\n{verdict.detail}\n"
    )


def table(counts: dict[str, Counter[str]]) -> str:
    """Outcomes by kind, as Markdown."""
    outcomes = [*GOOD, *sorted({name for found in counts.values() for name in found} - set(GOOD))]
    lines = ["| | " + " | ".join(outcomes) + " | all |", "|---|" + "---:|" * (len(outcomes) + 1)]
    for kind in counts:
        cells = [f"{counts[kind][outcome]:,}" for outcome in outcomes]
        lines.append(f"| {kind} | {' | '.join(cells)} | {counts[kind].total():,} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--limit", type=float, default=10.0, help="seconds for an input")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"))
    parser.add_argument("--one", nargs=3, metavar=("KIND", "SEED", "NUMBER"), help="run this input only")
    args = parser.parse_args()
    if args.one:
        kind, seed, number = args.one
        return one((kind, int(seed), int(number)), args.keep / "-".join(args.one))
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in MAKERS}
    places: dict[tuple[str, str], list[Job]] = defaultdict(list)
    started, slowest = time.monotonic(), 0.0
    jobs = iter(jobs_of(args.seed, args.first, args.inputs))
    for done, (job, verdict) in zip(
        itertools.count(1), run_all(jobs, args.workers, args.limit), strict=False
    ):
        counts[job[0]][verdict.outcome] += 1
        slowest = max(slowest, verdict.seconds)
        if verdict.outcome not in GOOD:
            places[verdict.outcome, verdict.place].append(job)
            if len(places[verdict.outcome, verdict.place]) == 1:
                keep(job, verdict, args.keep)
                print(f"{job}: {verdict.outcome}: {verdict.place} {verdict.detail[-300:]}", flush=True)
        if done % 1000 == 0:
            print(f"{done:,} inputs, {time.monotonic() - started:.0f} s\n{table(counts)}", flush=True)
    print(table(counts))
    total, spent = sum(found.total() for found in counts.values()), time.monotonic() - started
    print(f"{total:,} inputs in {spent:.0f} s, the slowest {slowest:.1f} s")
    for (outcome, place), found in sorted(places.items(), key=lambda item: -len(item[1])):
        print(f"{len(found):6} {outcome}: {place} (first: {' '.join(map(str, found[0]))})")
    return int(bool(places))


if __name__ == "__main__":
    sys.exit(main())
