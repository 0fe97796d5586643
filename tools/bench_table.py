"""Markdown of the results that `bench_accuracy.py` wrote as JSON: tables, and what they show.

python tools/bench_table.py results.json
python tools/bench_table.py --summary results.json more.json
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Record = dict[str, Any]
NEAR_FLOAT = 0.5
"""Points of a task score, all in percent, that count as no loss"""


def markdown(results: Record) -> str:
    """A table and its verdicts for every model, then what was skipped."""
    settings = results["settings"]
    grid = "symmetric" if settings["symmetric"] else "asymmetric"
    scales = f"scales per {settings['block_size']}, first and last layer {settings['first_last']}"
    parts = [f"Weights only, {grid}, {scales}."]
    for name, record in results["models"].items():
        if record.get("rows"):
            parts += [
                f"### {name}",
                facts(record),
                table(record),
                "\n".join(f"- {line}" for line in verdicts(name, record, settings)),
            ]
    parts += [f"{name}: skipped, {reason}" for name, reason in results["skipped"].items()]
    return "\n\n".join(parts)


ORDER = ("rtn", "gptq", "comq-paper", "comq-parallel", "comq")


def summary(records: dict[str, Record], widths: Sequence[int] = (8, 4, 3, 2)) -> str:
    """Two tables over all models: the measure that tells solvers apart, at `widths`, and the task score."""
    solvers = list(dict.fromkeys(row["solver"] for r in records.values() for row in r["rows"]))
    order = sorted(solvers, key=lambda name: (ORDER.index(name.split("+")[0]), name))
    lines = [_line(["distance to float", *order]), _line(["---", *["---:"] * len(order)])]
    for name, record in records.items():
        for width in [width for width in _widths(record) if width in widths]:
            rows = {row["solver"]: row["scores"] for row in record["rows"] if row["width"] == width}
            best = _best(record, width, record["primary"])
            values = [_number(rows[s][record["primary"]]) if s in rows else "" for s in order]
            cells = [f"**{v}**" if s == best else v for s, v in zip(order, values, strict=True)]
            lines.append(_line([f"{name} W{width}, {record['primary']}", *cells]))
    return "\n".join([*lines, "", *_task_scores(records)])


def _task_scores(records: dict[str, Record]) -> list[str]:
    columns = [(width, solver) for width in (8, 4, 3, 2) for solver in ("rtn", "comq")]
    heads = [f"W{width} {solver}" for width, solver in columns]
    lines = [_line(["task score", "float", *heads]), _line(["---", *["---:"] * (len(heads) + 1)])]
    for name, record in records.items():
        if record["task"] not in record["float"]:
            continue
        have = {(row["width"], row["solver"]): row["scores"] for row in record["rows"]}
        values = [_number(have[c][record["task"]]) if c in have else "" for c in columns]
        lines.append(_line([f"{name}, {record['task']}", _number(record["float"][record["task"]]), *values]))
    return lines


def facts(record: Record) -> str:
    """Data and timing, as a sentence each."""
    said = [f"{key.capitalize()}: {value}." for key, value in record["facts"].items()]
    return " ".join([*said, f"Float pass: {record['survey_seconds']:.0f} s.", f"{record['remark']}."])


def table(record: Record) -> str:
    """One line per width and row, the best of each width in bold by the score that tells solvers apart."""
    names = list(record["float"])
    head = ["", *names, "MB", "solve s"]
    lines = [_line(head), _line(["---", *["---:"] * (len(head) - 1)])]
    lines.append(
        _line(["float", *(_number(record["float"][n]) for n in names), _megabytes(record["bytes"]), ""])
    )
    best = {width: _best(record, width, record["primary"]) for width in _widths(record)}
    for row in record["rows"]:
        label = f"W{row['width']} {row['solver']}"
        scores = [_number(row["scores"][n]) for n in names]
        cells = [label, *scores, _megabytes(row["bytes"]), f"{row['solve_seconds']:.1f}"]
        lines.append(_line([f"**{c}**" if row["solver"] == best[row["width"]] else c for c in cells]))
    return "\n".join(lines)


def verdicts(name: str, record: Record, settings: Record) -> list[str]:
    """Each claim about a solver or a width as one line, ending in yes or no."""
    said = []
    for width in _widths(record):
        rows = {row["solver"]: row["scores"] for row in record["rows"] if row["width"] == width}
        if "comq" not in rows:
            continue
        if width == 8:
            said.append(_eight_bits(record, rows["comq"]))
            continue
        if len(rows) > 1:
            said += [_is_best(record, rows, width, score) for score in _judged(record)]
        if width == 4 and settings["first_last"] == "int8":
            said += _goals(name, rows)
    return said


def _is_best(record: Record, rows: dict[str, Record], width: int, score: str) -> str:
    higher = score == record["task"] and record["higher_is_better"]
    others = {row: scores[score] for row, scores in rows.items() if row != "comq"}
    rival = (max if higher else min)(others, key=lambda row: others[row])
    ours, theirs = rows["comq"][score], others[rival]
    ahead = ours >= theirs if higher else ours <= theirs
    compared = f"{_number(ours)}; next {rival} {_number(theirs)}"
    answer = _yes(ahead)
    if score == record["task"] and not ahead and _as_good_as_float(record, ours, theirs):
        answer = f"a tie, both within {NEAR_FLOAT} point of float"
    return f"W{width}: comq is best by {score} ({compared}): {answer}"


def _as_good_as_float(record: Record, *values: float) -> bool:
    """Whether a task score can no longer tell them apart; never asked of a measure of fidelity."""
    reference = record["float"][record["task"]]
    return all(abs(value - reference) <= NEAR_FLOAT for value in values)


def _eight_bits(record: Record, scores: Record) -> str:
    error, task = scores["rel. error %"], record["task"]
    said = f"W8: relative output error {error:.3g} % is at most 1 %: {_yes(error <= 1)}"
    if task in record["float"]:
        moved = scores[task] - record["float"][task]
        worse = -moved if record["higher_is_better"] else moved
        said += f"; {task} within {NEAR_FLOAT} point of float ({moved:+.2f}): {_yes(worse <= NEAR_FLOAT)}"
    return said


def _goals(name: str, rows: dict[str, Record]) -> list[str]:
    """The goals set for single models, at W4 with the first and the last layer at 8 bits."""
    ours, said = rows["comq"], []
    if name == "efficientnet-lite0" and "rtn" in rows:
        for score, limit in (("top-1 off %", 0.3), ("KL", 0.2)):
            ratio = ours[score] / max(rows["rtn"][score], 1e-12)
            said.append(f"W4: {score} is {ratio:.3f} of rtn's, at most {limit}: {_yes(ratio <= limit)}")
    if name == "ocr-rec":
        said.append(f"W4: CER {ours['CER %']:.2f} % is at most 10 %: {_yes(ours['CER %'] <= 10)}")
    return said


def _judged(record: Record) -> list[str]:
    scores = [record["primary"]]
    if record["compare_task"] and record["task"] != record["primary"]:
        scores.append(record["task"])
    return [score for score in scores if score in record["float"]]


def _widths(record: Record) -> list[int]:
    return list(dict.fromkeys(row["width"] for row in record["rows"]))


def _best(record: Record, width: int, score: str) -> str:
    rows = [row for row in record["rows"] if row["width"] == width]
    return min(rows, key=lambda row: row["scores"][score])["solver"]


def _number(value: float) -> str:
    return "0" if abs(value) < 5e-13 else f"{value:.4g}"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.2f}"


def _yes(holds: bool) -> str:
    return "yes" if holds else "NO"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--summary", action="store_true", help="two tables over all models of all files")
    parser.add_argument("--widths", type=int, nargs="+", default=[8, 4, 3, 2], help="of the summary")
    parser.add_argument("results", type=Path, nargs="+")
    args = parser.parse_args()
    found = [json.loads(path.read_text()) for path in args.results]
    if args.summary:
        records = {name: r for one in found for name, r in one["models"].items() if r.get("rows")}
        print(summary(records, args.widths))
    else:
        print("\n\n".join(markdown(one) for one in found))


if __name__ == "__main__":
    main()
