"""Spreading new agents over the containers of a cluster, with a few messages for many of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any

from aiomas.cluster.container import ClusterContainer
from aiomas.cluster.info import ContainerInfo
from aiomas.cluster.placement import Strategy
from aiomas.codecs import Codec
from aiomas.exceptions import ContainerDied, SpawnError

_CHUNK_AGENTS = 1000
_CHUNK_BYTES = 1 << 20  # of arguments in one control message

Arguments = tuple[Sequence[Any], dict[str, Any]]
"""The positional and the keyword arguments of an agent."""


def arguments_of(arguments: int | Iterable[Any]) -> list[Arguments]:
    """Return the arguments of each agent that a user wants.

    Args:
        arguments: how many agents without arguments, or a tuple, list or dictionary for each.

    Raises:
        ValueError: the number is negative.
        TypeError: there is something else in it.
    """
    if isinstance(arguments, int):
        if arguments < 0:
            msg = f"The number of agents cannot be negative: {arguments}"
            raise ValueError(msg)
        return [((), {})] * arguments
    return [_arguments(argument) for argument in arguments]


def _arguments(argument: Any) -> Arguments:
    match argument:
        case dict():
            return (), argument
        case tuple() | list():
            return argument, {}
        case _:
            msg = f"Arguments are a tuple, list or dictionary for each agent, got {argument!r}"
            raise TypeError(msg)


class Spawner:
    """Makes the agents of one call to ``spawn()`` or ``spawn_many()``.

    Args:
        container: makes proxies.
        codec: encodes arguments.
        send: calls a method of the supervisor.
        made: told how many agents have been made.
    """

    def __init__(
        self,
        container: ClusterContainer,
        codec: Codec,
        send: Callable[..., Awaitable[Any]],
        made: Callable[[int], object],
    ) -> None:
        self._container = container
        self._codec = codec
        self._send = send
        self._told = made

    async def spawn(
        self,
        target: str,
        calls: Sequence[Arguments],
        places: Sequence[ContainerInfo],
        choose: Strategy,
        *,
        respawn: bool,
    ) -> list[Any]:
        """Make agents and return their proxies.

        Args:
            target: the name of the class or function that makes them.
            calls: the arguments of each.
            places: the containers that run.
            choose: chooses one of them for each.
            respawn: whether they are made again if their container is.

        Raises:
            SpawnError: an agent could not be made.
            ContainerDied: a container ended.
        """
        proxies: list[Any] = [None] * len(calls)
        numbers_at: dict[int, list[int]] = {}
        infos = {info.index: info for info in places}
        try:
            for number in range(len(calls)):
                info = places[choose(places)]
                info.agents += 1  # now, so that the strategy sees it when it chooses for the next
                info.pending += 1
                numbers_at.setdefault(info.index, []).append(number)
            results = await asyncio.gather(
                *(
                    self._spawn_in(infos[index], target, calls, numbers, proxies, respawn=respawn)
                    for index, numbers in numbers_at.items()
                ),
                return_exceptions=True,
            )
        finally:
            for index, numbers in numbers_at.items():
                made = sum(proxies[number] is not None for number in numbers)
                infos[index].agents -= len(numbers) - made
                infos[index].pending -= len(numbers)
                infos[index].respawned += made if respawn else 0
        for error in results:
            if isinstance(error, SpawnError | ContainerDied):
                error.spawned = [proxy for proxy in proxies if proxy is not None]
            if isinstance(error, BaseException):
                raise error
        return proxies

    async def _spawn_in(
        self,
        info: ContainerInfo,
        target: str,
        calls: Sequence[Arguments],
        numbers: list[int],
        proxies: list[Any],
        *,
        respawn: bool,
    ) -> None:
        """Make some of the agents in one container, and put their proxies into the list."""
        for chunk, data in self._chunks(calls, numbers):
            try:
                made, failure = await self._send("spawn", info.index, target, data, respawn)
            except ContainerDied:
                if not respawn:  # those of earlier messages are gone with it
                    for number in numbers:
                        proxies[number] = None
                raise
            for number, (url, class_name) in zip(chunk, made, strict=False):
                proxies[number] = self._container.proxy(url, class_name)
            self._told(len(made))
            if failure is not None:
                msg = (
                    f"Agent number {chunk[len(made)]} ({target}) could not be made in container "
                    f"{info.index} (pid {info.pid}):\n{failure}"
                )
                raise SpawnError(msg)

    def _chunks(
        self, calls: Sequence[Arguments], numbers: list[int]
    ) -> Iterator[tuple[list[int], bytes]]:
        """Cut *numbers* into pieces whose arguments fit into a message; yield both."""
        for start in range(0, len(numbers), _CHUNK_AGENTS):
            pieces = [numbers[start : start + _CHUNK_AGENTS]]
            while pieces:
                piece = pieces.pop()
                data = self._codec.encode([calls[number] for number in piece])
                if len(data) > _CHUNK_BYTES and len(piece) > 1:
                    middle = len(piece) // 2
                    pieces += [piece[middle:], piece[:middle]]
                else:
                    yield piece, data
