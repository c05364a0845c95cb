"""Who lives in a container: the names of its agents, and their ends.

An id is never given away twice, so that nobody talks to a stranger by mistake; not even by a
container that takes the place of one that died, and has a new *life*.  Only what makes an agent
again gives it its former id.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
import inspect
import logging
import re
from collections import deque
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from typing import Any

from aiomas._current import Call, Source, served, serving
from aiomas._handlers import Handlers
from aiomas.exceptions import ConnectionLost
from aiomas.routing import GoneError, NotYetError, RoutingDict

logger = logging.getLogger(__name__)

# Unreserved characters of RFC 3986, section 2.3; a path's part that begins with "_" is private.
_AID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,254}")


_DIGITS = 18  # numbers of agents have no more

# Each life of a container numbers its agents from this times its own number on.  So nobody has to
# remember how far a life has come, which may end at any moment: none makes so many agents.
_NUMBERS_OF_A_LIFE = 10**9


@dataclasses.dataclass(eq=False, slots=True)
class _Assignment:
    """The ids for those agents that are made again in one context."""

    population: Population
    former: set[str]  # those that nobody has got yet
    numbers: deque[str]  # of these, and of those that somebody has asked for, in their order
    made: list[str]
    call: object  # that is being served; what other calls make is no part of it
    active: bool = True  # tasks that outlive the context go on without it

    def counts_for(self, population: Population) -> bool:
        """Whether an agent that is made now in *population* is made by what the ids are for."""
        return self.active and self.population is population and served() is self.call

    def next_number(self) -> str | None:
        """Take the next one for an agent that asks for none.

        Names are for those that ask for them: they were chosen, so they will be again.
        """
        while self.numbers:
            number = self.numbers.popleft()
            if number in self.former and number not in self.population.agents.dict:
                return number
        return None


_assignment: contextvars.ContextVar[_Assignment | None] = contextvars.ContextVar(
    "_assignment", default=None
)


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
        self._first = 0  # number of this life
        self._next = 0
        self._awaited: set[str] = set()  # agents of the former life that will be made again
        self.agents.router.hidden = self._awaited  # until they are what they were
        self._gone: set[str] = set()  # names that were chosen; numbers are known by their order
        self._ends: dict[str, asyncio.Task[None]] = {}
        self._over = False  # whether all agents have to end

    def add(self, agent: object, aid: str | None) -> str:
        """Take in an agent and return its id: *aid*, or the next number.

        Raises:
            TypeError: *aid* is no string.
            ValueError: *aid* cannot be in a URL, or is or was the id of another agent.
        """
        assignment = _assignment.get()
        if assignment is not None and not assignment.counts_for(self):
            assignment = None
        if aid is not None:
            self._check(aid, assignment)
        elif assignment is None or (aid := assignment.next_number()) is None:
            aid = self._next_number()
        self.agents.dict[aid] = agent
        if assignment is None:
            self._awaited.discard(aid)
        else:
            assignment.former.discard(aid)
            assignment.made.append(aid)
        return aid

    def begin_life(self, life: int, gone: Iterable[str] = ()) -> None:
        """Take the place of a container that died.

        Args:
            life: how many there were before.
            gone: ids that agents of former lives have chosen; their numbers are known by *life*.

        Raises:
            ValueError: *life* is no such number.
            RuntimeError: there are agents already.
        """
        if not 0 <= life < _NUMBERS_OF_A_LIFE:
            msg = f"A life has a number from 0 to {_NUMBERS_OF_A_LIFE - 1}, got {life!r}"
            raise ValueError(msg)
        if self.agents.dict or self._next > self._first:
            msg = f"{self._container!r} has had agents in this life already"
            raise RuntimeError(msg)
        self._first = self._next = life * _NUMBERS_OF_A_LIFE
        self._gone.update(gone)

    @contextlib.contextmanager
    def assigning(self, former: Sequence[str]) -> Iterator[list[str]]:
        """Give agents that are made in this context, and in tasks that it starts, their former ids.

        Those that ask for no id get the numbers in *former*, in that order, and after the last one
        fresh numbers.  Those that ask for an id may have one that is in *former*.  Those that are
        awaited can be called when the context ends.

        Yields:
            The ids of all agents that are made in it, as they are made.
        """
        numbers = deque(filter(_is_number, former))
        assignment = _Assignment(self, set(former), numbers, [], served())
        token = _assignment.set(assignment)
        try:
            yield assignment.made
        finally:
            _assignment.reset(token)
            assignment.active = False
            self._awaited.difference_update(assignment.made)

    def await_agents(self, aids: Iterable[str]) -> None:
        """Let callers of agents with these ids try again later, until they have been made."""
        self._awaited.update(aid for aid in aids if aid not in self.agents.dict)

    def give_up(self, aids: Iterable[str]) -> None:
        """Tell callers of agents with these ids that there will be none."""
        self._awaited.difference_update(aids)

    def check_not_awaited(self, aid: str) -> None:
        """Make sure that one who knows nothing of an agent need not try again later.

        Raises:
            ConnectionLost: he has to.
        """
        if aid in self._awaited:
            raise ConnectionLost(_being_restored(aid))

    def _next_number(self) -> str:
        while (number := str(self._next)) in self.agents.dict or number in self._gone:
            self._next += 1
        self._next += 1
        return number

    def _check(self, aid: str, assignment: _Assignment | None) -> None:
        if not isinstance(aid, str):
            msg = f"An agent's id is a string, got {aid!r}"
            raise TypeError(msg)
        if not _AID.fullmatch(aid):
            msg = (
                f"{aid!r} cannot be an agent's id: it begins with a letter or a digit and has at "
                f"most 255 letters, digits and characters of '._~-'"
            )
            raise ValueError(msg)
        comes_back = assignment is not None and aid in assignment.former
        if aid in self.agents.dict or (self._was_here(aid) and not comes_back):
            state = "is" if aid in self.agents.dict else "was"
            msg = f"{aid!r} {state} the id of another agent in {self._container!r}"
            raise ValueError(msg)

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
        return _is_number(aid) and int(aid) < self._next

    def _explain(self, aid: str) -> None:
        if aid in self._awaited:
            raise NotYetError(_being_restored(aid))
        if self._was_here(aid):
            msg = f"the agent {aid!r} was stopped"
            if self._first and not (_is_number(aid) and int(aid) >= self._first):
                msg += ", or lost when its container was restarted"
            raise GoneError(msg)


def _is_number(aid: str) -> bool:
    return len(aid) <= _DIGITS and aid.isdecimal() and str(int(aid)) == aid


def _being_restored(aid: str) -> str:
    return f"the agent {aid!r} is being restored, its container was restarted"


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
