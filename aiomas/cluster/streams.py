"""Control streams: aiomas RPC over sockets that are connected already.

Driver and supervisor, and supervisor and workers, talk over these.  What runs code of users is
asked for here and nowhere else; nothing of it can be reached over the network.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Iterator
from typing import Any

from aiomas import rpc
from aiomas._limits import Limits
from aiomas._protocol import ChannelProtocol
from aiomas._terms import Terms
from aiomas.channel import Channel
from aiomas.codecs import MsgPack

MAX_MESSAGE = 64 * 2**20
"""Bytes that a message on a control stream may have."""
MAX_STATE = MAX_MESSAGE - 2**20
"""Bytes that the state of an agent may have, so that it fits into a message."""
PIECE = 8 * 2**20
"""Bytes of states in one message, if there is more than one in it."""

_SOMEBODY = "another process of the cluster"
# A busy process is none that has ended: whoever wants to know more asks for it.
_PATIENT = Limits(max_frame=MAX_MESSAGE, write_timeout=None, heartbeat=None)


def pieces(states: Iterable[tuple[str, bytes]], most: int) -> Iterator[dict[str, bytes]]:
    """Divide the states of agents, with their ids, into messages of some *most* bytes each."""
    piece: dict[str, bytes] = {}
    size = 0
    for aid, state in states:
        if piece and size + len(state) > most:
            yield piece
            piece, size = {}, 0
        piece[aid] = state
        size += len(state)
    if piece:
        yield piece


async def dial(
    sock: socket.socket,
    router: Any,
    *,
    timeout: float,
    heartbeat: float | None = None,
    name: str = _SOMEBODY,
) -> rpc.RpcClient:
    """Be the end of *sock* that speaks first.

    Args:
        sock: a connected socket; belongs to the connection from now on.
        router: what the other end may call.
        timeout: seconds until the other end must have answered.
        heartbeat: seconds; see :class:`~aiomas.Limits`.
        name: what messages call the other end.

    Raises:
        OSError: the other end is not there, or did not answer in time.
    """
    sock.setblocking(False)
    limits = Limits(max_frame=MAX_MESSAGE, write_timeout=None, heartbeat=heartbeat)
    client = await rpc.open_connection(
        None,
        sock=sock,
        router=router,
        codec=MsgPack,
        limits=limits,
        extensions=True,
        timeout=timeout,
    )
    client.channel.peer = name  # sockets of a pair have no addresses
    return client


async def accept(sock: socket.socket, router: Any, *, name: str = _SOMEBODY) -> rpc.RpcClient:
    """Be the end of *sock*, a connected socket, that answers.

    Args:
        sock: belongs to the connection from now on.
        router: what the other end may call.
        name: what messages call the other end.
    """
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    clients: list[rpc.RpcClient] = []

    def connected(channel: Channel) -> None:
        channel.peer = name
        clients.append(rpc.RpcClient(channel, router))

    await loop.create_connection(
        lambda: ChannelProtocol(MsgPack(), connected, loop=loop, terms=Terms(limits=_PATIENT)),
        sock=sock,
    )
    return clients[0]
