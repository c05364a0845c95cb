"""Connections that lose, delay, change and cut what goes over them, the same way in every run.

A queue of :class:`Faults` is a local queue; what aiomas writes there at once is one frame, so that
faults happen to whole frames, but for those that are made to happen in the middle of one.  What a
frame means is not known here.
"""

# ruff: noqa: SLF001 - the classes of this module are parts of one thing

from __future__ import annotations

import asyncio
import dataclasses
import errno
import random
from collections import deque
from collections.abc import Callable
from typing import Literal, NamedTuple

from aiomas import local_queue
from aiomas._wire import HEADER_SIZE
from aiomas.local_queue import LocalQueue, LocalQueueTransport

__all__ = ["Connection", "Direction", "Fault", "Faults", "FaultyQueue", "Rates"]

REORDER_TURNS = 3  # turns of the loop that a frame lets others go first, at the most
_HIGH_WATER = 64 * 1024  # bytes, as asyncio's transports have it

Way = Literal["to_server", "to_client"]
Kind = Literal["drop", "cut", "garble", "reorder", "delay"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """How often what happens to a frame; all but *delay* are probabilities, from 0 to 1.

    Args:
        drop: it is lost; those behind it arrive.
        cut: the connection ends while the frame is on its way.  Any number of its bytes arrives,
            also none or all of them, and then both ends lose the connection.
        garble: one of its bytes is changed, in the header or in the payload with equal chances.
            Not every such change can be noticed: one digit may have become another one.
        reorder: it lets frames of other connections pass that were written up to three turns of
            the event loop later.  Within a connection, the order always stays.
        delay: the least and the most seconds by which each frame arrives later.  Those behind it,
            of the same direction, wait.

    Raises:
        ValueError: a probability is not within 0 and 1, or *delay* is no range.
    """

    drop: float = 0.0
    cut: float = 0.0
    garble: float = 0.0
    reorder: float = 0.0
    delay: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        for name in ("drop", "cut", "garble", "reorder"):
            rate = getattr(self, name)
            if not 0 <= rate <= 1:
                msg = f"{name} is a probability from 0 to 1, got {rate!r}"
                raise ValueError(msg)
        least, most = self.delay
        if not 0 <= least <= most < float("inf"):
            msg = f"delay is the least and the most seconds, got {self.delay!r}"
            raise ValueError(msg)


class Fault(NamedTuple):
    """Something that happened to a frame."""

    connection: str
    """The name of the connection, such as ``'shop#1'``."""
    way: Literal["to_server", "to_client"]
    """``'to_server'`` or ``'to_client'``; the client is the end that dialled."""
    frame: int
    """Which frame of this direction it was; the first is 1."""
    kind: Literal["drop", "cut", "garble", "reorder", "delay"]
    """What happened, which is the name of one of the :class:`Rates`."""
    amount: float
    """The seconds of a delay, the turns of the loop that others went first, how many bytes of the
    frame arrived before a cut, or the index of the byte that was changed; 0 for a drop."""


class Faults:
    """Local queues whose connections are as unreliable as you want.

    What happens to the n-th frame of a direction of a connection depends on the *seed*, the id of
    the queue, the number of the connection there, and the rates at that moment; on nothing else.

    Args:
        seed: another one gives other faults.
        drop: as all others, see :class:`Rates`.

    Raises:
        ValueError: a rate is out of its range.

    >>> faults = Faults(seed=7, delay=(0.01, 0.2))
    >>> queue = faults.queue("shop")  # for Container.create()
    >>> faults.set(drop=0.1)
    >>> faults.to_server
    Rates(drop=0.1, cut=0.0, garble=0.0, reorder=0.0, delay=(0.01, 0.2))
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        drop: float = 0.0,
        cut: float = 0.0,
        garble: float = 0.0,
        reorder: float = 0.0,
        delay: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        rates = Rates(drop=drop, cut=cut, garble=garble, reorder=reorder, delay=delay)
        self.seed = seed
        """What the faults depend on."""
        self.to_server = rates
        """The :class:`Rates` of frames to the end that was dialled; can be changed at any time."""
        self.to_client = rates
        """The :class:`Rates` of frames to the end that dialled; can be changed at any time."""
        self.record: list[Fault] = []
        """All that has happened to frames, in the order in which they were written."""
        self._connections: dict[Connection, None] = {}

    def __repr__(self) -> str:
        return f"<Faults seed={self.seed} to_server={self.to_server} to_client={self.to_client}>"

    def queue(self, queue_id: str) -> FaultyQueue:
        """Return the queue with this id, which has these faults and is also found by its URL.

        A connection belongs to the queue that was dialled: this is where a server's address is.

        Raises:
            AddressError: *queue_id* is empty or has a slash.
            OSError: a server is bound to another queue with this id.
        """
        queue = local_queue.get_queue(queue_id)
        if not (isinstance(queue, FaultyQueue) and queue._faults is self):
            queue = FaultyQueue(queue_id, self)
            local_queue.add_queue(queue)
        return queue

    def set(
        self,
        *,
        drop: float | None = None,
        cut: float | None = None,
        garble: float | None = None,
        reorder: float | None = None,
        delay: tuple[float, float] | None = None,
    ) -> None:
        """Change some rates of both directions, for the frames that are written from now on.

        Raises:
            ValueError: a rate is out of its range.
        """

        def changed(rates: Rates) -> Rates:
            return Rates(
                drop=rates.drop if drop is None else drop,
                cut=rates.cut if cut is None else cut,
                garble=rates.garble if garble is None else garble,
                reorder=rates.reorder if reorder is None else reorder,
                delay=rates.delay if delay is None else delay,
            )

        self.to_server, self.to_client = changed(self.to_server), changed(self.to_client)

    @property
    def connections(self) -> tuple[Connection, ...]:
        """The connections that exist, the oldest one first."""
        return tuple(self._connections)

    def cut(self) -> None:
        """Cut all connections that exist; see :meth:`Connection.cut`."""
        for connection in self.connections:
            connection.cut()

    def _opened(self, connection: Connection) -> None:
        """Take a new connection."""
        self._connections[connection] = None

    def _closed(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        self._connections.pop(connection, None)


class FaultyQueue(LocalQueue):
    """A local queue whose connections have faults; made by :meth:`Faults.queue`.

    Args:
        queue_id: its name, without a slash.
        faults: what happens to the connections.
    """

    def __init__(self, queue_id: str, faults: Faults) -> None:
        super().__init__(queue_id)
        self._faults = faults

    def connect(
        self,
        loop: asyncio.AbstractEventLoop,
        client: asyncio.BaseProtocol,
        server: asyncio.BaseProtocol,
        name: str,
    ) -> tuple[LocalQueueTransport, LocalQueueTransport]:
        """Return the two ends of a new connection."""
        ours = _FaultyTransport(loop, client, sockname=name, peername=self)
        theirs = _FaultyTransport(loop, server, sockname=self, peername=name)
        ours.join(theirs)
        connection = Connection(name, self._faults, loop, ours, theirs)
        self._faults._opened(connection)
        ours._goes_through(connection, connection.to_server)
        theirs._goes_through(connection, connection.to_client)
        return ours, theirs


class Connection:
    """A connection to a queue with faults; one of :attr:`Faults.connections`.

    Args:
        name: what the server sees as the name of its peer, such as ``'shop#1'``.
        faults: what it belongs to.
        loop: the event loop.
        client: the end that dialled.
        server: the other end.
    """

    def __init__(
        self,
        name: str,
        faults: Faults,
        loop: asyncio.AbstractEventLoop,
        client: _FaultyTransport,
        server: _FaultyTransport,
    ) -> None:
        self.name = name
        """What the server sees as the name of its peer, which is the queue's id and a number."""
        self.to_server = Direction(self, "to_server", faults, loop, client, server)
        """What the client, the end that dialled, sends."""
        self.to_client = Direction(self, "to_client", faults, loop, server, client)
        """What the server sends."""
        self._faults = faults
        self._loop = loop
        self._ends = [client, server]

    def __repr__(self) -> str:
        return f"<Connection {self.name}>"

    def cut(self) -> None:
        """Cut the connection: nothing arrives any more, and both ends lose it a moment later.

        Until they notice, in the next turn of the loop, they may still write, which is lost.
        """
        for direction in (self.to_server, self.to_client):
            direction._clear()
        for end in list(self._ends):
            self._loop.call_soon(end._reset)

    def _end_lost(self, end: _FaultyTransport) -> None:
        """Forget an end that has lost the connection."""
        self._ends.remove(end)
        if not self._ends:
            self._faults._closed(self)


class Direction:
    """One direction of a connection: what one end writes, on its way to the other one.

    Args:
        connection: what it belongs to.
        way: which direction it is.
        faults: has the rates.
        loop: the event loop.
        writer: the end that writes.
        reader: the end that reads.
    """

    def __init__(
        self,
        connection: Connection,
        way: Way,
        faults: Faults,
        loop: asyncio.AbstractEventLoop,
        writer: _FaultyTransport,
        reader: _FaultyTransport,
    ) -> None:
        self._connection = connection
        self._way: Way = way
        self._faults = faults
        self._loop = loop
        self._writer = writer
        self._reader = reader
        self._number = 0
        self._frames: deque[_Frame] = deque()  # what has been written and has not arrived
        self._size = 0  # bytes in these frames
        self._paused = False

    def __repr__(self) -> str:
        return f"<Direction {self._way} of {self._connection.name}>"

    @property
    def paused(self) -> bool:
        """Whether the end to which this leads does not read."""
        return self._paused

    @property
    def waiting(self) -> int:
        """How many bytes wait to be written because the other end does not read."""
        return self._size if self._paused else 0

    def pause(self) -> None:
        """Let the end to which this leads read no more, not even that the other one has closed.

        What is on its way now, and what is written from now on, waits at the end that writes; if
        that is too much, asyncio's flow control applies there as with a socket.
        """
        self._paused = True
        self._writer._buffer_changed()

    def resume(self) -> None:
        """Let the end to which this leads read again; what has waited arrives in the next turn."""
        self._paused = False
        self._writer._buffer_changed()
        self._loop.call_soon(self._flow)

    def _put(self, data: bytes | None) -> None:
        """Send a frame; ``None`` is the end, which nothing happens to."""
        frame, delay, turns = _Frame(data), 0.0, 0
        if data is not None:
            self._number += 1
            fate = _Fate(self._faults, self._connection.name, self._way, self._number)
            if fate.is_dropped():
                return
            frame, delay, turns = fate.applied_to(data), fate.delay(), fate.turns()
        self._frames.append(frame)
        self._size += frame.size
        if delay > 0:
            self._loop.call_later(delay, self._ripen, frame, turns)
        else:
            self._loop.call_soon(self._ripen, frame, turns)
        self._writer._buffer_changed()

    def _discard(self) -> None:
        """Forget what waits to be written because the other end does not read."""
        if self._paused:
            self._clear()
            self._writer._buffer_changed()

    def _clear(self) -> None:
        self._frames.clear()
        self._size = 0

    def _ripen(self, frame: _Frame, turns: int) -> None:
        if turns > 0:
            self._loop.call_soon(self._ripen, frame, turns - 1)
        else:
            frame.ripe = True
            self._flow()

    def _flow(self) -> None:
        """Let all arrive that can; a frame that is not ripe holds up those behind it."""
        while self._frames and self._frames[0].ripe and not self._paused:
            frame = self._frames.popleft()
            self._size -= frame.size
            if frame.data != b"":
                self._reader.deliver(frame.data)
            if frame.cuts:
                self._connection.cut()


@dataclasses.dataclass(slots=True, eq=False)
class _Frame:
    """What was written at once, less what a fault has taken from it; ``None`` is the end."""

    data: bytes | None
    cuts: bool = False
    """Whether the connection is cut once it has arrived."""
    ripe: bool = False
    """Whether its time to arrive has come."""

    @property
    def size(self) -> int:
        return 0 if self.data is None else len(self.data)


class _Fate:
    """What happens to one frame; draws the same numbers whatever the rates are."""

    def __init__(self, faults: Faults, connection: str, way: Way, number: int) -> None:
        self._rates: Rates = getattr(faults, way)
        self._note: Callable[[Kind, float], None] = lambda kind, amount: faults.record.append(
            Fault(connection, way, number, kind, amount)
        )
        # No secrets are made of this.
        self._random = random.Random(f"{faults.seed}/{connection}/{way}/{number}")  # noqa: S311
        draw = self._random.random
        self._drop, self._cut, self._garble, self._reorder = draw(), draw(), draw(), draw()
        self._delay, self._turns = draw(), draw()

    def is_dropped(self) -> bool:
        if self._drop >= self._rates.drop:
            return False
        self._note("drop", 0)
        return True

    def applied_to(self, data: bytes) -> _Frame:
        if self._cut < self._rates.cut:
            size = self._random.randint(0, len(data))
            self._note("cut", size)
            return _Frame(data[:size], cuts=True)
        if self._garble < self._rates.garble:
            data, index = self._garbled(data)
            self._note("garble", index)
        return _Frame(data)

    def turns(self) -> int:
        if self._reorder >= self._rates.reorder:
            return 0
        turns = 1 + int(self._turns * REORDER_TURNS)
        self._note("reorder", turns)
        return turns

    def delay(self) -> float:
        least, most = self._rates.delay
        delay = least + (most - least) * self._delay
        if delay > 0:
            self._note("delay", delay)
        return delay

    def _garbled(self, data: bytes) -> tuple[bytes, int]:
        in_header = len(data) <= HEADER_SIZE or self._random.random() < 0.5  # noqa: PLR2004 - equal chances
        start, stop = (0, min(HEADER_SIZE, len(data))) if in_header else (HEADER_SIZE, len(data))
        index = self._random.randrange(start, stop)
        changed = bytearray(data)
        changed[index] ^= self._random.randrange(1, 256)
        return bytes(changed), index


class _FaultyTransport(LocalQueueTransport):
    """One end of a connection; has a buffer that fills while the other end does not read."""

    _connection: Connection
    _out: Direction
    _high, _low = _HIGH_WATER, _HIGH_WATER // 4
    _full = False

    def _goes_through(self, connection: Connection, out: Direction) -> None:
        self._connection = connection
        self._out = out

    def carry(self, data: bytes | None) -> None:
        self._out._put(data)

    def get_write_buffer_size(self) -> int:
        return self._out.waiting

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is None:
            high = _HIGH_WATER if low is None else 4 * low
        if low is None:
            low = high // 4
        if not 0 <= low <= high:
            msg = f"low ({low}) has to be from 0 to high ({high})"
            raise ValueError(msg)
        self._low, self._high = low, high
        self._buffer_changed()

    def _buffer_changed(self) -> None:
        """Tell the protocol to hold back, or to go on."""
        if self._closed:
            return
        size = self.get_write_buffer_size()
        if size > self._high and not self._full:
            self._full = True
            self._protocol.pause_writing()
        elif size <= self._low and self._full:
            self._full = False
            self._protocol.resume_writing()
        if self._closing and size == 0:
            self._loop.call_soon(self._end)

    def abort(self) -> None:
        self._out._discard()
        self.close()

    def _reset(self) -> None:
        """Lose the connection."""
        self._lost(ConnectionResetError(errno.ECONNRESET, "the connection was cut by a fault"))

    def _end(self) -> None:
        if self.get_write_buffer_size() == 0:  # else when it is
            super()._end()

    def _lost(self, exc: Exception | None = None) -> None:
        if not self._closed:
            self._connection._end_lost(self)
        super()._lost(exc)
