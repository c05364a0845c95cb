"""The containers in which agents live.

A container has a server socket, a codec, a clock, and one connection to each container that its
agents talk to (``aiomas._connections``).  Its public place is :mod:`aiomas.agent`; what an agent is
is not known here.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Literal, Self, TypeVar, overload

from aiomas import channel as channels
from aiomas import rpc, util
from aiomas._address import parse_url
from aiomas._authorize import Authorize, checked
from aiomas._certificates import Certificates, SSLContexts
from aiomas._connections import Connections, with_arrow
from aiomas._endpoint import Server, SocketAddress, advertised, check_bound, retry
from aiomas._limits import Limits, check_seconds
from aiomas._objects import AgentProxy
from aiomas._population import Population
from aiomas._stats import ContainerStats
from aiomas.channel import Channel, ExtraSerializers
from aiomas.clocks import AsyncioClock, BaseClock
from aiomas.codecs import Codec, checked_serializers
from aiomas.exceptions import (
    AgentNotFoundError,
    ConnectionLost,
    ContainerClosedError,
    DeadlineExceeded,
    RemoteException,
)
from aiomas.routing import Service, expose
from aiomas.rpc import Proxy, RpcClient
from aiomas.tls import SSLCerts

__all__ = ["AgentProxy", "Container"]

T = TypeVar("T")

SHUTDOWN_TIMEOUT = 10.0
"""Seconds that requests which are being served have to end when a container is shut down."""


class Container(Connections):
    """A container for agents; use :meth:`create` or :meth:`open` to make one.

    Args:
        base_url: what the agents' URLs begin with; ends with a slash.
        loop: the event loop, the current one by default.
        clock: the clock for the agents, :class:`~aiomas.clocks.AsyncioClock` by default.
        connect_kwargs: keywords for the connections that the container makes: ``codec``,
            ``extra_serializers``, ``limits``, ``call_timeout``, ``tracebacks``, ``token`` and, for
            TCP, ``ssl``.
    """

    router = Service(["agents"])
    """The router for other containers, which call :meth:`validate_aid` and the agents."""

    def __init__(
        self,
        base_url: str,
        loop: asyncio.AbstractEventLoop | None = None,
        clock: BaseClock | None = None,
        connect_kwargs: dict[str, Any] | None = None,
    ) -> None:
        population = Population(self)
        self.agents = population.agents
        """The agents; ``agents.dict`` maps their ids to them."""
        loop = loop or util.current_loop()
        super().__init__(base_url, loop, connect_kwargs or {}, population)
        self._clock = clock or AsyncioClock(self._loop)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._base_url!r})"

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop in which the container lives."""
        return self._loop

    @property
    def base_url(self) -> str:
        """What the URLs of all agents here begin with; ends with a slash."""
        return self._base_url

    @property
    def clock(self) -> BaseClock:
        """The clock of the container."""
        return self._clock

    @overload
    @classmethod
    def create(
        cls,
        addr: SocketAddress,
        *,
        clock: BaseClock | None = None,
        codec: type[Codec] | None = None,
        extra_serializers: ExtraSerializers = None,
        ssl: SSLCerts | SSLContexts | None = None,
        authorize: Authorize | None = None,
        advertise: str | None = None,
        limits: Limits | None = None,
        call_timeout: float | None = None,
        tracebacks: bool = True,
        token: str | None = None,
        sock: socket.socket | None = None,
        as_coro: Literal[False] = False,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> Self: ...
    @overload
    @classmethod
    def create(
        cls,
        addr: SocketAddress,
        *,
        clock: BaseClock | None = None,
        codec: type[Codec] | None = None,
        extra_serializers: ExtraSerializers = None,
        ssl: SSLCerts | SSLContexts | None = None,
        authorize: Authorize | None = None,
        advertise: str | None = None,
        limits: Limits | None = None,
        call_timeout: float | None = None,
        tracebacks: bool = True,
        token: str | None = None,
        sock: socket.socket | None = None,
        as_coro: Literal[True],
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> Coroutine[Any, Any, Self]: ...
    @classmethod
    def create(
        cls,
        addr: SocketAddress,
        *,
        clock: BaseClock | None = None,
        codec: type[Codec] | None = None,
        extra_serializers: ExtraSerializers = None,
        ssl: SSLCerts | SSLContexts | None = None,
        authorize: Authorize | None = None,
        advertise: str | None = None,
        limits: Limits | None = None,
        call_timeout: float | None = None,
        tracebacks: bool = True,
        token: str | None = None,
        sock: socket.socket | None = None,
        as_coro: bool = False,
        loop: asyncio.AbstractEventLoop | None = None,
        **historic: bool,
    ) -> Any:
        """Create a container that listens on *addr*.

        Outside of a running event loop this blocks until the container is ready and returns it.
        Inside one it returns an awaitable: ``container = await Container.create(...)``.  In new
        code, ``async with Container.open(...) as container`` shuts it down as well.

        Args:
            addr: ``(host, port)`` for TCP (port 0 takes a free one), a path for a Unix domain
                socket, or a :class:`~aiomas.local_queue.LocalQueue`.  The agents' URLs have the
                *host* as it is given.  ``None``, ``''``, ``'0.0.0.0'`` and ``'::'`` bind all
                interfaces; the URLs then have this machine's fully qualified domain name.
            clock: the clock for the agents, :class:`~aiomas.clocks.AsyncioClock` by default.
            codec: a subclass of :class:`~aiomas.codecs.Codec` (no instance); JSON by default.
            extra_serializers: callables that return arguments for
                :meth:`~aiomas.codecs.Codec.add_serializer`; all containers need the same list.
            ssl: certificates for TLS on all TCP connections, as an :class:`~aiomas.SSLCerts` or as
                two contexts, for the server socket and for client sockets.
            authorize: asked before every call that comes over TLS whether its caller may make it,
                as ``authorize(identity, aid, method)``: the caller's
                :class:`~aiomas.tls.PeerIdentity`, the id of the agent (``None`` for a function
                of the container itself) and the name of its method.  Returns a bool; anything
                else, and an exception, is a refusal.  Callers that do not come over TLS, and
                agents of this container, are not asked for; nor is connecting to an agent.
            advertise: the host name for the agents' URLs, if it is not the one in *addr*.
            limits: the limits of each connection; :class:`~aiomas.Limits` has the defaults.
            call_timeout: seconds that a call has which an agent here makes, if it does not say so
                (see :func:`~aiomas.with_options`) and does not serve a call with less time itself;
                ``None`` for no limit.
            tracebacks: whether callers see the tracebacks of what went wrong here, or only what
                the exceptions themselves say.
            token: what the containers of one cluster know, and nobody else.  Who does not know it
                is not served, over whatever connection; see :ref:`tokens`.
            sock: a socket that is bound already (it may listen, too), to be used in place of a new
                one.  Then *addr* only says what is in the URLs: the path, or the *host*, with the
                port that the socket has.  The container closes it, but not what else holds the
                same socket, such as a duplicate or another process; and it leaves the file of a
                Unix socket alone.
            as_coro: return an awaitable, in any case (``async=True`` is the same).
            loop: the event loop to use, if not the current one.

        Raises:
            OSError: the address is in use or cannot be bound, or a certificate cannot be read.
            AddressError: *addr* is no address.
            ValueError: there is an *authorize* and no *ssl*, so it would never be asked; the
                *token* is empty; or *sock* is of another kind than *addr*.
        """
        as_coro = historic.pop("async", as_coro)
        if historic:
            msg = f"create() has no parameter {next(iter(historic))!r}"
            raise TypeError(msg)
        if codec is not None and not (isinstance(codec, type) and issubclass(codec, Codec)):
            msg = f"codec must be a subclass of Codec (no instance), got {codec!r}"
            raise TypeError(msg)
        if clock is not None and not callable(getattr(clock, "utcnow", None)):
            msg = f"clock must be a BaseClock, got {clock!r}"
            raise TypeError(msg)
        check_seconds("call_timeout", call_timeout)
        _check_token(token)
        if sock is not None:
            check_bound(sock, addr)
        loop = loop or util.current_loop()
        connect_kwargs = {
            "codec": codec,
            "extra_serializers": checked_serializers(extra_serializers),
            "limits": limits,
            "call_timeout": call_timeout,
            "tracebacks": tracebacks,
            "token": token,
        }
        authorize = checked(authorize, tls=ssl is not None)
        coro = cls._create(addr, loop, clock, connect_kwargs, ssl, authorize, advertise, sock)
        return _run_or_return(coro, loop, as_coro=as_coro)

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, addr: SocketAddress, **kwargs: Any) -> AsyncIterator[Self]:
        """Create a container for an ``async with`` block, which shuts it down at its end.

        Takes and raises the same as :meth:`create`.
        """
        container: Self = await cls.create(addr, as_coro=True, **kwargs)
        try:
            yield container
        finally:
            await container.shutdown(as_coro=True)

    @overload
    def connect(
        self, url: str, proxy_type: float | None = 0, *, timeout: float | None = 0
    ) -> Coroutine[Any, Any, Any]: ...
    @overload
    def connect(
        self, url: str, proxy_type: Callable[..., T], *, timeout: float | None = 0
    ) -> Coroutine[Any, Any, T]: ...
    async def connect(
        self,
        url: str,
        proxy_type: Callable[..., T] | float | None = 0,
        *,
        timeout: float | None = 0,
    ) -> Any:
        """Connect to the agent at *url* and return a proxy for it.

        All agents of a container share one connection to each other container.  If it is lost,
        the proxy connects again when it is used.

        Args:
            url: ``tcp://host:port/aid``, ``ipc://[path]/aid`` or ``local://queue-id/aid``.
            proxy_type: what type checkers take the proxy for: the agent's class, or a
                :class:`~typing.Protocol`; it makes no difference at run time.  A number or
                ``None`` in its place is the *timeout*, for programs that pass it by position.
            timeout: 0 for one attempt (of at most 10 s); a number of seconds in which to try
                again and again, also while the other side accepts the connection and stays
                silent; ``None`` to try for ever.

        Raises:
            AgentNotFoundError: the container at *url* has no such agent; a ``LookupError`` and a
                ``ConnectionError``.
            OSError: no connection could be made; it is what the last attempt failed with.
            ConnectTimeout: the last attempt did not end in time.
            DeadlineExceeded: the container answered too late; see *call_timeout* in :meth:`create`.
            AddressError: *url* is no agent URL; a ``ValueError``.
            ContainerClosedError: this container was shut down.
        """
        if proxy_type is None or isinstance(proxy_type, int | float):
            timeout = timeout if timeout != 0 else proxy_type
        elif not callable(proxy_type):
            msg = f"proxy_type must be a class (or a timeout in seconds), got {proxy_type!r}"
            raise TypeError(msg)
        address, aid = parse_url(url)
        async with self._pool.until_closing():
            own = address.url == self._base_url
            peer = self._pool.peer(address)

            async def attempt() -> str | None:
                if own:
                    return self.validate_aid(aid)
                return await _validate_aid(await peer.connect(), aid)

            name = await retry(attempt, timeout, f"connecting to {url}")
            return self._proxy(self._local if own else peer, url, aid, name)

    async def ping(self, base_url: str) -> None:
        """Return when the container at *base_url* (see :attr:`base_url`) has answered a request.

        Raises:
            OSError: no connection could be made within 10 s.
        """
        peer = self._pool.peer(parse_url(base_url + "0")[0])

        async def attempt() -> None:
            await _validate_aid(await peer.connect(), "")

        await retry(attempt, 0, f"connecting to {base_url}")

    def proxy(self, url: str, class_name: str = "Agent") -> Proxy:
        """Return a proxy for the agent at *url* without asking whether it exists.

        The proxy connects when it is used first.  A call to an agent that does not exist fails
        with :class:`~aiomas.RemoteException`.

        Args:
            url: as in :meth:`connect`.
            class_name: what the proxy's ``repr()`` calls the agent.

        Raises:
            AddressError: *url* is no agent URL.
        """
        address, aid = parse_url(url)
        own = address.url == self._base_url
        return self._proxy(self._local if own else self._pool.peer(address), url, aid, class_name)

    @overload
    def shutdown(
        self,
        as_coro: Literal[False] = False,  # noqa: FBT002 - the signature that aiomas users know
        *,
        timeout: float = SHUTDOWN_TIMEOUT,
    ) -> None: ...
    @overload
    def shutdown(
        self, as_coro: Literal[True], *, timeout: float = SHUTDOWN_TIMEOUT
    ) -> Coroutine[Any, Any, None]: ...
    def shutdown(
        self,
        as_coro: bool = False,  # noqa: FBT001, FBT002 - the signature that aiomas users know
        *,
        timeout: float = SHUTDOWN_TIMEOUT,
        **historic: bool,
    ) -> Any:
        """Close the server socket and all connections.

        New requests are refused, those being served get *timeout* to end.  Calls that our agents
        have made, other than as a part of these, fail at once with
        :class:`~aiomas.exceptions.ContainerClosedError`.  Doing it twice does no harm.

        Outside of a running event loop this blocks until all is closed.  Inside one it returns an
        awaitable: ``await container.shutdown()``.

        Args:
            as_coro: return an awaitable, in any case (``async=True`` is the same).
            timeout: seconds after which requests that are still being served are cancelled.
        """
        as_coro = historic.pop("async", as_coro)
        if historic:
            msg = f"shutdown() has no parameter {next(iter(historic))!r}"
            raise TypeError(msg)
        done = self._shutdown is not None and self._shutdown.done()
        if done and not (as_coro or self._loop.is_running()):
            return None
        if self._loop.is_closed():
            msg = f"The event loop of {self!r} was closed before the container was shut down"
            raise RuntimeError(msg)
        return _run_or_return(self._await_shutdown(timeout), self._loop, as_coro=as_coro)

    async def _await_shutdown(self, timeout: float) -> None:
        if self._shutdown is None:
            self._shutdown = self._loop.create_task(self._do_shutdown(timeout))
        # We may be serving a call, for the end of which it would wait while we wait for its end.
        with self._handlers.not_waiting_for(asyncio.current_task()):
            await asyncio.wait({self._shutdown})  # which does not cancel it if we are cancelled
        if not self._shutdown.cancelled():
            self._shutdown.result()

    @expose
    def validate_aid(self, aid: str) -> str | None:
        """Return the class name of the agent with the id *aid*, or ``None`` if there is none.

        Raises:
            ConnectionLost: there will be one soon, when it has been made again after a restart.
        """
        if not isinstance(aid, str):
            return None
        self._population.check_not_awaited(aid)
        agent = self.agents.dict.get(aid)
        return None if agent is None else type(agent).__name__

    async def reload_tls(self, certs: SSLCerts | SSLContexts | None = None) -> None:
        """Use new certificates for connections that are made from now on.

        Connections that exist live on as they are.  Certificates in files are checked first: the
        key fits, they are valid now, as those of a server and of a client, and signed by an
        authority in the file, and its revocation list, if there is to be one, is valid, too.
        Contexts are taken as they are.

        Args:
            certs: as ``ssl`` in :meth:`create`; by default the same files, which are read again.

        Raises:
            OSError: the certificates are not good; then the old ones are still used.
            ValueError: the container has no TLS, or was given contexts and no *certs* now.
        """
        if self._certificates is None:
            msg = f"{self!r} was made without ssl=, there is no TLS to reload"
            raise ValueError(msg)
        self._certificates.reload(certs)

    def stats(self) -> ContainerStats:
        """Return what the container is doing, and has done since it was created."""
        channels = [client.channel for client in [*self._accepted, *self._pool.clients]]
        counters = self._terms.counters
        return ContainerStats(
            connections=len(channels),
            calls_in=counters.calls_in,
            calls_out=counters.calls_out,
            bytes_in=counters.bytes_in,
            bytes_out=counters.bytes_out,
            errors=counters.errors,
            pending=sum(channel.pending for channel in channels)
            + self._local.pending
            + self._pool.waiting,
            serving=sum(channel.serving for channel in channels) + len(self._local.dispatcher),
            limits_hit=dict(counters.limits_hit),
        )

    def set_server(self, server: Server) -> None:
        """Give the container the server that accepts its connections."""
        self._server = server

    @classmethod
    async def _create(
        cls,
        addr: SocketAddress,
        loop: asyncio.AbstractEventLoop,
        clock: BaseClock | None,
        connect_kwargs: dict[str, Any],
        ssl: SSLCerts | SSLContexts | None,
        authorize: Authorize | None,
        advertise: str | None,
        sock: socket.socket | None,
    ) -> Self:
        options: dict[str, Any] = {} if sock is None else {"sock": sock}
        # A container on a Unix socket may still dial others over TCP.
        certificates = None if ssl is None else Certificates(ssl)
        if certificates is not None and isinstance(addr, tuple | list):
            limits = connect_kwargs["limits"] or Limits()
            options["ssl"] = certificates.listening
            options["ssl_handshake_timeout"] = limits.handshake_timeout

        def accept(channel: Channel) -> None:
            container._accept(channel)

        server = await channels.listen(
            addr if sock is None else None,
            accept,
            lambda: container._terms,
            loop=loop,
            codec=connect_kwargs["codec"],
            extra_serializers=with_arrow(connect_kwargs),
            # Nobody is let in before there is a container, whose URL needs the bound port.
            start_serving=False,
            **options,
        )
        try:
            address = await advertised(addr, server, advertise, tls="ssl" in options)
            container = cls(address.url, loop, clock or AsyncioClock(loop), connect_kwargs)
            container._certificates = certificates
            container._authorize = authorize
            container.set_server(server)
            await server.start_serving()
        except BaseException:
            server.close()
            await server.wait_closed()
            raise
        return container

    def _proxy(self, sender: rpc.Sender, url: str, aid: str, class_name: str | None) -> Proxy:
        if class_name is None:
            msg = f"The container at {sender.peer} has no agent {aid!r} ({url})"
            raise AgentNotFoundError(msg)
        return AgentProxy(sender, f"agents/{aid}", class_name, url)

    def _register(self, agent: object, aid: str | None) -> str:
        if self._shutdown is not None:
            msg = f"{self!r} was shut down; it takes no more agents"
            raise ContainerClosedError(msg)
        return self._population.add(agent, aid)

    async def _remove(self, agent: Any, aid: str, timeout: float) -> None:
        # We may be serving a call of this very agent.
        with self._handlers.not_waiting_for(asyncio.current_task()):
            await self._population.remove(agent, aid, self._handlers, self._local, timeout)


def _run_or_return(
    coro: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop, *, as_coro: bool
) -> Coroutine[Any, Any, T] | T:
    return coro if as_coro or loop.is_running() else loop.run_until_complete(coro)


def _check_token(token: object) -> None:
    if token is not None and not isinstance(token, str):
        msg = f"token is a string, got {type(token).__name__}"  # and not what it is: it is secret
        raise TypeError(msg)
    if token == "":
        msg = "token is empty, so anybody would know it; leave it out to have none"
        raise ValueError(msg)


async def _validate_aid(connection: RpcClient, aid: str) -> str | None:
    try:
        name: str | None = await connection.channel.send(("validate_aid", (aid,), {}))
    except DeadlineExceeded:
        raise
    except RemoteException as exc:
        # It is no container, or one that is being shut down: there may be another one soon.
        reason = str(exc.remote_traceback).strip().rpartition("\n")[2]
        msg = f"{connection.channel.peer} does not answer as a container does: {reason}"
        raise ConnectionLost(msg) from exc
    return name
