"""The agents: one for each energy unit, and one that observes the negotiation.

This is where `cohda` (what to say) and `termination` (whether it is over) meet aiomas (how to say
it). Each message is one call of `Unit.gossip`; what that returns is its acknowledgement.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import aiomas

from .cohda import Goal, Message, Negotiator
from .termination import Engagement
from .units import Schedule

OBSERVER = -1
"""The number of the observer, which is none of the units but starts the first one."""


@dataclass
class Link:
    """A connection to a neighbour. At most one message is on its way; news wait for the next."""

    neighbour: int
    proxy: Any
    busy: bool = False


class Unit(aiomas.Agent):
    """The agent of one energy unit.

    Args:
        container: where it lives.
        number: its number.
        schedules: the schedules its unit can run, in watts; it starts with the first one.
        neighbours: the numbers of the agents it talks to.
    """

    def __init__(
        self,
        container: aiomas.Container,
        number: int,
        schedules: Sequence[Schedule],
        neighbours: Sequence[int],
    ) -> None:
        super().__init__(container)
        self.number = number
        self._neighbours = neighbours
        self._negotiator = Negotiator(number, schedules, neighbours)
        self._engagement = Engagement()
        self._links: dict[int, Link] = {}
        self._observer: Any = None
        self._inbox: list[tuple[int, Message]] = []
        self._messages = 0
        self._failed = False

    @aiomas.expose
    async def meet(self, neighbours: Sequence[str], observer: str) -> None:
        """Connect to the neighbours, in the order of their numbers, and to the observer."""
        connect = self.container.connect
        *proxies, self._observer = await asyncio.gather(*map(connect, (*neighbours, observer)))
        links = map(Link, self._neighbours, proxies)
        self._links = {link.neighbour: link for link in links}

    @aiomas.expose
    def gossip(self, sender: int, message: Message) -> bool:
        """Take a message. Return whether it is acknowledged; if not, `acknowledge` follows."""
        engages = self._engagement.received(sender)
        if not self._inbox:
            take_turns(self)
        self._inbox.append((sender, message))
        return not engages

    @aiomas.expose
    def acknowledge(self) -> None:
        """Learn that all that came of a message of ours is done."""
        self._engagement.acknowledged()
        self._rest()

    @aiomas.expose
    def status(self) -> tuple[int, int, int]:
        """Return: messages sent, agents heard of, distance of the best known candidate in Wh."""
        memory = self._negotiator.memory
        if memory is None:
            return self._messages, 0, 0
        return self._messages, len(memory.choices), memory.candidate.distance_wh

    @aiomas.expose
    def schedule(self) -> Schedule:
        """Return what the unit is going to run, in watts."""
        return self._negotiator.schedule

    def take_turn(self) -> None:
        """Perceive all that came in, decide once, and act."""
        messages, self._inbox = self._inbox, []
        try:
            for sender, message in messages:
                self._negotiator.perceive(sender, message)
            self._negotiator.decide()
        except Exception as error:  # noqa: BLE001 - whoever waits for the end must hear of it
            self._fail(error)
        for neighbour in self._neighbours:
            self._tell(neighbour)
        self._rest()

    def _tell(self, neighbour: int) -> None:
        link = self._links[neighbour]
        message = None if link.busy else self._negotiator.message_for(neighbour)
        if message is not None:
            link.busy = True
            self._messages += 1
            self._engagement.sent()
            self._call(link.proxy.gossip, self.number, message, then=partial(self._told, link))

    def _told(self, link: Link, acknowledged: bool) -> None:  # noqa: FBT001 - a call's result
        link.busy = False
        if acknowledged:
            self._engagement.acknowledged()
        self._tell(link.neighbour)
        self._rest()

    def _rest(self) -> None:
        """Leave the tree of active agents if there is nothing left to do."""
        parent = None if self._inbox else self._engagement.release()
        if parent is not None:
            proxy = self._observer if parent == OBSERVER else self._links[parent].proxy
            self._call(proxy.acknowledge)

    def _call(
        self,
        method: Callable[..., asyncio.Future[Any]],
        *args: Any,
        then: Callable[[Any], None] | None = None,
    ) -> None:
        """Call another agent without waiting; nothing more is done after a call has failed."""

        def done(reply: asyncio.Future[Any]) -> None:
            error = asyncio.CancelledError() if reply.cancelled() else reply.exception()
            if error is not None:
                self._fail(error)
            elif then is not None and not self._failed:
                then(reply.result())

        if not self._failed:
            try:
                method(*args).add_done_callback(done)
            except aiomas.AiomasError as error:
                self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """Give up: acknowledgements that will never come would keep the observer waiting."""
        if self._failed:
            return
        self._failed = True
        # If the observer cannot be told either, then everything is being shut down.
        with suppress(aiomas.AiomasError):
            report = self._observer.failed(self.number, f"{type(error).__name__}: {error}")
            report.add_done_callback(lambda done: done.cancelled() or done.exception())


_waiting: WeakKeyDictionary[asyncio.AbstractEventLoop, deque[Unit]] = WeakKeyDictionary()


def take_turns(unit: Unit) -> None:
    """Let the units of a process act one after the other, the one that waited longest first.

    The event loop gets to deliver messages after each. So a unit hears of what the one before it
    decided, rather than all of them answering the same old news at once and getting in each
    other's way, and what comes in meanwhile is answered once. It halves the messages.
    """
    loop = asyncio.get_running_loop()
    queue = _waiting.setdefault(loop, deque())
    if not queue:
        loop.call_soon(_next_turn, loop)
    queue.append(unit)


def _next_turn(loop: asyncio.AbstractEventLoop) -> None:
    queue = _waiting[loop]
    queue[0].take_turn()
    queue.popleft()
    if queue:
        loop.call_soon(_next_turn, loop)


class NegotiationError(Exception):
    """The negotiation came to no end, because an agent could not go on."""


class Observer(aiomas.Agent):
    """Starts the negotiation at one unit and learns when it is over. It takes no part in it."""

    def __init__(self, container: aiomas.Container) -> None:
        super().__init__(container)
        self._engagement = Engagement()
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def negotiate(self, first: Any, goal: Goal) -> None:
        """Tell the `first` unit the goal, and return when no unit has anything left to do.

        Raises:
            NegotiationError: a unit could not go on.
        """
        self._engagement.sent()
        if await first.gossip(OBSERVER, (tuple(goal), None, [])):
            self.acknowledge()
        await self._end

    @aiomas.expose
    def acknowledge(self) -> None:
        """Learn that all that came of the only message is done: that is the end."""
        self._engagement.acknowledged()
        if not self._end.done():
            self._end.set_result(None)

    @aiomas.expose
    def failed(self, number: int, error: str) -> None:
        """Learn that a unit cannot go on."""
        if not self._end.done():
            self._end.set_exception(NegotiationError(f"unit {number} failed: {error}"))
