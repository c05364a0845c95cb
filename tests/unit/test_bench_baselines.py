"""Baselines of the benchmarks: they echo what they get, however it is cut on its way."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks import baselines

VALUES = ("", "x" * 16, "y" * 2_000)
LARGE = "z" * 300_000
"""More than is read at once."""


class Pipe(asyncio.Transport):
    """Hands what is written to the other end, in pieces of *size* bytes."""

    def __init__(self, size):
        super().__init__()
        self.size = size
        self.other = None

    def write(self, data):
        data = bytes(data)
        for start in range(0, len(data), self.size):
            deliver(self.other, data[start : start + self.size])


def deliver(protocol, data):
    """Do what an event loop does that has received *data*."""
    if not isinstance(protocol, asyncio.BufferedProtocol):
        protocol.data_received(data)
        return
    while data:
        buffer = memoryview(protocol.get_buffer(-1))
        count = min(len(buffer), len(data))
        buffer[:count] = data[:count]
        protocol.buffer_updated(count)
        data = data[count:]


def join(name, size):
    """Return a client and a server that are connected."""
    server_type, client_type = baselines.PAIRS[name]
    client, server = client_type(), server_type()
    for one, other in ((client, server), (server, client)):
        pipe = Pipe(size)
        pipe.other = other
        one.connection_made(pipe)
    return client


@pytest.mark.parametrize("size", [1, 7, 65_536, 10**6])
@pytest.mark.parametrize("name", baselines.PAIRS)
async def test_values_come_back(name, size):
    values = (*VALUES, LARGE) if size > len(VALUES[-1]) else VALUES
    client = join(name, size)
    assert tuple([await client.call(value) for value in values]) == values


@pytest.mark.parametrize("name", baselines.PAIRS)
async def test_many_are_in_flight(name):
    client = join(name, 1000)
    values = [str(number) for number in range(200)]
    assert await asyncio.gather(*[client.call(value) for value in values]) == values


@pytest.mark.parametrize("name", sorted(set(baselines.PAIRS) - {"P on json"}))
async def test_bytes_come_back(name):
    client = join(name, 65_536)
    value = bytes(range(256)) * 4096
    assert await client.call(value) == value
