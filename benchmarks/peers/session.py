"""Runs the programs of one library: its server and its caller, as long as they are needed.

Each wait has a limit, and everything that was started is ended, whatever happens.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO, Any

import psutil

from benchmarks.peers.catalogue import Peer
from tests.interop.environments import clean_environment, last_error

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).parent / "programs"
START_TIMEOUT = 60.0
"""Seconds that a program may take to be ready; Ray needs ten of them on a small machine."""
MEASURE_TIMEOUT = 20.0
"""Seconds that a measurement may take longer than it should."""
END_TIMEOUT = 10.0
"""Seconds that a program may take to end by itself."""


class PeerError(Exception):
    """A program failed; the message is the reason."""


class Program:
    """A process that answers in lines of JSON."""

    def __init__(self, process: asyncio.subprocess.Process, errors: IO[str]) -> None:
        self._process = process
        self._errors = errors

    async def answer(self, timeout: float) -> Any:
        """Return the next thing that the program says.

        Raises:
            PeerError: it ended, or said nothing for *timeout* seconds, or no JSON.
        """
        assert self._process.stdout is not None
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), timeout)
        except TimeoutError:
            msg = f"no answer within {timeout:.0f} s"
            raise PeerError(msg) from None
        if not line:
            self._errors.seek(0)
            raise PeerError(last_error(self._errors.read()))
        try:
            return json.loads(line)
        except ValueError:
            msg = f"not an answer: {line[:80]!r}"
            raise PeerError(msg) from None

    async def ask(self, measure: str, seconds: float) -> float:
        """Return the figure of one measurement.

        Raises:
            PeerError: there is none.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([measure, seconds]).encode() + b"\n")
        return float(await self.answer(seconds + MEASURE_TIMEOUT))


@contextlib.asynccontextmanager
async def program(peer: Peer, python: Path, role: str, **options: Any) -> AsyncIterator[Program]:
    """Run the program of *peer*, with *python*, for an ``async with`` block."""
    environment = clean_environment()
    if peer.environment is None:
        environment["PYTHONPATH"] = str(ROOT)  # to measure what is here, whatever is installed
    command = [str(PROGRAMS / peer.program), role, json.dumps({"loop": peer.loop, **options})]
    with tempfile.TemporaryFile("w+") as errors:
        process = await asyncio.create_subprocess_exec(
            python,
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env=environment,
            cwd=PROGRAMS,
            start_new_session=True,  # Ctrl-C is for the runner, which ends the others
        )
        try:
            yield Program(process, errors)
        finally:
            await end(process)


async def end(process: asyncio.subprocess.Process) -> None:
    """End *process* and all that it started: by the end of its input or, if need be, by force."""
    assert process.stdin is not None
    started: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        started = psutil.Process(process.pid).children(recursive=True)
    process.stdin.close()
    try:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), END_TIMEOUT)
    finally:  # also when somebody presses Ctrl-C again
        for left in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                left.kill()
        # Its group has what is left if it ended by itself before it could be asked for children.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


@contextlib.asynccontextmanager
async def session(peer: Peer, python: Path, needs: str, certs: Path) -> AsyncIterator[Program]:
    """Start what *peer* needs and yield its caller, which is ready.

    Args:
        needs: see :class:`~benchmarks.peers.catalogue.Measure`.
        certs: the folder of the certificates for mutual TLS.

    Raises:
        PeerError: a program failed.
    """
    tls = str(certs) if needs == "tls" else None
    async with contextlib.AsyncExitStack() as stack:
        address = None
        if needs != "local" and peer.has_server:
            server = await stack.enter_async_context(program(peer, python, "serve", tls=tls))
            address = await server.answer(START_TIMEOUT)
        caller = await stack.enter_async_context(
            program(peer, python, "call", tls=tls, address=address)
        )
        await caller.answer(START_TIMEOUT)
        yield caller
