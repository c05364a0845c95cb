"""The exceptions that aiomas raises.

Each one derives from :class:`AiomasError` and from the builtin that callers already catch::

    AiomasError
    ├── AddressError            (ValueError)            a malformed address or agent URL
    ├── AgentNotFoundError      (ConnectionError, LookupError)  the container has no such agent
    ├── SerializationError      (TypeError)             an object that the codec cannot encode
    │   └── DecodeError         (ValueError)            bytes or a representation it cannot decode
    ├── ClusterError                                    a container process reports an error
    │   ├── SpawnError                                  it could not make an agent
    │   └── PartialResult                               some of many calls have failed
    ├── ContainerDied           (ConnectionError)       a container process of a cluster ended
    ├── RemoteException                                 the other side raised while serving a call
    │   ├── RemoteLookupError   (LookupError)           it has no such agent or exposed function
    │   ├── ShuttingDown                            its container is about to end, or has just begun
    │   ├── PermissionDenied    (PermissionError)       it does not let us call this
    │   ├── Overloaded                                  a limit was hit, there or here
    │   └── DeadlineExceeded    (TimeoutError)          the call's time was up
    ├── ConnectionLost          (ConnectionResetError)  the connection ended, or had ended already
    │   ├── ContainerClosedError                        because our own container was shut down
    │   ├── HandshakeError                              because the two ends do not fit together
    │   ├── PeerUnresponsive                            because the peer was silent for too long
    │   └── ProtocolError       (RuntimeError)          because the peer sent what is no message
    └── ConnectTimeout          (TimeoutError)          no usable connection within the time limit

What a failed call raises has an :attr:`~AiomasError.outcome`, which says whether the call may have
run on the other side.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any, Self, TypeVar

__all__ = [
    "AddressError",
    "AgentNotFoundError",
    "AiomasError",
    "ClusterError",
    "ConnectTimeout",
    "ConnectionLost",
    "ContainerClosedError",
    "ContainerDied",
    "DeadlineExceeded",
    "DecodeError",
    "HandshakeError",
    "Outcome",
    "Overloaded",
    "PartialResult",
    "PeerUnresponsive",
    "PermissionDenied",
    "ProtocolError",
    "RemoteException",
    "RemoteLookupError",
    "SerializationError",
    "ShuttingDown",
    "SpawnError",
]

E = TypeVar("E", bound="AiomasError")


class Outcome(enum.StrEnum):
    """Whether a call that failed has run on the other side."""

    NOT_SENT = "not_sent"
    """It has not, as it never left this process."""
    NOT_EXECUTED = "not_executed"
    """It has not, as it arrived and was refused before anything ran."""
    MAYBE_EXECUTED = "maybe_executed"
    """Nobody knows, as it was sent and there was no answer, or none that says it."""
    EXECUTED = "executed"
    """It has, at least in part."""

    @property
    def has_not_run(self) -> bool:
        """Whether it certainly has not run, so that repeating it does nothing twice."""
        return self in {Outcome.NOT_SENT, Outcome.NOT_EXECUTED}


class AiomasError(Exception):
    """Base class of all exceptions that aiomas defines."""

    outcome: Outcome | None = None
    """Whether a call that failed has run on the other side; ``None`` where there was no call."""

    def of_call(self, outcome: Outcome) -> Self:
        """Set the :attr:`outcome` and return the exception."""
        self.outcome = outcome
        return self


class AddressError(AiomasError, ValueError):
    """An address or an agent URL is malformed; the message says which part and what is expected."""


class AgentNotFoundError(AiomasError, ConnectionError, LookupError):
    """The container at that address answered, but has no agent with this id."""


class SerializationError(AiomasError, TypeError):
    """An object cannot be encoded; nothing was sent."""


class DecodeError(SerializationError, ValueError):
    """Bytes, or the representation of one object in them, cannot be decoded."""


class ConnectionLost(AiomasError, ConnectionResetError):  # noqa: N818 - named like its builtin
    """The connection ended; calls that were under way on it may have run on the other side."""


class ContainerClosedError(ConnectionLost):
    """The container was shut down: it makes no more connections and calls."""


class ProtocolError(ConnectionLost, RuntimeError):
    """The peer sent something that is no message of this protocol, so the connection was closed."""


class HandshakeError(ConnectionLost):
    """The two ends of a connection do not fit together; the message has what both have.

    They have different codecs or lists of serializers, or belong to different clusters, or one of
    them speaks TLS and the other does not.
    """


class PeerUnresponsive(ConnectionLost):
    """The peer was silent, or took nothing of what was sent, for so long that it was given up."""


class ConnectTimeout(AiomasError, TimeoutError):  # noqa: N818 - named like its builtin
    """No usable connection could be made within the time limit."""


class ContainerDied(AiomasError, ConnectionError):  # noqa: N818 - says what happened
    """A container process of a cluster ended although nobody stopped it.

    Args:
        message: what happened.
        index: the container's index.
        exit_code: its exit code; negative for the number of the signal that killed it; ``None`` if
            nobody knows.
        out_of_memory: whether it had used up the memory that it may have.
        log: the last lines of its log.
    """

    def __init__(
        self,
        message: str,
        index: int,
        exit_code: int | None,
        *,
        out_of_memory: bool = False,
        log: Sequence[str] = (),
    ) -> None:
        super().__init__(message, index, exit_code)
        self.index = index
        """The container's index."""
        self.exit_code = exit_code
        """Its exit code; negative for the number of the signal that killed it, or ``None``."""
        self.out_of_memory = out_of_memory
        """Whether it had used up the memory that it may have."""
        self.log = list(log)
        """The last lines of its log, the newest at the end."""
        self.spawned: list[Any] = []
        """Proxies for those agents that the call in question has made elsewhere."""

    def __str__(self) -> str:
        return str(self.args[0])


class ClusterError(AiomasError):
    """A container process of a cluster could not do what it was told."""


class SpawnError(ClusterError):
    """An agent of a cluster could not be made.

    Args:
        message: which agent, in which container, and the traceback from there.
        spawned: proxies for those agents of the same call that were made.  (If the whole cluster
            is gone, so are they.)
    """

    def __init__(self, message: str, spawned: Sequence[Any] = ()) -> None:
        super().__init__(message, spawned)
        self.spawned = list(spawned)

    def __str__(self) -> str:
        return str(self.args[0])


class PartialResult(ClusterError):  # noqa: N818 - says what is there
    """Some of the calls that were made together have failed, the others have not.

    Args:
        message: how many, and in one line the first one and why it failed; ``__cause__`` has its
            exception.
        results: what each call came to, in their order: its result, or its exception.
    """

    def __init__(self, message: str, results: Sequence[Any]) -> None:
        super().__init__(message, results)
        self.results = list(results)
        """What the calls came to, results and exceptions, in the order of the calls."""

    def __str__(self) -> str:
        return str(self.args[0])


class RemoteException(AiomasError):  # noqa: N818 - the name that aiomas users catch
    """The other side of a channel raised an exception while it served our request.

    Args:
        origin: the remote peer's address, as its transport names it.
        remote_traceback: what the peer sent: usually its traceback as a string.  Other programs
            send other things (mosaik a list ``[type, message, trace...]``); these are kept as
            they came.
    """

    def __init__(self, origin: Any, remote_traceback: Any) -> None:
        super().__init__(origin, remote_traceback)
        self.origin = origin
        """The address of the other side."""
        self.remote_traceback = remote_traceback
        """What the other side sent, usually a traceback as a string."""

    def __str__(self) -> str:
        return f"Origin: {self.origin}\n{_as_text(self.remote_traceback)}"


class RemoteLookupError(RemoteException, LookupError):
    """The other side has no such agent, or no such exposed function; nothing was run."""


class ShuttingDown(RemoteException):
    """The other side's container takes no calls, or none for this agent; nothing was run.

    It is being shut down; or it was restarted and has not restored the agent yet.
    """


class PermissionDenied(RemoteException, PermissionError):  # noqa: N818 - says what happened
    """The other side's *authorize* does not let us make this call; nothing was run."""


class Overloaded(RemoteException):
    """A limit of a connection was hit; the message says at which end, and names the parameter."""


class DeadlineExceeded(RemoteException, TimeoutError):  # noqa: N818 - says what happened
    """The time that the call had was up before there was a reply."""


def _as_text(remote_traceback: Any) -> str:
    if isinstance(remote_traceback, str):
        return remote_traceback
    if isinstance(remote_traceback, Sequence) and not isinstance(remote_traceback, bytes):
        return "\n".join(str(part) for part in remote_traceback)
    return str(remote_traceback)
