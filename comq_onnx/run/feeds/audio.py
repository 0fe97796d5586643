"""A folder of WAV files as windows of samples."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from comq_onnx.errors import ComqError
from comq_onnx.preprocess import FLAG, SOUND_KEYS, Preprocess, parse, refuse_keys
from comq_onnx.run.feeds.wanted import Wanted, by_folder, spread
from comq_onnx.run.feeds.wav import Sound, read_wav
from comq_onnx.run.session import TensorSpec, is_float
from comq_onnx.run.sources import Record, Scratch, Source

SUFFIXES = (".wav", ".wave")
LONGEST = 30
"""Seconds of a window, where neither the model nor the user says how long it is"""
MOST_FEATURES = 256
"""Above this a fixed last dimension is taken for samples, below for features of a spectrogram"""


@dataclass(frozen=True)
class _Windows:
    """How sounds are cut: `length` samples, or as they are up to `LONGEST` seconds where it is None."""

    spec: TensorSpec
    length: int | None
    how: Preprocess

    def of(self, samples: int, rate: int) -> tuple[int, int]:
        """Length and number of the windows of a sound."""
        length = self.length or max(1, min(samples, LONGEST * rate))
        return length, max(1, samples // length)

    def record(self, path: Path, samples: np.ndarray, turn: int, length: int) -> Record:
        """One window of a sound."""
        cut = np.asarray(samples[turn * length : (turn + 1) * length])
        values = normalised(np.pad(cut, (0, length - len(cut))), self.how.normalize or "none")
        shape = (*(1 for _ in self.spec.shape[:-1]), length)
        return Record(f"{path}, from sample {turn * length}", {self.spec.name: values.reshape(shape)})


def sounds(files: Sequence[Path], name: str, wanted: Wanted) -> Source:
    """As many windows as are wanted, spread evenly over the files and in them; they do not overlap.

    A sound shorter than a window has zeros behind it. Each sound is read once, and kept in a temporary
    folder. ComqError where a file cannot be read, or the model wants features instead of samples.
    """
    windows = _windows(wanted.inputs, parse(wanted.preprocess).says)
    refuse_keys(windows.how.keys() - set(SOUND_KEYS), "sounds")
    groups, total = by_folder(files), len(files)
    files = [groups[group][member] for group, member in spread([len(g) for g in groups], wanted.count)]
    scratch, rates, sizes = Scratch(), set(), []
    for index, path in enumerate(files):
        sound = _read(path, windows.how)
        np.save(scratch.path / f"{index}.npy", sound.samples)
        rates.add(sound.rate)
        sizes.append(len(sound.samples))
    rate = _one_rate(rates, name)
    cuts = [windows.of(size, rate) for size in sizes]
    chosen = spread([count for _, count in cuts], wanted.count)

    def make(keep: Scratch = scratch) -> Iterator[Record]:
        for index, turn in chosen:
            samples = np.load(keep.path / f"{index}.npy", mmap_mode="r", allow_pickle=False)
            yield windows.record(files[index], samples, turn, cuts[index][0])

    taken = next((i + 1 for i, record in enumerate(make()) if wanted.enough(record)), len(chosen))
    return Source(
        f"{name} ({total} sounds, {len(chosen)} windows at {rate} Hz)",
        lambda: islice(make(), taken),
        _notes(sum(s < length for s, (length, _) in zip(sizes, cuts, strict=True)), windows.how, rate),
    )


def _one_rate(rates: set[int], name: str) -> int:
    if len(rates) == 1:
        return next(iter(rates))
    raise ComqError(
        f"the sounds have {len(rates)} rates, from {min(rates)} to {max(rates)} Hz",
        where=name,
        fix="say the model's, --preprocess rate=16000",
    )


def _notes(short: int, how: Preprocess, rate: int) -> tuple[str, ...]:
    notes = [f"{short} sounds are shorter than a window and have zeros behind them."] if short else []
    if how.rate is None:
        notes.append(f"sounds are fed at their own {rate} Hz; --preprocess rate=16000 resamples them.")
    return tuple(notes)


def normalised(window: np.ndarray, how: str) -> np.ndarray:
    """``zscore``: mean 0 and deviation 1; ``peak``: the largest magnitude is 1; silence stays silence."""
    if how == "zscore":
        return ((window - window.mean()) / (window.std() or 1)).astype(np.float32)
    if how == "peak":
        return (window / (np.abs(window).max() or 1)).astype(np.float32)
    return window


def _read(path: Path, how: Preprocess) -> Sound:
    sound = read_wav(path)
    if not len(sound.samples):
        raise ComqError("the sound has no samples", where=str(path), fix="take it out of the folder")
    if how.rate in (None, sound.rate):
        return sound
    try:
        from scipy.signal import resample_poly
    except ImportError:
        raise ComqError(
            "SciPy is needed to change the rate of a sound",
            where=f"{FLAG} rate={how.rate}",
            fix="pip install 'comq-onnx[cpu]'",
        ) from None
    shared = math.gcd(how.rate, sound.rate)
    samples = resample_poly(sound.samples, how.rate // shared, sound.rate // shared)
    return Sound(samples.astype(np.float32), how.rate)


def _windows(inputs: Sequence[TensorSpec], how: Preprocess) -> _Windows:
    """The model's one input of samples, which are its last dimension. ComqError where there is none."""
    spec = inputs[0]
    if len(inputs) > 1:
        raise ComqError(
            f"sounds feed one input, and '{inputs[1].name}' wants values too",
            where="--calibration-data",
            fix="give arrays for every input (.npz), or a function of your own as module:callable",
        )
    inner = spec.shape[1:-1]
    last = spec.shape[-1] if spec.shape else 0
    features = any(side not in (None, 1) for side in inner) or (
        None in inner and 0 < (last or 0) <= MOST_FEATURES
    )
    if len(spec.shape) not in (2, 3) or not is_float(spec.dtype) or features:
        raise ComqError(
            f"input '{spec.name}' of shape {[side or '?' for side in spec.shape]} wants no samples of sound",
            where="--calibration-data",
            fix="give features such as mel spectrograms as .npz, or by a function, module:callable",
        )
    if how.window and last not in (None, how.window):
        raise ComqError(
            f"the model's windows are of {last} samples",
            where=f"{FLAG} window={how.window}",
            fix="leave it out",
        )
    return _Windows(spec, last or how.window, how)
