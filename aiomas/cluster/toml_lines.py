"""In which line of a TOML document each key and each element of an array is.

The standard library reads TOML, but does not tell where a value was.  This finds the places only,
in a text that :mod:`tomllib` has read without an error, and knows nothing about what it means.
"""

from __future__ import annotations

import bisect
import itertools
import re
import tomllib
from collections.abc import Iterator

Where = tuple[str | int, ...]
"""The keys and indices that lead to a value: ``("hosts", 1, "env", "PATH")``."""

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_DOT = re.compile(r"[ \t]*\.[ \t]*")
_EQUALS = re.compile(r"[ \t]*=[ \t]*")
_KEY = re.compile(r"""[^\s."'=\]#]+|"(?:\\.|[^"\\\n])*"|'[^'\n]*'""")
# A string of several lines ends with three quotes, of which up to two more before may be content.
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?""""{0,2}'
    r"|'''.*?''''{0,2}"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_OTHER = re.compile(r"[^,\]}#\n]*")  # numbers, dates, true and false


def lines_of(text: str) -> dict[Where, int]:
    """Return the lines, from 1 up, in which the keys and elements of a document begin.

    Args:
        text: a document without errors.

    Returns:
        A line for each value, tables and arrays included: that of its key, or of its header where
        it has one, or that of itself if it is in an array.
    """
    scanner = _Scanner(text)
    scanner.document()
    return scanner.lines


class _Scanner:
    def __init__(self, text: str) -> None:
        self.lines: dict[Where, int] = {}
        self._text = text
        self._at = 0
        self._ends = [match.start() for match in re.finditer("\n", text)]
        self._elements: dict[Where, int] = {}  # so many has each array of tables up to here

    def document(self) -> None:
        table: Where = ()
        self._take(_BLANK)
        while self._at < len(self._text):
            if self._text.startswith("[", self._at):
                table = self._header()
            else:
                self._pair(table)
            self._take(_BLANK)

    def _header(self) -> Where:
        is_element = self._text.startswith("[[", self._at)
        line = self._line()
        self._at += 2 if is_element else 1
        where: Where = ()
        keys = self._keys()
        for number, key in enumerate(keys, 1):
            where = (*where, key)
            self.lines.setdefault(where, line)
            if is_element and number == len(keys):
                self._elements[where] = self._elements.get(where, 0) + 1
            if where in self._elements:  # what follows is about the last one
                where = (*where, self._elements[where] - 1)
                self.lines.setdefault(where, line)
        self._take(_BLANK)
        self._at += 2 if is_element else 1
        return where

    def _pair(self, table: Where) -> None:
        line = self._line()
        where = table
        for key in self._keys():
            where = (*where, key)
            self.lines.setdefault(where, line)
        self._take(_EQUALS)
        self._value(where)

    def _keys(self) -> list[str]:
        keys = []
        while True:
            self._take(_BLANK)
            key = self._take(_KEY)
            keys.append(tomllib.loads(f"key = {key}")["key"] if key[0] in "\"'" else key)
            if not _DOT.match(self._text, self._at):
                return keys
            self._take(_DOT)

    def _value(self, where: Where) -> None:
        match self._text[self._at]:
            case "[":
                self._array(where)
            case "{":
                self._inline_table(where)
            case '"' | "'":
                self._take(_STRING)
            case _:
                self._take(_OTHER)

    def _array(self, where: Where) -> None:
        for index in self._items("]"):
            self.lines[*where, index] = self._line()
            self._value((*where, index))

    def _inline_table(self, where: Where) -> None:
        for _ in self._items("}"):
            self._pair(where)

    def _items(self, end: str) -> Iterator[int]:
        """Yield a number at the beginning of each item, up to *end*; begin at a bracket."""
        self._at += 1
        for number in itertools.count():
            self._take(_BLANK)
            if self._text[self._at] == end:
                break
            yield number
            self._take(_BLANK)
            if self._text[self._at] == ",":
                self._at += 1
        self._at += 1

    def _line(self) -> int:
        return bisect.bisect_left(self._ends, self._at) + 1

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        assert match, f"no TOML in line {self._line()}"  # noqa: S101 - it was read before
        self._at = match.end()
        return match[0]
