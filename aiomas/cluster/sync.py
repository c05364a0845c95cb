"""The user's modules, as the driver sends them to the hosts of a cluster.

Here files are found, checked and read; how they travel, and what becomes of them on a host
(:mod:`aiomas.cluster.synced`), is not known here.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from aiomas.cluster import manifest
from aiomas.cluster.manifest import Entry, size_text
from aiomas.exceptions import ClusterError

PIECE = 128 * 1024
"""How many bytes are sent at once: one second at 1 Mbit/s, so that heartbeats are not held up."""
BATCH = 500
"""How many pieces are sent at once, if they are small: one round trip each would be slow."""

_AT_ONCE = 2**20  # bytes that are read at once
# A file that has been replaced by a link or by a named pipe since it was found is not read.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)


@dataclasses.dataclass(frozen=True, slots=True)
class _Found:
    """A file that is to be sent."""

    root: Path  # what the user has named
    named: str  # its absolute path by way of that, links and all
    source: str  # its absolute path without links
    size: int


class Bundle:
    """Files that are to be on each host, as they were when this was made by :meth:`of_paths`.

    Only their checksums are held; what is sent is read again.
    """

    def __init__(self, entries: Mapping[str, Entry], found: Mapping[str, _Found]) -> None:
        self._entries = dict(entries)
        self._found = dict(found)
        # What a user names comes first: with links, a file may be in the tree more than once.
        self._paths = {file.source: path for path, file in found.items()}
        self._paths |= {file.named: path for path, file in found.items()}

    def __repr__(self) -> str:
        return f"<Bundle of {len(self._entries)} files, {size_text(self.size)}>"

    @classmethod
    def of_paths(cls, paths: Iterable[str | os.PathLike[str]]) -> Bundle:
        """Find and read the files that *paths* stand for.

        A file or a directory is sent under its own name: ``src/agents.py`` is ``agents.py`` in the
        root of the tree, and can be imported as ``agents`` there.  What is hidden, bytecode, and
        what is no file is left out of directories, and so are directories without files.

        Raises:
            ValueError: one of them is not there or cannot be read, has nothing to send, or the
                name of another one; there is too much to send; or a symbolic link leads out of the
                directory that it is in.  The message names it.
        """
        if isinstance(paths, str | bytes | os.PathLike):
            msg = f"sync must be a list of paths, got {paths!r}"
            raise ValueError(msg)  # noqa: TRY004 - one kind of error for all parameters
        roots = _by_name(paths)
        found: dict[str, _Found] = {}
        for name, root in roots.items():
            found |= _files_of(root, name, len(found))
        _check_total(found.values())
        entries = {path: _entry(file) for path, file in sorted(found.items())}
        return cls(entries, found)

    @property
    def entries(self) -> Mapping[str, Entry]:
        """What is sent, by the paths below the root of the tree, which have ``/`` in them."""
        return self._entries

    @property
    def size(self) -> int:
        """How many bytes all files have."""
        return sum(entry.size for entry in self._entries.values())

    def manifest(self) -> dict[str, list[Any]]:
        """Return plain values that say what is in the tree, see :func:`.manifest.read`."""
        return manifest.plain(self._entries)

    def locate(self, path: str) -> str | None:
        """Return where a file of this machine is in the tree, below its root.

        Args:
            path: an absolute path, with or without symbolic links.

        Returns:
            ``None`` if it is not sent.
        """
        if not os.path.isabs(path):  # noqa: PTH117 - "" is no path
            return None
        for known in (os.path.abspath(path), os.path.realpath(path)):  # noqa: PTH100 - keeps links
            if known in self._paths:
                return self._paths[known]
        return None

    def pieces(self, wanted: Iterable[str]) -> Iterator[tuple[str, int, bytes]]:
        """Read contents again, and yield them in pieces of at most :data:`PIECE` bytes, in order.

        Args:
            wanted: checksums of entries.

        Yields:
            The checksum, where in the content the piece begins, and the piece, which is empty only
            if the content is.

        Raises:
            ClusterError: a file has changed since the bundle was made, before the last piece of it
                is yielded, or it cannot be read any more; or no file has such a checksum.
        """
        paths = {entry.checksum: path for path, entry in self._entries.items()}
        for checksum in wanted:
            if checksum not in paths:
                msg = f"a host asks for a file that is not sent, with the checksum {checksum!r}"
                raise ClusterError(msg)
            path = paths[checksum]
            yield from _pieces(self._found[path].source, self._entries[path])

    def batches(self, wanted: Iterable[str]) -> Iterator[list[tuple[str, int, bytes]]]:
        """Yield what :meth:`pieces` does, as many of them together as are good for one message.

        Together they have at most :data:`PIECE` bytes.
        """
        batch: list[tuple[str, int, bytes]] = []
        size = 0
        for piece in self.pieces(wanted):
            if batch and (size + len(piece[2]) > PIECE or len(batch) == BATCH):
                yield batch
                batch, size = [], 0
            batch.append(piece)
            size += len(piece[2])
        if batch:
            yield batch


def _by_name(paths: Iterable[str | os.PathLike[str]]) -> dict[str, Path]:
    """Return absolute paths by the names that they have in the root of the tree."""
    roots: dict[str, Path] = {}
    for path in paths:
        if not isinstance(path, str | os.PathLike) or not os.fspath(path):
            msg = f"sync must be a list of paths, got {path!r} in it"
            raise ValueError(msg)
        root = Path(os.path.abspath(path))  # noqa: PTH100 - does not follow links
        if root.name in roots:
            msg = f"sync has both {roots[root.name]} and {root}, which have the same name"
            raise ValueError(msg)
        if not root.name:
            msg = f"sync has {root}, which has no name: name the files and directories in it"
            raise ValueError(msg)
        roots[root.name] = root
    return roots


def _files_of(root: Path, name: str, already: int) -> dict[str, _Found]:
    """Return what one path of the user stands for, by paths in the tree."""
    real = Path(os.path.realpath(root))
    try:
        mode = real.stat().st_mode
    except OSError as exc:
        raise _unreadable(root, exc) from exc
    found: dict[str, _Found] = {}
    if stat.S_ISREG(mode):
        files: Iterable[tuple[str, str]] = [(name, str(real))]
    elif stat.S_ISDIR(mode):
        files = _walk(root, real, name)
    else:
        msg = f"sync: {root} is neither a file nor a directory"
        raise ValueError(msg)
    for path, source in files:
        _check_path(path, source)
        if already + len(found) == manifest.MOST_FILES:
            raise _too_many(root)
        named = os.path.normpath(root.parent / path)
        found[path] = _Found(root, named, source, _size_of(source))
    if not found:
        msg = f"sync: there are no files to send in {root} (what is hidden is left out)"
        raise ValueError(msg)
    return found


def _walk(root: Path, real: Path, name: str) -> Iterator[tuple[str, str]]:
    """Yield the path in the tree, and that on this machine, of each file in a directory."""
    # With each directory: those that it is in, which a link may not lead back to.
    left: list[tuple[str, str, frozenset[str]]] = [(name, str(real), frozenset())]
    seen = 0
    while left:
        path, directory, above = left.pop()
        above |= {directory}
        seen += 1
        if seen > manifest.MOST_FILES:
            raise _too_many(root)
        for entry in _entries_of(directory):
            inner = f"{path}/{entry.name}"
            source = _inside(entry, real) if entry.is_symlink() else entry.path
            if source in above:
                msg = f"sync: by way of symbolic links, {source} is in itself (at {entry.path})"
                raise ValueError(msg)
            if os.path.isdir(source):  # noqa: PTH112 - thousands of them
                _check_path(inner, source)
                left.append((inner, source, above))
            elif os.path.isfile(source):  # noqa: PTH113 - as above
                yield inner, source


def _entries_of(directory: str) -> list[os.DirEntry[str]]:
    """Return what is in a directory, but for what nobody wants to send."""
    try:
        with os.scandir(directory) as entries:
            return [
                entry
                for entry in entries
                if not entry.name.startswith(".")
                and entry.name != "__pycache__"
                and not entry.name.endswith(".pyc")
            ]
    except OSError as exc:
        raise _unreadable(directory, exc) from exc


def _inside(link: os.DirEntry[str], real: Path) -> str:
    """Return what a symbolic link leads to, which has to be in the directory *real*."""
    target = Path(os.path.realpath(link.path))
    if target != real and real not in target.parents:
        msg = (
            f"sync: the symbolic link {link.path} leads to {target}, which is not in {real}: "
            f"name {target} in sync itself, or remove the link"
        )
        raise ValueError(msg)
    if not target.exists():
        msg = f"sync: the symbolic link {link.path} leads to nothing"
        raise ValueError(msg)
    return str(target)


def _check_path(path: str, source: str) -> None:
    try:
        manifest.check_path(path)
    except ValueError as exc:
        msg = f"sync: {source!r} cannot be sent: {exc}"
        raise ValueError(msg) from None


def _size_of(source: str) -> int:
    try:
        size = os.stat(source).st_size  # noqa: PTH116 - thousands of them
    except OSError as exc:
        raise _unreadable(source, exc) from exc
    if size > manifest.LARGEST_FILE:
        msg = (
            f"sync: {source} has {size_text(size)}; "
            f"a file may have at most {size_text(manifest.LARGEST_FILE)}"
        )
        raise ValueError(msg)
    return size


def _check_total(found: Iterable[_Found]) -> None:
    sizes: dict[Path, int] = {}
    for file in found:
        sizes[file.root] = sizes.get(file.root, 0) + file.size
    if (total := sum(sizes.values())) > manifest.MOST_BYTES:
        largest = max(sizes, key=lambda root: sizes[root])
        msg = (
            f"sync: all files together have {size_text(total)}, of which {largest} has "
            f"{size_text(sizes[largest])}; at most {size_text(manifest.MOST_BYTES)} can be sent"
        )
        raise ValueError(msg)


def _entry(file: _Found) -> Entry:
    digest = hashlib.sha256()
    size = 0
    try:
        with _opened(file.source) as stream:
            executable = bool(os.fstat(stream.fileno()).st_mode & stat.S_IXUSR)
            # One that grows is not read for ever.
            while size <= file.size and (data := stream.read(_AT_ONCE)):
                digest.update(data)
                size += len(data)
    except OSError as exc:
        raise _unreadable(file.source, exc) from exc
    if size != file.size:
        msg = f"sync: {file.source} changes while it is read; begin again when it does not"
        raise ValueError(msg)
    return Entry(digest.hexdigest(), size, executable)


def _pieces(source: str, entry: Entry) -> Iterator[tuple[str, int, bytes]]:
    digest = hashlib.sha256()
    offset, ended = 0, False
    try:
        with _opened(source) as stream:
            while not ended:
                data = stream.read(min(PIECE, entry.size - offset))
                digest.update(data)
                end = offset + len(data)
                ended = end == entry.size
                # A host never gets the last piece of something else.
                if not (ended or data) or (
                    ended and (stream.read(1) or digest.hexdigest() != entry.checksum)
                ):
                    msg = (
                        f"{source} has changed since it was read for the hosts of the cluster, "
                        f"which all have to have the same: start the cluster again"
                    )
                    raise ClusterError(msg)
                yield entry.checksum, offset, data
                offset = end
    except OSError as exc:
        msg = f"{source} cannot be sent to a host of the cluster: {exc.strerror}"
        raise ClusterError(msg) from exc


def _opened(source: str) -> BinaryIO:
    stream = os.fdopen(os.open(source, _FLAGS), "rb")
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise OSError(0, "it is no file any more")
    return stream


def _unreadable(path: Path | str, exc: OSError) -> ValueError:
    return ValueError(f"sync: {path} cannot be read: {exc.strerror}")


def _too_many(root: Path) -> ValueError:
    return ValueError(
        f"sync: with {root} there are more than {manifest.MOST_FILES} files or directories to send"
    )
