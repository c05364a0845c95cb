"""What a supervisor shows to those who look at the run from outside.

What is on other hosts, it asks the driver for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiomas.cluster.children import Children
from aiomas.cluster.log_parts import read_part
from aiomas.cluster.part import Part

STATUS_TIMEOUT = 2.0
"""Seconds that a container has to say how it is."""


class Views:
    """The run, as it is seen from this host.

    Args:
        facts: what is told about it; ``log_dir`` is where the logs are.
        part: what of it is here.
        children: the containers here.
        driver: the proxy of the driver's control service.
    """

    def __init__(
        self, facts: Mapping[str, Any], part: Part, children: Children, driver: Any
    ) -> None:
        self._facts = facts
        self._part = part
        self._children = children
        self._driver = driver

    async def watched(self) -> dict[str, Any]:
        """Return what is known of the run, and of its containers."""
        if self._part.several and self._part.lease is None:  # what others have, the driver knows
            watched = await self._driver.watched()
            facts = {**self._facts, **watched["facts"]}
            return {"facts": facts, "containers": watched["containers"]}
        statuses = await self._children.status(self._part.host, STATUS_TIMEOUT)
        return {"facts": self._facts, "containers": statuses}

    async def log_read(self, index: int, position: Any) -> tuple[Any, bytes]:
        """Return a part of the log of a container, wherever that is."""
        if index in self._children or not self._part.several:
            return await self.own_log(index, position)
        found: tuple[Any, bytes] = await self._driver.log_read(index, position)
        return found

    async def own_log(self, index: int, position: Any) -> tuple[Any, bytes]:
        """Return a part of the log of a container here; see :func:`.log_parts.read_part`."""
        # Not in our loop, which the disk would hold up.
        path = Path(self._facts["log_dir"], f"{index}.log")
        return await asyncio.to_thread(read_part, path, position)
