"""Framing: a stream of bytes in, payloads out; knows nothing of sockets or of what payloads mean.

A frame is the length of its payload as an unsigned 32-bit integer in network byte order, and the
payload.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from aiomas.exceptions import ProtocolError

_HEADER = struct.Struct("!L")
HEADER_SIZE = _HEADER.size
pack_header = _HEADER.pack
unpack_header = _HEADER.unpack_from

_MANY = 1024  # parts of a frame
LARGE_FRAME = 128 * 1024
"""Bytes of a frame that takes longer to copy than to be sent and received in several pieces."""
# Bytes of a buffer for a large frame that is kept for the next one: as large as Limits.max_frame
# allows by default, with its header.
_KEPT = 17 * 1024 * 1024
# The first byte of a record of TLS, which the version follows: 3, and a number of at most 4.
_ALERT, _HANDSHAKE = 0x15, 0x16
_FIRST_BYTES = {_ALERT, _HANDSHAKE}
_TLS_VERSIONS = range(0x0300, 0x0305)


SHORT = 1024  # bytes
SHORT_HEADERS = tuple(pack_header(size) for size in range(SHORT))
"""The headers of short frames: looking one up takes a fifth of the time of making it."""


def header(payload: bytes | memoryview) -> bytes:
    """Return what comes before *payload* in its frame."""
    return pack_header(len(payload))


def frame(payload: bytes | memoryview) -> bytes:
    """Return *payload* as a frame."""
    return pack_header(len(payload)) + payload


class TlsRecordError(ProtocolError):
    """What has come is no frame, but what TLS begins with.

    Args:
        alert: whether the peer is a server that wants TLS; else it is a client.
    """

    def __init__(self, *, alert: bool) -> None:
        self.alert = alert
        super().__init__(
            "an alert of TLS: it wants TLS, which takes ssl= at this end"
            if alert
            else "the beginning of TLS, which this end was not made for with ssl="
        )


class Spare:
    """A buffer for large frames that no connection uses now: a new one costs as much as a copy."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def take(self) -> bytearray:
        """Return the buffer, or a new one without any bytes."""
        buffer, self._buffer = self._buffer, bytearray()
        return buffer

    def give_back(self, buffer: bytearray) -> None:
        """Keep *buffer* for the next one who needs one, unless it is huge."""
        if len(self._buffer) < len(buffer) <= _KEPT:
            self._buffer = buffer


class FrameReader:
    """Cuts the bytes of one connection into payloads.

    Args:
        max_frame: the largest payload that is accepted, in bytes.
        spare: where buffers for large frames come from.
    """

    def __init__(self, max_frame: int, spare: Spare | None = None) -> None:
        self._max_frame = self._unquestioned = 0
        self.set_max_frame(max_frame)
        self.begun = False
        """Whether a frame has come."""
        self.parts: list[bytes] = []
        """What has come of a frame that is not complete yet, for :meth:`join`."""
        self._compacted = 0  # so many of them stand for many small ones
        self._have = 0  # bytes in these parts
        self.need = HEADER_SIZE
        """Bytes after which they can be looked at again."""
        self.error: ProtocolError | None = None
        """What is wrong with what has come, for :meth:`check` to raise."""
        self._spare = spare or Spare()
        self._large: bytearray | None = None  # where a large frame goes that is not complete yet

    def set_max_frame(self, max_frame: int) -> None:
        """Accept payloads of up to *max_frame* bytes from the next header on."""
        self._max_frame = max_frame
        self._unquestioned = min(max_frame, (_ALERT << 24) - 1)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take what was received and yield all payloads that are complete by now.

        Raises:
            TlsRecordError: the peer speaks TLS.
            ProtocolError: a header announces more than *max_frame* bytes.  It is raised before
                anything is set aside for them, and after the payloads before it were yielded.
        """
        yield from self.cut(self.join(data))
        self.check()

    def join(self, data: bytes) -> bytes:
        """Return *data* with what was left before it; nothing, if no frame is complete by now."""
        if not self.parts:
            return data
        self.parts.append(data)
        self._have += len(data)
        if self._have < self.need:
            self._compact()
            return b""
        # Joining only when enough is there keeps a large frame in small pieces linear.
        data = b"".join(self.parts)
        self.parts.clear()
        self._compacted = 0
        return data

    def cut(self, data: bytes) -> list[bytes]:
        """Return all payloads in what :meth:`join` has returned; then call :meth:`check`."""
        payloads: list[bytes] = []
        if not data:  # what has come before still waits for as much as it has said
            return payloads
        position, size = 0, len(data)
        start = self.need = HEADER_SIZE
        while start <= size:
            (length,) = unpack_header(data, position)
            if length > self._unquestioned and self._is_wrong(length, first=not position):
                return payloads
            end = start + length
            if end > size:
                self.need = HEADER_SIZE + length
                break
            payloads.append(data[start:end])
            position = end
            start = end + HEADER_SIZE
        if position:
            self.begun = True
        if position < size:
            self.parts.append(data[position:] if position else data)
            self._have = size - position
        return payloads

    def check(self) -> None:
        """Raise what is wrong with what came after the payloads that were cut last, if anything."""
        if self.error is not None:
            raise self.error

    def room(self) -> memoryview | None:
        """Return where to put the next bytes, if they belong to a large frame.

        They need not be copied again then.  Release what this returns, and call :meth:`fill`.
        """
        if self.need < LARGE_FRAME:
            return None
        if self._large is None:
            begun = b"".join(self.parts)
            self.parts.clear()
            self._compacted = 0
            self._large = self._spare.take()
            if len(self._large) < len(begun):
                self._large.extend(bytes(len(begun) - len(self._large)))
            self._large[: len(begun)] = begun
        if len(self._large) == self._have:
            # Not more than has come already: a header alone may announce anything.
            self._large.extend(bytes(min(self.need - self._have, max(self._have, LARGE_FRAME))))
        return memoryview(self._large)[self._have : self.need]

    def fill(self, size: int) -> Iterator[memoryview]:
        """Take *size* bytes that are in what :meth:`room` has returned; else like :meth:`feed`.

        What is yielded can be used until the next payload is asked for.
        """
        self._have += size
        if self._have < self.need or self._large is None:
            return
        buffer, self._large = self._large, None
        with memoryview(buffer) as view, view[HEADER_SIZE : self.need] as payload:
            self.need = HEADER_SIZE
            self._have = 0
            self.begun = True
            yield payload
        self._spare.give_back(buffer)

    def _compact(self) -> None:
        """Join small parts now and then, as each of them takes more memory than its bytes."""
        if len(self.parts) - self._compacted >= _MANY:
            self.parts[self._compacted :] = [b"".join(self.parts[self._compacted :])]
            self._compacted += 1

    def _is_wrong(self, length: int, *, first: bool) -> bool:
        """Take a closer look at the header of a large frame."""
        kind, version = length >> 24, length >> 8 & 0xFFFF
        if first and not self.begun and kind in _FIRST_BYTES and version in _TLS_VERSIONS:
            self.error = TlsRecordError(alert=kind == _ALERT)
        elif length > self._max_frame:
            self.error = ProtocolError(
                f"the header of a frame of {length} bytes, which is over the limit "
                f"max_frame={self._max_frame}"
            )
        return self.error is not None
