"""What the tests of the original documentation share.

Many of its examples call the library from outside of an event loop, again and again; they use the
fixture `loop`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

import aiomas


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Make a new event loop the current one; what an example leaves to do is done at the end."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield loop

    async def end() -> None:
        if others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others, timeout=5)
        for _ in range(10):  # transports close in turns of their own
            await asyncio.sleep(0)

    loop.run_until_complete(end())
    asyncio.set_event_loop(None)
    loop.close()


@pytest.fixture
def free_port() -> int:
    """Return a port that nobody listens on, for examples that need to know it before they do."""
    with contextlib.closing(socket.create_server(("localhost", 0))) as sock:
        return sock.getsockname()[1]


@pytest.fixture(scope="session")
def certs(tmp_path_factory: pytest.TempPathFactory) -> aiomas.SSLCerts:
    """Make the three files of the examples for TLS."""
    folder: Path = tmp_path_factory.mktemp("certificates")
    ca = trustme.CA()
    device = ca.issue_cert("localhost", "127.0.0.1")
    ca.cert_pem.write_to_path(folder / "ca.pem")
    device.cert_chain_pems[0].write_to_path(folder / "device.pem")
    device.private_key_pem.write_to_path(folder / "device.key")
    return aiomas.SSLCerts(*(str(folder / name) for name in ("ca.pem", "device.pem", "device.key")))
