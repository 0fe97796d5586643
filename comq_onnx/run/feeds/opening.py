"""Any source of calibration data, told apart by what it is, as records that can be read again and again."""

import inspect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from comq_onnx.errors import ComqError
from comq_onnx.run import sources
from comq_onnx.run.feeds import audio, images, text, torch_
from comq_onnx.run.feeds.wanted import Wanted, files_below
from comq_onnx.run.session import TensorSpec
from comq_onnx.run.sources import KINDS, Source

AS_THEY_ARE = "--preprocess is about files of pictures and sounds; these data are fed as they are."
Opener = Callable[[Sequence[Path], str, Wanted], Source]


def open_source(source: Any, wanted: Wanted) -> Source:
    """Make any kind of calibration source readable more than once.

    A function is called, with the model's inputs where it takes a parameter, and what it gives is the source.
    ComqError for a missing, unreadable or unknown source.
    """
    if isinstance(source, text.TextFile):
        return _as_they_are(text.texts(source, wanted), wanted)
    if isinstance(source, str | Path):
        return _from_path(Path(source), wanted)
    if _is_function(source):
        return open_source(_call(source, wanted.inputs), wanted)
    parts = torch_.Parts(wanted.inputs)
    if torch_.is_tensor(source) or isinstance(source, Mapping):
        source = parts(source)
    elif torch_.is_dataset(source) and not isinstance(source, list | tuple) and not _iterates(source):
        source = torch_.picked(source, wanted.count)
    found = sources.open_arrays(source, wanted.inputs, wanted.enough, parts)
    return _as_they_are(replace(found, notes=parts.notes), wanted)


def _as_they_are(source: Source, wanted: Wanted) -> Source:
    return replace(source, notes=(*source.notes, AS_THEY_ARE)) if wanted.preprocess else source


def _iterates(source: Any) -> bool:
    return hasattr(type(source), "__iter__")


def _is_function(source: Any) -> bool:
    """Functions and classes; a reader or a data set that can be called is read instead."""
    if isinstance(source, type) or inspect.isroutine(source):
        return True
    read = any(hasattr(source, name) for name in ("get_next", "__iter__", "__getitem__"))
    return callable(source) and not read


def _call(function: Callable[..., Any], inputs: Sequence[TensorSpec]) -> Any:
    """What the function gives; it is handed the inputs where it cannot be called without."""
    try:
        inspect.signature(function).bind()
    except TypeError:
        return function(inputs)
    except ValueError:  # built in, without a signature
        return function()
    return function()


def _from_path(path: Path, wanted: Wanted) -> Source:
    if path.is_dir():
        return _from_folder(path, wanted)
    if not path.is_file():
        raise ComqError("the calibration data do not exist", where=str(path), fix="check the path")
    suffix = path.suffix.lower()
    if suffix in sources.SUFFIXES:
        return _as_they_are(sources.open_file(path, wanted.inputs), wanted)
    if suffix in torch_.SUFFIXES:
        held, notes = torch_.read_saved(path, wanted.inputs)
        found = sources.open_arrays(held, wanted.inputs, wanted.enough)
        return _as_they_are(replace(found, description=path.name, notes=notes), wanted)
    if suffix in text.SUFFIXES:
        raise ComqError(
            "a text is fed as tokens", where=str(path), fix="say which with --tokenizer tokenizer.json"
        )
    for suffixes, opener in _folders():
        if suffix in suffixes:
            return opener([path], path.name, wanted)
    raise ComqError(f"'{path.suffix}' files are no calibration data", where=str(path), fix=f"give {KINDS}")


def _folders() -> tuple[tuple[Sequence[str], Opener], ...]:
    return (images.SUFFIXES, images.pictures), (audio.SUFFIXES, audio.sounds)


def _from_folder(folder: Path, wanted: Wanted) -> Source:
    """Arrays in the folder itself, or else pictures, or else sounds, in folders inside it too."""
    name = f"{folder.name}/"
    arrays = sorted(f for f in folder.iterdir() if f.suffix in sources.SUFFIXES and f.is_file())
    found: list[tuple[Sequence[Path], Callable[[], Source]]] = []
    if arrays:
        found.append((arrays, lambda: _as_they_are(sources.open_files(arrays, name, wanted.inputs), wanted)))
    for suffixes, opener in _folders():
        if files := files_below(folder, suffixes):
            found.append((files, lambda files=files, opener=opener: opener(files, name, wanted)))
    if not found:
        raise ComqError(
            "the folder holds no pictures, .wav, .npz or .npy files", where=str(folder), fix=f"give {KINDS}"
        )
    taken, opens = found[0]
    opened = opens()
    return replace(opened, notes=(*opened.notes, *_left_out(folder, taken)))


def _left_out(folder: Path, taken: Sequence[Path]) -> list[str]:
    """What else lies in the folder, by suffix."""
    used = set(taken)
    rest = [f for f in files_below(folder) if f not in used]
    if not rest:
        return []
    kinds = Counter(file.suffix.lower() or "no suffix" for file in rest)
    listed = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    return [f"in {folder.name}/ other files are left out: {listed}."]
