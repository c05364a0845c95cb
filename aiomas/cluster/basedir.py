"""Where the directories of runs are: one base directory for each user, which nobody else can use.

Whoever makes, looks at or removes a run holds a lock on the base directory meanwhile.  Locking the
directory itself leaves no lock file behind.  What is in a run is not known here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aiomas._endpoint import MAX_UNIX_PATH
from aiomas.exceptions import ClusterError

if sys.platform != "win32":
    import fcntl

VARIABLE = "AIOMAS_RUN_DIR"
"""The environment variable that names the base directory."""
LOCK_TIMEOUT = 5.0
"""Seconds in which nobody keeps the base directory locked, unless something is wrong."""
PAUSE = 0.005
"""Seconds between two attempts to get a lock."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What a run can be called."""
LONGEST_NAME = 64
DIRECTORY = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)
"""How a directory is opened, so that no link can stand in for it."""
PRIVATE = 0o700
"""The mode of directories."""

_LONGEST_SOCKET = len("/driver.sock")  # 12345.sock is shorter


@dataclass(frozen=True, slots=True)
class Names:
    """Which names of runs belong to a base: those that are (not) short enough for the first one."""

    room: int
    short: bool

    def holds(self, name: str) -> bool:
        return NAME.fullmatch(name) is not None and (len(name) <= self.room) == self.short


def bases() -> list[tuple[Path, Names]]:
    """Return the directories in which runs may be, and which names are looked for in each."""
    first, second = _preferred(), _fallback()
    room = MAX_UNIX_PATH - len(os.fsencode(first)) - 1 - _LONGEST_SOCKET
    if room >= LONGEST_NAME or first == second:
        return [(first, Names(LONGEST_NAME, short=True))]
    return [(first, Names(room, short=True)), (second, Names(room, short=False))]


def base_for(name: str) -> Path:
    """Return the directory in which a run of that (possible) name is."""
    return next(base for base, names in bases() if names.holds(name))


def _preferred() -> Path:
    if chosen := os.environ.get(VARIABLE):
        return Path(os.path.abspath(chosen))  # noqa: PTH100 - does not follow links
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.path.isabs(runtime):  # noqa: PTH117 - "" is no path
        with contextlib.suppress(OSError):
            info = Path(runtime).stat()
            if stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid():
                return Path(runtime, "aiomas")
    return Path(tempfile.gettempdir(), f"aiomas-{os.geteuid()}")


def _fallback() -> Path:
    # Not what TMPDIR says, as that is what may be too long.
    return Path("/tmp", f"aiomas-{os.geteuid()}")  # noqa: S108 - checked before it is used


def _make_base(base: Path) -> None:
    try:
        base.mkdir(PRIVATE)
    except FileExistsError:
        pass
    except OSError as exc:
        msg = (
            f"the directory for the files of running clusters cannot be made at {base} "
            f"({exc.strerror}); make {base.parent} first, or set {VARIABLE} to another place"
        )
        raise ClusterError(msg) from exc


def _check_base(base: Path) -> None:
    """Refuse a base directory in which others could read keys, connect, or plant something."""
    check_private(base, "the files of running clusters", VARIABLE)


def check_private(directory: Path, what: str, variable: str) -> None:
    """Refuse a directory that is not ours alone.

    Args:
        directory: it exists.
        what: the things that are to be in it, for the message.
        variable: the environment variable that names another one.

    Raises:
        ClusterError: others could use it, or plant something in it.
    """
    info = directory.lstat()
    if stat.S_ISLNK(info.st_mode):
        problem = "it is a symbolic link"
    elif not stat.S_ISDIR(info.st_mode):
        problem = "it is no directory"
    elif info.st_uid != os.geteuid():
        problem = f"it belongs to the user with id {info.st_uid}, not to {os.geteuid()}"
    elif info.st_mode & 0o077:
        problem = f"others may use it (its mode is {stat.S_IMODE(info.st_mode):04o}, not 0700)"
    else:
        if info.st_mode & PRIVATE != PRIVATE:  # a strict umask did that
            directory.chmod(PRIVATE)
        return
    msg = (
        f"{directory} cannot hold {what}: {problem}; "
        f"remove it or mend it, or set {variable} to a directory of your own"
    )
    raise ClusterError(msg)


@contextlib.contextmanager
def locked(base: Path, *, create: bool = False, shared: bool = False) -> Iterator[None]:
    """Check *base* and hold a lock on it.

    Raises:
        FileNotFoundError: it does not exist, and *create* is not set.
        ClusterError: it cannot be trusted, or somebody keeps it locked.
    """
    until = time.monotonic() + LOCK_TIMEOUT
    while True:
        descriptor = None
        try:
            if create:
                _make_base(base)
            _check_base(base)
            descriptor = os.open(base, DIRECTORY)
            lock(descriptor, base, until, shared=shared)
            # The one that had the lock before may have removed the directory that we have opened.
            if identity(descriptor) == identity(base):
                yield
                return
        except FileNotFoundError:
            # Somebody has removed it since it was made.
            if descriptor is not None or not create or time.monotonic() > until:
                raise
        finally:
            if descriptor is not None:
                os.close(descriptor)


def lock(descriptor: int, base: Path, until: float, *, shared: bool) -> None:
    """Lock the directory *base* by its descriptor, within the time *until*.

    Raises:
        ClusterError: somebody keeps it locked, or its file system has no locks.
    """
    while not try_lock(descriptor, base, shared=shared):
        if time.monotonic() > until:
            msg = (
                f"another process has kept {base} locked for {LOCK_TIMEOUT} s; "
                f"end it (`fuser -v {base}` shows it), or set {VARIABLE} to another directory"
            )
            raise ClusterError(msg)
        time.sleep(PAUSE)


def try_lock(descriptor: int, path: Path, *, shared: bool = False) -> bool:
    """Lock the directory *path* by its descriptor, unless somebody else has it locked.

    Raises:
        ClusterError: its file system has no locks.
    """
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as exc:
        msg = (
            f"{path} cannot be locked ({exc.strerror}), so it cannot hold running clusters; "
            f"set {VARIABLE} to a directory on a local file system"
        )
        raise ClusterError(msg) from exc
    return True


def remove_if_empty(base: Path) -> None:
    """Remove *base*, which is locked, unless somebody needs it."""
    with contextlib.suppress(OSError):
        base.rmdir()


def identity(file: int | Path) -> tuple[int, int] | None:
    """Return what tells a directory from all others that exist now; ``None`` if it is gone."""
    try:
        info = os.fstat(file) if isinstance(file, int) else file.lstat()
    except OSError as exc:
        if exc.errno in {errno.ENOENT, errno.ENOTDIR}:
            return None
        raise
    return info.st_dev, info.st_ino
