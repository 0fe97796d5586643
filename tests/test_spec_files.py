"""Specs in files: TOML of our own, and what Hugging Face and timm keep beside a model."""

import json
from pathlib import Path

import pytest

from comq_onnx.errors import ComqError
from comq_onnx.preprocess import Preprocess, parse
from comq_onnx.spec_files import spec_of, text_of_file


def test_a_file_says_the_same(tmp_path: Path):
    path = tmp_path / "spec.toml"
    path.write_text('preset = "imagenet"\nmean = [0.5, 0.4, 0.3]\nsize = 192\ncolour = "bgr"\n')
    text = text_of_file(path)
    assert text == "imagenet,mean=0.5,0.4,0.3,size=192,colour=bgr"
    assert parse(text) == parse("imagenet,mean=0.5,0.4,0.3,size=192x192,color=bgr")


@pytest.mark.parametrize(
    ("data", "said"),
    [(None, "cannot be read"), (b"mean = [", "no TOML"), (b"\xff\xfe", "no TOML"), (b"[a]\nb=1", "no value")],
)
def test_a_file_that_says_nothing_is_named(data: bytes | None, said: str, tmp_path: Path):
    path = tmp_path / "spec.toml"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ComqError, match=said) as caught:
        text_of_file(path)
    assert "spec.toml" in str(caught.value)


def of_json(tmp_path: Path, **found: object) -> Preprocess:
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(found))
    return parse(spec_of(str(path))).says


HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}


def test_hugging_faces_processors(tmp_path: Path):
    vit = of_json(tmp_path, do_resize=True, size={"height": 224, "width": 192}, resample=2, **HALF)
    assert vit == Preprocess(
        size=(224, 192), resize="exact", filter="bilinear", unit=1, mean=(0.5,) * 3, std=(0.5,) * 3
    )
    clip = of_json(
        tmp_path,
        do_center_crop=True,
        crop_size=224,
        size={"shortest_edge": 256},
        resample=3,
        do_normalize=False,
    )
    assert clip == Preprocess(
        size=(224, 224), resize="short", crop=0.875, filter="bicubic", unit=1, mean=(0.0,), std=(1.0,)
    )
    convnext = of_json(tmp_path, crop_pct=0.9, size={"shortest_edge": 224}, do_rescale=False,
                       image_mean=[120, 110, 100], image_std=[60, 60, 60])  # fmt: skip
    assert (convnext.crop, convnext.size, convnext.unit, convnext.mean) == (
        0.9,
        (224, 224),
        255,
        (120, 110, 100),
    )


def test_timms_configs(tmp_path: Path):
    cfg = {"input_size": [3, 288, 288], "crop_pct": 0.95, "interpolation": "bicubic", "mean": [0.5, 0.4, 0.3],
           "std": [0.2, 0.2, 0.2], "crop_mode": "center"}  # fmt: skip
    want = Preprocess(
        size=(288, 288),
        resize="short",
        crop=0.95,
        filter="bicubic",
        unit=1,
        mean=(0.5, 0.4, 0.3),
        std=(0.2,) * 3,
    )
    assert of_json(tmp_path, architecture="resnet50", pretrained_cfg=cfg) == want
    assert of_json(tmp_path, pretrained_cfg=cfg | {"crop_mode": "squash"}).resize == "exact"


def test_pairs_win_over_a_file(tmp_path: Path):
    of_json(tmp_path, size={"height": 224, "width": 224}, **HALF)
    path = tmp_path / "preprocessor_config.json"
    found = parse(spec_of(f"{path},size=96,mean255=1,2,3,std255=9,colour=bgr")).says
    assert found == Preprocess(
        size=(96, 96), resize="exact", unit=255, mean=(1, 2, 3), std=(9,), colour="bgr"
    )
    assert spec_of("imagenet,size=96") == "imagenet,size=96"


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([1], "nothing of pictures"),
        ({"model_type": "bert"}, "nothing of pictures"),
        ({"size": {"height": 256, "width": 256}, "do_center_crop": True, "crop_size": 224}, "crops then"),
        ({"size": 224, "image_mean": 3, "image_std": 3}, "nothing of pictures"),
        ({"mean": [1], "std": [1], "input_size": [3, 4, 4], "crop_mode": "odd"}, "nothing of pictures"),
    ],
)
def test_files_that_say_something_else_are_named(found: object, said: str, tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(found))
    with pytest.raises(ComqError, match=said) as caught:
        spec_of(str(path))
    assert "a.json" in str(caught.value)
