"""Starts container processes on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import sys
from pathlib import Path

from aiomas import rpc
from aiomas.codecs import MsgPack
from aiomas.exceptions import RemoteException

logger = logging.getLogger(__name__)

_KILL_TIMEOUT = 5.0  # seconds that the system may take to end a killed process

# The new process gets our sys.path before it imports anything of ours.
_BOOT = """\
import json, sys
control, guard, directory, uvloop, sys.path[:] = json.loads(sys.argv.pop())
from aiomas.cluster.worker import main
main(control, guard, directory, uvloop=uvloop)
"""


class WorkerProcess:
    """A container process and the stream to its control service."""

    def __init__(
        self, process: asyncio.subprocess.Process, control: rpc.RpcClient, guard: int
    ) -> None:
        self.process = process
        self.control = control
        self._guard: int | None = guard

    @classmethod
    async def start(cls, directory: Path, *, uvloop: bool) -> WorkerProcess:
        """Start a process; it answers on its control stream as soon as it runs.

        Args:
            directory: that of the run, which the process removes if the driver dies.
            uvloop: whether it runs uvloop.
        """
        ours, theirs = socket.socketpair()
        guard_read, guard_write = os.pipe()
        argument = json.dumps([theirs.fileno(), guard_read, str(directory), uvloop, sys.path])
        process = None
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    *("-c", _BOOT, argument),
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), guard_read),
                    start_new_session=True,  # so that it does not see Ctrl-C
                )
            ours.setblocking(False)
            control = await rpc.open_connection(None, sock=ours, codec=MsgPack)
        except BaseException:
            ours.close()
            os.close(guard_write)
            if process is not None:
                process.kill()
                await process.wait()
            raise
        finally:
            os.close(guard_read)
        return cls(process, control, guard_write)

    async def stop(self, timeout: float) -> None:
        """End the process: ask it, then SIGTERM, then SIGKILL, each with *timeout* seconds."""
        try:
            await self._ask_to_stop(timeout)
            await self.control.close()
            if not await self._wait(timeout):
                with contextlib.suppress(ProcessLookupError):
                    self.process.terminate()
                await self._wait(timeout)
        finally:  # also if we are cancelled
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            self.control.close()
            guard, self._guard = self._guard, None
            if guard is not None:  # else it was done before
                os.close(guard)
            await self._wait(_KILL_TIMEOUT)

    async def _ask_to_stop(self, timeout: float) -> None:
        try:
            async with asyncio.timeout(timeout):
                await self.control.remote.stop()
        except (ConnectionError, TimeoutError):
            pass  # it will be ended without its help
        except RemoteException as exc:
            logger.warning("The container process %s failed to stop: %s", self.process.pid, exc)

    async def _wait(self, timeout: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self.process.wait()
                return True
        return False
