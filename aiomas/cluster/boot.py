"""The program of a supervisor, until it serves: makes its fork server, then loads the rest.

Here is imported what both of them need.  The fork server is forked as soon as that is there, so
that it imports what the containers need while the supervisor imports what is for itself alone.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket

from aiomas.cluster.environment import ignore
from aiomas.cluster.zygote import fork_program

_LAST_STANDARD_STREAM = 2


def main(control_fd: int) -> None:
    """Run a supervisor.

    Args:
        control_fd: an inherited socket, over which the driver controls it.
    """
    _open_standard_streams()
    # What a driver has blocked or ignored is inherited.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # Ctrl-C in a terminal goes to all processes there; the driver alone decides what it means.
    signal.signal(signal.SIGINT, ignore)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a limit of file sizes is an error of write()
    os.set_inheritable(control_fd, False)
    guard, _ = os.pipe()  # nobody else gets the other end, so this one ends with us
    program = fork_program(guard, "aiomas.cluster.worker:main")
    os.close(guard)
    from aiomas.cluster.supervisor import Supervisor  # noqa: PLC0415 - as said above: 20 ms

    gc.enable()
    asyncio.run(Supervisor(program).serve(socket.socket(fileno=control_fd)))


def _open_standard_streams() -> None:
    """Let nothing else get the numbers of standard streams that the driver has closed."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= _LAST_STANDARD_STREAM:
        os.set_inheritable(fd, True)
    os.close(fd)
