from __future__ import annotations

import functools
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from .environments import (
    AIOMAS_2,
    MOSAIK,
    Environment,
    UnavailableError,
    find_python_3_8,
    this_python,
)
from .peer import Nursery, Peer

StartPeer = Callable[..., Awaitable[Peer]]


def interpreter(environment: Environment, base: Callable[[], Path]) -> Path:
    """Return an environment's interpreter, or skip the test with the reason why there is none.

    `AIOMAS_REQUIRE_INTEROP=1` makes that an error where Python 3.8, which cannot be installed from
    a package index, is there.
    """
    try:
        return environment.python(base())
    except UnavailableError as exc:
        if os.environ.get("AIOMAS_REQUIRE_INTEROP") == "1" and has_python_3_8():
            pytest.fail(f"AIOMAS_REQUIRE_INTEROP is set, but {exc}", pytrace=False)
        pytest.skip(str(exc))


@functools.cache
def has_python_3_8() -> bool:
    try:
        find_python_3_8()
    except UnavailableError:
        return False
    return True


@pytest.fixture(scope="package")
def nursery_of_aiomas_2() -> Iterator[Nursery]:
    """Runs programs with Python 3.8 that can import aiomas 2.0.1."""
    python = interpreter(AIOMAS_2, find_python_3_8)
    with Nursery.run(python, "aiomas", "aiomas.subproc", "arrow", "blosc", "msgpack") as nursery:
        yield nursery


@pytest.fixture(scope="package")
def nursery_of_mosaik() -> Iterator[Nursery]:
    """Runs programs, with the same version of Python as this one, that can import mosaik_api_v3."""
    with Nursery.run(interpreter(MOSAIK, this_python), "mosaik_api_v3.connection") as nursery:
        yield nursery


@pytest.fixture
async def start_old(nursery_of_aiomas_2: Nursery) -> AsyncIterator[StartPeer]:
    """Starts a program that uses aiomas 2.0.1: `await start_old("container.py", *args)`."""
    async with AsyncExitStack() as stack:

        async def start(program: str, *args: str) -> Peer:
            return await stack.enter_async_context(
                Peer.run(nursery_of_aiomas_2, f"aiomas_2/{program}", *args)
            )

        yield start


@pytest.fixture
async def start_mosaik(nursery_of_mosaik: Nursery) -> AsyncIterator[StartPeer]:
    """Starts a program that uses mosaik's API: `await start_mosaik("server.py", *args)`."""
    async with AsyncExitStack() as stack:

        async def start(program: str, *args: str) -> Peer:
            return await stack.enter_async_context(
                Peer.run(nursery_of_mosaik, f"mosaik/{program}", *args)
            )

        yield start
