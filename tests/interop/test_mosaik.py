"""Our channels and RPC connections work together with mosaik's API (JSON), in both directions.

A mosaik request is the list `[function, args, kwargs]`, as an RPC call of ours is, and its failures
are lists `[type, message, trace...]`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import aiomas
from aiomas import rpc
from aiomas.channel import Channel, Request, open_connection, start_server

from .conftest import StartPeer
from .peer import PATIENCE, Peer

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60, func_only=True)]


class Simulator:
    """A simulator as an RPC service of ours."""

    router = rpc.Service()

    @rpc.expose
    def init(self, sid: str, step_size: int = 1) -> dict[str, Any]:
        return {"sid": sid, "step_size": step_size}

    @rpc.expose
    async def create(self, num: int, model: str) -> list[dict[str, str]]:
        return [{"eid": f"e{i}", "type": model} for i in range(num)]

    @rpc.expose
    def fail(self) -> None:
        raise ValueError("boom")

    @rpc.expose
    def get_progress(self, of: str) -> str:
        return f"progress of {of}"


@asynccontextmanager
async def one_channel() -> AsyncIterator[tuple[int, asyncio.Future[Channel]]]:
    """A port at which we listen, and the channel of the one who connects."""
    channel = asyncio.get_running_loop().create_future()
    async with await start_server(("127.0.0.1", 0), channel.set_result) as server:
        yield server.sockets[0].getsockname()[1], channel
    if channel.done():
        await channel.result().close()


class TestMosaikDialsUs:
    async def test_its_requests_are_calls_to_an_rpc_service(self, start_mosaik: StartPeer) -> None:
        clients: list[rpc.RpcClient] = []
        async with await rpc.start_server(("127.0.0.1", 0), Simulator(), clients.append) as server:
            peer = await start_mosaik("client.py", str(server.sockets[0].getsockname()[1]))
            assert await peer.says() == "connected"
            init = ["init", ["sim-0"], {"step_size": 5}]
            assert await peer.do("send", init) == {"sid": "sim-0", "step_size": 5}
            create = [["create", [number, "M"], {}] for number in range(20)]
            created = await peer.do("send_many", create)
            assert [len(entities) for entities in created] == list(range(20))
            # And the other way round: what it answers is the request itself.
            assert await clients[0].remote.get_progress(1, of=2) == [
                "get_progress",
                [1],
                {"of": 2},
            ]
            await clients[0].close()

    @pytest.mark.parametrize("function", ["fail", "no_such_thing"])
    async def test_a_failing_call_is_an_exception_over_there(
        self, start_mosaik: StartPeer, function: str
    ) -> None:
        clients: list[rpc.RpcClient] = []
        async with await rpc.start_server(("127.0.0.1", 0), Simulator(), clients.append) as server:
            peer = await start_mosaik("client.py", str(server.sockets[0].getsockname()[1]))
            assert await peer.says() == "connected"
            # It expects a list, and takes the text of an aiomas failure for a list of characters.
            first, second, others = await peer.do("fail", [function, [], {}])
            text = first + second + "".join(others)
            assert ("ValueError: boom" if function == "fail" else "LookupError") in text
            await clients[0].close()

    async def test_a_handler_may_fail_in_the_way_that_mosaik_does(
        self, start_mosaik: StartPeer
    ) -> None:
        async with one_channel() as (port, connected):
            peer = await start_mosaik("client.py", str(port))
            assert await peer.says() == "connected"
            channel = await connected
            await peer.start("fail", ["step", [0], {}])
            request: Request = await channel.recv()
            assert request.content == ["step", [0], {}]
            await request.fail(["ValueError", "boom", "Traceback...\n", "  more\n"])
            assert await peer.says() == ["ValueError", "boom", ["Traceback...\n", "  more\n"]]

    async def test_its_failure_is_a_remote_exception_here(self, start_mosaik: StartPeer) -> None:
        async with one_channel() as (port, connected):
            peer = await start_mosaik("client.py", str(port))
            assert await peer.says() == "connected"
            channel = await connected
            assert await channel.send(["spam", [1], {}]) == ["spam", [1], {}]
            with pytest.raises(aiomas.RemoteException) as caught:
                await channel.send(["fail", [], {}])
            assert_is_boom(caught.value)

    async def test_a_real_simulator_runs(self, start_mosaik: StartPeer) -> None:
        async with one_channel() as (port, connected):
            await start_mosaik("simulator.py", f"127.0.0.1:{port}")
            async with asyncio.timeout(PATIENCE):
                channel = await connected
            mosaik = rpc.RpcClient(channel, Mosaik())
            remote = mosaik.remote
            async with asyncio.timeout(PATIENCE):
                meta = await remote.init("counter-0", time_resolution=1.0)
                assert meta["models"]["Counter"]["attrs"] == ["value"]
                assert await remote.create(2, "Counter", start=5) == [
                    {"eid": "c0", "type": "Counter"},
                    {"eid": "c1", "type": "Counter"},
                ]
                await remote.setup_done()
                assert await remote.step(0, {}, 10) == 1
                data = await remote.get_data({"c1": ["value"]})
                assert data == {"c1": {"value": 17.5}}
                with pytest.raises(aiomas.RemoteException, match="there is no nobody"):
                    await remote.get_data({"nobody": ["value"]})
                with pytest.raises(ConnectionError):  # it ends without an answer
                    await remote.stop()


class Mosaik:
    """What a simulator may ask mosaik."""

    router = rpc.Service()

    @rpc.expose
    def get_progress(self) -> float:
        return 12.5


class TestWeDialMosaik:
    @pytest.fixture
    async def mosaik(self, start_mosaik: StartPeer) -> tuple[Peer, int]:
        """A program that accepts connections with mosaik's API, and its port."""
        peer = await start_mosaik("server.py")
        return peer, await peer.says()

    async def test_it_answers_our_requests(self, mosaik: tuple[Peer, int]) -> None:
        channel = await open_connection(("127.0.0.1", mosaik[1]))
        init = ["init", ["sim-0"], {"step_size": 5}]
        assert await channel.send(init) == {"sid": "sim-0", "step_size": 5}
        with pytest.raises(aiomas.RemoteException) as caught:
            await channel.send(["fail", [], {}])
        assert_is_boom(caught.value)
        await channel.close()

    async def test_its_functions_can_be_called_by_rpc(self, mosaik: tuple[Peer, int]) -> None:
        client = await rpc.open_connection(("127.0.0.1", mosaik[1]))
        result = await client.remote.init("sim-0", step_size=5)
        assert result == {"sid": "sim-0", "step_size": 5}
        created = await asyncio.gather(
            *(client.remote.create(number, model="M") for number in range(20))
        )
        assert [len(entities) for entities in created] == list(range(20))
        with pytest.raises(aiomas.RemoteException) as caught:
            await client.remote.fail()
        assert_is_boom(caught.value)
        await client.close()

    async def test_it_can_ask_back(self, mosaik: tuple[Peer, int]) -> None:
        client = await rpc.open_connection(("127.0.0.1", mosaik[1]), rpc_service=Simulator())
        assert await client.remote.get_progress() == "progress of me"
        caught = await client.remote.get_failure()
        assert caught["types"][0] == "RemoteException"
        await client.close()

    async def test_closing_is_the_end_of_requests_over_there(
        self, mosaik: tuple[Peer, int]
    ) -> None:
        client = await rpc.open_connection(("127.0.0.1", mosaik[1]))
        assert await client.remote.create(0, "M") == []
        await client.close()
        assert await mosaik[0].says() == "the end"


def assert_is_boom(caught: aiomas.RemoteException) -> None:
    """Check what became of a `ValueError("boom")` that mosaik raised."""
    kind, message, *trace = caught.remote_traceback
    assert (kind, message) == ("ValueError", "boom")
    assert trace[0].startswith("Traceback")
    text = str(caught)
    assert "ValueError" in text
    assert "boom" in text
    assert all(line.strip() in text for line in trace)
