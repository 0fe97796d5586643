"""Small models and data under the names that the pages use, so that their commands can be run."""

import json
import wave
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

PICTURES = """<ir_version: 10, opset_import: ["" : 21]>
pictures (float[N,3,64,64] image) => (float[N,10] logits, float[N,8000] embedding) {
    a = Conv<kernel_shape=[8,8], strides=[8,8]>(image, stem)
    b = Relu(a)
    c = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(b, features)
    d = Relu(c)
    e = ReduceMean<keepdims=0>(d, axes)
    f = MatMul(e, neck)
    g = Relu(f)
    logits = MatMul(g, head)
    embedding = MatMul(g, wide)
}"""
ANY_SIZE = PICTURES.replace("64,64] image", "H,W] image")
WORDS = """<ir_version: 10, opset_import: ["" : 21]>
words (int64[N,T] input_ids, int64[N,T] attention_mask) => (float[N,64] embedding) {
    a = Gather(table, input_ids)
    b = MatMul(a, up)
    c = Relu(b)
    d = MatMul(c, down)
    m = Cast<to=1>(attention_mask)
    u = Unsqueeze(m, last)
    e = Mul(d, u)
    embedding = ReduceSum<keepdims=0>(e, axes)
}"""
SOUNDS = """<ir_version: 10, opset_import: ["" : 21]>
sounds (float[N,T] wave) => (float[N,8] score) {
    a = Unsqueeze(wave, channel)
    b = Conv<kernel_shape=[64], strides=[32]>(a, bank)
    c = Relu(b)
    d = ReduceMean<keepdims=0>(c, axes)
    score = MatMul(d, head)
}"""
SHAPES = {
    PICTURES: {
        "stem": (32, 3, 8, 8),
        "features": (64, 32, 3, 3),
        "neck": (64, 256),
        "head": (256, 10),
        "wide": (256, 8000),
    },
    WORDS: {"table": (40, 64), "up": (64, 256), "down": (256, 64)},
    SOUNDS: {"bank": (64, 1, 64), "head": (64, 8)},
}
LISTS = {
    PICTURES: {"axes": [2, 3]},
    WORDS: {"axes": [1], "last": [-1]},
    SOUNDS: {"axes": [2], "channel": [1]},
}
SHAPES[ANY_SIZE], LISTS[ANY_SIZE] = SHAPES[PICTURES], LISTS[PICTURES]
NAMES = {"stem": "stem/Conv", "features": "features.0/Conv"}
MAKE = """import numpy as np

def make():
    return {"image": np.random.default_rng(0).normal(size=(16, 3, 64, 64)).astype(np.float32)}
"""
SCORES = """import numpy as np

def accuracy(predict):
    images = np.random.default_rng(1).normal(size=(8, 3, 64, 64)).astype(np.float32)
    return 100 - float(np.abs(predict({"image": images})["logits"]).mean())
"""
TOP1 = """def score(predict):
    import numpy as np
    with np.load("images.npz") as images:
        return 100 * float((predict({"image": images["image"]})["logits"].argmax(axis=1) == 3).mean())
"""
PREPARED = {
    "do_resize": True, "size": {"height": 64, "width": 64}, "do_normalize": True, "do_rescale": True,
    "rescale_factor": 1 / 255, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
}  # fmt: skip


def model_of(text: str) -> onnx.ModelProto:
    """The model with random weights; nodes are named after their weights."""
    rng, model = np.random.default_rng(0), onnx.parser.parse_model(text)
    for name, shape in SHAPES[text].items():
        fan = np.prod(shape[1:]) if len(shape) > 2 else shape[0]
        values = (rng.normal(size=shape) * (2 / fan) ** 0.5).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    for name, values in LISTS[text].items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
    for number, node in enumerate(model.graph.node):
        weight = next((name for name in node.input if name in SHAPES[text]), "")
        node.name = NAMES.get(weight, f"{weight or number}/{node.op_type}")
    onnx.checker.check_model(helper.make_model(model.graph, opset_imports=model.opset_import, ir_version=10))
    return model


def write_pictures(folder: Path) -> None:
    """A folder of photographs, arrays of such, labels' metric, a loader."""
    image, rng = pytest.importorskip("PIL.Image"), np.random.default_rng(2)
    (folder / "photos").mkdir()
    for index in range(6):
        small = rng.integers(0, 256, (9, 12, 3)).astype(np.uint8)
        image.fromarray(small).resize((320, 240), image.Resampling.BICUBIC).save(
            folder / "photos" / f"{index}.jpg"
        )
    for name, count in (("samples", 24), ("test", 8), ("images", 8)):
        values = rng.normal(size=(count, 3, 64, 64)) + rng.normal(size=(count, 3, 1, 1))
        np.savez(folder / f"{name}.npz", image=values.astype(np.float32))
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPARED), encoding="utf-8")
    for name, text in (("mydata", MAKE), ("my_scores", SCORES), ("top1", TOP1)):
        (folder / f"{name}.py").write_text(text, encoding="utf-8")


def write_lines(folder: Path) -> None:
    """Lines of text, and a tokenizer of whole words."""
    tokenizers = pytest.importorskip("tokenizers")
    words = [f"w{number}" for number in range(38)]
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", *words])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(folder / "tokenizer.json"))
    rng = np.random.default_rng(3)
    lines = [" ".join(rng.choice(words, size=rng.integers(3, 12))) for _ in range(24)]
    (folder / "lines.txt").write_text("\n".join(lines), encoding="utf-8")


def write_sounds(folder: Path) -> None:
    """Tones at 16 kHz."""
    (folder / "wavs").mkdir()
    time = np.arange(8000) / 16000
    for index in range(6):
        tone = np.sin(2 * np.pi * (200 + 150 * index) * time) * 12000
        with wave.open(str(folder / "wavs" / f"{index}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16000)
            file.writeframes(tone.astype("<i2").tobytes())
