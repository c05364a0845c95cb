"""A test deployment with TLS: a cluster whose certificates come from an authority of one's own.

``aiomas pki bootstrap`` makes an authority in a temporary folder, and the files of a machine called
"visitor".  The cluster asks this authority for its own certificates (``pki=``).  Its containers
encrypt all that they say to each other, and prove who they are.  The visitor has a certificate of
the same authority and is refused nevertheless, as it does not belong to this run.

(Without ``pki=`` the cluster makes an authority for itself, in memory.)

Run it with ``python examples/cluster_tls.py``.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import aiomas
from aiomas.agent import url_of
from aiomas.cluster import Cluster


class Desk(aiomas.Agent):
    @aiomas.expose
    async def who_is_there(self) -> str | None:
        """Return whom the certificate of the caller names."""
        identity = aiomas.current_call().identity
        return None if identity is None else identity.uri

    @aiomas.expose
    async def ask(self, other: Any) -> str | None:
        answer: str | None = await other.who_is_there()
        return answer


def pki(*arguments: str | Path) -> Any:
    """Run a command of ``aiomas pki``, and return what it says."""
    command = [sys.executable, "-m", "pki", *arguments, "--json"]
    # It warns that the authority's key is not encrypted, which is for tests only: we know.
    ran = subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - our own command
    return json.loads(ran.stdout)


async def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        await deploy(Path(temporary, "certs"))


async def deploy(certs: Path) -> None:
    pki("bootstrap", certs, "--hosts", "visitor", "--name", "plant")
    async with Cluster(containers=2, transport="tls", pki=certs) as cluster:
        first, second = await cluster.spawn_many(Desk, 2)
        print(f"One desk is at {url_of(first)}")
        print(f"It was called by {await first.who_is_there()}")
        print(f"The other one was called by {await first.ask(second)}")
        await visit(url_of(first), certs / "visitor")
    for issued in pki("list", "--ca", certs / "ca"):
        print(f"The authority has signed: {issued['names']['uris'][0]}")


async def visit(address: str, folder: Path) -> None:
    files = (folder / name for name in ("ca.pem", "device.pem", "device.key"))
    async with aiomas.Container.open(("127.0.0.1", 0), ssl=aiomas.SSLCerts(*files)) as visitor:
        try:
            await visitor.connect(address)
        except ConnectionError as error:
            print(f"The visitor was refused: {type(error).__name__}")


if __name__ == "__main__":
    asyncio.run(main())
