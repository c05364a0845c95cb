"""How TLS begins, at either end: whom we refuse is told so, and errors say what was wrong.

Which certificates are good is the business of the contexts.
"""

from __future__ import annotations

import contextlib
import logging
import ssl
import weakref
from collections.abc import Iterator
from typing import Any, Self

from aiomas._logs import LimitedLog
from aiomas.exceptions import ConnectTimeout, HandshakeError
from aiomas.tls import explained

bad_clients = LimitedLog(logging.getLogger("aiomas.channel"))

# What OpenSSL calls the first bytes of a peer that does not speak TLS.
_NO_TLS = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "UNKNOWN_PROTOCOL"}

# An alert (RFC 8446, section 6): fatal, protocol_version.  OpenSSL sends none to such a peer.
_ALERT = bytes.fromhex("15 0303 0002 02 46")


class ListeningContext(ssl.SSLContext):
    """The context of a listening socket: gives each connection to the context that is current.

    Exchanging the context is the only way to change the certificates of a server for good:
    one that is set in the middle of a handshake leaves the flags and the sessions of the old one.

    Args:
        current: the context of new connections.
    """

    current: ssl.SSLContext

    def __new__(cls, current: ssl.SSLContext) -> Self:
        """Make a context that has no settings of its own."""
        context = super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)
        context.current = current
        return context

    def wrap_bio(
        self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *args: Any, **kwargs: Any
    ) -> ssl.SSLObject:
        """Return a new connection of the current context."""
        connection = self.current.wrap_bio(incoming, outgoing, *args, **kwargs)
        setattr(connection, "do_handshake", _Handshake(connection, outgoing))  # noqa: B010
        return connection


class _Handshake:
    """Lets a client that is refused know why, before asyncio closes the connection.

    Args:
        connection: shakes hands.
        outgoing: what it sends.
    """

    def __init__(self, connection: ssl.SSLObject, outgoing: ssl.MemoryBIO) -> None:
        self._connection = weakref.ref(connection)  # which holds us
        self._outgoing = outgoing
        self._error: ssl.SSLError | None = None

    def __call__(self) -> None:
        connection = self._connection()
        assert connection is not None  # noqa: S101 - whoever calls this has it
        if self._error is not None:
            raise self._error
        try:
            type(connection).do_handshake(connection)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as exc:
            error = explained(exc, connection.context)
            if error.reason in _NO_TLS:
                bad_clients.warning("Refusing a client that does not speak TLS: %s", error)
                self._outgoing.write(_ALERT)
            else:
                bad_clients.warning("Refusing a client, whose TLS handshake failed: %s", error)
            if not self._outgoing.pending:
                raise
            # asyncio sends what there is only if it has to wait.  The client, who gets the alert,
            # will close the connection; if it sends more instead, or nothing, then asyncio will.
            self._error = error.with_traceback(None)
            raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "the alert is to be sent") from None
        else:
            del connection.do_handshake


@contextlib.contextmanager
def dialling(peer: str, context: Any, limit: float) -> Iterator[None]:
    """Explain the errors of a TLS handshake that begins here.

    Args:
        peer: whom we dial.
        context: our context, as it is passed to asyncio.
        limit: seconds that the handshake may take.

    Raises:
        HandshakeError: the other end does not speak TLS.
        ConnectTimeout: it did not answer in time.
        OSError: whatever else went wrong, with a text that says so.
    """
    try:
        yield
    except ssl.SSLError as exc:
        if exc.reason in _NO_TLS:
            msg = f"{peer} does not speak TLS, which ssl= asks for"
            raise HandshakeError(msg) from exc
        if isinstance(context, ssl.SSLContext):
            explained(exc, context)
        raise
    except ConnectionAbortedError as exc:
        msg = f"{peer} took more than {limit} s for the TLS handshake; it may not speak TLS"
        raise ConnectTimeout(msg) from exc
    except ConnectionResetError as exc:
        msg = f"{peer} ended the connection in the TLS handshake; it may not speak TLS"
        raise ConnectionResetError(exc.errno, msg) from exc
