"""Binding and dialling addresses: the sockets below a channel.

An address is ``(host, port)`` for TCP, a path for a Unix domain socket, or a
:class:`~aiomas.local_queue.LocalQueue`.  What is said over a connection is not known here.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import inspect
import logging
import os
import socket
import ssl
import stat
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Self, TypeVar, cast

from aiomas import local_queue
from aiomas._address import Address, IpcAddress, LocalAddress, TcpAddress
from aiomas._handshake import ListeningContext, dialling
from aiomas.exceptions import AddressError, ConnectTimeout, ContainerClosedError, HandshakeError
from aiomas.local_queue import LocalQueue

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger(__name__)

SocketAddress = tuple[str | None, int] | str | os.PathLike[str] | LocalQueue
Factory = Callable[[], asyncio.BaseProtocol]
T = TypeVar("T")

ATTEMPT_TIMEOUT = 10.0
"""Bound of a single attempt to connect, in seconds, where the caller set none."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 1.0  # between two attempts, in seconds
_TELLING = 0.5  # seconds after which it tells something that an attempt has got no answer
_LOCK_TIMEOUT = 5.0  # seconds

# What binding raises for an address that this machine has not got; the last since Python 3.13.
_NOT_OURS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, None)

_ANY_HOST = (None, "", "0.0.0.0", "::")  # noqa: S104 - that is what they mean

# What the field `sun_path` holds, less its final zero.
MAX_UNIX_PATH = 103 if sys.platform == "darwin" else 107


_held: set[Server] = set()
"""Servers of event loops that do not hold them (uvloop does not), until they are closed.

A container that is called only over the network may have nobody else to hold it.
"""


class Server:
    """A listening server, as :func:`aiomas.channel.start_server` returns it.

    May listen on several sockets (one for each address that a host name has).  It can be used as
    an asynchronous context manager.
    """

    def __init__(
        self, listeners: Sequence[asyncio.AbstractServer], unlink: Callable[[], None] | None = None
    ) -> None:
        self._listeners = listeners
        self._unlink = unlink
        self._forever: asyncio.Future[None] | None = None
        if not isinstance(self.get_loop(), asyncio.BaseEventLoop):
            _held.difference_update([server for server in _held if server.get_loop().is_closed()])
            _held.add(self)

    def __repr__(self) -> str:
        return f"<Server sockets={self.sockets!r}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.close()
        await self.wait_closed()

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The listening sockets; empty after :meth:`close` and for local queues."""
        return tuple(sock for server in self._listeners for sock in getattr(server, "sockets", ()))

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the event loop in which the server runs."""
        return self._listeners[0].get_loop()

    def is_serving(self) -> bool:
        """Whether new connections are accepted."""
        return any(server.is_serving() for server in self._listeners)

    async def start_serving(self) -> None:
        """Begin to accept connections, if the server was started with ``start_serving=False``."""
        for server in self._listeners:
            await server.start_serving()

    def close(self) -> None:
        """Stop listening and remove the Unix socket's file; existing connections go on."""
        if self._unlink is not None:
            self._unlink()
            self._unlink = None
        for server in self._listeners:
            server.close()
        _held.discard(self)
        if self._forever is not None:
            self._forever.cancel()

    async def serve_forever(self) -> None:
        """Accept connections until this is cancelled (also by :meth:`close`); close the server."""
        self._forever = self.get_loop().create_future()
        try:
            await self.start_serving()
            await self._forever
        finally:
            self.close()

    def abort_clients(self) -> None:
        """Cut all connections of clients, where the event loop can (asyncio since Python 3.13).

        Elsewhere those that have not finished their TLS handshake end after their time limit.
        """
        for server in self._listeners:
            abort = getattr(server, "abort_clients", None)
            if abort is not None:
                abort()

    async def wait_closed(self) -> None:
        """Wait until the listening sockets are closed, no matter who is still connected."""
        # asyncio's own wait_closed() waits for all clients to leave since Python 3.12.
        await asyncio.sleep(0)


async def listen(
    factory: Factory, addr: SocketAddress | None, loop: asyncio.AbstractEventLoop, **kwds: Any
) -> Server:
    """Bind a server to *addr*; *kwds* go to the event loop's method.

    Raises:
        OSError: the address is in use, or cannot be bound.
        AddressError: *addr* is no address, or the path of a Unix socket is too long.
    """
    context = kwds.get("ssl")
    if isinstance(context, ssl.SSLContext) and not isinstance(context, ListeningContext):
        kwds["ssl"] = ListeningContext(context)
    if isinstance(addr, LocalQueue):
        return Server([await local_queue.create_server(factory, addr, loop=loop, **kwds)])
    if addr is None and "sock" in kwds:
        return Server([await _serve_socket(factory, kwds.pop("sock"), loop, **kwds)])
    if isinstance(addr, str | os.PathLike):
        return await _listen_unix(factory, os.fspath(addr), loop, **kwds)
    host, port = _host_and_port(addr)
    return await _listen_tcp(factory, host, port, loop, **kwds)


async def dial(
    factory: Factory,
    addr: SocketAddress | None,
    loop: asyncio.AbstractEventLoop,
    *,
    timeout: float | None = 0,
    prepare: Callable[[asyncio.BaseProtocol], Awaitable[None]] | None = None,
    **kwds: Any,
) -> asyncio.BaseProtocol:
    """Connect to *addr* and return the protocol; *kwds* go to the event loop's method.

    Args:
        prepare: awaited with the protocol, as a part of the attempt.
        timeout: 0 for one attempt (which may take up to ``ATTEMPT_TIMEOUT``); a number of seconds
            in which attempts are repeated; ``None`` to repeat them for ever.

    Raises:
        OSError: what the last attempt failed with.
        ConnectTimeout: the last attempt did not end in time.
        AddressError: *addr* is no address.
    """

    async def connect() -> asyncio.BaseProtocol:
        if isinstance(addr, LocalQueue):
            return (await local_queue.create_connection(factory, addr, loop=loop, **kwds))[1]
        if isinstance(addr, str | os.PathLike):
            path = os.fspath(addr)
            check_unix_path(path)
            sock = await _connect_unix(path)
            try:
                return (await loop.create_unix_connection(factory, sock=sock, **kwds))[1]
            except BaseException:
                sock.close()
                raise
        if addr is None and "sock" in kwds:
            return (await loop.create_connection(factory, **kwds))[1]
        host, port = _host_and_port(addr)
        # None is the loopback interface here; the event loop's annotation has forgotten it.
        return (await loop.create_connection(factory, cast("str", host), port, **kwds))[1]

    explain = _explaining(addr, kwds)

    async def attempt() -> asyncio.BaseProtocol:
        try:
            with explain():
                protocol = await connect()
        except (FileNotFoundError, ConnectionRefusedError, socket.gaierror) as exc:
            if exc.filename is None:  # these often do not say what was not found or refused
                exc.filename = describe(addr)
            raise
        if prepare is not None:
            await prepare(protocol)
        return protocol

    repeat = addr is not None  # what is given a connected socket has used it up
    return await retry(attempt, timeout, f"connecting to {describe(addr)}", repeat=repeat)


def _explaining(
    addr: SocketAddress | None, kwds: dict[str, Any]
) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """Return what explains errors of TLS, if that is to be spoken."""
    if not kwds.get("ssl"):
        return contextlib.nullcontext
    limit = kwds.get("ssl_handshake_timeout", ATTEMPT_TIMEOUT)
    return functools.partial(dialling, describe(addr), kwds["ssl"], limit)


async def retry(
    attempt: Callable[[], Awaitable[T]], timeout: float | None, what: str, *, repeat: bool = True
) -> T:
    """Await ``attempt()`` until it raises no ``OSError``, with growing pauses, within *timeout*.

    Args:
        attempt: makes one attempt.
        timeout: as in :func:`dial`.
        what: names the attempt in the error message.
        repeat: whether there may be more than one.
    """
    if timeout is not None and not isinstance(timeout, int | float):
        msg = f"timeout is a number of seconds or None, got {timeout!r}"
        raise TypeError(msg)
    clock = asyncio.get_running_loop().time
    started = clock()
    pause = _FIRST_PAUSE
    error: OSError | None = None
    while True:
        left = timeout - (clock() - started) if timeout else ATTEMPT_TIMEOUT
        if error is not None and left <= 0:
            raise error  # the last pause took longer than it should have
        try:
            async with asyncio.timeout(left) as bound:
                return await attempt()
        except TimeoutError as exc:
            if not bound.expired():
                error = exc
            elif error is None or left > _TELLING:  # else what came before says more
                error = ConnectTimeout(f"{what} took more than {timeout or ATTEMPT_TIMEOUT} s")
                error.__cause__ = exc
        except (ssl.SSLCertVerificationError, ContainerClosedError, HandshakeError):
            raise  # it will not get better by trying again
        except OSError as exc:
            error = exc
        if not repeat or (timeout is not None and clock() - started + pause > timeout):
            raise error
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def socket_address(address: Address) -> SocketAddress:
    """Return what *address* is for :func:`dial`."""
    match address:
        case TcpAddress(host, port):
            return host, port
        case IpcAddress(path):
            return path
        case LocalAddress(queue_id):
            return local_queue.get_queue(queue_id)


async def advertised(
    addr: SocketAddress, server: Server, advertise: str | None, *, tls: bool
) -> Address:
    """Return the address under which others reach the *server* that was bound to *addr*.

    Args:
        addr: what the server was bound to.
        server: knows the port that it was given.
        advertise: the host name to use instead of the one in *addr*.
        tls: whether connections are encrypted; else a warning is logged (once) about listening
            on all interfaces.
    """
    if isinstance(addr, LocalQueue):
        return LocalAddress(addr.queue_id)
    if isinstance(addr, str | os.PathLike):
        return IpcAddress(os.fspath(addr))
    host, _ = addr
    port = server.sockets[0].getsockname()[1]
    if host in _ANY_HOST:
        if not tls:
            _warn_of_plain_tcp()
        if advertise is None:
            # It may ask a name server, which takes time.
            advertise = await server.get_loop().run_in_executor(None, socket.getfqdn)
    return TcpAddress(advertise or host or "localhost", port)


@functools.cache  # once is enough
def _warn_of_plain_tcp() -> None:
    logger.warning(
        "A container listens on all network interfaces without TLS: anybody who reaches this "
        "machine can call its agents. Pass ssl=, or bind it to one address."
    )


def describe(addr: SocketAddress | None) -> str:
    """Return *addr* for a message."""
    match addr:
        case (host, port):
            return f"{host}:{port}"
        case None:
            return "a connected socket"
        case _:
            return str(addr)


def check_unix_path(path: str) -> None:
    """Raise an :class:`AddressError` if *path* is too long for a Unix domain socket."""
    if sys.platform == "win32":
        msg = f"{path!r}: Windows has no Unix sockets for asyncio; use a ('host', port) address"
        raise AddressError(msg)
    if "://" in path:
        msg = f"{path!r} is a URL; an address is ('host', port), a path, or a LocalQueue"
        raise AddressError(msg)
    if path.startswith("\0"):
        msg = f"{path!r} is an abstract socket, which anybody on this machine can use; use a path"
        raise AddressError(msg)
    size = len(os.fsencode(path))
    if not 0 < size <= MAX_UNIX_PATH:
        msg = (
            f"The path of a Unix socket has at most {MAX_UNIX_PATH} bytes on this system, this "
            f"one has {size}; use a shorter directory: {path!r}"
        )
        raise AddressError(msg)


def check_bound(sock: socket.socket, addr: SocketAddress) -> None:
    """Make sure that a server for *addr* can use *sock*.

    Raises:
        TypeError: it is no socket.
        ValueError: it is not bound, or to another kind of address.
    """
    if not isinstance(sock, socket.socket):
        msg = f"sock is a socket.socket, got {sock!r}"
        raise TypeError(msg)
    if isinstance(addr, LocalQueue):
        kinds: tuple[str, ...] = ()
    elif isinstance(addr, str | os.PathLike):
        check_unix_path(os.fspath(addr))
        kinds = ("AF_UNIX",)
    else:
        _host_and_port(addr)
        kinds = ("AF_INET", "AF_INET6")
    fits = sock.family.name in kinds and sock.type == socket.SOCK_STREAM
    if not fits or sock.getsockname() in {"", b""} or sock.getsockname()[1:2] == (0,):
        msg = f"sock has to be bound to {describe(addr)}, or something like it, got {sock!r}"
        raise ValueError(msg)


async def _connect_unix(path: str) -> socket.socket:
    """Return a socket that is connected; wait while the server's queue is full.

    asyncio would take the answer "try again" for "it will be connected soon".
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        while True:
            try:
                sock.connect(path)
            except BlockingIOError:
                await asyncio.sleep(_FIRST_PAUSE)
            else:
                return sock
    except BaseException:
        sock.close()
        raise


def _host_and_port(addr: Any) -> tuple[str | None, int]:
    match addr:
        case [str() | None as host, int(port)] if 0 <= port < 1 << 16:
            return host, port
        case [str() | None, int(port)]:
            msg = f"{addr!r}: {port} is no port number (0 to 65535)"
            raise AddressError(msg)
        case _:
            msg = f"{addr!r} is no address: expected ('host', port), 'path' or a LocalQueue"
            raise AddressError(msg)


async def _listen_tcp(
    factory: Factory, host: str | None, port: int, loop: asyncio.AbstractEventLoop, **kwds: Any
) -> Server:
    """Listen on all addresses of *host*, with one port for all of them."""
    infos = await loop.getaddrinfo(
        host or None,
        port,
        family=kwds.pop("family", socket.AF_UNSPEC),
        type=socket.SOCK_STREAM,
        flags=kwds.pop("flags", socket.AI_PASSIVE),
    )
    hosts = list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in infos))
    attempts = 20 if port == 0 and len(hosts) > 1 else 1
    while True:
        attempts -= 1
        try:
            return Server(await _listen_on_each(factory, hosts, port, loop, **kwds))
        except OSError as exc:
            # Another address of this host may have the port that the first one was given.
            if exc.errno != errno.EADDRINUSE or attempts == 0:
                raise


async def _listen_on_each(
    factory: Factory, hosts: Iterable[str], port: int, loop: asyncio.AbstractEventLoop, **kwds: Any
) -> list[asyncio.AbstractServer]:
    servers: list[asyncio.AbstractServer] = []
    error: OSError | None = None
    try:
        for host in hosts:
            try:
                server: asyncio.Server = await loop.create_server(factory, host, port, **kwds)
            except OSError as exc:
                # A host may have names for addresses (of IPv6, say) that it has not got.
                if exc.errno not in _NOT_OURS:
                    raise
                error = exc
            else:
                servers.append(server)
                port = server.sockets[0].getsockname()[1]
    except BaseException:
        for opened in servers:
            opened.close()
        raise
    if not servers:
        msg = f"this machine has none of the addresses {', '.join(hosts)}"
        raise OSError(errno.EADDRNOTAVAIL, msg) from error
    return servers


async def _listen_unix(
    factory: Factory, path: str, loop: asyncio.AbstractEventLoop, **kwds: Any
) -> Server:
    check_unix_path(path)
    sock = await _bind_unix(path, kwds.get("backlog", 100))
    try:
        file = _identity(path)
        server = await _serve_socket(factory, sock, loop, **kwds)
    except BaseException:
        sock.close()
        raise

    def unlink() -> None:
        # Only our own file: somebody may have put another one into its place.
        with contextlib.suppress(OSError):
            if _identity(path) == file:
                os.unlink(path)  # noqa: PTH108 - without pathlib, see _bind_unix()

    return Server([server], unlink)


async def _serve_socket(
    factory: Factory, sock: socket.socket, loop: asyncio.AbstractEventLoop, **kwds: Any
) -> asyncio.AbstractServer:
    if sock.family != getattr(socket, "AF_UNIX", None):
        return await loop.create_server(factory, sock=sock, **kwds)
    if "cleanup_socket" in inspect.signature(loop.create_unix_server).parameters:
        kwds["cleanup_socket"] = False  # whoever bound the socket knows when its file can go
    return await loop.create_unix_server(factory, sock=sock, **kwds)


async def _bind_unix(path: str, backlog: int) -> socket.socket:
    """Bind a socket that only this user can connect to; replace the file of one that is dead."""
    from pathlib import Path  # noqa: PLC0415 - 4 ms that only Unix sockets should spend

    async with _locked(Path(path).parent):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            try:
                sock.bind(path)
            except OSError as exc:
                if exc.errno != errno.EADDRINUSE or not _is_stale(path):
                    raise OSError(exc.errno, f"{exc.strerror}: {path!r}") from None
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)  # noqa: PTH108 - pathlib would not be better in a coroutine
                sock.bind(path)
            # Nobody can connect before listen(), so there is no moment at which others could.
            os.chmod(path, 0o600)  # noqa: PTH101
            sock.listen(backlog)
        except BaseException:
            sock.close()
            raise
    return sock


@contextlib.asynccontextmanager
async def _locked(directory: os.PathLike[str]) -> Any:
    """Hold a lock on *directory*, so that looking for a dead socket and replacing it is one step.

    Locking the directory itself leaves no lock file behind.
    """
    descriptor: int | None = None
    # If we may not read the directory, we may bind there, but not lock it.
    with contextlib.suppress(PermissionError):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if descriptor is not None:
            await _lock(descriptor, directory)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


async def _lock(descriptor: int, directory: os.PathLike[str]) -> None:
    clock = asyncio.get_running_loop().time
    until = clock() + _LOCK_TIMEOUT
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:  # somebody binds a socket beside ours
            if clock() > until:
                msg = f"another process has kept {directory} locked for {_LOCK_TIMEOUT} s"
                raise OSError(errno.EBUSY, msg) from exc
            await asyncio.sleep(_FIRST_PAUSE)
        except OSError:  # this file system has no locks for directories
            return
        else:
            return


def _is_stale(path: str) -> bool:
    """Whether *path* is a socket on which nobody listens any more."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:  # its owner has just removed it
        return True
    if not stat.S_ISSOCK(mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        return sock.connect_ex(path) == errno.ECONNREFUSED


def _identity(path: str) -> tuple[int, int]:
    info = os.lstat(path)
    return info.st_dev, info.st_ino
