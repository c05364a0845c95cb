from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from aiomas import local_queue
from aiomas.testing import VirtualTimeLoop

from .world import KINDS, World


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Let no test here wait: deadlines and heartbeats come at once."""
    return "asyncio", {"loop_factory": VirtualTimeLoop}


@pytest.fixture(params=KINDS)
async def world(request: pytest.FixtureRequest, unix_path: str) -> AsyncIterator[World]:
    local_queue.clear_queue_cache()
    world = World(request.param, unix_path)
    yield world
    await world.close()
