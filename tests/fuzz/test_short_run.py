"""A few hundred inputs of the fuzzer, always the same ones, in this process."""

import tempfile
from pathlib import Path

import pytest
from fuzzing.attempt import Attempt
from fuzzing.graphs import corpus
from fuzzing.judge import GOOD, MAKERS, attempt_of, judge
from fuzzing.models import QUICK
from fuzzing.workers import run_job

PARTS = [("models", start) for start in range(0, 160, 40)]
PARTS += [("data", 0), ("data", 40), ("recipes", 0)]


@pytest.mark.parametrize(("kind", "start"), PARTS)
def test_every_input_ends_as_it_should(kind: str, start: int) -> None:
    for number in range(start, start + 40):
        verdict = run_job((kind, 77, number))
        assert verdict.outcome in GOOD, (number, verdict)


def test_inputs_are_the_same_on_every_machine(tmp_path: Path) -> None:
    for kind in MAKERS:
        said, files = [], []
        for turn in range(2):
            folder = tmp_path / f"{kind}{turn}"
            folder.mkdir()
            attempt = attempt_of(kind, 1, 5, folder)
            said.append([word.replace(str(folder), "") for word in attempt.words])
            files.append((folder / "model.onnx").read_bytes())
        assert said[0] == said[1]
        assert files[0] == files[1]


def test_what_mutations_start_from_is_whole() -> None:
    """Or else the fuzzer would look at nothing but the first check."""
    assert len(corpus()) > 15
    whole = [name for name, _ in corpus() if run_whole(name) == "done"]
    assert len(whole) >= len(corpus()) - 3, whole  # an LSTM, codes already, and sounds without data


def run_whole(name: str) -> str:
    """What becomes of a model without any mutation."""
    with tempfile.TemporaryDirectory() as room:
        path = Path(room) / "model.onnx"
        path.write_bytes(dict(corpus())[name].SerializeToString())
        words = (str(path), "-o", str(path.with_name("out.onnx")), *QUICK, "--target", "ort", "-q")
        return judge(Attempt(name, words), Path(room)).outcome
