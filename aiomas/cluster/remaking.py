"""Making agents again, on other hosts than the one that is gone.

No agent shall run twice.  So where it is not certain that nothing is left of an attempt, there is
no other one.  It is if the container has died, or if its host is lost and has had the time that it
has to end all that it runs; a container that hangs is waited for.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from aiomas.cluster.archive import Former
from aiomas.cluster.events import ClusterEvent, EventKind
from aiomas.cluster.info import ContainerInfo
from aiomas.cluster.lease import now
from aiomas.cluster.members import Member
from aiomas.cluster.placement import Strategy
from aiomas.cluster.roster import Roster
from aiomas.cluster.run import Lifecycle
from aiomas.cluster.spawning import Spawner
from aiomas.exceptions import ClusterError, ContainerDied, SpawnError

_log = logging.getLogger("aiomas.cluster")

_ATTEMPTS = 3  # containers that may die while they make an agent
_PAUSE = 1.0  # seconds until it is known which containers have died with that one
_TOGETHER = 2.0  # seconds after which it is told who was made, if others are not yet


async def remake(
    run: Lifecycle,
    roster: Roster,
    formers: Sequence[Former],
    choose: Strategy,
    tell: Callable[[ClusterEvent], object],
    took: Callable[[dict[str, Any]], object],
) -> None:
    """Make agents again, with their states, in the containers that run.

    If none runs, they wait for one.

    Args:
        run: the cluster.
        roster: its containers.
        formers: the agents.
        choose: chooses a container for each.
        tell: told of each one that cannot be made again.
        took: told of those that were made: their new proxies, by their former URLs.  Of all at
            once, unless some take long.
    """
    remaking = _Remaking(run, roster, choose, tell, took)
    making = asyncio.create_task(remaking.make(formers))
    try:
        while not making.done():
            await asyncio.wait({making}, timeout=_TOGETHER)
            remaking.tell_who_was_made()
        await making
    finally:
        making.cancel()
        await asyncio.wait({making})


class _Remaking:
    def __init__(
        self,
        run: Lifecycle,
        roster: Roster,
        choose: Strategy,
        tell: Callable[[ClusterEvent], object],
        took: Callable[[dict[str, Any]], object],
    ) -> None:
        assert run.container is not None  # noqa: S101 - there were agents
        assert run.fleet is not None  # noqa: S101 - as above
        self._container, self._fleet = run.container, run.fleet
        self._roster = roster
        self._choose = choose
        self._tell = tell
        self._took = took
        self._made: dict[str, Any] = {}  # of whom nobody has been told yet
        self._deaths: Counter[str] = Counter()  # of containers that were to make an agent
        self._tasks = asyncio.TaskGroup()

    async def make(self, formers: Sequence[Former]) -> None:
        """Make agents; return when each of them is there, or given up."""
        async with self._tasks:
            await self._place(formers)

    def tell_who_was_made(self) -> None:
        """Tell of those that were made since this was done last."""
        if self._made:
            made, self._made = self._made, {}
            self._took(made)

    async def _place(self, formers: Sequence[Former]) -> None:
        """Divide agents among the containers, each of which makes its own for itself."""
        places = self._roster.running()
        if not places:
            self.tell_who_was_made()
            _log.warning(
                "No container of this cluster runs: %d agent(s) wait until they can be made again",
                len(formers),
            )
            places = await self._roster.some_running()
        shares: dict[int, list[Former]] = {}
        for former in formers:
            shares.setdefault(self._choose(places), []).append(former)
        for position, share in shares.items():
            info = places[position]
            # Now: another host may have this container later.
            member = self._fleet.of(info.index)
            self._tasks.create_task(self._make_in(info, member, share))

    async def _make_in(
        self, info: ContainerInfo, member: Member, formers: Sequence[Former]
    ) -> None:
        groups = deque(_groups(formers))
        while groups:
            left, error = await self._attempt(info, member, groups.popleft())
            if not left:
                continue
            if isinstance(error, ContainerDied):
                await self._after_death(left, error)
            elif not member.control.is_open:
                self.tell_who_was_made()  # or they may be lost again before that
                await asyncio.sleep(max(0.0, self._fleet.fenced_at(member) - now()))
            elif isinstance(error, SpawnError) and error.__cause__ is None:
                # It was the code of the first one that has failed; others were not tried.
                self._give_up(left[0], f"could not be made again: {error}")
                middle = (1 + len(left)) // 2
                groups.extendleft(half for half in (left[middle:], left[1:middle]) if half)
                continue
            else:
                for former in left:
                    self._give_up(former, f"may or may not have been made again: {error}")
                continue
            left = [former for former in left if self._deaths[former.url] < _ATTEMPTS]
            left += [former for group in groups for former in group]
            if left:
                await self._place(left)
            return

    async def _attempt(
        self, info: ContainerInfo, member: Member, formers: Sequence[Former]
    ) -> tuple[list[Former], ClusterError | ContainerDied | None]:
        """Return those that were not made, and what has kept them back."""

        async def send(_: str, *args: Any) -> Any:
            return await member.spawn(*args)

        codec = self._container.portable_codec()
        spawner = Spawner(self._container, codec, send, lambda _: None)
        error: ClusterError | ContainerDied | None = None
        try:
            await spawner.spawn(
                formers[0].target,
                [former.arguments for former in formers],
                [info],
                lambda _: 0,
                respawn=True,
                states=[former.states for former in formers],
            )
        except (ClusterError, ContainerDied) as exc:
            error = exc
        made = dict(zip((former.url for former in formers), spawner.proxies, strict=True))
        self._made |= {url: proxy for url, proxy in made.items() if proxy is not None}
        return [former for former in formers if made[former.url] is None], error

    async def _after_death(self, formers: Sequence[Former], error: ContainerDied) -> None:
        """Give up those whose containers have died too often; the others can be tried again."""
        for former in formers:
            self._deaths[former.url] += 1
            if self._deaths[former.url] == _ATTEMPTS:
                self._give_up(former, f"could not be made again: {error}")
        await asyncio.sleep(_PAUSE)

    def _give_up(self, former: Former, why: str) -> None:
        message = f"Agent {former.url} ({former.target}) {why}"
        error = ClusterError(message)
        self._tell(ClusterEvent(kind=EventKind.AGENT_LOST, message=message, error=error))


def _groups(formers: Sequence[Former]) -> Iterator[list[Former]]:
    """Yield those together that are made by the same class or function."""
    for target in dict.fromkeys(former.target for former in formers):
        yield [former for former in formers if former.target == target]
