"""Fixtures for pytest: containers that are shut down, and looked at, after each test.

To use them, write ``pytest_plugins = ["aiomas.testing.fixtures"]`` into the ``conftest.py`` at the
top of your tests.  They need a plugin that runs async fixtures: anyio's, or pytest-asyncio in its
auto mode.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aiomas.agent import Container
from aiomas.local_queue import get_queue

__all__ = ["container", "container_options", "container_pair"]

GRACE = 1.0
"""Seconds, as the event loop counts them, in which calls that are being served may end."""

_numbers = itertools.count(1)


@pytest.fixture
def container_options() -> dict[str, Any]:
    """Return keywords for the containers of :func:`container` and :func:`container_pair`.

    Override it, in a module or a ``conftest.py``, to have a codec or a clock of your own: they go
    to :meth:`Container.create() <aiomas.agent.Container.create>`.
    """
    return {}


@pytest.fixture
async def container(container_options: dict[str, Any]) -> AsyncIterator[Container]:
    """Yield a container on a local queue of its own.

    After the test it is shut down.  The test fails if a call is still being served then and does
    not end within 1 s.
    """
    async with _opened(container_options) as container:
        yield container


@pytest.fixture
async def container_pair(
    container_options: dict[str, Any],
) -> AsyncIterator[tuple[Container, Container]]:
    """Yield two containers, each of which is connected to the other one.

    After the test they are shut down, as the one of :func:`container` is.
    """
    async with _opened(container_options) as first, _opened(container_options) as second:
        await first.ping(second.base_url)
        await second.ping(first.base_url)
        yield first, second


@contextlib.asynccontextmanager
async def _opened(options: dict[str, Any]) -> AsyncIterator[Container]:
    async with Container.open(get_queue(f"container-{next(_numbers)}"), **options) as container:
        yield container
        late = await _late_calls(container)
    if late:
        pytest.fail(f"{container!r} was still serving calls of {', '.join(late)}")


async def _late_calls(container: Container) -> list[str]:
    """Cancel the calls that are being served and do not end; return what was called."""
    paths = dict(container._handlers.paths)  # noqa: SLF001 - nobody else needs to see them
    if not paths:
        return []
    _, late = await asyncio.wait(paths, timeout=GRACE)
    for task in late:
        task.cancel()
    return sorted(paths[task] for task in late)
