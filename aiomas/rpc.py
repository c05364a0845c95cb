"""Remote procedure calls on top of channels.

Each side of a connection has an :class:`RpcClient`.  Its :attr:`~RpcClient.remote` is a
:class:`Proxy` for what the other side serves; if it was given a router, it serves that to the
other side as well.  Routers and their relatives come from :mod:`aiomas.routing`.

A call is the request ``[path, args, kwargs]``; an object with a router travels as its path and
arrives as a proxy.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Protocol

from aiomas import channel as channels
from aiomas._endpoint import Server, SocketAddress
from aiomas._futures import Serving, serving
from aiomas._handlers import Handlers
from aiomas.channel import Channel
from aiomas.exceptions import ConnectionLost, SerializationError
from aiomas.routing import HasRouter, Router, RoutingDict, Service, ServiceDict, expose, router_of

__all__ = [
    "Proxy",
    "Router",
    "RoutingDict",
    "RpcClient",
    "Service",
    "ServiceDict",
    "expose",
    "open_connection",
    "rpc_service",
    "rpc_service_process",
    "start_server",
]

RpcService = Router | HasRouter


async def open_connection(
    addr: SocketAddress | None,
    *,
    router: RpcService | None = None,
    rpc_service: RpcService | None = None,
    **kwds: Any,
) -> RpcClient:
    """Connect to the RPC server at *addr* and return the :class:`RpcClient`.

    Args:
        addr: as in :func:`aiomas.channel.open_connection`, like all of *kwds* and what is raised.
        router: what the other side may call: a router, or an object that has one.
        rpc_service: another name of *router*.

    Raises:
        ValueError: *router* is no router and has none.
    """
    service = _one_of(router, rpc_service)
    root = None if service is None else _as_router(service)
    return RpcClient(await channels.open_connection(addr, **kwds), root)


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
    channel.serve(Dispatcher(_as_router(router)))
    await channel.wait_closed()


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
    ) -> None:
        self.channel = channel
        """The :class:`~aiomas.channel.Channel` of this connection."""
        self.remote = Proxy(channel, "")
        """The :class:`Proxy` for what the other side serves."""
        self.service: asyncio.Future[None] | None = None
        """Done when our service for the other side has ended; ``None`` if there is none."""
        self.dispatcher: Dispatcher | None = None
        self._root: Router | None = None
        self._on_reset: Callable[[ConnectionLost], Any] | None = None
        self._lost: ConnectionLost | None = None
        channel.on_lost(self._reset)
        add_object_serializer(channel.codec, lambda: self._root, channel)
        service = _one_of(router, rpc_service)
        if service is not None:
            self._root = _as_router(service)
            self.dispatcher = Dispatcher(self._root, handlers)
            self.service = channel.loop.create_future()
            channel.on_closed(partial(_finish, self.service))
            channel.serve(self.dispatcher)

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

    def send(self, content: Any) -> asyncio.Future[Any]:
        """Send a request and return the future of its reply."""


class Proxy:
    """Stands for a remote object or function.

    An attribute is a proxy for the attribute over there, and calling a proxy calls the remote
    function.  The call is sent at once; it returns an :class:`asyncio.Future`, so it can be
    awaited at any time, or together with others in :func:`asyncio.gather`.

    Args:
        channel: what the calls are sent with.
        path: the remote path.
    """

    def __init__(self, channel: Sender, path: str) -> None:
        self._channel = channel
        self._path = path

    def __getattr__(self, name: str) -> Proxy:
        """Return a proxy for *name*.

        Raises:
            AttributeError: *name* is private; such names cannot be called remotely.
        """
        if name.startswith("_"):
            msg = f"{name!r} is private: it cannot be reached through a proxy"
            raise AttributeError(msg)
        proxy = Proxy(self._channel, f"{self._path}/{name}" if self._path else name)
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
        if not self._path:
            msg = f"{self!r} is no function; call one of its attributes"
            raise AttributeError(msg)
        return self._channel.send((self._path, args, kwargs))

    def __repr__(self) -> str:
        return f"Proxy({self._channel.peer!r}, {self._path!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Proxy):
            return NotImplemented
        return self._channel is other._channel and self._path == other._path

    def __hash__(self) -> int:
        return hash((self._channel, self._path))


class Dispatcher:
    """Starts the functions that a peer calls, in the order in which the calls arrive.

    An ordinary function runs at once, a coroutine function as a task.

    Args:
        root: the router that resolves the paths.
        handlers: who owns the coroutine functions, if not this dispatcher alone.
    """

    def __init__(self, root: Router, handlers: Handlers | None = None) -> None:
        self.handlers = Handlers() if handlers is None else handlers
        """The coroutine functions that are running."""
        self._resolve = root.resolve
        self._refusal: str | None = None
        self._not_started = 0

    def refuse(self, reason: str) -> None:
        """Answer all further calls with the error *reason*."""
        self._refusal = reason

    def __call__(self, request: Any) -> None:
        """Serve a request (of a channel, or anything with ``content``, ``reply`` and ``fail``)."""
        if self._refusal is not None:
            request.fail(self._refusal)
            return
        match request.content:
            case [str(path), list() | tuple() as args, dict() as kwargs]:
                pass
            case _:
                request.fail("TypeError: a call is [path, args, kwargs], a string, list and map")
                return
        try:
            function = self._resolve(path)
        except LookupError as exc:
            request.fail(f"LookupError: {exc}")
            return
        except Exception as exc:  # noqa: BLE001 - a router may be made now, with users' attributes
            _fail(request, exc)
            return
        if self._not_started and not inspect.iscoroutinefunction(function):
            # Tasks made for earlier calls have not begun; the loop's queue keeps the order.
            self._not_started += 1
            asyncio.get_running_loop().call_soon(self._run_late, request, function, args, kwargs)
        else:
            self._run(request, function, args, kwargs)

    def _run_late(
        self, request: Any, function: Callable[..., Any], args: Any, kwargs: dict[str, Any]
    ) -> None:
        self._not_started -= 1
        self._run(request, function, args, kwargs)

    def _run(
        self, request: Any, function: Callable[..., Any], args: Any, kwargs: dict[str, Any]
    ) -> None:
        state = Serving()
        token = serving.set(state)
        try:
            result = function(*args, **kwargs)
        except BaseException as exc:
            state.active = False
            _fail(request, exc)
            if isinstance(exc, _EXITS):
                raise
            return
        finally:
            serving.reset(token)
        if not hasattr(type(result), "__await__"):
            state.active = False
            request.reply(result)
            return
        task = self._start_task(self._serve(request, result, state))
        if not task.done():
            self.handlers.add(task, request.content[0])
            if not _EAGER:
                task.add_done_callback(partial(self._check_started, request, result, state))

    def _check_started(
        self, request: Any, awaitable: Any, state: Serving, _: asyncio.Task[None]
    ) -> None:
        """Do what a task would have done that was cancelled before its first step."""
        if not state.started:
            self._not_started -= 1
            if inspect.iscoroutine(awaitable):
                awaitable.close()
            request.fail("CancelledError: cancelled before it was started")

    async def _serve(self, request: Any, awaitable: Awaitable[Any], state: Serving) -> None:
        if not _EAGER:
            self._not_started -= 1
            state.started = True
        serving.set(state)
        try:
            result = await awaitable
        except BaseException as exc:
            _fail(request, exc)
            if isinstance(exc, asyncio.CancelledError | _EXITS):
                raise
        else:
            request.reply(result)
        finally:
            state.active = False

    def _start_task(self, coro: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        loop = asyncio.get_running_loop()
        if _EAGER:
            # It runs up to its first wait right here, and many never have to wait.
            return asyncio.Task(coro, loop=loop, eager_start=True)  # type: ignore[call-arg,unused-ignore]
        self._not_started += 1
        return loop.create_task(coro)


_EAGER = sys.version_info >= (3, 12)
_EXITS = SystemExit | KeyboardInterrupt  # not errors, but the wish to end this program


def add_object_serializer(codec: Any, root: Callable[[], Router | None], sender: Sender) -> None:
    """Let objects with a router travel as its path, and arrive as proxies.

    Args:
        codec: gets the serializer.
        root: returns the router that the other side sees.
        sender: the proxies send their calls with it.
    """

    def serialize(obj: Any) -> str:
        cls = type(obj)
        if isinstance(obj, Proxy):
            msg = f"{obj!r} is a proxy, which cannot be passed on; pass the agent's address"
            raise SerializationError(msg)
        router = router_of(obj)
        if router is None:
            msg = (
                f"There is no serializer for {obj!r} of type {cls.__module__}.{cls.__qualname__} "
                f"(pass one in extra_serializers), and it has no router"
            )
            raise SerializationError(msg)
        own = root()
        if own is None or router.root is not own:
            msg = f"{obj!r} is not served on this connection, so the peer could not call it"
            raise SerializationError(msg)
        return router.path

    def deserialize(path: str) -> Proxy:
        if not isinstance(path, str):
            msg = f"a remote object is represented by its path, got {path!r}"
            raise TypeError(msg)
        return Proxy(sender, path)

    codec.add_serializer(object, serialize, deserialize)


def _fail(request: Any, exc: BaseException) -> None:
    # Our own frame at the top is of no interest to the caller.
    if exc.__traceback__ is not None:
        exc = exc.with_traceback(exc.__traceback__.tb_next)
    request.fail(exc)


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
