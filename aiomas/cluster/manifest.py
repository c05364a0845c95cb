"""What a tree of the user's modules has in it: the list that the driver sends to each host.

Both ends check the same limits and the same paths here, so that neither a mistake of the user nor
one of ours fills a disk, or writes outside the tree.  Nothing here reads or writes a file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

MOST_FILES = 10_000
"""How many files, and how many directories, there may be."""
MOST_BYTES = 256 * 2**20
"""How many bytes all files together may have."""
LARGEST_FILE = 128 * 2**20
"""How many bytes one file may have."""
LONGEST_PATH = 1024
"""How many bytes the path of a file below the root of the tree may have."""
CHECKSUM = re.compile(r"[0-9a-f]{64}")
"""What a SHA-256 in hexadecimal digits looks like."""


class Entry(NamedTuple):
    """A file of the tree."""

    checksum: str
    """The SHA-256 of its content, in 64 lower-case hexadecimal digits."""
    size: int
    """In bytes."""
    executable: bool
    """Whether its owner may execute it."""


def plain(entries: Mapping[str, Entry]) -> dict[str, list[Any]]:
    """Return what :func:`read` makes the same entries from; it can travel."""
    return {path: list(entry) for path, entry in entries.items()}


def read(content: Any) -> dict[str, Entry]:
    """Return the entries that were sent, by their paths below the root of the tree.

    Raises:
        ValueError: there is too much of them, or something that cannot be in a tree; the message
            names it.
    """
    if not isinstance(content, dict):
        msg = f"a manifest is a dictionary, got {type(content).__name__}"
        raise ValueError(msg)  # noqa: TRY004 - one kind of error for all that is sent
    if len(content) > MOST_FILES:
        msg = f"a manifest has at most {MOST_FILES} files, got {len(content)}"
        raise ValueError(msg)
    entries = {}
    for path, fields in content.items():
        check_path(path)
        entries[path] = _entry(path, fields)
    if (total := sum(entry.size for entry in entries.values())) > MOST_BYTES:
        msg = f"the files of a manifest have at most {size_text(MOST_BYTES)}, got {total} bytes"
        raise ValueError(msg)
    _check_sizes_agree(entries)
    _check_no_file_is_a_directory(entries)
    return entries


def check_path(path: Any) -> None:
    """Make sure that *path* stays below the root of the tree, and can travel.

    Raises:
        ValueError: it does not; the message names it.
    """
    problem = ""
    if not isinstance(path, str) or not path:
        problem = "it is no text, or empty"
    elif "\0" in path:
        problem = "it has a NUL in it"
    elif any(part in {"", ".", ".."} for part in path.split("/")):
        problem = "it is not relative, or has '.', '..' or nothing between two '/'"
    elif not _is_unicode(path):
        problem = "it is no UTF-8"
    elif len(path.encode()) > LONGEST_PATH:
        problem = f"it is longer than {LONGEST_PATH} bytes"
    if problem:
        msg = f"the path {path!r} cannot be in a tree of modules: {problem}"
        raise ValueError(msg)


def size_text(size: int) -> str:
    """Return *size*, in bytes, for messages."""
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size} bytes"


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes of a file name that stand for no character
        return False
    return True


def _entry(path: str, fields: Any) -> Entry:
    if isinstance(fields, list | tuple) and len(fields) == len(Entry._fields):
        checksum, size, executable = fields
        if (
            isinstance(checksum, str)
            and CHECKSUM.fullmatch(checksum)
            and isinstance(size, int)
            and not isinstance(size, bool)
            and 0 <= size <= LARGEST_FILE
            and isinstance(executable, bool)
        ):
            return Entry(checksum, size, executable)
    msg = (
        f"the manifest has to have a checksum, a size of at most {LARGEST_FILE} bytes and whether "
        f"it is executable for {path!r}, got {fields!r}"
    )
    raise ValueError(msg)


def _check_sizes_agree(entries: Mapping[str, Entry]) -> None:
    sizes: dict[str, int] = {}
    for path, entry in entries.items():
        if sizes.setdefault(entry.checksum, entry.size) != entry.size:
            msg = f"the manifest has {path!r} with the checksum of a file of another size"
            raise ValueError(msg)


def _check_no_file_is_a_directory(entries: Mapping[str, Entry]) -> None:
    for path in entries:
        parent = path.rpartition("/")[0]
        while parent:
            if parent in entries:
                msg = f"the manifest has {parent!r} as a file, and {path!r} below it"
                raise ValueError(msg)
            parent = parent.rpartition("/")[0]
