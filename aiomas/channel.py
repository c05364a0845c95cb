"""Request/reply channels: send a value, await the reply.

What the values mean is not known here.

Requests that arrive are either taken one by one with :meth:`Channel.recv`, or passed to a handler
(:meth:`Channel.serve`), in the order in which they were sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from aiomas import _endpoint
from aiomas._channel import Channel
from aiomas._endpoint import Server, SocketAddress
from aiomas._intake import Request
from aiomas._limits import Limits
from aiomas._protocol import ChannelProtocol
from aiomas._session import EXCEPTION, REQUEST, RESULT
from aiomas._terms import Terms
from aiomas.codecs import JSON, Codec, Serializer, make_codec
from aiomas.util import current_loop

__all__ = [
    "DEFAULT_CODEC",
    "EXCEPTION",
    "REQUEST",
    "RESULT",
    "Channel",
    "ChannelProtocol",
    "Request",
    "Server",
    "open_connection",
    "start_server",
]

for _class in (Channel, ChannelProtocol, Request):
    _class.__module__ = __name__  # where users find it

DEFAULT_CODEC: type[Codec] = JSON
"""The codec of a channel for which none was chosen."""

ExtraSerializers = Iterable[Callable[[], Serializer]] | None


async def open_connection(
    addr: SocketAddress | None,
    *,
    loop: asyncio.AbstractEventLoop | None = None,
    codec: type[Codec] | None = None,
    extra_serializers: ExtraSerializers = (),
    timeout: float | None = 0,
    limits: Limits | None = None,
    extensions: bool = False,
    **kwds: Any,
) -> Channel:
    """Connect to the server at *addr* and return the :class:`Channel`.

    Args:
        addr: ``(host, port)`` for TCP, a path for a Unix domain socket, or a local queue.
        loop: the event loop to use, if not the current one.
        codec: a subclass of :class:`~aiomas.codecs.Codec`; JSON by default.
        extra_serializers: callables that return arguments for
            :meth:`~aiomas.codecs.Codec.add_serializer`; both ends need the same list.
        timeout: 0 for one attempt (of at most 10 s); a number of seconds in which to try again
            and again, also while the peer accepts the connection and stays silent; ``None`` to
            try for ever.
        limits: the limits of the connection; :class:`~aiomas.Limits` has the defaults.
        extensions: whether to ask the peer for the :ref:`extensions` of the protocol.  Only for
            peers that answer each request, as an RPC server or a container does.
        kwds: go to :meth:`asyncio.loop.create_connection` or ``create_unix_connection``; so
            ``ssl=`` takes a context.

    Raises:
        OSError: no connection could be made; it is what the last attempt failed with
            (``ConnectionRefusedError``, ``FileNotFoundError``, ``ssl.SSLError``, ...).
        ConnectTimeout: the last attempt did not end in time.
        HandshakeError: the peer has another codec or other serializers (with *extensions*).
        AddressError: *addr* is no address.
    """
    return await dial(
        addr,
        Terms(limits=limits or Limits()),
        loop=loop,
        codec=codec,
        extra_serializers=extra_serializers,
        timeout=timeout,
        extensions=extensions,
        **kwds,
    )


async def dial(
    addr: SocketAddress | None,
    terms: Terms,
    *,
    loop: asyncio.AbstractEventLoop | None = None,
    codec: type[Codec] | None = None,
    extra_serializers: ExtraSerializers = (),
    timeout: float | None = 0,
    extensions: bool = False,
    connected: Callable[[Channel], Any] | None = None,
    **kwds: Any,
) -> Channel:
    """Do what :func:`open_connection` does, on certain *terms*.

    ``connected(channel)`` is called before anything is sent or received.
    """
    loop = loop or current_loop()

    def factory() -> ChannelProtocol:
        instance = make_codec(codec or DEFAULT_CODEC, extra_serializers)
        return ChannelProtocol(instance, connected, loop=loop, terms=terms, accepting=False)

    async def greet(protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, ChannelProtocol)  # noqa: S101 - for the type checker
        if extensions:
            await protocol.greet()

    if kwds.get("ssl"):
        kwds.setdefault("ssl_handshake_timeout", terms.limits.handshake_timeout)
    protocol = await _endpoint.dial(factory, addr, loop, timeout=timeout, prepare=greet, **kwds)
    assert isinstance(protocol, ChannelProtocol)  # noqa: S101 - for the type checker
    return protocol.channel


async def start_server(
    addr: SocketAddress | None,
    client_connected_cb: Callable[[Channel], Any],
    *,
    loop: asyncio.AbstractEventLoop | None = None,
    codec: type[Codec] | None = None,
    extra_serializers: ExtraSerializers = (),
    limits: Limits | None = None,
    tracebacks: bool = True,
    **kwds: Any,
) -> Server:
    """Listen on *addr* and call ``client_connected_cb(channel)`` for each client.

    Args:
        addr: ``(host, port)`` for TCP (port 0 takes a free one, see :attr:`Server.sockets`), a
            path for a Unix domain socket (which only this user can connect to), or a local queue.
        client_connected_cb: a function, or a coroutine function, which is started as a task.
        loop: the event loop to use, if not the current one.
        codec: a subclass of :class:`~aiomas.codecs.Codec`; JSON by default.
        extra_serializers: as in :func:`open_connection`.
        limits: the limits of each connection; :class:`~aiomas.Limits` has the defaults.
        tracebacks: whether clients see the tracebacks of what went wrong here, or only what the
            exceptions themselves say.
        kwds: go to :meth:`asyncio.loop.create_server` or ``create_unix_server``.

    Raises:
        OSError: the address is in use, or cannot be bound.
        AddressError: *addr* is no address.
    """
    terms = Terms(limits=limits or Limits(), tracebacks=tracebacks)
    if kwds.get("ssl"):
        kwds.setdefault("ssl_handshake_timeout", terms.limits.handshake_timeout)
    return await listen(
        addr,
        client_connected_cb,
        lambda: terms,
        loop=loop,
        codec=codec,
        extra_serializers=extra_serializers,
        **kwds,
    )


async def listen(
    addr: SocketAddress | None,
    client_connected_cb: Callable[[Channel], Any],
    terms: Callable[[], Terms],
    *,
    loop: asyncio.AbstractEventLoop | None = None,
    codec: type[Codec] | None = None,
    extra_serializers: ExtraSerializers = (),
    **kwds: Any,
) -> Server:
    """Do what :func:`start_server` does, on certain *terms*, asked for with each client."""
    loop = loop or current_loop()

    def factory() -> ChannelProtocol:
        instance = make_codec(codec or DEFAULT_CODEC, extra_serializers)
        return ChannelProtocol(instance, client_connected_cb, loop=loop, terms=terms())

    return await _endpoint.listen(factory, addr, loop, **kwds)
