"""Folders of WAV files: every format, and the windows that are fed, against ``wave`` and SciPy."""

import wave

import numpy as np
import pytest
from scipy.io import wavfile
from scipy.signal import resample_poly

from comq_onnx.errors import ComqError
from comq_onnx.recipe import Recipe
from comq_onnx.run.data import Calibration, open_calibration
from comq_onnx.run.feeds.wav import read_wav
from comq_onnx.run.session import TensorSpec

RATE = 8000


def spec(*shape: int | None, dtype=np.float32) -> tuple[TensorSpec, ...]:
    return (TensorSpec("x", np.dtype(dtype), shape),)


def opened(folder, inputs, **recipe) -> Calibration:
    return open_calibration(folder, inputs, Recipe(**recipe))


def windows(folder, inputs, **recipe) -> np.ndarray:
    return np.concatenate([batch["x"] for batch in opened(folder, inputs, **recipe).batches()])


def tone(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (0.5 * np.sin(np.arange(count) * 0.05) + rng.normal(0, 0.05, count)).astype(np.float32)


def write_pcm(path, ints: np.ndarray, width: int, rate: int = RATE) -> None:
    """By the standard library; `ints` is (frames, channels)."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(ints.shape[1])
        file.setsampwidth(width)
        file.setframerate(rate)
        data = ints.astype("<i4").reshape(-1)
        bytes_ = data.view(np.uint8).reshape(-1, 4)[:, :width]
        file.writeframes(((data + 128).astype(np.uint8) if width == 1 else bytes_).tobytes())


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_pcm_of_every_width_is_its_value_over_the_largest(width, tmp_path):
    top = 2 ** (8 * width - 1)
    ints = np.array([[0, 0], [top - 1, -top], [top // 2, top // 2], [-top, -top], [1, 1]])
    write_pcm(tmp_path / "a.wav", ints, width)
    sound = read_wav(tmp_path / "a.wav")
    assert sound.rate == RATE
    assert sound.samples.dtype == np.float32
    assert np.allclose(sound.samples, (ints / top).mean(axis=1), atol=1e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.int32, np.uint8])
def test_what_scipy_writes_is_what_scipy_reads(dtype, tmp_path):
    scale = {"f": 1, "i": np.iinfo(dtype).max if dtype not in (np.float32, np.float64) else 1}.get(
        np.dtype(dtype).kind, 100
    )
    data = (tone(50).reshape(25, 2) * scale + (128 if dtype is np.uint8 else 0)).astype(dtype)
    wavfile.write(tmp_path / "a.wav", RATE, data)
    _, read = wavfile.read(tmp_path / "a.wav")
    values = read.astype(np.float64)
    if np.dtype(dtype).kind == "i":
        values /= -float(np.iinfo(dtype).min)
    if dtype is np.uint8:
        values = (values - 128) / 128
    assert np.allclose(read_wav(tmp_path / "a.wav").samples, values.mean(axis=1), atol=1e-7)


@pytest.mark.parametrize("pair", [(np.inf, -np.inf), (np.nan, 0.0), (3e38, 1e300)])
def test_sounds_that_are_not_finite_are_refused(pair, tmp_path):
    """Without a warning of the mean of two channels, and of floats that are too large for float32."""
    wavfile.write(tmp_path / "a.wav", RATE, np.array([pair, (0.0, 0.0)]))
    with pytest.raises(ComqError, match="NaN or infinities"):
        read_wav(tmp_path / "a.wav")


@pytest.fixture
def folder(tmp_path):
    """Sounds of 10, 3 and 0.5 windows of 100 samples."""
    for name, count in (("a", 1000), ("b", 350), ("c", 50)):
        (tmp_path / name).mkdir()
        wavfile.write(tmp_path / name / "s.wav", RATE, tone(count, ord(name)))
    return tmp_path


def test_windows_are_spread_over_sounds_and_short_ones_filled(folder):
    got = windows(folder, spec(None, 100), calibration_samples=6)
    a, b, c = tone(1000, ord("a")), tone(350, ord("b")), tone(50, ord("c"))
    starts = {tuple(row[:5]) for row in got}
    assert got.shape == (6, 100)
    assert tuple(c[:5]) in starts
    (short,) = [row for row in got if tuple(row[:5]) == tuple(c[:5])]
    assert not short[50:].any()
    assert sum(tuple(b[i * 100 : i * 100 + 5]) in starts for i in range(3)) in (2, 3)
    assert sum(tuple(a[i * 100 : i * 100 + 5]) in starts for i in range(10)) in (2, 3)
    short_note, rate_note = opened(folder, spec(None, 100)).notes
    assert "1 sounds are shorter" in short_note
    assert "8000 Hz" in rate_note
    assert np.array_equal(got, windows(folder, spec(None, 100), calibration_samples=6))


def test_all_windows_are_fed_where_that_is_few(folder):
    assert windows(folder, spec(1, 1, 100)).shape == (14, 1, 100)
    assert [b["x"].shape for b in opened(folder, spec(4, 100)).batches()] == [(4, 100)] * 3


def test_sounds_are_whole_where_the_model_takes_any_length(folder):
    shapes = sorted(b["x"].shape[1] for b in opened(folder, spec(None, None)).batches())
    assert shapes == [50, 350, 1000]
    assert windows(folder, spec(None, None), preprocess="window=25").shape == (56, 25)


def test_resampling_is_scipys(folder):
    (folder / "b" / "s.wav").unlink()
    (folder / "c" / "s.wav").unlink()
    got = windows(folder, spec(1, 500), preprocess="rate=12000")
    want = resample_poly(tone(1000, ord("a")), 3, 2).astype(np.float32).reshape(3, 500)
    assert np.array_equal(got, want)
    assert opened(folder, spec(1, 500), preprocess="rate=12000").notes == ()


def test_normalising_is_by_window(folder):
    for how, check in (
        ("zscore", lambda row: (row.mean() < 1e-6) and abs(row.std() - 1) < 1e-5),
        ("peak", lambda row: np.abs(row).max() == 1),
    ):
        assert all(check(row) for row in windows(folder / "a", spec(1, 100), preprocess=f"normalize={how}"))
    wavfile.write(folder / "a" / "s.wav", RATE, np.zeros(100, np.float32))
    assert not windows(folder / "a", spec(1, 100), preprocess="wav2vec2,rate=8000").any()


def test_one_file_is_a_source_too(folder):
    assert windows(folder / "a" / "s.wav", spec(None, 100)).shape == (10, 100)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"junk", "it is no WAV file"),
        (b"RIFF\x00\x00\x00\x00WAVE", "it has no format or no samples"),
        (b"", "it is no WAV file"),
    ],
)
def test_broken_files_are_named(data, said, tmp_path):
    (tmp_path / "a.wav").write_bytes(data)
    with pytest.raises(ComqError, match=rf"a\.wav: the sound cannot be read \({said}"):
        opened(tmp_path, spec(1, 100))


def test_packed_formats_empty_sounds_and_mixed_rates_are_refused(folder):
    path = folder / "a" / "s.wav"
    data = bytearray(path.read_bytes())
    data[20] = 17  # IMA ADPCM
    path.write_bytes(data)
    with pytest.raises(ComqError, match="format 17 of 32 bits is not read"):
        opened(folder, spec(1, 100))
    write_pcm(path, np.zeros((0, 1), int), 2)
    with pytest.raises(ComqError, match=r"s\.wav: the sound has no samples"):
        opened(folder, spec(1, 100))
    wavfile.write(path, 16000, tone(1000))
    with pytest.raises(ComqError, match="2 rates, from 8000 to 16000 Hz; say the model's, --preprocess rate"):
        opened(folder, spec(1, 100))
    assert len(windows(folder, spec(1, 100), preprocess="rate=8000"))


def test_any_damage_is_an_error_or_a_sound(tmp_path):
    rng = np.random.default_rng(0)
    write_pcm(tmp_path / "a.wav", rng.integers(-99, 99, (60, 2)), 3)
    whole = (tmp_path / "a.wav").read_bytes()
    for _ in range(300):
        data = bytearray(whole[: rng.integers(1, len(whole) + 1)])
        for at in rng.integers(0, min(len(data), 48), 2):
            data[at] = rng.integers(256)
        (tmp_path / "a.wav").write_bytes(data)
        try:
            read_wav(tmp_path / "a.wav")
        except ComqError:
            continue


@pytest.mark.parametrize(
    ("inputs", "how", "said"),
    [
        (spec(1, 80, 3000), "", r"wants no samples of sound; give features such as mel spectrograms"),
        (spec(1, None, 80), "", "mel spectrograms"),
        (spec(1, 3, 224, 224), "", "mel spectrograms"),
        (spec(1, 100, dtype=np.int16), "", "wants no samples"),
        (spec(1, 100), "imagenet", "crop is said, which sounds have not"),
        (spec(1, 100), "window=50", "the model's windows are of 100 samples"),
        ((*spec(1, 512), TensorSpec("sr", np.dtype(np.int64), ())), "", "'sr' wants values too"),
    ],
)
def test_models_that_want_something_else_say_so(inputs, how, said, folder):
    with pytest.raises(ComqError, match=said):
        opened(folder, inputs, preprocess=how)
