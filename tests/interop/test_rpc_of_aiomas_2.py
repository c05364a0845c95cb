"""RPC connections without containers work between ours and aiomas 2.0.1, in both directions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

import aiomas
import aiomas.codecs
from aiomas import rpc

from .agents import Meter, Point, point_serializer
from .conftest import StartPeer
from .peer import PATIENCE, Peer

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60, func_only=True)]

CODECS: dict[str, type[aiomas.codecs.Codec]] = {
    "JSON": aiomas.JSON,
    "MsgPack": aiomas.MsgPack,
    "MsgPackBlosc": aiomas.MsgPackBlosc,
}


@rpc.expose
def double(value: int) -> int:
    return 2 * value


class Site:
    router = rpc.Service(["meter", "functions"])

    def __init__(self) -> None:
        self.meter = Meter()
        self.functions = rpc.ServiceDict({"double": double})
        self.clients: list[rpc.RpcClient] = []

    @rpc.expose
    def add(self, a: int, b: int = 0) -> int:
        return a + b

    @rpc.expose
    def get_meter(self) -> Meter:
        return self.meter

    @rpc.expose
    async def read_meter(self, meter: Any) -> Any:
        return await meter.read()

    @rpc.expose
    async def ask_back(self) -> Any:
        return await self.clients[-1].remote.add(20, b=1)

    @rpc.expose
    def fail(self) -> None:
        raise ValueError("boom")

    @rpc.expose
    def point(self, point: Point) -> Point:
        return Point(point.x + 1, point.y + "!")


@pytest.fixture(params=CODECS)
def codec(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# Without types of the user's, a service has the first number on the wire, and with them the last.
@pytest.fixture(params=["types", "no types"])
def types(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def kwds(codec: str, types: str) -> dict[str, Any]:
    serializers = [point_serializer] if types == "types" else []
    return {"codec": CODECS[codec], "extra_serializers": serializers}


@pytest.fixture
async def old(start_old: StartPeer, codec: str, types: str) -> Peer:
    return await start_old("rpc.py", codec, types)


@pytest.fixture
async def site(kwds: dict[str, Any]) -> AsyncIterator[tuple[Site, int]]:
    """A site of ours, and the port at which it is served."""
    site = Site()
    async with await rpc.start_server(
        ("127.0.0.1", 0), site, site.clients.append, **kwds
    ) as server:
        yield site, server.sockets[0].getsockname()[1]
    for client in site.clients:
        await client.close()


class TestNewDialsOld:
    async def test_calls_to_services_and_dictionaries(
        self, old: Peer, kwds: dict[str, Any]
    ) -> None:
        client = await rpc.open_connection(("127.0.0.1", await old.says()), **kwds)
        remote = client.remote
        assert await remote.add(1, b=2) == 3
        assert await remote.meter.read() == 4
        assert await remote.functions.double(21) == 42
        meter = await remote.get_meter()
        assert await meter.read() == 4
        with pytest.raises(aiomas.RemoteException, match="ValueError: boom"):
            await remote.fail()
        await client.close()

    async def test_callbacks(self, old: Peer, kwds: dict[str, Any]) -> None:
        ours = Site()
        port = await old.says()
        client = await rpc.open_connection(("127.0.0.1", port), rpc_service=ours, **kwds)
        assert await client.remote.read_meter(ours.meter) == 4
        assert await old.do("call_last_client") == 3
        await client.close()

    @pytest.mark.parametrize("types", ["types"])
    async def test_own_types(self, old: Peer, kwds: dict[str, Any]) -> None:
        client = await rpc.open_connection(("127.0.0.1", await old.says()), **kwds)
        point = await client.remote.point(Point(1, "z"))
        assert (point.x, point.y) == (2, "z!")
        await client.close()

    @pytest.mark.parametrize("types", ["no types"])
    async def test_old_server_learns_that_we_have_gone(
        self, old: Peer, kwds: dict[str, Any]
    ) -> None:
        client = await rpc.open_connection(("127.0.0.1", await old.says()), **kwds)
        assert await client.remote.add(1) == 1
        await client.close()
        assert "ConnectionResetError" in (await old.says())["types"]

    @pytest.mark.parametrize("types", ["no types"])
    async def test_our_client_learns_that_the_server_has_gone(
        self, old: Peer, kwds: dict[str, Any]
    ) -> None:
        client = await rpc.open_connection(
            ("127.0.0.1", await old.says()), rpc_service=Site(), **kwds
        )
        gone = asyncio.get_running_loop().create_future()
        client.on_connection_reset(gone.set_result)
        assert await client.remote.add(1) == 1
        await old.kill()
        async with asyncio.timeout(PATIENCE):
            assert isinstance(await gone, ConnectionResetError)
        with pytest.raises(ConnectionResetError):
            await client.remote.add(1)


class TestOldDialsNew:
    @pytest.mark.parametrize("with_service", [False, True])
    async def test_calls_to_services_and_dictionaries(
        self, old: Peer, site: tuple[Site, int], with_service: bool
    ) -> None:
        await old.says()
        await old.do("connect", site[1], with_service)
        assert await old.do("calls") == [3, 4, 42, 4]
        caught = await old.do("fail")
        assert caught["types"][0] == "RemoteException"
        assert "ValueError: boom" in caught["text"]

    async def test_callbacks(self, old: Peer, site: tuple[Site, int]) -> None:
        await old.says()
        await old.do("connect", site[1], True)
        assert await old.do("callbacks") == [4, 21]

    @pytest.mark.parametrize("types", ["types"])
    async def test_own_types(self, old: Peer, site: tuple[Site, int]) -> None:
        await old.says()
        await old.do("connect", site[1], False)
        assert await old.do("points") == ["Point", 2, "z!"]

    @pytest.mark.parametrize("types", ["no types"])
    async def test_our_server_learns_that_the_client_has_gone(
        self, old: Peer, site: tuple[Site, int]
    ) -> None:
        await old.says()
        await old.do("connect", site[1], True)
        assert await old.do("calls")
        gone = asyncio.get_running_loop().create_future()
        site[0].clients[0].on_connection_reset(gone.set_result)
        await old.do("close")
        async with asyncio.timeout(PATIENCE):
            assert isinstance(await gone, ConnectionResetError)

    @pytest.mark.parametrize("types", ["no types"])
    async def test_old_client_learns_that_our_server_has_gone(
        self, old: Peer, site: tuple[Site, int]
    ) -> None:
        await old.says()
        await old.do("connect", site[1], True)
        assert await old.do("calls")
        await site[0].clients[0].close()
        assert "ConnectionResetError" in (await old.says())["types"]
