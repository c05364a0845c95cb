"""The program of a supervisor, until it serves: makes its fork server, then loads the rest.

Here is imported what both of them need.  The fork server is forked as soon as that is there, so
that it imports what the containers need while the supervisor imports what is for itself alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import threading

from aiomas.cluster.environment import ignore
from aiomas.cluster.zygote import Program, fork_program

CONTROL_VERSION = 1
"""The version of what drivers and supervisors say to each other; it has to be the same."""

_LAST_STANDARD_STREAM = 2
_CHUNK = 65536  # bytes
_LAST_WORDS_TIMEOUT = 2.0  # seconds that what was sent last has to be written


def main(control_fd: int) -> None:
    """Run a supervisor.

    Args:
        control_fd: an inherited socket, over which the driver controls it.
    """
    program = _make_fork_server(control_fd)
    _serve(program, socket.socket(fileno=control_fd))


def main_over_pipes(incoming: int, outgoing: int) -> None:
    """Run a supervisor that its driver does not reach over a socket.

    Args:
        incoming: the descriptor from which comes what the driver sends.
        outgoing: the one to which goes what the driver gets.
    """
    program = _make_fork_server(incoming, outgoing)
    control, relayed = socket.socketpair()
    # Only now, as no process with threads is forked.  They keep nobody from ending.
    reader = threading.Thread(target=_relay_in, args=(incoming, relayed), daemon=True)
    writer = threading.Thread(target=_relay_out, args=(relayed, outgoing), daemon=True)
    reader.start()
    writer.start()
    with relayed:
        _serve(program, control)
        writer.join(_LAST_WORDS_TIMEOUT)


def _make_fork_server(*private: int) -> Program:
    """Make this process what a supervisor is, and its fork server.

    Args:
        private: descriptors that no other process may have.
    """
    _open_standard_streams()
    # What a driver has blocked or ignored is inherited.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # Ctrl-C in a terminal goes to all processes there; the driver alone decides what it means.
    signal.signal(signal.SIGINT, ignore)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a limit of file sizes is an error of write()
    for fd in private:
        os.set_inheritable(fd, False)
    guard, _ = os.pipe()  # nobody else gets the other end, so this one ends with us
    program = fork_program(guard, "aiomas.cluster.worker:main")
    os.close(guard)
    # Who kills our process group leaves it the time to remove what we have made.
    with contextlib.suppress(ProcessLookupError):  # it has ended already
        os.setpgid(program.pid, program.pid)
    return program


def _serve(program: Program, control: socket.socket) -> None:
    from aiomas.cluster.supervisor import Supervisor  # noqa: PLC0415 - as said above: 20 ms

    gc.enable()
    asyncio.run(Supervisor(program).serve(control))


def _relay_in(source: int, relayed: socket.socket) -> None:
    """Pass on what the driver sends, and that it is gone."""
    with contextlib.suppress(OSError):  # nobody hears it any more, or it cannot be read
        os.set_blocking(source, True)
        while data := os.read(source, _CHUNK):
            relayed.sendall(data)
    with contextlib.suppress(OSError):
        relayed.shutdown(socket.SHUT_WR)


def _relay_out(relayed: socket.socket, target: int) -> None:
    """Pass on what the driver gets, until there is no more of it, or it is gone."""
    with contextlib.suppress(OSError):
        os.set_blocking(target, True)
        while data := relayed.recv(_CHUNK):
            while data:
                data = data[os.write(target, data) :]
    with contextlib.suppress(OSError):
        relayed.shutdown(socket.SHUT_RDWR)


def _open_standard_streams() -> None:
    """Let nothing else get the numbers of standard streams that the driver has closed."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= _LAST_STANDARD_STREAM:
        os.set_inheritable(fd, True)
    os.close(fd)
