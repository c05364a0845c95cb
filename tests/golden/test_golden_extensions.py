"""How two ends agree on the extensions, and the bytes that they send then."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

import aiomas
import aiomas.testing
from aiomas import local_queue

from .codecs_under_test import CODECS, need, read_independently, write_independently
from .extension_vectors import FRAMES, messages
from .raw_peer import RawEnd, RawServer
from .test_golden_conversations import assert_same, with_id
from .vectors import FRAMES as OLD_FRAMES
from .vectors import Point

CLOCK = 12.5
"""The time at which each test begins, in seconds."""

all_codecs = pytest.mark.parametrize("codec", CODECS)
VECTORS = [
    pytest.param(codec, name, id=f"{codec}-{name.replace(' ', '_')}")
    for codec, frames in FRAMES.items()
    for name in frames
]

Test = Callable[..., Coroutine[Any, Any, None]]


def in_virtual_time(test: Test) -> Callable[..., None]:
    """Let *test* begin at `CLOCK`, and nothing in it take any time."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        async def main() -> None:
            await asyncio.sleep(CLOCK)
            await test(*args, **kwargs)

        local_queue.clear_queue_cache()
        aiomas.testing.run(main())

    return run


class Callee(aiomas.Agent):
    def __init__(self, container: aiomas.Container) -> None:
        super().__init__(container)
        self.added: list[int] = []
        self.kept: Any = None
        self.holding = asyncio.Event()
        self.cancelled = False

    @aiomas.expose
    def add(self, a: int, b: int) -> int:
        self.added.append(a + b)
        return a + b

    @aiomas.expose
    def keep(self, agent: Any) -> None:
        self.kept = agent

    @aiomas.expose
    def fail(self) -> None:
        raise ValueError("boom")

    @aiomas.expose
    async def hold(self) -> None:
        self.holding.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise


@asynccontextmanager
async def container_at(name: str, codec: str) -> AsyncIterator[aiomas.Container]:
    need(codec)
    async with aiomas.Container.open(
        aiomas.get_queue(name), codec=CODECS[codec], extra_serializers=[Point.__serializer__]
    ) as container:
        yield container


@asynccontextmanager
async def accepted_by_ours(
    codec: str, *, agreed: bool = True
) -> AsyncIterator[tuple[Callee, RawEnd]]:
    """An agent of ours, and a raw end that has connected to its container."""
    async with container_at("acceptor", codec) as container:
        agent = Callee(container)
        _, end = await local_queue.create_connection(RawEnd, aiomas.get_queue("acceptor"))
        if agreed:
            end.send(FRAMES[codec]["hello"])
            await end.frame()
        yield agent, end
        end.transport.close()
        await end.lost.wait()


@asynccontextmanager
async def dialled_by_ours(codec: str) -> AsyncIterator[tuple[Callee, Any, RawEnd]]:
    """An agent of ours, its proxy for an agent of a raw end, and that, after the hello."""
    end = RawEnd()
    server = await local_queue.create_server(lambda: end, aiomas.get_queue("acceptor"))
    async with container_at("dialler", codec) as container, asyncio.TaskGroup() as tasks:
        agent = Callee(container)
        connecting = tasks.create_task(container.connect("local://acceptor/0"))
        assert_same(codec, await end.frame(), FRAMES[codec]["hello"])
        await asyncio.sleep(0)
        assert end.is_done()  # it waits for the answer
        end.send(FRAMES[codec]["welcome"])
        asked = OLD_FRAMES[codec]["validate_aid"]
        assert_same(codec, await end.frame(), with_id(codec, asked, 0, 1))
        end.send(with_id(codec, OLD_FRAMES[codec]["agent exists"], 0, 1))
        yield agent, await connecting, end
    await end.lost.wait()
    server.close()


@pytest.mark.parametrize(("codec", "name"), VECTORS)
def test_vector_says_the_same_to_an_independent_library(codec: str, name: str) -> None:
    need(codec)
    assert read_independently(codec, FRAMES[codec][name]) == messages(codec)[name]


@all_codecs
@in_virtual_time
async def test_a_hello_is_welcome(codec: str) -> None:
    async with accepted_by_ours(codec, agreed=False) as (_, end):
        end.send(FRAMES[codec]["hello"])
        assert_same(codec, await end.frame(), FRAMES[codec]["welcome"])


@all_codecs
@in_virtual_time
async def test_a_hello_in_the_middle_is_a_call_to_nothing(codec: str) -> None:
    async with accepted_by_ours(codec, agreed=False) as (_, end):
        end.send(OLD_FRAMES[codec]["validate_aid"])
        await end.frame()
        end.send(FRAMES[codec]["hello"])
        kind, ref, text = read_independently(codec, await end.frame())
        assert (kind, ref) == (2, 0)
        assert "LookupError" in text


@all_codecs
@in_virtual_time
async def test_requests_with_options_are_answered_like_others(codec: str) -> None:
    async with accepted_by_ours(codec) as (agent, end):
        end.send(FRAMES[codec]["call with a deadline"])
        assert_same(codec, await end.frame(), OLD_FRAMES[codec]["result"])
        end.send(FRAMES[codec]["one-way call"])  # not answered at all
        end.send(FRAMES[codec]["ping"])
        assert_same(codec, await end.frame(), FRAMES[codec]["pong"])
        assert agent.added == [4, 4]


@all_codecs
@in_virtual_time
async def test_what_is_repeated_without_being_idempotent_is_a_typed_failure(codec: str) -> None:
    async with accepted_by_ours(codec) as (agent, end):
        end.send(with_id(codec, FRAMES[codec]["call again"], 3, 1))
        assert read_independently(codec, await end.frame()) == [
            7,
            1,
            [
                "not idempotent",
                "RuntimeError: agents/0/add is not declared idempotent",
                "not_executed",
            ],
        ]
        assert not agent.added


@all_codecs
@in_virtual_time
async def test_a_call_to_nothing_is_a_typed_failure(codec: str) -> None:
    async with accepted_by_ours(codec) as (_, end):
        end.send(with_id(codec, OLD_FRAMES[codec]["call to nothing"], 12, 1))
        assert read_independently(codec, await end.frame()) == [
            7,
            1,
            [
                "lookup",
                "LookupError: There is no exposed function at 'agents/0/no/such'",
                "not_executed",
            ],
        ]


@all_codecs
@in_virtual_time
async def test_what_a_function_raises_is_an_exception_as_ever(codec: str) -> None:
    async with accepted_by_ours(codec) as (_, end):
        end.send(with_id(codec, OLD_FRAMES[codec]["failing call"], 3, 1))
        kind, ref, text = read_independently(codec, await end.frame())
        assert (kind, ref) == (2, 1)
        assert "ValueError: boom" in text


@all_codecs
@in_virtual_time
async def test_a_cancelled_call_is_cancelled_and_not_answered(codec: str) -> None:
    async with accepted_by_ours(codec) as (agent, end):
        end.send(write_independently(codec, [0, 1, ["agents/0/hold", [], {}]]))
        await agent.holding.wait()
        end.send(FRAMES[codec]["cancel"])
        end.send(FRAMES[codec]["ping"])
        assert_same(codec, await end.frame(), FRAMES[codec]["pong"])
        await asyncio.sleep(0.001)
        assert agent.cancelled
        assert end.is_done()


@all_codecs
@in_virtual_time
async def test_a_proxy_arrives_as_one_for_the_url(codec: str) -> None:
    async with accepted_by_ours(codec) as (agent, end):
        end.send(with_id(codec, FRAMES[codec]["proxy as argument"], 4, 1))
        await end.frame()
        assert aiomas.agent.url_of(agent.kept) == "local://elsewhere/7"


@all_codecs
@in_virtual_time
async def test_other_serializers_are_refused_with_both_lists(codec: str) -> None:
    async with accepted_by_ours(codec, agreed=False) as (_, end):
        end.send(FRAMES[codec]["hello"].replace(b"Point", b"Joint"))
        kind, ref, answer = read_independently(codec, await end.frame())
        assert (kind, ref, answer["version"]) == (1, 0, 1)
        assert answer.keys() == {"version", "refusal"}
        assert "['Arrow', 'Point', 'object']" in answer["refusal"]
        assert "['Arrow', 'Joint', 'object']" in answer["refusal"]
        await end.lost.wait()


@pytest.mark.parametrize("other", CODECS)
@all_codecs
@in_virtual_time
async def test_another_codec_is_refused_in_the_codec_of_the_question(
    codec: str, other: str
) -> None:
    if other == codec:
        return
    need(other)
    async with accepted_by_ours(codec, agreed=False) as (_, end):
        end.send(FRAMES[other]["hello"])
        kind, ref, answer = read_independently(other, await end.frame())
        assert (kind, ref, answer["version"]) == (1, 0, 1)
        assert CODECS[codec].name in answer["refusal"]
        assert CODECS[other].name in answer["refusal"]
        await end.lost.wait()


@all_codecs
@in_virtual_time
async def test_without_all_extensions_there_are_none(codec: str) -> None:
    async with accepted_by_ours(codec, agreed=False) as (_, end):
        end.send(FRAMES[codec]["hello"].replace(b"ping", b"bing"))
        assert_same(codec, await end.frame(), FRAMES[codec]["welcome"])
        end.send(OLD_FRAMES[codec]["call to nothing"])
        assert read_independently(codec, await end.frame())[0] == 2
        end.send(FRAMES[codec]["ping"])  # is no message here
        await end.lost.wait()


@all_codecs
@in_virtual_time
async def test_a_dialler_of_ours_sends_these_bytes(codec: str) -> None:
    async with dialled_by_ours(codec) as (_, proxy, end):
        answer = aiomas.with_options(proxy, timeout=2.0).add(1, b=3)
        called = FRAMES[codec]["call with a deadline"]
        assert_same(codec, await end.frame(), with_id(codec, called, 1, 2))
        end.send(with_id(codec, OLD_FRAMES[codec]["result"], 1, 2))
        assert await answer == 4

        await aiomas.with_options(proxy, one_way=True).add(1, b=3)
        called = FRAMES[codec]["one-way call"]
        assert_same(codec, await end.frame(), with_id(codec, called, 2, 3))

        given_up = proxy.add(1, b=3)
        assert_same(codec, await end.frame(), with_id(codec, OLD_FRAMES[codec]["call"], 1, 4))
        given_up.cancel()
        assert_same(codec, await end.frame(), with_id(codec, FRAMES[codec]["cancel"], 1, 4))

        failing = proxy.add(1, b=3)
        await end.frame()
        end.send(with_id(codec, FRAMES[codec]["failure"], 1, 5))
        with pytest.raises(aiomas.exceptions.RemoteLookupError) as caught:
            await failing
        assert caught.value.remote_traceback == "LookupError: no"
        assert caught.value.outcome == "not_executed"

        elsewhere = proxy.keep(proxy_of(proxy, "local://elsewhere/7"))
        passed = FRAMES[codec]["proxy as argument"]
        assert_same(codec, await end.frame(), with_id(codec, passed, 4, 6))
        elsewhere.cancel()


def proxy_of(proxy: Any, url: str) -> Any:
    """Return a proxy of the same container as *proxy* for another agent."""
    return type(proxy)(proxy._channel, "agents/7", "Agent", url)


@all_codecs
@in_virtual_time
async def test_a_call_is_sent_again_marked_as_such(codec: str) -> None:
    async with dialled_by_ours(codec) as (_, proxy, end):
        answer = aiomas.with_options(proxy, retries=1).add(1, b=3)
        assert_same(codec, await end.frame(), with_id(codec, OLD_FRAMES[codec]["call"], 1, 2))
        refusal = ["overloaded", "Overloaded: no", "not_executed"]
        end.send(write_independently(codec, [7, 2, refusal]))
        again = await end.frame()
        assert_same(codec, again, with_id(codec, FRAMES[codec]["call again"], 3, 3))
        end.send(with_id(codec, OLD_FRAMES[codec]["result"], 1, 3))
        assert await answer == 4


@all_codecs
@in_virtual_time
async def test_a_silent_peer_is_pinged(codec: str) -> None:
    need(codec)
    async with (
        RawServer.listen() as server,
        aiomas.Container.open(
            ("127.0.0.1", 0), codec=CODECS[codec], extra_serializers=[Point.__serializer__]
        ) as container,
        asyncio.TaskGroup() as tasks,
    ):
        connecting = tasks.create_task(container.connect(f"tcp://127.0.0.1:{server.port}/0"))
        async with server.accept() as peer:
            await peer.frame()
            await peer.send(FRAMES[codec]["welcome"])
            await peer.frame()
            await peer.send(with_id(codec, OLD_FRAMES[codec]["agent exists"], 0, 1))
            await connecting
            await asyncio.sleep(11)
            kind, asked, nothing = read_independently(codec, await peer.frame())
            assert (kind, nothing) == (5, None)
            assert type(asked) is int
            assert abs(asked - 1000 * (CLOCK + 10)) <= 1000
