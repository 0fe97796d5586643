"""Broken and hostile calibration data: archives, sounds, pictures, texts, specifications."""

import io
import json
import pickle
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fuzzing.attempt import CANARY, CANARY_MODULE, OUTPUT, Attempt
from fuzzing.graphs import corpus
from fuzzing.models import QUICK
from fuzzing.protos import mutate_bytes


class Payload:
    """Makes the canary where it is unpickled."""

    def __reduce__(self) -> tuple:
        return (eval, (f"open({CANARY!r}, 'w').close()",))


INPUTS = {
    "chain": {"x": (6, 16)},
    "words": {"ids": (6, 5), "attention_mask": (6, 5)},
    "convnet": {"x": (6, 3, 8, 8)},
}
INPUTS |= {"sound": {"x": (6, 1, 1, 64)}}


def make_data(rng: random.Random, folder: Path) -> Attempt:
    """One source of calibration data for a model that takes it."""
    make = rng.choice(MAKERS)
    how, words = make(rng, folder)
    return Attempt(how, tuple(words))


def command(name: str, rng: random.Random, folder: Path, *more: object) -> list[str]:
    path = folder / "model.onnx"
    path.write_bytes(dict(corpus())[name].SerializeToString())
    words = [str(path), "-o", str(folder / OUTPUT), *QUICK, "--target", "ort", *map(str, more)]
    return words + list(
        rng.choice(((), ("--quiet",), ("--preview-data",), ("--batch-size", "3"), ("--dry-run",)))
    )


def arrays(name: str, rng: random.Random) -> dict[str, np.ndarray]:
    """What the model wants."""
    values = np.random.default_rng(rng.randrange(1000))
    if name == "words":
        return {
            key: values.integers(0, 12 if key == "ids" else 2, shape) for key, shape in INPUTS[name].items()
        }
    return {key: values.standard_normal(shape).astype(np.float32) for key, shape in INPUTS[name].items()}


def wrong_arrays(rng: random.Random, folder: Path) -> tuple[str, list[str]]:
    """Arrays of the wrong type, shape, rank or name, or that hold what is no number."""
    name = rng.choice(("chain", "words", "convnet"))
    held = arrays(name, rng)
    key = rng.choice(list(held))
    array = held[key]
    how = rng.choice(
        ("type", "shape", "rank", "nan", "object", "names", "empty", "structured", "ids", "more", "order")
    )
    if how == "type":
        kinds = ("f2", "f8", "i1", "u8", "c8", "S3", "U3", "M8[s]", "m8[s]", "?", ">f4", "V7", "g")
        with np.errstate(all="ignore"):
            held[key] = np.zeros(array.shape, rng.choice(kinds))
    elif how == "shape":
        held[key] = array[..., :-1] if rng.random() < 0.5 else np.concatenate([array, array], axis=-1)
    elif how == "rank":
        held[key] = rng.choice(
            (array[0], array[None], array.reshape(-1), np.asarray(array.reshape(-1)[0]), array[None, None])
        )
    elif how == "nan":
        held[key] = array.astype(np.float32)
        held[key].reshape(-1)[rng.randrange(array.size)] = rng.choice((np.nan, np.inf, -np.inf, 3e38))
    elif how == "object":
        held[key] = np.array([Payload()] * 6, dtype=object)
    elif how == "names":
        held[rng.choice(("../evil", "/abs", "", "y", "a\nb", "\x1b[31m", "[/b]"))] = held.pop(key)
    elif how == "empty":
        held[key] = rng.choice((array[:0], array[:, :0]))
    elif how == "structured":
        held[key] = np.zeros(array.shape, [("a", "f4"), ("b", "i4")])
    elif how == "ids":
        held[key] = (array * rng.choice((10**6, -1, 2**40))).astype(rng.choice((np.int64, np.float32)))
    elif how == "more":
        held["more"] = array
    else:
        held[key] = np.asfortranarray(array)
    path = folder / "data.npz"
    rng.choice((np.savez, np.savez_compressed))(path, **held)
    return f"npz for {name}: {how} of {key}", command(name, rng, folder, "--data", path)


def broken_archive(rng: random.Random, folder: Path) -> tuple[str, list[str]]:
    """The bytes of a .npz, .npy or .pt file changed."""
    suffix = rng.choice(("npz", "npz", "npy", "pt"))
    held = arrays("chain", rng)
    buffer = io.BytesIO()
    if suffix == "npz":
        rng.choice((np.savez, np.savez_compressed))(buffer, **held)
    elif suffix == "npy":
        np.save(buffer, held["x"])
    else:
        pickle.dump(rng.choice((Payload(), held, [1, 2])), buffer, protocol=2)
    how, data = mutate_bytes(buffer.getvalue(), rng.randbytes(100), rng)
    if suffix == "pt" and rng.random() < 0.5:
        data = _torch_like(buffer.getvalue(), rng)
    path = folder / f"data.{suffix}"
    path.write_bytes(data)
    return f".{suffix} {how}", command("chain", rng, folder, "--data", path)


def _torch_like(pickled: bytes, rng: random.Random) -> bytes:
    """The layout of ``torch.save`` around a pickle of one's own."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/data/0", rng.randbytes(64))
    return buffer.getvalue()


def header(rng: random.Random, folder: Path) -> tuple[str, list[str]]:
    """A .npy header of one's own: huge shapes, expressions, objects."""
    shape = rng.choice(
        ("(6, 16)", "(2**62,)", "(99999999999, 16)", "(-1, 16)", "()", "(6, 16.0)", "(6, 16", "(True, 16)")
    )
    if rng.random() < 0.3:
        shape = rng.choice(
            ("(4611686018427387904, 16)", "(0, 99999999999999)", "(6,) * 99", f"(open({CANARY!r}, 'w'), 1)")
        )
    kind = rng.choice(
        ("'<f4'", "'|O'", "'<f4'", "'<U99999999'", "[('a', '<f4')]", "'>f8'", "'nonsense'", "'<m8'")
    )
    text = f"{{'descr': {kind}, 'fortran_order': {rng.choice(('False', 'True', '3'))}, 'shape': {shape}, }}"
    if rng.random() < 0.1:
        text = "(" * 5000 + text
    body = text.encode() + b" " * 10 + b"\n"
    version = rng.choice((1, 1, 2, 3, 9))
    length = struct.pack("<H" if version == 1 else "<I", min(len(body), 65535))
    data = b"\x93NUMPY" + bytes((version, 0)) + length + body + rng.randbytes(384)
    suffix = rng.choice(("npy", "npz"))
    path = folder / f"data.{suffix}"
    if suffix == "npy":
        path.write_bytes(data)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", data)
    return f".{suffix} with the header {text[:80]}", command("chain", rng, folder, "--data", path)


def bomb(rng: random.Random, folder: Path) -> tuple[str, list[str]]:
    """Much in little: declared or real sizes far beyond the file's."""
    how = rng.choice(("zeros", "declared", "members", "nested name", "duplicate", "symlink"))
    path = folder / "data.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        if how == "zeros":
            head = io.BytesIO()
            np.lib.format.write_array_header_1_0(
                head, {"descr": "<f4", "fortran_order": False, "shape": (1 << rng.choice((10, 17, 21)), 16)}
            )
            with archive.open("x.npy", "w") as member:
                member.write(head.getvalue())
                for _ in range(rng.choice((1, 8, 128))):
                    member.write(bytes(1 << 20))
        elif how == "declared":
            buffer = io.BytesIO()
            np.save(buffer, arrays("chain", rng)["x"])
            archive.writestr("x.npy", buffer.getvalue())
        elif how == "members":
            for number in range(2000):
                archive.writestr(f"{number}.npy", b"")
        elif how == "nested name":
            archive.writestr(
                rng.choice(("../../x.npy", "/etc/x.npy", "a/b/x.npy", "x", "x.npz")), b"\x93NUMPY"
            )
        elif how == "duplicate":
            buffer = io.BytesIO()
            np.save(buffer, arrays("chain", rng)["x"])
            archive.writestr("x.npy", buffer.getvalue())
        else:
            link = zipfile.ZipInfo("x.npy")
            link.external_attr = 0xA1ED0000
            archive.writestr(link, "/etc/passwd")
    if how == "declared":
        data = bytearray(path.read_bytes())
        at = data.rfind(b"PK\x01\x02")
        struct.pack_into("<I", data, at + 24, rng.choice((0, 1, 0x7FFFFFFF, 0xFFFFFFFE)))
        path.write_bytes(data)
    return f"zip with {how}", command("chain", rng, folder, "--data", path)


def sound(rng: random.Random, folder: Path) -> tuple[str, list[str]]:
    """A .wav of strange numbers, cut or flipped."""
    kind = rng.choice((1, 1, 3, 0xFFFE, 7, 0))
    channels, bits = rng.choice((1, 2, 0, 65535)), rng.choice((8, 16, 24, 32, 64, 0, 12))
    rate = rng.choice((16000, 8000, 1, 0, 2**32 - 1, 44100))
    body = rng.randbytes(rng.choice((0, 1, 7, 1000, 40000)))
    form = struct.pack("<HHIIHH", kind, channels, rate, 1, 1, bits) + rng.choice((b"", rng.randbytes(24)))
    claimed = rng.choice((len(body), len(body), 0xFFFFFFFF, 0))
    data = b"RIFF" + struct.pack("<I", 36 + len(body)) + b"WAVEfmt " + struct.pack("<I", len(form)) + form
    data += b"data" + struct.pack("<I", claimed) + body
    how = "strange"
    if rng.random() < 0.4:
        how, data = mutate_bytes(data, data, rng)
    path = folder / "sound.wav"
    path.write_bytes(data)
    spec = rng.choice(
        (
            (),
            ("--preprocess", "rate=16000"),
            ("--preprocess", "rate=2147483647"),
            ("--preprocess", "window=64"),
        )
    )
    return f"wav: {how} {channels} channels {bits} bits {rate} Hz", command(
        "sound", rng, folder, "--data", path, *spec
    )


def picture(rng: random.Random, folder: Path) -> tuple[str, list[str]]:
    """A picture that is cut, flipped, huge or none."""
    from PIL import Image

    suffix, mode = rng.choice(
        (
            ("png", "RGB"),
            ("jpg", "RGB"),
            ("bmp", "L"),
            ("png", "P"),
            ("png", "I;16"),
            ("gif", "P"),
            ("webp", "RGBA"),
            ("tiff", "F"),
        )
    )
    size = rng.choice(((8, 8), (1, 1), (300, 2), (64, 48)))
    buffer = io.BytesIO()
    Image.new(mode, size, 7).save(buffer, {"jpg": "jpeg"}.get(suffix, suffix))
    data, how = buffer.getvalue(), "whole"
    if suffix == "png" and rng.random() < 0.3:
        head = struct.pack(
            ">IIBBBBB", *rng.choice(((2**31 - 1, 2**31 - 1), (20000, 20000), (0, 8))), 8, 2, 0, 0, 0
        )
        chunk = b"IHDR" + head
        data = data[:8] + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]
        how = "huge"
    elif rng.random() < 0.7:
        how, data = mutate_bytes(data, data, rng)
    path = folder / "pictures" / f"a.{rng.choice((suffix, suffix, 'png', 'jpg'))}"
    path.parent.mkdir()
    path.write_bytes(data)
    spec = rng.choice(
        ("imagenet", "resize=none", "resize=pad,size=8", "size=8", "crop=0.0001", "multiple=2147483647")
    )
    return f"{path.suffix} {how}", command(
        "convnet", rng, folder, "--data", path.parent, "--preprocess", spec
    )


def text(rng: random.Random, folder: Path) -> tuple[str, list[str]]:
    """Lines and a tokenizer, either of them broken."""
    lines = rng.choice(
        (b"a b\n", b"\xff\xfe\x00", b"", b"\n\n", b"a " * 100000, b"\x00" * 100, "é ü\n".encode() * 50)
    )
    path, tokenizer = folder / "lines.txt", folder / "tokenizer.json"
    path.write_bytes(lines)
    vocabulary = {"[UNK]": rng.choice((0, 11, 99)), "a": 1, "b": 2, "[PAD]": rng.choice((3, 500))}
    known = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
    }
    known |= {"model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"}}
    known |= {"truncation": None, "padding": None, "post_processor": None, "decoder": None}
    if rng.random() < 0.4:
        key = rng.choice(list(known))
        known[key] = rng.choice((None, 7, [], {}, {"type": "No"}, "x", {"direction": "Up", "max_length": -1}))
    data = json.dumps(known).encode()
    if rng.random() < 0.4:
        _, data = mutate_bytes(data, data, rng)
    if rng.random() < 0.05:
        data = b"[" * 100000
    tokenizer.write_bytes(data)
    more = rng.choice(((), ("--max-length", "2"), ("--max-length", "-1"), ("--max-length", str(2**40))))
    return "text", command("words", rng, folder, "--data", path, "--tokenizer", tokenizer, *more)


def specification(rng: random.Random, folder: Path) -> tuple[str, list[str]]:
    """A preparation of pictures in a file or on the command line, which names code or nonsense."""
    from PIL import Image

    (folder / "pictures").mkdir()
    Image.new("RGB", (9, 7), (1, 2, 3)).save(folder / "pictures" / "a.png")
    code = f"{CANARY_MODULE}:call"
    things = (
        code,
        None,
        True,
        -1,
        0,
        1e308,
        float("nan"),
        [],
        [[]],
        {},
        "x" * 5000,
        {"a": [1]},
        [1, 2, 3, 4, 5],
        "224",
    )
    keys = (
        "size",
        "crop_size",
        "image_mean",
        "image_std",
        "do_resize",
        "do_rescale",
        "resample",
        "do_center_crop",
    )
    keys += (
        "input_size",
        "mean",
        "std",
        "crop_pct",
        "crop_mode",
        "interpolation",
        "pretrained_cfg",
        "preset",
        "module",
    )
    found = {
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "size": {"height": 8, "width": 8},
        "do_resize": True,
    }
    for key in rng.sample(keys, 3):
        found[key] = rng.choice((*things, {"shortest_edge": rng.choice(things)}, {"height": 8, "width": 0}))
    path = folder / f"spec.{rng.choice(('json', 'json', 'toml'))}"
    lines = json.dumps(found).encode()
    if path.suffix == ".toml":
        lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in found.items()).encode()
    if rng.random() < 0.2:
        _, lines = mutate_bytes(lines, lines, rng)
    path.write_bytes(lines)
    spec = rng.choice((str(path), str(path), f"{path},size=8", code, f"filter={code}", f"preset={code}"))
    return f"spec {spec[-40:]}", command(
        "convnet", rng, folder, "--data", folder / "pictures", "--preprocess", spec
    )


def folders(rng: random.Random, folder: Path) -> tuple[str, list[str]]:
    """Folders that hold nothing, themselves, or what cannot be read."""
    inner = folder / "data"
    inner.mkdir()
    how = rng.choice(("empty", "loop", "mixed", "dangling", "names", "device"))
    if how == "loop":
        (inner / "again").symlink_to(inner)
    elif how == "mixed":
        (inner / "a.npz").write_bytes(b"PK")
        (inner / "b.wav").write_bytes(b"RIFF")
    elif how == "dangling":
        (inner / "a.npz").symlink_to("nowhere")
    elif how == "names":
        np.savez(inner / "a\n\x1b[31m.npz", x=np.zeros((2, 16), np.float32))
    elif how == "device":
        (inner / "a.npy").symlink_to(rng.choice(("/dev/zero", "/dev/null", "/proc/self/mem")))
    source = rng.choice((inner, inner, inner / "none", "/dev/zero"))
    return f"folder: {how}", command("chain", rng, folder, "--data", source)


MAKERS: tuple[Callable[[random.Random, Path], tuple[str, list[str]]], ...] = (
    *(wrong_arrays, wrong_arrays, wrong_arrays, broken_archive, broken_archive, header, header, bomb),
    *(sound, sound, picture, picture, text, specification, folders),
)
