"""Serving calls: when they start, when they end early, and what their callers are told."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable
from typing import Any

import pytest

from aiomas import local_queue, rpc
from aiomas._dispatch import Dispatcher
from aiomas._futures import Waiting
from aiomas._handlers import Handlers
from aiomas._intake import Request, describe_failure
from aiomas._served import Served
from aiomas._session import EXCEPTION, RESULT
from aiomas.exceptions import ConnectionLost, Outcome, RemoteException
from aiomas.routing import GoneError, Service, ServiceDict, expose
from aiomas.rpc import Proxy, current_call
from aiomas.testing import VirtualTimeLoop

NOT_EXECUTED, MAYBE = Outcome.NOT_EXECUTED, Outcome.MAYBE_EXECUTED


@pytest.fixture
def anyio_backend():
    """Deadlines take no time here."""
    return "asyncio", {"loop_factory": VirtualTimeLoop}


class Peer:
    """The connection to a caller: keeps what is answered, by the numbers of the requests."""

    peer = "peer"
    peer_url = None

    def __init__(self, root, *, extended=True, tracebacks=True) -> None:
        self.extended = extended
        self.tracebacks = tracebacks
        self.answers: dict[int, tuple] = {}
        self.readable = asyncio.Event()
        self.readable.set()
        self.dispatcher = Dispatcher(root)
        self.session = self.outbox = self
        self._next_id = 0

    @property
    def holding(self) -> bool:
        return not self.readable.is_set()

    blocked = holding

    def drained(self) -> Awaitable[Any]:
        return asyncio.ensure_future(self.readable.wait()) if self.holding else Waiting(None)

    def reply(self, kind, message_id, content) -> None:
        assert not (self.extended and message_id in self.answers)
        self.answers[message_id] = (kind, content)

    def answer(self, message_id, result) -> None:
        self.reply(RESULT, message_id, result)

    def failure(self, message_id, kind, text, outcome) -> None:
        assert message_id not in self.answers
        self.answers[message_id] = (kind, text, outcome)

    def failure_content(self, failure) -> Any:
        return describe_failure(failure, tracebacks=self.tracebacks)

    def call(self, path, *args, deadline=None, **options) -> int:
        """Let a call arrive, and return its number."""
        content = [path, list(args), {}]
        source: Any = self
        request = Request(content, self._next_id, source, 0, deadline, **options)
        self._next_id += 1
        self.dispatcher(request)
        return request.message_id

    async def close(self) -> None:
        self.readable.set()
        for task in list(self.dispatcher.handlers):
            task.cancel()
        await turns()


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Part:
    router = Service()

    @expose
    def work(self):
        return "work"


class Spam:
    router = Service(["part"])

    def __init__(self) -> None:
        self.part = Part()
        self.other = Part()  # has a router, but is no part of ours
        self.proxy = Proxy(Any, "somewhere")  # type: ignore[arg-type]
        self.log: list = []
        self.hold = asyncio.Event()
        self.cancelled: list = []

    @expose
    def sync(self, value=None):
        self.log.append(value)
        return value

    @expose
    async def quick(self, value=None):
        self.log.append(value)
        return value

    @expose
    async def slow(self, value=None):
        self.log.append(value)
        try:
            await self.hold.wait()
        except asyncio.CancelledError as exc:
            self.cancelled.append((value, str(exc)))
            raise
        return value

    @expose
    async def stubborn(self):
        try:
            await self.hold.wait()
        except asyncio.CancelledError:
            return "all the same"

    @expose
    async def tidy(self):
        try:
            await self.hold.wait()
        except asyncio.CancelledError:
            self.log.append("tidying up")
            await asyncio.sleep(60)
            self.log.append("tidy")
            raise

    @expose
    def fail(self):
        msg = "boom"
        raise ValueError(msg)

    @expose
    async def fail_later(self):
        await asyncio.sleep(0)
        msg = "boom later"
        raise ValueError(msg)

    @expose(idempotent=True)
    def look(self):
        return "look"

    @expose
    def _private(self):
        """Cannot be called although it is exposed."""

    def hidden(self):
        """Is not exposed."""

    @property
    def trap(self):
        self.log.append("the code of a property was run")
        return self.sync

    @expose
    def me(self):
        call = current_call()
        return call.path, call.peer, call.deadline, call.one_way


class Broken:
    """Cannot have a router: what should be a part of it is part of something else."""

    router = Service(["part"])

    def __init__(self, part) -> None:
        self.part = part

    @expose
    def work(self):
        return "never"


@pytest.fixture
def spam():
    return Spam()


@pytest.fixture
async def peer(spam):
    peer = Peer(spam.router)
    yield peer
    await peer.close()


class TestDeadlines:
    @pytest.mark.parametrize("name", ["sync", "quick", "slow"])
    @pytest.mark.parametrize("left", [0.0, -1.0])
    async def test_a_call_that_arrives_too_late_is_not_started(self, peer, spam, name, left):
        number = peer.call(name, deadline=asyncio.get_running_loop().time() + left)
        await turns()
        kind, text, outcome = peer.answers[number]
        assert (kind, outcome) == ("deadline", NOT_EXECUTED)
        assert "before it was started" in text
        assert spam.log == []
        assert not peer.dispatcher.handlers

    @pytest.mark.parametrize("name", ["sync", "quick"])
    async def test_nor_is_one_whose_time_runs_out_while_it_waits_for_its_turn(
        self, peer, spam, name
    ):
        if sys.version_info >= (3, 12) and name == "sync":
            pytest.skip("where tasks start eagerly, a function has nobody to wait for")
        peer.readable.clear()
        first = peer.call("quick", "first")
        number = peer.call(name, "late", deadline=1.0)
        await asyncio.sleep(2)
        peer.readable.set()
        await turns()
        assert peer.answers[first] == (RESULT, "first")
        assert peer.answers[number][0::2] == ("deadline", NOT_EXECUTED)
        assert spam.log == ["first"]

    async def test_a_call_is_cancelled_when_its_time_is_up(self, peer, spam):
        number = peer.call("slow", "x", deadline=2.5)
        await asyncio.sleep(2.4)
        assert number not in peer.answers
        await asyncio.sleep(0.2)
        kind, text, outcome = peer.answers[number]
        assert (kind, outcome) == ("deadline", MAYBE)
        assert "cancelled when the caller's time was up" in text
        assert spam.cancelled == [("x", "the caller's time is up")]

    async def test_a_call_that_ends_in_time_is_left_alone(self, peer, spam):
        numbers = [peer.call(name, "x", deadline=2.5) for name in ("sync", "quick", "slow")]
        await asyncio.sleep(2)
        spam.hold.set()
        await asyncio.sleep(10)
        assert [peer.answers[n] for n in numbers] == [(RESULT, "x")] * 3
        assert spam.cancelled == []

    async def test_one_that_does_not_mind_still_answers(self, peer):
        number = peer.call("stubborn", deadline=1.0)
        await asyncio.sleep(2)
        assert peer.answers[number] == (RESULT, "all the same")

    async def test_a_handler_can_ask_for_it(self, peer):
        number = peer.call("me", deadline=7.0)
        assert peer.answers[number] == (RESULT, ("me", "peer", 7.0, False))


class TestCancelling:
    async def test_a_caller_that_has_given_up_gets_no_answer(self, peer, spam):
        number, other = peer.call("slow", "x"), peer.call("slow", "y")
        await turns()
        peer.dispatcher.cancel(number)
        await turns()
        assert spam.cancelled == [("x", "the caller has given up")]
        assert peer.answers == {}
        assert len(peer.dispatcher) == 1
        spam.hold.set()
        await turns()
        assert peer.answers == {other: (RESULT, "y")}

    @pytest.mark.parametrize("first", ["deadline", "cancel", "lost"])
    @pytest.mark.parametrize("second", ["cancel", "lost", "deadline"])
    async def test_one_that_cleans_up_is_not_disturbed_again(self, peer, spam, first, second):
        deadline_at = {first: 1.0, second: 2.0}.get("deadline")
        number = peer.call("tidy", deadline=deadline_at)
        await asyncio.sleep(1)
        for how in (first, second):
            if how == "cancel":
                peer.dispatcher.cancel(number)
            elif how == "lost":
                peer.dispatcher.cancel_all()
            await asyncio.sleep(1)
        assert spam.log == ["tidying up"]
        await asyncio.sleep(60)
        assert spam.log == ["tidying up", "tidy"]
        assert not peer.dispatcher.handlers

    async def test_who_was_cancelled_before_its_time_was_up_is_not_late(self, peer):
        number = peer.call("tidy", deadline=2.0)
        await turns()
        peer.dispatcher.cancel_all()
        await asyncio.sleep(100)
        assert peer.answers[number][0] == EXCEPTION
        assert "CancelledError" in str(peer.answers[number][1])

    async def test_even_before_it_has_started(self, peer, spam):
        number = peer.call("slow", "x")
        peer.dispatcher.cancel(number)
        await turns()
        assert peer.answers == {}
        assert spam.log == ([] if sys.version_info < (3, 12) else ["x"])
        after = peer.call("sync", "y")
        assert peer.answers == {after: (RESULT, "y")}  # at once: nobody is before it

    async def test_what_is_unknown_or_over_is_no_matter(self, peer):
        number = peer.call("sync", 1)
        peer.dispatcher.cancel(number)
        peer.dispatcher.cancel(99)
        assert peer.answers == {number: (RESULT, 1)}

    async def test_one_that_does_not_mind_gives_no_answer_either(self, peer):
        number = peer.call("stubborn")
        await turns()
        peer.dispatcher.cancel(number)
        await turns()
        assert peer.answers == {}
        assert not peer.dispatcher.handlers

    async def test_all_are_cancelled_with_their_caller(self, peer, spam):
        for value in "xyz":
            peer.call("slow", value)
        await turns()
        peer.dispatcher.cancel_all()
        await turns()
        reason = "the connection to the caller was lost"
        assert spam.cancelled == [(value, reason) for value in "xyz"]
        assert len(peer.dispatcher) == 0

    async def test_other_callers_of_the_same_functions_are_not_touched(self, spam):
        handlers = Handlers()
        peers = [Peer(spam.router) for _ in range(2)]
        for peer in peers:
            peer.dispatcher = Dispatcher(spam.router, handlers)
        numbers = [peer.call("slow", n) for n, peer in enumerate(peers)]
        await turns()
        assert len(handlers) == 2
        peers[0].dispatcher.cancel_all()
        await turns()
        assert [value for value, _ in spam.cancelled] == [0]
        spam.hold.set()
        await turns()
        assert peers[1].answers == {numbers[1]: (RESULT, 1)}

    async def test_a_peer_that_never_cancels_cannot_do_harm_with_its_numbers(self, spam):
        peer = Peer(spam.router, extended=False)
        for value in "xy":
            peer._next_id = 5
            peer.call("slow", value)
        await turns()
        peer.dispatcher.cancel(5)
        peer.dispatcher.cancel_all()
        await turns()
        assert spam.cancelled == []
        assert len(peer.dispatcher.handlers) == 2
        await peer.close()

    @pytest.mark.parametrize("extended", [True, False])
    async def test_a_lost_connection_cancels_where_both_ends_know_of_it(self, spam, extended):
        queue = local_queue.LocalQueue("dispatch")
        accepted: list[rpc.RpcClient] = []
        server = await rpc.start_server(queue, spam, accepted.append)
        client = await rpc.open_connection(queue, extensions=extended)
        call = client.remote.slow("x")
        while not spam.log:  # noqa: ASYNC110 - there is no event for this
            await asyncio.sleep(0)
        client.channel.transport.abort()  # type: ignore[attr-defined]
        with pytest.raises(ConnectionLost):
            await call
        await turns()
        assert bool(spam.cancelled) is extended
        assert accepted[0].dispatcher is not None
        assert bool(accepted[0].dispatcher.handlers) is not extended
        spam.hold.set()
        await turns()
        server.close()


class TestOneWay:
    @pytest.mark.parametrize("name", ["fail", "fail_later"])
    async def test_an_error_is_logged_since_nobody_is_told(self, peer, caplog, name):
        peer.call(name, one_way=True)
        await turns()
        (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
        assert record.getMessage() == f"A call of {name} failed"
        assert record.exc_info is not None
        assert "boom" in str(record.exc_info[1])
        assert record.name.startswith("aiomas.")
        assert peer.answers == {}

    @pytest.mark.parametrize("name", ["fail", "fail_later"])
    async def test_an_error_that_is_told_is_not_logged(self, peer, caplog, name):
        number = peer.call(name)
        await turns()
        kind, text = peer.answers[number]
        assert kind == EXCEPTION
        assert "ValueError: boom" in text
        assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []

    async def test_has_no_answer(self, peer, spam):
        for name in ("sync", "quick", "nope", "hidden"):
            peer.call(name, "x", one_way=True)
        peer.call("sync", one_way=True, deadline=-1.0)
        await turns()
        assert spam.log == ["x", "x"]
        assert peer.answers == {}

    async def test_a_handler_can_ask_for_it(self, peer, spam):
        asked: list = []
        peer.dispatcher = Dispatcher(
            ServiceDict({"ask": expose(lambda: asked.append(current_call().one_way))}).router
        )
        peer.call("ask", one_way=True)
        peer.call("ask")
        assert asked == [True, False]


class TestOrder:
    async def test_functions_of_both_kinds_start_as_their_calls_arrive(self, peer, spam):
        kinds = ["quick", "sync", "sync", "slow", "sync", "quick", "sync"]
        for n, kind in enumerate(kinds):
            peer.call(kind, n)
        await turns()
        assert spam.log == list(range(len(kinds)))

    async def test_a_function_with_nobody_before_it_runs_at_once(self, peer):
        number = peer.call("sync", 1)
        assert peer.answers == {number: (RESULT, 1)}

    async def test_it_is_kept_while_the_peer_does_not_read(self, peer, spam):
        kinds = ["quick", "sync", "sync", "slow", "sync", "quick", "sync"]
        eager = sys.version_info >= (3, 12)
        peer.call("slow", 0)
        await turns()
        peer.readable.clear()
        for n, kind in enumerate(kinds, start=1):
            peer.call(kind, n)
            await turns(3)
        if not eager:
            assert spam.log == [0]
        peer.readable.set()
        await turns()
        for n, kind in enumerate(kinds, start=1 + len(kinds)):
            peer.call(kind, n)
        await turns()
        started = [value for value in spam.log if not eager or value > len(kinds)]
        assert started == sorted(started)
        assert sorted(spam.log) == list(range(1 + 2 * len(kinds)))

    async def test_a_function_is_called_once_and_answered_once(self, peer, spam):
        numbers = [peer.call(kind, n) for n, kind in enumerate(["sync", "quick"] * 20)]
        await turns()
        assert spam.log == numbers
        assert peer.answers == {n: (RESULT, n) for n in numbers}


class TestWhatCannotBeCalled:
    PATHS = (
        "nope",
        "hidden",
        "_private",
        "__init__",
        "__class__",
        "router",
        "router/resolve",
        "log",
        "log/append",
        "trap",
        "proxy",
        "proxy/work",
        "other",
        "other/work",
        "part",
        "part/nope",
        "part/work/x",
        "sync/__call__",
        "/sync",
        "sync/",
        "",
        "/",
        "aiomas/hello",
        "first/part/nope",
        "broken",
        "broken/work",
        "broken/nope",
    )

    @pytest.fixture
    def root(self, spam):
        service = ServiceDict({"first": Spam()})
        for name in ("sync", "part", "other", "proxy", "log", "hidden", "_private"):
            service.dict[name] = getattr(spam, name)
        service.dict["broken"] = Broken(service.dict["first"].part)
        assert service.router.resolve("first/part/work")() == "work"
        return service

    @pytest.mark.parametrize("path", PATHS)
    async def test_is_answered_with_the_same_error(self, peer, spam, path):
        number = peer.call(path)
        text = f"LookupError: There is no exposed function at {path!r}"
        assert peer.answers[number] == ("lookup", text, NOT_EXECUTED)
        assert spam.log == []

    @pytest.mark.parametrize("path", ["broken", "broken/work", "broken/nope", "proxy/x", "hidden"])
    async def test_in_a_dictionary_as_well(self, root, path):
        peer = Peer(root.router)
        for _ in range(2):
            number = peer.call(path)
            text = f"LookupError: There is no exposed function at {path!r}"
            assert peer.answers[number] == ("lookup", text, NOT_EXECUTED)
        assert peer.call("first/sync", "the others go on") in peer.answers
        assert peer.answers[2] == (RESULT, "the others go on")

    async def test_what_is_broken_is_logged_here(self, root, caplog):
        peer = Peer(root.router)
        peer.call("broken/work")
        (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
        assert "'broken/work'" in record.getMessage()
        assert record.exc_info is not None
        assert "registered already" in str(record.exc_info[1])
        caplog.clear()
        peer.call("nope")
        assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []

    async def test_a_long_path_makes_a_short_answer(self, peer):
        number = peer.call("x" * 1_000_000)
        assert len(peer.answers[number][1]) < 500

    async def test_what_has_ended_may_say_so(self, peer):
        def resolve(path):
            msg = f"The agent at {path} has been stopped"
            raise GoneError(msg)

        peer.dispatcher._paths.resolve = resolve
        number = peer.call("agents/7/bid")
        text = "LookupError: The agent at agents/7/bid has been stopped"
        assert peer.answers[number] == ("lookup", text, NOT_EXECUTED)

    async def test_a_repetition_of_what_was_not_declared_idempotent(self, peer, spam):
        number = peer.call("sync", "x", again=True)
        kind, text, outcome = peer.answers[number]
        assert (kind, outcome) == ("not idempotent", NOT_EXECUTED)
        assert "sync" in text
        assert spam.log == []
        number = peer.call("look", again=True)
        assert peer.answers[number] == (RESULT, "look")

    async def test_anything_after_a_refusal(self, peer, spam):
        peer.dispatcher.refuse("closed for lunch")
        numbers = [peer.call(path) for path in ("sync", "slow", "nope")]
        assert [peer.answers[n] for n in numbers] == [
            ("refused", "closed for lunch", NOT_EXECUTED)
        ] * 3
        assert spam.log == []

    @pytest.mark.parametrize("arguments", [("x", "y"), ("x", "y", "z")])
    @pytest.mark.parametrize("name", ["sync", "quick"])
    async def test_with_arguments_that_do_not_fit(self, peer, spam, name, arguments):
        number = peer.call(name, *arguments)
        await turns()
        kind, text, outcome = peer.answers[number]
        assert (kind, outcome) == ("bad request", NOT_EXECUTED)
        assert "TypeError" in text
        assert spam.log == []


class TestTracebacks:
    @pytest.mark.parametrize("name", ["fail", "fail_later"])
    async def test_the_caller_sees_them_or_only_what_the_exception_says(self, spam, name):
        for tracebacks in (True, False):
            peer = Peer(spam.router, tracebacks=tracebacks)
            number = peer.call(name)
            await turns()
            kind, text = peer.answers[number]
            assert kind == EXCEPTION
            assert text.strip().endswith(
                f"ValueError: {'boom later' if 'later' in name else 'boom'}"
            )
            assert (__file__ in text) is tracebacks
            assert ("Traceback" in text) is tracebacks
            assert "aiomas/_dispatch.py" not in text

    async def test_a_server_can_keep_them_to_itself(self, spam):
        queue = local_queue.LocalQueue("tracebacks")
        server = await rpc.start_server(queue, spam, tracebacks=False)
        client = await rpc.open_connection(queue)
        with pytest.raises(RemoteException) as caught:
            await client.remote.fail()
        assert caught.value.remote_traceback == "ValueError: boom"
        await client.close()
        server.close()

    async def test_so_can_a_client(self, spam):
        queue = local_queue.LocalQueue("tracebacks")
        accepted: list[rpc.RpcClient] = []
        server = await rpc.start_server(queue, ServiceDict(), accepted.append)
        client = await rpc.open_connection(queue, router=spam, tracebacks=False)
        while not accepted:  # noqa: ASYNC110 - there is no event for this
            await asyncio.sleep(0)
        with pytest.raises(RemoteException) as caught:
            await accepted[0].remote.fail()
        assert caught.value.remote_traceback == "ValueError: boom"
        await client.close()
        server.close()


class LateService:
    router = rpc.Service()

    def __init__(self) -> None:
        self.started = False

    @rpc.expose
    async def run(self):
        self.started = True


class LateSource:
    blocked = False
    extended = True
    peer = peer_url = None

    def __init__(self) -> None:
        self.session = self.outbox = self


class Timer:
    def cancel(self) -> None:
        pass


class LateRequest(Served):
    message_id = 0
    content: tuple[str, tuple, dict] = ("run", (), {})
    source = LateSource()

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.refusal: asyncio.Future[tuple] = asyncio.get_running_loop().create_future()

    def answer(self, result):
        raise AssertionError

    def fail(self, exception):
        raise AssertionError

    def refuse(self, kind, text, outcome=Outcome.NOT_EXECUTED):
        self.refusal.set_result((kind, outcome))


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="tasks start at once there")
async def test_time_that_is_up_before_the_task_begins_is_a_matter_of_the_deadline(monkeypatch):
    loop = asyncio.get_running_loop()
    service = LateService()
    dispatcher = Dispatcher(service.router)
    timers: list = []
    # uvloop runs timers that are due before the first step of tasks, asyncio's own loop after it.

    def call_at(_, *timer, context):
        timers.append(timer)
        return Timer()

    monkeypatch.setattr(loop, "call_at", call_at)
    request = LateRequest(loop.time() + 10)

    dispatcher(request)
    for callback, *args in timers:
        callback(*args)

    assert await request.refusal == ("deadline", Outcome.NOT_EXECUTED)
    assert not service.started
