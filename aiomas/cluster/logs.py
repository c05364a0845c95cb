"""Log files of containers: written by their supervisor, read by whoever looks on.

Writing never fails: what there is no room for is lost, and the log says how much when it goes on.
Nothing is known here about what is in the lines.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import functools
import itertools
import os
import time
from collections.abc import Callable, Generator
from io import BufferedReader, FileIO
from pathlib import Path

LONGEST_LINE = 4096
"""Characters of a line that are remembered and shown; the file has them all."""

_MOST_BYTES = 4 * LONGEST_LINE  # in UTF-8
_POLL = 0.2  # seconds between two looks at a file that somebody else writes
_CHUNK = 2**16  # bytes
_UNBROKEN = 2**20  # bytes after which a line without an end is passed on


class Log:
    """A file that is rotated when it is full, and the last lines that went into it.

    Its directory is made if only that is missing; file and directory are for the owner alone.

    Args:
        path: the newest part; the parts before are ``<path>.1``, ``<path>.2`` and so on.
        max_bytes: size of a part, which only a larger single write exceeds.
        backups: how many older parts are kept.
        tail: how many lines are remembered.
        echo: gets each complete line, without its end and at most ``LONGEST_LINE`` characters of
            it, whether it could be written or not. It raises nothing but ``OSError`` and
            ``ValueError`` (its file is closed), which are ignored.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_bytes: int = 10 * 2**20,
        backups: int = 3,
        tail: int = 50,
        echo: Callable[[str], None] | None = None,
    ) -> None:
        self.path = Path(path)
        self.dropped = 0
        """Bytes that are not in the log, in all."""
        self._max_bytes = max_bytes
        self._backups = backups
        self._echo = echo
        self._lines: collections.deque[str] = collections.deque(maxlen=tail)
        self._partial = bytearray()
        self._file: FileIO | None = None
        self._closed = False
        self._lost = 0  # bytes since the last note about that
        self._reason = ""
        self._inside_line = False
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(0o700)
            self.path.parent.chmod(0o700)  # whatever the umask is
        with contextlib.suppress(OSError):  # tried again when there is something to write
            self._file = self._open()

    def __repr__(self) -> str:
        return f"<Log {self.path}>"

    def write(self, data: bytes) -> None:
        """Append *data* and remember its lines; loses what cannot be written. Never raises."""
        if not data:
            return
        self._remember(data)
        try:
            if self._closed:
                raise OSError(errno.EBADF, "the log is closed")  # noqa: TRY301 - lost like others
            written = self._append(data)
        except OSError as exc:
            self._lose(len(data), exc)
        else:
            if written < len(data):
                self._complete(data[written:])

    @property
    def last_lines(self) -> list[str]:
        """The last lines, the one that is not complete yet included."""
        lines = list(self._lines)
        if self._partial and self._lines.maxlen:
            lines = [*lines, _decoded(self._partial)[:LONGEST_LINE]][-self._lines.maxlen :]
        return lines

    def close(self) -> None:
        """Close the file; the last line is taken for complete. Does nothing when called again."""
        if self._closed:
            return
        if self._partial:
            self._line(self._partial)
            self._partial = bytearray()
        if self._lost:
            with contextlib.suppress(OSError):
                self._append(b"")
        self._closed = True
        if self._file is not None:
            file, self._file = self._file, None
            with contextlib.suppress(OSError):
                file.close()

    # --- the file ---------------------------------------------------------------------------------

    def _open(self) -> FileIO:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        descriptor = os.open(self.path, flags, 0o600)
        with contextlib.suppress(OSError):
            os.fchmod(descriptor, 0o600)  # whatever the umask is
        return FileIO(descriptor, "a")

    def _append(self, data: bytes) -> int:
        """Write what there is room for, after a note about what there was none for.

        Returns:
            How many bytes of *data* are in the file.
        """
        file, size = self._file_for(len(self._note()) + len(data))
        note = self._note()  # only now it is known in which file
        written = file.write(note + data)
        if written < len(note):
            file.truncate(size)
            raise OSError(errno.ENOSPC, self._reason)
        if note:
            self._lost = 0
        written -= len(note)
        if written:
            self._inside_line = data[written - 1 : written] != b"\n"
        return written

    def _complete(self, rest: bytes) -> None:
        """Try the rest again: only now the system tells why it did not write all."""
        try:
            written = self._append(rest)
        except OSError as exc:
            self._lose(len(rest), exc)
        else:
            if written < len(rest):
                self._lose(len(rest) - written, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    def _lose(self, count: int, reason: OSError) -> None:
        self.dropped += count
        self._lost += count
        self._reason = reason.strerror or str(reason)

    def _note(self) -> bytes:
        if not self._lost:
            return b""
        start = "\n" if self._inside_line else ""
        return (
            f"{start}[aiomas: {self._lost} bytes of the log were lost: {self._reason}]\n".encode()
        )

    def _file_for(self, count: int) -> tuple[FileIO, int]:
        """Return the file to which *count* bytes go, and its size."""
        if self._file is not None:
            info = os.fstat(self._file.fileno())
            if info.st_nlink and (not info.st_size or info.st_size + count <= self._max_bytes):
                return self._file, info.st_size
            if info.st_nlink:
                self._rotate()
            file, self._file = self._file, None
            file.close()
        self._file = self._open()
        self._inside_line = False
        return self._file, os.fstat(self._file.fileno()).st_size

    def _rotate(self) -> None:
        if not self._backups:
            os.truncate(self.path, 0)
            return
        for number in range(self._backups - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                _part(self.path, number).replace(_part(self.path, number + 1))
        with contextlib.suppress(FileNotFoundError):
            self.path.replace(_part(self.path, 1))

    # --- the lines --------------------------------------------------------------------------------

    def _remember(self, data: bytes) -> None:
        *complete, rest = data.split(b"\n")
        if complete:
            self._partial += complete[0][: _MOST_BYTES - len(self._partial)]
            complete[0] = bytes(self._partial)
            self._partial = bytearray()
            if self._echo is None and self._lines.maxlen is not None:
                complete = complete[max(0, len(complete) - self._lines.maxlen) :]
            for line in complete:
                self._line(line)
        self._partial += rest[: max(0, _MOST_BYTES - len(self._partial))]

    def _line(self, line: bytes | bytearray) -> None:
        text = _decoded(line)[:LONGEST_LINE]
        self._lines.append(text)
        if self._echo is not None:
            with contextlib.suppress(OSError, ValueError):
                self._echo(text)


def follow(path: str | os.PathLike[str], *, lines: int = 10, wait: bool = True) -> Generator[str]:
    """Yield the last lines of a log, and then those that are added, without their ends.

    Ends when the file or its directory is removed, as at the end of a run.

    Args:
        path: the newest part of the log; rotation is followed.
        lines: how many of the lines that are there already.
        wait: whether to go on with lines that are added.

    Raises:
        FileNotFoundError: there is no such log.
    """
    path = Path(path)
    home = _identity(path.parent)
    file = path.open("rb")
    try:
        older, rest = _last(path, file, lines)
        yield from map(_decoded, older)
        while wait:
            # Looked at before reading: what is no longer the newest part is complete by then.
            following = _next_part(path, file) if _identity(path.parent) == home else None
            for chunk in iter(functools.partial(_read, file), b""):
                *complete, rest = (rest + chunk).split(b"\n")
                if len(rest) > _UNBROKEN:
                    complete, rest = [*complete, rest], b""
                yield from map(_decoded, complete)
            if following is None:
                break
            if following is file:
                time.sleep(_POLL)
            else:
                file.close()
                file = following
        if rest:
            yield _decoded(rest)
    finally:
        file.close()


def _last(path: Path, file: BufferedReader, lines: int) -> tuple[list[bytes], bytes]:
    """Return the last lines of a log, and what there is of the one that is not complete."""
    data, is_all = _end_of(file, lines)
    for number in itertools.count(1):
        missing = lines - data.count(b"\n")
        if missing < 0 or not is_all:  # 0: the first of the lines may have begun in an older part
            break
        try:
            with _part(path, number).open("rb") as older:
                more, is_all = _end_of(older, missing)
        except FileNotFoundError:
            break
        data = more + data
    *complete, rest = data.split(b"\n")
    return complete[max(0, len(complete) - lines) :], rest


def _end_of(file: BufferedReader, lines: int) -> tuple[bytes, bool]:
    """Return at least the last *lines* lines, if there are as many, and whether that is all."""
    end = position = file.seek(0, os.SEEK_END)
    data, step = b"", _CHUNK
    while position and data.count(b"\n") <= lines:
        position, step = max(0, position - step), 2 * step
        file.seek(position)
        data = file.read(end - position)
    file.seek(position + len(data))
    return data, not position


def _read(file: BufferedReader) -> bytes:
    if os.fstat(file.fileno()).st_size < file.tell():  # a log without backups begins again
        file.seek(0)
    return file.read(_CHUNK)


def _next_part(path: Path, file: BufferedReader) -> BufferedReader | None:
    """Return what is to be read after *file*: itself if it may grow, ``None`` if it is the end."""
    mine = _identity(file.fileno())
    if _identity(path) == mine:
        return file
    try:
        parts = _parts(path)
        numbers = [number for number, part in parts if _identity(part) == mine]
        if numbers:
            following = _part(path, numbers[0] - 1).open("rb")
            if _identity(_part(path, numbers[0])) == mine:
                return following
            following.close()  # rotated once more while we looked
        elif not os.fstat(file.fileno()).st_nlink:  # several rotations ago; else just renamed
            return max(parts)[1].open("rb") if parts else None
    except FileNotFoundError:  # in the middle of a rotation
        pass
    return file


def _parts(path: Path) -> list[tuple[int, Path]]:
    """Return what there is of a log, with the number of each part: 0 is the newest."""
    found = []
    for other in path.parent.iterdir():
        number = other.name.removeprefix(f"{path.name}.")
        if other.name == path.name:
            found.append((0, other))
        elif number != other.name and number.isdecimal():
            found.append((int(number), other))
    return found


def _part(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}") if number else path


def _decoded(line: bytes | bytearray) -> str:
    return line.decode(errors="replace").removesuffix("\r")


def _identity(file: int | Path) -> tuple[int, int] | None:
    """Return what tells a file from all others that exist now; ``None`` if it is gone."""
    try:
        info = os.fstat(file) if isinstance(file, int) else file.stat()
    except OSError:
        return None
    return info.st_dev, info.st_ino
