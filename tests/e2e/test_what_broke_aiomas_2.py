"""What broke aiomas 2.0.1, measured there, and must not break this one.

Each test is named after one such finding and fails where that happens again.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import json
import subprocess
import sys
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import blosc
import msgpack
import psutil
import pytest

import aiomas
import aiomas.rpc
from aiomas import subproc
from aiomas.exceptions import AgentNotFoundError, ConnectionLost, ConnectTimeout
from tests.e2e.peer_process import ROOT, PeerProcess
from tests.e2e.raw_caller import EXCEPTION, RESULT, RawCaller, frame, request
from tests.golden.raw_peer import RawServer

KIB = 1024
MIB = 1024 * KIB

load_msgpack = functools.partial(msgpack.unpackb, strict_map_key=False)

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="this system does not tell the peak of memory"
)


def url_of(path: str) -> str:
    return f"ipc://[{path}]/0"


class Callee(aiomas.Agent):
    """An agent that has all that nobody may call."""

    def __init__(self, container: aiomas.Container, friend: Any = None) -> None:
        super().__init__(container)
        self.friend = friend
        self._private = Part()
        self.unlisted = Part()
        self.released = asyncio.Event()
        self.holding = asyncio.Event()

    @aiomas.expose
    def echo(self, value: Any) -> Any:
        return value

    @aiomas.expose
    async def hold(self) -> str:
        self.holding.set()
        await self.released.wait()
        return "released"

    @aiomas.expose
    def cancel_at_once(self) -> None:
        raise asyncio.CancelledError

    @aiomas.expose
    async def cancel_later(self) -> None:
        await asyncio.sleep(0)
        raise asyncio.CancelledError


class Part:
    router = aiomas.rpc.Service()

    @aiomas.expose
    def reach(self) -> str:
        return "reached"


# --- Messages -------------------------------------------------------------------------------------


@needs_proc
def test_a_length_header_of_4_gib_does_not_grow_memory(unix_path):
    with PeerProcess.run(unix_path) as peer, RawCaller.dial(unix_path) as other:
        before = peer.peak_memory()
        with RawCaller.dial(unix_path) as liar:
            liar.send(b"\xff\xff\xff\xff")
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for _ in range(256):
                    liar.send(bytes(MIB))
            assert liar.is_cut()
        assert other.call("echo", "still served") == "still served"
        assert peer.peak_memory() - before < 16 * MIB


@needs_proc
@pytest.mark.parametrize(
    "message",
    [
        b"\xdd\x7f\xff\xff\xff" * 5,
        b"\xdf\x7f\xff\xff\xff" * 5,
        b"\xdd\x07\xff\xff\xff" * 5,
        b"\x93\x00\x01" + b"\xdd\x07\xff\xff\xff" * 4 + b"\xc0\xc0",
        b"\x93\x00\x01" + b"\xdf\x07\xff\xff\xff" * 4 + b"\xc0\xc0",
        b"\x93\x00\x01\x91" + b"\xdb\x3f\xff\xff\xff" + b"x" * 16,
        b"\x93\x00\x01\x91" + b"\xc6\x3f\xff\xff\xff" + b"x" * 16,
        b"\x93\x00\x01\x91" + b"\xc9\x3f\xff\xff\xff\x05" + b"x" * 15,
    ],
)
def test_a_msgpack_message_of_25_bytes_does_not_take_gigabytes(unix_path, message):
    assert len(message) == 25
    msgpack_ = {"dump": msgpack.packb, "load": load_msgpack}
    with (
        PeerProcess.run(unix_path, codec="MsgPack") as peer,
        RawCaller.dial(unix_path, **msgpack_) as other,
        RawCaller.dial(unix_path, **msgpack_) as liar,
    ):
        other.call("echo", 1)
        before = peer.peak_memory()
        liar.send(frame(message))
        answer = liar.message_or_end()
        assert answer is None or answer[0] == EXCEPTION
        assert other.call("echo", "still served") == "still served"
        # Naming the codec that it may come from loads the others, once: up to 20 MiB.
        assert peer.peak_memory() - before < 48 * MIB


@needs_proc
def test_a_blosc_message_of_4_mb_neither_takes_gigabytes_nor_blocks(unix_path):
    content = b"\x93\x00\x01\xdd" + (256 * MIB).to_bytes(4, "big") + b"\xc0" * (256 * MIB)
    bomb = blosc.compress(content, typesize=1)
    assert len(bomb) < 4 * MIB
    codec = {
        "dump": lambda message: blosc.compress(msgpack.packb(message)),
        "load": lambda data: load_msgpack(blosc.decompress(data)),
    }
    with (
        PeerProcess.run(unix_path, codec="MsgPackBlosc") as peer,
        RawCaller.dial(unix_path, **codec) as other,
        RawCaller.dial(unix_path, **codec) as bomber,
    ):
        other.call("echo", 1)
        before = peer.peak_memory()
        bomber.send(frame(bomb))
        began = time.monotonic()
        answer = bomber.message_or_end()
        assert other.call("echo", "still served") == "still served"
        assert time.monotonic() - began < 2
        assert answer is None or answer[0] == EXCEPTION
        assert peer.peak_memory() - before < 32 * MIB


MASK = (1 << 64) - 1
PRIMES = 11400714785074694791, 14029467366897019727, 2870177450012600261
INVERSES = [pow(prime, -1, 1 << 64) for prime in PRIMES[:2]]


def pair_with_hash(target: int, second: int) -> tuple[int, int] | None:
    """Return a tuple (something, *second*) with this hash: CPython's is not keyed for tuples.

    It is xxHash, of which each step can be undone; see `tuplehash()` in `Objects/tupleobject.c`.
    """

    def unrotate(value: int) -> int:
        return (value >> 31 | value << 33) & MASK

    inverse_1, inverse_2 = INVERSES
    value = unrotate((target - (2 ^ PRIMES[2] ^ 3527539)) * inverse_1 & MASK) - second * PRIMES[1]
    first = (unrotate(value * inverse_1 & MASK) - PRIMES[2]) * inverse_2 & MASK
    first -= (first >> 63) << 64
    pair = first, second
    return pair if hash(pair) == target else None  # not all numbers are their own hash


@pytest.mark.parametrize("kind", ["tuples", "timestamps"])
def test_32_768_colliding_map_keys_do_not_block(unix_path, kind):
    numbers = iter(range(1 << 32))
    pairs: list[tuple[int, int]] = []
    while len(pairs) < 32_768:
        pair = pair_with_hash(12_345, next(numbers))
        if pair is not None:
            pairs.append(pair)
    if kind == "tuples":
        keys = [msgpack.packb(pair) for pair in pairs]
    else:
        # The hash of a timestamp is that of its seconds and nanoseconds.
        keys = [
            b"\xc7\x0c\xff" + second.to_bytes(4, "big") + first.to_bytes(8, "big", signed=True)
            for first, second in pairs
        ]
    call = b"\x93\x00\x01\x93" + msgpack.packb("agents/0/echo") + b"\x91"
    # The map is the argument; as it is no dictionary here, making it costs nothing.
    call += b"\xdf" + len(keys).to_bytes(4, "big") + b"".join(key + b"\xc0" for key in keys)
    call += b"\x80"
    msgpack_ = {"dump": msgpack.packb, "load": load_msgpack}
    with (
        PeerProcess.run(unix_path, codec="MsgPack"),
        RawCaller.dial(unix_path, **msgpack_) as attacker,
        RawCaller.dial(unix_path, **msgpack_) as other,
    ):
        other.call("echo", 1)
        attacker.send(frame(call))
        began = time.monotonic()
        answer = attacker.message_or_end()
        assert other.call("echo", "still served") == "still served"
        assert time.monotonic() - began < 2
        assert answer is None or answer[0] == EXCEPTION


@pytest.mark.parametrize(
    "content",
    [
        None,
        7,
        "agents/0/echo",
        [],
        {},
        ["agents/0/echo"],
        ["agents/0/echo", [1]],
        ["agents/0/echo", 1, {}],
        ["agents/0/echo", [1], []],
        ["agents/0/echo", [], {}],
        ["agents/0/echo", [1], {"value": 1}],
        [None, [1], {}],
        [["agents", "0", "echo"], [1], {}],
        ["agents/0/echo", [1], {}, "more"],
        ["", [], {}],
        ["/", [], {}],
        ["agents", [], {}],
        ["agents/1/echo", [1], {}],
    ],
)
async def test_a_badly_formed_request_is_answered(unix_path, content):
    async with aiomas.Container.open(unix_path) as container:
        Callee(container)
        assert (await asked(unix_path, content, ["agents/0/echo", [1], {}])) == [
            EXCEPTION,
            RESULT,
        ]


async def test_an_unknown_type_does_not_drop_the_connection(unix_path):
    async with aiomas.Container.open(unix_path) as container:
        Callee(container)
        unknown = {"__type__": [99, "a representation"]}
        contents = (
            ["agents/0/echo", [unknown], {}],
            unknown,
            ["agents/0/echo", [1], {}],
        )
        assert await asked(unix_path, *contents) == [EXCEPTION, EXCEPTION, RESULT]


@pytest.mark.parametrize(
    "path",
    [
        "agents/0/_Agent__container/validate_aid",
        "agents/0/container/validate_aid",
        "agents/0/_private/reach",
        "agents/0/unlisted/reach",
        "agents/0/friend/echo",
        "agents/0/friend",
        "agents/0/router/resolve",
        "agents/0/__init__",
        "agents/0/_Agent__aid",
        "agents/0/released/set",
        "agents/dict/0/echo",
        "agents/dict/get",
        "_pool/cancel",
        "__class__",
        "shutdown",
    ],
)
async def test_private_attributes_and_methods_of_a_proxy_are_no_way_in(unix_path, path):
    other_path = f"{unix_path}-2"
    async with (
        aiomas.Container.open(other_path) as other,
        aiomas.Container.open(unix_path) as container,
    ):
        friend = Callee(other)
        callee = Callee(container, await container.connect(friend.addr))
        assert await callee.friend.echo(1) == 1
        assert await asked(unix_path, [path, [], {}], [path, ["0"], {}]) == [EXCEPTION] * 2
        assert not callee.released.is_set()


async def test_a_manager_does_not_run_just_anything(unix_path, capfd):
    running = asyncio.create_task(subproc.start(unix_path))
    path = f"{unix_path}-2"
    async with aiomas.Container.open(path) as container:
        manager = await container.connect(url_of(unix_path), timeout=5)
        for name in ("builtins:print", "os:system", "subprocess:run", "builtins:eval"):
            with pytest.raises(aiomas.RemoteException, match="PermissionError"):
                await manager.spawn(name, "echo it ran")
        await manager.stop()
        await running
    assert "it ran" not in capfd.readouterr().out


async def asked(path: str, *contents: Any) -> list[int]:
    """Make these requests on one connection; return whether each is a result or an exception."""

    def ask() -> list[int]:
        with RawCaller.dial(path) as caller:
            return [caller.ask(content)[0] for content in contents]

    return await in_thread(ask)


async def in_thread(function: Any) -> Any:
    """Run a blocking function beside this loop, in a thread that ends with it."""
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as executor:
        return await loop.run_in_executor(executor, function)


# --- Replies that nobody reads, or that are given up ----------------------------------------------


@needs_proc
def test_a_peer_that_never_reads_its_replies_does_not_take_gigabytes(unix_path):
    with (
        PeerProcess.run(unix_path, limits={"write_timeout": 0.5}) as peer,
        RawCaller.dial(unix_path) as deaf,
    ):
        before = peer.peak_memory()
        deaf.send(b"".join(request(number, "large", MIB) for number in range(500)))
        assert deaf.is_cut(within=10)  # until then memory could have grown
        assert peer.peak_memory() - before < 50 * MIB


async def test_a_reply_that_is_cancelled_half_way_does_not_kill_the_writer(unix_path):
    channels: asyncio.Queue[aiomas.channel.Channel] = asyncio.Queue()
    large = "x" * (8 * MIB)
    async with await aiomas.channel.start_server(unix_path, channels.put_nowait):
        with RawCaller.dial(unix_path) as caller:
            for number in range(3):
                caller.send(frame(b'[0, %d, "please"]' % number))
            channel = await channels.get()
            first, second, third = [await channel.recv() for _ in range(3)]
            first.reply(large)
            size = int.from_bytes(await in_thread(lambda: caller.read(4)), "big")

            async def reply() -> None:
                await second.reply("small")

            replying = asyncio.create_task(reply())
            await asyncio.sleep(0)  # it begins
            assert not replying.done(), "the first reply is half-way, and nobody reads it"
            replying.cancel()
            with pytest.raises(asyncio.CancelledError):
                await replying
            assert json.loads(await in_thread(lambda: caller.read(size))) == [RESULT, 0, large]
            assert await in_thread(caller.message) == [RESULT, 1, "small"]
            third.reply("later")
            assert await in_thread(caller.message) == [RESULT, 2, "later"]
            await channel.close()


@pytest.mark.parametrize("how", ["cancel_at_once", "cancel_later"])
async def test_a_handler_that_raises_cancelled_error_does_not_hang_its_caller(unix_path, how):
    async with (
        aiomas.Container.open(unix_path) as container,
        aiomas.Container.open(f"{unix_path}-2") as other,
    ):
        Callee(container)
        callee = await other.connect(url_of(unix_path))
        async with asyncio.timeout(5):
            with pytest.raises(aiomas.RemoteException, match="CancelledError"):
                await getattr(callee, how)()
            assert await callee.echo("still served") == "still served"


async def test_calls_that_time_out_do_not_break_the_connection_for_the_others(unix_path):
    async with (
        aiomas.Container.open(unix_path) as container,
        aiomas.Container.open(f"{unix_path}-2") as other,
    ):
        agent = Callee(container)
        callee = await other.connect(url_of(unix_path))

        async def call(number: int) -> int:
            if number % 2:
                return await callee.echo(number)
            async with asyncio.timeout(0.01):
                await callee.hold()
            raise AssertionError

        async with asyncio.timeout(10):
            results = await asyncio.gather(*map(call, range(1000)), return_exceptions=True)
            assert [type(result) for result in results[::2]] == [TimeoutError] * 500
            assert results[1::2] == list(range(1, 1000, 2))
            assert await callee.echo("still served") == "still served"
            agent.released.set()  # now there are 500 replies for which nobody waits
            assert await callee.echo("still served") == "still served"


async def test_of_1000_calls_near_the_timeout_each_ends_with_its_own_answer_or_its_timeout(
    unix_path,
):
    with PeerProcess.run(unix_path):
        async with aiomas.Container.open(f"{unix_path}-2") as container:
            servant = await container.connect(url_of(unix_path))

            async def call(number: int) -> int:
                # From half to one and a half of the time that an answer takes.
                async with asyncio.timeout(0.2 * (0.5 + number / 1000)):
                    return await servant.echo_after(0.2, number)

            async with asyncio.timeout(10):
                results = await asyncio.gather(*map(call, range(1000)), return_exceptions=True)
                for number, result in enumerate(results):
                    assert result == number or isinstance(result, TimeoutError)
                assert isinstance(results[0], TimeoutError)
                assert await servant.echo("still served") == "still served"


# --- Peers that are silent, dead, stopped or not there --------------------------------------------


async def test_a_timeout_holds_for_a_peer_that_accepts_and_stays_silent(unix_path):
    async with RawServer.listen() as server, aiomas.Container.open(unix_path) as container:
        began = time.monotonic()
        with pytest.raises(ConnectTimeout):
            await container.connect(f"tcp://127.0.0.1:{server.port}/0", timeout=0.3)
        assert 0.2 < time.monotonic() - began < 2


async def test_after_the_death_of_a_peer_connecting_gives_a_proxy_that_works(unix_path):
    async with aiomas.Container.open(f"{unix_path}-2") as container:
        for _ in range(3):
            with PeerProcess.run(unix_path) as peer:
                servant = await container.connect(url_of(unix_path))
                held = servant.hold()
                assert await servant.echo(1) == 1
                peer.kill()
                with pytest.raises(ConnectionLost):
                    await held
                with pytest.raises(OSError, match="refused"):
                    await container.connect(url_of(unix_path))


async def test_a_peer_that_was_stopped_does_not_hang_its_callers(unix_path):
    with PeerProcess.run(unix_path) as peer:
        limits = aiomas.Limits(heartbeat=0.1)
        async with aiomas.Container.open(f"{unix_path}-2", limits=limits) as container:
            servant = await container.connect(url_of(unix_path))
            peer.stop()
            async with asyncio.timeout(5):
                results = await asyncio.gather(
                    *(servant.echo(number) for number in range(10)), return_exceptions=True
                )
            assert {type(result) for result in results} == {aiomas.exceptions.PeerUnresponsive}


async def test_after_a_refused_connect_later_ones_do_not_hang(unix_path):
    async with aiomas.Container.open(f"{unix_path}-2") as container:
        async with asyncio.timeout(5):
            for _ in range(3):
                with pytest.raises(FileNotFoundError):
                    await container.connect(url_of(unix_path))
            async with aiomas.Container.open(unix_path) as late:
                Callee(late)
                callee = await container.connect(url_of(unix_path))
                assert await callee.echo(1) == 1


async def test_after_an_unknown_agent_later_connects_do_not_hang(unix_path):
    async with (
        aiomas.Container.open(unix_path) as callees,
        aiomas.Container.open(f"{unix_path}-2") as container,
        asyncio.timeout(5),
    ):
        for _ in range(3):
            with pytest.raises(AgentNotFoundError):
                await container.connect(url_of(unix_path))
        Callee(callees)
        callee = await container.connect(url_of(unix_path))
        assert await callee.echo(1) == 1


# --- Processes, sockets, memory -------------------------------------------------------------------

DRIVER = """
import asyncio
from aiomas.cluster import Cluster

async def main():
    async with Cluster(2) as cluster:
        print(*(info.pid for info in cluster.containers), flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


def test_a_killed_parent_leaves_no_orphans():
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as driver:
        assert driver.stdout is not None
        children = [psutil.Process(int(pid)) for pid in driver.stdout.readline().split()]
        assert len(children) == 2
        driver.kill()
    _, alive = psutil.wait_procs(children, timeout=5)
    for process in alive:
        process.kill()
    assert alive == []


async def test_a_second_server_does_not_steal_a_live_unix_socket(unix_path):
    async with (
        aiomas.Container.open(unix_path) as first,
        aiomas.Container.open(f"{unix_path}-2") as container,
    ):
        agent = Callee(first)
        with pytest.raises(OSError, match="in use") as caught:
            await aiomas.Container.create(unix_path, as_coro=True)
        assert unix_path in str(caught.value)
        callee = await container.connect(agent.addr)
        assert await callee.echo(1) == 1


async def test_a_stale_unix_socket_is_tried_again_and_taken_over(unix_path):
    with PeerProcess.run(unix_path) as peer:
        peer.kill()
    assert Path(unix_path).exists()
    async with aiomas.Container.open(f"{unix_path}-2") as container:
        connecting = asyncio.create_task(container.connect(url_of(unix_path), timeout=5))
        _, trying = await asyncio.wait({connecting}, timeout=0.1)
        assert trying, connecting
        async with aiomas.Container.open(unix_path) as successor:
            Callee(successor)
            callee = await connecting
            assert await callee.echo(1) == 1


@pytest.mark.parametrize("codec", [aiomas.JSON, aiomas.MsgPack])
async def test_a_closed_connection_leaks_nothing(unix_path, codec):
    async with aiomas.Container.open(unix_path, codec=codec) as container:
        Callee(container)

        async def connect(times: int) -> int:
            for number in range(times):
                client = await aiomas.rpc.open_connection(unix_path, codec=codec)
                assert await client.remote.agents.__getattr__("0").echo(number) == number
                await client.close()
            gc.collect()
            return tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        try:
            before = await connect(50)
            after = await connect(200)
        finally:
            tracemalloc.stop()
        assert (after - before) / 200 < 256


# --- Shutdown -------------------------------------------------------------------------------------


async def test_shutdown_tells_callers_of_others_whether_a_call_has_run(unix_path):
    async with (
        aiomas.Container.open(unix_path) as container,
        aiomas.Container.open(f"{unix_path}-2") as other,
        asyncio.timeout(5),
    ):
        agent = Callee(container)
        callee = await other.connect(agent.addr)
        running = callee.hold()
        await agent.holding.wait()
        ending = asyncio.create_task(container.shutdown(as_coro=True, timeout=0.3))
        await asyncio.sleep(0)  # it begins
        refused = await outcome_of(callee.echo(1))
        interrupted = await outcome_of(running)
        await ending
        later = await outcome_of(callee.echo(2))
    assert refused == "not_executed"
    assert interrupted in {"maybe_executed", "executed"}
    # Either the end of the connection has been seen by then, or not.
    assert later in {"not_sent", "maybe_executed"}


async def test_shutdown_tells_own_callers_whether_a_call_has_run(unix_path):
    async with (
        aiomas.Container.open(unix_path) as container,
        aiomas.Container.open(f"{unix_path}-2") as other,
        asyncio.timeout(5),
    ):
        agent = Callee(container)
        callee = await other.connect(agent.addr)
        running = callee.hold()
        await agent.holding.wait()
        await other.shutdown(as_coro=True)
        agent.released.set()
        assert await outcome_of(running) == "maybe_executed"
        with pytest.raises(aiomas.exceptions.ContainerClosedError) as caught:
            await callee.echo(1)
        assert caught.value.outcome == "not_sent"


async def outcome_of(call: Any) -> str | None:
    """Return what the error of this call says about whether it has run."""
    with pytest.raises(aiomas.AiomasError) as caught:
        await call
    return caught.value.outcome
