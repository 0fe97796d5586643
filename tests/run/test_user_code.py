"""Callables by name, and metrics whose answers are checked."""

import numpy as np
import pytest

from comq_onnx.errors import ComqError
from comq_onnx.run.user_code import load_callable, load_metric


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    """The working folder holds a module of each test's own name."""

    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)

    monkeypatch.chdir(tmp_path)
    return write


def test_modules_of_the_working_folder_are_found(in_folder):
    in_folder("metric_found", "def score(predict):\n    return predict({'x': 3})['y']\n")
    assert load_callable("metric_found:score", "--metric")(lambda feeds: {"y": feeds["x"] + 1}) == 4
    assert load_metric("metric_found:score")(lambda feeds: {"y": np.float32(0.5)}) == 0.5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("score", "not module:callable"),
        (":score", "not module:callable"),
        ("no_such_module_here:score", "no module"),
        ("no_such_module_here.part:score", "no module"),
        ("math:no_such_name", "no callable"),
        ("math:pi", "no callable"),
    ],
)
def test_what_cannot_be_found_is_one_sentence(text, said):
    with pytest.raises(ComqError, match=said) as caught:
        load_callable(text, "--metric")
    assert str(caught.value).startswith("--metric: ")


@pytest.mark.parametrize("answer", ["float('nan')", "None", "'good'"])
def test_a_score_is_a_finite_number(in_folder, answer):
    name = f"metric_bad_{sum(map(ord, answer))}"
    in_folder(name, f"def score(predict):\n    return {answer}\n")
    with pytest.raises(ComqError, match="finite number"):
        load_metric(f"{name}:score")(lambda feeds: {})


def test_a_bug_of_the_users_keeps_its_traceback(in_folder):
    in_folder("metric_broken", "def score(predict):\n    return {}['label']\n")
    in_folder("metric_imports", "import no_such_module_either\n")
    with pytest.raises(KeyError, match="label"):
        load_metric("metric_broken:score")(lambda feeds: {})
    with pytest.raises(ModuleNotFoundError, match="no_such_module_either"):
        load_callable("metric_imports:score", "--metric")
