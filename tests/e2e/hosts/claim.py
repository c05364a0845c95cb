"""The number of a lab, which its addresses and names are made from, and its folder.

Who has a number holds a lock on the folder, which the kernel drops with its owner.  So what a lab
has left whose owner was killed is known by that nobody holds the lock, and the next lab removes it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.hosts.detached import ENVIRONMENT, LabError

# Not the folder for temporary files that tests are given: labs of all sessions have to meet.
FOLDERS = Path("/tmp")
PREFIX = "aiomas-lab-"
NUMBERS = range(1, 256)


@dataclass(frozen=True)
class Claim:
    """A number that is ours until it is released, or until this process ends."""

    number: int
    lock: int

    @property
    def folder(self) -> Path:
        return FOLDERS / f"{PREFIX}{self.number}"

    @property
    def link(self) -> str:
        """The name of the driver's network link, the only one that is seen outside of the lab."""
        return f"aiomas-lab{self.number}"

    def address(self, index: int) -> str:
        """Return an address of the lab: in a network that no other uses (RFC 2544)."""
        return f"198.18.{self.number}.{index}"

    def release(self) -> None:
        """Remove the folder and what is in it, and let others have the number."""
        shutil.rmtree(self.folder)
        os.close(self.lock)


def claim() -> Claim:
    """Remove what dead labs have left, and return a number that no lab has.

    Raises:
        LabError: all numbers are taken.
    """
    sweep()
    for number in NUMBERS:
        folder = FOLDERS / f"{PREFIX}{number}"
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            continue
        if (lock := _lock(folder)) is None:  # who sweeps has taken it for an old one
            continue
        claimed = Claim(number, lock)
        if not _is_there(claimed.link):
            return claimed
        claimed.release()  # a lab has it that uses our network, but not our /tmp
    raise LabError(f"{len(NUMBERS)} labs run at the same time: is {FOLDERS}/{PREFIX}* in use?")


def sweep() -> None:
    """Remove the folders and links of labs whose owners have ended without doing so."""
    for folder in FOLDERS.glob(f"{PREFIX}*"):
        number = folder.name.removeprefix(PREFIX)
        if not number.isdecimal() or (lock := _lock(folder)) is None:
            continue
        left = Claim(int(number), lock)
        if _is_there(left.link):
            # Or the kernel, which removes it with the last process of that lab, is faster.
            delete = ["ip", "link", "delete", left.link]
            subprocess.run(delete, env=ENVIRONMENT, capture_output=True, check=False)
        left.release()


def _is_there(link: str) -> bool:
    return Path("/sys/class/net", link).exists()


def _lock(folder: Path) -> int | None:
    """Return a descriptor that holds the lock; None if it is held, or if the folder is not ours."""
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:  # removed meanwhile, or no folder
        return None
    try:
        if os.fstat(lock).st_uid == os.geteuid():
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Who held it may have removed it before we got the lock.
            if folder.stat(follow_symlinks=False).st_ino == os.fstat(lock).st_ino:
                return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(lock)
    return None
