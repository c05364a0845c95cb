"""What one connection may take of this process: memory, time, and the patience of others.

Every limit is a parameter with a default, and the error that it leads to names it.
"""

from __future__ import annotations

import dataclasses
import math

__all__ = ["Limits"]

_MIB = 1024 * 1024


def check_seconds(name: str, value: object) -> None:
    """Make sure that *value* is ``None`` or a positive number.

    Raises:
        TypeError: it is no number; the message has its *name*.
        ValueError: it is not positive and finite.
    """
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        msg = f"{name} is a number of seconds or None, got {value!r}"
        raise TypeError(msg)
    if not (value > 0 and math.isfinite(value)):
        msg = f"{name} is a positive number of seconds, got {value!r}"
        raise ValueError(msg)


_LARGEST_FRAME = 2**32 - 1  # bytes


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The limits of a connection; pass them as ``limits=Limits(max_frame=...)``.

    They hold for each connection, and each end has its own.

    Raises:
        TypeError: a limit is no number; the message names it.
        ValueError: a limit is not positive, or too large; the message names it.
    """

    max_frame: int = 16 * _MIB
    """The largest message that is sent or accepted, in bytes, compressed or not."""
    max_nesting: int = 64
    """Levels of lists and maps in the content of a message that is accepted."""
    max_requests: int = 65_536
    """Requests that are held, which are those that are being served and those that wait for it."""
    max_request_bytes: int = 64 * _MIB
    """Bytes that these requests had on the wire; their values may take many times that."""
    write_high_water: int = 64 * 1024
    """Bytes in the transport's buffer above which further messages wait in ours."""
    write_cap: int = 512 * _MIB
    """Bytes that may wait in ours; with more, own calls fail, and replies cut the connection."""
    write_timeout: float | None = 30.0
    """Seconds in which a peer has to take something of what waits; ``None`` for ever."""
    handshake_timeout: float = 5.0
    """Seconds that the TLS handshake may take, for the end that dials and for a server; and that
    who connects to a container with a token has to show it."""
    heartbeat: float | None = 10.0
    """Seconds of silence after which the peer is asked for a sign of life; ``None`` for never.

    Peers that know nothing of this (see :ref:`extensions`) are not asked.
    """
    heartbeat_misses: int = 3
    """So many times *heartbeat* seconds of silence, and the peer is taken for dead."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            optional = field.name in {"write_timeout", "heartbeat"}
            seconds = optional or field.name == "handshake_timeout"
            kinds = (int, float) if seconds else (int,)
            if value is None and optional:
                continue
            if isinstance(value, bool) or not isinstance(value, kinds):
                msg = f"Limits.{field.name} is a number, got {value!r}"
                raise TypeError(msg)
            if not (value > 0 and math.isfinite(value)):
                msg = f"Limits.{field.name} must be positive and finite, got {value!r}"
                raise ValueError(msg)
        if self.max_frame > _LARGEST_FRAME:
            msg = f"Limits.max_frame is over what a header can say, {_LARGEST_FRAME} bytes"
            raise ValueError(msg)
