"""Who lives in a container: the names of its agents, and their ends.

An id is never given away twice, so that nobody talks to a stranger by mistake.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
from collections.abc import Coroutine
from typing import Any

from aiomas._current import Call, Source, serving
from aiomas._handlers import Handlers
from aiomas.routing import GoneError, RoutingDict

logger = logging.getLogger(__name__)

# Unreserved characters of RFC 3986, section 2.3; a path's part that begins with "_" is private.
_AID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,254}")


_DIGITS = 18  # numbers of agents have less


class Population:
    """The agents of a container.

    Args:
        container: for messages.
    """

    def __init__(self, container: object) -> None:
        self.agents = RoutingDict()
        """The agents by their ids."""
        self.agents.router.missing = self._explain
        self._container = container
        self._next = 0
        self._gone: set[str] = set()  # names that were chosen; numbers are known by their order
        self._ends: dict[str, asyncio.Task[None]] = {}
        self._over = False  # whether all agents have to end

    def add(self, agent: object, aid: str | None) -> str:
        """Take in an agent and return its id: *aid*, or the next number.

        Raises:
            TypeError: *aid* is no string.
            ValueError: *aid* cannot be in a URL, or is or was the id of another agent.
        """
        if aid is None:
            while (number := str(self._next)) in self.agents.dict or number in self._gone:
                self._next += 1
            self._next += 1
            self.agents.dict[number] = agent
            return number
        if not isinstance(aid, str):
            msg = f"An agent's id is a string, got {aid!r}"
            raise TypeError(msg)
        if not _AID.fullmatch(aid):
            msg = (
                f"{aid!r} cannot be an agent's id: it begins with a letter or a digit and has at "
                f"most 255 letters, digits and characters of '._~-'"
            )
            raise ValueError(msg)
        if aid in self.agents.dict or self._was_here(aid):
            state = "is" if aid in self.agents.dict else "was"
            msg = f"{aid!r} {state} the id of another agent in {self._container!r}"
            raise ValueError(msg)
        self.agents.dict[aid] = agent
        return aid

    async def remove(
        self, agent: Any, aid: str, handlers: Handlers, source: Source, timeout: float
    ) -> None:
        """End *agent*, and wait until it has ended.

        Args:
            agent: the agent.
            aid: its id.
            handlers: all that runs in the container.
            source: stands for the caller of its clean-up function.
            timeout: seconds that its running calls have, and then its clean-up.

        Raises:
            TimeoutError: the clean-up took longer; or whatever else it raises.
        """
        if self.agents.dict.get(aid) is agent:
            del self.agents[aid]
            if not self._was_numbered(aid):
                self._gone.add(aid)
            if not self._over:  # else it cleans up with all others
                self._begin(aid, self._end(agent, aid, handlers, source, timeout))
        end = self._ends.get(aid)
        if end is None or end is asyncio.current_task():  # it is over, or calls us itself
            return
        await asyncio.wait({end})  # which does not cancel it if we are cancelled
        if end.cancelled():
            msg = f"on_stop() of {agent!r} was cancelled when its container was shut down"
            raise TimeoutError(msg)
        end.result()

    async def end_all(self, source: Source, timeout: float) -> None:
        """Let all agents clean up that want to; their errors are logged.

        Args:
            source: stands for the caller of their clean-up functions.
            timeout: seconds that they have.
        """
        self._over = True
        # Whoever has stopped one of the former gets its error.
        tasks: dict[asyncio.Task[None], Any] = dict.fromkeys(self._ends.values())
        for aid, agent in list(self.agents.dict.items()):
            if getattr(agent, "_cleans_up", False):
                tasks[self._begin(aid, _clean_up(agent, aid, source, timeout))] = agent
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=timeout)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=timeout)
        for task, agent in tasks.items():
            if agent is None:
                continue
            if not task.done() or task.cancelled():
                logger.warning("on_stop() of %r took more than timeout=%s s", agent, timeout)
            elif task.exception() is not None:
                logger.error("on_stop() of %r failed", agent, exc_info=task.exception())

    def _begin(self, aid: str, end: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(end)
        self._ends[aid] = task
        task.add_done_callback(lambda _: self._ends.pop(aid))
        return task

    async def _end(
        self, agent: Any, aid: str, handlers: Handlers, source: Source, timeout: float
    ) -> None:
        await handlers.drain(timeout, f"agents/{aid}/")
        if getattr(agent, "_cleans_up", False):
            async with asyncio.timeout(timeout):
                await _clean_up(agent, aid, source, timeout)

    def _was_here(self, aid: str) -> bool:
        return aid in self._gone or self._was_numbered(aid)

    def _was_numbered(self, aid: str) -> bool:
        """Whether *aid* is a number that was given away."""
        return (
            len(aid) <= _DIGITS
            and aid.isdecimal()
            and str(int(aid)) == aid
            and int(aid) < self._next
        )

    def _explain(self, aid: str) -> None:
        if self._was_here(aid):
            msg = f"the agent {aid!r} was stopped"
            raise GoneError(msg)


async def _clean_up(agent: Any, aid: str, source: Source, timeout: float) -> None:
    # While the container shuts down, only calls that serve others are made.
    until = asyncio.get_running_loop().time() + timeout
    call = Call(f"agents/{aid}/on_stop", source, until, one_way=True)
    serving.set(call)
    try:
        ending = agent.on_stop()
        if inspect.isawaitable(ending):  # that of an older program may be an ordinary function
            await ending
    finally:
        call.active = False
