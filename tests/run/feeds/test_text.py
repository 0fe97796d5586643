"""Lines of text as tokens, against the tokenizer's own answers."""

import json

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from comq_onnx.errors import ComqError
from comq_onnx.recipe import Recipe
from comq_onnx.run.data import Calibration, open_calibration
from comq_onnx.run.feeds.text import TextFile
from comq_onnx.run.session import TensorSpec
from comq_onnx.stats.mask import mask_input

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
]
LINES = ["the quick brown fox", "a dog", "", "  jumps over the lazy dog  ", "fox fox fox", "unheard of"]


def ids(*shape: int | None, names=("input_ids",), dtype=np.int64) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, np.dtype(dtype), shape) for name in names)


BERT = ("input_ids", "attention_mask", "token_type_ids")


@pytest.fixture
def tokenizer() -> Tokenizer:
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return made


@pytest.fixture
def files(tokenizer, tmp_path) -> TextFile:
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "lines.txt").write_text("\n".join(LINES), encoding="utf-8")
    return TextFile(tmp_path / "lines.txt", tmp_path / "tokenizer.json")


def opened(files, inputs, vocabulary=None, **recipe) -> Calibration:
    return open_calibration(files, inputs, Recipe(**recipe), vocabulary)


def test_each_line_is_what_the_tokenizer_makes_of_it(files, tokenizer):
    calibration = opened(files, ids(None, None, names=(*BERT, "position_ids")))
    batches, lines = list(calibration.batches()), [line for line in LINES if line]
    assert len(batches) == calibration.samples == 5
    for batch, line in zip(batches, lines, strict=True):
        want = tokenizer.encode(line)
        assert batch["input_ids"].tolist() == [want.ids]
        assert batch["attention_mask"].tolist() == [want.attention_mask]
        assert batch["token_type_ids"].tolist() == [want.type_ids]
        assert batch["position_ids"].tolist() == [list(range(len(want.ids)))]
        assert {values.dtype for values in batch.values()} == {np.dtype(np.int64)}
    assert calibration.notes == ()
    assert "5 lines, cut to 128 tokens" in calibration.description


@pytest.mark.parametrize("direction", ["right", "left"])
def test_a_fixed_length_is_padded_and_masked(direction, files, tokenizer, tmp_path):
    tokenizer.enable_padding(length=6, pad_id=0, direction=direction)
    tokenizer.enable_truncation(6)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    inputs = ids(2, 6, names=(*BERT, "position_ids"), dtype=np.int32)
    calibration = opened(files, inputs)
    want = [tokenizer.encode(line) for line in LINES if line]
    got = [np.concatenate([b[name] for b in calibration.batches()]) for name in BERT[:2]]
    assert [b["input_ids"].shape for b in calibration.batches()] == [(2, 6)] * 2
    assert got[0].tolist() == [encoding.ids for encoding in want][:4]
    assert got[1].tolist() == [encoding.attention_mask for encoding in want][:4]
    position = next(calibration.batches())["position_ids"][1]  # "a dog" is of four tokens
    assert position.tolist() == ([0, 1, 2, 3, 3, 3] if direction == "right" else [0, 0, 0, 1, 2, 3])
    assert mask_input("", [spec.name for spec in inputs], calibration) == "attention_mask"


def test_lines_are_cut_and_told(files, tokenizer, tmp_path):
    inputs = ids(None, None)
    assert max(b["input_ids"].shape[1] for b in opened(files, inputs, max_length=4).batches()) == 4
    tokenizer.enable_truncation(5)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert max(b["input_ids"].shape[1] for b in opened(files, inputs).batches()) == 5
    assert max(b["input_ids"].shape[1] for b in opened(files, ids(1, 3)).batches()) == 3
    with pytest.raises(ComqError, match="--max-length: the model reads 8 tokens"):
        opened(files, ids(1, 8), max_length=9)


def test_lines_run_together_are_of_one_length(files):
    inputs = ids(None, None)
    shapes = [b["input_ids"].shape for b in opened(files, inputs, batch_size=4).batches()]
    assert shapes == [(2, 4), (1, 5), (1, 6), (1, 7)]


def test_an_even_subset_is_taken(files, tokenizer):
    (files.path).write_text("\ufeff" + "\n".join(WORDS[4:12]), encoding="utf-8")
    calibration = opened(files, ids(None, None), calibration_samples=2)
    assert [b["input_ids"][0, 1] for b in calibration.batches()] == [4 + 2, 4 + 6]
    assert "8 lines" in calibration.description


def test_inputs_have_other_names_too(files):
    batch = next(opened(files, ids(1, 6, names=("input_ids:0", "input_mask:0", "segment_ids:0"))).batches())
    assert batch["input_mask:0"].tolist() == [[1] * 6]
    assert next(opened(files, ids(1, 6, names=("x",))).batches())["x"].shape == (1, 6)
    (note,) = opened(files, ids(1, 9, names=("input_ids", "input_mask"))).notes
    assert "--mask-input input_mask" in note
    (note,) = opened(files, ids(1, 9)).notes
    assert "no input marks padding" in note


def test_a_folder_of_a_tokenizer_will_do(files):
    assert opened(TextFile(str(files.path), str(files.path.parent)), ids(None, None)).samples == 5


def bad(kind: str, files: TextFile) -> TextFile:
    path, tokenizer = files.path, files.tokenizer
    if kind == "empty text":
        path.write_text("\n \n")
    if kind == "latin-1":
        path.write_bytes(b"caf\xe9\n")
    if kind == "no JSON":
        tokenizer.write_text("{")
    if kind == "other JSON":
        tokenizer.write_text(json.dumps({"model": 1}))
    missing = path.with_name("none")
    return {
        "no text": TextFile(missing, tokenizer),
        "no tokenizer": TextFile(path, missing),
    }.get(kind, files)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("empty text", r"lines\.txt: it holds no lines"),
        ("latin-1", r"lines\.txt: it is no UTF-8 text"),
        ("no text", r"none: the text cannot be read"),
        ("no tokenizer", r"--tokenizer .*none: the tokenizer cannot be read \(No such file"),
        ("no JSON", r"--tokenizer .*json: the tokenizer cannot be read \(it is no JSON"),
        ("other JSON", r"--tokenizer .*json: it is no tokenizer"),
    ],
)
def test_broken_files_are_named(kind, said, files):
    with pytest.raises(ComqError, match=said):
        opened(bad(kind, files), ids(None, None))


def test_ids_beyond_the_models_table_name_the_line(files):
    with pytest.raises(
        ComqError, match=r"lines\.txt, line 1: the tokenizer gives the id 7, and the model knows 7"
    ):
        opened(files, ids(None, None), {"input_ids": 7})


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (ids(None, None, names=("input_ids", "past_key_values.0.key")), "no values for .*'past_key"),
        (ids(None, None, names=("attention_mask", "token_type_ids")), "no input of token ids"),
    ],
)
def test_inputs_that_text_cannot_feed_are_named(inputs, said, files):
    with pytest.raises(ComqError, match=said):
        opened(files, inputs)


def test_without_tokenizers_the_extra_is_named(files, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(ComqError, match=r"comq-onnx\[text\]"):
        opened(files, ids(None, None))
