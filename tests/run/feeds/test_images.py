"""Folders of pictures: the very numbers a model is fed, against Pillow and NumPy by definition."""

import contextlib

import numpy as np
import pytest
from PIL import Image

from comq_onnx.errors import ComqError
from comq_onnx.recipe import Recipe
from comq_onnx.run.data import Calibration, open_calibration
from comq_onnx.run.session import TensorSpec

MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


def spec(*shape: int | None, dtype=np.float32) -> tuple[TensorSpec, ...]:
    return (TensorSpec("x", np.dtype(dtype), shape),)


NCHW = spec(None, 3, 32, 32)


def opened(folder, inputs=NCHW, metadata=None, **recipe) -> Calibration:
    return open_calibration(folder, inputs, Recipe(**recipe), metadata=metadata)


def fed(folder, inputs=NCHW, metadata=None, **recipe) -> list[np.ndarray]:
    return [batch["x"] for batch in opened(folder, inputs, metadata, **recipe).batches()]


@pytest.fixture
def photo() -> Image.Image:
    """Something with detail, and of no round size."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (12, 17, 3), dtype=np.uint8))
    return small.resize((97, 71), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(photo, tmp_path):
    photo.save(tmp_path / "photo.png")
    return tmp_path


def test_short_side_and_middle_as_torchvision_defines_them(folder, photo):
    # Resize(36): the short side, 71, becomes 36 = int(32 / 0.875); the long one int(36 * 97 / 71).
    resized = photo.resize((int(36 * 97 / 71), 36), Image.Resampling.BILINEAR)
    top, left = round((36 - 32) / 2.0), round((resized.width - 32) / 2.0)
    pixels = np.asarray(resized)[top : top + 32, left : left + 32]
    want = ((pixels.astype(np.float32) / 255 - MEAN) / STD).transpose(2, 0, 1)[None]
    (got,) = fed(folder, preprocess="imagenet")
    assert got.dtype == np.float32
    assert np.array_equal(got, want)


def test_exact_size_in_units_of_255_channels_last(folder, photo):
    pixels = np.asarray(photo.resize((40, 24), Image.Resampling.BICUBIC)).astype(np.float32)
    want = ((pixels - np.float32([127, 128, 129])) / np.float32(2))[None]
    how = "resize=exact,filter=bicubic,mean255=127,128,129,std255=2"
    (got,) = fed(folder, spec(1, 24, 40, 3), preprocess=how)
    assert np.array_equal(got, want)


def test_padding_keeps_the_shape_of_things(folder, photo):
    # 97x71 into 32x32: the ratio is 32/97, so 32x23 with 9 rows of padding, 4 above and 5 below.
    pixels = np.asarray(photo.resize((32, 23), Image.Resampling.BILINEAR))
    want = np.full((32, 32, 3), 114, np.uint8)
    want[4:27] = pixels
    (got,) = fed(folder, preprocess="yolo")
    assert np.array_equal(got, (want.astype(np.float32) / 255).transpose(2, 0, 1)[None])
    (cornered,) = fed(folder, preprocess="yolo,place=corner,fill=0")
    assert np.array_equal(cornered[0, :, :23], got[0, :, 4:27])
    assert not cornered[0, :, 23:].any()


@pytest.mark.parametrize(
    ("inputs", "how", "want"),
    [
        (spec(1, 3, 2, 2), "unit", [[[1, 1], [1, 1]], [[0, 0], [0, 0]], [[0, 0], [0, 0]]]),
        (spec(1, 3, 2, 2), "unit,colour=bgr", [[[0, 0], [0, 0]], [[0, 0], [0, 0]], [[1, 1], [1, 1]]]),
        (spec(1, 2, 2, 3), "unit", [[[1, 0, 0], [1, 0, 0]], [[1, 0, 0], [1, 0, 0]]]),
        (spec(1, 2, 2, 4), "raw", [[[255, 0, 0, 255]] * 2] * 2),
        (spec(1, 2, 2, 4), "raw,colour=bgra", [[[0, 0, 255, 255]] * 2] * 2),
        (spec(1, 1, 2, 2), "raw", [[[76, 76], [76, 76]]]),  # ITU-R 601: 0.299 of red
        (spec(1, 3, 2, 2, dtype=np.uint8), "", [[[255] * 2] * 2, [[0] * 2] * 2, [[0] * 2] * 2]),
        (spec(1, 3, 2, 2), "tf", [[[1, 1], [1, 1]], [[-1, -1], [-1, -1]], [[-1, -1], [-1, -1]]]),
        (spec(1, 3, 2, 2), "mean255=255,0,0", [[[0, 0], [0, 0]]] * 3),
    ],
)
def test_red_is_red_in_every_layout(inputs, how, want, tmp_path):
    Image.new("RGB", (5, 4), (255, 0, 0)).save(tmp_path / "red.png")
    (got,) = fed(tmp_path, inputs, preprocess=how)
    assert got.dtype == inputs[0].dtype
    assert np.array_equal(got[0], np.asarray(want, got.dtype))


def test_sides_that_are_not_fixed_follow_the_picture(folder, photo):
    (line,) = fed(folder, spec(None, 3, 48, None), preprocess="ppocr-rec")
    pixels = np.asarray(photo.resize((round(97 * 48 / 71), 48), Image.Resampling.BILINEAR))[:, :, ::-1]
    want = (pixels.astype(np.float32) / 255 - np.float32(0.5)) / np.float32(0.5)
    assert np.array_equal(line[0].transpose(1, 2, 0), want)
    free = spec(None, 3, None, None)
    assert fed(folder, free, preprocess="ppocr-det")[0].shape == (1, 3, 64, 96)
    assert fed(folder, free, preprocess="unit,resize=none")[0].shape == (1, 3, 71, 97)
    assert fed(folder, free, preprocess="unit,size=20x30")[0].shape == (1, 3, 20, 30)
    assert fed(folder, free, preprocess="imagenet")[0].shape == (1, 3, 224, 224)
    with pytest.raises(ComqError, match="no fixed height and width; say size=224"):
        fed(folder, free)


def test_what_is_assumed_is_said_and_what_is_said_is_not_assumed(folder):
    loud, colour = opened(folder).notes
    assert loud.startswith("NOTHING SAYS HOW PICTURES ARE NORMALISED: ImageNet's")
    assert "--preprocess" in loud
    assert "red, green, blue" in colour
    assert np.array_equal(fed(folder)[0], fed(folder, preprocess="imagenet")[0])
    assert opened(folder, preprocess="imagenet").notes == ()
    assert opened(folder, spec(1, 3, 32, 32, dtype=np.uint8), preprocess="colour=rgb").notes == ()
    (grey,) = opened(folder, spec(1, 1, 32, 32)).notes
    assert "0 to 1" in grey
    assert "32x32 RGB NCHW" in opened(folder).description


@pytest.mark.parametrize(
    ("inputs", "metadata", "same"),
    [
        (NCHW, {"stride": "32", "names": "{0: 'person'}", "task": "detect", "imgsz": "[32, 32]"}, "yolo"),
        (spec(1, 3, None, None), {"stride": "32", "names": "", "imgsz": "[64, 32]"}, "yolo,size=64x32"),
        (NCHW, {"stride": "1", "names": "", "task": "classify"}, "unit,resize=short"),
        (spec(None, 3, 48, None), {"character": "a\nb"}, "ppocr-rec"),
        (NCHW, {"Image.BitmapPixelFormat": "Bgr8", "Image.NominalPixelRange": "NominalRange_0_255"},
         "raw,colour=bgr"),
        (NCHW, {"image.nominalpixelrange": "normalized_1_1"}, "vit"),
    ],
)  # fmt: skip
def test_the_models_own_metadata_say_how(inputs, metadata, same, folder):
    calibration = opened(folder, inputs, metadata)
    (got,) = (batch["x"] for batch in calibration.batches())
    assert np.array_equal(got, fed(folder, inputs, preprocess=same)[0])
    assert any("metadata" in note for note in calibration.notes)
    assert not any("NOTHING SAYS" in note for note in calibration.notes)
    (own,) = fed(
        folder, inputs, metadata, preprocess="tf,size=48x48" if None in inputs[0].shape[2:] else "tf"
    )
    assert own.min() < 0


def test_a_subset_is_spread_over_the_folders(tmp_path):
    for kind, (name, count) in enumerate((("cat", 30), ("dog", 4), ("owl", 10)), 1):
        (tmp_path / name).mkdir()
        for i in range(count):
            Image.new("L", (4, 4), kind * 50 + i).save(tmp_path / name / f"{i:02}.png")
    inputs = spec(None, 1, 4, 4)
    values = [int(x[0, 0, 0, 0]) for x in fed(tmp_path, inputs, preprocess="raw", calibration_samples=12)]
    assert sorted(v // 50 for v in values) == [1] * 4 + [2] * 4 + [3] * 4
    assert {v // 50 for v in values[:3]} == {1, 2, 3}
    assert sorted(v for v in values if v < 100) == [53, 61, 68, 76]
    assert opened(tmp_path, inputs, preprocess="raw", calibration_samples=12, batch_size=5).batch_count == 3
    assert len(fed(tmp_path, spec(6, 1, 4, 4), preprocess="raw", calibration_samples=20)) == 3


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "png", "bmp", "webp", "tif", "TIFF"])
def test_every_kind_of_file_is_read(suffix, photo, tmp_path):
    photo.save(tmp_path / f"a.{suffix}")
    pixels = np.asarray(Image.open(tmp_path / f"a.{suffix}").convert("RGB").resize((32, 32), 2))
    (got,) = fed(tmp_path, preprocess="raw")
    assert np.array_equal(got[0], pixels.transpose(2, 0, 1).astype(np.float32))
    (alone,) = fed(tmp_path / f"a.{suffix}", preprocess="raw")
    assert np.array_equal(alone, got)


def test_pictures_stand_upright_and_16_bits_are_scaled(tmp_path):
    sideways = Image.fromarray(np.uint8([[0, 0, 255]] * 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    sideways.save(tmp_path / "a.png", exif=exif)
    (turned,) = fed(tmp_path, spec(1, 1, 3, 3), preprocess="raw")
    assert turned[0, 0].tolist() == [[0] * 3, [0] * 3, [255] * 3]
    (tmp_path / "a.png").unlink()
    Image.fromarray(np.uint16([[0, 256 * 100]] * 2)).save(tmp_path / "b.png")
    (deep,) = fed(tmp_path, spec(1, 1, 2, 2), preprocess="raw")
    assert deep[0, 0].tolist() == [[0, 100]] * 2


def test_batches_are_the_same_every_time_and_leave_nothing(folder, monkeypatch, tmp_path_factory):
    place = tmp_path_factory.mktemp("scratch")
    monkeypatch.setattr("comq_onnx.run.sources.tempfile.tempdir", str(place))
    calibration = opened(folder, preprocess="imagenet")
    first, second = ([batch["x"] for batch in calibration.batches()] for _ in range(2))
    assert np.array_equal(first, second)
    assert len(list(place.iterdir())) == 1
    del calibration
    assert list(place.iterdir()) == []


def broken(kind: str, photo, tmp_path):
    path = tmp_path / "bad.png"
    photo.save(path)
    data = path.read_bytes()
    path.write_bytes({"junk": b"junk", "empty": b"", "cut": data[: len(data) // 2], "head": data[:20]}[kind])


@pytest.mark.parametrize("kind", ["junk", "empty", "cut", "head"])
def test_a_broken_file_is_named(kind, photo, tmp_path):
    broken(kind, photo, tmp_path)
    with pytest.raises(ComqError, match=r"bad\.png: the picture cannot be read"):
        opened(tmp_path)


def test_any_damage_is_an_error_or_a_picture(photo, tmp_path):
    rng = np.random.default_rng(1)
    for suffix in ("png", "jpg", "tif", "bmp", "webp"):
        path = tmp_path / f"a.{suffix}"
        photo.save(path)
        whole = path.read_bytes()
        for _ in range(40):
            data = bytearray(whole[: rng.integers(1, len(whole) + 1)])
            for at in rng.integers(0, len(data), 3):
                data[at] = rng.integers(256)
            path.write_bytes(data)
            with contextlib.suppress(ComqError):
                opened(path)


def test_what_libtiff_prints_of_a_broken_file_stays_off_the_terminal(photo, tmp_path, capfd):
    path = tmp_path / "a.tif"
    photo.save(path, compression="tiff_lzw")
    data = bytearray(path.read_bytes())
    data[8:38] = b"\xff" * 30
    path.write_bytes(data)
    with contextlib.suppress(OSError), Image.open(path) as picture:
        picture.load()
    if not capfd.readouterr().err:
        pytest.skip("this libtiff prints nothing, so there is nothing to keep off")
    with pytest.raises(ComqError, match=r"a\.tif: the picture cannot be read"):
        fed(tmp_path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("factor", [0.9, 0.4])
def test_a_picture_beyond_pillows_bound_is_refused(factor, folder, photo, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(photo.width * photo.height * factor))
    with pytest.raises(ComqError, match=r"photo\.png: the picture has more than .* pixels"):
        opened(folder)


@pytest.mark.parametrize(
    ("inputs", "how", "said"),
    [
        (spec(1, 3, 32, 32), "size=64", "size=64x64 does not fit the model's input 'x' of 32x32"),
        (spec(1, 3, 32, 32), "rate=16000", "rate is said, which pictures have not"),
        (spec(1, 3, 32, 32), "colour=grey", "grey has 1 channels .* has 3"),
        (spec(1, 1, 32, 32), "imagenet", "mean has 3 numbers for 1 channels"),
        (spec(1, 7, 32, 32), "", "say layout=nchw or layout=nhwc"),
        (spec(1, 7, 32, 32), "layout=nchw", "7 channels, which no picture has"),
        (spec(1, 3, 32, 32), "resize=none", "71x97 pixels and the model wants 32x32"),
        (spec(1, 3, 32, 32, dtype=np.int8), "", "do not fit the type int8"),
        (spec(1, 3), "", "no input of pictures"),
        ((*NCHW, TensorSpec("scale", np.dtype(np.float32), (1, 2))), "", "'scale' wants values too"),
    ],
)
def test_what_does_not_fit_the_model_is_one_sentence(inputs, how, said, folder):
    with pytest.raises(ComqError, match=said):
        opened(folder, inputs, preprocess=how)


def test_without_pillow_the_extra_is_named(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(ComqError, match=r"comq-onnx\[images\]"):
        opened(folder)
