"""The directories of running clusters: where they are, which of them live, and who removes them.

A run is a directory ``<base>/<name>/`` whose own descriptor is locked for as long as its supervisor
lives.  The kernel drops that lock with the process, however it ends, so nobody has to believe a pid
in a file.  (``systemd-tmpfiles`` leaves locked directories alone, too.)  Whoever makes, looks at or
removes a run holds a lock on the base directory meanwhile, so a lock on a run that somebody else
finds is always that of a living supervisor.

To listen on a path locks its directory for a moment, too.  So sockets in a run are bound by hand
and handed over; nobody's dead socket can be in the way there.

A run appears and vanishes under its name in one step: it is made, and removed, under a name that
begins with ``PREFIX``.  What a power cut left half done is told from other people's files by that.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiomas.cluster.basedir import (
    DIRECTORY,
    LOCK_TIMEOUT,
    LONGEST_NAME,
    NAME,
    PAUSE,
    PRIVATE,
    base_for,
    bases,
    identity,
    lock,
    locked,
    remove_if_empty,
    try_lock,
)
from aiomas.exceptions import ClusterError

PREFIX = ".aiomas-"
"""What the names of directories begin with that are being made or removed."""
FACTS = "run.json"
"""What a run says about itself; it is there from the first moment on."""
_ASIDE = re.compile(rf"{re.escape(PREFIX)}[0-9a-f]{{16}}")
_NOT_THERE = (FileNotFoundError, NotADirectoryError)
_MOST_FACTS = 2**20  # bytes
_PRIVATE_FILE = 0o600


@dataclass(frozen=True, slots=True)
class Run:
    """A cluster of this user that is running on this machine.

    Args:
        name: what it is called.
        path: its directory.
        facts: what it says about itself: ``name``, ``pid`` (of its supervisor), ``driver_pid``,
            ``started`` (seconds since 1970), ``transport``, ``containers``, ``command``, ``host``
            and ``log_dir``, as far as it has said that yet; empty if its file cannot be read.
    """

    name: str
    path: Path
    facts: dict[str, Any]


class RunDirectory:
    """The directory of a run, seen from the process that it lives and ends with.

    Made by :meth:`create`.  The descriptor that holds its lock is not inherited.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    def __repr__(self) -> str:
        return f"<RunDirectory {self._path}>"

    @classmethod
    def create(cls, name: str | None = None) -> RunDirectory:
        """Make and lock the directory of a new run, after removing those of runs that are over.

        Args:
            name: at most 64 letters, digits, ``.``, ``_`` and ``-``, the first of them a letter or
                a digit; by default ``run-`` and six random hexadecimal digits.

        Raises:
            ClusterError: a run of that name is alive, the name cannot be used, or the base
                directory cannot be trusted or locked.
            OSError: there is no room, or no descriptor left.
        """
        if name is not None:
            _check_name(name)
        base = base_for("x" * len("run-123456") if name is None else name)
        with locked(base, create=True):
            try:
                _sweep(base)
                chosen = _unused_name(base) if name is None else name
                _check_free(base / chosen)
                return cls(base / chosen, _make(base, chosen))
            except BaseException:
                remove_if_empty(base)
                raise

    @property
    def path(self) -> Path:
        """The directory; absolute."""
        return self._path

    @property
    def name(self) -> str:
        """The name of the run."""
        return self._path.name

    def publish(self, facts: Mapping[str, Any]) -> None:
        """Write what :func:`running` shows others about this run, in one step.

        Args:
            facts: see :class:`Run`; everything in it can be written as JSON.

        Raises:
            TypeError: something in *facts* cannot be written as JSON.
            OSError: the disk is full, or the run has been removed; what was published stands.
        """
        _write_facts(self._descriptor, facts)

    def remove(self) -> None:
        """Remove the directory with all that is in it, and the base directory if it is empty.

        What cannot be removed is left to the next run.  Does nothing when called again.
        """
        if self._descriptor < 0:
            return
        base = self._path.parent
        try:
            with locked(base):
                self._remove()
                remove_if_empty(base)
        except (ClusterError, OSError):
            # Somebody hangs with the lock, or the base is gone. Our own lock on the run is enough
            # for this part, and the base can stay.
            self._remove()

    def _remove(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor < 0:
            return
        try:
            # Not what somebody else has made in its place, after it was removed by hand.
            if identity(descriptor) == identity(self._path):
                _delete(self._path)
        finally:
            os.close(descriptor)


def running() -> list[Run]:
    """Return the runs of this user that are alive, by name.

    Raises:
        ClusterError: the base directory cannot be trusted or locked.
    """
    runs = []
    for base, names in bases():
        with contextlib.suppress(*_NOT_THERE), locked(base, shared=True):
            for entry in _directories(base):
                if names.holds(entry.name):
                    runs += _living(entry)
    return sorted(runs, key=lambda run: run.name)


def find(name: str | None = None) -> Run:
    """Return the run with that *name*, or the only one there is.

    Raises:
        ClusterError: there is no such run, or a name is needed as there are several; the message
            says which ones there are.
    """
    runs = running()
    names = ", ".join(run.name for run in runs)
    if not runs:
        places = " and ".join(str(base) for base, _ in bases())
        what = "cluster" if name is None else f"cluster {name!r}"
        msg = f"no {what} of this user is running (looked in {places})"
        raise ClusterError(msg)
    if name is None:
        if len(runs) > 1:
            msg = f"{len(runs)} clusters are running, so say which one is meant: {names}"
            raise ClusterError(msg)
        return runs[0]
    for run in runs:
        if run.name == name:
            return run
    msg = f"no cluster {name!r} is running; these are: {names}"
    raise ClusterError(msg)


def sweep() -> None:
    """Remove what runs left that are over; nothing that is alive, and nothing that is no run.

    Raises:
        ClusterError: the base directory cannot be trusted or locked.
    """
    for base, _ in bases():
        with contextlib.suppress(*_NOT_THERE), locked(base):
            _sweep(base)
            remove_if_empty(base)


def remove_tree(path: str | os.PathLike[str], *, timeout: float = 2.0) -> None:
    """Remove the directory of a run whose supervisor is gone, and then an empty base directory.

    For the other processes of a run: several may do this at once.  Nothing is removed if a run is
    alive there, which may be a new one of the same name.  Never raises an ``OSError``.

    Args:
        path: that of the run.
        timeout: seconds to wait for the lock of a supervisor that is about to be gone: other
            processes see its pipes end shortly before.
    """
    path = Path(path)
    until = time.monotonic() + timeout
    with contextlib.suppress(OSError, ClusterError):
        while not _removed(path):
            if time.monotonic() > until:
                return
            time.sleep(PAUSE)


def _removed(path: Path) -> bool:
    with locked(path.parent):
        if not path.is_symlink() and path.is_dir():
            with _if_dead(path) as dead:
                if not dead:
                    return False
                _delete(path)
        # Also what another process of that run has begun to remove before it was killed.
        _sweep(path.parent)
        remove_if_empty(path.parent)
    return True


# --- runs in a base directory that is locked ------------------------------------------------------


def _check_name(name: str) -> None:
    if NAME.fullmatch(name) is None:
        msg = (
            f"{name!r} cannot be the name of a cluster: at most {LONGEST_NAME} letters, digits, "
            "'.', '_' and '-' can, and the first is a letter or a digit"
        )
        raise ClusterError(msg)


def _unused_name(base: Path) -> str:
    while (base / (name := f"run-{os.urandom(3).hex()}")).exists():
        pass
    return name


def _check_free(path: Path) -> None:
    """Complain if there is something under the name of a new run, now that all is swept."""
    try:
        descriptor = os.open(path, DIRECTORY)
    except FileNotFoundError:
        return
    except OSError as exc:
        msg = f"a cluster cannot be called {path.name!r}: {path} is in the way ({exc.strerror})"
        raise ClusterError(msg) from exc
    try:
        if try_lock(descriptor, path, shared=True):
            msg = (
                f"a cluster cannot be called {path.name!r}: {path} is in the way, and is no "
                "directory of a cluster; remove it, or choose another name"
            )
            raise ClusterError(msg)
        facts = _read_facts(descriptor)
    finally:
        os.close(descriptor)
    msg = (
        f"a cluster {path.name!r} is running already ({_describe(facts)}); "
        "stop it, or choose another name"
    )
    raise ClusterError(msg)


def _describe(facts: Mapping[str, Any]) -> str:
    started = facts.get("started")
    since = "since an unknown time"
    with contextlib.suppress(OverflowError, ValueError, OSError):
        if isinstance(started, int | float):
            since = time.strftime("since %Y-%m-%d %H:%M:%S", time.localtime(started))
    return f"pid {facts.get('pid', 'unknown')}, {since}"


def _make(base: Path, name: str) -> int:
    """Make the directory of a run and return the descriptor that is locked."""
    path = base / f"{PREFIX}{os.urandom(8).hex()}"
    descriptor = None
    try:
        path.mkdir(PRIVATE)
        path.chmod(PRIVATE)  # whatever the umask is
        descriptor = os.open(path, DIRECTORY)
        lock(descriptor, path, time.monotonic() + LOCK_TIMEOUT, shared=False)
        _write_facts(descriptor, {"name": name, "pid": os.getpid(), "started": time.time()})
        path.rename(base / name)
    except BaseException:
        if descriptor is not None:
            os.close(descriptor)
        shutil.rmtree(path, ignore_errors=True)
        raise
    return descriptor


def _write_facts(directory: int, facts: Mapping[str, Any]) -> None:
    content = json.dumps(dict(facts)).encode()
    new = f".{FACTS}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    try:
        with os.fdopen(os.open(new, flags, _PRIVATE_FILE, dir_fd=directory), "wb") as file:
            os.fchmod(file.fileno(), _PRIVATE_FILE)  # whatever the umask is
            file.write(content)
        os.replace(new, FACTS, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(new, dir_fd=directory)
        raise


def _read_facts(directory: int) -> dict[str, Any]:
    """Return what a run says about itself; nothing if that is damaged."""
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        with os.fdopen(os.open(FACTS, flags, dir_fd=directory), "rb") as file:
            facts = json.loads(file.read(_MOST_FACTS))
    except (OSError, ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _directories(base: Path) -> list[os.DirEntry[str]]:
    with os.scandir(base) as entries:
        return [entry for entry in entries if entry.is_dir(follow_symlinks=False)]


def _living(entry: os.DirEntry[str]) -> list[Run]:
    """Return the run in a directory if it is alive."""
    try:
        descriptor = os.open(entry.path, DIRECTORY)
    except (FileNotFoundError, PermissionError):  # removed by hand, or not ours
        return []
    try:
        if try_lock(descriptor, Path(entry.path), shared=True):
            return []
        return [Run(entry.name, Path(entry.path), _read_facts(descriptor))]
    finally:
        os.close(descriptor)


def _sweep(base: Path) -> None:
    """Remove directories of runs that are over."""
    for entry in _directories(base):
        with contextlib.suppress(OSError):  # what cannot be looked at is not known to be over
            path = Path(entry.path)
            if entry.stat(follow_symlinks=False).st_uid != os.geteuid():
                continue
            with _if_dead(path) as dead:
                if dead and _was_run(path):
                    _delete(path)


@contextlib.contextmanager
def _if_dead(path: Path) -> Iterator[bool]:
    """Tell whether no process lives in a run, and keep it locked if so."""
    try:
        descriptor = os.open(path, DIRECTORY)
    except PermissionError:
        if not _ASIDE.fullmatch(path.name):
            raise
        # Its maker has been killed before it got the right mode.
        path.chmod(PRIVATE)
        descriptor = os.open(path, DIRECTORY)
    try:
        yield try_lock(descriptor, path)
    finally:
        os.close(descriptor)


def _was_run(path: Path) -> bool:
    """Whether a directory is what a run left, and not something else that somebody keeps here."""
    if _ASIDE.fullmatch(path.name):
        return True
    if NAME.fullmatch(path.name) is None or stat.S_IMODE(path.stat().st_mode) & 0o077:
        return False
    left = list(path.iterdir())
    return path / FACTS in left or all(file.is_socket() for file in left)


def _delete(path: Path) -> None:
    """Remove the directory of a run, which is locked by us; its name is free at once."""
    aside = path.parent / f"{PREFIX}{os.urandom(8).hex()}"
    try:
        path.rename(aside)
    except OSError:
        aside = path
    shutil.rmtree(aside, ignore_errors=True)
