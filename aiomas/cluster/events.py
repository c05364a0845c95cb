"""What happens in a cluster: the supervisor says it, the driver's program can listen."""

from __future__ import annotations

import dataclasses
import enum
import time
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from aiomas.exceptions import ClusterError, ContainerDied

E = TypeVar("E", bound=BaseException)


class EventKind(enum.StrEnum):
    """What has happened."""

    STARTED = "started"
    """A container answers for the first time."""
    DIED = "died"
    """A container has ended although nobody stopped it; ``error`` is a ``ContainerDied``."""
    RESTARTING = "restarting"
    """It is going to be started again, after a pause."""
    RESTARTED = "restarted"
    """It answers again, at the same address; its agents are there again as far as they can be."""
    FAILED = "failed"
    """It will not be started again, and its address is closed; ``error`` says why."""
    HUNG = "hung"
    """It has not answered for ``hang_timeout`` seconds."""
    RECOVERED = "recovered"
    """A container that had hung answers again."""
    AGENT_LOST = "agent lost"
    """An agent could not be made again after its container was; ``error`` has the traceback."""
    HOST_LOST = "host lost"
    """A host cannot be reached any more, or its supervisor has ended; ``error`` says why.  Calls to
    its containers fail from now on."""
    HOST_JOINED = "host joined"
    """A host was added, or is there again; its containers are empty."""
    HOST_LEFT = "host left"
    """A host was removed by the driver."""
    RESPAWNED = "respawned"
    """Agents of a host that was lost, or has left, were made again on others; see ``moved``."""
    LOST = "lost"
    """The supervisor, and with it the whole cluster, is gone; ``error`` says how."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ClusterEvent:
    """Something that has happened in a cluster."""

    kind: EventKind
    """What it is."""
    message: str
    """The same in words."""
    index: int | None = None
    """The container's index; ``None`` if it is about the cluster, or a host."""
    host: str | None = None
    """The host's name."""
    pid: int | None = None
    """The id of its process; after a restart, the new one."""
    time: float = dataclasses.field(default_factory=time.time)
    """When it was noticed, in seconds since the epoch."""
    error: ContainerDied | ClusterError | None = None
    """What a call would raise that fails because of it."""
    moved: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """The new URLs of agents, by their former ones."""

    def content(self) -> dict[str, Any]:
        """Return what :meth:`read` makes the same event from; it can travel."""
        return {
            "kind": str(self.kind),
            "message": self.message,
            "index": self.index,
            "pid": self.pid,
            "time": self.time,
            "error": None if self.error is None else error_content(self.error),
        }

    @classmethod
    def read(cls, content: dict[str, Any]) -> ClusterEvent:
        """Return the event that was sent."""
        error = content["error"]
        return cls(
            **content
            | {"kind": EventKind(content["kind"]), "error": error and error_of_content(error)}
        )


def error_content(error: ContainerDied | ClusterError) -> dict[str, Any]:
    """Return what :func:`error_of_content` makes the same error from; it can travel."""
    if isinstance(error, ContainerDied):
        return {
            "message": str(error),
            "index": error.index,
            "exit_code": error.exit_code,
            "out_of_memory": error.out_of_memory,
            "log": list(error.log),
        }
    return {"message": str(error)}


def error_of_content(content: dict[str, Any]) -> ContainerDied | ClusterError:
    """Return the error that was sent."""
    if "index" in content:
        return ContainerDied(**content)
    return ClusterError(content["message"])


def together(errors: Sequence[E]) -> E:
    """Return the first of *errors*, with notes about the others."""
    first, *others = errors
    for other in others:
        first.add_note(f"And {type(other).__name__}: {other}")
    return first
