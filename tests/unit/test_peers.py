"""The pool of connections: one dial for all who want it, new ones after a loss, calls in order."""

from __future__ import annotations

import asyncio
import gc
import weakref
from types import SimpleNamespace

import pytest

from aiomas import local_queue, rpc
from aiomas._address import IpcAddress
from aiomas._current import Call, serving
from aiomas._peers import Peer, Pool
from aiomas.exceptions import ConnectionLost, ContainerClosedError, Outcome, SerializationError

ADDRESS = IpcAddress("there")


class Log:
    router = rpc.Service()

    def __init__(self) -> None:
        self.calls: list = []

    @rpc.expose
    def add(self, item):
        self.calls.append(item)
        return item

    @rpc.expose
    async def hang(self):
        await asyncio.get_running_loop().create_future()


class World:
    """A pool, and a server which dials lead to when `gate` is open and `error` is not set."""

    def __init__(self) -> None:
        self.service = Log()
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.dials = 0
        self.dialling = asyncio.Event()
        self.cancelled = 0
        self.ended = asyncio.Event()
        self.accepted: list[rpc.RpcClient] = []
        self.queue = local_queue.LocalQueue("there")
        self.lost = False
        self.pool = Pool(self.dial, asyncio.get_running_loop(), loss=self.loss)

    async def __aenter__(self):
        self.server = await rpc.start_server(self.queue, self.service, self.accepted.append)
        return self

    async def __aexit__(self, *exc_info):
        self.server.close()
        await self.pool.close()
        for client in (*self.accepted, *self.pool.clients):
            for task in client.dispatcher.handlers if client.dispatcher is not None else ():
                task.cancel()
            await client.close()

    def loss(self, url):
        return ConnectionLost(f"{url} was lost") if self.lost else None

    def lose(self):
        self.lost = True
        self.pool.give_up([ADDRESS.url])

    async def dial(self, address):
        assert address == ADDRESS
        self.dials += 1
        self.dialling.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            self.ended.set()
            raise
        if self.error is not None:
            raise type(self.error)(*self.error.args)
        return await rpc.open_connection(self.queue)

    @property
    def peer(self) -> Peer:
        return self.pool.peer(ADDRESS)


@pytest.fixture
async def world():
    async with World() as world:
        yield world


def call(peer: Peer, item) -> asyncio.Future:
    return peer.send(("add", (item,), {}))


async def follow(first: asyncio.Future, connect):
    """Connect in the very moment in which *first* has ended."""
    gone = asyncio.get_running_loop().create_future()
    first.add_done_callback(lambda _: gone.set_result(None))
    await gone
    return await connect()


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class TestConnecting:
    async def test_all_who_want_a_connection_share_one_dial(self, world):
        peer = world.peer
        connections = await asyncio.gather(*(peer.connect() for _ in range(10)))
        assert len(set(map(id, connections))) == 1
        assert world.dials == 1
        assert await peer.connect() is connections[0]
        assert world.pool.clients == [connections[0]]

    async def test_there_is_one_peer_for_an_address(self, world):
        peer = world.peer
        assert world.peer is peer
        assert world.pool.peer(IpcAddress("elsewhere")) is not peer
        assert peer.peer == ADDRESS.url

    async def test_all_who_wait_share_one_error_and_the_next_dials_again(self, world):
        world.gate.clear()
        peer = world.peer
        waiting = [asyncio.ensure_future(peer.connect()) for _ in range(5)]
        waiting += [call(peer, n) for n in range(5)]
        await world.dialling.wait()
        world.error = ConnectionRefusedError("nobody there")
        world.gate.set()
        errors = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(error) for error in errors] == [ConnectionRefusedError] * 5 + [
            ConnectionLost
        ] * 5
        assert all("nobody there" in str(error) for error in errors)
        assert isinstance(errors[-1].__cause__, ConnectionRefusedError)
        assert world.dials == 1

        world.error = None
        assert await call(peer, "again") == "again"
        assert world.dials == 2

    async def test_a_failed_attempt_leaves_nothing_behind(self, world):
        world.error = ConnectionRefusedError()
        peer = world.peer
        with pytest.raises(ConnectionRefusedError):
            await peer.connect()
        failed = call(peer, 1)
        with pytest.raises(ConnectionResetError):
            await failed
        await turns()
        del failed
        reference = weakref.ref(peer)
        del peer
        gc.collect()
        assert reference() is None
        assert not world.pool._peers
        assert not world.pool._active

    async def test_one_who_is_cancelled_does_not_cancel_the_dial_of_others(self, world):
        world.gate.clear()
        peer = world.peer
        first, second = [asyncio.ensure_future(peer.connect()) for _ in range(2)]
        await world.dialling.wait()
        first.cancel()
        await asyncio.wait([first])
        await turns()
        assert world.cancelled == 0
        world.gate.set()
        assert await second is peer.connection
        assert first.cancelled()

    async def test_calls_that_wait_keep_the_dial_alive(self, world):
        world.gate.clear()
        peer = world.peer
        connecting = asyncio.ensure_future(peer.connect())
        future = call(peer, 1)
        await world.dialling.wait()
        connecting.cancel()
        await asyncio.wait([connecting])
        world.gate.set()
        assert await future == 1

    async def test_when_all_are_cancelled_the_dial_ends_and_the_next_starts_anew(self, world):
        world.gate.clear()
        peer = world.peer
        waiting = [asyncio.ensure_future(peer.connect()) for _ in range(3)]
        await world.dialling.wait()
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        await turns()
        assert world.cancelled == 1
        assert not world.pool._active

        world.gate.set()
        assert (await peer.connect()).channel.is_open
        assert world.dials == 2

    async def test_who_comes_just_after_the_last_was_cancelled_gets_a_connection(self, world):
        world.gate.clear()
        peer = world.peer
        first = asyncio.ensure_future(peer.connect())
        await world.dialling.wait()
        second = asyncio.ensure_future(follow(first, peer.connect))
        first.cancel()
        async with asyncio.timeout(2):
            await world.ended.wait()
            world.gate.set()
            assert (await second).channel.is_open
            assert await call(peer, 1) == 1
        assert world.dials == 2

    async def test_a_call_just_after_the_last_was_cancelled_is_made(self, world):
        world.gate.clear()
        peer = world.peer
        first = asyncio.ensure_future(peer.connect())
        await world.dialling.wait()
        futures: list = []
        first.add_done_callback(lambda _: futures.append(call(peer, 1)))
        first.cancel()
        async with asyncio.timeout(2):
            await world.ended.wait()
            world.gate.set()
            assert await futures[0] == 1
        assert world.dials == 2


class TestCalls:
    async def test_calls_made_while_connecting_keep_their_order(self, world):
        world.gate.clear()
        peer = world.peer
        futures = [call(peer, n) for n in range(50)]
        await world.dialling.wait()
        world.gate.set()
        # More are made at each turn of the loop, while the connection comes into being.
        while peer.connection is None:
            futures.append(call(peer, len(futures)))
            await asyncio.sleep(0)
        futures += [call(peer, n) for n in range(len(futures), len(futures) + 50)]
        results = await asyncio.gather(*futures)
        assert results == list(range(len(futures)))
        assert world.service.calls == results
        assert world.dials == 1

    async def test_a_call_that_was_given_up_while_connecting_is_not_made(self, world):
        world.gate.clear()
        peer = world.peer
        given_up, kept = call(peer, 1), call(peer, 2)
        given_up.cancel()
        world.gate.set()
        assert await kept == 2
        assert world.service.calls == [2]

    async def test_of_calls_that_were_given_up_while_connecting_nothing_is_left(self, world):
        world.gate.clear()
        peer = world.peer
        given_up = [call(peer, n) for n in range(1000)]
        kept = call(peer, "kept")
        await world.dialling.wait()
        for future in given_up:
            future.cancel()
        await turns()
        assert world.pool.waiting == 1
        assert world.cancelled == 0
        world.gate.set()
        assert await kept == "kept"
        assert world.service.calls == ["kept"]
        assert world.dials == 1

    async def test_when_all_of_them_were_given_up_so_is_the_dial(self, world):
        world.gate.clear()
        peer = world.peer
        given_up = [call(peer, n) for n in range(10)]
        await world.dialling.wait()
        for future in given_up:
            future.cancel()
        await turns()
        assert world.pool.waiting == 0
        assert world.cancelled == 1
        assert not world.pool._active
        world.gate.set()
        assert await call(peer, "next") == "next"
        assert world.dials == 2

    async def test_but_not_while_somebody_waits_for_the_connection_itself(self, world):
        world.gate.clear()
        peer = world.peer
        connecting = asyncio.ensure_future(peer.connect())
        given_up = call(peer, 1)
        await world.dialling.wait()
        given_up.cancel()
        await turns()
        assert world.cancelled == 0
        world.gate.set()
        assert (await connecting).channel.is_open

    async def test_an_argument_that_cannot_be_sent_fails_its_call_alone(self, world):
        peer = world.peer
        bad, good = call(peer, object()), call(peer, 1)
        with pytest.raises(SerializationError):
            await bad
        assert await good == 1
        with pytest.raises(SerializationError):
            call(peer, object())

    async def test_a_lost_connection_fails_its_calls_and_the_next_dials_anew(self, world):
        peer = world.peer
        assert await call(peer, 1) == 1
        hanging = peer.send(("hang", (), {}))
        await turns()
        world.accepted[0].channel.transport.abort()
        with pytest.raises(ConnectionResetError):
            await hanging
        futures = [call(peer, n) for n in range(2, 5)]
        assert await asyncio.gather(*futures) == [2, 3, 4]
        assert world.dials == 2
        assert world.service.calls == [1, 2, 3, 4]

    async def test_a_connection_that_is_just_closing_is_not_used(self, world):
        peer = world.peer
        old = await peer.connect()
        old.close()
        assert peer.connection is old
        future = call(peer, 1)
        assert (await peer.connect()) is not old
        assert await future == 1
        await turns()
        assert peer.connection is not None
        assert peer.connection.channel.is_open

    async def test_a_peer_in_use_does_not_hold_on_to_a_closed_connection(self, world):
        peer = world.peer
        connection = weakref.ref(await peer.connect())
        await connection().close()  # type: ignore[union-attr]
        await turns()
        world.accepted.clear()
        gc.collect()
        assert connection() is None
        assert world.pool.clients == []

    async def test_a_closed_connection_leaves_nothing_behind(self, world):
        peer = world.peer
        connection = await peer.connect()
        references = [weakref.ref(x) for x in (peer, connection, connection.channel)]
        del peer
        gc.collect()
        assert all(ref() is not None for ref in references)  # connected, so it is kept
        await connection.close()
        await turns()
        del connection
        world.accepted.clear()
        gc.collect()
        assert [ref() for ref in references if ref() is not None] == []
        assert not world.pool._peers


class TestGivingUp:
    async def test_calls_that_are_under_way_and_further_ones_fail(self, world):
        peer = world.peer
        await peer.connect()
        under_way = call(peer, 1)
        world.lose()
        with pytest.raises(ConnectionLost, match="was lost"):
            await call(peer, 2)
        with pytest.raises(ConnectionLost, match="was lost"):
            await peer.connect()
        with pytest.raises(ConnectionLost, match="was lost") as caught:
            await under_way
        assert caught.value.outcome is not None
        assert world.dials == 1
        await turns()
        assert world.pool.clients == []

    async def test_who_waits_for_a_connection_is_told(self, world):
        world.gate.clear()
        peer = world.peer
        connecting = asyncio.ensure_future(peer.connect())
        future = call(peer, 1)
        await world.dialling.wait()
        world.lose()
        for waiting in (connecting, future):
            with pytest.raises(ConnectionLost, match="was lost") as caught:
                await waiting
            assert caught.value.outcome is Outcome.NOT_SENT
        assert (world.dials, world.cancelled) == (1, 1)

    async def test_what_is_found_again_is_called_again(self, world):
        peer = world.peer
        assert await call(peer, 1) == 1
        world.lose()
        world.lost = False
        await turns()
        assert await call(peer, 2) == 2
        assert world.dials == 2

    async def test_others_do_not_matter(self, world):
        peer = world.peer
        assert await call(peer, 1) == 1
        world.lost = True
        world.pool.give_up(["tcp://elsewhere:1/"])
        assert await call(peer, 2) == 2


class TestClosing:
    async def test_who_waits_for_a_connection_is_told(self, world):
        world.gate.clear()
        peer = world.peer
        connecting = asyncio.ensure_future(peer.connect())
        future = call(peer, 1)
        await world.dialling.wait()
        await world.pool.close()
        async with asyncio.timeout(2):
            with pytest.raises(ContainerClosedError):
                await connecting
            with pytest.raises(ContainerClosedError):
                await future
        assert world.cancelled == 1
        with pytest.raises(ContainerClosedError, match="was shut down"):
            await peer.connect()
        with pytest.raises(ContainerClosedError):
            call(peer, 2)

    async def test_who_is_cancelled_while_it_closes_is_cancelled(self, world):
        world.gate.clear()
        connecting = asyncio.ensure_future(world.peer.connect())
        await world.dialling.wait()
        connecting.cancel()
        await world.pool.close()
        await asyncio.wait([connecting])
        assert connecting.cancelled()

    async def test_calls_end_at_once_but_those_of_handlers_are_still_made(self, world):
        peer = world.peer
        await peer.connect()
        world.gate.clear()
        waiting = call(world.peer, 1)
        assert await waiting == 1
        world.pool.begin_closing(ContainerClosedError("over"))
        with pytest.raises(ContainerClosedError, match="over"):
            call(peer, 2)

        async def handler():
            serving.set(Call("a", SimpleNamespace(peer="p", peer_url=None), None, one_way=False))
            return await call(peer, 3)

        assert await asyncio.create_task(handler()) == 3

    async def test_calls_that_wait_for_a_connection_end_at_once(self, world):
        world.gate.clear()
        future = call(world.peer, 1)
        await world.dialling.wait()
        world.pool.begin_closing(ContainerClosedError("over"))
        assert future.done()
        with pytest.raises(ContainerClosedError, match="over"):
            await future
        world.gate.set()

    async def test_calls_of_handlers_that_wait_for_a_connection_are_still_made(self, world):
        world.gate.clear()
        peer = world.peer

        async def handler():
            serving.set(Call("a", SimpleNamespace(peer="p", peer_url=None), None, one_way=False))
            return await call(peer, "nested")

        nested = asyncio.create_task(handler())
        await world.dialling.wait()
        own = call(peer, "own")
        world.pool.begin_closing(ContainerClosedError("over"))
        with pytest.raises(ContainerClosedError):
            await own
        world.gate.set()
        async with asyncio.timeout(2):
            assert await nested == "nested"
        assert world.service.calls == ["nested"]

    @pytest.mark.parametrize("first", ["own", "nested"])
    async def test_calls_that_waited_for_the_connection_are_still_whose_they_were(
        self, world, first
    ):
        world.gate.clear()
        peer = world.peer

        async def handler():
            serving.set(Call("a", SimpleNamespace(peer="p", peer_url=None), None, one_way=False))
            return await peer.send(("hang", (), {}))

        async def own_call():
            return await peer.send(("hang", (), {}))

        coros = {"own": own_call, "nested": handler}
        tasks = {first: asyncio.create_task(coros.pop(first)())}
        await world.dialling.wait()  # the first of them has started the dial
        tasks |= {name: asyncio.create_task(coro()) for name, coro in coros.items()}
        await turns()
        world.gate.set()
        connection = await peer.connect()
        await turns()
        connection.channel.fail_own_calls(ContainerClosedError("over"))
        with pytest.raises(ContainerClosedError, match="over"):
            await tasks["own"]
        assert not tasks["nested"].done()
        await connection.close()
        with pytest.raises(ConnectionLost):
            await tasks["nested"]

    async def test_who_does_something_until_it_closes_is_stopped_at_once(self, world):
        async def forever(begun):
            async with world.pool.until_closing():
                begun.set()
                await asyncio.get_running_loop().create_future()

        async def handler(begun):
            serving.set(Call("a", SimpleNamespace(peer="p", peer_url=None), None, one_way=False))
            await forever(begun)

        begun = [asyncio.Event(), asyncio.Event()]
        own = asyncio.create_task(forever(begun[0]))
        nested = asyncio.create_task(handler(begun[1]))
        for event in begun:
            await event.wait()
        world.pool.begin_closing(ContainerClosedError("over"))
        async with asyncio.timeout(2):
            with pytest.raises(ContainerClosedError, match="over"):
                await own
        assert not nested.done()
        nested.cancel()
        await asyncio.wait([nested])

        with pytest.raises(ContainerClosedError, match="over"):
            await forever(begun[0])
        await world.pool.close()
        with pytest.raises(ContainerClosedError, match="over"):
            await asyncio.create_task(handler(begun[1]))

    async def test_another_timeout_in_there_is_let_through(self, world):
        with pytest.raises(TimeoutError):
            async with world.pool.until_closing():
                raise TimeoutError
        async with world.pool.until_closing():
            pass
        assert not world.pool._blocks
