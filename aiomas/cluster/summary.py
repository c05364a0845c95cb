"""What has gone wrong, in one line: what was done, and what an exception said at the end of it."""

from __future__ import annotations

import re

LOG = "The last lines of its log:"
"""Begins what a container has written, in the message of an error."""

_TRACEBACK = re.compile(r"(.*?)(?:\+ Exception Group )?Traceback \(.*\):")
_GROUP = re.compile(r"\s*\| ?")  # before each line of the traceback of an exception group
_RULE = re.compile(r"\s*\+-.*-")  # between the exceptions of a group


def summary(text: str) -> str:
    """Return what matters of a message of several lines, in one line.

    Of a traceback it is the exception at its end; of the lines of a log, the last one.
    """
    said, log = _without_log(text.splitlines())
    line = " ".join(part.strip() for part in _without_frames(said) if part.strip())
    return f"{line} (the last line of its log: {log[-1].strip()})" if log else line


def _without_log(lines: list[str]) -> tuple[list[str], list[str]]:
    """Return the lines of a message, and those of the log that follows."""
    if LOG not in lines:
        return lines, []
    start = lines.index(LOG)
    return lines[:start], [line for line in lines[start + 1 :] if line.strip()]


def _without_frames(lines: list[str]) -> list[str]:
    """Return what comes first, and what is said at the end of the last traceback."""
    lines = [_GROUP.sub("", line, count=1) for line in lines if not _RULE.fullmatch(line)]
    starts = [n for n, line in enumerate(lines) if _TRACEBACK.fullmatch(line)]
    if not starts:
        return lines
    # It is the first line, or what stands before the traceback in it.
    first = lines[0] if starts[0] > 0 else _TRACEBACK.sub(r"\1", lines[0])
    after = lines[starts[-1] + 1 :]
    # Frames are indented; what the exception says is not, at least not its first line.
    ends = [n for n, line in enumerate(after) if line.strip() and not line.startswith(" ")]
    return [first, *(after[ends[0] :] if ends else after[-1:])]
