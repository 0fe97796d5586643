"""How pictures are prepared, as text: what is read, and what is refused in one sentence."""

from dataclasses import fields

import pytest

from comq_onnx.errors import ComqError
from comq_onnx.preprocess import READERS, Preprocess, parse
from comq_onnx.presets import PRESETS
from comq_onnx.recipe import Recipe


def test_nothing_says_nothing():
    assert parse("").says == Preprocess()


def test_pairs_win_over_their_preset():
    found = parse("imagenet, size=256x320, colour=BGR, std=0.5")
    assert found.preset == "imagenet"
    assert found.says == Preprocess(
        size=(256, 320), resize="short", crop=0.875, colour="bgr", unit=1,
        mean=(0.485, 0.456, 0.406), std=(0.5,),
    )  # fmt: skip


def test_lists_go_on_over_commas_and_spellings_are_one():
    text = "mean255=103.939,116.779,123.68,std255=1,Interpolation=bicubic,crop_pct=0.9,color=gray"
    text += ",resize=letterbox"
    assert parse(text).says == Preprocess(
        unit=255, mean=(103.939, 116.779, 123.68), std=(1.0,), filter="bicubic", crop=0.9, colour="grey",
        resize="pad",
    )  # fmt: skip


def test_another_unit_leaves_nothing_of_the_presets_numbers():
    says = parse("imagenet,mean255=127").says
    assert (says.unit, says.mean, says.std) == (255, (127.0,), None)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_read(name: str):
    assert parse(name).says != Preprocess()
    assert Recipe(preprocess=name).preprocess == name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("imagenett", "no preset 'imagenett'; did you mean imagenet"),
        ("mena=0.5", "'mena' is no key of it; did you mean mean"),
        ("size=224,size=3", "given twice"),
        ("size=224,yolo", "'yolo' is no key=value"),
        ("mean=123.675", r"not in units of pixels of 0 to 1; write mean255=123.675"),
        ("std=58", r"not in units of pixels of 0 to 1; write std255=58"),
        ("mean255=0.485", r"not in units of pixels of 0 to 255; write mean=0.485"),
        ("mean=0.5,std255=127", "different units"),
        ("std=0", "numbers above 0"),
        ("mean=nan", "'nan' is no mean"),
        ("mean=1,1,1,1,1", "one for each channel"),
        ("size=0", "'0' is no size"),
        ("size=99999", "'99999' is no size"),
        ("size=1x2x3", "is no size"),
        ("crop=2", "share of the picture"),
        ("colour=cmyk", "use one of rgb, bgr, grey"),
        ("rate=fast", "samples a second"),
        ("fill=300", "pixel of 0 to 255"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(text: str, said: str):
    with pytest.raises(ComqError, match=said) as caught:
        Recipe(preprocess=text)
    assert str(caught.value).startswith("--preprocess: ")


def test_every_key_is_a_field():
    names = {f.name for f in fields(Preprocess)} - {"unit"}
    assert {key.removesuffix("255") for key in READERS} == names
