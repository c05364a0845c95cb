"""Making agents in the process of a container: the supervisor's part of that."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

from aiomas.cluster import streams
from aiomas.cluster.life import Life
from aiomas.cluster.records import Records, States


async def make(
    life: Life,
    records: Records,
    target: str,
    arguments: bytes,
    former: Sequence[Sequence[str]],
    states: Sequence[States],
    *,
    respawn: bool,
) -> tuple[list[Any], str | None]:
    """Let a process make agents, maybe with the states that they had in another container.

    All is asked of this one process: what it was sent before is not known to the next.

    Args:
        life: the process.
        records: remember what is made again with the container.
        target: the name of what makes them.
        arguments: theirs, as :meth:`aiomas.cluster.worker.Worker.spawn` has them.
        former: for each agent the keys of the states of all that are made with it.
        states: for each agent these states.
        respawn: whether they are made again with the container.

    Returns:
        What the worker does.

    Raises:
        ContainerDied: the process has ended.
        ClusterError: it has failed.
    """
    known = zip(chain.from_iterable(former), chain.from_iterable(states), strict=True)
    given = ((key, state) for key, state in known if state is not None)
    for piece in streams.pieces(given, streams.PIECE):
        await life.call("take_states", piece)
    with records.adding():
        made, failure = await life.call("spawn", target, arguments, *([former] if former else []))
        records.note(aid for _, _, aids in made for aid in aids)
        if respawn:
            agents = [(url.rpartition("/")[2], aids) for url, _, aids in made]
            records.add(target, arguments, agents, states)
    return made, failure
