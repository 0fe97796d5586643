"""What torch users have: every form of it, and what is left out of it."""

import builtins
import sys

import numpy as np
import pytest

from comq_onnx.errors import ComqError
from comq_onnx.recipe import Recipe
from comq_onnx.run.data import Calibration, open_calibration
from comq_onnx.run.session import TensorSpec

torch = pytest.importorskip("torch")
X = np.arange(7 * 3 * 2, dtype=np.float32).reshape(7, 3, 2)
Y = np.arange(7)
IMAGE = (TensorSpec("x", np.dtype(np.float32), (None, 3, 2)),)
PAIR = (*IMAGE, TensorSpec("ids", np.dtype(np.int64), (None,)))


def opened(source, inputs=IMAGE, **recipe) -> Calibration:
    return open_calibration(source, inputs, Recipe(**recipe))


def stacked(calibration: Calibration, name: str = "x") -> np.ndarray:
    return np.concatenate([batch[name] for batch in calibration.batches()])


def tensors():
    return torch.from_numpy(X), torch.from_numpy(Y)


def data_set():
    return torch.utils.data.TensorDataset(*tensors())


class Named(torch.utils.data.Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        x, y = tensors()
        return {"x": x[index], "label": y[index]}


def sources(tmp_path):
    x, y = tensors()
    loader = torch.utils.data.DataLoader
    saved = {"tensor": x, "dict": {"x": x, "label": y}, "tuple": (x, y), "list": list(x)}
    saved["pairs"] = [(x[i], y[i]) for i in range(7)]
    for name, value in saved.items():
        torch.save(value, tmp_path / f"{name}.pt")
    return {
        "loader": (loader(data_set(), batch_size=3), True),
        "loader of dicts": (loader(Named(), batch_size=2), True),
        "loader of one": (loader(torch.utils.data.TensorDataset(x), batch_size=2), False),
        "data set": (data_set(), True),
        "data set of dicts": (Named(), True),
        "tensor": (x, False),
        "dict": ({"x": x}, False),
        "dict with labels": ({"x": x, "label": y}, True),
        "with a gradient": (x.clone().requires_grad_(), False),
        "list of pairs": ([(x[i : i + 1], y[i : i + 1]) for i in range(7)], True),
        "pair of a dict": ([({"x": x[i : i + 1]}, y[i]) for i in range(7)], True),
        "arrays in pairs": (((X[i], Y[i]) for i in range(7)), True),
        "bfloat16": (x.to(torch.bfloat16), False),
        **{f"{name}.pt": (tmp_path / f"{name}.pt", name in ("dict", "tuple", "pairs")) for name in saved},
    }


KINDS = [
    "loader", "loader of dicts", "loader of one", "data set", "data set of dicts", "tensor", "dict",
    "dict with labels", "with a gradient", "list of pairs", "pair of a dict", "arrays in pairs", "bfloat16",
    "tensor.pt", "dict.pt", "tuple.pt", "list.pt", "pairs.pt",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_form_gives_the_samples_and_tells_what_it_leaves_out(kind, tmp_path):
    source, told = sources(tmp_path)[kind]
    calibration = opened(source)
    for _ in range(2):
        assert np.array_equal(stacked(calibration), X)
    assert len(calibration.notes) == told
    assert all("left out" in note for note in calibration.notes)


def test_parts_feed_inputs_by_their_order():
    calibration = opened(torch.utils.data.DataLoader(data_set(), batch_size=3), PAIR)
    assert np.array_equal(stacked(calibration), X)
    assert np.array_equal(stacked(calibration, "ids"), Y)
    assert calibration.notes == ()
    with pytest.raises(ComqError, match="an item of 1 parts cannot feed the model's 2 inputs"):
        opened([(torch.from_numpy(X),)], PAIR)


def test_a_data_set_is_thinned_evenly():
    calibration = opened(data_set(), calibration_samples=2)
    assert np.array_equal(stacked(calibration), X[[1, 5]])


def test_a_list_of_rows_is_still_one_array():
    assert np.array_equal(stacked(opened([X[:1].tolist(), X[1:2].tolist()])), X[:2])


class Hidden:
    pass


@pytest.mark.parametrize("kind", ["code", "junk", "empty", "cut"])
def test_only_tensors_are_read(kind, tmp_path):
    path = tmp_path / "a.pt"
    torch.save(Hidden() if kind == "code" else tensors()[0], path)
    data = path.read_bytes()
    path.write_bytes({"junk": b"junk", "empty": b"", "cut": data[: len(data) // 2]}.get(kind, data))
    said = "more than tensors" if kind == "code" else "(more than tensors|cannot be read)"
    with pytest.raises(ComqError, match=rf"a\.pt: it .*{said}"):
        opened(path)


def test_without_torch_it_is_named(tmp_path, monkeypatch):
    torch.save(tensors()[0], tmp_path / "a.pt")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ComqError, match=r"a\.pt: torch is needed"):
        opened(tmp_path / "a.pt")


def test_torch_is_not_imported_for_anything_else(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")
    before = builtins.__import__

    def guarded(name, *rest, **more):
        assert name != "torch"
        return before(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", guarded)
    assert np.array_equal(stacked(opened({"x": X})), X)
