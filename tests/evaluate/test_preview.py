"""What would be fed: numbers against NumPy, and what looks wrong is said."""

from html.parser import HTMLParser
from io import BytesIO, StringIO

import numpy as np
import pytest
from graphs import model, weight
from PIL import Image
from rich.console import Console
from scipy.io import wavfile
from tokenizers import Tokenizer, models, pre_tokenizers

from comq_onnx.errors import ComqError
from comq_onnx.evaluate.preview import Preview, preview
from comq_onnx.evaluate.preview_page import contact_sheet, page
from comq_onnx.evaluate.preview_table import print_preview
from comq_onnx.recipe import Recipe
from comq_onnx.run.feeds.text import TextFile

PICTURES = model("g (float[B,3,8,6] x) => (float[B,3,8,6] y) { y = Relu(x) }")
SOUNDS = model("g (float[B,500] x) => (float[B,500] y) { y = Relu(x) }")
WORDS = model(
    "g (int64[B,S] input_ids, int64[B,S] attention_mask) => (float[B,S,4] y, int64[B,S] z) "
    "{ y = Gather(t, input_ids) z = Identity(attention_mask) }",
    t=weight(10, 4),
)


def seen(net, data, **recipe) -> Preview:
    return preview(net, data, Recipe(**recipe))


def printed(found: Preview) -> str:
    stream = StringIO()
    print_preview(found, Console(width=250, file=stream))
    return stream.getvalue()


def test_numbers_are_those_of_all_samples():
    x = weight(5, 3, 8, 6).clip(-1, 1)
    x[0, 0, :4] = 0
    (view,) = seen(PICTURES, {"x": x}, batch_size=2).inputs
    assert view.kind == "picture"
    assert dict(view.shapes) == {(2, 3, 8, 6): 2, (1, 3, 8, 6): 1}
    assert (view.low, view.high, view.count) == (x.min(), x.max(), x.size)
    assert view.zeros == (x == 0).sum()
    want = [(c.mean(), c.std()) for c in x.astype(np.float64).transpose(1, 0, 2, 3)]
    assert np.allclose(view.channels, want)
    assert np.array_equal(view.kept, x)


def test_the_table_says_what_the_numbers_are():
    x = np.full((4, 3, 8, 6), 0.5, np.float32)
    x[:, 0], x[1:, 1, 0, 0], x[0, 2] = 1, -2, 0
    text = printed(seen(PICTURES, {"x": x}))
    for words in (
        "x",
        "float32",
        "?x3x8x6",
        "4 of 1x3x8x6",
        "-2 to 1",
        "1 +- 0; ",
        "8.3%",
        "Nothing was run",
    ):
        assert words in text


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (np.repeat(weight(1, 3, 8, 6), 4, axis=0), "all 4 samples are the same"),
        (np.repeat(weight(1, 3, 8, 6), 4, axis=0)[:1], None),
        (np.tile(weight(2, 3, 8, 6), (3, 1, 1, 1)), "of 6 samples 2 are different"),
        (np.full((2, 3, 8, 6), 3, np.float32), "input 'x' is 3 everywhere"),
        (weight(2, 3, 8, 6) ** 2 * 9e3, "pixels that are not normalised"),
        (abs(weight(2, 3, 8, 6)) / 255 / 255, "divided by 255 twice"),
        (weight(2, 3, 8, 6), None),
    ],
)
def test_what_looks_wrong_is_said(data, said):
    warnings = seen(PICTURES, {"x": data.astype(np.float32)}).warnings
    assert warnings == () if said is None else any(said in text for text in warnings)


def test_pixels_that_are_asked_for_are_no_mistake(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (8, 6, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    assert seen(PICTURES, tmp_path, preprocess="raw").warnings == ()
    (told,) = seen(PICTURES, {"x": weight(1, 3, 8, 6) ** 2 * 9e3}).warnings
    assert "--preprocess" in told
    assert "NOTHING SAYS" in printed(seen(PICTURES, tmp_path))


def test_loud_and_silent_sounds_are_told():
    (loud,) = seen(SOUNDS, {"x": weight(3, 500) * 1e6}).warnings
    assert "sound is of -1 to 1" in loud
    quiet = np.zeros((3, 500), np.float32)
    quiet[:, :10] = weight(3, 10)
    assert seen(SOUNDS, {"x": quiet}).warnings == ("98% of input 'x' is zero.",)


def test_ids_beyond_the_table_and_masks_of_ones():
    ids = np.arange(8).reshape(2, 4)
    ones = np.ones_like(ids)
    assert seen(WORDS, {"input_ids": ids, "attention_mask": ones}).warnings == ()
    (told,) = seen(WORDS, {"input_ids": ids + 5, "attention_mask": ones}).warnings
    assert told == "input 'input_ids' has ids of 5 to 12, and the model knows 10: it cannot run."


def test_text_is_read_back(tmp_path):
    words = ["[UNK]", "red", "green", "blue"]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "a.txt").write_text("red green\nblue pink red\n")
    found = seen(WORDS, TextFile(tmp_path / "a.txt", tmp_path / "tokenizer.json"))
    assert found.lines == ("red green", "blue [UNK] red")
    assert "fed: red green" in printed(found)
    with pytest.raises(ComqError, match="nothing to draw"):
        contact_sheet(found)


def test_what_a_run_would_refuse_is_refused():
    x = weight(2, 3, 8, 6)
    x[1, 0, 0, 0] = np.nan
    with pytest.raises(ComqError, match="sample 1: the data hold NaN"):
        seen(PICTURES, {"x": x})


def drawn(found: Preview) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(contact_sheet(found))).convert("RGB")).astype(int)


def test_the_contact_sheet_shows_colours_as_they_are_fed(tmp_path):
    picture = np.zeros((8, 6, 3), np.uint8)
    picture[:, 3:] = 255, 0, 0
    Image.fromarray(picture).save(tmp_path / "red.png")
    for how, colour in (("tf,resize=exact", [255, 0, 0]), ("tf,resize=exact,colour=bgr", [0, 0, 255])):
        sheet = drawn(seen(PICTURES, tmp_path, preprocess=how))
        # One tile of 8x6 pixels, each 12 times 12, with the grey of the paper around it.
        assert sheet.shape == (8 * 12 + 12, 6 * 12 + 12, 3)
        assert sheet[6 + 40, 6 + 20].tolist() == [0, 0, 0]
        assert sheet[6 + 40, 6 + 50].tolist() == colour
        assert sheet[2, 2].tolist() == [128] * 3


def test_a_sound_is_drawn_between_its_least_and_greatest_values(tmp_path):
    wavfile.write(
        tmp_path / "a.wav", 8000, np.r_[np.zeros(250), np.tile([0.5, -0.5], 125)].astype(np.float32)
    )
    sheet = drawn(seen(SOUNDS, tmp_path))
    ink = (sheet == [43, 123, 217]).all(axis=-1)
    assert ink[:, 20].sum() <= 2
    assert ink[:, 290:310].sum(axis=0).max() >= 78  # a column of two samples


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.images, self.open = [], []

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.images.append(dict(attrs)["src"])
        elif tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_holds_all_it_shows():
    found = seen(PICTURES, {"x": weight(30, 3, 8, 6)})
    tags = Tags()
    tags.feed(page(found))
    assert tags.open == []
    assert len(tags.images) == 24
    assert all(source.startswith("data:image/png;base64,") for source in tags.images)
    assert "http" not in page(found)


def test_made_up_inputs_are_shown_too():
    found = seen(PICTURES, None, calibration_samples=3)
    assert found.samples == 3
    assert "NO DATA GIVEN" in printed(found)
