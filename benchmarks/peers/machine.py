"""What belongs to the machine: its cores, the facts about it, and certificates for one run."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

import aiomas
from pki import authority


def can_pin() -> bool:
    """Return whether processes can be kept on one core here."""
    return hasattr(os, "sched_setaffinity")


@contextlib.contextmanager
def cores(*, one: bool) -> Iterator[None]:
    """Stay on one core, if *one*, and so do processes that are started meanwhile."""
    if not one:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def facts(arguments: list[str]) -> dict[str, str | int | None]:
    """Return what a figure says nothing without: machine, versions, date and command."""
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": shlex.join(["python", "-m", "benchmarks.peers", *arguments]),
        "cpu": _cpu(),
        "cores": psutil.cpu_count(),
        "memory": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "aiomas": aiomas.__version__,
    }


def _cpu() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def make_certificates(folder: Path) -> None:
    """Make an authority, and a certificate for both ends, as files in *folder*."""
    root = authority.make_root("Benchmarks", days=2)
    signer = authority.load_authority(root.certificate, root.key)
    names = authority.parse_names(["localhost", "127.0.0.1"])
    device = authority.issue(signer, "bench", names, days=1)
    (folder / "trusted.pem").write_bytes(root.certificate)
    (folder / "certificate.pem").write_bytes(device.certificate)
    key = folder / "key.pem"
    key.touch(mode=0o600)  # before there is something in it to read
    key.write_bytes(device.key)
