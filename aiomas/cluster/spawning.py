"""Spreading new agents over the containers of a cluster, with a few messages for many of them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from aiomas.cluster.container import ClusterContainer
from aiomas.cluster.events import together
from aiomas.cluster.info import ContainerInfo
from aiomas.cluster.placement import Strategy
from aiomas.cluster.records import States
from aiomas.codecs import Codec
from aiomas.exceptions import ClusterError, ContainerDied, SpawnError

_CHUNK_AGENTS = 1000
_CHUNK_BYTES = 1 << 20  # of arguments in one control message

Arguments = tuple[Sequence[Any], dict[str, Any]]
"""The positional and the keyword arguments of an agent."""
Chunk = tuple[list[int], bytes]
"""The numbers of agents, and their arguments as one message."""


def arguments_of(arguments: int | Iterable[Any]) -> list[Arguments]:
    """Return the arguments of each agent that a user wants.

    Args:
        arguments: how many agents without arguments, or a tuple, list or dictionary for each.

    Raises:
        ValueError: the number is negative.
        TypeError: it is something else, or there is something else in it.
    """
    if isinstance(arguments, bool | str | bytes | Mapping) or not isinstance(
        arguments, int | Iterable
    ):
        msg = (
            "arguments must be a number of agents, or an iterable with a tuple, list or dictionary "
            f"for each agent, got {arguments!r}"
        )
        raise TypeError(msg)
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
        self._states: Sequence[States] | None = None
        self.proxies: list[Any] = []
        """Those of the agents that were made; ``None`` for the others."""
        self.processes: dict[int, int] = {}
        """The ids of the processes in which agents were made, by the indices of containers."""

    async def spawn(
        self,
        target: str,
        calls: Sequence[Arguments],
        places: Sequence[ContainerInfo],
        choose: Strategy,
        *,
        respawn: bool,
        states: Sequence[States] | None = None,
    ) -> list[Any]:
        """Make agents and return their proxies.

        Args:
            target: the name of the class or function that makes them.
            calls: the arguments of each.
            places: the containers that run.
            choose: chooses one of them for each.
            respawn: whether they are made again if their container is.
            states: for each of them the states of all that are made with it, in this order.

        Nothing is sent before all arguments have been encoded.

        Raises:
            SpawnError: an agent could not be made, or the supervisor failed; ``spawned`` has those
                that were.  If there are errors of several containers, notes tell of the others.
            ContainerDied: a container ended; it has ``spawned`` as well.
            SerializationError: arguments cannot be encoded, and no agent was made; a note says for
                which one they are.
        """
        proxies = self.proxies = [None] * len(calls)
        self._states = states
        placed = _places_of(len(calls), places, choose)
        try:
            encoded = [await self._encoded(target, calls, numbers) for _, numbers in placed]
        except BaseException:
            for info, numbers in placed:
                info.agents -= len(numbers)
            raise
        results = await asyncio.gather(
            *(
                self._spawn_in(info, target, chunks, proxies, respawn=respawn)
                for (info, _), chunks in zip(placed, encoded, strict=True)
            ),
            return_exceptions=True,
        )
        errors = [error for error in results if isinstance(error, BaseException)]
        if errors:
            error = together([_as_spawn_error(error) for error in errors])
            if isinstance(error, SpawnError | ContainerDied):
                error.spawned = [proxy for proxy in proxies if proxy is not None]
            raise error
        return proxies

    async def _spawn_in(
        self,
        info: ContainerInfo,
        target: str,
        chunks: deque[Chunk],
        proxies: list[Any],
        *,
        respawn: bool,
    ) -> None:
        """Make some of the agents in one container, and put their proxies into the list.

        They are counted there already, and are not any more if they cannot be made.
        """
        all_numbers = [number for numbers, _ in chunks for number in numbers]
        to_make = len(all_numbers)
        try:
            while chunks:
                numbers, data = chunks.popleft()
                given: tuple[Any, ...] = (target, data, respawn)
                if self._states is not None:
                    given += ([self._states[number] for number in numbers],)
                made, failure, pid = await self._send("spawn", info.index, *given)
                self.processes[info.index] = pid
                for number, (url, class_name, _) in zip(numbers, made, strict=False):
                    proxies[number] = self._container.proxy(url, class_name)
                to_make -= len(made)
                info.respawned += len(made) if respawn else 0
                self._told(len(made))
                if failure is not None:
                    _fail(info, f"Agent number {numbers[len(made)]} ({target})", failure)
        except ContainerDied:  # what was counted there is forgotten by whoever heard of it
            if not respawn:  # those of earlier messages are gone with it
                for number in all_numbers:
                    proxies[number] = None
            raise
        except BaseException:
            info.agents -= to_make
            raise

    async def _encoded(
        self, target: str, calls: Sequence[Arguments], numbers: list[int]
    ) -> deque[Chunk]:
        """Cut *numbers* into pieces whose arguments fit into a message, with these arguments."""
        chunks: deque[Chunk] = deque()
        for start in range(0, len(numbers), _CHUNK_AGENTS):
            pieces = [numbers[start : start + _CHUNK_AGENTS]]
            while pieces:
                piece = pieces.pop()
                data = self._encode(target, calls, piece)
                if len(data) > _CHUNK_BYTES and len(piece) > 1:
                    middle = len(piece) // 2
                    pieces += [piece[middle:], piece[:middle]]
                else:
                    chunks.append((piece, data))
                await asyncio.sleep(0)  # others may have something to do meanwhile
        return chunks

    def _encode(self, target: str, calls: Sequence[Arguments], numbers: list[int]) -> bytes:
        try:
            return self._codec.encode([calls[number] for number in numbers])
        except Exception as exc:
            if len(numbers) > 1:
                for number in numbers:
                    self._encode(target, calls, [number])  # the bad one raises, with its number
            else:
                exc.add_note(f"It was for agent number {numbers[0]} ({target}); none was made")
            raise


def _as_spawn_error(error: BaseException) -> BaseException:
    """Return *error*, or if it is one of the supervisor, one that can have ``spawned``."""
    if type(error) is not ClusterError:
        return error
    spawn_error = SpawnError(str(error))
    spawn_error.__cause__ = error
    return spawn_error


def _fail(info: ContainerInfo, who: str, traceback: str) -> NoReturn:
    where = f"container {info.index} (pid {info.pid})"
    msg = f"{who} could not be made in {where}:\n{traceback}"
    raise SpawnError(msg)


def _places_of(
    count: int, places: Sequence[ContainerInfo], choose: Strategy
) -> list[tuple[ContainerInfo, list[int]]]:
    """Choose a container for each of so many agents, and count them there."""
    numbers_at: dict[int, list[int]] = {}  # by the position of the container
    try:
        for number in range(count):
            position = choose(places)
            places[position].agents += 1  # now, so that the strategy sees it for the next one
            numbers_at.setdefault(position, []).append(number)
    except BaseException:
        for position, numbers in numbers_at.items():
            places[position].agents -= len(numbers)
        raise
    return [(places[position], numbers) for position, numbers in numbers_at.items()]
