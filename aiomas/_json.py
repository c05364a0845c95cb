"""Writes and reads JSON with the innermost parts of the standard library's; knows no codecs.

:class:`json.JSONEncoder` makes its encoder anew for each document, and :class:`json.JSONDecoder`
looks for white space around each.  A message is so short that this takes longer than the work
itself.  Here both are made once, and what is written, read and refused is the same, word for word.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from json import encoder
from typing import Any

Writer = Callable[[Any, int], Iterable[str]]
"""Takes a value and the number 0, returns the parts of the text that stands for the value."""

Reader = Callable[[str], Any]
"""Returns the value that a text stands for, or raises what :func:`json.loads` raises."""

# Missing where the standard library has no parts in C, such as in PyPy.
_c_make_encoder: Callable[..., Writer] | None = getattr(encoder, "c_make_encoder", None)


def make_writer(default: Callable[[Any], Any]) -> Writer:
    """Return what writes documents as ``json.JSONEncoder(default=default)`` does.

    It notes which lists and dictionaries it is in the middle of, to find those that hold
    themselves.  So it must not be called while it is writing, nor again once it has raised.
    """
    make_encoder = _c_make_encoder
    if make_encoder is None:
        encode = json.JSONEncoder(default=default).encode
        return lambda value, _: (encode(value),)
    in_the_middle_of: dict[int, Any] = {}
    return make_encoder(
        in_the_middle_of,
        default,
        encoder.encode_basestring_ascii,
        None,  # indent
        ": ",
        ", ",
        False,  # sort_keys
        False,  # skipkeys
        True,  # allow_nan
    )


def make_reader(hook: Callable[[dict[str, Any]], Any] | None = None) -> Reader:
    """Return what reads documents as ``json.JSONDecoder(object_hook=hook).decode`` does."""
    # Not in its documentation, but what it is made of in all versions, with and without C.
    scan = json.JSONDecoder(object_hook=hook).scan_once  # type: ignore[attr-defined]

    def read(text: str, start: int = 0) -> Any:
        try:
            value, end = scan(text, start)
        except StopIteration as stop:  # with the place where there is no value
            if start == stop.value == 0 and (begin := _white_space(text).end()):
                return read(text, begin)
            msg = "Expecting value"
            raise json.JSONDecodeError(msg, text, stop.value) from None
        if end != len(text) and (end := _white_space(text, end).end()) != len(text):
            msg = "Extra data"
            raise json.JSONDecodeError(msg, text, end)
        return value

    return read


_white_space: Callable[..., re.Match[str]] = re.compile(r"[ \t\n\r]*").match  # type: ignore[assignment] # always matches
