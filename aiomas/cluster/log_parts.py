"""Parts of a log, for who reads it from another host and asks again and again.

Nothing is kept between two questions: a position says how far the reader has come, and is good for
as long as the file is there, renamed or not.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

MOST = 64 * 1024
"""Bytes of one part: half a second at 1 Mbit/s."""

Position = int | Sequence[int] | None
"""``-n`` for the last *n* lines, ``None`` for what there is of the line that is not complete yet;
else what the answer before has said: the identity of a file, and a number of bytes in it."""


def read_part(path: str | os.PathLike[str], position: Position) -> tuple[tuple[int, int], bytes]:
    """Read what comes next in a log; rotation is followed.

    If the file in which the reader was does not exist any more, it goes on with the oldest one.

    Args:
        path: the newest file of the log; those before are ``<path>.1``, ``<path>.2`` and so on.
        position: where the reader is.

    Returns:
        The next position, and at most :data:`MOST` bytes; none if there is no more now, or no log.

    Raises:
        OSError: the log cannot be read.
    """
    files = _files(Path(path))
    if position is None or isinstance(position, int):
        return _end(files, -(position or 0))
    identity, offset = position
    if all(inode != identity for inode, _ in files):
        files = _files(Path(path))  # it may have been renamed while we looked
    numbers = [number for number, (inode, _) in enumerate(files) if inode == identity]
    if numbers:
        del files[: numbers[0]]
    elif files:
        identity, offset = files[0][0], 0
    data = b""
    for inode, file in files:
        if inode != identity:  # the one before was read to its end
            identity, offset = inode, 0
        part = _read(file, identity, offset, MOST - len(data))
        if part is None:  # it was renamed while we looked; the next answer has it
            break
        offset, more = part
        data += more
        if len(data) == MOST:
            break
    return (identity, offset), data


def _files(path: Path) -> list[tuple[int, Path]]:
    """Return the files of a log with their identities, the oldest first."""
    found = []
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except FileNotFoundError:
        return []
    for name in names:
        number = "0" if name == path.name else name.removeprefix(f"{path.name}.")
        if number == name or not number.isdecimal():
            continue
        file = path.with_name(name)
        with contextlib.suppress(FileNotFoundError):  # it was renamed while we looked
            found.append((-int(number), file.stat().st_ino, file))
    # One that was renamed is seen with its newest name.
    return list({inode: file for _, inode, file in sorted(found)}.items())


def _read(file: Path, identity: int, offset: int, most: int) -> tuple[int, bytes] | None:
    """Return the position after a part of a file, and the part; ``None`` if it is another one."""
    try:
        opened = file.open("rb")
    except FileNotFoundError:
        return None
    with opened:
        info = os.fstat(opened.fileno())
        if info.st_ino != identity:
            return None
        if info.st_size < offset:  # a log without backups begins again
            offset = 0
        opened.seek(offset)
        data = opened.read(most)
        return offset + len(data), data


def _end(files: list[tuple[int, Path]], lines: int) -> tuple[tuple[int, int], bytes]:
    """Return the position at the end, and the last *lines* lines with what follows them."""
    data, end = b"", (0, 0)
    for number, (_, path) in enumerate(reversed(files)):
        try:
            file = path.open("rb")
        except FileNotFoundError:  # it was renamed, or removed, while we looked
            break
        with file:
            size = file.seek(0, os.SEEK_END)
            start = file.seek(max(0, size - MOST + len(data)))
            data = file.read(size - start) + data
            if not number:
                end = os.fstat(file.fileno()).st_ino, file.tell()
        # The first of the lines may have begun in an older file.
        if start or data.count(b"\n") > lines:
            break
    *complete, rest = data.split(b"\n")
    return end, b"\n".join([*complete[max(0, len(complete) - lines) :], rest])
