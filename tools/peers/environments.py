"""A virtual environment for each peer, made once in a folder the user names.

Versions are pinned here; the versions that count for a result are read back from the environment. Where torch
is needed it is installed first, at one version, so that pip does not choose a build for GPUs.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

TORCH = ("torch==2.13.0",)
ONNX, ORT = "onnx==1.23.2", "onnxruntime==1.32.0"


@dataclass(frozen=True)
class Environment:
    """What to install, in steps that pip takes one after the other, and the packages whose versions count."""

    name: str
    steps: tuple[tuple[str, ...], ...]
    shown: tuple[str, ...]
    home: str
    """Where the project lives, for the page"""


ENVIRONMENTS = {
    e.name: e
    for e in (
        Environment(
            "modelopt",
            (
                TORCH,
                ("nvidia-modelopt==0.47.0",),
                # The extra `onnx` without onnxruntime-gpu and cupy, which this machine cannot use.
                ("onnx==1.21.0", "onnxruntime==1.24.2", "onnx-graphsurgeon==0.6.1", "ml_dtypes", "lief"),
                ("onnxslim==0.1.98", "polygraphy", "onnxscript", "onnxconverter-common==1.16.0", "cppimport"),
            ),
            ("nvidia-modelopt", "onnx", "onnxruntime", "torch"),
            "https://github.com/NVIDIA/Model-Optimizer",
        ),
        Environment(
            "onnxruntime",
            (TORCH, (ORT, ONNX, "onnx-ir==1.1.0", "sympy", "ml_dtypes")),
            ("onnxruntime", "onnx", "torch"),
            "https://github.com/microsoft/onnxruntime",
        ),
        Environment(
            "nncf",
            (("nncf==3.4.0", ORT, ONNX),),
            ("nncf", "onnx", "onnxruntime"),
            "https://github.com/openvinotoolkit/nncf",
        ),
        Environment(
            "aimet",
            (
                TORCH,
                ("torchvision==0.28.0", "--no-deps"),
                ("aimet-onnx==2.42.0", ORT, ONNX),
                ("onnxsim==0.8.1", "--no-deps"),
            ),
            ("aimet-onnx", "onnx", "onnxruntime", "torch", "onnxsim"),
            "https://github.com/quic/aimet",
        ),
        Environment(
            "onnxsim",
            (("onnxsim==0.8.1", ORT, ONNX, "numpy"),),
            ("onnxsim", "onnx", "onnxruntime"),
            "https://github.com/onnxsim/onnxsim",
        ),
    )
}


class InstallError(Exception):
    """An environment cannot be made here; the text says why."""


def make(environment: Environment, cache: Path) -> Path:
    """The environment's Python; installed first where it is not. InstallError with pip's reason."""
    folder = (cache / environment.name).absolute()
    python, done = folder / "bin" / "python", folder / "installed.json"
    steps = [list(step) for step in environment.steps]
    if done.exists() and json.loads(done.read_text()) == steps:
        return python
    done.unlink(missing_ok=True)
    _called([sys.executable, "-m", "venv", "--clear", str(folder)])
    for step in steps:
        _called([str(python), "-m", "pip", "install", "--quiet", *step])
    done.write_text(json.dumps(steps))
    return python


def versions(environment: Environment, python: Path) -> dict[str, str]:
    """Installed versions of the packages that count, in their order."""
    code = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    told = _called([str(python), "-c", code, *environment.shown]).split()
    return dict(zip(environment.shown, told, strict=True))


def _called(command: list[str]) -> str:
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        errors = [line for line in ran.stderr.splitlines() if line.startswith("ERROR")]
        raise InstallError((errors or ran.stderr.strip().splitlines() or ["it gives no reason"])[-1])
    return ran.stdout
