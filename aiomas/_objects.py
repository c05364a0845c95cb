"""How agents and their proxies travel from container to container.

An agent travels as its path, and arrives as a proxy that calls back over the same connection.  A
proxy travels as the URL of its agent, so that the receiver can dial it: over any number of hops.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from aiomas._address import Address, parse_url
from aiomas._current import CallOptions
from aiomas.channel import Channel
from aiomas.codecs import Codec
from aiomas.exceptions import AddressError, SerializationError
from aiomas.rpc import Proxy, Sender, path_of

_AGENTS = "agents/"


class AgentProxy(Proxy):
    """A proxy for an agent; connects (again) when it is used."""

    def __init__(
        self,
        channel: Sender,
        path: str,
        class_name: str,
        url: str,
        options: CallOptions | None = None,
    ) -> None:
        super().__init__(channel, path, options)
        self._class_name = class_name
        self._url = url

    def __repr__(self) -> str:
        return f"{self._class_name}Proxy({self._url!r})"

    def _with(self, options: CallOptions | None) -> AgentProxy:
        return AgentProxy(self._channel, self._path, self._class_name, self._url, options)


class Connection(Sender, Protocol):
    """What objects travel over: a channel, or the loopback of a container."""

    @property
    def extended(self) -> bool:
        """Whether the other end knows what a URL in the place of a path means."""

    @property
    def peer_url(self) -> str | None:
        """The base URL of the other end."""


class Dialler(Sender, Protocol):
    """What sends calls to an address."""

    def check_not_closing(self) -> None:
        """Raise :class:`~aiomas.exceptions.ContainerClosedError` if our container is closing."""


class CallsBack:
    """Sends calls over the connection on which a proxy has come; when that is gone, by dialling.

    Args:
        channel: that connection.
        peer: dials the agent's URL.
    """

    def __init__(self, channel: Channel, peer: Dialler) -> None:
        self._channel = channel
        self._peer = peer

    def __eq__(self, other: object) -> bool:
        # Not by URL: that is only what the other end says about itself.
        return isinstance(other, CallsBack) and self._channel is other._channel

    def __hash__(self) -> int:
        return hash(self._channel)

    @property
    def peer(self) -> Any:
        """The address of the other end."""
        return self._channel.peer

    def send(self, content: Any, options: CallOptions | None = None) -> asyncio.Future[Any]:
        """Send a request and return the future of its reply."""
        self._peer.check_not_closing()
        if self._channel.is_open and not (options is not None and options.retries):
            return self._channel.send(content, options)
        return self._peer.send(content, options)


class AgentObjects:
    """How agents and proxies travel over one connection of a container.

    Args:
        container: makes proxies for URLs.
        connection: the connection.
        dial: returns what sends calls to an address.
    """

    def __init__(
        self, container: Any, connection: Connection, dial: Callable[[Address], Dialler]
    ) -> None:
        self._container = container
        self._connection = connection
        self._dial = dial

    def represent(self, proxy: Proxy) -> str:
        """Return what stands for *proxy* on this connection.

        Raises:
            SerializationError: nothing does.
        """
        if not isinstance(proxy, AgentProxy):
            msg = f"{proxy!r} stands for no agent, so it cannot be passed on"
            raise SerializationError(msg)
        if not self._connection.extended:
            msg = (
                f"{proxy!r} cannot be passed on to {self._connection.peer}, which knows nothing of "
                f"proxies for agents elsewhere; pass the agent's address"
            )
            raise SerializationError(msg)
        return proxy._url  # noqa: SLF001 - proxies have no public attributes of their own

    def proxy(self, representation: str) -> Proxy:
        """Return a proxy for what the other side has represented.

        Raises:
            AddressError: it is a malformed URL.
        """
        connection = self._connection
        if "://" in representation and connection.extended:
            proxy: Proxy = self._container.proxy(representation)
            return proxy
        aid = representation.removeprefix(_AGENTS)
        known = representation.startswith(_AGENTS) and "/" not in aid
        if not known or connection.peer_url is None:
            return Proxy(connection, representation)
        url = connection.peer_url + aid
        if not isinstance(connection, Channel):
            return AgentProxy(connection, representation, "Agent", url)
        try:
            address, _ = parse_url(url)
        except AddressError:  # the peer says nonsense about itself
            return Proxy(connection, representation)
        return AgentProxy(CallsBack(connection, self._dial(address)), representation, "Agent", url)


def add_url_serializer(codec: Codec, container: Any) -> None:
    """Let agents and proxies travel as URLs, and arrive as proxies, where there is no connection.

    Args:
        codec: gets the serializer.
        container: has the agents, and makes proxies for URLs.
    """

    def serialize(obj: Any) -> str:
        if isinstance(obj, AgentProxy):
            return obj._url  # noqa: SLF001 - proxies have no public attributes of their own
        if isinstance(obj, Proxy):
            msg = f"{obj!r} stands for no agent, so it cannot be passed on"
            raise SerializationError(msg)
        path = path_of(obj, container.router)
        aid = path.removeprefix(_AGENTS)
        if container.agents.get(aid) is not obj:
            msg = f"{obj!r} is no agent (any more), so it has no URL and cannot be passed on"
            raise SerializationError(msg)
        return f"{container.base_url}{aid}"

    def deserialize(url: str) -> Proxy:
        proxy: Proxy = container.proxy(url)
        return proxy

    codec.add_serializer(object, serialize, deserialize)
