"""Small programs on hosts, which find out what the network between them lets through."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

from tests.e2e.hosts.detached import BOUND
from tests.e2e.hosts.lab import Lab, LabHost

PYTHON = [sys.executable, "-I", "-S", "-c"]
BULK = 160_000
"""Bytes that are sent to see how fast that is."""

RECEIVE = """
import socket
s = socket.socket(type=socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, 33, 2**22)  # SO_RCVBUFFORCE: the sender may be far ahead
s.bind(("", 0))
print(s.getsockname()[1], flush=True)
while True:
    print(s.recv(100).decode(), flush=True)
"""
SEND = """
import socket, sys
s = socket.socket(type=socket.SOCK_DGRAM)
for _ in range(int(sys.argv[4])):
    s.sendto(sys.argv[3].encode(), (sys.argv[1], int(sys.argv[2])))
"""
SEND_UNTIL_TOLD = """
import select, socket, sys
s = socket.socket(type=socket.SOCK_DGRAM)
while True:
    s.sendto(sys.argv[3].encode(), (sys.argv[1], int(sys.argv[2])))
    if select.select([0], [], [], 0.05)[0]:
        break
"""
SWALLOW_AND_RETURN = f"""
import socket
server = socket.create_server(("", 0))
print(server.getsockname()[1], flush=True)
while True:
    s = server.accept()[0]
    content = s.makefile("rb").read({BULK})
    s.sendall(b"!")
    s.recv(1)
    s.sendall(content)
    s.close()
"""


@contextlib.contextmanager
def program(host: LabHost | None, code: str) -> Iterator[subprocess.Popen[str]]:
    """Run a program on a host, or None for the driver, as long as it is needed."""
    enter = [] if host is None else host.enter
    before = set() if host is None else set(host.processes())
    command = [*enter, *PYTHON, code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            if host is None:
                process.kill()
            else:  # nsenter follows it
                for inside in set(host.processes()) - before:
                    os.kill(inside.pid, signal.SIGKILL)


class Mailbox:
    """What a host receives, or the driver: a datagram is a line."""

    def __init__(self, address: str, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self._output, self._address = process.stdout, address
        self._port = self._output.readline().strip()

    @classmethod
    @contextlib.contextmanager
    def of(cls, lab: Lab, host: LabHost | None) -> Iterator[Mailbox]:
        with program(host, RECEIVE) as process:
            yield cls(lab.driver_address if host is None else host.address, process)

    def send(self, source: LabHost | None, text: str, number: int = 1) -> None:
        """Send the same text some times, from a host or the driver."""
        command = self._command(source, SEND, text)
        subprocess.run([*command, str(number)], check=True)

    def before(self, source: LabHost | None, text: str) -> list[str]:
        """Send a text, which nobody has sent before, until it arrives; return what came before.

        Waits as long as the test may take.
        """
        found: list[str] = []
        command = self._command(source, SEND_UNTIL_TOLD, text)
        with subprocess.Popen(command, stdin=subprocess.PIPE):
            while (got := self._output.readline().strip()) != text:
                assert got, "the mailbox has ended"
                found.append(got)
        return found

    def _command(self, source: LabHost | None, code: str, text: str) -> list[str]:
        enter = [] if source is None else source.enter
        return [*enter, *PYTHON, code, self._address, self._port, text]


def round_trip(host: LabHost) -> float:
    """Return the seconds that it takes to connect to a host, which is one round trip."""
    start = time.perf_counter()
    socket.create_connection((host.address, 22), BOUND).close()
    return time.perf_counter() - start


def transfer(host: LabHost) -> tuple[float, float]:
    """Return how many seconds a host takes to get `BULK` bytes, and to send them."""
    with program(host, SWALLOW_AND_RETURN) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        with socket.create_connection((host.address, port), BOUND) as connection:
            start = time.perf_counter()
            connection.sendall(bytes(BULK))
            assert connection.recv(1) == b"!"
            middle = time.perf_counter()
            connection.sendall(b"!")
            left = BULK
            while left:
                got = len(connection.recv(65536))
                assert got, "the host has closed the connection"
                left -= got
            return middle - start, time.perf_counter() - middle
