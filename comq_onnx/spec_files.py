"""``--preprocess`` as a file: TOML of its own keys, or the JSON that Hugging Face and timm keep by a model.

What is read becomes the text that `preprocess.parse` takes, so that no path is left in it.
"""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from comq_onnx.errors import ComqError
from comq_onnx.preprocess import FLAG, pairs_of

SUFFIXES = (".toml", ".json")
FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Pillow's filters by their number"""


def spec_of(text: str) -> str:
    """`text` itself, or where it begins with the name of a file what that stands for, ``key=value`` over it.

    ComqError where the file cannot be read, or says what cannot be done here.
    """
    first, _, rest = text.partition(",")
    if not first.strip().endswith(SUFFIXES):
        return text
    preset, pairs = pairs_of(text_of_file(Path(first.strip())))
    _, over = pairs_of("-," + rest)
    if {"mean255", "std255"} & set(over):
        pairs = {key: value for key, value in pairs.items() if key not in ("mean", "std")}
    if {"mean", "std"} & set(over):
        pairs = {key: value for key, value in pairs.items() if key not in ("mean255", "std255")}
    return ",".join(filter(None, (preset, *(f"{key}={value}" for key, value in (pairs | over).items()))))


def text_of_file(path: Path) -> str:
    """The text that a file stands for; in TOML ``preset`` names one. ComqError where it cannot be read."""
    where = f"{FLAG} {path}"
    try:
        data = path.read_text(encoding="utf-8")
        found = tomllib.loads(data) if path.suffix == ".toml" else json.loads(data)
    except OSError as error:
        raise ComqError(
            f"it cannot be read ({error.strerror})", where=where, fix="name a .toml or .json file"
        ) from None
    except (ValueError, RecursionError) as error:  # no UTF-8, no TOML, no JSON
        raise ComqError(
            f"it is no {path.suffix[1:].upper()} ({error})",
            where=where,
            fix="write lines such as resize = 'pad'",
        ) from None
    if path.suffix == ".json":
        found = _of_json(found, where)
    parts = [str(found.pop("preset"))] if "preset" in found else []
    for key, value in found.items():
        if isinstance(value, bool | dict):
            raise ComqError(f"'{key}' is no value", where=where, fix="write numbers, texts or lists of them")
        parts.append(f"{key}={','.join(map(str, value)) if isinstance(value, list) else value}")
    return ",".join(parts)


def _of_json(found: Any, where: str) -> dict[str, Any]:
    """The keys of `preprocess` that a JSON file of another program stands for."""
    refused = ComqError(
        "it says nothing of pictures that is known here",
        where=where,
        fix="name Hugging Face's preprocessor_config.json, or timm's config.json",
    )
    if not isinstance(found, dict):
        raise refused
    try:
        timm = found.get("pretrained_cfg", found)
        if "input_size" in timm and "mean" in timm:
            return _of_timm(timm)
        if {"image_mean", "size", "do_resize"} & set(found):
            return _of_processor(found, where)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        raise refused from None
    raise refused


def _of_timm(found: Mapping[str, Any]) -> dict[str, Any]:
    """timm's pretrained_cfg: ``crop_pct`` and ``crop_mode`` are its transforms' (timm.data)."""
    mode = {"center": "short", "squash": "exact", "border": "pad"}[found.get("crop_mode", "center")]
    crop = {"crop": found.get("crop_pct", 0.875)} if mode == "short" else {}
    return {
        "size": "x".join(map(str, found["input_size"][1:])),
        "resize": mode,
        **crop,
        "filter": found.get("interpolation", "bicubic"),
        "mean": list(found["mean"]),
        "std": list(found["std"]),
    }


def _of_processor(found: Mapping[str, Any], where: str) -> dict[str, Any]:
    """An image processor of Hugging Face transformers."""
    size, crop = found.get("size"), found.get("crop_size")
    size = size if isinstance(size, dict) else {"shortest_edge": size} if size else {}
    crop = crop if isinstance(crop, dict) else {"height": crop, "width": crop} if crop else {}
    cropped = bool(found.get("do_center_crop") and crop)
    short = size.get("shortest_edge")
    says: dict[str, Any] = {}
    if found.get("do_resize", True) and short:
        target = crop if cropped else {"height": short, "width": short}
        says["resize"] = "short"
        says["crop"] = found.get("crop_pct") or min(target["height"] / short, 1)
        says["size"] = f"{target['height']}x{target['width']}"
    elif found.get("do_resize", True) and "height" in size:
        if cropped and (crop["height"], crop["width"]) != (size["height"], size["width"]):
            raise ComqError(
                "it resizes to a fixed size and crops then",
                where=where,
                fix="give arrays (.npz), or a function of your own as module:callable",
            )
        says |= {"resize": "exact", "size": f"{size['height']}x{size['width']}"}
    if isinstance(found.get("resample"), int):
        says["filter"] = FILTERS[found["resample"]]
    normalised = found.get("do_normalize", True) and "image_mean" in found
    unit = "" if found.get("do_rescale", True) else "255"
    says[f"mean{unit}"] = list(found["image_mean"]) if normalised else 0
    says[f"std{unit}"] = list(found["image_std"]) if normalised else 1
    return says
