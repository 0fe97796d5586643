"""What native code prints is kept off standard output, what Python prints is not."""

import ctypes
import os
import sys

import pytest

from comq_onnx.muted import ERRORS, OUTPUT, muted


@pytest.mark.skipif(sys.platform == "win32", reason="the C library has another name")
def test_native_output_is_dropped_and_order_is_kept(capfd: pytest.CaptureFixture[str]) -> None:
    puts = ctypes.CDLL(None).puts
    puts(b"before")
    with muted(OUTPUT):
        puts(b"within")
        os.write(1, b"within, unbuffered\n")
    puts(b"after")
    ctypes.CDLL(None).fflush(None)
    assert capfd.readouterr().out.split() == ["before", "after"]


def test_errors_within_come_out_and_output_is_restored(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="within"), muted(OUTPUT):
        raise ValueError("within")
    os.write(1, b"after\n")
    assert capfd.readouterr().out == "after\n"


def test_errors_are_muted_alone(capfd: pytest.CaptureFixture[str]) -> None:
    with muted(ERRORS):
        os.write(2, b"of libtiff\n")
        os.write(1, b"of the program\n")
    os.write(2, b"after\n")
    assert capfd.readouterr() == ("of the program\n", "after\n")
