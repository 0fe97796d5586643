"""A handful of exported families through the whole program, where torch is installed; their table."""

from types import SimpleNamespace

import check_families
import numpy as np
import pytest
from breadth import plain, texts
from breadth.family import Family, Network, enliven, images, sounds, vectors, words
from breadth.outcome import Outcome
from check_families import Row, reasons_table, rows_table, spread_of, summary, try_family, try_texts
from graphs import model, weight

FEW = ("U-Net", "CRNN (OCR)", "ConvNet, float16", "ConvNet, bfloat16", "If with weights", "Graph network")
DONE = Row("Net", "torch", "script", 11, 9, "quantized", "", 0.004, 0.5, 3, 4, 0.9, "1 LSTM: why | not", 0.3)
BAD = Row("Other", "torch", "dynamo", 23, 9, "defect", "it is broken")


@pytest.mark.slow
@pytest.mark.parametrize("name", FEW)
@pytest.mark.filterwarnings("ignore")  # of torch, about itself
def test_a_family(name):
    pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    (family,) = [family for family in plain.FAMILIES if family.name == name]
    (row,) = try_family(family, 12, ("script",))
    assert (row.kind, row.layers > 0) == ("quantized", True), row.why
    assert row.error < 1e-2 < row.spread
    if name == "CRNN (OCR)":
        assert "LSTM weights are not supported" in row.kept


def test_graphs_written_by_hand():
    rows = list(try_texts())
    assert [row.family for row in rows] == list(texts.TEXTS)
    assert [row.why for row in rows if row.kind != "quantized"] == []
    assert all(row.layers == row.weights and row.error < 1e-2 < row.spread for row in rows[:2])


def test_what_is_not_installed_is_left_out():
    def make() -> Network:
        raise ImportError("no module named nothing")

    (row,) = try_family(Family("Net", "nowhere", make), 0, ())
    assert (row.kind, row.why) == ("left out", "ImportError: no module named nothing")


def test_spread_is_what_differs_between_samples():
    same = model("g (float[1, 4] x) => (float[1, 8] y) { z = Sub(x, x) y = MatMul(z, W) }", W=weight(4, 8))
    fixed = Network(None, vectors(4))
    assert spread_of(same, fixed) == 0
    free = model("g (float[1, 4] x) => (float[1, 8] y) { y = MatMul(x, W) }", W=weight(4, 8))
    rows = np.concatenate([fixed.sample(seed)["x"] for seed in range(100, 108)]) @ weight(4, 8)
    expected = np.linalg.norm(rows - rows.mean(axis=0)) / np.linalg.norm(rows)
    assert spread_of(free, fixed) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("sample", "shapes"),
    [
        (images(10), {"image": (1, 3, 10, 10)}),
        (images(8, 1, frames=5), {"image": (1, 1, 5, 8, 8)}),
        (sounds(3, 40), {"sound": (1, 3, 40)}),
        (vectors(7), {"x": (1, 7)}),
        (words(50, 6, "ids", "attention_mask"), {"ids": (1, 6), "attention_mask": (1, 6)}),
    ],
)
def test_samples_are_the_same_each_time_and_differ_by_number(sample, shapes):
    first, again, other = sample(3), sample(3), sample(4)
    assert {name: value.shape for name, value in first.items()} == shapes
    assert all(np.array_equal(first[name], again[name]) for name in shapes)
    assert not np.array_equal(next(iter(first.values())), next(iter(other.values())))


def test_what_starts_without_a_signal_is_given_one():
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(144, 2)
    )
    torch.nn.init.zeros_(net[3].weight)
    network = Network(net, images(8))
    enliven(network)
    seen = torch.from_numpy(np.concatenate([images(8)(seed)["image"] for seed in range(2000, 2064)]))
    with torch.no_grad():
        normed = net[1](net[0](seen))
    bias, scale = net[1].bias.detach(), net[1].weight.detach()
    assert torch.allclose((normed.mean(dim=(0, 2, 3)) - bias) / scale, torch.zeros(4), atol=0.3)
    assert net[3].weight.abs().max() > 0.05
    assert not net.training


def test_tables():
    assert "| Net | torch | script 11 | 9 | 3 of 4 | 90.0 | 0.30x | 0.40 | 50 | quantized |" in rows_table(
        [DONE]
    )
    assert "| Net | script 11 | 1 LSTM: why / not |" in reasons_table([DONE, BAD])
    said = summary([DONE, BAD])
    assert "2 exports: 1 quantized, 1 defect." in said
    assert "1 families quantized, 1 of them in every export." in said
    assert "Largest error 0.40 %, smallest spread 50 %." in said


@pytest.mark.parametrize(
    ("again", "rounded", "kind", "word"),
    [
        (0.005, 0.05, "quantized", "on 128 samples"),
        (0.015, 0.05, "amplified", "5 %"),
        (0.015, 0.012, "defect", ""),
    ],
)
def test_a_file_that_is_too_far_away_is_looked_at_again(again, rounded, kind, word, monkeypatch):
    def tried(model, given, shown, how):
        error = rounded if how[0].solver == "rtn" else again
        report = SimpleNamespace()
        return Outcome("quantized" if error <= how[1] else "defect", "", error, report)

    monkeypatch.setattr(check_families, "try_model", tried)
    found = check_families._explained(Outcome("defect", "", 0.02), None, Network(None, vectors(4)))
    assert found.kind == kind
    assert word in found.why
