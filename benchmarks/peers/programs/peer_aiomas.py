"""An agent that echoes, of this aiomas and of aiomas 2.0.1 alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import measuring

import aiomas


class Echo(aiomas.Agent):
    """Returns what it gets."""

    @aiomas.expose
    def echo(self, value: Any) -> Any:
        """Return *value*."""
        return value


async def container(options: dict[str, Any]) -> Any:
    """Make a container that listens on a free port."""
    certs = None
    if folder := options["tls"]:
        files = [str(Path(folder) / name) for name in ("trusted.pem", "certificate.pem", "key.pem")]
        certs = aiomas.SSLCerts(*files)
    return await aiomas.Container.create(
        ("127.0.0.1", measuring.free_port()), codec=aiomas.MsgPack, ssl=certs, as_coro=True
    )


async def main(options: dict[str, Any]) -> None:
    """Serve or call, as the options say."""
    own = await container(options)
    if options["role"] == "serve":
        agent = Echo(own)
        measuring.say(agent.addr)
        await measuring.wait_for_end_async()
    else:
        url = options["address"] or Echo(own).addr
        call = (await own.connect(url)).echo
        await call(measuring.PAYLOAD)
        await measuring.obey_async(measuring.async_measures_of(call))
    await own.shutdown(as_coro=True)


if __name__ == "__main__":
    OPTIONS = measuring.options()
    measuring.run(main(OPTIONS), OPTIONS["loop"])
