"""Peers that do not read, that are killed or stopped, and thousands of them: what a container does.

The peers are real: processes that get signals, and plain sockets (`RawCaller`) that read only when
a test says so.  What happens elsewhere is seen by its effects: replies, errors, the end of a
connection, and the peak of a process's memory, for which nobody has to look at the right moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import resource
import select
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

import aiomas
import aiomas.rpc
from aiomas.exceptions import ConnectionLost, DeadlineExceeded, Overloaded, PeerUnresponsive
from tests.e2e.peer_process import AID, PeerProcess
from tests.e2e.raw_caller import EXCEPTION, RESULT, RawCaller, frame, request
from tests.golden.raw_peer import RawPeer, RawServer

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="memory and descriptors of processes are read from /proc"
)

KIB = 1024
MIB = 1024 * KIB


class Here(aiomas.Agent):
    """The agent in the test's own process."""

    @aiomas.expose
    def echo(self, value: Any) -> Any:
        return value

    @aiomas.expose
    def block(self, seconds: float) -> str:
        time.sleep(seconds)
        return "awake"


@pytest.fixture
def own_path(unix_path):
    """The path for a container of the test itself; `unix_path` is that of the peer."""
    return f"{unix_path}-own"


@pytest.fixture
async def container(own_path):
    async with aiomas.Container.open(own_path) as container:
        yield container


# --- Peers that do not read -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "limits", "most_memory"),
    [
        # Synchronous handlers are not started for who does not read.
        ("large", {}, 50 * MIB),
        # All handlers may have been started before the first one had a reply.
        ("large_later", {}, 300 * MIB + 64 * MIB),
        ("large_later", {"write_cap": 64 * MIB}, 64 * MIB + 64 * MIB),
    ],
)
def test_a_peer_that_does_not_read_replies_is_cut_and_the_others_are_served(
    unix_path, function, limits, most_memory
):
    with (
        PeerProcess.run(unix_path, limits={"write_timeout": 1.0, **limits}) as peer,
        RawCaller.dial(unix_path) as other,
        RawCaller.dial(unix_path) as deaf,
    ):
        other.call("echo", "warm-up")
        before = peer.peak_memory()
        began = time.monotonic()
        deaf.send(b"".join(request(number, function, MIB) for number in range(300)))
        assert other.call("echo", "at once") == "at once"
        while not deaf.is_cut(within=0.01):
            assert other.call("echo", "meanwhile") == "meanwhile"
            assert time.monotonic() < began + 20
        if not limits:
            assert time.monotonic() > began + 0.9, "it was cut before its time was up"
        assert other.call("echo", "afterwards") == "afterwards"
        assert peer.peak_memory() - before < most_memory


def test_a_reader_of_one_byte_a_second_is_cut_and_the_others_are_served(unix_path):
    with (
        PeerProcess.run(unix_path, limits={"write_timeout": 1.0}),
        RawCaller.dial(unix_path) as other,
        RawCaller.dial(unix_path) as slow,
    ):
        began = time.monotonic()
        slow.send(request(0, "large", 8 * MIB))
        next_byte = began
        while not slow.is_cut(within=0.01):
            assert other.call("echo", "meanwhile") == "meanwhile"
            assert time.monotonic() < began + 20
            if time.monotonic() >= next_byte:
                slow.read(1)
                next_byte += 1
        assert other.call("echo", "afterwards") == "afterwards"


def test_a_reader_that_is_slow_but_takes_something_is_not_cut(unix_path):
    size = 4 * MIB
    with (
        PeerProcess.run(unix_path, limits={"write_timeout": 0.3}),
        RawCaller.dial(unix_path) as slow,
    ):
        slow.send(request(0, "large", size))
        left = int.from_bytes(slow.read(4), "big")
        while left:  # for 0.96 s, three times as long as it may take nothing
            assert not slow.is_cut(within=0.06), f"with {left} bytes left"
            left -= len(slow.read(min(left, size // 16)))
        assert slow.call("echo", "afterwards") == "afterwards"


@pytest.mark.parametrize(
    ("limits", "all_arguments_are_taken"),
    [({}, True), ({"write_cap": 32 * MIB}, False)],
)
async def test_calls_with_large_arguments_to_a_peer_that_does_not_read_all_end(
    own_path, limits, all_arguments_are_taken
):
    limits = aiomas.Limits(write_timeout=0.5, **limits)
    async with (
        RawServer.listen() as server,
        aiomas.Container.open(own_path, limits=limits) as container,
    ):
        connecting = asyncio.create_task(container.connect(f"tcp://127.0.0.1:{server.port}/0"))
        async with server.accept() as peer, asyncio.timeout(5):
            await answer_like_aiomas_2(peer, connecting)
            proxy = await connecting

            async def call() -> None:
                await proxy.echo("x" * MIB)

            errors = await asyncio.gather(*(call() for _ in range(300)), return_exceptions=True)
            kinds = [type(error) for error in errors]
            assert all(issubclass(kind, aiomas.AiomasError) for kind in kinds), set(kinds)
            outcomes = [error.outcome for error in errors if isinstance(error, aiomas.AiomasError)]
            assert outcomes[0] == "maybe_executed", "a part of it is in the peer's socket"
            assert set(outcomes) <= {"not_sent", "maybe_executed"}
            refused = [
                (kind, outcome)
                for kind, outcome in zip(kinds, outcomes, strict=True)
                if issubclass(kind, Overloaded)
            ]
            assert set(refused) <= {(Overloaded, "not_sent")}
            if all_arguments_are_taken:
                assert refused == []
            else:
                assert 300 - 32 - 8 < len(refused) < 300


async def answer_like_aiomas_2(peer: RawPeer, connecting: asyncio.Task[Any]) -> None:
    """Answer what a container asks while it connects; it asks in JSON."""
    while not connecting.done():
        reading = asyncio.create_task(peer.frame())
        await asyncio.wait({reading, connecting}, return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            reading.cancel()
            await asyncio.wait({reading})
            return
        _, number, (path, *_) = json.loads(reading.result()[4:])
        known = path == "validate_aid"
        answer = [RESULT, number, "Agent"] if known else [EXCEPTION, number, "LookupError"]
        await peer.send(frame(json.dumps(answer).encode()))


# --- Much at once, to peers that are well ---------------------------------------------------------


async def test_two_peers_that_flood_each_other_over_one_connection_succeed(unix_path, container):
    count, size = 200, 256 * KIB
    with PeerProcess.run(unix_path) as peer:
        here = Here(container)
        servant = await container.connect(peer.url)
        # As an argument of a call, the agent is reached over the connection of that call.
        theirs = servant.call_echo(here, count, size)
        values = [f"{number:0{size}}" for number in range(count)]
        assert await asyncio.gather(*map(servant.echo, values)) == values
        assert await theirs == count


async def test_a_burst_of_calls_with_large_replies_succeeds(unix_path, container):
    with PeerProcess.run(unix_path) as peer:
        servant = await container.connect(peer.url)
        replies = await asyncio.gather(*(servant.large_later(MIB) for _ in range(300)))
        assert {len(reply) for reply in replies} == {MIB}
        assert len(replies) == 300


def test_calls_that_come_while_replies_wait_succeed_as_soon_as_the_peer_reads(unix_path):
    with PeerProcess.run(unix_path), RawCaller.dial(unix_path) as caller:
        caller.send(b"".join(request(number, "large_later", MIB) for number in range(150)))
        header = caller.read(4)  # all of these were started, and their replies wait
        caller.send(b"".join(request(number, "large_later", MIB) for number in range(150, 300)))
        caller.read(int.from_bytes(header, "big"))
        answers = [caller.message()[:2] for _ in range(299)]
        assert answers == [[RESULT, number] for number in range(1, 300)]


async def test_connecting_to_a_peer_with_a_full_queue_of_connections_waits_for_a_place(unix_path):
    count = 300  # more than may wait to be accepted
    with PeerProcess.run(unix_path) as peer:
        peer.stop()
        connecting = [
            asyncio.create_task(aiomas.rpc.open_connection(unix_path, timeout=5))
            for _ in range(count)
        ]
        _, waiting = await asyncio.wait(connecting, timeout=0.1)
        assert waiting, "all have found a place, so this shows nothing"
        peer.resume()
        clients = await asyncio.gather(*connecting)
        try:
            calls = [client.remote.validate_aid(AID) for client in clients]
            assert await asyncio.gather(*calls) == ["Servant"] * count
        finally:
            await asyncio.gather(*(client.close() for client in clients))


@contextlib.contextmanager
def many_descriptors(count: int) -> Iterator[None]:
    """Let this process have so many descriptors open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < count:
        pytest.skip(f"this system lets a process open only {hard} files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.timeout(60)
def test_8000_connections_all_get_an_answer_and_leave_no_descriptor(unix_path):
    count = 8000
    with many_descriptors(count + 200), PeerProcess.run(unix_path) as peer:
        with RawCaller.dial(unix_path) as other:
            other.call("echo", "warm-up")
        before = wait_for_descriptors(peer, peer.descriptors())
        began = time.monotonic()
        with contextlib.ExitStack() as stack:
            callers = [stack.enter_context(RawCaller.dial(unix_path)) for _ in range(count)]
            for number, caller in enumerate(callers):
                caller.send(request(number, "echo", number))
            for number, caller in enumerate(callers):
                assert caller.message() == [RESULT, number, number]
            assert peer.descriptors() >= count
        wait_for_descriptors(peer, before)
        assert time.monotonic() - began < 15
        with RawCaller.dial(unix_path) as other:
            assert other.call("echo", "afterwards") == "afterwards"


def wait_for_descriptors(peer: PeerProcess, at_most: int) -> int:
    """Wait until *peer* has no more descriptors than that; of closing them there is no event."""
    until = time.monotonic() + 5
    while (count := peer.descriptors()) > at_most:
        assert time.monotonic() < until, f"{count} descriptors, rather than {at_most}"
        select.select([], [], [], 0.01)
    return count


def test_without_a_free_descriptor_a_container_neither_crashes_nor_spins(unix_path, own_path):
    limit = 60
    with (
        PeerProcess.run(own_path) as another,
        PeerProcess.run(unix_path, descriptors=limit) as peer,
        RawCaller.dial(unix_path) as first,
    ):
        assert first.call("connect", f"ipc://[{own_path}-missing]/0")[0] == errno.ENOENT
        with contextlib.ExitStack() as stack:
            # They are in the queue of the listening socket, whoever is accepted or not.
            callers = [stack.enter_context(RawCaller.dial(unix_path)) for _ in range(limit)]
            callers[0].call("echo", "it accepts")
            wait_until(lambda: peer.descriptors() >= limit)

            number, text = first.call("connect", another.url)
            assert number == errno.EMFILE, text
            assert "Too many open files" in text
            assert first.call("cpu_time_of", 1.5) < 0.5
            assert callers[0].call("echo", "still served") == "still served"
        with RawCaller.dial(unix_path) as late:
            assert late.call("echo", "accepted again") == "accepted again"
        wait_until(lambda: peer.descriptors() < limit // 2)
        assert first.call("connect", another.url) == []
        assert peer.is_running()


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what happens in another process, of which there is no event here."""
    until = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < until
        select.select([], [], [], 0.01)


# --- Peers that are killed ------------------------------------------------------------------------


async def test_calls_to_a_peer_that_is_killed_may_have_run(unix_path, container):
    with PeerProcess.run(unix_path) as peer:
        servant = await container.connect(peer.url)
        held = servant.hold()
        assert await servant.echo(1) == 1
        peer.kill()
        async with asyncio.timeout(5):
            with pytest.raises(ConnectionLost) as caught:
                await held
            assert caught.value.outcome == "maybe_executed"
            with pytest.raises(ConnectionLost) as caught:
                await servant.echo(2)
            assert caught.value.outcome == "not_sent"


async def test_an_old_proxy_works_again_when_its_peer_was_killed_and_started_again(
    unix_path, container
):
    with PeerProcess.run(unix_path) as peer:
        servant = await container.connect(peer.url)
        await kill_and_notice(peer, servant)
    for number in range(3):
        with PeerProcess.run(unix_path) as peer:
            assert await servant.echo(number) == number
            await kill_and_notice(peer, servant)


async def kill_and_notice(peer: PeerProcess, servant: Any) -> None:
    """Kill *peer*, and wait until our container has seen the end of the connection."""
    held = servant.hold()
    assert await servant.echo("here") == "here"
    peer.kill()
    with pytest.raises(ConnectionLost):
        await held


# --- Peers that are stopped -----------------------------------------------------------------------


async def test_a_stopped_peer_is_noticed_by_heartbeats(unix_path, own_path):
    limits = aiomas.Limits(heartbeat=0.2)
    with PeerProcess.run(unix_path) as peer:
        async with aiomas.Container.open(own_path, limits=limits) as container:
            servant = await container.connect(peer.url)
            peer.stop()
            began = time.monotonic()
            calls = [servant.echo(number) for number in range(3)]
            async with asyncio.timeout(5):
                for call in calls:
                    with pytest.raises(PeerUnresponsive) as caught:
                        await call
                    assert caught.value.outcome == "maybe_executed"
            assert 0.4 < time.monotonic() - began < 3
            peer.resume()
            async with asyncio.timeout(5):
                assert await servant.echo("again") == "again"


async def test_a_peer_that_is_stopped_for_a_moment_is_waited_for(unix_path, container):
    with PeerProcess.run(unix_path) as peer:
        servant = await container.connect(peer.url)
        held = servant.hold()
        assert await servant.echo(1) == 1
        peer.stop()
        call = servant.echo(2)
        _, waiting = await asyncio.wait({call}, timeout=0.1)
        assert waiting
        peer.resume()
        assert await call == 2
        await servant.release()
        assert await held == "released"


async def block_own_loop(servant: Any, here: Here) -> None:
    time.sleep(0.6)


async def block_own_loop_in_a_handler(servant: Any, here: Here) -> None:
    assert await servant.call_block(here, 0.6) == "awake"


@pytest.mark.parametrize("block", [block_own_loop, block_own_loop_in_a_handler])
async def test_while_our_own_loop_is_blocked_no_peer_is_taken_for_dead(
    unix_path, own_path, block: Callable[[Any, Here], Coroutine[Any, Any, None]]
):
    limits = aiomas.Limits(heartbeat=0.1)
    with PeerProcess.run(unix_path) as peer:
        async with aiomas.Container.open(own_path, limits=limits) as container:
            here = Here(container)
            servant = await container.connect(peer.url)
            held = servant.hold()
            assert await servant.echo(1) == 1
            for _ in range(2):
                await block(servant, here)  # twice as long as the peer may be silent
                assert await servant.echo(2) == 2
            await servant.release()
            assert await held == "released", "it is still the same connection"


async def test_an_idle_connection_lives_by_its_heartbeats(unix_path, own_path):
    limits = aiomas.Limits(heartbeat=0.1, heartbeat_misses=2)
    with PeerProcess.run(unix_path) as peer:
        async with aiomas.Container.open(own_path, limits=limits) as container:
            servant = await container.connect(peer.url)
            held = servant.hold()
            _, waiting = await asyncio.wait({held}, timeout=1)  # the time of ten heartbeats
            assert waiting, held
            await servant.release()
            assert await held == "released"


async def test_a_call_that_arrives_too_late_is_not_started(unix_path, container):
    with PeerProcess.run(unix_path) as peer:
        servant = await container.connect(peer.url)
        began = time.monotonic()
        await servant.note("in time")
        journey = time.monotonic() - began
        peer.stop()
        late = aiomas.with_options(servant, timeout=0.5)
        began = time.monotonic()
        calls = [late.note(f"late {number}") for number in range(3)]
        for call in calls:
            with pytest.raises(DeadlineExceeded):
                await call
        assert 0.4 < time.monotonic() - began < 2
        # The peer knows their age but for the journey of an earlier message, and for milliseconds.
        await asyncio.sleep(journey + 0.01)
        peer.resume()
        # Calls of one connection start in their order, so if the late ones were, it was before.
        assert await servant.notes() == ["in time"]
        await late.note("in time again")
        assert await servant.notes() == ["in time", "in time again"]
