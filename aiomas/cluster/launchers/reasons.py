"""Why no supervisor came of a command, as far as that can be told from what it has said."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from aiomas.cluster.endings import how_it_ended
from aiomas.cluster.hosts import HostSpec

_NOT_EXECUTABLE, _NOT_FOUND = 126, 127  # exit codes of shells, and of what runs programs for others
_SSH_FAILED = 255  # the exit code of ssh for all that goes wrong with the connection
_MOST_SHOWN = 2000  # characters

_NOT_LET_IN = (
    "does not let us in: a key for it has to be in the agent or in the configuration, as nobody "
    "is asked for a password (ssh runs with BatchMode=yes)"
)
# What the words of ssh and others mean, and what to do; the first that is found counts.
_MEANINGS = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "has another key than the one in known_hosts: find out why before you remove that one",
    ),
    (
        "Host key verification failed",
        "has a key that is not in known_hosts: run `ssh {host}` once by hand",
    ),
    (
        "Could not resolve|Name or service not known|nodename nor servname",
        "cannot be reached: its name is not known",
    ),
    ("Connection refused", "cannot be reached: nothing listens there"),
    (
        "timed out|No route to host|is unreachable|Host is down",
        "cannot be reached: it does not answer",
    ),
    ("No space left on device|Disk quota exceeded", "cannot be used: its disk is full"),
    (
        "Permission denied|Too many authentication failures|(terminal|password) is required",
        _NOT_LET_IN,
    ),
)
_NO_PYTHON = "has no {python} that can be run: name one with HostSpec(python=...)"
_OTHER_THINGS = "has not answered: is something in the files of its shell that prints, or waits?"


def why(host: HostSpec, python: str, command: Sequence[str], code: int | None, said: str) -> str:
    """Return why no supervisor has come of a command.

    Args:
        host: where it was to be.
        python: the interpreter that was to run it.
        command: the words of the command, without that.
        code: how it has ended; ``None`` if it has only closed its stream, or says other things.
        said: what it has written.
    """
    if code is None:
        meaning, how = _OTHER_THINGS, "goes on"
    else:
        meaning, how = _meaning(code, said), how_it_ended(code)
    meaning = meaning.replace("{host}", host.host).replace("{python}", python)
    return f"{host.label} {meaning}; `{shlex.join(command)}` {how}{_quoted(said)}"


def late(host: HostSpec, timeout: float, command: Sequence[str], said: str) -> str:
    """Return what to say about a command that has done nothing for *timeout* seconds; see above."""
    meaning = f"has not answered within {timeout} s"
    return f"{host.label} {meaning}; `{shlex.join(command)}` was killed{_quoted(said)}"


def _meaning(code: int, said: str) -> str:
    if code in {_NOT_EXECUTABLE, _NOT_FOUND}:
        return _NO_PYTHON
    for pattern, meaning in _MEANINGS:
        if re.search(pattern, said):
            return meaning
    return "cannot be reached" if code == _SSH_FAILED else "has no supervisor"


def _quoted(said: str) -> str:
    text = said.replace("\r", "").strip()
    # It must not do anything to the terminal in which it is shown.
    text = "".join(char if char.isprintable() or char in "\n\t" else "?" for char in text)
    return f", and has said:\n{text[-_MOST_SHOWN:]}" if text else ", and has said nothing"
