"""The connections of a container: those that it accepts, those that it dials, and its inside.

What an agent is is not known here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any

from aiomas import channel as channels
from aiomas import rpc, util
from aiomas._address import Address, TcpAddress
from aiomas._authorize import Authorize, Guard
from aiomas._certificates import Certificates
from aiomas._dispatch import Dispatcher
from aiomas._endpoint import Server, socket_address
from aiomas._handlers import Handlers
from aiomas._hello import Hello, answering_proof, proof
from aiomas._limits import Limits
from aiomas._loopback import Loopback
from aiomas._objects import AgentObjects, add_url_serializer
from aiomas._peers import Pool
from aiomas._population import Population
from aiomas._serializers import DeferredSerializer
from aiomas._terms import Terms
from aiomas.channel import DEFAULT_CODEC, Channel
from aiomas.codecs import Codec, make_codec
from aiomas.exceptions import ContainerClosedError, HandshakeError
from aiomas.rpc import RpcClient

_REFUSAL = "ContainerClosedError: the container is being shut down"


class Connections:
    """What a container is to other containers; the base of its class.

    Args:
        base_url: what the agents' URLs begin with.
        loop: the event loop.
        connect_kwargs: as for the container.
        population: its agents.
    """

    router: Any
    """What other containers may call."""

    def __init__(
        self,
        base_url: str,
        loop: asyncio.AbstractEventLoop,
        connect_kwargs: dict[str, Any],
        population: Population,
    ) -> None:
        self._base_url = base_url
        self._loop = loop
        self._connect_kwargs = connect_kwargs
        self._certificates: Certificates | None = None
        self._authorize: Authorize | None = None
        self._population = population
        token: str | None = self._connect_kwargs.get("token")
        self._terms = Terms(
            limits=self._connect_kwargs.get("limits") or Limits(),
            tracebacks=self._connect_kwargs.get("tracebacks", True),
            call_timeout=self._connect_kwargs.get("call_timeout"),
            hello=Hello(
                url=base_url, token=None if token is None else answering_proof(token, base_url)
            ),
            expects=None if token is None else proof(token, base_url),
            token=token,
        )
        """For connections that the container accepts."""
        self._server: Server | None = None
        self._accepted: set[RpcClient] = set()
        self._handlers = Handlers()
        self._pool = Pool(self._dial, loop, self._terms.call_timeout, self._terms.generations.loss)
        self._local = self._make_loopback()
        self._shutdown: asyncio.Task[None] | None = None

    def _accept(self, channel: Channel) -> None:
        if self._pool.closed:  # it was on its way when the server was closed
            channel.close()
            return
        client = self._serve(channel)
        self._accepted.add(client)
        channel.on_closed(lambda: self._accepted.discard(client))

    def _serve(self, channel: Channel) -> RpcClient:
        objects = AgentObjects(self, channel, self._pool.peer)
        client = RpcClient(channel, self, handlers=self._handlers, objects=objects)
        if self._authorize is not None and channel.is_tls and client.dispatcher is not None:
            client.dispatcher.guard = Guard(self._authorize, channel)
        if self._shutdown is not None and client.dispatcher is not None:
            client.dispatcher.refuse(_REFUSAL)
        return client

    async def _dial(self, address: Address) -> RpcClient:
        generations = self._terms.generations
        while True:
            used = generations.use
            try:
                return await self._dial_once(address)
            except HandshakeError:
                # While our hello was on its way, all of the cluster may have moved on, and we too.
                if generations.use == used:
                    raise

    async def _dial_once(self, address: Address) -> RpcClient:
        clients: dict[Channel, RpcClient] = {}

        def connected(channel: Channel) -> None:
            clients[channel] = self._serve(channel)

        kwargs = self._connect_kwargs
        certificates = self._certificates
        kwds: dict[str, Any] = {}
        if isinstance(address, TcpAddress):
            kwds["ssl"] = kwargs.get("ssl") if certificates is None else certificates.client
        channel = await channels.dial(
            socket_address(address),
            self._terms.of_dialling(address.url),
            loop=self._loop,
            codec=kwargs.get("codec"),
            extra_serializers=with_arrow(kwargs),
            extensions=True,
            connected=connected,
            **kwds,
        )
        return clients[channel]

    def _cut_lost(self, urls: Collection[str]) -> None:
        """Cut all connections with the containers at these base URLs, which are lost."""
        for client in [*self._accepted, *self._pool.clients]:
            url = client.channel.peer_url
            if url is not None and url in urls and (error := self._terms.generations.loss(url)):
                client.channel.cut(error)
        self._pool.give_up(urls)

    def _portable_codec(self) -> Codec:
        """Return a codec for values that travel between containers outside of a connection.

        Agents and proxies travel as URLs, and arrive as what :meth:`proxy` returns.
        """
        codec = self._make_codec()
        codec.max_nesting = self._terms.limits.max_nesting
        add_url_serializer(codec, self)
        return codec

    def _make_codec(self) -> Codec:
        """Return a codec with all serializers but the one for agents, which is the last one."""
        kwargs = self._connect_kwargs
        return make_codec(kwargs.get("codec") or DEFAULT_CODEC, with_arrow(kwargs))

    def _make_loopback(self) -> Loopback:
        codec = self._make_codec()
        codec.max_nesting = self._terms.limits.max_nesting - 1  # there is no message around it
        dispatcher = Dispatcher(self.router, self._handlers, self._loop)
        loopback = Loopback(codec, dispatcher, self._base_url, self._loop, self._terms)
        objects = AgentObjects(self, loopback, self._pool.peer)
        rpc.add_object_serializer(codec, lambda: self.router, objects)
        return loopback

    async def _do_shutdown(self, timeout: float) -> None:
        error = ContainerClosedError(f"{self!r} was shut down")
        clients = [*self._accepted, *self._pool.clients]
        for client in clients:
            if client.dispatcher is not None:
                client.dispatcher.refuse(_REFUSAL)
            client.channel.fail_own_calls(error)
        self._local.fail_own_calls(error)  # and no new ones, but from handlers
        self._pool.begin_closing(error)

        try:
            await self._handlers.drain(timeout)
            await self._drained(timeout)
            await self._population.end_all(self._local, timeout)
            await self._pool.close()
        except asyncio.CancelledError:
            self._handlers.cancel()
            self._pool.cancel()
            raise
        finally:  # also if somebody cancels us
            self._local.close(error)
            if self._server is not None:
                self._server.close()
            clients = [*self._accepted, *self._pool.clients]
            for client in clients:
                client.channel.fail_all_calls(error)
            closing = [client.close() for client in clients]
        await asyncio.gather(*closing)
        if self._server is not None:
            self._server.abort_clients()  # who has not come as far as to have a channel
            await self._server.wait_closed()

    async def _drained(self, timeout: float) -> None:
        """Do what is to be done when the last request was served, and agents are still there."""


# Its import takes 27 ms, which programs without dates need not spend.
_ARROW = DeferredSerializer(util.arrow_serializer, "arrow.arrow", "Arrow")


def with_arrow(connect_kwargs: dict[str, Any]) -> tuple[Callable[[], Any], ...]:
    """Return the serializers that a container adds to its codec."""
    return _ARROW, *(connect_kwargs.get("extra_serializers") or ())
