"""Makes and keeps the environments in which the other programs run.

They are kept in a folder outside the version control (`$AIOMAS_INTEROP_CACHE`, or `.cache/interop`
in this project), are built beside their place and moved there when they work, under a lock, so
that several test sessions can share them.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUILD_TIMEOUT = 300.0
"""Seconds that making one environment may take, waiting for another session included."""
CHECK_TIMEOUT = 30.0  # seconds
PIP = ("--retries", "1", "--timeout", "20", "--disable-pip-version-check", "--no-input")


class UnavailableError(Exception):
    """An environment cannot be had; the message is the reason."""


@dataclass(frozen=True)
class Environment:
    """What an environment holds.

    Args:
        name: says what it is for, in the name of its folder.
        requirements: what pip installs.
        check: a statement that works only if the installed things do.
    """

    name: str
    requirements: Sequence[str]
    check: str

    def python(self, base: Path) -> Path:
        """Return the interpreter of the environment, which is made from *base* if need be.

        Raises:
            UnavailableError: it cannot be made.
        """
        key = repr((self.requirements, str(base), base.resolve().stat().st_mtime_ns))
        digest = hashlib.sha256(key.encode()).hexdigest()[:12]
        folder = cache() / f"{self.name}-{digest}"
        python = folder / "bin" / "python"
        if not self._works(python):
            with locked(folder.with_name(f"{folder.name}.lock")):
                if not self._works(python):  # nobody has made it while we waited
                    self._make(base, folder)
        return python

    def _works(self, python: Path) -> bool:
        if not python.exists():
            return False
        # Isolated: this project, which has the same name as the old one, may be where we run.
        return not run([python, "-I", "-c", self.check], CHECK_TIMEOUT).returncode

    def _make(self, base: Path, folder: Path) -> None:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{self.name}-") as scratch:
            building = Path(scratch) / "env"
            python = building / "bin" / "python"
            commands: list[list[str | Path]] = [
                [base, "-I", "-m", "venv", building],
                [python, "-I", "-m", "pip", "install", "-q", *PIP, *self.requirements],
                [python, "-I", "-c", self.check],
            ]
            for command in commands:
                outcome = run(command, BUILD_TIMEOUT)
                if outcome.returncode:
                    what = " ".join(self.requirements)
                    msg = f"no environment with {what} could be made: {last_error(outcome.stderr)}"
                    raise UnavailableError(msg)
            # An interpreter finds its environment beside it, wherever that was moved.
            shutil.rmtree(folder, ignore_errors=True)
            building.rename(folder)


AIOMAS_2 = Environment(
    "aiomas-2.0.1",
    ("aiomas[mpb]==2.0.1", "arrow<0.15"),
    "import aiomas, arrow, blosc, msgpack; aiomas.MsgPackBlosc().encode([])",
)
MOSAIK = Environment("mosaik-api-v3", ("mosaik-api-v3~=3.0",), "import mosaik_api_v3.connection")


def find_python_3_8() -> Path:
    """Return an interpreter of Python 3.8 that runs: that of the PATH, or one of pyenv's.

    Raises:
        UnavailableError: there is none.
    """
    on_path = shutil.which("python3.8")
    candidates = [Path(on_path)] if on_path else []
    for root in pyenv_roots():
        candidates += sorted(root.glob("versions/3.8*/bin/python"), reverse=True)
    test = (
        "import ensurepip, sys, venv; assert sys.version_info[:2] == (3, 8); print(sys.executable)"
    )
    for candidate in candidates:
        outcome = run([candidate, "-I", "-c", test], CHECK_TIMEOUT)
        if not outcome.returncode:
            return Path(outcome.stdout.strip())  # the candidate itself may be a launcher
    msg = "no Python 3.8 that runs was found (neither in PATH nor in pyenv's versions)"
    raise UnavailableError(msg)


def pyenv_roots() -> Iterator[Path]:
    """Yield the places where pyenv may keep its interpreters."""
    if root := os.environ.get("PYENV_ROOT"):
        yield Path(root)
    yield Path.home() / ".pyenv"
    for folder in map(Path, os.get_exec_path()):
        if folder.name == "shims":
            yield folder.parent


def this_python() -> Path:
    """Return the interpreter that the one of this environment was made from."""
    return Path(getattr(sys, "_base_executable", None) or sys.executable)


def cache() -> Path:
    """Return the folder of all environments, which exists."""
    folder = Path(os.environ.get("AIOMAS_INTEROP_CACHE") or ROOT / ".cache" / "interop")
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


def run(command: Sequence[str | Path], timeout: float) -> subprocess.CompletedProcess[str]:
    """Run *command*, which fails if it takes more than *timeout* seconds; nothing is raised."""
    try:
        return subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            env=clean_environment(),
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        return subprocess.CompletedProcess(command, 1, "", str(exc))


def clean_environment() -> dict[str, str]:
    """Return the variables for a program in another environment than ours."""
    ours = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONWARNINGS", "PYTHONASYNCIODEBUG"}
    return {name: value for name, value in os.environ.items() if name not in ours}


def last_error(output: str) -> str:
    """Return the line of *output* that says what is wrong; pip writes hints below it."""
    lines = output.strip().splitlines() or ["no message"]
    return next((line for line in reversed(lines) if line.startswith("ERROR:")), lines[-1])


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock on the file *path*.

    Raises:
        UnavailableError: somebody else holds it for too long.
    """
    deadline = time.monotonic() + BUILD_TIMEOUT
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    msg = f"another test session holds {path} for more than {BUILD_TIMEOUT:.0f} s"
                    raise UnavailableError(msg) from None
                time.sleep(0.1)
        yield
