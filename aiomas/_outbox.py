"""What one connection has to write: in batches, held back while the peer does not read.

A frame leaves with the others of the same turn of the event loop.  While the transport is over its
high-water mark, frames wait here, up to a cap; and a peer that takes nothing at all for too long is
given up.  What the frames mean is not known here.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable

from aiomas._cores import usable_cores
from aiomas._futures import NOT_WAITING, Waiting
from aiomas._limits import Limits
from aiomas._sockets import bytes_acknowledged, is_of_uvloop
from aiomas._stats import Counters
from aiomas._wire import HEADER_SIZE, LARGE_FRAME, frame, header

_BATCH = 32
"""Frames that leave in one write: the peer can begin with them while we make the next ones, which
makes up to a half more calls per second."""
_BATCH_ON_ONE_CORE = 128
"""The same where the two would have to take turns, and to do so more often costs a tenth."""
_OVERHEAD = 200  # bytes of memory that a frame takes beside its own
_LATE = 1.0  # seconds; a timer that is later than that comes from a blocked event loop


class Outbox:
    """The frames of one connection that have not reached its transport.

    Args:
        loop: the event loop.
        limits: the limits of the connection.
        give_up: called with the reason when the connection has to be cut.
        writable: called when the peer reads again.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limits: Limits,
        give_up: Callable[[str], None],
        writable: Callable[[], None],
    ) -> None:
        self.paused = False
        """Whether the transport is over its high-water mark."""
        self.held_bytes = 0
        """Bytes that wait here because of that."""
        self.blocked = False
        """Whether what is sent now does not leave soon: it is held, or lost."""
        self._loop = loop
        self._limits = limits
        self._give_up = give_up
        self._writable = writable
        self._transport: asyncio.Transport
        self._counters: Counters
        self.is_closing: Callable[[], bool]
        """Whether the transport takes nothing any more."""
        self._written = 0  # bytes
        self._write_through = False
        self._gathers = False  # whether the transport can write several pieces in one go
        self._closed = False
        self._high_water = limits.write_high_water
        self._at_once = False  # whether the next frame waits for no others
        self.said = 0
        """Frames that have left since something was heard of the peer."""
        self._planned = False  # whether what is in the batch leaves at the end of this turn
        self.batch_size = _BATCH_ON_ONE_CORE if usable_cores() == 1 else _BATCH
        """How many frames leave in one write, at the most."""
        self.batch: list[bytes] = []
        """Frames that leave together; while there are some, :meth:`flush` is planned."""
        self.batch_first: int | None = None
        """The number of the first request among them."""
        self._lost_first: float | None = None  # the first one that was never written
        self._held: deque[tuple[bytes, int | None]] = deque()  # frames and ids of requests
        self._drain_waiter: asyncio.Future[None] | None = None
        self._stalled: asyncio.TimerHandle | None = None

    def attach(
        self, transport: asyncio.Transport, counters: Counters, *, write_through: bool
    ) -> None:
        """Write to *transport* from now on, each frame at once if *write_through*."""
        self._counters = counters
        self._transport = transport
        self.is_closing = transport.is_closing
        self._write_through = self._at_once = write_through
        # That of asyncio copies all of it, or (CVE-2024-12254) never tells us to pause.
        self._gathers = is_of_uvloop(transport)
        transport.set_write_buffer_limits(high=self._limits.write_high_water)

    @property
    def holding(self) -> bool:
        """Whether what is sent now waits here, because of what the peer has not read."""
        return self.paused or bool(self._held)

    def has_room(self, size: int) -> bool:
        """Whether *size* bytes more are below the cap."""
        taken = self.held_bytes + len(self._held) * _OVERHEAD
        return taken + size <= self._limits.write_cap

    def send(self, data: bytes, request_id: int | None = None) -> None:
        """Send a frame with others of this turn of the loop, or once the transport takes more.

        Args:
            data: the frame.
            request_id: the id of the request in it, if it is one; they only ever grow.
        """
        if self.blocked:
            if not self._closed:  # else nobody is left who waits for it
                self._held.append((data, request_id))
                self.held_bytes += len(data)
            return
        batch = self.batch
        if not batch:
            if self._at_once and not self.is_closing():
                self._at_once = self._write_through
                self.said += 1
                # What _write() does, which is a call that counts here.
                self._written += len(data)
                self._counters.bytes_out += len(data)
                self._transport.write(data)
                return
            if not self._planned:
                self._planned = True
                self._loop.call_soon(self._end_turn)
        batch.append(data)
        if self.batch_first is None:
            self.batch_first = request_id
        # A large one leaves now, or nobody would notice in time that the peer does not read.
        if len(batch) >= self.batch_size or len(data) >= self._high_water:
            self.flush()

    def send_long(self, payload: bytes | memoryview, request_id: int | None = None) -> None:
        """Send the frame of *payload*; a large one is not copied for its header."""
        if self.blocked or len(payload) < LARGE_FRAME:
            self.send(frame(payload), request_id)
            return
        self.flush()
        if self.is_closing():  # nobody gets it, which is told to its caller
            self.send(frame(payload), request_id)
            return
        self.said += 1
        if self._gathers:
            size = HEADER_SIZE + len(payload)
            self._written += size
            self._counters.bytes_out += size
            self._transport.writelines((header(payload), payload))
            return
        # A header alone would wake the peer for four bytes.
        view = memoryview(payload)
        self._write(header(payload) + view[:LARGE_FRAME])
        if len(view) > LARGE_FRAME:
            self._write(view[LARGE_FRAME:])

    def heard(self) -> None:
        """Note that something has come from the peer: it is our turn.

        If we have said one thing only since the last time, the two seem to take turns, and the next
        one leaves at once: waiting for more would cost a round through the event loop.
        """
        if self.said:
            self._at_once = self.said == 1 or self._write_through
            self.said = 0

    def flush(self) -> None:
        """Write what this turn of the loop has brought."""
        batch = self.batch
        if batch and not self._is_over():
            self.said += len(batch)
            data = batch[0] if len(batch) == 1 else b"".join(batch)
            batch.clear()
            self.batch_first = None
            self._write(data)

    def _look(self) -> None:
        self.blocked = self._closed or self.paused or bool(self._held)

    def _end_turn(self) -> None:
        self._planned = False
        self.flush()

    def first_unsent(self) -> float:
        """Return the lowest id of a request that was not written yet; infinity if there is none.

        Once the connection has ended it is that of those that never will be.
        """
        if self._lost_first is not None:
            return self._lost_first
        if self.batch_first is not None:
            return self.batch_first
        return next((number for _, number in self._held if number is not None), math.inf)

    def pause(self) -> None:
        """Hold frames back: the transport is over its high-water mark."""
        self.paused = self.blocked = True
        self._watch()

    def resume(self) -> None:
        """Send what was held back, in a moment: the transport is not done with its own writing."""
        self.paused = False
        self._look()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        if self._held or self.batch:
            self._loop.call_soon(self._go_on)
        else:
            self._go_on()

    def _go_on(self) -> None:
        if self.paused or self._is_over():
            return  # or has ended, so that nothing is here any more
        self.flush()  # a transport may notice only later that it is over its mark
        while self._held and not (self.paused or self._is_over()):
            self._release()
        if not self.paused:
            self._wake()
            self._writable()

    def drained(self) -> Awaitable[None]:
        """Return an awaitable that waits while the transport is over its high-water mark."""
        if not self.holding:
            return NOT_WAITING
        if self._drain_waiter is None:
            self._drain_waiter = self._loop.create_future()
        return Waiting(self._drain_waiter)

    def on_room(self, callback: Callable[[], None]) -> None:
        """Call ``callback()`` when all that is held back has left, or is lost."""
        if self._drain_waiter is None:
            self._drain_waiter = self._loop.create_future()
        self._drain_waiter.add_done_callback(lambda _: callback())

    def close(self) -> None:
        """Hand all that is here to the transport, which is about to be closed."""
        self.flush()
        if self._held and not self._is_over():
            self._write(b"".join([data for data, _ in self._held]))
            self._held.clear()
            self.held_bytes = 0
        self._closed = self.blocked = True

    def discard(self) -> None:
        """Forget all that is here, and all that is sent from now on: the connection has ended."""
        self._closed = True
        self._lost_first = self.first_unsent()
        self.paused = False
        self.batch.clear()
        self._held.clear()
        self.held_bytes = 0
        self._look()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        self._wake()

    def all_taken(self) -> bool:
        """Whether the peer's system has taken all that was written, as far as ours knows."""
        return self._taken() >= self._written

    def _is_over(self) -> bool:
        return self._closed or self.is_closing()

    def _write(self, data: bytes | memoryview) -> None:
        self._written += len(data)
        self._counters.bytes_out += len(data)
        self._transport.write(data)

    def _release(self) -> None:
        """Write held frames, about as many as the transport takes in one go."""
        frames, size = [], 0
        while self._held and size < self._limits.write_high_water:
            data = self._held.popleft()[0]
            frames.append(data)
            size += len(data)
        self.held_bytes -= size
        self._look()
        self._write(frames[0] if len(frames) == 1 else b"".join(frames))

    def _wake(self) -> None:
        if self._drain_waiter is not None:
            self._drain_waiter.set_result(None)
            self._drain_waiter = None

    def _watch(self) -> None:
        timeout = self._limits.write_timeout
        if timeout is not None:
            due = self._loop.time() + timeout
            self._stalled = self._loop.call_at(due, self._check_progress, due, self._taken())

    def _taken(self) -> int:
        sock = self._transport.get_extra_info("socket")
        # With TLS, there is another transport below ours, whose buffer we cannot see.
        acknowledged = None if sock is None else bytes_acknowledged(sock)
        if acknowledged is not None:
            return acknowledged
        return self._written - self._transport.get_write_buffer_size()

    def _check_progress(self, due: float, taken: int) -> None:
        # After a long turn of our own loop, the transport has not had its chance yet.
        if self._taken() > taken or self._loop.time() > due + _LATE:
            self._watch()
        else:
            self._stalled = None
            self._give_up(
                f"it took nothing of what was sent for write_timeout={self._limits.write_timeout} s"
            )
