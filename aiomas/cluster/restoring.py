"""Making the agents of a container again, in its new process: the supervisor's part of that."""

from __future__ import annotations

import asyncio

from aiomas.cluster import streams
from aiomas.cluster.life import Life
from aiomas.cluster.records import Record, Records
from aiomas.exceptions import ClusterError


async def restore(life: Life, records: Records, timeout: float) -> list[str]:
    """Let the container of a process make all its former agents again, with their states.

    Args:
        life: the process.
        records: of the agents.
        timeout: seconds that each agent has, and in which the process has to give a sign of life.

    Returns:
        A traceback for each that could not be made again.

    Raises:
        ContainerDied: the process has ended.
        ClusterError: it does not answer.
    """
    failures: list[str] = []
    for record in records.plan():
        for piece in streams.pieces(records.states_of(record).items(), streams.PIECE):
            await life.call("take_states", piece, timeout=timeout)
        failures += await _make(life, record, timeout)
    return failures


async def _make(life: Life, record: Record, timeout: float) -> list[str]:
    """Let agents be made, for as long as the process shows that it is at work."""
    # One agent after the other may need all its time; and then it takes a moment to end it.
    most = timeout * (1 + sum(map(bool, record.aids)))
    making = asyncio.ensure_future(
        life.call("restore", record.target, record.arguments, record.aids, timeout, timeout=most)
    )
    try:
        while not making.done():
            await asyncio.wait({making}, timeout=timeout)
            if not (making.done() or await life.answers(timeout) or making.done()):
                msg = (
                    f"Container {life.index} (pid {life.pid}) has not answered for {timeout} s "
                    f"while {record.target} made its agents again"
                )
                raise ClusterError(msg)
        return [str(failure) for failure in making.result()]
    finally:
        making.cancel()
