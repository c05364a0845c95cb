"""Who may have run how often, and who has.

Both are files with an entry for each call: what a killed process had done is not lost, and however
long a run lasts, the memory of nobody grows.
"""

from __future__ import annotations

import collections
import os
import struct
from pathlib import Path

from aiomas.exceptions import Outcome

_RECORD = struct.Struct("BBBB")  # kind and end (positions in `names`), least and most runs
_CHUNK = 1 << 16
_MANY = 255


class Ledger:
    """Counts how often each call has run; all processes write into the same file."""

    def __init__(self, folder: Path) -> None:
        self._file = os.open(folder / "runs", os.O_RDWR | os.O_CREAT, 0o600)

    def ran(self, number: int) -> None:
        """Note that a call runs (of one call, only one process at a time does so)."""
        (count,) = os.pread(self._file, 1, number) or b"\0"
        os.pwrite(self._file, bytes([min(count + 1, _MANY)]), number)

    def counts(self, first: int, length: int) -> bytes:
        """Return how often some calls have run."""
        return os.pread(self._file, length, first).ljust(length, b"\0")


class Expectations:
    """How often each call may have run, by how it has ended."""

    def __init__(self, folder: Path) -> None:
        self.total = 0
        self.ends: collections.Counter[str] = collections.Counter()
        self._file = os.open(folder / "expected", os.O_RDWR | os.O_CREAT, 0o600)
        self._names: list[str] = []

    def new(self, kind: str) -> int:
        """Return the number of a new call."""
        self.total += 1
        self._write(self.total - 1, kind, "has not ended", 0, 0)
        return self.total - 1

    def ended(self, number: int, kind: str, end: str, runs: tuple[int, int]) -> None:
        """Note how a call has ended, and how often it may have run."""
        self.ends[end] += 1
        self._write(number, kind, end, *runs)

    def broken(self, ledger: Ledger) -> list[str]:
        """Describe all calls that did not run as often as they may."""
        found = []
        for first in range(0, self.total, _CHUNK):
            length = min(_CHUNK, self.total - first)
            records = os.pread(self._file, length * _RECORD.size, first * _RECORD.size)
            runs = ledger.counts(first, length)
            for i, (kind, end, least, most) in enumerate(_RECORD.iter_unpack(records)):
                if not least <= runs[i] <= most:
                    may = least if least == most else f"{least} to {most}"
                    found.append(
                        f"call {first + i} ({self._names[kind]}; {self._names[end]}) may run {may} "
                        f"times, and has {runs[i]} times"
                    )
        return found

    def _write(self, number: int, kind: str, end: str, least: int, most: int) -> None:
        for name in (kind, end):
            if name not in self._names:
                self._names.append(name)
        record = _RECORD.pack(self._names.index(kind), self._names.index(end), least, most)
        os.pwrite(self._file, record, number * _RECORD.size)


def runs_allowed(outcome: Outcome | None, attempts: int) -> tuple[int, int]:
    """Return how often a call may have run, least and most.

    Args:
        outcome: that of its error; ``None`` if it had a result.
        attempts: how often it may have been sent.
    """
    if outcome is None or outcome is Outcome.EXECUTED:
        return 1, attempts
    return 0, 0 if outcome.has_not_run else attempts
