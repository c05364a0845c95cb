"""What is kept, away from a host, to make its agents again on others if it is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from aiomas import rpc
from aiomas.cluster.records import Records
from aiomas.codecs import Codec
from aiomas.exceptions import AiomasError

_FLUSH_TIMEOUT = 10.0  # seconds that states have to reach the driver before their host leaves


class Forwarding:
    """Sends a supervisor's states on to the driver, one after the other.

    Args:
        driver: the control stream.
    """

    def __init__(self, driver: rpc.RpcClient) -> None:
        self._driver = driver
        self._states: dict[tuple[int, str], bytes | None] = {}  # those that wait; None: forget it
        self._sending: asyncio.Task[None] | None = None

    def save(self, index: int, aid: str, state: bytes) -> None:
        """Send the state of an agent; only its newest one, if an older one still waits."""
        self._put(index, aid, state)

    def forget(self, index: int, aid: str) -> None:
        """Tell that an agent has ended."""
        self._put(index, aid, None)

    async def flush(self) -> None:
        """Return when all have arrived, or the driver is gone.

        Raises:
            TimeoutError: that takes too long.
        """
        if self._sending is not None:
            async with asyncio.timeout(_FLUSH_TIMEOUT):
                await asyncio.shield(self._sending)

    def _put(self, index: int, aid: str, state: bytes | None) -> None:
        self._states[index, aid] = state
        if self._sending is None or self._sending.done():
            self._sending = asyncio.get_running_loop().create_task(self._send_all())

    async def _send_all(self) -> None:
        try:
            while self._states:
                (index, aid), state = next(iter(self._states.items()))
                del self._states[index, aid]
                await self._driver.remote.keep_state(index, aid, state)
        except (AiomasError, ConnectionError):
            self._states.clear()  # the driver is gone, or does not want them any more


class Former(NamedTuple):
    """An agent that is to be made again."""

    url: str
    """Where it was."""
    target: str
    arguments: tuple[Sequence[Any], dict[str, Any]]
    """Its positional and its keyword arguments."""
    states: list[bytes | None]
    """Of all agents that were made with it, in this order; it is the first of them."""


class Kept(NamedTuple):
    """What is known of agents that one message has made."""

    target: str
    arguments: bytes
    made: list[list[str]]
    """For each of them the ids of all that were made with it; none if it has ended."""
    states: dict[str, bytes]
    """Those that were saved, by the ids of agents."""


class Archive:
    """What the driver knows of the agents on one host that were spawned with ``respawn=True``."""

    def __init__(self) -> None:
        self._records: dict[int, Records] = {}

    def of(self, index: int) -> Records:
        """Return what is known of the container with that index."""
        return self._records.setdefault(index, Records())

    def take(self, index: int, aid: str, state: bytes | None) -> None:
        """Keep a state, or forget an agent (``None``)."""
        if state is None:
            self.of(index).forget(aid)
        else:
            self.of(index).save(aid, state)

    def drop(self, index: int) -> None:
        """Forget all agents of a container."""
        self._records.pop(index, None)

    def kept(self, index: int) -> list[Kept]:
        """Return a copy of what is needed to make all agents of a container again."""
        records = self.of(index)
        return [
            Kept(
                record.target,
                record.arguments,
                [list(aids) for aids in record.aids],
                records.states_of(record),
            )
            for record in records.plan()
        ]


def formers_of(kept: Iterable[Kept], url: str, codec: Codec) -> Iterator[Former]:
    """Yield all agents of a container that are to be made again.

    Args:
        kept: what the archive has of them.
        url: the base URL of the container.
        codec: with which their arguments were encoded.
    """
    for target, arguments, made, states in kept:
        for (args, kwargs), aids in zip(codec.decode(arguments), made, strict=False):
            if aids:
                theirs = [states.get(aid) for aid in aids]
                yield Former(url + aids[0], target, (args, kwargs), theirs)
