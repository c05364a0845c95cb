"""Files that must never be half written, readable by others, or changed by two at once.

Knows modes, locks and disks; knows nothing of certificates.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "NewFile",
    "StoreError",
    "append_line",
    "check_replaceable",
    "lock",
    "make_directory",
    "make_own_directory",
    "others_can_read",
    "read",
    "read_private",
    "remove_unfinished",
    "write",
    "write_together",
]

PRIVATE = 0o600
PUBLIC = 0o644
LARGEST_FILE = 64 * 1024 * 1024
"""Bytes. A certificate has 1 KB; a revocation list of 100,000 certificates has 4 MB."""

_UNFINISHED = ".unfinished"
_LOCK_POLL = 0.05


class StoreError(OSError):
    """A file or directory is not in the state that an operation needs; the message says which."""


class NewFile(NamedTuple):
    """A file to be written."""

    path: Path
    data: bytes
    private: bool = False
    """It has mode 0600 before the first byte is in it.

    One that is not private keeps the mode of the file that it replaces; a new one has 0644, or what
    the umask leaves of that.
    """


def write(
    path: Path,
    data: bytes,
    *,
    private: bool = False,
    replace: bool = False,
    keep_owner: bool = True,
) -> None:
    """Put *data* into the file *path*, all of it or nothing: `write_together` with one file."""
    write_together([NewFile(path, data, private)], replace=replace, keep_owner=keep_owner)


def write_together(
    files: Sequence[NewFile], *, replace: bool = False, keep_owner: bool = True
) -> None:
    """Write files whose content belongs together, such as a key and its certificate.

    The bytes go into new files in the same directories, which take the places of the old ones when
    all of them are complete and on the disk. A crash, or a disk that is full, leaves the old ones;
    only a process that is killed between two renames leaves some old and some new.

    Args:
        files: in directories that exist.
        replace: whether they may exist.
        keep_owner: what is replaced keeps its owner, as far as the system lets us: a key that root
            renews stays readable for the service that uses it. Not in a directory in which somebody
            else could have put the old file.

    Raises:
        FileExistsError: one is there, *replace* is false, and nothing was changed.
        StoreError: one is no regular file, or the file system does not keep the mode of a private
            file.
        OSError: anything else that goes wrong with a file.
    """
    for file in files:
        if not replace and os.path.lexists(file.path):  # asked again below, where nobody can cheat
            raise _exists(file.path)
        check_replaceable(file.path)
    ready: dict[Path, Path] = {}
    made: list[Path] = []
    try:
        for file in files:
            ready[file.path] = _write_unfinished(file, keep_owner=keep_owner)
        for path, unfinished in ready.items():
            with _naming(path):
                if replace:
                    unfinished.replace(path)
                else:
                    _rename_to_new(unfinished, path)
                    made.append(path)
                _sync_directory(path.parent)
    except BaseException:
        for path in [*ready.values(), *made]:
            path.unlink(missing_ok=True)
        raise


def check_replaceable(path: Path) -> None:
    """Fail if *path* is anything but a regular file, or a symbolic link to one: say, a device.

    Raises:
        StoreError: it is a device, a pipe, or a socket.
        IsADirectoryError: it is a directory.
    """
    with contextlib.suppress(FileNotFoundError):
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            msg = f"{path} is a directory"
            raise IsADirectoryError(msg)
        if not stat.S_ISREG(mode):
            msg = f"{path} is no regular file, and is not replaced"
            raise StoreError(msg)


def _write_unfinished(file: NewFile, *, keep_owner: bool) -> Path:
    unfinished = file.path.with_name(f".{file.path.name}.{secrets.token_hex(4)}{_UNFINISHED}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with _naming(file.path):
        descriptor = os.open(unfinished, flags, PRIVATE if file.private else PUBLIC)
        try:
            try:
                _take_after(file.path, descriptor, private=file.private, owner=keep_owner)
                _write_all(descriptor, file.data)
            finally:
                os.close(descriptor)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
    return unfinished


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let an error name the file that was asked for, as some name another one, or none."""
    try:
        yield
    except OSError as exc:
        if exc.errno is None:  # it is one of ours, with a sentence
            raise
        raise OSError(exc.errno, exc.strerror, str(path)) from exc


def _exists(path: Path) -> FileExistsError:
    return FileExistsError(f"{path} is there already")


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.fsync(descriptor)


def _take_after(path: Path, descriptor: int, *, private: bool, owner: bool) -> None:
    """Give the new file the owner, and if it is no secret the mode, of the one at *path*."""
    with contextlib.suppress(FileNotFoundError):
        old = path.stat(follow_symlinks=False)
        if stat.S_ISREG(old.st_mode):
            directory = path.parent.stat()
            trusted = directory.st_uid in {0, old.st_uid} and not directory.st_mode & 0o022
            if owner and trusted:
                with contextlib.suppress(PermissionError):
                    os.fchown(descriptor, old.st_uid, old.st_gid)
            if not private:
                os.fchmod(descriptor, stat.S_IMODE(old.st_mode))
    if private and os.fstat(descriptor).st_mode & 0o077:
        msg = f"{path.parent} is on a file system that does not keep permissions: no place for keys"
        raise StoreError(msg)


def _rename_to_new(unfinished: Path, path: Path) -> None:
    try:
        path.hardlink_to(unfinished)  # fails if path exists, unlike a rename
    except FileExistsError:
        raise _exists(path) from None
    except OSError as exc:
        if exc.errno not in {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK}:
            raise
        # A USB stick may have no hard links. Here, two processes can meet between these lines.
        if os.path.lexists(path):
            raise _exists(path) from None
        unfinished.rename(path)
    else:
        unfinished.unlink()


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # some file systems cannot, and need not
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(directory: Path) -> None:
    """Make *directory*, with mode 0700, unless it is there; what is there keeps its mode.

    Raises:
        StoreError: it is there, and others could replace a key that is put into it.
        NotADirectoryError: a file is in the way.
    """
    _make(directory)
    mode = directory.stat().st_mode
    if mode & 0o022 and not mode & stat.S_ISVTX:
        msg = (
            f"others can replace what is in {directory}, no place for keys: chmod go-w {directory}"
        )
        raise StoreError(msg)


def make_own_directory(directory: Path) -> None:
    """Make *directory*, with mode 0700; one that is there gets it if it is ours and empty.

    Raises:
        StoreError: others can look into it.
        NotADirectoryError: a file is in the way.
    """
    _make(directory)
    found = directory.stat()
    if found.st_mode & 0o077 and found.st_uid == os.geteuid() and not any(directory.iterdir()):
        directory.chmod(0o700)
    if directory.stat().st_mode & 0o077:
        msg = f"{directory} is open to others, no place for a CA: chmod 700 {directory}"
        raise StoreError(msg)


def _make(directory: Path) -> None:
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as exc:
        msg = f"{exc.filename} is, or lies in, a file and no directory: name another place"
        raise NotADirectoryError(msg) from exc


def append_line(path: Path, line: str) -> None:
    """Append *line* to the file *path*, which only its owner can read: all of the line or nothing.

    Raises:
        OSError: it could not be written, and the file is as it was.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    with _naming(path):
        descriptor = os.open(path, flags, PRIVATE)
        try:
            before = os.fstat(descriptor).st_size
            try:
                _write_all(descriptor, f"{line}\n".encode())
            except BaseException:
                os.ftruncate(descriptor, before)
                raise
        finally:
            os.close(descriptor)


def read(path: Path) -> bytes:
    """Return what is in the file *path*.

    Raises:
        StoreError: it has more than `LARGEST_FILE` bytes.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return _read_bounded(path, file.fileno())


def read_private(path: Path, *, allow_readable: bool = False) -> bytes:
    """Return what is in the file *path*, unless others than its owner can read it.

    Raises:
        StoreError: others can read it, and *allow_readable* is false.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        # Of the open file: what has this name may be another one a moment later.
        if not allow_readable and os.fstat(file.fileno()).st_mode & 0o077:
            msg = (
                f"{path} can be read or changed by others: a private key should not be"
                f" (chmod 600 {path}, or --allow-readable-key)"
            )
            raise StoreError(msg)
        return _read_bounded(path, file.fileno())


def _read_bounded(path: Path, descriptor: int) -> bytes:
    data = bytearray()
    while chunk := os.read(descriptor, 1 << 16):
        data += chunk
        if len(data) > LARGEST_FILE:
            msg = f"{path} is too large to be what it should be"
            raise StoreError(msg)
    return bytes(data)


def others_can_read(path: Path) -> bool:
    """Whether others than its owner can do something with the file *path*."""
    return bool(path.stat().st_mode & 0o077)


@contextlib.contextmanager
def lock(directory: Path, *, timeout: float) -> Iterator[None]:
    """Be the only process that changes what is in *directory*.

    Args:
        directory: one that exists. Whoever takes no lock is not kept out.
        timeout: how long to wait for another process, in seconds.

    Raises:
        StoreError: another process did not end within that time.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    msg = f"{directory} is in use by another process: gave up after {timeout:g} s"
                    raise StoreError(msg) from None
                time.sleep(_LOCK_POLL)
        yield
    finally:
        os.close(descriptor)


def remove_unfinished(directory: Path) -> None:
    """Remove what processes that were killed while they wrote have left in *directory*."""
    for path in directory.glob(f".*{_UNFINISHED}"):
        path.unlink(missing_ok=True)
