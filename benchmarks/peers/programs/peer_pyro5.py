"""An object of Pyro5 that echoes, with msgpack as its serializer."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measuring
import Pyro5.api

THREADS = 16  # more of them are slower


@Pyro5.api.expose
class Echo:
    """Returns what it gets."""

    def echo(self, value: Any) -> Any:
        """Return *value*."""
        return value


def configure(tls: str | None) -> None:
    """Set what both ends have in common."""
    config = Pyro5.api.config
    config.SERIALIZER = "msgpack"
    if tls:
        folder = Path(tls)
        config.SSL = True
        config.SSL_REQUIRECLIENTCERT = True
        config.SSL_CACERTS = str(folder / "trusted.pem")
        for end in ("SERVER", "CLIENT"):
            setattr(config, f"SSL_{end}CERT", str(folder / "certificate.pem"))
            setattr(config, f"SSL_{end}KEY", str(folder / "key.pem"))


def serve() -> None:
    """Serve until standard input ends."""
    with Pyro5.api.Daemon("127.0.0.1") as daemon:
        uri = daemon.register(Echo())
        threading.Thread(target=daemon.requestLoop, daemon=True).start()
        measuring.say(str(uri))
        measuring.wait_for_end()
        daemon.shutdown()


def in_threads(uri: str, pool: concurrent.futures.ThreadPoolExecutor) -> Callable[[float], float]:
    """Return what measures calls by threads, each of which has its own connection."""
    local = threading.local()

    def call(_: int) -> None:
        if not hasattr(local, "proxy"):
            local.proxy = Pyro5.api.Proxy(uri)
        local.proxy.echo(measuring.PAYLOAD)

    def step() -> None:
        for _ in pool.map(call, range(64)):
            pass

    return lambda seconds: measuring.rate(step, 64, seconds)


def call(uri: str) -> None:
    """Call until standard input ends."""
    with Pyro5.api.Proxy(uri) as proxy, concurrent.futures.ThreadPoolExecutor(THREADS) as pool:

        def batch() -> None:
            calls = Pyro5.api.BatchProxy(proxy)
            for _ in range(64):
                calls.echo(measuring.PAYLOAD)
            assert sum(1 for _ in calls()) == 64

        measures = measuring.measures_of(proxy.echo)
        measures["in_flight_64"] = in_threads(uri, pool)
        measures["batch_64"] = lambda seconds: measuring.rate(batch, 64, seconds)
        measuring.obey(measures)


if __name__ == "__main__":
    OPTIONS = measuring.options()
    configure(OPTIONS["tls"])
    if OPTIONS["role"] == "serve":
        serve()
    else:
        call(OPTIONS["address"])
