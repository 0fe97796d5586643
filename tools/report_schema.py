"""Writes comq_onnx/evaluate/report.schema.json and docs/report.md: every field of a report, from the code.

python tools/report_schema.py           # write them
python tools/report_schema.py --check   # exit with 1 if one is not current

Types are those of the dataclasses, and what a field means is the text below it in the source.
"""

import argparse
import ast
import inspect
import json
import sys
import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from comq_onnx.config import key_of
from comq_onnx.evaluate.report import SCHEMA_VERSION, Report
from comq_onnx.recipe import Recipe

ROOT = Path(__file__).parents[1]
SCHEMA = ROOT / "comq_onnx" / "evaluate" / "report.schema.json"
PAGE = ROOT / "docs" / "report.md"
NUMBER = {"type": ["number", "null"]}
"""JSON has no infinity and no NaN: they are null"""
PLAIN: Mapping[Any, dict[str, Any]] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: NUMBER,
    type(None): {"type": "null"},
}
INTRODUCTION = """# The report

    comq-onnx model.onnx --calibration-data samples.npz -o small.onnx --report small.html --report small.json

`--report` may be given more than once; the name says the form.

## The page, `.html`

One file that loads nothing and has no script: send it, put it beside the model, open it years later. It
follows the light or dark setting of the reader, and fits a phone; a wide table or chart scrolls in its own
box. Point at a mark in a chart to read its layer and its value. Charts are drawn by matplotlib, which comes
with the extra `report` (`pip install "comq-onnx[cpu,report]"`); without it the page is written without
charts, and says so. It takes 220 kB for the network of samples/glyphs (38 layers), 1.3 MB for 600 layers.

| section | what it shows |
|---|---|
| Summary | size, fidelity, what was quantized, time, target, where the file was run; the notes |
| Layers | SQNR by round-to-nearest and as solved, and bytes before and after, of each layer |
| Loss along depth | squared error over signal of each layer's output, and of its input |
| Weights and scales of the worst layers | float weights in steps of their scale, codes, scales |
| Size against fidelity | with a budget: what was compared |
| Dual prices | with a budget: what each layer's error costs, what was chosen, what could have been |
| Kept float | what was not quantized, by reason |
| Activations in 8 bits | the grid of each tensor, and the values it reaches |
| Checks | what was found about the bytes on disk, in each runtime |
| All weights | a line for every weight of the model |
| To make it again | the command line and the recipe, without folders |
| Versions | of all that had a part in it |

## The JSON, `.json`

A JSON Schema (draft 2020-12) lies in the package, `comq_onnx/evaluate/report.schema.json`:

```python
import json, jsonschema
from importlib.resources import files

schema = json.loads(files("comq_onnx.evaluate").joinpath("report.schema.json").read_text())
jsonschema.validate(json.load(open("small.json")), schema)
```

`schema_version` is {version}. It rises where a field is taken away or means something else; fields may be
added without, so readers should ignore those they do not know. Numbers that JSON does not hold, infinite or
not a number, are null: an infinite SQNR is an error of 0. Sizes are bytes, times seconds. `Report.as_dict()`
gives the same in Python.

The fields below are written by `tools/report_schema.py` from the code.
"""


def schema() -> dict[str, Any]:
    """The whole schema, with a definition for each record."""
    definitions = {record.__name__: _object(record) for record in records(Report) if record is not Report}
    definitions["Recipe"] = _recipe()
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:comq-onnx:report:{SCHEMA_VERSION}",
        "title": "What comq-onnx --report FILE.json writes",
    }
    whole = _object(Report)
    whole["properties"]["schema_version"]["const"] = SCHEMA_VERSION
    whole["properties"]["recipe"]["$ref"] = "#/$defs/Recipe"
    return {**head, **whole, "$defs": definitions}


def records(record: type) -> Iterator[type]:
    """The dataclass and all that it holds, each once, in the order they come up."""
    found, wanted = [], [record]
    while wanted:
        one = wanted.pop(0)
        if one not in found:
            found.append(one)
            wanted += [part for hint in get_type_hints(one).values() for part in _parts(hint)]
    return iter(found)


def meanings(record: type) -> dict[str, str]:
    """What each field means: the string below it, on one line."""
    body = ast.parse(inspect.getsource(record)).body[0].body  # type: ignore[attr-defined]
    told = {}
    for before, after in pairwise(body):
        if isinstance(before, ast.AnnAssign) and isinstance(after, ast.Expr):
            assert isinstance(before.target, ast.Name)
            assert isinstance(after.value, ast.Constant)
            text = str(after.value.value).replace("``", "`").replace("None", "null")
            told[before.target.id] = " ".join(text.split()).rstrip(".")
    return told


def _parts(hint: Any) -> list[type]:
    """The dataclasses in a type."""
    if is_dataclass(hint):
        return [hint] if isinstance(hint, type) else []
    return [part for inner in get_args(hint) for part in _parts(inner)]


def _object(record: type) -> dict[str, Any]:
    hints, told = get_type_hints(record), meanings(record)
    properties = {f.name: {**_type(hints[f.name]), "description": told[f.name]} for f in fields(record)}
    return {"type": "object", "properties": properties, "required": [f.name for f in fields(record)]}


def _recipe() -> dict[str, Any]:
    """Fields at their default are left out, and no other can be there."""
    hints = get_type_hints(Recipe)
    properties = {
        f.name: {**_type(hints[f.name]), "description": f"--{key_of(f.name)}", "default": _default(f)}
        for f in fields(Recipe)
    }
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _default(field: Field[Any]) -> Any:
    assert field.default is not MISSING
    return list(field.default) if isinstance(field.default, tuple) else field.default


def _type(hint: Any) -> dict[str, Any]:
    origin, inner = get_origin(hint), get_args(hint)
    if hint in PLAIN:
        return dict(PLAIN[hint])
    if is_dataclass(hint):
        return {"$ref": f"#/$defs/{hint.__name__}"}  # type: ignore[union-attr]
    if origin is Literal:
        return {"enum": list(inner)}
    if origin in (Union, types.UnionType):
        kinds = [_type(one) for one in inner if one is not type(None)]
        return kinds[0] if kinds == [NUMBER] else {"anyOf": [*kinds, {"type": "null"}]}
    if origin is tuple and inner[-1] is Ellipsis:
        return {"type": "array", "items": _type(inner[0])}
    if origin is tuple:
        return {
            "type": "array",
            "prefixItems": list(map(_type, inner)),
            "items": False,
            "minItems": len(inner),
        }
    if inner[1] is Any:
        return {}  # the recipe, which has a definition of its own
    return {"type": "object", "additionalProperties": _type(inner[1])}


def page() -> str:
    """The whole page of documentation."""
    parts = [INTRODUCTION.format(version=SCHEMA_VERSION)]
    for record in records(Report):
        lead = inspect.getdoc(record) or ""
        parts.append(f"### {record.__name__}\n\n{lead.splitlines()[0].replace('``', '`')}\n\n{_rows(record)}")
    flags = ", ".join(f"`{f.name}`" for f in fields(Recipe))
    parts.append(
        f"### Recipe\n\nValues of the flags of these names that are not at their default: {flags}.\n"
    )
    return "\n".join(parts)


def _rows(record: type) -> str:
    hints, told = get_type_hints(record), meanings(record)
    lines = ["| field | type | meaning |", "|---|---|---|"]
    for f in fields(record):
        kind = "[Recipe](#recipe)" if (record, f.name) == (Report, "recipe") else _words(hints[f.name])
        lines.append(f"| `{f.name}` | {kind} | {told[f.name].replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


def _words(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    names = {str: "text", bool: "true or false", int: "integer", float: "number or null"}
    if hint in names:
        return names[hint]
    if is_dataclass(hint):
        return f"[{hint.__name__}](#{hint.__name__.lower()})"  # type: ignore[union-attr]
    if origin in (Union, types.UnionType):
        return _words(inner[0]).removesuffix(" or null") + " or null"
    if origin is tuple and inner[-1] is Ellipsis:
        return f"list of {_words(inner[0])}"
    if origin is tuple:
        return f"list of {', '.join(map(_words, inner))}"
    return f"{_words(inner[1])} by name"


def made() -> dict[Path, str]:
    """The files, and what they should hold."""
    return {SCHEMA: json.dumps(schema(), indent=1) + "\n", PAGE: page()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Write the report's schema and docs/report.md from the code."
    )
    parser.add_argument("--check", action="store_true", help="only say whether they are current")
    check = parser.parse_args().check
    for path, text in made().items():
        if not check:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            sys.exit(f"{path.relative_to(ROOT)} is not current; run: python tools/report_schema.py")


if __name__ == "__main__":
    main()
