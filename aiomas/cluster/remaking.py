"""Making agents again, on other hosts than the one that is gone."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from aiomas.cluster.archive import Former
from aiomas.cluster.events import ClusterEvent, EventKind
from aiomas.cluster.placement import Strategy
from aiomas.cluster.roster import Roster
from aiomas.cluster.run import Lifecycle
from aiomas.cluster.spawning import Spawner
from aiomas.exceptions import ClusterError, ContainerDied, SpawnError

_ATTEMPTS = 3  # a container or a host may be lost meanwhile
_PAUSE = 1.0  # seconds until it is known that it is


async def remake(
    run: Lifecycle,
    roster: Roster,
    formers: Sequence[Former],
    choose: Strategy,
    tell: Callable[[ClusterEvent], object],
) -> dict[str, Any]:
    """Make agents again, with their states, in the containers that run.

    Args:
        run: the cluster.
        roster: its containers.
        formers: the agents.
        choose: chooses a container for each.
        tell: told of each one that cannot be made again.

    Returns:
        Proxies for those that were, by their former URLs.
    """
    made: dict[str, Any] = {}
    groups = deque(_groups(formers))
    while groups:
        left = groups.popleft()
        error: ClusterError | ContainerDied | None = None
        for attempt in range(_ATTEMPTS):
            if attempt:
                await asyncio.sleep(_PAUSE)
            proxies, error = await _attempt(run, roster, left, choose)
            made |= {
                former.url: proxy
                for former, proxy in zip(left, proxies, strict=True)
                if proxy is not None
            }
            left = [former for former in left if former.url not in made]
            if not left or _is_its_own(error):
                break
        if len(left) > 1 and _is_its_own(error):
            # Behind one that cannot be made, others of its message have not been tried.
            middle = len(left) // 2
            groups.extendleft((left[middle:], left[:middle]))
            continue
        for former in left:
            message = f"Agent {former.url} ({former.target}) could not be made again: {error}"
            tell(
                ClusterEvent(
                    kind=EventKind.AGENT_LOST, message=message, error=ClusterError(message)
                )
            )
    return made


def _is_its_own(error: ClusterError | ContainerDied | None) -> bool:
    """Whether it was the code of an agent that has failed, and not what runs it."""
    return isinstance(error, SpawnError) and error.__cause__ is None


def _groups(formers: Sequence[Former]) -> Iterator[list[Former]]:
    """Yield those together that are made by the same class or function."""
    for target in dict.fromkeys(former.target for former in formers):
        yield [former for former in formers if former.target == target]


async def _attempt(
    run: Lifecycle, roster: Roster, formers: Sequence[Former], choose: Strategy
) -> tuple[list[Any], ClusterError | ContainerDied | None]:
    """Return a proxy, or ``None``, for each agent, and what has kept those back."""
    container, places = run.container, roster.running()
    assert container is not None  # noqa: S101 - there were agents
    if not places:
        return [None] * len(formers), ClusterError("no container of this cluster runs")
    spawner = Spawner(container, container.portable_codec(), run.send, lambda _: None)
    try:
        await spawner.spawn(
            formers[0].target,
            [former.arguments for former in formers],
            places,
            choose,
            respawn=True,
            states=[former.states for former in formers],
        )
    except (ClusterError, ContainerDied) as exc:
        return spawner.proxies, exc
    return spawner.proxies, None
