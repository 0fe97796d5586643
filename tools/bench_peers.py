"""Other quantizers on the same models, data and widths as ours: accuracy, time, memory, does it load.

Each peer is installed once, in a virtual environment of its own in the folder that ``--environments`` names,
and driven by a script of `tools/peers` in a process of its own, with a limit of time and of memory. All of
them get the same calibration arrays; the files they write are scored on samples that calibration has not
seen, at settings where only what the file says is rounded. What fails is kept, with the reason.

    python tools/bench_peers.py --environments ~/peers --json peers.json
    python tools/bench_peers.py --json peers.json --peers '' --page docs/peers.md

Ours is run again beside a peer wherever its last run is older than ``--fresh`` seconds, so that the two meet
the same load of the machine: times are given as ratios. ``--resume`` goes on with the trials that ``--json``
lacks; ``--page`` writes the tables between the page's markers, with ``--peers ''`` from ``--json`` alone.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from peers.environments import ENVIRONMENTS, InstallError, make, versions
from peers.feeds import write_feeds
from peers.judge import apart, judge, reduced
from peers.page import update
from peers.process import Limits, run, shortened
from peers.stored import coverage
from peers.trials import KINDS, OURS, Trial, driver, trials
from zoo.catalogue import choose
from zoo.model import Places, RealModel, Task, UnavailableError

from comq_onnx import __version__

ROOT = Path(__file__).parents[1]
MODELS = "minilm,ocr-rec,efficientnet-lite0"


@dataclass
class Bench:
    """A model ready to be quantized by anyone, and its record."""

    model: RealModel
    path: Path
    data: Path
    task: Task
    reference: list[Any]
    record: dict[str, Any]
    args: argparse.Namespace


def start(model: RealModel, args: argparse.Namespace, folder: Path) -> Bench:
    """Make the data and score the float file."""
    places = Places(args.cache, None, args.sts, args.limit)
    path, task = model.file(places), model.task(places)
    data = folder / "calibration.npz"
    write_feeds(data, task.calibration)
    reference = apart(reduced, (path, task, args.threads), args.seconds)
    if isinstance(reference, str):
        raise SystemExit(f"{model.name}: the float file does not run: {reference}")
    record = args.results["models"].setdefault(model.name, {})
    record.update(bytes=path.stat().st_size, float=task.score(reference, reference), facts=dict(task.facts))
    record.update(task=model.task_score, primary=model.primary, file=path.name)
    record["coverage"] = coverage(path)
    record.setdefault("rows", {})
    return Bench(model, path, data, task, reference, record, args)


def attempt(bench: Bench, trial: Trial, folder: Path) -> dict[str, Any]:
    """Quantize, with no judgement yet: what the run used, and the problem if there is one."""
    output = folder / "quantized.onnx"
    request = {
        "model": str(bench.path.absolute()),
        "data": str(bench.data),
        "output": str(output),
        "option": trial.option,
        "bits": trial.kind.bits,
        "block": trial.kind.block,
        "block_size": trial.kind.block_size,
        "transformer": bench.model.name.startswith("minilm"),
    }
    (folder / "request.json").write_text(json.dumps(request))
    python = sys.executable if trial.peer == OURS else str(bench.args.pythons[trial.peer])
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    if trial.peer == OURS:
        environment["PYTHONPATH"] = str(ROOT)
    used = run([python, str(driver(trial.peer)), "request.json"], folder, bench.args.limits, environment)
    found = {**asdict(used), "when": time.time()}
    if not used.problem and not output.exists():
        found["problem"] = "it wrote no file"
    answer = folder / "answer.json"
    found["call_seconds"] = json.loads(answer.read_text())["seconds"] if answer.exists() else None
    return found


def beside(bench: Bench, trial: Trial) -> dict[str, Any]:
    """The run of ours to compare with: the last one of the same kind, run again if it is too old."""
    ours = Trial(trial.kind, OURS, trial.kind.options[OURS][0])
    known = bench.args.ours.get((bench.model.name, ours.key)) or bench.record["rows"].get(ours.key)
    if known is None or time.time() - known["when"] > bench.args.fresh:
        with tempfile.TemporaryDirectory() as name:
            known = attempt(bench, ours, Path(name))
        bench.args.ours[bench.model.name, ours.key] = known
    return known


def bench_trial(bench: Bench, trial: Trial) -> dict[str, Any]:
    """One row: made, judged, beside ours."""
    is_yardstick = trial.peer == OURS and trial.option == trial.kind.options[OURS][0]
    mine = None if is_yardstick else beside(bench, trial)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        row = attempt(bench, trial, folder)
        if mine is not None:
            row.update(ours_seconds=mine["seconds"], ours_cpu_seconds=mine["cpu_seconds"])
        else:
            bench.args.ours[bench.model.name, trial.key] = row
        if row["problem"]:
            return row
        files = [file for file in folder.iterdir() if file.name.startswith("quantized.onnx")]
        row["bytes"] = sum(file.stat().st_size for file in files)
        path = folder / "quantized.onnx"
        verdict = judge(path, bench.task, bench.reference, bench.args.threads, bench.args.seconds)
        counted = apart(lambda: [coverage(path)], (), bench.args.seconds)
        row["coverage"] = counted[0] if isinstance(counted, list) else {}
        row.update(asdict(verdict) | {"problem": "", "score_problem": verdict.problem})
    return row


def bench_model(model: RealModel, args: argparse.Namespace, folder: Path) -> None:
    """Every trial of one model that the results lack; each is kept as it is made."""
    have = args.results["models"].get(model.name, {}).get("rows", {})
    todo = [t for t in args.trials if t.key not in have]
    if not todo:
        return
    bench = start(model, args, folder)
    for trial in todo:
        if reason := args.failed.get(trial.peer):
            row: dict[str, Any] = {"problem": reason}
        else:
            row = bench_trial(bench, trial)
        bench.record["rows"][trial.key] = row
        told = row["problem"] or row.get("score_problem") or row["scores"]
        say(f"{model.name} {trial.key}: {row.get('seconds', 0):.0f} s, {told}")
        write_json(args)


def install(args: argparse.Namespace) -> None:
    """Every peer that is asked for: its Python, or why it has none."""
    args.pythons, args.failed = {}, {}
    for name in args.peers:
        if name == OURS:
            args.results["versions"][OURS] = {OURS: __version__}
            continue
        try:
            say(f"{name}: environment …")
            args.pythons[name] = make(ENVIRONMENTS[name], args.environments)
            told = versions(ENVIRONMENTS[name], args.pythons[name])
            args.results["versions"][name] = told
            say(f"{name}: " + ", ".join(f"{k} {v}" for k, v in told.items()))
        except InstallError as error:
            args.failed[name] = shortened(f"not installed: {error}")
            say(f"{name}: {args.failed[name]}")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def write_json(args: argparse.Namespace) -> None:
    """Keep what is there so far: a long run that is stopped loses one row at most."""
    beside = args.json.with_suffix(".part")
    beside.write_text(json.dumps(args.results, indent=1))
    beside.replace(args.json)


def names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    everyone = [OURS, *ENVIRONMENTS]
    parser.add_argument("--environments", type=Path, default=Path("build/peers"), help="folder for them")
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"some of {','.join(KINDS)}")
    parser.add_argument("--peers", default=",".join(everyone), help=f"some of {','.join(everyone)}")
    parser.add_argument("--skip", default="", help="options to leave out: gptq,seq_mse")
    parser.add_argument("--fresh", type=float, default=180.0, help="age at which a run of ours is made again")
    parser.add_argument("--json", type=Path, required=True, help="all results, after every row")
    parser.add_argument("--resume", action="store_true", help="keep the rows that --json holds")
    parser.add_argument("--page", type=Path, help="the page to write the tables into")
    parser.add_argument("--seconds", type=float, default=600.0, help="limit of one run")
    parser.add_argument("--gigabytes", type=float, default=12.0, help="limit of one run")
    parser.add_argument("--limit", type=int, help="test samples; for a quick look only")
    parser.add_argument("--threads", type=int, default=1, help="of onnxruntime, for the scores")
    parser.add_argument("--cache", type=Path, default=Path("build/zoo"), help="exported models")
    parser.add_argument("--sts", type=Path, help="CSV of sentence pairs and scores, for MiniLM's task score")
    args = parser.parse_args()
    args.kinds, args.peers = names(args.kinds), names(args.peers)
    for given, known in ((args.kinds, list(KINDS)), (args.peers, everyone)):
        for name in given:
            if name not in known:
                parser.error(f"there is no {name!r}; there are {', '.join(known)}")
    args.limits = Limits(args.seconds, int(args.gigabytes * 1e9))
    args.trials = [t for t in trials(args.kinds, args.peers) if t.option not in names(args.skip)]
    return args


def main() -> int:
    args = parse()
    args.ours = {}
    if (args.resume or not args.peers) and args.json.exists():
        args.results = json.loads(args.json.read_text())
    else:
        args.results = {"versions": {}, "models": {}, "skipped": {}, "limit": args.limit}
    if args.peers:
        args.results.update(seconds=args.seconds, gigabytes=args.gigabytes)
    install(args)
    for model in choose(args.models) if args.peers else ():
        try:
            with tempfile.TemporaryDirectory() as folder:
                bench_model(model, args, Path(folder))
        except UnavailableError as reason:
            args.results["skipped"][model.name] = str(reason)
            say(f"{model.name}: skipped, {reason}")
        write_json(args)
    if args.page is not None:
        update(args.page, args.results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
