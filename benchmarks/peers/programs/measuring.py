"""What the programs of all peers share: how they are told what to do, and how they count.

A program is run as ``program.py serve OPTIONS`` and ``program.py call OPTIONS`` with options in
JSON.  A server prints its address as JSON and ends when its input does.  A caller prints ``null``
when it is ready; then it reads ``[measure, seconds]`` in JSON from each line of its input and
prints the figure.  Needs the standard library only and works with Python 3.8, too.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

PAYLOAD = "x" * 16
MIB = 2**20
BLOB = b"x" * MIB


def options() -> dict[str, Any]:
    """Return the options that the program was started with, the ``role`` among them."""
    return {"role": sys.argv[1], **json.loads(sys.argv[2])}


def say(value: Any) -> None:
    """Tell the runner something."""
    print(json.dumps(value), flush=True)


def free_port() -> int:
    """Return a port that nobody listens on, for libraries that cannot take any free one."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def wait_for_end() -> None:
    """Return when nobody needs this program any more."""
    sys.stdin.read()


async def wait_for_end_async() -> None:
    """Return when nobody needs this program any more; the event loop runs meanwhile."""
    await asyncio.get_running_loop().run_in_executor(None, wait_for_end)


def run(main: Any, loop_name: str = "asyncio") -> None:
    """Run a coroutine on the event loop with this name."""
    new_event_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if loop_name == "uvloop":
        import uvloop  # noqa: PLC0415 - not in all environments

        new_event_loop = uvloop.new_event_loop
    loop = new_event_loop()
    asyncio.set_event_loop(loop)
    loop.run_until_complete(main)


def _orders() -> Iterator[Any]:
    say(None)
    for line in iter(sys.stdin.readline, ""):
        yield json.loads(line)


def obey(measures: dict[str, Callable[[float], float]]) -> None:
    """Measure what the runner asks for, until it needs no more."""
    for name, seconds in _orders():
        say(measures[name](seconds))


async def obey_async(measures: dict[str, Callable[[float], Awaitable[float]]]) -> None:
    """Measure what the runner asks for, until it needs no more; the loop runs meanwhile."""
    loop = asyncio.get_running_loop()
    orders = _orders()
    while (order := await loop.run_in_executor(None, next, orders, None)) is not None:
        name, seconds = order
        say(await measures[name](seconds))


def rate(step: Callable[[], Any], calls: int, seconds: float) -> float:
    """Repeat *step*, which makes so many *calls*, and return calls per second."""
    steps, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        step()
        steps += 1
    return steps * calls / elapsed


async def rate_async(step: Callable[[], Awaitable[Any]], calls: int, seconds: float) -> float:
    """Repeat *step*, which makes so many *calls*, and return calls per second."""
    steps, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        await step()
        steps += 1
    return steps * calls / elapsed


def measures_of(call: Callable[[Any], Any]) -> dict[str, Callable[[float], float]]:
    """Return what can be measured with a function that calls and waits for the echo."""

    def sequential() -> None:
        for _ in range(50):
            call(PAYLOAD)

    def mebibyte() -> None:
        assert len(call(BLOB)) == MIB

    assert call(PAYLOAD) == PAYLOAD
    return {
        "sequential": lambda seconds: rate(sequential, 50, seconds),
        "mebibyte": lambda seconds: 2 * MIB / 1e9 * rate(mebibyte, 1, seconds),
    }


def async_measures_of(
    call: Callable[[Any], Awaitable[Any]],
) -> dict[str, Callable[[float], Awaitable[float]]]:
    """Return what can be measured with a function that returns an awaitable of the echo."""

    async def sequential() -> None:
        for _ in range(50):
            await call(PAYLOAD)

    async def mebibyte() -> None:
        assert len(await call(BLOB)) == MIB

    def in_flight(count: int) -> Callable[[float], Awaitable[float]]:
        async def step() -> None:
            await asyncio.gather(*[call(PAYLOAD) for _ in range(count)])

        return lambda seconds: rate_async(step, count, seconds)

    async def measure_mebibyte(seconds: float) -> float:
        return 2 * MIB / 1e9 * await rate_async(mebibyte, 1, seconds)

    return {
        "sequential": lambda seconds: rate_async(sequential, 50, seconds),
        "in_flight_64": in_flight(64),
        "in_flight_1000": in_flight(1000),
        "mebibyte": measure_mebibyte,
    }
