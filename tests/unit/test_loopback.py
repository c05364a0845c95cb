"""Calls inside one container: by value, never in the caller's stack, errors as from elsewhere."""

from __future__ import annotations

import asyncio
import contextvars
from types import SimpleNamespace

import pytest

from aiomas import codecs, rpc
from aiomas._current import Call, serving
from aiomas._dispatch import Dispatcher
from aiomas._loopback import Loopback
from aiomas._terms import Terms
from aiomas.exceptions import ContainerClosedError, RemoteException, SerializationError
from aiomas.rpc import PathsOnly, Proxy, add_object_serializer

whose = contextvars.ContextVar("whose", default="nobody's")
CODECS = [codecs.JSON, codecs.MsgPack, codecs.MsgPackBlosc]


class Keeper:
    router = rpc.Service()

    def __init__(self) -> None:
        self.kept: list = []
        self.hold = asyncio.Event()

    @rpc.expose
    def keep(self, value):
        self.kept.append(value)
        return value

    @rpc.expose
    def give(self):
        return self.kept

    @rpc.expose
    async def later(self, value):
        self.kept.append(value)
        await self.hold.wait()
        return value

    @rpc.expose
    def me(self):
        return self

    @rpc.expose
    def spy(self):
        return whose.get()

    @rpc.expose
    async def spy_later(self):
        await asyncio.sleep(0)
        return whose.get()

    @rpc.expose
    def unserializable(self):
        return object()

    @rpc.expose
    def fail(self, error):
        raise {"ValueError": ValueError, "CancelledError": asyncio.CancelledError}[error]("boom")


class Home:
    def __init__(self, codec=codecs.JSON) -> None:
        self.keeper = Keeper()
        self.loopback = Loopback(
            codec(), Dispatcher(self.keeper.router), "here", asyncio.get_running_loop(), Terms()
        )
        add_object_serializer(
            self.loopback.codec, lambda: self.keeper.router, PathsOnly(self.loopback)
        )
        self.remote = Proxy(self.loopback, "")


@pytest.fixture(params=CODECS)
async def home(request):
    home = Home(request.param)
    yield home
    home.keeper.hold.set()


class TestValues:
    async def test_arguments_are_copied(self, home):
        value: dict = {"list": [1]}
        future = home.remote.keep(value)
        value["list"].append(2)
        value["more"] = 3
        await future
        (kept,) = home.keeper.kept
        assert list(kept["list"]) == [1]
        assert "more" not in kept

    async def test_results_are_copied(self, home):
        home.keeper.kept.append({"a": 1})
        (result,) = await home.remote.give()
        result["b"] = 2
        assert home.keeper.kept == [{"a": 1}]

    async def test_sequences_become_what_the_codec_makes_of_them(self, home):
        expected = list if isinstance(home.loopback.codec, codecs.JSON) else tuple
        for value in ([1, 2], (1, 2)):
            result = await home.remote.keep(value)
            assert type(result) is expected
            assert type(home.keeper.kept[-1]) is expected

    async def test_an_object_with_a_router_arrives_as_a_proxy(self, home):
        proxy = await home.remote.me()
        assert isinstance(proxy, Proxy)
        assert await proxy.keep(5) == 5

    async def test_an_argument_that_cannot_be_encoded_is_refused_at_the_call(self, home):
        with pytest.raises(SerializationError, match=r"builtins\.object"):
            home.remote.keep(object())
        assert await home.remote.keep(1) == 1
        assert home.keeper.kept == [1]

    async def test_a_result_that_cannot_be_encoded_is_an_error_of_the_call(self, home):
        with pytest.raises(RemoteException, match=r"SerializationError.*builtins\.object"):
            await home.remote.unserializable()

    @pytest.mark.parametrize("bad", [[99, None], "nonsense"], ids=str)
    async def test_an_object_that_cannot_be_made_is_an_error_of_the_call(self, home, bad):
        with pytest.raises(RemoteException, match="DecodeError"):
            await home.remote.keep({"__type__": bad})
        assert await home.remote.keep(1) == 1

    async def test_a_result_that_cannot_be_made_is_an_error_of_the_call(self, home):
        home.keeper.kept.append({"__type__": [99, None]})
        with pytest.raises(SerializationError, match="99"):
            await home.remote.give()


class TestErrors:
    @pytest.mark.parametrize("error", ["ValueError", "CancelledError"])
    async def test_what_the_function_raises_is_a_remote_exception(self, home, error):
        with pytest.raises(RemoteException, match=f"{error}.*boom") as caught:
            await home.remote.fail(error)
        assert caught.value.origin == "here"
        assert caught.value.remote_traceback.startswith("Traceback")

    async def test_a_function_that_is_not_there_is_a_remote_exception(self, home):
        with pytest.raises(RemoteException, match=r"LookupError.*nope"):
            await home.remote.nope()

    async def test_a_badly_formed_call_is_a_remote_exception(self, home):
        with pytest.raises(RemoteException, match=r"TypeError.*path, args, kwargs"):
            await home.loopback.send("nonsense")


class TestTurns:
    async def test_a_function_never_runs_in_the_callers_stack(self, home):
        future = home.remote.keep(1)
        assert home.keeper.kept == []
        assert not future.done()
        await future

    async def test_awaiting_a_call_always_lets_others_run(self, home):
        others = 0

        def count():
            nonlocal others
            others += 1

        for n in range(10):
            asyncio.get_running_loop().call_soon(count)
            await home.remote.keep(n)
            assert others == n + 1

    @pytest.mark.parametrize("name", ["spy", "spy_later"])
    async def test_a_function_does_not_see_the_callers_context(self, home, name):
        token = whose.set("the caller's")
        try:
            assert await getattr(home.remote, name)() == "nobody's"
        finally:
            whose.reset(token)

    async def test_calls_start_in_their_order(self, home):
        futures = [(home.remote.later if n % 3 else home.remote.keep)(n) for n in range(100)]
        home.keeper.hold.set()
        assert await asyncio.gather(*futures) == list(range(100))
        assert home.keeper.kept == list(range(100))

    async def test_a_call_that_was_given_up_harms_nobody(self, home):
        given_up, failing, kept = (
            home.remote.later(1),
            home.remote.fail("ValueError"),
            home.remote.later(2),
        )
        given_up.cancel()
        failing.cancel()
        for _ in range(3):
            await asyncio.sleep(0)
        home.keeper.hold.set()
        assert await kept == 2
        assert not home.loopback._pending


class TestClosing:
    async def test_own_calls_end_but_those_of_handlers_are_still_made(self, home):
        own = home.remote.later("own")

        async def handler():
            serving.set(Call("a", SimpleNamespace(peer="p", peer_url=None), None, one_way=False))
            first = home.remote.later("nested")
            started.set()
            return await first, await home.remote.keep("more")

        started = asyncio.Event()
        nested = asyncio.create_task(handler())
        await started.wait()
        home.loopback.fail_own_calls(ContainerClosedError("over"))
        with pytest.raises(ContainerClosedError, match="over"):
            await own
        with pytest.raises(ContainerClosedError, match="over"):
            home.remote.keep("too late")
        home.keeper.hold.set()
        assert await nested == ("nested", "more")

    async def test_after_the_end_nobody_can_call(self, home):
        async def handler():
            serving.set(Call("a", SimpleNamespace(peer="p", peer_url=None), None, one_way=False))
            first = home.remote.later("nested")
            started.set()
            with pytest.raises(ContainerClosedError, match="over"):
                await first
            with pytest.raises(ContainerClosedError, match="over"):
                home.remote.keep("too late")

        started = asyncio.Event()
        nested = asyncio.create_task(handler())
        await started.wait()
        home.loopback.close(ContainerClosedError("over"))
        await nested
        assert not home.loopback._pending

    async def test_a_refusing_dispatcher_answers_with_its_reason(self, home):
        home.loopback.dispatcher.refuse("closed for lunch")
        with pytest.raises(RemoteException, match="closed for lunch"):
            await home.remote.keep(1)
