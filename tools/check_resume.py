"""Kill runs of the command at random, let them go on, and compare their files with an unbroken run's.

Each trial starts the command with --resume on a fresh folder, kills it with SIGKILL after a random part of
the unbroken run's time, and starts it again; every other trial kills that one too. The files must be equal to
the last bit. Then the command is interrupted with SIGINT and with SIGTERM: it must end with exit code 130 and
leave neither a temporary file nor an output. Ends with exit code 1 where anything is not so.

    python tools/check_resume.py samples/glyphs/glyphs.onnx --calibration-data samples/glyphs/calibration.npz
    python tools/check_resume.py minilm-script14.onnx --calibration-data minilm
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import minilm
import numpy as np


@dataclass(frozen=True)
class Command:
    """The command on one model, in a folder of its own for each run's files."""

    words: tuple[str, ...]
    room: Path

    def start(self, name: str, resume: str = "") -> subprocess.Popen[bytes]:
        """Start it; its output is ``NAME/q.onnx`` and its layers are kept in the folder `resume`."""
        (self.room / name).mkdir(exist_ok=True)
        temporary = self.room / "tmp"
        temporary.mkdir(exist_ok=True)
        words = [sys.executable, "-m", "comq_onnx", *self.words, "-o", str(self.room / name / "q.onnx")]
        words += ["--resume", str(self.room / resume)] if resume else []
        environment = {**os.environ, "TMPDIR": str(temporary)}
        with (self.room / "said.txt").open("wb") as said:
            return subprocess.Popen(words, env=environment, stdout=said, stderr=said)

    def finish(self, run: subprocess.Popen[bytes]) -> None:
        if run.wait():
            raise SystemExit(f"the command failed:\n{(self.room / 'said.txt').read_text()}")

    def layers(self, resume: str) -> int:
        return len(list((self.room / resume).glob("*.layer")))

    def files(self, name: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.room / name).iterdir() if path.is_file()}

    def temporary(self, name: str) -> set[Path]:
        """Folders of ours where temporary files are made, half-written layers among them."""
        beside, layers = self.room / name, self.room / f"{name}-layers"
        return {*(self.room / "tmp").glob("comq-*"), *beside.glob(".comq-*"), *layers.glob("*.part")}


def broken(command: Command, name: str, number: int, seconds: float) -> tuple[int | None, float]:
    """Start the command, send it a signal after `seconds`; its exit code, and seconds from signal to end.

    The code is None where it was done before the signal came.
    """
    run = command.start(name, f"{name}-layers")
    try:
        run.wait(seconds)
        return None, 0.0
    except subprocess.TimeoutExpired:
        run.send_signal(number)
        sent = time.monotonic()
        return run.wait(), time.monotonic() - sent


def trial(command: Command, at: int, unbroken: float, rng: random.Random) -> bool:
    """Kill, go on, compare; whether the files are the same."""
    name, story = f"trial-{at}", []
    for again in range(1 + at % 2):
        part = rng.uniform(0.1, 0.9)
        code, _ = broken(command, name, signal.SIGKILL, part * unbroken)
        while code is None and not again:
            part *= 0.7  # the machine was busier when the unbroken run was timed
            shutil.rmtree(command.room / f"{name}-layers")
            code, _ = broken(command, name, signal.SIGKILL, part * unbroken)
        how = "done before the kill" if code is None else f"killed{' again' * again}"
        story.append(f"{how} at {part:.0%}, {command.layers(f'{name}-layers')} layers kept")
    command.finish(command.start(name, f"{name}-layers"))
    same = command.files(name) == command.files("unbroken")
    print(f"trial {at}: {'; '.join(story)}; {'the same file' if same else 'ANOTHER FILE'}", flush=True)
    return same


def interrupted(command: Command, number: signal.Signals, unbroken: float, rng: random.Random) -> bool:
    """Interrupt the command; whether it ended as it should and left nothing."""
    part = rng.uniform(0.2, 0.9)
    name = f"{number.name.lower()}-{part * unbroken:.3f}"
    # What killed runs have left is not this one's.
    before = command.temporary(name)
    code, seconds = broken(command, name, number, part * unbroken)
    if code is None:  # done before: the machine is faster than when the unbroken run was timed
        print(f"{number.name} at {part:.0%}: done before", flush=True)
        return interrupted(command, number, unbroken / 2, rng)
    last = (command.room / "said.txt").read_text().strip().splitlines()[-1:]
    found = {path.name for path in command.temporary(name) - before} | set(command.files(name))
    fine = code == 130 and not found
    print(
        f"{number.name} at {part:.0%}: exit code {code} after {seconds:.1f} s, "
        f"left over: {', '.join(sorted(found)) or 'nothing'}; said: {' '.join(last)}",
        flush=True,
    )
    return fine


def minilm_data(folder: Path) -> Path:
    """MiniLM's calibration sentences as a folder of ``.npz`` files."""
    folder.mkdir()
    for number, feed in enumerate(minilm.feeds(minilm.split()[0])):
        np.savez(folder / f"{number:03}.npz", **feed)
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibration-data", required=True, help="a path, or `minilm` for its sentences")
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    args, more = parser.parse_known_args()
    rng = random.Random(args.seed)
    # A shell that starts this in the background has it ignore SIGINT, and the command would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="check-resume-") as folder:
        room = Path(folder)
        data = args.calibration_data
        data = str(minilm_data(room / "data")) if data == "minilm" else data
        command = Command((str(args.model), "--calibration-data", data, *more), room)
        command.finish(command.start("unbroken"))  # the first one also compiles
        first = command.files("unbroken")
        started = time.monotonic()
        command.finish(command.start("unbroken"))
        unbroken = time.monotonic() - started
        if command.files("unbroken") != first:
            raise SystemExit("two unbroken runs give two files")
        print(f"unbroken: {unbroken:.1f} s, {sum(map(len, command.files('unbroken').values())):,} bytes")
        good = [trial(command, at, unbroken, rng) for at in range(args.trials)]
        good += [interrupted(command, n, unbroken, rng) for n in (signal.SIGINT, signal.SIGTERM)]
    print(f"{sum(good)} of {len(good)} trials as they should be")
    return int(not all(good))


if __name__ == "__main__":
    sys.exit(main())
