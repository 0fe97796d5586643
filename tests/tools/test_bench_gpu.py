"""The benchmark of the GPU: its table on a device that the CPU plays, and its refusal without one."""

import argparse
import sys

import bench_gpu
import pytest
from backends.cuda_on_cpu import cuda_on_cpu_backend

from comq_onnx.backends.engine import Engine
from comq_onnx.errors import ComqError


def test_the_table_has_a_row_for_each_solver(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_gpu, "SAMPLES", 64)
    options = argparse.Namespace(rows=[9, 17], columns=3, bits=3, cpu_rows=9)
    bench_gpu.table(options, Engine(cuda_on_cpu_backend(), 1))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 2 * len(bench_gpu.CASES)
    assert len({len(line) for line in lines}) == 1
    assert lines[1].startswith("9 x 3, gptq")
    assert lines[-1].split()[-4:-2] == ["-", "-"]


def test_it_refuses_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(device: str) -> None:
        raise ComqError("no NVIDIA GPU can be used", where=device)

    monkeypatch.setattr(bench_gpu, "open_engine", refuse)
    monkeypatch.setattr(sys, "argv", ["bench_gpu.py"])
    assert bench_gpu.main() == 1
    assert capsys.readouterr().err == "cuda:0: no NVIDIA GPU can be used.\n"
