"""Where the cache for the user's modules is on a host, and what each process has there for itself.

Nobody else can use the cache.  A directory of a process is locked for as long as that lives; so
what was killed is known, and what it has left is removed by the next one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
from pathlib import Path

from aiomas.cluster.basedir import DIRECTORY, PRIVATE, check_private, identity

if sys.platform != "win32":
    import fcntl

VARIABLE = "XDG_CACHE_HOME"
"""The environment variable that names the directory of all caches of a user."""

_PREFIX = ".run-"
_ATTEMPTS = 10  # at a directory that nobody takes for one that was left behind


def default_base() -> Path | None:
    """Return where the cache is by default; ``None`` if the user has no place for one."""
    chosen = os.environ.get(VARIABLE, "")
    if os.path.isabs(chosen):  # noqa: PTH117 - "" is no path
        return Path(chosen, "aiomas", "sync")
    try:
        home = Path.home()
        # With `sudo`, it may be that of somebody else, who could not use what we make there.
        if home.stat().st_uid != os.geteuid():
            return None
    except (RuntimeError, OSError):
        return None
    return home / ".cache" / "aiomas" / "sync"


def make_base(base: Path) -> None:
    """Make the cache if it is missing.

    Raises:
        ClusterError: others could plant modules in it.
        OSError: it cannot be made.
    """
    for directory in (*reversed(base.parents), base):
        with contextlib.suppress(FileExistsError):
            if not directory.exists():
                directory.mkdir(PRIVATE)
    check_private(base, "the modules that a cluster sends to this host", VARIABLE)


def sweep(base: Path) -> None:
    """Remove the directories in *base* whose processes were killed.

    Raises:
        OSError: *base* cannot be used.
    """
    for path in base.iterdir():
        if not path.name.startswith(_PREFIX):
            continue
        try:
            descriptor = os.open(path, DIRECTORY)
        except OSError:  # gone by now, or nothing that we have made
            continue
        try:
            if _try_lock(descriptor):
                shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(descriptor)


def make_own(base: Path, *, lock: bool = True) -> tuple[Path, int]:
    """Make a directory for a process alone, and return it with its descriptor.

    Args:
        base: where it is made.
        lock: whether to lock the descriptor, so that :func:`sweep` leaves it alone for as long as
            that is open.

    Raises:
        OSError: it cannot be made or locked.
    """
    for _ in range(_ATTEMPTS):
        path = base / f"{_PREFIX}{os.urandom(8).hex()}"
        path.mkdir(PRIVATE)
        # Before it is locked, another process may take it for one that was left behind.
        try:
            path.chmod(PRIVATE)  # whatever the umask is
            descriptor = os.open(path, DIRECTORY)
        except FileNotFoundError:
            continue
        try:
            if not lock or (_try_lock(descriptor) and identity(path) == identity(descriptor)):
                return path, descriptor
        except BaseException:
            os.close(descriptor)
            shutil.rmtree(path, ignore_errors=True)
            raise
        os.close(descriptor)
    raise OSError(errno.EAGAIN, "other processes remove what is made there")


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
