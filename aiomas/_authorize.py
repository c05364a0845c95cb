"""Whether a peer may make a call: a function of the user decides, and doubt is a refusal."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable

from aiomas._channel import Channel
from aiomas._logs import LimitedLog
from aiomas.tls import PeerIdentity

refusals = LimitedLog(logging.getLogger("aiomas.agent"))

Authorize = Callable[[PeerIdentity, str | None, str], bool]


def checked(authorize: Authorize | None, *, tls: bool) -> Authorize | None:
    """Return *authorize*, if it is a function that will be asked.

    Raises:
        TypeError: it is no plain function.
        ValueError: it would never be asked.
    """
    if authorize is None:
        return None
    is_coroutine = inspect.iscoroutinefunction
    call = getattr(authorize, "__call__", None)  # noqa: B004 - of an object that is a function
    if not callable(authorize) or is_coroutine(authorize) or is_coroutine(call):
        msg = f"authorize must be a plain function that returns a bool, got {authorize!r}"
        raise TypeError(msg)
    if not tls:
        msg = "authorize is asked about callers that have shown a certificate, so it needs ssl="
        raise ValueError(msg)
    return authorize


class Guard:
    """Stands before the functions that one TLS peer can call.

    Args:
        authorize: decides.
        channel: the connection to the peer.
    """

    def __init__(self, authorize: Authorize, channel: Channel) -> None:
        self._authorize = authorize
        self._channel = channel

    def __call__(self, path: str) -> bool:
        """Whether the peer may call what is at *path*."""
        if path == "validate_aid":  # a part of connecting
            return True
        aid: str | None = None
        method = path
        match path.split("/", 2):
            case ["agents", aid, method]:
                pass
        identity = self._channel.identity
        if identity is None:  # a context of the user's that verifies nothing
            refusals.warning("Refusing a call of %.200r: its caller is not known", path)
            return False
        try:
            allowed = self._authorize(identity, aid, method)
            if not isinstance(allowed, bool):
                msg = f"authorize has to return a bool, it returned {allowed!r}"
                raise TypeError(msg)  # noqa: TRY301 - it is treated like what it raises itself
        except Exception as exc:  # noqa: BLE001 - whatever it is, the answer is no
            refusals.error("authorize failed for a call of %.200r", path, exc_info=exc)
            return False
        if not allowed:
            refusals.warning("Refusing a call of %.200r by %s", path, identity)
        return allowed
