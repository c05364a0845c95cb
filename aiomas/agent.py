"""Agents, and the containers in which they live.

An agent is light: a name, a reference to its container, and a router that is made when it is first
needed.  Everything about the network is the business of its :class:`Container`.
"""

from __future__ import annotations

from typing import Any, Self, overload

from aiomas._container import Container
from aiomas._objects import AgentProxy
from aiomas._stats import ContainerStats
from aiomas.routing import Router, Service
from aiomas.tls import SSLCerts

__all__ = ["Agent", "Container", "ContainerStats", "SSLCerts", "url_of"]

Container.__module__ = __name__  # where users find it


class _AgentService(Service):
    """Places the router of an agent into the hierarchy of its container."""

    def make_router(self, instance: object) -> Router:
        assert isinstance(instance, Agent)  # noqa: S101 - for the type checker
        router = Router(instance)
        instance._place(router)  # noqa: SLF001 - the two classes are one thing
        return router


class _Aid:
    """Reads an agent's id; no obstacle to agents that set an attribute of that name."""

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: Agent, owner: type) -> str: ...
    def __get__(self, instance: Agent | None, owner: type) -> Self | str:
        return self if instance is None else instance.addr.rpartition("/")[2]


class Agent:
    """Base class of all agents.

    A subclass that has an ``__init__()`` calls this one, which registers the agent with its
    container.

    Args:
        container: where the agent lives.
        aid: its id, which is the last part of its URL: at most 255 letters, digits and characters
            of ``._~-``, with a letter or a digit first.  By default it gets a number.

    Raises:
        TypeError: *container* is no :class:`Container`, or *aid* is no string.
        ValueError: *aid* cannot be in a URL, or is or was the id of another agent there.
        ContainerClosedError: *container* was shut down.
    """

    _cleans_up = False

    router: Service = _AgentService()
    """The agent's RPC router.

    A subclass with sub-routers sets its own :class:`~aiomas.rpc.Service`.
    """

    aid = _Aid()
    """The agent's id, unique in its container."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        service: Any = cls.router  # its own, or that of another base class
        if type(service) is Service:  # it knows nothing of containers
            cls.router = _AgentService(service.sub_routers)
        cls._cleans_up = cls.on_stop is not Agent.on_stop

    def __init__(self, container: Container, *, aid: str | None = None) -> None:
        if not isinstance(container, Container):
            msg = f"An agent needs the Container it lives in, got {container!r}"
            raise TypeError(msg)
        self.container = container
        """The container in which the agent lives."""
        # With a mangled name, as agents of users may well have an attribute "aid".
        self.__aid = container._register(self, aid)  # noqa: SLF001 - the two classes are one thing

    @property
    def addr(self) -> str:
        """The agent's URL, with which any agent can :meth:`~Container.connect` to it."""
        return self.container.base_url + self.__aid

    async def stop(self, *, timeout: float = 10.0) -> None:
        """End the agent.

        New calls are refused at once, which their callers get as a
        :class:`~aiomas.exceptions.RemoteLookupError`.  Those that run have *timeout* to end and
        are cancelled then.  After that :meth:`on_stop` is called.  The id is never used again.
        Doing it twice does no harm.

        Args:
            timeout: seconds that running calls have, and then :meth:`on_stop`.

        Raises:
            TimeoutError: :meth:`on_stop` took longer; or whatever else it raises.
        """
        await self.container._remove(self, self.__aid, timeout)  # noqa: SLF001 - one thing

    async def on_stop(self) -> None:
        """Clean up: called when the agent was stopped, or its container is being shut down.

        It does nothing; override it.  It can still call other agents.
        """

    def _place(self, router: Router) -> None:
        """Give *router* its place below the container's."""
        router.parent = self.container.agents.router
        router.name = self.__aid

    def __repr__(self) -> str:
        if "container" not in self.__dict__:
            return object.__repr__(self)  # its __init__() has not come to ours yet
        return f"{type(self).__name__}({self.addr!r})"


def url_of(agent: object) -> str:
    """Return the URL of an agent, or of the agent that a proxy of a container stands for.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(agent, AgentProxy):
        return agent._url  # noqa: SLF001 - proxies have no public attributes of their own
    if isinstance(agent, Agent):
        return agent.addr
    msg = f"{agent!r} is neither an agent nor a proxy that a container gave out"
    raise TypeError(msg)
