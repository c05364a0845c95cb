"""Starts supervisors with a command that gives standard input and output of a program elsewhere."""

from __future__ import annotations

import asyncio
import os
import shlex
import socket
from collections.abc import Sequence

from aiomas.cluster.certificates import PASSPHRASE
from aiomas.cluster.hosts import HostSpec
from aiomas.cluster.launchers import reasons
from aiomas.cluster.launchers.base import Launcher, Link
from aiomas.cluster.launchers.bootstrap import COMMAND, FirstWords
from aiomas.cluster.launchers.running import Running
from aiomas.exceptions import ClusterError

_END_TIMEOUT = 2.0  # seconds that a command has to end when it has closed its stream
_LOOKUP_TIMEOUT = 2.0  # seconds
_HOME = "~/"
# Signing is for us alone; and from where we are logged in says nothing about another host.
_OURS = {PASSPHRASE, "SSH_CONNECTION", "SSH_CLIENT"}


class CommandLauncher(Launcher):
    """Starts supervisors with any command that runs a program on a host.

    Examples are ``["docker", "exec", "-i", "{host}"]`` and ``["srun", "-w", "{host}"]``.  The
    command has to connect its standard input and output with those of the program, and to end when
    that does.  It gets no terminal, so it cannot ask for a password.

    Args:
        prefix: the words of the command; what runs the supervisor is added to them.  In each of
            them ``{host}`` stands for :attr:`HostSpec.host <aiomas.cluster.HostSpec.host>`.
        python: the interpreter there, if :class:`~aiomas.cluster.hosts.HostSpec` does not say it.
        shell: whether the other end gives the words to a shell, as ssh does.
    """

    def __init__(
        self, prefix: Sequence[str], *, python: str = "python3", shell: bool = False
    ) -> None:
        if isinstance(prefix, str) or not prefix or not all(isinstance(w, str) for w in prefix):
            msg = f"prefix must be a list of words, with a program first, got {prefix!r}"
            raise ValueError(msg)
        self._prefix = tuple(prefix)
        self._python = python
        self._shell = shell

    async def launch(self, host: HostSpec, timeout: float) -> Link:
        python = host.python or self._python
        command = [word.replace("{host}", host.host) for word in self._prefix]
        env = {name: value for name, value in os.environ.items() if name not in _OURS}
        try:
            running = Running([*command, *self._program(python)], env)
        except (FileNotFoundError, PermissionError) as exc:
            msg = f"{host.label} cannot be reached: {command[0]} cannot be run ({exc.strerror})"
            raise ClusterError(msg) from exc
        words = FirstWords(running.sock)
        try:
            async with asyncio.timeout(timeout):
                facts = await words.exchange(host)
            address = await _address(host, facts.pop("ssh", None))
        except EOFError:
            code = await running.how_it_ended(_END_TIMEOUT)
            said = f"{words.noise}\n{running.said()}"
            msg = reasons.why(host, python, command, code, said)
            raise ClusterError(msg) from None
        except TimeoutError:
            said = f"{words.noise}\n{running.said()}"
            msg = reasons.late(host, timeout, command, said)
            raise ClusterError(msg) from None
        else:
            return running.hand_over(facts | address)
        finally:
            await running.end()

    def _program(self, python: str) -> list[str]:
        """Return the words that start the interpreter."""
        words = [python, "-c", COMMAND]
        if not self._shell:
            return words
        if python.startswith(_HOME):  # quoted, it would not stand for anything
            return [_HOME + shlex.join([python.removeprefix(_HOME), *words[1:]])]
        return [shlex.join(words)]


async def _address(host: HostSpec, ssh: str | None) -> dict[str, str]:
    """Return where the driver sees the host, if it does."""
    match (ssh or "").split():
        case [_, _, address, _]:  # as the server there says
            return {"address": address}
    loop = asyncio.get_running_loop()
    name = host.host.rpartition("@")[2]
    try:
        async with asyncio.timeout(_LOOKUP_TIMEOUT):
            found = await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # it is the name of something else, as of a container
        return {}
    return {"address": str(found[0][4][0])}
