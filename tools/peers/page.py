"""The tables of docs/peers.md, out of the results that `bench_peers.py` keeps as JSON."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peers.environments import ENVIRONMENTS
from peers.judge import WAYS
from peers.stored import percent_quantized
from peers.trials import KINDS, OURS, Kind, calls, trials

Record = dict[str, Any]
BEGIN, END = "<!-- made by tools/bench_peers.py -->", "<!-- end -->"
COMPARABLE = 5.0
"""Percent of the weights that a row may leave float beyond ours and still be called best"""


def update(page: Path, results: Record) -> None:
    """Put the tables between the markers of `page`. SystemExit where it has none."""
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{page} has no lines {BEGIN!r} and {END!r} to write the tables between")
    page.write_text(f"{before}{BEGIN}\n\n{tables(results)}\n\n{END}{after}", encoding="utf-8")


def tables(results: Record) -> str:
    """Versions, a section for each model with a table for each kind, and the calls."""
    parts = [_command(results), _versions(results["versions"])]
    for name, record in results["models"].items():
        parts += _section(name, record)
    parts += [f"{name}: skipped, {reason}" for name, reason in results["skipped"].items()]
    return "\n\n".join([*parts, "## The calls", *_calls(results)])


def _command(results: Record) -> str:
    cut = f" --limit {results['limit']}" if results["limit"] else ""
    limits = f" --seconds {results['seconds']:g} --gigabytes {results['gigabytes']:g}"
    return (
        f"    python tools/bench_peers.py --environments ~/peers --json peers.json{cut}{limits}\n"
        "    python tools/bench_peers.py --json peers.json --peers '' --page docs/peers.md\n\n"
        f"Limits of one run: {results['seconds']:g} s, {results['gigabytes']:g} GB."
        + (f" The test data was cut to {results['limit']} samples." if results["limit"] else "")
    )


def _versions(found: dict[str, dict[str, str]]) -> str:
    lines = [_line(["", "versions in its environment"]), _line(["---", "---"])]
    for peer, versions in found.items():
        home = ENVIRONMENTS[peer].home if peer in ENVIRONMENTS else ""
        told = ", ".join(f"{package} {version}" for package, version in versions.items())
        lines.append(_line([f"[{peer}]({home})" if home else peer, told]))
    return "\n".join(lines)


def _section(name: str, record: Record) -> Iterator[str]:
    facts = " ".join(f"{key.capitalize()}: {value}." for key, value in record["facts"].items())
    scored = ", ".join(f"{score} {_number(value)}" for score, value in record["float"].items())
    yield f"## {name}"
    yield f"{facts} Float file: {record['bytes'] / 1e6:.1f} MB; {scored}."
    for kind in KINDS.values():
        keys = [trial.key for trial in trials([kind.name], list(kind.options))]
        rows = {key: record["rows"][key] for key in keys if key in record["rows"]}
        if rows:
            yield f"### {name}, {kind.told}"
            yield _table(kind, record, rows)
            if failed := list(_failures(rows)):
                yield "\n".join(failed)
            if missing := [_label(key) for key in keys if key not in rows]:
                yield f"Not run: {', '.join(missing)}."


def _table(kind: Kind, record: Record, rows: dict[str, Record]) -> str:
    scores = list(record["float"])
    head = ["", *scores, "weights %", "MB", "time / ours", "CPU / ours", "peak GB", "loads", "runtimes apart"]
    best = _best(record["primary"], rows)
    lines = [_line(head), _line(["---", *["---:"] * (len(head) - 3), "---", "---"])]
    ours = next((row for key, row in rows.items() if key == _first(kind) and not row["problem"]), None)
    for key, row in rows.items():
        cells = [_label(key), *_scores(row, scores), *_used(row, ours, key == _first(kind))]
        cells += [_loads(row), _apart(row)]
        told = len(scores) + 1
        bold = [f"**{cell}**" for cell in cells[:told]] if key == best else cells[:told]
        lines.append(_line([*bold, *cells[told:]]))
    return "\n".join(lines)


def _first(kind: Kind) -> str:
    return f"{kind.name}/{OURS}/{kind.options[OURS][0]}"


def _label(key: str) -> str:
    _, peer, option = key.split("/")
    return f"{peer} `{option}`"


def _scores(row: Record, names: list[str]) -> list[str]:
    if row["problem"]:
        return ["failed", *[""] * (len(names) - 1)]
    if not row["scores"]:
        return ["does not run", *[""] * (len(names) - 1)]
    return [_number(row["scores"][name]) for name in names]


def _used(row: Record, ours: Record | None, is_ours: bool) -> list[str]:
    """Weights quantized, megabytes, wall clock and CPU time as ratios, peak gigabytes."""
    share = f"{percent(row):.0f}" if row.get("coverage") else ""
    size = f"{row['bytes'] / 1e6:.1f}" if "bytes" in row else ""
    if "seconds" not in row:
        return [share, size, "", "", ""]
    times = [_ratio(row, ours, "seconds", is_ours), _ratio(row, ours, "cpu_seconds", is_ours)]
    return [share, size, *times, f"{row['peak_bytes'] / 1e9:.1f}"]


def _ratio(row: Record, ours: Record | None, clock: str, is_ours: bool) -> str:
    """Time by `clock` beside that of ours; the seconds themselves in the row of ours."""
    if is_ours:
        return f"1 ({row[clock]:.0f} s)"
    beside = row.get(f"ours_{clock}") or (ours[clock] if ours else None)
    return f"{row[clock] / beside:.2g}" if beside and not row["problem"] else ""


def percent(row: Record) -> float:
    """Percent of the weights quantized; JSON made strings of the bits."""
    return percent_quantized({int(bits): count for bits, count in row["coverage"].items()})


def _loads(row: Record) -> str:
    """``yes``, or the runtimes that do not."""
    if row["problem"]:
        return ""
    bad = [way for way in WAYS if row["loads"][way]]
    return f"not {_ways(bad, ', ')}" if bad else "yes"


def _ways(ways: list[str], between: str) -> str:
    """The names of ways to run a file; onnxruntime by its name alone where neither way works."""
    both = {"plain", "optimised"} <= set(ways)
    named = ["onnxruntime"] if both else []
    return between.join(named + [WAYS[way] for way in ways if not both or way == "openvino"])


def _apart(row: Record) -> str:
    """Largest relative distance from the outputs of the file as it is written."""
    if row["problem"] or not row["agrees"]:
        return ""
    return ", ".join(f"{value:.1g}" for value in row["agrees"].values())


def _best(primary: str, rows: dict[str, Record]) -> str:
    """The row with the lowest score among those that quantize as much as ours, or nearly."""
    ran = {key: row for key, row in rows.items() if not row["problem"] and row["scores"]}
    ours = max((percent(row) for key, row in ran.items() if f"/{OURS}/" in key), default=0.0)
    able = {key: row["scores"][primary] for key, row in ran.items() if percent(row) >= ours - COMPARABLE}
    return min(able, key=lambda key: able[key]) if able else ""


def _failures(rows: dict[str, Record]) -> Iterator[str]:
    """A line for each reason, with all whom it stopped."""
    stopped: dict[str, list[str]] = {}
    for key, row in rows.items():
        if row["problem"]:
            stopped.setdefault(_plain(row["problem"]), []).append(f"{_label(key)} failed")
            continue
        reasons = {way: _plain(text) for way, text in row["loads"].items() if text}
        if "plain" in reasons and row["score_problem"]:
            # The same runtime, with more of the reason.
            told = _plain(row["score_problem"])
            reasons = {way: told if way != "openvino" else text for way, text in reasons.items()}
        for reason in dict.fromkeys(reasons.values()):
            ways = _ways([way for way, text in reasons.items() if text == reason], " and ")
            stopped.setdefault(reason, []).append(f"{_label(key)} in {ways}")
    for reason, whom in stopped.items():
        yield f"- {'; '.join(whom)}: {reason}."


def _calls(results: Record) -> Iterator[str]:
    """Every option that was tried, with its call."""
    tried = {tuple(key.split("/")[1:]) for record in results["models"].values() for key in record["rows"]}
    for peer in results["versions"]:
        told = [
            f"- `{option}`: `` {call} ``" for option, call in calls(peer).items() if (peer, option) in tried
        ]
        if told:
            yield f"**{peer}**"
            yield "\n".join(told)


def _plain(text: str) -> str:
    """A message as a clause: one line that Markdown leaves alone, without what is said of every file."""
    text = re.sub(r"^\S+\.onnx: |the model does not run on '[^:]*: ", "", text).removeprefix("-- ")
    failed = r"Non-zero status code returned while running (\w+) node\. Name:'([^']*)' ?(Status Message: )?"
    text = re.sub(failed, r"\1 '\2': ", text)
    return " ".join(text.split()).rstrip(". …").replace("|", "\\|").replace("<", "&lt;")


def _number(value: float) -> str:
    return "0" if abs(value) < 5e-13 else f"{value:.4g}"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
