"""Keeping the state of agents where it survives the process that they live in.

An agent that is to go on after its container was restarted has two methods of its own:
``get_state()`` returns what is to be kept, a value that the cluster's codec can encode, and
``set_state(state)`` takes it in the new process.  Both may be coroutine functions.  States are kept
by the supervisor, in memory, for agents that were spawned with ``respawn=True``.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from aiomas.agent import Agent
from aiomas.codecs import Codec

Save = Callable[[str, bytes], Awaitable[Any]]

_keepers: list[tuple[Codec, Save]] = []  # at most one: a process has one container of a cluster


async def checkpoint(agent: Agent) -> None:
    """Save the state of *agent*, and return when it is safe.

    To be called by the agent itself, whenever it has done what it does not want to lose.  In a
    container that belongs to no cluster, where nobody would ask for the state, it does nothing.

    Args:
        agent: has a method ``get_state()``.

    Raises:
        TypeError: it has none.
        SerializationError: its state cannot be encoded, or has more than 63 MiB.
        ConnectionLost: the supervisor is gone.
    """
    state = await state_of(agent)
    for codec, save in _keepers:
        await save(agent.aid, codec.encode(state))


async def state_of(agent: Agent) -> Any:
    """Return what the ``get_state()`` of *agent* returns.

    Raises:
        TypeError: it has no such method.
    """
    get_state = getattr(agent, "get_state", None)
    if not callable(get_state):
        msg = f"{agent!r} has no method get_state(), so its state cannot be saved"
        raise TypeError(msg)
    state = get_state()
    return await state if inspect.isawaitable(state) else state


async def give_state(agent: Agent, state: Any) -> None:
    """Hand *state* to the ``set_state()`` of *agent*.

    Raises:
        TypeError: it has no such method.
    """
    set_state = getattr(agent, "set_state", None)
    if not callable(set_state):
        msg = f"{agent!r} has get_state() but no set_state(), so its state cannot be restored"
        raise TypeError(msg)
    result = set_state(state)
    if inspect.isawaitable(result):
        await result


def keep_with(codec: Codec, save: Save) -> None:
    """Let :func:`checkpoint` encode states with *codec* and hand them to *save*."""
    _keepers[:] = [(codec, save)]
