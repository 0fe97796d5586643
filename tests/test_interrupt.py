"""Ctrl-C and SIGTERM at chosen moments: what is whole, what is gone, and what is said."""

import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from graphs import model, weight

from comq_onnx import cli, pipeline
from comq_onnx.backends.engine import Engine, cpu_engine
from comq_onnx.cli import main
from comq_onnx.interrupt import held_back, temporary_files_together, temporary_folder, terminable

pytestmark = pytest.mark.usefixtures("interruptible")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_is_held_back_comes_after_the_block(number: signal.Signals) -> None:
    done = []

    def work() -> None:
        with held_back():
            signal.raise_signal(number)
            with held_back():
                signal.raise_signal(number)
                done.append("inner")
            done.append("outer")
        done.append("never")

    with pytest.raises(KeyboardInterrupt), terminable():
        work()
    assert done == ["inner", "outer"]


def test_handlers_are_put_back_and_what_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with terminable(), held_back():
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    with terminable(), held_back():
        pass
    assert signal.getsignal(signal.SIGTERM) is before
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_folder_is_gone_wherever_the_interrupt_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(folder: Path) -> None:
        (folder / "file").write_text("x")
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), temporary_folder("t-", tmp_path) as folder:
        fill(folder)
    assert not list(tmp_path.iterdir())

    clean = tempfile.TemporaryDirectory.cleanup

    def interrupted_while_cleaning(folder: tempfile.TemporaryDirectory) -> None:
        signal.raise_signal(signal.SIGINT)
        clean(folder)

    monkeypatch.setattr(tempfile.TemporaryDirectory, "cleanup", interrupted_while_cleaning)
    with pytest.raises(KeyboardInterrupt), temporary_folder("t-", tmp_path) as folder:
        (folder / "file").write_text("x")
    assert not list(tmp_path.iterdir())


def test_temporary_files_lie_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with temporary_files_together():
        left_behind = Path(tempfile.mkdtemp())
        assert left_behind.parent.parent == tmp_path
    assert tempfile.tempdir == str(tmp_path)
    assert not list(tmp_path.iterdir())


def test_threads_are_not_waited_for() -> None:
    release, engine = threading.Event(), Engine(cpu_engine(1).backend, 2)

    def work(item: int) -> None:
        if item == 0:
            raise KeyboardInterrupt  # as it reaches the one who waits for the item
        release.wait(20)

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        list(engine.map(work, range(8)))
    assert time.monotonic() - started < 10
    release.set()


def test_a_process_is_left_though_a_thread_is_at_work() -> None:
    program = (
        "import threading, time; from comq_onnx.interrupt import leave; "
        "threading.Thread(target=time.sleep, args=(60,)).start(); print('said'); leave(130)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], timeout=30, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (130, "said\n")


@pytest.fixture
def net(tmp_path: Path) -> Path:
    made = model("g (float[B,64] x) => (float[B,16] y) { y = MatMul(x, w) }", w=weight(64, 16))
    onnx.save(made, tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", x=weight(32, 64, seed=9))
    return tmp_path / "net.onnx"


def interrupted_at(step: str, net: Path, monkeypatch: pytest.MonkeyPatch, *words: object) -> Result:
    def instead(*_: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(pipeline, step, instead)
    # Threads of other tests may be at work: the process, which is the tests', would be left at once.
    monkeypatch.setattr(cli, "leave", sys.exit)
    data = net.with_name("data.npz")
    return CliRunner().invoke(main, [str(w) for w in (net, "--calibration-data", data, *words)])


@pytest.mark.parametrize("step", ["open_run", "solve_model", "verify_written"])
def test_one_line_and_no_file(step: str, net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(net.parent.iterdir())
    result = interrupted_at(step, net, monkeypatch)
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == "comq-onnx: interrupted; nothing was written."
    assert sorted(net.parent.iterdir()) == before


def test_the_way_to_go_on_is_told(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = net.with_name("kept")
    result = interrupted_at("write", net, monkeypatch, "--resume", kept)
    assert result.stderr.splitlines()[-1] == (
        f"comq-onnx: interrupted; nothing was written; run again with --resume {kept} to go on."
    )
    assert len(list(kept.glob("*.layer"))) == 1


def test_an_interrupt_that_comes_too_late_says_so(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = net.with_name("net_int4.onnx")
    out.write_bytes(b"of an earlier run")
    result = interrupted_at("make_report", net, monkeypatch)
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == f"comq-onnx: interrupted; {out} is written."
    onnx.checker.check_model(str(out))
