"""A service of RPyC that echoes."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import measuring
import rpyc
from rpyc.utils.authenticators import SSLAuthenticator
from rpyc.utils.server import ThreadedServer


class Echo(rpyc.Service):
    """Returns what it gets."""

    def exposed_echo(self, value: Any) -> Any:
        """Return *value*."""
        return value


def files(tls: str) -> list[str]:
    """Return the paths of the key, the certificate and the trusted certificates."""
    return [str(Path(tls) / name) for name in ("key.pem", "certificate.pem", "trusted.pem")]


def serve(tls: str | None) -> None:
    """Serve until standard input ends."""
    authenticator = SSLAuthenticator(*files(tls)) if tls else None
    server = ThreadedServer(Echo(), "127.0.0.1", port=0, authenticator=authenticator)
    threading.Thread(target=server.start, daemon=True).start()
    measuring.say([server.host, server.port])
    measuring.wait_for_end()


def call(address: tuple[str, int], tls: str | None) -> None:
    """Call until standard input ends."""
    connection = rpyc.ssl_connect(*address, *files(tls)) if tls else rpyc.connect(*address)
    echo = connection.root.echo
    begin = rpyc.async_(echo)

    def pipelined() -> None:
        for result in [begin(measuring.PAYLOAD) for _ in range(64)]:
            result.wait()

    measures = measuring.measures_of(echo)
    measures["in_flight_64"] = lambda seconds: measuring.rate(pipelined, 64, seconds)
    measuring.obey(measures)


if __name__ == "__main__":
    OPTIONS = measuring.options()
    if OPTIONS["role"] == "serve":
        serve(OPTIONS["tls"])
    else:
        call(OPTIONS["address"], OPTIONS["tls"])
