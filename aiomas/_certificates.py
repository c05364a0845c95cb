"""The TLS contexts of one container, and how they are exchanged while it runs."""

from __future__ import annotations

import ssl
from typing import Any

from aiomas._handshake import ListeningContext
from aiomas.tls import (
    SSLCerts,
    make_checked_contexts,
    make_ssl_client_context,
    make_ssl_server_context,
)

SSLContexts = tuple[ssl.SSLContext, ssl.SSLContext]


class Certificates:
    """What a container shows to others, and whom it trusts.

    Args:
        source: names of files, or two contexts, for the server socket and for client sockets.

    Raises:
        OSError: a file cannot be used.
        TypeError: *source* is something else.
        ValueError: a context is for the other side.
    """

    def __init__(self, source: SSLCerts | SSLContexts) -> None:
        self._source = _checked(source)
        if isinstance(self._source, SSLCerts):
            server = make_ssl_server_context(*self._source)
            self.client = make_ssl_client_context(*self._source)
        else:
            server, self.client = self._source
        """The context of the connections that are dialled from now on."""
        self.listening = ListeningContext(server)
        """The context of the server socket."""

    def reload(self, source: SSLCerts | SSLContexts | None = None) -> None:
        """Use other certificates, or those that are in the files now, for new connections.

        Raises:
            OSError: they are not good; then nothing has changed.
            TypeError: *source* is neither names of files nor two contexts.
            ValueError: there is no *source*, and no files; or a context is for the other side.
        """
        source = self._source if source is None else _checked(source)
        if isinstance(source, SSLCerts):
            server, client = make_checked_contexts(source)
        elif source is self._source:
            msg = "the container was given contexts, not the names of files; pass new contexts"
            raise ValueError(msg)
        else:
            server, client = source
        self._source = source
        self.listening.current = server
        self.client = client


def _checked(source: Any) -> SSLCerts | SSLContexts:
    match source:
        case (ssl.SSLContext() as server, ssl.SSLContext() as client):
            # A context that stands for both sides is fine, too.
            if server.protocol == ssl.PROTOCOL_TLS_CLIENT:
                msg = "the first context is for the server socket, but can be used by clients only"
                raise ValueError(msg)
            if client.protocol == ssl.PROTOCOL_TLS_SERVER:
                msg = "the second context is for client sockets, but can be used by servers only"
                raise ValueError(msg)
            return server, client
        case (_, _, _) | (_, _, _, _):
            return SSLCerts(*source)
        case _:
            msg = f"ssl must be an SSLCerts or two SSLContexts (server, client), got {source!r}"
            raise TypeError(msg)
