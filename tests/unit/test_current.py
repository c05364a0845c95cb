"""`current_call` is the call that is being served right here, and there is none elsewhere."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
from collections.abc import Callable
from typing import Any

import pytest

import aiomas
from aiomas import codecs
from aiomas._current import is_serving
from aiomas._dispatch import Dispatcher
from aiomas.rpc import RoutingDict, current_call


def path() -> str | None:
    """Return the name of the function whose call is served, or ``None`` if none is."""
    try:
        return current_call().path.rpartition("/")[2]
    except LookupError:
        return None


def in_a_thread(function: Callable[[], Any]) -> Any:
    """Return what *function* returns in a thread of its own, while this one waits."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


class Asker(aiomas.Agent):
    """Asks what is being served, in all places that a function has."""

    def __init__(self, container: aiomas.Container) -> None:
        super().__init__(container)
        self.seen: list[str | None] = []
        self.later: list[asyncio.Future[Any]] = []
        self.looked = asyncio.Event()
        self.let_go = asyncio.Event()
        self.told = asyncio.Event()
        self.other: Any = None

    def look(self) -> None:
        self.seen.append(path())
        self.looked.set()

    async def _wait_and_look(self) -> str | None:
        self.look()
        await self.let_go.wait()
        return path()

    @aiomas.expose
    def sync(self) -> str | None:
        return path()

    @aiomas.expose
    async def coro(self) -> list[str | None]:
        before = path()
        await asyncio.sleep(0)
        return [before, path()]

    @aiomas.expose
    async def waiting(self) -> str | None:
        return await self._wait_and_look()

    @aiomas.expose
    def sync_fails(self) -> None:
        self.look()
        asyncio.get_running_loop().call_soon(self.look)
        raise ValueError

    @aiomas.expose
    def sync_leaves_task(self) -> None:
        self.later.append(asyncio.ensure_future(self._wait_and_look()))

    @aiomas.expose
    def sync_returns_task(self) -> asyncio.Future[Any]:
        return asyncio.ensure_future(self._wait_and_look())

    @aiomas.expose
    async def coro_awaits_task(self) -> str | None:
        return await asyncio.ensure_future(self._wait_and_look())

    @aiomas.expose
    async def coro_leaves_task(self) -> None:
        self.later.append(asyncio.ensure_future(self._wait_and_look()))
        await asyncio.sleep(0)  # it has begun

    @aiomas.expose
    async def coro_leaves_task_unasked(self) -> None:
        """Nobody asks for the call before it has ended."""

        async def look_later() -> str | None:
            await self.let_go.wait()
            return path()

        self.later.append(asyncio.ensure_future(look_later()))
        await asyncio.sleep(0)

    @aiomas.expose
    def sync_leaves_watcher(self) -> None:
        """Leave a task behind that looks what is served when it is told to."""

        async def watch() -> str | None:
            await self.told.wait()
            return path()

        self.later.append(asyncio.ensure_future(watch()))

    @aiomas.expose
    def sync_returns_coro(self) -> Any:
        return self._wait_and_look()

    @aiomas.expose
    def sync_returns_coro_of_task(self) -> Any:
        """Start a task, and return a coroutine that waits for it."""
        task = asyncio.ensure_future(self._wait_and_look())

        async def wait() -> str | None:
            return await task

        return wait()

    @aiomas.expose
    def sync_may_return_coro(self, *, waits: bool) -> Any:
        return self._wait_and_look() if waits else path()

    @aiomas.expose
    def sync_schedules(self) -> None:
        asyncio.get_running_loop().call_soon(self.look)

    @aiomas.expose
    async def coro_schedules(self) -> None:
        asyncio.get_running_loop().call_soon(self.look)
        await self.let_go.wait()

    @aiomas.expose
    async def coro_calls(self, name: str) -> list[Any]:
        before = path()
        inner = await getattr(self.other, name)()
        return [before, inner, path()]

    @aiomas.expose
    def sync_calls(self, name: str) -> asyncio.Future[Any]:
        self.look()
        inner = getattr(self.other, name)()
        self.look()
        return inner

    @aiomas.expose
    def sync_runs_function(self) -> list[str | None]:
        """Run a function that is exposed as well: it is not called by a peer."""
        return [path(), self.sync(), path()]

    @aiomas.expose
    def sync_in_thread(self) -> list[Any]:
        async def elsewhere() -> str | None:
            return path()

        return [path(), in_a_thread(path), in_a_thread(lambda: asyncio.run(elsewhere())), path()]

    @aiomas.expose
    async def coro_in_thread(self) -> list[Any]:
        return self.sync_in_thread()

    @aiomas.expose
    def sync_serves_in_thread(self) -> list[Any]:
        """Run a container of another loop while a call is served in this one."""
        return [path(), in_a_thread(lambda: asyncio.run(call_elsewhere())), path()]


async def call_elsewhere() -> list[Any]:
    """Return what is seen before, in and after a call within a container of the running loop."""
    async with aiomas.Container.open(("127.0.0.1", 0), codec=codecs.MsgPack) as container:
        proxy = await container.connect(Asker(container).addr)
        return [path(), await proxy.sync(), await proxy.coro(), path()]


@pytest.fixture(params=["inside", "tcp"])
async def asker(request):
    """An agent, with a proxy of it as `asker.other`: within its container, or of another one."""
    options = {"codec": codecs.MsgPack}
    async with (
        aiomas.Container.open(("127.0.0.1", 0), **options) as container,
        aiomas.Container.open(("127.0.0.1", 0), **options) as another,
    ):
        asker = Asker(container)
        caller = container if request.param == "inside" else another
        asker.other = await caller.connect(asker.addr)
        yield asker
        assert path() is None


@pytest.fixture
def remote(asker):
    return asker.other


async def test_an_ordinary_function_serves_its_call(asker, remote):
    assert list(await asyncio.gather(remote.sync(), remote.sync())) == ["sync", "sync"]


async def test_after_a_function_that_failed_nothing_is_served(asker, remote):
    with pytest.raises(aiomas.RemoteException):
        await remote.sync_fails()
    assert asker.seen == ["sync_fails", None]


async def test_a_coroutine_function_serves_its_call_to_its_end(asker, remote):
    waiting = asyncio.gather(remote.waiting(), remote.coro(), remote.sync(), remote.waiting())
    assert await remote.coro() == ("coro", "coro")
    asker.let_go.set()
    assert list(await waiting) == ["waiting", ("coro", "coro"), "sync", "waiting"]
    assert asker.seen == ["waiting", "waiting"]


@pytest.mark.parametrize("name", ["sync_leaves_task", "coro_leaves_task"])
async def test_a_task_that_is_left_behind_has_no_call_once_its_function_has_ended(
    asker, remote, name
):
    await getattr(remote, name)()
    assert await remote.sync() == "sync"
    asker.let_go.set()
    assert await asyncio.gather(*asker.later) == [None]


@pytest.mark.parametrize("asker", ["tcp"], indirect=True)
async def test_who_asks_for_the_first_time_after_the_end_gets_no_call(asker, remote):
    await remote.coro_leaves_task_unasked()
    asker.let_go.set()
    assert await asyncio.gather(*asker.later) == [None]


@pytest.mark.parametrize("name", ["sync_returns_task", "coro_awaits_task"])
async def test_a_task_that_a_function_waits_for_is_part_of_its_call(asker, remote, name):
    reply, coro, sync = getattr(remote, name)(), remote.coro(), remote.sync()
    # Which have come together with that one.
    assert list(await asyncio.gather(coro, sync)) == [("coro", "coro"), "sync"]
    asker.let_go.set()
    assert await reply == name
    assert asker.seen == [name]


async def watch(asker: Asker, waiting: Callable[[], asyncio.Future[Any]]) -> Any:
    """Start a task and call what waits, both of it in one chunk of what the server receives.

    Returns what the task sees while the call waits, and the result of that.
    """
    asker.seen, asker.later = [], []
    for event in (asker.looked, asker.told, asker.let_go):
        event.clear()
    # What comes first may leave alone.
    first, left, reply = asker.other.sync(), asker.other.sync_leaves_watcher(), waiting()
    assert list(await asyncio.gather(first, left)) == ["sync", None]
    await asker.looked.wait()
    asker.told.set()
    (seen,) = await asyncio.gather(*asker.later)
    assert not reply.done()
    asker.let_go.set()
    return seen, await reply


@pytest.mark.parametrize(
    "name",
    [
        "waiting",
        "coro_awaits_task",
        "sync_returns_coro",
        "sync_returns_task",
        "sync_returns_coro_of_task",
    ],
)
async def test_a_task_that_is_left_behind_never_has_the_call_that_came_after_it(
    asker, remote, name
):
    for _ in range(4):  # more is known of the functions each time
        assert await watch(asker, getattr(remote, name)) == (None, name)
        assert asker.seen == [name]


async def test_nor_has_it_that_of_a_function_which_never_had_to_be_waited_for_before(asker, remote):
    name = "sync_may_return_coro"
    for _ in range(3):
        assert await remote.sync_may_return_coro(waits=False) == name
    for _ in range(2):
        waiting = functools.partial(remote.sync_may_return_coro, waits=True)
        assert await watch(asker, waiting) == (None, name)
        assert await remote.sync_may_return_coro(waits=False) == name


async def test_a_callback_that_an_ordinary_function_leaves_behind_has_no_call(asker, remote):
    await asyncio.gather(remote.sync_schedules(), remote.sync_schedules(), remote.sync())
    await asyncio.sleep(0)
    assert asker.seen == [None, None]


async def test_a_callback_is_part_of_a_call_that_goes_on(asker, remote):
    reply = remote.coro_schedules()
    assert await remote.sync() == "sync"
    await asker.looked.wait()
    assert asker.seen == ["coro_schedules"]
    asker.let_go.set()
    await reply


@pytest.mark.parametrize(("name", "inner"), [("sync", "sync"), ("coro", ("coro", "coro"))])
async def test_a_call_that_a_function_makes_is_another_one(asker, remote, name, inner):
    assert await remote.coro_calls(name) == ("coro_calls", inner, "coro_calls")

    assert await remote.sync_calls(name) == inner
    assert asker.seen == ["sync_calls", "sync_calls"]


async def test_a_function_that_is_run_within_another_serves_the_same_call(remote):
    assert await remote.sync_runs_function() == ("sync_runs_function",) * 3


@pytest.mark.parametrize("name", ["sync_in_thread", "coro_in_thread"])
async def test_other_threads_and_their_loops_serve_nothing_of_it(remote, name):
    assert await getattr(remote, name)() == (name, None, None, name)


async def test_a_loop_in_another_thread_has_calls_of_its_own(remote):
    name = "sync_serves_in_thread"
    elsewhere = (None, "sync", ("coro", "coro"), None)
    assert await remote.sync_serves_in_thread() == (name, elsewhere, name)


class Source:
    """The connection to a caller: keeps what is answered."""

    peer = peer_url = identity = None

    def __init__(self) -> None:
        self.answers: list[Any] = []

    def answer(self, message_id: int, result: Any) -> None:
        del message_id
        self.answers.append(result)


async def test_a_call_that_is_served_within_another_hides_it_until_its_end():
    def serve(name: str, function: Callable[[], Any]) -> Any:
        source: Any = Source()
        dispatcher = Dispatcher(RoutingDict({name: aiomas.expose(function)}).router)
        serve_now = dispatcher.begin_turn(source)
        assert serve_now is not None
        assert serve_now(source, 0, [name, [], {}], 10)
        return source.answers.pop()

    def inner() -> str | None:
        return path()

    def outer() -> list[Any]:
        return [path(), serve("inner", inner), path()]

    assert serve("outer", outer) == ["outer", "inner", "outer"]
    assert path() is None


async def test_what_a_function_has_started_is_part_of_no_call_that_comes_later():
    contexts: list[contextvars.Context] = []

    def start() -> None:
        contexts.append(contextvars.copy_context())

    source: Any = Source()
    functions = {"start": aiomas.expose(start), "ask": aiomas.expose(path)}
    dispatcher = Dispatcher(RoutingDict(functions).router)
    for number, name in enumerate(["start", "start", "ask", "ask", "start", "ask"]):
        serve_now = dispatcher.begin_turn(source)  # each of them has come alone
        assert serve_now is not None
        assert serve_now(source, number, [name, [], {}], 10)
        assert [context.run(path) for context in contexts] == [None] * len(contexts)
        assert not any(is_serving(context) for context in contexts)
    assert source.answers == [None, None, "ask", "ask", None, "ask"]
    assert len(contexts) == 3
