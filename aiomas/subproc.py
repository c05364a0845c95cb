"""A container in a process of its own, whose manager starts agents on request.

Run :func:`start` in the new process (``aiomas.run(aiomas.subproc.start(addr))``), connect to
``<addr>/0``, which is the :class:`Manager`, and let it :meth:`~Manager.spawn` agents.  Whoever
can connect to the container can do so too, hence the rules about what may be started; for many
processes, :class:`aiomas.cluster.Cluster` does all this and does not spawn over the network.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from aiomas import util
from aiomas._endpoint import SocketAddress
from aiomas.agent import Agent, Container
from aiomas.clocks import ExternalClock
from aiomas.routing import expose

__all__ = ["Manager", "agent_factory", "start"]

F = TypeVar("F", bound=Callable[..., Any])

_MARK = "__aiomas_agent_factory__"


def agent_factory(func: F) -> F:
    """Mark *func* as a function that makes an agent, so that :meth:`Manager.spawn` may call it.

    It gets the container as its first argument and returns an agent; it may be a coroutine
    function.
    """
    setattr(func, _MARK, True)
    return func


async def start(
    addr: SocketAddress, *, allow: Iterable[str] | None = None, **container_kwargs: Any
) -> None:
    """Run a container with a :class:`Manager` until :meth:`Manager.stop` is called.

    Args:
        addr: the address of the container; the manager is its agent ``0``.
        allow: the modules from which agents may be spawned; ``None`` for all.
        container_kwargs: go to :meth:`.Container.create`.
    """
    async with Container.open(addr, **container_kwargs) as container:
        manager = Manager(container, allow=allow)
        await manager.wait_stopped()


class Manager(Agent):
    """The agent that starts other agents in its container.

    Args:
        container: where it lives, and where it starts agents.
        allow: the modules from which agents may be spawned; ``None`` for all.
    """

    def __init__(self, container: Container, *, allow: Iterable[str] | None = None) -> None:
        super().__init__(container)
        self._allow = None if allow is None else frozenset(allow)
        self._stopped = asyncio.Event()

    async def wait_stopped(self) -> None:
        """Wait until :meth:`stop` is called."""
        await self._stopped.wait()

    @expose
    async def spawn(self, qualname: str, *args: Any, **kwargs: Any) -> tuple[Agent, str]:
        """Start an agent with the container and these arguments.

        Args:
            qualname: ``"module:Class"`` for a subclass of :class:`~aiomas.Agent`,
                ``"module:Class.create"`` for a method of one that makes agents, or
                ``"module:function"`` for a function marked with :func:`agent_factory`.
            args: go to it, after the container.
            kwargs: go to it.

        Returns:
            A proxy for the agent and its address.

        Raises:
            ValueError: *qualname* has another form.
            PermissionError: it is none of these, or its module is not allowed; it was not called.
            ImportError: the module cannot be imported.
            AttributeError: the module has no such attribute.
            TypeError: it returned something that is no agent.
        """
        factory = self._find_factory(qualname)
        agent = factory(self.container, *args, **kwargs)
        if inspect.isawaitable(agent):
            agent = await agent
        if not isinstance(agent, Agent):
            msg = f"{qualname} returned {agent!r}, which is no agent"
            raise TypeError(msg)
        return agent, agent.addr

    @expose
    def set_time(self, time: float) -> None:
        """Set the container's :class:`~aiomas.ExternalClock` to *time* seconds.

        Raises:
            TypeError: the container has another clock.
            ValueError: *time* is not later than the current time.
        """
        clock = self.container.clock
        if not isinstance(clock, ExternalClock):
            msg = f"{clock!r} cannot be set; create the container with an ExternalClock"
            raise TypeError(msg)
        clock.set_time(time)

    @expose
    def stop(self) -> None:  # type: ignore[override]  # the name that aiomas 2.0 gave it
        """Let :func:`start` shut the container down and return."""
        self._stopped.set()

    def _find_factory(self, qualname: str) -> Callable[..., Any]:
        self._check_module(qualname, qualname.partition(":")[0])
        factory: Callable[..., Any] = util.obj_from_str(qualname)
        owner = _agent_class_of(qualname)
        if owner is None and getattr(factory, _MARK, False) is not True:
            msg = (
                f"{qualname!r} is refused: it is no Agent class, no method of one, and not marked "
                f"with @aiomas.agent_factory"
            )
            raise PermissionError(msg)
        # A module has names for what it has imported, too; that is not meant by allowing it.
        origin: Any = owner or getattr(factory, "func", factory)  # or what a partial calls
        self._check_module(qualname, getattr(origin, "__module__", None))
        if self._allow is not None and owner is not None and issubclass(owner, Manager):
            msg = f"{qualname!r} is refused: another manager would not be bound to our modules"
            raise PermissionError(msg)
        return factory

    def _check_module(self, qualname: str, module: str | None) -> None:
        if self._allow is not None and module not in self._allow:
            msg = (
                f"{qualname!r} is refused: it is in the module {module!r}, and only "
                f"{sorted(self._allow)} are allowed"
            )
            raise PermissionError(msg)


def _agent_class_of(qualname: str) -> type[Agent] | None:
    """Return the agent class that *qualname* stands for, or whose class or static method it is."""
    obj = util.obj_from_str(qualname)
    if isinstance(obj, type):
        return obj if issubclass(obj, Agent) else None
    owner_name, dot, name = qualname.rpartition(".")
    if not dot or ":" not in owner_name or name.startswith("_"):
        return None
    owner = util.obj_from_str(owner_name)
    if not (isinstance(owner, type) and issubclass(owner, Agent)):
        return None
    method = inspect.getattr_static(owner, name)
    return owner if isinstance(method, classmethod | staticmethod) else None
