"""RPC on plain sockets of pyzmq: a ROUTER calls functions by path for a DEALER, loops that block.

Messages are those of the other programs, msgpack ``[type, id, content]``.  This is the least that
RPC needs: there are no futures, and no errors are told.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import measuring
import msgpack
import zmq

HANDLERS: dict[str, Callable[..., Any]] = {"agents/0/echo": lambda value: value}
"""What is called, by path."""


def answer(socket: Any) -> None:
    """Answer each request, until the context is terminated."""
    pack = msgpack.Packer().pack
    try:
        while True:
            sender, message = socket.recv_multipart()
            _, number, (path, args, kwargs) = msgpack.unpackb(message, use_list=False)
            result = HANDLERS[path](*args, **kwargs)
            socket.send_multipart((sender, pack((1, number, result))))
    except zmq.ContextTerminated:
        socket.close()


def serve() -> None:
    """Serve until standard input ends."""
    context = zmq.Context()
    socket = context.socket(zmq.ROUTER)
    # As in the other programs, nothing is lost: who sends too much has to wait.
    socket.set(zmq.ROUTER_MANDATORY, 1)
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    thread = threading.Thread(target=answer, args=(socket,))
    thread.start()
    measuring.say(f"tcp://127.0.0.1:{port}")
    measuring.wait_for_end()
    context.term()
    thread.join()


class Caller:
    """Sends requests and tells their replies apart by their numbers."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._next_id = 0
        self._pack = msgpack.Packer().pack

    def call_many(self, value: Any, count: int) -> Any:
        """Call *count* times at once, wait for all and return the last call's reply."""
        first = self._next_id
        self._next_id += count
        for number in range(first, self._next_id):
            self._socket.send(self._pack((0, number, ("agents/0/echo", (value,), {}))))
        replies: dict[int, Any] = {}
        while len(replies) < count:
            _, number, content = msgpack.unpackb(self._socket.recv(), use_list=False)
            replies[number] = content
        return [replies[number] for number in range(first, self._next_id)][-1]

    def in_flight(self, count: int) -> Callable[[float], float]:
        """Return what measures so many calls at once."""
        return lambda seconds: measuring.rate(
            lambda: self.call_many(measuring.PAYLOAD, count), count, seconds
        )


def call(address: str) -> None:
    """Call until standard input ends."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        # A server that is gone leaves nobody waiting for it.
        socket.set(zmq.RCVTIMEO, 15_000)
        socket.set(zmq.LINGER, 0)
        socket.connect(address)
        caller = Caller(socket)
        measures = measuring.measures_of(lambda value: caller.call_many(value, 1))
        measures["in_flight_64"] = caller.in_flight(64)
        measures["in_flight_1000"] = caller.in_flight(1000)
        measuring.obey(measures)


if __name__ == "__main__":
    OPTIONS = measuring.options()
    if OPTIONS["role"] == "serve":
        serve()
    else:
        call(OPTIONS["address"])
