"""Faults of the machine, really provoked: full and read-only disks, memory that runs out, parts that fail."""

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import model, weight

from comq_onnx import quantize
from comq_onnx.errors import ComqError, MemoryExhaustedError
from comq_onnx.faults import faults_explained
from comq_onnx.run import stream
from comq_onnx.run.session import Session, SessionOptions, open_session

DENSE = "g (float[B,256] x) => (float[B,256] y) { h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) }"
WIDE = """g (float[B,4,128,128] x) => (float[B,4,128,128] y) {
  c = Conv<pads=[1,1,1,1]>(x, a) r = Relu(c) y = Conv<pads=[1,1,1,1]>(r, b) }"""
QUICK = ("--effort", "fast", "--threads", "1", "--calibration-samples", "2", "--target", "ort", "-q")


@pytest.fixture
def net(tmp_path: Path) -> Path:
    made = model(DENSE, opset=21, ir_version=10, w=weight(256, 256), v=weight(256, 256, seed=1))
    onnx.save(made, tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if (
        not sys.platform.startswith("linux")
        or subprocess.run(words, capture_output=True, check=False).returncode
    ):
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def run(*words: object, files: int | None = None) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, which may write files of so many bytes."""

    def limit() -> None:
        if files is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (files, files))

    command = [sys.executable, "-m", "comq_onnx", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, check=False)


def refused(done: subprocess.CompletedProcess[str], *said: str) -> None:
    """It failed with one sentence that says so."""
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("comq-onnx: ")
    assert done.stderr.endswith(".\n")
    assert all(part in done.stderr for part in said)


def test_a_full_disk_leaves_what_was_there(net: Path, small_disk: Path) -> None:
    out = small_disk / "q.onnx"
    out.write_bytes(b"of an earlier run")
    refused(run(net, "-o", out, *QUICK, "--weights", "int8"), "No space left on device", str(out))
    assert [path.name for path in small_disk.iterdir()] == ["q.onnx"]
    assert out.read_bytes() == b"of an earlier run"


def test_a_full_disk_for_layers_that_are_kept(net: Path, small_disk: Path) -> None:
    done = run(
        net, "-o", net.with_name("q.onnx"), *QUICK, "--weights", "int8", "--resume", small_disk / "kept"
    )
    refused(done, "No space left on device")
    assert not list(small_disk.glob("kept/*.part"))
    assert not net.with_name("q.onnx").exists()


def test_a_disk_that_is_read_only(net: Path, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    refused(run(net, "-o", small_disk / "q.onnx", *QUICK), "Read-only file system", str(small_disk))


def test_a_file_that_may_not_grow(net: Path) -> None:
    out = net.with_name("q.onnx")
    refused(run(net, "-o", out, *QUICK, "--weights", "int8", files=20_000), "File too large")
    assert sorted(path.name for path in net.parent.iterdir()) == ["net.onnx"]


@pytest.mark.parametrize("flag", ["--save-config", "--report"])
def test_no_room_for_what_is_written_beside(net: Path, small_disk: Path, flag: str) -> None:
    (small_disk / "ballast").write_bytes(bytes(64 << 10))
    name = "r.toml" if flag == "--save-config" else "r.json"
    done = run(net, "-o", net.with_name("q.onnx"), *QUICK, "--weights", "int8", flag, small_disk / name)
    refused(done, "No space left on device")
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_what_the_system_refuses_names_the_file(number: int) -> None:
    with (
        pytest.raises(ComqError, match=r"^/there/a: the system refuses it \(.*\); .*\.$"),
        faults_explained(),
    ):
        raise OSError(number, os.strerror(number), "/there/a")


def test_other_errors_of_the_system_are_bugs() -> None:
    with pytest.raises(IsADirectoryError), faults_explained():
        raise IsADirectoryError(errno.EISDIR, "is a folder", "/there")


OUT_OF_MEMORY = """
import resource, sys
import numpy as np, onnx
from comq_onnx import quantize
net, out, batch = sys.argv[1], sys.argv[2], int(sys.argv[3])
x = np.random.default_rng(0).standard_normal((batch, 4, 128, 128)).astype(np.float32)
quantize(net, out + ".warm.onnx", {"x": x[:1]}, weights="int8", effort="fast", target="ort", threads=1)
line = next(line for line in open("/proc/self/status") if line.startswith("VmData"))
limit = int(line.split()[1]) * 1024 + (int(sys.argv[4]) << 20)
hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
report = quantize(
    net, out, {"x": x}, weights="int8", effort="fast", target="ort", threads=1, batch_size=batch
)
resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))
print(*(note for note in report.notes if "memory ran out" in note), sep="\\n")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is limited as Linux does it")
@pytest.mark.slow
def test_memory_that_runs_out_in_a_segment_is_done_with_less(tmp_path: Path) -> None:
    """48 samples at once need 100 MB for one tensor; one at a time do with 2."""
    a = weight(36, 32).T.reshape(32, 4, 3, 3).copy()
    made = model(WIDE, opset=21, ir_version=10, a=a, b=weight(288, 4).T.reshape(4, 32, 3, 3).copy())
    onnx.save(made, tmp_path / "net.onnx")
    words = [str(tmp_path / "net.onnx"), str(tmp_path / "q.onnx"), "48", "90"]
    done = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "memory ran out on 'x' float32[48, 4, 128, 128]" in done.stdout
    assert ": run in batches of " in done.stdout
    assert "instead of 48" in done.stdout
    onnx.checker.check_model(tmp_path / "q.onnx", full_check=True)


def test_memory_that_never_suffices_is_said() -> None:
    """Four tensors of 2**40 bytes: no machine of ours has them."""
    made = model("g (int64[3] s) => (float[A,B,C] y) { y = ConstantOfShape(s) }", opset=21, ir_version=10)
    session = open_session(made, SessionOptions())
    with pytest.raises(MemoryExhaustedError, match="memory ran out on 's' int64"):
        session.run({"s": np.array([1 << 20, 1 << 20, 1 << 6])})


def test_a_segment_that_cannot_be_run_alone_does_not_end_the_run(
    tmp_path: Path, net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which parts a runtime cannot take is not to be foreseen, so one that fails is put in its place."""

    def fails(proto: onnx.ModelProto, options: SessionOptions, given: dict[str, np.ndarray]) -> Session:
        if any(node.op_type == "Relu" for node in proto.graph.node):
            raise ComqError("onnxruntime does not load the model: no kernel for Relu", where="segment")
        return open_session(proto, options, given)

    monkeypatch.setattr(stream, "open_session", fails)
    data = {"x": weight(4, 256, seed=5)}
    report = quantize(net, tmp_path / "q.onnx", data, weights="int8", effort="fast", target="ort")
    assert (tmp_path / "q.onnx").exists()
    assert any("float network's inputs: a part of the model cannot be run alone" in n for n in report.notes)
    assert any("no kernel for Relu" in note for note in report.notes)
    with pytest.raises(ComqError, match="no kernel for Relu; use --inputs float"):
        quantize(net, tmp_path / "p.onnx", data, effort="fast", target="ort", inputs="quantized")
    assert not (tmp_path / "p.onnx").exists()


def test_nan_of_the_quantized_network_is_located(tmp_path: Path) -> None:
    """A root of what the float model keeps at 1e-5 above nought, and int2 does not."""
    text = """g (float[B,32] x) => (float[B,8] y) {
        h = MatMul(x, w)  s = Sub(h, floor)  root_of_it = Sqrt(s)  n = Neg(root_of_it)  y = MatMul(n, v) }"""
    values = weight(32, 16)
    rows = weight(40, 32, seed=7)
    floor = (rows @ values).min(axis=0) - np.float32(1e-5)
    made = model(text, opset=21, ir_version=10, w=values, v=weight(16, 8), floor=floor)
    made.graph.node[2].name = "root"
    with pytest.raises(ComqError) as caught:
        quantize(
            made,
            tmp_path / "q.onnx",
            {"x": rows},
            weights="int2",
            solver="rtn",
            inputs="quantized",
            target="ort",
        )
    assert "the quantized network computes NaN or infinity, first in node 'root' (Sqrt)" in str(caught.value)
    assert "calibration sample" in str(caught.value)
    assert not (tmp_path / "q.onnx").exists()
    report = quantize(made, tmp_path / "q.onnx", {"x": rows}, weights="int8", target="ort", solver="rtn")
    assert (tmp_path / "q.onnx").exists()
    assert report.lines
