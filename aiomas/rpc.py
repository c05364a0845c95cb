"""Remote procedure calls on top of channels.

Each side of a connection has an :class:`RpcClient`.  Its :attr:`~RpcClient.remote` is a
:class:`Proxy` for what the other side serves; if it was given a router, it serves that to the
other side as well.  Routers and their relatives come from :mod:`aiomas.routing`.

A call is the request ``[path, args, kwargs]``; an object with a router travels as its path and
arrives as a proxy.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol, TypeVar

from aiomas import channel as channels
from aiomas._current import Call, CallOptions, current_call
from aiomas._dispatch import Dispatcher
from aiomas._endpoint import Server, SocketAddress
from aiomas._handlers import Handlers
from aiomas._limits import Limits, check_seconds
from aiomas._terms import Terms
from aiomas.channel import Channel
from aiomas.exceptions import ConnectionLost, SerializationError
from aiomas.routing import HasRouter, Router, RoutingDict, Service, ServiceDict, expose, router_of

__all__ = [
    "Call",
    "Proxy",
    "Router",
    "RoutingDict",
    "RpcClient",
    "Service",
    "ServiceDict",
    "current_call",
    "expose",
    "open_connection",
    "rpc_service",
    "rpc_service_process",
    "start_server",
    "with_options",
]

T = TypeVar("T")
RpcService = Router | HasRouter


async def open_connection(
    addr: SocketAddress | None,
    *,
    router: RpcService | None = None,
    rpc_service: RpcService | None = None,
    limits: Limits | None = None,
    tracebacks: bool = True,
    **kwds: Any,
) -> RpcClient:
    """Connect to the RPC server at *addr* and return the :class:`RpcClient`.

    Args:
        addr: as in :func:`aiomas.channel.open_connection`, like all of *kwds* and what is raised.
        router: what the other side may call: a router, or an object that has one.
        rpc_service: another name of *router*.
        limits: the limits of the connection; :class:`~aiomas.Limits` has the defaults.
        tracebacks: whether the other side sees the tracebacks of what went wrong here, or only
            what the exceptions themselves say.

    Raises:
        ValueError: *router* is no router and has none.
    """
    service = _one_of(router, rpc_service)
    root = None if service is None else _as_router(service)
    clients: list[RpcClient] = []
    # It has to be there before anything arrives.
    terms = Terms(limits=limits or Limits(), tracebacks=tracebacks)
    channel = await channels.dial(
        addr, terms, connected=lambda channel: clients.append(RpcClient(channel, root)), **kwds
    )
    return next(client for client in clients if client.channel is channel)


async def start_server(
    addr: SocketAddress | None,
    rpc_service: RpcService | None = None,
    client_connected_cb: Callable[[RpcClient], Any] | None = None,
    *,
    router: RpcService | None = None,
    **kwds: Any,
) -> Server:
    """Listen on *addr* and serve *rpc_service* to each client.

    Args:
        addr: as in :func:`aiomas.channel.start_server`, like all of *kwds* and what is raised.
        rpc_service: what clients may call: a router, or an object that has one.
        client_connected_cb: called with the :class:`RpcClient` of each new connection.
        router: another name of *rpc_service*.

    Raises:
        ValueError: *rpc_service* is no router and has none.
    """
    root = _as_router(_one_of(router, rpc_service))

    def connected(channel: Channel) -> Any:
        client = RpcClient(channel, root)
        return client_connected_cb(client) if client_connected_cb is not None else None

    return await channels.start_server(addr, connected, **kwds)


async def rpc_service(router: RpcService, channel: Channel) -> None:
    """Serve the functions of *router* over *channel* until the connection ends.

    An exception that a function raises is forwarded to its caller.
    """
    dispatcher = Dispatcher(_as_router(router), loop=channel.loop)
    channel.serve(dispatcher, dispatcher.cancel)
    await channel.wait_closed()
    dispatcher.end()


async def rpc_service_process(rpc_client: RpcClient, router: RpcService, channel: Channel) -> None:
    """Serve *router* over *channel*, as :func:`rpc_service` does; *rpc_client* is not needed."""
    del rpc_client
    await rpc_service(router, channel)


class RpcClient:
    """One side of an RPC connection.

    Args:
        channel: the connection.
        rpc_service: what the other side may call: a router, or an object that has one.
        router: another name of *rpc_service*.
        handlers: who owns the coroutine functions that the other side calls.
        objects: how proxies travel.

    Raises:
        ValueError: *rpc_service* is no router and has none.
    """

    def __init__(
        self,
        channel: Channel,
        rpc_service: RpcService | None = None,
        *,
        router: RpcService | None = None,
        handlers: Handlers | None = None,
        objects: Objects | None = None,
    ) -> None:
        self.channel = channel
        """The :class:`~aiomas.channel.Channel` of this connection."""
        self.remote = Proxy(channel, "")
        """The :class:`Proxy` for what the other side serves."""
        self.service: asyncio.Future[None] | None = None
        """Done when our service for the other side has ended; ``None`` if there is none."""
        self.dispatcher: Dispatcher | None = None
        self._on_reset: Callable[[ConnectionLost], Any] | None = None
        self._lost: ConnectionLost | None = None
        channel.on_lost(self._reset)
        service = _one_of(router, rpc_service)
        root = None if service is None else _as_router(service)
        add_object_serializer(channel.codec, lambda: root, objects or PathsOnly(channel))
        if root is not None:
            self.dispatcher = Dispatcher(root, handlers, channel.loop)
            self.service = channel.loop.create_future()
            channel.on_closed(partial(_finish, self.service))
            channel.on_closed(self.dispatcher.end)
            channel.serve(self.dispatcher, self.dispatcher.cancel)
            channel.on_lost(self._cancel_handlers)

    def __repr__(self) -> str:
        return f"<RpcClient of {self.channel!r}>"

    def on_connection_reset(self, callback: Callable[[ConnectionLost], Any] | None) -> None:
        """Call ``callback(error)`` if the connection ends and it was not this side that closed it.

        The error is a :class:`ConnectionResetError`.  There is one callback; a new one takes the
        place of the old one, and ``None`` removes it.

        Raises:
            ValueError: *callback* cannot be called.
        """
        if callback is not None and not callable(callback):
            msg = f"callback must be a function that takes the error, got {callback!r}"
            raise ValueError(msg)
        self._on_reset = callback
        if callback is not None and self._lost is not None:  # it is late, but not too late
            self.channel.loop.call_soon(callback, self._lost)

    def _cancel_handlers(self, _: ConnectionLost) -> None:
        # Peers that know of no extensions never knew their calls to be cancelled.
        if self.dispatcher is not None and self.channel.extended:
            self.dispatcher.cancel_all()

    def _reset(self, error: ConnectionLost) -> None:
        self._lost = error
        if self._on_reset is not None:
            self._on_reset(error)

    def close(self) -> Awaitable[None]:
        """Close the connection now; await what this returns to wait until that is done."""
        return self.channel.close()


class Sender(Protocol):
    """What a proxy sends its calls with: a channel, or something that finds one."""

    @property
    def peer(self) -> Any:
        """The address of the other end."""

    def send(self, content: Any, options: CallOptions | None = None) -> asyncio.Future[Any]:
        """Send a request and return the future of its reply."""


class Proxy:
    """Stands for a remote object or function.

    An attribute is a proxy for the attribute over there, and calling a proxy calls the remote
    function.  The call is sent at once; it returns an :class:`asyncio.Future`, so it can be
    awaited at any time, or together with others in :func:`asyncio.gather`.

    Args:
        channel: what the calls are sent with.
        path: the remote path.
        options: of all calls; see :func:`with_options`.
    """

    def __init__(self, channel: Sender, path: str, options: CallOptions | None = None) -> None:
        self._channel = channel
        self._path = path
        self._options = options
        # One attribute for a call to find: a class with __getattr__() pays for each of them.
        self._target = channel, path, options

    def __getattr__(self, name: str) -> Proxy:
        """Return a proxy for *name*.

        Raises:
            AttributeError: *name* is private; such names cannot be called remotely.
        """
        if name.startswith("_"):
            msg = f"{name!r} is private: it cannot be reached through a proxy"
            raise AttributeError(msg)
        path = f"{self._path}/{name}" if self._path else name
        proxy = Proxy(self._channel, path, self._options)
        # As an attribute of this instance it is found without coming here again.
        self.__dict__[name] = proxy
        return proxy

    def __call__(self, /, *args: Any, **kwargs: Any) -> asyncio.Future[Any]:
        """Call the remote function and return the future of its result.

        Raises:
            ConnectionLost: the connection is closed (raised here), or it ends before the reply
                arrives (raised by the future); a :class:`ConnectionResetError`.
            SerializationError: an argument cannot be encoded (raised here, nothing was sent).
            RemoteException: the call failed on the other side (raised by the future).
            AttributeError: this proxy stands for the other side as a whole, not for a function.
        """
        channel, path, options = self._target
        if not path:
            msg = f"{self!r} is no function; call one of its attributes"
            raise AttributeError(msg)
        return channel.send((path, args, kwargs), options)

    def __repr__(self) -> str:
        return f"Proxy({self._channel.peer!r}, {self._path!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Proxy):
            return NotImplemented
        return (
            self._channel == other._channel
            and self._path == other._path
            and self._options == other._options
        )

    def __hash__(self) -> int:
        return hash((self._channel, self._path))

    def _with(self, options: CallOptions | None) -> Proxy:
        """Return the same proxy with other options."""
        return Proxy(self._channel, self._path, options)


_NO_OPTIONS = CallOptions()


def with_options(
    proxy: T,
    *,
    timeout: float | None = None,
    one_way: bool | None = None,
    retries: int | None = None,
) -> T:
    """Return a proxy for the same object or function whose calls have options.

    ::

        await aiomas.with_options(market, timeout=2.0).bid(7)
        bid = aiomas.with_options(market.bid, timeout=2.0)

    What is not given stays as it is in *proxy*.

    Args:
        proxy: a proxy for an object or a function.
        timeout: seconds that a call has.  Then it fails with
            :class:`~aiomas.exceptions.DeadlineExceeded`.  The limit travels with the call: it is
            not started if it arrives too late, its function is cancelled when the time is up, and
            calls that the function makes have what is left of it.
        one_way: send the call and do not wait for a reply: what the call returns is done when it
            has been written, and its result or error is dropped.
        retries: how often a call is repeated if its connection is lost, or if the other side is
            overloaded or shutting down, and its function was declared with
            ``@expose(idempotent=True)``; with growing, random pauses, within *timeout*.  Needs the
            proxy of a container.

    Raises:
        TypeError: *proxy* is no proxy, *timeout* no number, or *retries* no whole number.
        ValueError: *timeout* is not positive, or *retries* is negative.
    """
    if not isinstance(proxy, Proxy):
        msg = f"with_options() takes a proxy, got {proxy!r}"
        raise TypeError(msg)
    check_seconds("timeout", timeout)
    if retries is not None and not isinstance(retries, int):
        msg = f"retries is a whole number of repetitions, got {retries!r}"
        raise TypeError(msg)
    if retries is not None and retries < 0:
        msg = f"retries is a number of repetitions, got {retries!r}"
        raise ValueError(msg)
    given = {"timeout": timeout, "one_way": one_way, "retries": retries}
    changes: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    options = dataclasses.replace(proxy._options or _NO_OPTIONS, **changes)  # noqa: SLF001
    return proxy._with(None if options == _NO_OPTIONS else options)  # type: ignore[return-value]  # noqa: SLF001


class Objects(Protocol):
    """How proxies travel over a connection."""

    def represent(self, proxy: Proxy) -> str:
        """Return what stands for *proxy* on this connection.

        Raises:
            SerializationError: nothing does.
        """

    def proxy(self, representation: str) -> Proxy:
        """Return a proxy for what the other side has represented."""


class PathsOnly:
    """Objects of each side can be called by the other side, and proxies do not travel.

    Args:
        sender: proxies for objects of the other side send their calls with it.
    """

    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    def represent(self, proxy: Proxy) -> str:
        """Return what stands for *proxy* on this connection.

        Raises:
            SerializationError: nothing does.
        """
        msg = f"{proxy!r} is a proxy, which cannot be passed on; pass the agent's address"
        raise SerializationError(msg)

    def proxy(self, representation: str) -> Proxy:
        """Return a proxy for what the other side has represented."""
        return Proxy(self._sender, representation)


def add_object_serializer(codec: Any, root: Callable[[], Router | None], objects: Objects) -> None:
    """Let objects with a router travel as its path, and arrive as proxies.

    Args:
        codec: gets the serializer.
        root: returns the router that the other side sees.
        objects: how proxies travel.
    """

    def serialize(obj: Any) -> str:
        if isinstance(obj, Proxy):
            return objects.represent(obj)
        return path_of(obj, root())

    def deserialize(representation: str) -> Proxy:
        if not isinstance(representation, str):
            msg = f"a remote object is represented by its path, got {representation!r}"
            raise TypeError(msg)
        return objects.proxy(representation)

    codec.add_serializer(object, serialize, deserialize)


def path_of(obj: object, root: Router | None) -> str:
    """Return the path that leads from *root* to *obj*.

    Raises:
        SerializationError: none does, so that *obj* cannot travel.
    """
    router = router_of(obj)
    if router is None:
        cls = type(obj)
        msg = (
            f"There is no serializer for {obj!r} of type {cls.__module__}.{cls.__qualname__} "
            f"(pass one in extra_serializers), and it has no router"
        )
        raise SerializationError(msg)
    if root is None or router.root is not root:
        msg = f"{obj!r} is not served on this connection (any more), so the peer could not call it"
        raise SerializationError(msg)
    return router.path


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _one_of(router: RpcService | None, rpc_service: RpcService | None) -> RpcService | None:
    if router is not None and rpc_service is not None:
        msg = "router and rpc_service are two names for one thing; pass one of them"
        raise TypeError(msg)
    return router if router is not None else rpc_service


def _as_router(service: object) -> Router:
    router = router_of(service)
    if router is None:
        msg = f"{service!r} is no RPC service: it is no Router and has none in its class"
        raise ValueError(msg)
    return router
