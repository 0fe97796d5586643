"""A text file, a sample on each line, as the tokens that a model reads."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from comq_onnx.errors import ComqError
from comq_onnx.run.feeds.wanted import Wanted, spread
from comq_onnx.run.session import TensorSpec
from comq_onnx.run.sources import Record, Source

SUFFIXES = (".txt", ".text")
USUAL_LENGTH = 128
NAMES = {
    "ids": ("input_ids", "ids", "input", "tokens", "token_ids"),
    "mask": ("attention_mask", "input_mask", "mask"),
    "types": ("token_type_ids", "segment_ids"),
    "positions": ("position_ids",),
}
"""What inputs are called, by what they hold"""
USUAL_PADDING = ("[PAD]", "<pad>", "<|endoftext|>")


@dataclass(frozen=True)
class TextFile:
    """A UTF-8 file of samples, one a line, and the ``tokenizer.json`` (or its folder) that goes with it."""

    path: Path | str
    tokenizer: Path | str


def texts(source: TextFile, wanted: Wanted) -> Source:
    """As many lines as are wanted, evenly spread over the file; empty ones are no samples.

    Lines are cut to `max_length` tokens (0: what the tokenizer says, or 128), and padded only where the
    model's sequence is fixed. Where samples are run together, the shortest come first, so that equal lengths
    meet. ComqError where a file cannot be read, or an input is nothing that a line of text gives.
    """
    tokenizer, path = load_tokenizer(Path(source.tokenizer)), Path(source.path)
    roles = _roles(wanted.inputs)
    length, fixed = _length(tokenizer, wanted, roles)
    total = sum(1 for _ in _lines(path))
    if not total:
        raise ComqError("it holds no lines of text", where=str(path), fix="give a sample on each line")
    chosen = {line for _, line in spread([total], wanted.count)}
    pad, side = _padding(tokenizer) if fixed else (0, "right")
    tokenizer.no_padding()
    tokenizer.enable_truncation(length)
    records, padded = [], 0
    for index, (number, line) in enumerate(_lines(path)):
        if index not in chosen:
            continue
        encoded = tokenizer.encode(line)
        ids = encoded.ids
        where = f"{path}, line {number}"
        _check_ids(ids, roles["ids"], wanted, where)
        padded += bool(fixed and len(ids) < fixed)
        records.append(Record(where, _feeds(roles, ids, encoded.type_ids, (fixed or len(ids), pad, side))))
    if wanted.batch > 1 and not fixed:
        records.sort(key=lambda record: record.arrays[roles["ids"].name].shape[1])
    taken = next((i + 1 for i, record in enumerate(records) if wanted.enough(record)), len(records))
    notes = _notes(roles, padded)
    text = f"{path.name} ({total} lines, cut to {length} tokens)"
    return Source(text, lambda: iter(records[:taken]), notes)


def load_tokenizer(path: Path) -> Any:
    """A Hugging Face tokenizer from its JSON file, or its folder. ComqError where there is none."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ComqError(
            "the package tokenizers is needed to read text",
            where="--tokenizer",
            fix="pip install 'comq-onnx[text]'",
        ) from None
    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        text = file.read_text(encoding="utf-8")
        json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no JSON"
        raise ComqError(
            f"the tokenizer cannot be read ({why})",
            where=f"--tokenizer {file}",
            fix="name the tokenizer.json that lies beside the model's weights",
        ) from None
    try:
        return Tokenizer.from_str(text)
    except Exception as error:
        if type(error) is not Exception:  # what the package raises has no other type
            raise
        raise ComqError(
            f"it is no tokenizer ({error})", where=f"--tokenizer {file}", fix="name a tokenizer.json"
        ) from None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of each line that is not empty."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line.strip()
    except UnicodeDecodeError:
        raise ComqError("it is no UTF-8 text", where=str(path), fix="save it as UTF-8") from None
    except OSError as error:
        raise ComqError(
            f"the text cannot be read ({error.strerror})", where=str(path), fix="check the path"
        ) from None


def _roles(inputs: tuple[TensorSpec, ...]) -> dict[str, TensorSpec]:
    """The inputs by what they hold. An only input holds ids, whatever its name."""
    known = {name: role for role, names in NAMES.items() for name in names}
    if len(inputs) == 1 and inputs[0].dtype.kind in "iu":
        return {"ids": inputs[0]}
    roles: dict[str, TensorSpec] = {}
    for spec in inputs:
        role = known.get(spec.name.lower().split(":")[0].rsplit("/")[-1])
        if role is None or role in roles or spec.dtype.kind not in "iufb":
            raise ComqError(
                f"a line of text gives no values for the model's input '{spec.name}'",
                where="--calibration-data",
                fix="give arrays for every input (.npz), or a function of your own as module:callable",
            )
        roles[role] = spec
    if "ids" not in roles:
        raise ComqError(
            "the model has no input of token ids",
            where="--calibration-data",
            fix=f"its inputs are {', '.join(spec.name for spec in inputs)}",
        )
    return roles


def _length(tokenizer: Any, wanted: Wanted, roles: dict[str, TensorSpec]) -> tuple[int, int]:
    """Tokens at most, and the model's own number of them where that is fixed, or 0."""
    said = (tokenizer.truncation or {}).get("max_length", 0)
    length = wanted.max_length or said or USUAL_LENGTH
    fixed = next((spec.shape[1] for spec in roles.values() if len(spec.shape) == 2 and spec.shape[1]), 0) or 0
    if fixed and wanted.max_length > fixed:
        raise ComqError(
            f"the model reads {fixed} tokens", where="--max-length", fix=f"ask for {fixed} at most"
        )
    return min(length, fixed or length), fixed


def _padding(tokenizer: Any) -> tuple[int, str]:
    """The id that pads, and the side it goes to."""
    said = tokenizer.padding or {}
    if "pad_id" in said:
        return said["pad_id"], said.get("direction", "right")
    found = (tokenizer.token_to_id(token) for token in USUAL_PADDING)
    return next((token for token in found if token is not None), 0), "right"


def _feeds(
    roles: dict[str, TensorSpec], ids: list[int], types: list[int], frame: tuple[int, int, str]
) -> dict[str, np.ndarray]:
    """One line's arrays by input name, ``(1, length)`` each; `frame` is length, padding id and side."""
    length, pad, side = frame
    short = length - len(ids)
    around = (short, 0) if side == "left" else (0, short)
    mask = np.pad(np.ones(len(ids), np.int64), around)
    values = {
        "ids": np.pad(np.asarray(ids, np.int64), around, constant_values=pad),
        "mask": mask,
        "types": np.pad(np.asarray(types, np.int64), around),
        "positions": np.maximum(np.cumsum(mask) - 1, 0),
    }
    return {spec.name: values[role][None].astype(spec.dtype) for role, spec in roles.items()}


def _check_ids(ids: list[int], spec: TensorSpec, wanted: Wanted, where: str) -> None:
    known = wanted.vocabulary.get(spec.name)
    if known is not None and max(ids, default=0) >= known:
        raise ComqError(
            f"the tokenizer gives the id {max(ids)}, and the model knows {known}",
            where=where,
            fix="give the tokenizer that goes with the model",
        )
    if not ids:
        raise ComqError("the tokenizer makes no tokens of it", where=where, fix="take the line out")


def _notes(roles: dict[str, TensorSpec], padded: int) -> tuple[str, ...]:
    if not padded:
        return ()
    if "mask" not in roles:
        return (f"{padded} lines are padded and no input marks padding: it is calibrated on as text is.",)
    name = roles["mask"].name
    if name == "attention_mask":
        return ()
    return (f"{padded} lines are padded; --mask-input {name} leaves padding out of the calibration.",)
