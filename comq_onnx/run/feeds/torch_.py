"""What torch users have: data loaders, data sets, ``.pt`` files; their tensors and pairs become arrays.

torch is never imported but to read a ``.pt`` file: whoever has a tensor has imported it already.
"""

import pickle
import struct
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from comq_onnx.errors import ComqError
from comq_onnx.run.feeds.wanted import spread
from comq_onnx.run.session import TensorSpec

SUFFIXES = (".pt", ".pth")
BROKEN = (
    *(RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError),
    *(struct.error, pickle.UnpicklingError),
)
"""What torch's reader raises on files that are cut or are no such files"""


def is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def is_dataset(source: Any) -> bool:
    """Whether it is a map-style data set: it has items by number, and no iterator of its own."""
    return not isinstance(source, Mapping | str | np.ndarray) and all(
        hasattr(source, name) for name in ("__getitem__", "__len__")
    )


def as_array(tensor: Any) -> np.ndarray:
    """A tensor of any device on the host; bfloat16, which NumPy does not have, as float32."""
    host = tensor.detach().cpu()
    return (host.float() if "bfloat16" in str(host.dtype) else host).numpy()


def picked(dataset: Any, count: int) -> list[Any]:
    """At most `count` items of a map-style data set, evenly spread."""
    return [dataset[index] for _, index in spread([len(dataset)], count)]


class Parts:
    """Makes an item into arrays by input name; remembers in `notes` what it left out."""

    def __init__(self, inputs: Sequence[TensorSpec]) -> None:
        self.inputs = inputs
        self._ignored: dict[str, None] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self._ignored)

    def __call__(self, item: Any) -> Any:
        """`item` with tensors as arrays; of a tuple, or a list with tensors, the parts that feed the model.

        These are the first ones, by the order of the model's inputs. The rest, labels most often, is left
        out. Of dicts with tensors, entries that are no input are left out. Anything else is as it was.
        """
        if is_tensor(item):
            return as_array(item)
        if isinstance(item, Mapping):
            return self._entries(item)
        first = item[0] if isinstance(item, tuple | list) and item else None
        if not (hasattr(first, "shape") or isinstance(first, Mapping)):
            return item
        if not isinstance(item, tuple) and not any(is_tensor(part) for part in item):
            return item
        if isinstance(first, Mapping):
            self._leave_out(len(item) - 1, "the first, a dict")
            return self._entries(first)
        names = [spec.name for spec in self.inputs]
        if len(item) < len(names):
            raise ComqError(
                f"an item of {len(item)} parts cannot feed the model's {len(names)} inputs",
                where="calibration data",
                fix=f"give a part for each of {', '.join(names)}, or a dict",
            )
        self._leave_out(len(item) - len(names), "the first " + (f"{len(names)}" if names[1:] else "one"))
        parts = zip(names, item, strict=False)
        return {name: as_array(part) if is_tensor(part) else part for name, part in parts}

    def _entries(self, item: Mapping[str, Any]) -> Mapping[str, Any]:
        if not any(is_tensor(value) for value in item.values()):
            return item
        names = {spec.name for spec in self.inputs}
        rest = [f"'{key}'" for key in item if key not in names]
        if rest and len(rest) < len(item):
            self._ignored[f"of each item {', '.join(rest)} is left out: the model has no such input."] = None
        kept = item if len(rest) == len(item) else {k: v for k, v in item.items() if k in names}
        return {key: as_array(value) if is_tensor(value) else value for key, value in kept.items()}

    def _leave_out(self, count: int, taken: str) -> None:
        if count:
            names = ", ".join(f"'{spec.name}'" for spec in self.inputs)
            text = f"of each item {taken} feeds {names}, and {count} more (labels?) is left out."
            self._ignored[text] = None


def read_saved(path: Path, inputs: Sequence[TensorSpec]) -> tuple[Any, tuple[str, ...]]:
    """What ``torch.save`` wrote: a tensor, a dict or tuple of stacked ones, or a list of items.

    Only tensors and plain containers are read (``weights_only``). Also what was left out. ComqError where
    torch is not installed, and for all other files.
    """
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ComqError(
            "torch is needed to read it", where=str(path), fix="pip install torch, or save it as .npz"
        ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other formats of the pickle, which are refused or read
            found = torch.load(path, map_location="cpu", weights_only=True)
    except BROKEN as error:
        what = "it holds more than tensors, which is never read"
        if not isinstance(error, pickle.UnpicklingError):
            what = "it cannot be read as torch's data"
        raise ComqError(
            what, where=str(path), fix="save a tensor, or a dict or list of tensors, with torch.save"
        ) from None
    parts = Parts(inputs)
    if isinstance(found, list):
        return [parts(item) for item in found], parts.notes
    return parts(found), parts.notes
