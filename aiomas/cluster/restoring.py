"""Making the agents of a container again, in its new process: the supervisor's part of that."""

from __future__ import annotations

from aiomas.cluster.life import Life
from aiomas.cluster.records import Records
from aiomas.cluster.streams import pieces


async def restore(life: Life, records: Records, timeout: float) -> list[str]:
    """Let the container of a process make all its former agents again, with their states.

    Args:
        life: the process.
        records: of the agents.
        timeout: seconds that each message has.

    Returns:
        A traceback for each that could not be made again.

    Raises:
        ContainerDied: the process has ended.
        ClusterError: it does not answer in time.
    """
    failures: list[str] = []
    for record in records.plan():
        for piece in pieces(records.states_of(record).items()):
            await life.call("take_states", piece, timeout=timeout)
        failures += await life.call(
            "restore", record.target, record.arguments, record.aids, timeout=timeout
        )
    return failures
