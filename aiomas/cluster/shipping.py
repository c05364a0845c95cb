"""Takes the modules of the user that the driver sends, before any are imported."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from aiomas import rpc
from aiomas.cluster.reporting import reporting
from aiomas.cluster.synced import Store
from aiomas.cluster.zygote import ForkServer

T = TypeVar("T")

_TREE = "modules"


class Shipping:
    """A part of the control service of a supervisor."""

    router = rpc.Service()

    def __init__(self) -> None:
        self.arrived = asyncio.Event()
        """Set when modules can be imported from there."""
        self._directory: Path
        self._fork: ForkServer
        self._store: Store | None = None
        self._using = asyncio.Lock()

    def begin(self, directory: Path, fork: ForkServer) -> None:
        """Take in nothing before this.

        Args:
            directory: of the run.
            fork: what imports modules for the containers.
        """
        self._directory = directory
        self._fork = fork

    @rpc.expose
    @reporting
    async def missing(self, manifest: Any) -> list[str]:
        """Return the checksums of the contents that have to be sent.

        Args:
            manifest: of all files that there are to be; see :mod:`aiomas.cluster.sync`.
        """
        await self.close()
        self._store = await asyncio.to_thread(Store.open, self._directory)
        return await self._with_store(lambda store: store.missing(manifest))

    @rpc.expose
    @reporting
    async def put(self, batch: Sequence[tuple[str, int, bytes]]) -> None:
        """Take pieces of contents, in their order."""

        def put(store: Store) -> None:
            for checksum, offset, data in batch:
                store.put(checksum, offset, data)

        await self._with_store(put)

    @rpc.expose
    @reporting
    async def build(self) -> str:
        """Make the files, let modules be found there, and return where that is."""
        tree = self._directory / _TREE

        def build(store: Store) -> None:
            store.build(tree)
            store.prune()
            store.close()

        await self._with_store(build)
        await self._fork.prepare("aiomas.cluster.shipping:look_in", os.fspath(tree))
        self.arrived.set()
        return os.fspath(tree)

    async def close(self) -> None:
        """Leave nothing behind of what has not become a tree."""
        if self._store is not None:
            await self._with_store(Store.close)

    async def _with_store(self, use: Callable[[Store], T]) -> T:
        """Use the store in a thread, one after the other, and to the end if we are cancelled."""
        assert self._store is not None  # noqa: S101 - the driver has asked what is missing
        async with self._using:
            working = asyncio.create_task(asyncio.to_thread(use, self._store))
            try:
                return await asyncio.shield(working)
            except asyncio.CancelledError:
                await asyncio.wait({working})
                raise


def look_in(tree: str) -> None:
    """Let modules be imported from a directory, before any other."""
    sys.path.insert(0, tree)
