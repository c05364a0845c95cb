"""Authorities and certificates, made once, and what asyncio reports in its debug mode."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aiomas import SSLCerts
from tests.tls.authority import Authority, Issued
from tests.tls.world import Refusals


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="session")
def ca(folder: Path) -> Authority:
    return Authority(folder, "ca")


@pytest.fixture(scope="session")
def other_ca(folder: Path) -> Authority:
    return Authority(folder, "other-ca")


@pytest.fixture(scope="session")
def device(ca: Authority) -> Issued:
    return ca.issue("device")


@pytest.fixture(scope="session")
def certs(device: Issued) -> SSLCerts:
    return device.certs


@pytest.fixture
def refusals(ca: Authority, caplog: pytest.LogCaptureFixture) -> Refusals:
    return Refusals(ca.issue("good").certs, caplog)


@pytest.fixture(autouse=True)
async def quiet() -> AsyncIterator[None]:
    """In its debug mode, asyncio reports each handshake that fails as an error of the loop."""
    loop = asyncio.get_running_loop()
    debug = loop.get_debug()
    loop.set_debug(False)
    yield
    loop.set_debug(debug)
