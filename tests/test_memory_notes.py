"""What is told of the memory that a run took."""

from types import SimpleNamespace

import pytest

from comq_onnx import reporting
from comq_onnx.recipe import Recipe
from comq_onnx.reporting import MORE_THAN_ASKED, memory_notes

GIB = 1 << 30


def opened(outside: object) -> SimpleNamespace:
    return SimpleNamespace(plan=SimpleNamespace(outside=outside))


@pytest.mark.parametrize(("limit", "more"), [(0.0, False), (1.0, True), (3.0, False)])
def test_a_limit_that_was_not_kept_is_said(monkeypatch: pytest.MonkeyPatch, limit: float, more: bool) -> None:
    monkeypatch.setattr(reporting, "peak_resident", lambda: 2 * GIB)
    notes = memory_notes(opened(object()), Recipe(memory_gib=limit))  # type: ignore[arg-type]
    assert "the process held 2.0 GiB at most" in notes[0]
    assert (MORE_THAN_ASKED in notes) is more


def test_nothing_is_said_where_weights_are_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "peak_resident", lambda: 2 * GIB)
    assert memory_notes(opened(None), Recipe(memory_gib=1.0)) == ()  # type: ignore[arg-type]
