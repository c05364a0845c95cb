"""A long cable: what goes into one of two network links comes out of the other, some time later.

Not every kernel can delay packets by itself (netem).  Runs as a program, with the names of the two
links, which it makes, and the delay in seconds; ends when the lab does.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
import sys
import time
from collections import deque

# See <linux/if_tun.h>.
TUNSETIFF = 0x400454CA
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000

GUARD = 0
FRAME = 65536
BURST = 64
"""How many frames are taken from one end before the other gets a turn."""


class End:
    """One of the two ends, and what is on its way there: the times when it arrives, and frames."""

    def __init__(self, name: str) -> None:
        self.fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(self.fd, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TAP | IFF_NO_PI))
        self.on_its_way: deque[tuple[float, bytes]] = deque()

    def take(self, arrival: float, other: End) -> None:
        """Send what was put into this end on its way to the other."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(BURST):
                other.on_its_way.append((arrival, os.read(self.fd, FRAME)))

    def deliver(self, now: float) -> None:
        while self.on_its_way and self.on_its_way[0][0] <= now:
            frame = self.on_its_way.popleft()[1]
            with contextlib.suppress(OSError):  # full or down: a network loses packets then
                os.write(self.fd, frame)

    def pause(self, now: float) -> float | None:
        """Return the seconds until something arrives here."""
        return max(0.0, self.on_its_way[0][0] - now) if self.on_its_way else None


def main(one: str, other: str, delay: str) -> None:
    ends = End(one), End(other)
    os.write(sys.stdout.fileno(), f"{os.getpid()}\n".encode())
    while True:
        now = time.monotonic()
        for end in ends:
            end.deliver(now)
        pauses = [pause for end in ends if (pause := end.pause(now)) is not None]
        readable = select.select(
            [GUARD, *(end.fd for end in ends)], [], [], min(pauses, default=None)
        )[0]
        if GUARD in readable:
            return
        arrival = time.monotonic() + float(delay)
        for end, peer in (ends, ends[::-1]):
            if end.fd in readable:
                end.take(arrival, peer)


if __name__ == "__main__":
    main(*sys.argv[1:])
