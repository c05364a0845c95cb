"""Containers on sockets that somebody else has bound, and keeps."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aiomas import local_queue
from aiomas.agent import Container
from aiomas.exceptions import AddressError

from .world import Worker, World, until

over_sockets = pytest.mark.parametrize("world", ["tcp", "unix"], indirect=True)


class Address:
    """A socket that listens, and of which containers get duplicates."""

    def __init__(self, world: World) -> None:
        if world.kind == "tcp":
            self.listening = socket.create_server(("127.0.0.1", 0))
            self.addr: Any = ("127.0.0.1", 0)
            self.url = f"tcp://127.0.0.1:{self.listening.getsockname()[1]}/"
        else:
            self.addr = world.unix_path + "bound"
            self.listening = socket.socket(socket.AF_UNIX)
            self.listening.bind(self.addr)
            self.listening.listen()
            self.url = f"ipc://[{self.addr}]/"
        self.world = world

    def duplicate(self) -> socket.socket:
        return socket.socket(fileno=os.dup(self.listening.fileno()))

    async def worker(self, sock: socket.socket | None = None, **kwds: Any) -> Worker:
        """Return an agent in a new container at this address."""
        sock = sock or self.duplicate()
        container = await Container.create(self.addr, sock=sock, as_coro=True, **kwds)
        self.world.containers.append(container)
        return self.world.take(Worker(container))

    def connect(self) -> socket.socket:
        client = socket.socket(self.listening.family)
        client.connect(self.listening.getsockname())
        return client


@pytest.fixture
def address(world: World) -> Iterator[Address]:
    address = Address(world)
    yield address
    address.listening.close()
    if world.kind == "unix":
        Path(address.addr).unlink(missing_ok=True)


@over_sockets
class TestServing:
    async def test_agents_have_the_address_of_the_socket(self, world, address):
        worker, one = await address.worker(), await world.worker()
        assert worker.container.base_url == address.url
        assert await (await one.container.connect(worker.addr)).echo("spam") == "spam"

    async def test_a_socket_that_does_not_listen_yet(self, world, unix_path):
        sock = socket.socket(socket.AF_INET if world.kind == "tcp" else socket.AF_UNIX)
        sock.bind(("127.0.0.1", 0) if world.kind == "tcp" else unix_path)
        addr: Any = ("127.0.0.1", 0) if world.kind == "tcp" else unix_path
        worker = Worker(await world.container(addr=addr, sock=sock))
        one = await world.worker()
        assert await (await one.container.connect(worker.addr)).echo("spam") == "spam"
        await worker.container.shutdown(as_coro=True)
        if world.kind == "unix":
            Path(unix_path).unlink()

    async def test_a_proxy_works_again_with_the_next_container(self, world, address):
        first, one = await address.worker(), await world.worker()
        proxy = await one.container.connect(first.addr)
        assert await proxy.echo(1) == 1
        await first.container.shutdown(as_coro=True)
        second = await address.worker()
        assert second.addr == first.addr
        assert await proxy.echo(2) == 2
        assert (first.log, second.log) == ([1], [2])

    async def test_who_comes_while_nobody_serves_waits_for_the_next_one(self, world, address):
        first, one = await address.worker(), await world.worker()
        await first.container.shutdown(as_coro=True)
        call = one.container.proxy(first.addr).echo("spam")
        connecting = asyncio.create_task(one.container.connect(first.addr))
        done, _ = await asyncio.wait([call, connecting], timeout=0.1)
        assert not done
        second = await address.worker()
        assert await call == "spam"
        assert await (await connecting).echo("eggs") == "eggs"
        assert second.log == ["spam", "eggs"]

    async def test_two_containers_can_share_it(self, world, address):
        """As they do for a moment when the old one has not ended yet."""
        first, second = await address.worker(), await address.worker()
        await first.container.shutdown(as_coro=True)
        one = await world.worker()
        assert await (await one.container.connect(first.addr)).echo("spam") == "spam"
        assert second.log == ["spam"]

    async def test_a_container_with_a_token(self, world, address):
        worker, one = await address.worker(token="x"), await world.worker(token="x")
        assert await (await one.container.connect(worker.addr)).echo("spam") == "spam"


@over_sockets
class TestClosing:
    async def test_closes_the_socket_and_nothing_else(self, world, address):
        sock = address.duplicate()
        worker = await address.worker(sock=sock)
        await worker.container.shutdown(as_coro=True)
        assert sock.fileno() == -1
        assert address.listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        with address.connect():
            await until(lambda: self.accepts(address))
        if world.kind == "unix":
            assert Path(address.addr).is_socket()

    async def test_who_is_the_last_to_close_it_turns_others_away(self, world, address):
        worker = await address.worker()
        address.listening.close()
        one = await world.worker()
        assert await (await one.container.connect(worker.addr)).echo("spam") == "spam"
        await worker.container.shutdown(as_coro=True)
        with pytest.raises(ConnectionRefusedError):
            await one.container.connect(worker.addr)

    def accepts(self, address: Address) -> bool:
        with contextlib.suppress(BlockingIOError):
            address.listening.accept()[0].close()
            return True
        return False


@over_sockets
class TestWhatDoesNotFit:
    async def test_another_kind_of_address(self, world, address):
        other: Any = ("127.0.0.1", 0) if world.kind == "unix" else "/tmp/x"
        for addr in (other, local_queue.get_queue("x")):
            with address.duplicate() as sock:
                with pytest.raises(ValueError, match="sock has to be bound to"):
                    await Container.create(addr, sock=sock, as_coro=True)
                assert sock.fileno() >= 0

    async def test_what_is_no_address(self, world, address):
        with address.duplicate() as sock, pytest.raises(AddressError):
            await Container.create(5, sock=sock, as_coro=True)  # type: ignore[call-overload]

    async def test_what_is_not_bound(self, world, address):
        with (
            socket.socket(address.listening.family) as sock,
            pytest.raises(ValueError, match="bound"),
        ):
            await Container.create(address.addr, sock=sock, as_coro=True)

    async def test_what_is_no_socket(self, world, address):
        with pytest.raises(TypeError, match=r"socket\.socket"):
            await Container.create(address.addr, sock=3, as_coro=True)  # type: ignore[call-overload]
