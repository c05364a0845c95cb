"""The first words that a driver has with a host, before a supervisor is there.

The command that is run there is short, and good for every shell; it reads the program, which looks
around and answers.  Only if the answer will do is it told to go on; then it says what its clock
shows, as by now it is known to listen.  Neither end reads beyond what these first words are, as the
control stream comes next.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import secrets
import socket
import sys
import time
from typing import Any

import aiomas
from aiomas._hello import VERSION
from aiomas.cluster.boot import CONTROL_VERSION
from aiomas.cluster.hosts import HostSpec
from aiomas.cluster.launchers import stage
from aiomas.exceptions import ClusterError

COMMAND = 'import io; exec(eval(io.open(0, "rb", 0, closefd=False).readline()))'
"""What the interpreter there is told to run.  It has nothing that any shell treats as special
between single quotes, and reads no more than it is meant to."""
MOST_NOISE = 65536
"""Bytes that may come before the answer, of what other programs have to say there."""

_OLDEST = (3, 11)
_CHUNK = 65536  # bytes
# This has to be good for each Python that there is, to say that it is too old.  The working
# directory goes first: the modules in it are those of anybody.
_PREAMBLE = """\
import io, sys
if sys.path[:1] == [""]:
    del sys.path[0]
if sys.version_info < oldest:
    import json
    found = {"python": "%d.%d.%d" % sys.version_info[:3], "path": sys.executable}
    sys.stdout.write("\\naiomas:" + nonce + " " + json.dumps(found) + "\\n")
    sys.stdout.flush()
else:
    source = eval(io.open(0, "rb", 0, closefd=False).readline())
    exec(source)
    main(nonce, source)
"""


class FirstWords:
    """What is said over a stream until there is a supervisor at its other end.

    Args:
        sock: the stream; connected, and not blocking.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._nonce = secrets.token_hex(16)
        self._heard = bytearray()

    async def exchange(self, host: HostSpec) -> dict[str, Any]:
        """Have them, so that a supervisor serves the stream from then on.

        Returns:
            The facts about the host, see :class:`~aiomas.cluster.launchers.base.Link`; and ``ssh``,
            what the server of ssh says about the connection there, or ``None``.

        Raises:
            EOFError: the other end has hung up, or does not stop talking of other things.
            ClusterError: the host cannot be used; the message says why.
        """
        loop = asyncio.get_running_loop()
        with contextlib.suppress(ConnectionError):  # what it has said before is to be read
            await loop.sock_sendall(self._sock, self._question(host))
        try:
            answer = await self._answer()
            _check(answer, host)
            start = json.dumps({"argv": sys.argv[:1]})
            asked = time.time()
            await loop.sock_sendall(self._sock, f"{start}\n".encode())
            clock = await self._answer()
            answered = time.time()
        except ConnectionError as exc:
            raise EOFError from exc
        del answer["trouble"]  # there is none
        return answer | clock | {"asked": asked, "answered": answered}

    @property
    def noise(self) -> str:
        """What has come instead of the answer so far."""
        return self._heard.decode(errors="replace")

    def _question(self, host: HostSpec) -> bytes:
        preamble = f"nonce, oldest = {self._nonce!r}, {_OLDEST}\n{_PREAMBLE}"
        question = json.dumps({"cwd": host.cwd, "env": dict(host.env)})
        return f"{preamble!a}\n{inspect.getsource(stage)!a}\n{question}\n".encode()

    async def _answer(self) -> dict[str, Any]:
        """Wait for the line that begins as agreed; whatever comes before it is no answer."""
        loop = asyncio.get_running_loop()
        self._heard.clear()
        mark = f"aiomas:{self._nonce} ".encode()
        while True:
            noise, _, said = self._heard.partition(mark)
            line, end, more = said.partition(b"\n")
            if end:
                break
            if len(noise) > MOST_NOISE or len(line) > MOST_NOISE:
                raise EOFError
            data = await loop.sock_recv(self._sock, _CHUNK)
            if not data:
                raise EOFError
            self._heard += data
        if more:  # nobody says more before we do, be it on the control stream
            raise EOFError
        answer: dict[str, Any] = json.loads(line)
        return answer


def _check(answer: dict[str, Any], host: HostSpec) -> None:
    """Refuse a host that cannot be used.

    Raises:
        ClusterError: the message says why, and what to do.
    """
    label, path = host.label, answer.get("path") or "python"
    python, theirs = answer.get("python", ""), answer.get("aiomas")
    ours = f"aiomas=={aiomas.__version__}"
    if tuple(map(int, python.split(".")[:2])) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        msg = (
            f"Python {python} at {path} on {label} is too old: aiomas needs {oldest} or newer; "
            f"name another one with HostSpec(python=...)"
        )
    elif answer.get("trouble"):
        msg = f"{label} cannot be used: {answer['trouble']}"
    elif theirs is None:
        msg = (
            f"There is no aiomas on {label} for {path}: run `{path} -m pip install {ours}` there, "
            f"or name the Python that has it with HostSpec(python=...)"
        )
    elif differences := _differences(answer):
        msg = (
            f"aiomas {theirs} at {path} on {label} and aiomas {aiomas.__version__} here cannot "
            f"work together: {'; '.join(differences)}; run `{path} -m pip install {ours}` there"
        )
    else:
        return
    raise ClusterError(msg)


def _differences(answer: dict[str, Any]) -> list[str]:
    """Return which versions are others there than here, of what is spoken with a host."""
    spoken = {
        "control": ("control protocol of clusters", CONTROL_VERSION),
        "wire": ("wire protocol's extensions", VERSION),
    }
    return [
        f"they speak version {theirs} and version {ours} of the {what}"
        for key, (what, ours) in spoken.items()
        if (theirs := answer.get(key) or 0) != ours
    ]
