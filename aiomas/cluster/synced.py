"""The user's modules on a host: contents that its supervisor has got, and the tree made of them.

Contents are kept by their checksums in a private cache of the user, so that the next run sends only
what has changed.  All of this blocks; it is called in threads, one call after the other.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from aiomas.cluster import basedir, cachedir, manifest
from aiomas.cluster.basedir import PRIVATE
from aiomas.cluster.manifest import Entry
from aiomas.exceptions import ClusterError

LIMIT = 512 * 2**20
"""How many bytes a cache keeps."""

_PART = "part"
_PRIVATE_FILE = 0o600
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)


class Store:
    """The contents that one run needs.  Made by :meth:`open`.

    It has a directory of its own, beside the contents in the cache, whose descriptor is locked for
    as long as it is open: another process removes it if this one is killed.  What the run needs is
    linked there, so it does not matter what others do with the cache meanwhile.  If there is no
    cache, that directory is all there is.
    """

    def __init__(
        self, own: Path, descriptor: int, cache: Path | None, limit: int, why_uncached: str
    ) -> None:
        self._own = own
        self._descriptor = descriptor
        self._cache = cache
        self._limit = limit
        self._why_uncached = why_uncached
        self._variable = cachedir.VARIABLE if cache is not None else basedir.VARIABLE
        self._entries: dict[str, Entry] = {}
        self._sizes: dict[str, int] = {}  # of all contents that the run needs
        self._wanted: set[str] = set()  # checksums of those that are not there yet
        self._incoming: _Incoming | None = None

    def __repr__(self) -> str:
        return f"<Store {self._own}>"

    @classmethod
    def open(cls, fallback: Path, base: Path | None = None, limit: int = LIMIT) -> Store:
        """Return a store; close it in the end.

        Args:
            fallback: an existing directory to use where there can be no cache, such as that of the
                run.
            base: the cache; by default ``$XDG_CACHE_HOME/aiomas/sync`` or
                ``~/.cache/aiomas/sync``.  It is made if it is missing.
            limit: how many bytes :meth:`prune` leaves in the cache.

        Raises:
            ClusterError: others could change what is in the cache; or there can be no cache, and
                *fallback* cannot be used either.
        """
        base = cachedir.default_base() if base is None else base
        why = "the user has no home directory"
        if base is not None:
            try:
                cachedir.make_base(base)
                cachedir.sweep(base)
                own, descriptor = cachedir.make_own(base)
            except OSError as exc:
                why = f"{base} cannot be used: {exc.strerror}"
            else:
                return cls(own, descriptor, base, limit, "")
        with _explained(fallback, basedir.VARIABLE):
            own, descriptor = cachedir.make_own(fallback, lock=False)
        return cls(own, descriptor, None, limit, why)

    @property
    def why_uncached(self) -> str:
        """Why there is no cache, so that everything is sent at each start; empty if there is."""
        return self._why_uncached

    def missing(self, content: Any) -> list[str]:
        """Take the manifest of the run, and return the checksums of what has to be sent.

        Args:
            content: what :meth:`.Bundle.manifest` has returned.

        Raises:
            ValueError: the manifest is not what it has to be; the message says how.
            ClusterError: the directory of the store cannot be used.
        """
        self._drop_incoming()
        self._entries = manifest.read(content)
        self._sizes = {entry.checksum: entry.size for entry in self._entries.values()}
        with _explained(self._own, self._variable):
            missing = [checksum for checksum in self._sizes if not self._take(checksum)]
        self._wanted = set(missing)
        return missing

    def put(self, checksum: str, offset: int, data: bytes) -> None:
        """Take the next piece of a content that is missing.

        The pieces of a content come one after the other; one that begins again with the first
        piece, or with another content, forgets what has come before.

        Args:
            checksum: that of the whole content.
            offset: where in the content the piece begins, in bytes.
            data: the piece.

        Raises:
            ClusterError: it is not the next piece, or one of something else, or the disk is full.
                Nothing is left of that content; it can be sent again.
        """
        try:
            with _explained(self._own, self._variable):
                self._add(checksum, offset, data)
        except BaseException:
            self._drop_incoming()
            raise

    def build(self, target: Path) -> None:
        """Make the tree, of copies that only their owner can use.

        Args:
            target: its root, which does not exist yet.

        Raises:
            ClusterError: a content is missing, or the tree cannot be made; nothing is left of it.
        """
        if self._wanted:
            msg = f"{len(self._wanted)} of {len(self._sizes)} contents of the modules are missing"
            raise ClusterError(msg)
        with _explained(target, basedir.VARIABLE):
            target.mkdir(PRIVATE)
            try:
                target.chmod(PRIVATE)  # whatever the umask is
                for path, entry in self._entries.items():
                    self._copy(entry, target, path)
            except BaseException:
                shutil.rmtree(target, ignore_errors=True)
                raise

    def prune(self) -> None:
        """Remove the contents from the cache that were not used for longest, if it is too large.

        Those of this run stay.  Never raises an ``OSError``: the run does not need this.
        """
        if self._cache is None:
            return
        with contextlib.suppress(OSError):
            kept = [
                (info.st_mtime_ns, info.st_size, path)
                for path in self._cache.iterdir()
                if manifest.CHECKSUM.fullmatch(path.name) and (info := _info(path)) is not None
            ]
            total = sum(size for _, size, _ in kept)
            for _, size, path in sorted(kept):
                if total > self._limit and path.name not in self._sizes:
                    path.unlink(missing_ok=True)
                    total -= size

    def close(self) -> None:
        """Remove what the run alone has needed; the cache and the tree stay.

        Does nothing when called again.
        """
        if self._descriptor < 0:
            return
        self._drop_incoming()
        shutil.rmtree(self._own, ignore_errors=True)
        os.close(self._descriptor)
        self._descriptor = -1

    def _take(self, checksum: str) -> bool:
        """Whether a content is there; then nobody can take it away any more."""
        own = self._own / checksum
        if self._cache is not None:
            # Without links, as with some network file systems, everything is sent.
            with contextlib.suppress(OSError):
                os.link(self._cache / checksum, own)
        try:
            if self._is_whole(own, checksum):
                os.utime(own)  # it is the one in the cache as well
                return True
        except FileNotFoundError:
            return False
        # The machine has gone down before all of it was written, or somebody has changed it.
        own.unlink()
        if self._cache is not None:
            (self._cache / checksum).unlink(missing_ok=True)
        return False

    def _is_whole(self, path: Path, checksum: str) -> bool:
        info = path.lstat()
        if not stat.S_ISREG(info.st_mode) or info.st_size != self._sizes[checksum]:
            return False
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == checksum

    def _add(self, checksum: str, offset: int, data: bytes) -> None:
        if checksum not in self._wanted:
            msg = f"a content came that nobody wants, with the checksum {checksum!r}"
            raise ClusterError(msg)
        if offset == 0:
            self._drop_incoming()
            self._incoming = _Incoming(checksum, self._sizes[checksum], self._own / _PART)
        if self._incoming is None or not self._incoming.is_next(checksum, offset):
            msg = f"a piece came out of turn, of the content {checksum} at {offset}"
            raise ClusterError(msg)
        self._incoming.add(data)
        if self._incoming.is_whole:
            self._incoming.finish(self._own / checksum)
            self._incoming = None
            self._wanted.remove(checksum)
            self._publish(checksum)

    def _publish(self, checksum: str) -> None:
        """Let the next run find a content, which it does at once and wholly or not at all."""
        if self._cache is not None:
            # Another run may have been faster; and this run does not depend on it.
            with contextlib.suppress(OSError):
                os.link(self._own / checksum, self._cache / checksum)

    def _copy(self, entry: Entry, target: Path, path: str) -> None:
        copy = target
        *directories, name = path.split("/")
        for directory in directories:
            copy /= directory
            with contextlib.suppress(FileExistsError):
                copy.mkdir(PRIVATE)
                copy.chmod(PRIVATE)
        with (self._own / entry.checksum).open("rb") as source, _new_file(copy / name) as stream:
            if entry.executable:
                os.fchmod(stream.fileno(), PRIVATE)
            shutil.copyfileobj(source, stream)

    def _drop_incoming(self) -> None:
        if self._incoming is not None:
            self._incoming.drop()
            self._incoming = None


class _Incoming:
    """A content of which some pieces have come."""

    def __init__(self, checksum: str, size: int, path: Path) -> None:
        self._checksum = checksum
        self._size = size
        self._path = path
        self._digest = hashlib.sha256()
        self._received = 0
        self._stream = _new_file(path)

    def is_next(self, checksum: str, offset: int) -> bool:
        return checksum == self._checksum and offset == self._received

    @property
    def is_whole(self) -> bool:
        return self._received == self._size

    def add(self, data: bytes) -> None:
        if not data and self._size:
            msg = f"an empty piece came of the content {self._checksum}"
            raise ClusterError(msg)
        if self._received + len(data) > self._size:
            msg = f"more came than the {self._size} bytes of the content {self._checksum}"
            raise ClusterError(msg)
        self._stream.write(data)
        self._digest.update(data)
        self._received += len(data)

    def finish(self, path: Path) -> None:
        if self._digest.hexdigest() != self._checksum:
            msg = f"what came has not the checksum {self._checksum}, but {self._digest.hexdigest()}"
            raise ClusterError(msg)
        self._stream.close()
        self._path.replace(path)

    def drop(self) -> None:
        with contextlib.suppress(OSError):  # what is still to be written, on a full disk
            self._stream.close()
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


def _info(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except FileNotFoundError:  # another process prunes as well
        return None


def _new_file(path: Path) -> BinaryIO:
    stream = os.fdopen(os.open(path, _NEW, _PRIVATE_FILE), "wb")
    os.fchmod(stream.fileno(), _PRIVATE_FILE)  # whatever the umask is
    return stream


@contextlib.contextmanager
def _explained(directory: Path, variable: str) -> Iterator[None]:
    """Turn what the system says about files in *directory* into an error for the user.

    The environment variable is the one that decides where it is.
    """
    try:
        yield
    except OSError as exc:
        where = exc.filename or directory
        msg = f"the modules that the cluster sends cannot be written to {where}: {exc.strerror}"
        if exc.errno in {errno.ENOSPC, errno.EDQUOT}:
            msg = (
                f"there is no room in {directory} for the modules that the cluster sends "
                f"({exc.strerror}); remove something there, or set {variable} to a directory on "
                f"another disk"
            )
        raise ClusterError(msg) from exc
