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

_MANY = 1024  # parts of a frame
# The first byte of a record of TLS, which the version follows: 3, and a number of at most 4.
_ALERT, _HANDSHAKE = 0x15, 0x16
_TLS_VERSIONS = range(0x0300, 0x0305)


def frame(payload: bytes) -> bytes:
    """Return *payload* as a frame."""
    return _HEADER.pack(len(payload)) + payload


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


class FrameReader:
    """Cuts the bytes of one connection into payloads.

    Args:
        max_frame: the largest payload that is accepted, in bytes.
    """

    def __init__(self, max_frame: int) -> None:
        self._max_frame = self._unquestioned = 0
        self.set_max_frame(max_frame)
        self._begun = False  # whether a frame has come
        self._parts: list[bytes] = []  # of a frame that is not complete yet
        self._compacted = 0  # so many of them stand for many small ones
        self._have = 0  # bytes in these parts
        self._need = HEADER_SIZE  # bytes after which they can be looked at again

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
        if self._parts:
            self._parts.append(data)
            self._have += len(data)
            if self._have < self._need:
                self._compact()
                return
            # Joining only when enough is there keeps a large frame in small pieces linear.
            data = b"".join(self._parts)
            self._parts.clear()
            self._compacted = 0
        position, size = 0, len(data)
        self._need = HEADER_SIZE
        while size - position >= HEADER_SIZE:
            (length,) = _HEADER.unpack_from(data, position)
            if length > self._unquestioned:
                self._check(length, first=not (position or self._begun))
            end = position + HEADER_SIZE + length
            if end > size:
                self._need = HEADER_SIZE + length
                break
            yield data[position + HEADER_SIZE : end]
            position = end
        if position:
            self._begun = True
        if position < size:
            self._parts.append(data[position:] if position else data)
            self._have = size - position

    def _compact(self) -> None:
        """Join small parts now and then, as each of them takes more memory than its bytes."""
        if len(self._parts) - self._compacted >= _MANY:
            self._parts[self._compacted :] = [b"".join(self._parts[self._compacted :])]
            self._compacted += 1

    def _check(self, length: int, *, first: bool) -> None:
        """Take a closer look at the header of a large frame."""
        kind, version = length >> 24, length >> 8 & 0xFFFF
        if first and kind in {_ALERT, _HANDSHAKE} and version in _TLS_VERSIONS:
            raise TlsRecordError(alert=kind == _ALERT)
        if length > self._max_frame:
            msg = (
                f"the header of a frame of {length} bytes, which is over the limit "
                f"max_frame={self._max_frame}"
            )
            raise ProtocolError(msg)
