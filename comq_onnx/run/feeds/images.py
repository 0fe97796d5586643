"""A folder of pictures as calibration data."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from comq_onnx.run.feeds.picture_plan import PicturePlan, plan_pictures
from comq_onnx.run.feeds.pixels import fed, pillow, read_picture
from comq_onnx.run.feeds.wanted import Wanted, by_folder, spread
from comq_onnx.run.sources import Record, Scratch, Source

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def pictures(files: Sequence[Path], name: str, wanted: Wanted) -> Source:
    """As many pictures as are wanted, spread evenly over the folders they lie in.

    Each is read and resized once; its bytes are kept in a temporary folder. ComqError names the first file
    that cannot be read.
    """
    pillow()
    plan = plan_pictures(wanted.inputs, wanted.preprocess, wanted.metadata)
    groups = by_folder(files)
    chosen = [groups[group][member] for group, member in spread([len(g) for g in groups], wanted.count)]
    scratch, kept = Scratch(), []
    for index, path in enumerate(chosen):
        pixels = read_picture(path, plan)
        place = scratch.path / f"{index}.npy"
        np.save(place, pixels)
        kept.append((path, place))
        if wanted.enough(_record(path, pixels, plan)):
            break

    def records(keep: Scratch = scratch) -> Iterator[Record]:
        for path, place in kept:  # a generator's frame holds `keep`, and with it the files
            yield _record(path, np.load(place, allow_pickle=False), plan)

    count = f"{len(files)} pictures" if len(files) > 1 else "1 picture"
    return Source(f"{name} ({count}, fed as {plan})", records, plan.notes)


def _record(path: Path, pixels: np.ndarray, plan: PicturePlan) -> Record:
    return Record(str(path), {plan.input: fed(pixels, plan)})
