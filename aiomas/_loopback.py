"""Calls between agents of one container: no socket, but the same meaning.

Arguments and results pass through the codec, so that nothing is shared by accident; a function
never runs in its caller's stack; and errors look as if they came from another container.
"""

from __future__ import annotations

import asyncio
import traceback
from typing import Any

from aiomas._futures import (
    copy_error,
    fail_all,
    is_call_of_handler,
    is_serving,
    mark_call_of_handler,
)
from aiomas.codecs import Codec
from aiomas.exceptions import DecodeError, RemoteException, SerializationError
from aiomas.rpc import Dispatcher


class Loopback:
    """Sends calls to the container in which they are made.

    Args:
        codec: an instance of the container's codec, for this purpose only.
        dispatcher: starts the functions that are called.
        peer: the container's base URL, which errors name as their origin.
        loop: the event loop.
    """

    def __init__(
        self, codec: Codec, dispatcher: Dispatcher, peer: str, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.codec = codec
        self.peer = peer
        self.dispatcher = dispatcher
        self._loop = loop
        self._pending: set[asyncio.Future[Any]] = set()
        self._open = True
        self._closing: Exception | None = None  # what calls fail with that serve no request

    def send(self, content: Any) -> asyncio.Future[Any]:
        """Send a request and return the future of its reply; see :meth:`.Channel.send`."""
        if self._closing is not None and not (is_serving() and self._open):
            raise copy_error(self._closing)
        data = self.codec.encode(content)
        future: asyncio.Future[Any] = self._loop.create_future()
        self._pending.add(future)
        if is_serving():
            mark_call_of_handler(future)
        self._loop.call_soon(self._deliver, data, future)
        return future

    def fail_own_calls(self, error: Exception) -> None:
        """Fail all calls, but those that are part of serving a request, from now on."""
        self._closing = error
        fail_all([call for call in self._pending if not is_call_of_handler(call)], error)

    def close(self, error: Exception) -> None:
        """Fail all calls without a reply, and all that are made from now on, with *error*."""
        self._closing = error
        self._open = False
        fail_all(self._pending, error)
        self._pending.clear()

    def settle(self, future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
        """Give a call its result or its error."""
        self._pending.discard(future)
        if future.done():
            return  # the caller has given up
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    def decode(self, data: bytes) -> tuple[Any, DecodeError | None]:
        """Return the value that *data* stands for, or why it stands for none."""
        try:
            return self.codec.decode_message(data)
        except DecodeError as exc:
            return None, exc

    def _deliver(self, data: bytes, future: asyncio.Future[Any]) -> None:
        content, error = self.decode(data)
        request = _Request(content, future, self)
        if error is not None:
            request.fail(f"{type(error).__name__}: {error}")
        else:
            self.dispatcher(request)


class _Request:
    __slots__ = ("_future", "_loopback", "content")

    def __init__(self, content: Any, future: asyncio.Future[Any], loopback: Loopback) -> None:
        self.content = content
        self._future = future
        self._loopback = loopback

    def reply(self, result: Any) -> None:
        codec = self._loopback.codec
        try:
            data = codec.encode(result)
        except SerializationError as exc:
            self.fail(f"{type(exc).__name__}: {exc}")
            return
        value, error = self._loopback.decode(data)
        self._loopback.settle(self._future, value, error)

    def fail(self, failure: BaseException | str) -> None:
        if isinstance(failure, BaseException):
            failure = "".join(traceback.format_exception(failure))
        error = RemoteException(self._loopback.peer, failure)
        self._loopback.settle(self._future, None, error)
