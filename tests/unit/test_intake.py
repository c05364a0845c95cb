"""The intake: how many requests may be here, in which order they leave, and who waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from aiomas._futures import Waiting
from aiomas._intake import Intake, Request, describe_failure
from aiomas._limits import Limits
from aiomas._session import EXCEPTION, RESULT
from aiomas.exceptions import ConnectionLost, Outcome

LIMITS = Limits(max_requests=3, max_request_bytes=100)


class Source:
    """What requests are answered with: keeps the answers."""

    peer = "peer"
    peer_url = None
    identity = None

    def __init__(self, *, extended: bool = False) -> None:
        self.extended = extended
        self.replies: list[tuple[Any, ...]] = []
        self.paused: asyncio.Future[None] | None = None

    intake: Intake

    def reply(self, kind: int, message_id: int, content: Any) -> None:
        self.replies.append((kind, message_id, content))

    def answer(self, message_id: int, result: Any) -> None:
        self.reply(RESULT, message_id, result)

    def failure(self, message_id: int, kind: str, text: str, outcome: Outcome) -> None:
        self.replies.append((kind, message_id, text, outcome))

    def failure_content(self, failure: BaseException | str | list[Any]) -> Any:
        return f"content of {failure!r}"

    def drained(self) -> Awaitable[None]:
        return Waiting(self.paused)


class Setting:
    """An intake, and what its handler was given."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.open = True
        self.intake = Intake(limits, asyncio.get_running_loop(), lambda: self.open)
        self.source = Source()
        self.handled: list[int] = []
        self._next_id = 0

    def put(self, content: Any = None, *, size: int = 1, paused: bool = False) -> Request:
        """Let a request arrive."""
        request = Request(content, self._next_id, self.source, size)
        self._next_id += 1
        self.intake.put(request, paused=paused)
        return request

    def serve(self) -> None:
        self.intake.serve(lambda request: self.handled.append(request.message_id))

    async def get(self) -> int:
        return (await self.intake.get("the channel")).message_id

    @property
    def held(self) -> tuple[int, int]:
        return self.intake.requests, self.intake.bytes


@pytest.fixture
async def setting():
    return Setting()


async def turn() -> None:
    await asyncio.sleep(0)


def lost() -> ConnectionLost:
    return ConnectionLost("The connection was lost")


# --- limits ---------------------------------------------------------------------------------------


async def test_nothing_is_held_at_first(setting):
    assert setting.held == (0, 0)
    assert setting.intake.limit_hit(1) is None


async def test_requests_are_counted_until_they_are_answered(setting):
    setting.serve()
    requests = [setting.put(size=size) for size in (1, 10, 20)]
    assert setting.held == (3, 31)

    requests[0].reply(None)
    assert setting.held == (2, 30)
    requests[1].fail("spam")
    assert setting.held == (1, 20)
    requests[2].refuse("overloaded", "spam")
    assert setting.held == (0, 0)


async def test_a_request_is_not_given_back_twice(setting):
    setting.serve()
    setting.put(size=5)
    request = setting.put(size=7)

    request.reply(None)
    request.release()
    request.refuse("cancelled", "")

    assert setting.held == (1, 5)


async def test_so_many_requests_may_be_here(setting):
    setting.serve()
    for _ in range(2):
        setting.put()
    assert setting.intake.limit_hit(1) is None

    request = setting.put()
    assert setting.intake.limit_hit(1) == "max_requests"

    request.reply(None)
    assert setting.intake.limit_hit(1) is None


async def test_so_many_bytes_of_requests_may_be_here(setting):
    setting.serve()
    setting.put(size=60)

    assert setting.intake.limit_hit(40) is None
    assert setting.intake.limit_hit(41) == "max_request_bytes"


async def test_a_single_large_request_is_no_matter_of_this_limit(setting):
    setting.serve()
    assert setting.intake.limit_hit(1_000) is None

    setting.put(size=1_000)
    assert setting.intake.limit_hit(1) == "max_request_bytes"


async def test_requests_that_wait_count_as_well(setting):
    for _ in range(3):
        setting.put()

    assert setting.held == (3, 3)
    assert setting.intake.limit_hit(1) == "max_requests"


async def test_a_request_that_is_received_is_no_longer_counted(setting):
    for _ in range(3):
        setting.put(size=10)

    await setting.get()
    assert setting.held == (2, 20)
    request = await setting.intake.get("the channel")
    assert setting.held == (1, 10)

    request.reply(None)
    assert setting.held == (1, 10)


# --- with a handler -------------------------------------------------------------------------------


async def test_a_handler_gets_each_request_at_once(setting):
    setting.serve()

    for number in range(3):
        setting.put()
        assert setting.handled == list(range(number + 1))


async def test_a_handler_gets_those_first_that_wait_and_not_before_its_caller_goes_on(setting):
    for _ in range(3):
        setting.put()

    setting.serve()
    setting.put()
    assert setting.handled == []

    await turn()
    assert setting.handled == [0, 1, 2, 3]
    setting.put()
    assert setting.handled == [0, 1, 2, 3, 4]


async def test_requests_wait_while_the_peer_does_not_read(setting):
    setting.serve()
    setting.intake.pause()
    for _ in range(2):
        setting.put(paused=True)
    await turn()
    assert setting.handled == []

    setting.intake.resume()
    assert setting.handled == []
    setting.put()  # has to wait for those before it
    assert setting.handled == []

    await turn()
    assert setting.handled == [0, 1, 2]


async def test_nothing_more_is_handed_over_once_the_peer_reads_no_more(setting):
    handled: list[int] = []

    def handler(request: Request) -> None:
        handled.append(request.message_id)
        if request.message_id == 1:
            setting.intake.pause()

    for _ in range(4):
        setting.put()
    setting.intake.serve(handler)
    await turn()
    assert handled == [0, 1]
    await turn()
    assert handled == [0, 1]

    setting.intake.resume()
    await turn()
    assert handled == [0, 1, 2, 3]


async def test_a_pause_that_comes_back_before_anything_was_handed_over_holds(setting):
    setting.serve()
    setting.put(paused=True)
    setting.intake.resume()
    setting.intake.pause()

    await turn()
    assert setting.handled == []

    setting.intake.resume()
    await turn()
    assert setting.handled == [0]


async def test_a_handler_that_raises_does_not_stop_the_requests_that_wait(setting):
    handled: list[int] = []
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

    def handler(request: Request) -> None:
        handled.append(request.message_id)
        if request.message_id == 0:
            raise ValueError("spam")

    for _ in range(3):
        setting.put()
    setting.intake.serve(handler)
    await turn()
    await turn()

    assert handled == [0, 1, 2]
    assert [str(context["exception"]) for context in reported] == ["spam"]


async def test_nothing_is_handed_over_on_a_connection_that_is_closed(setting):
    setting.put()
    setting.serve()
    setting.open = False

    await turn()
    await turn()

    assert setting.handled == []


async def test_a_request_that_arrives_while_others_are_handed_over_comes_after_them(setting):
    handled: list[int] = []

    def handler(request: Request) -> None:
        handled.append(request.message_id)
        if request.message_id == 0:
            setting.put()

    for _ in range(3):
        setting.put()
    setting.intake.serve(handler)
    await turn()

    assert handled == [0, 1, 2, 3]


# --- requests whose callers have given up ---------------------------------------------------------


async def test_a_request_that_waits_can_be_dropped(setting):
    setting.source.extended = True
    for _ in range(3):
        setting.put(size=10)

    assert setting.intake.drop(1)
    assert setting.held == (2, 20)
    assert not setting.intake.drop(1)

    setting.serve()
    await turn()
    assert setting.handled == [0, 2]


async def test_a_request_that_was_handed_over_cannot_be_dropped(setting):
    setting.source.extended = True
    setting.serve()
    setting.put(size=10)

    assert not setting.intake.drop(0)
    assert setting.held == (1, 10)


@pytest.mark.parametrize("message_id", [-1, 7, 10**400])
async def test_a_request_that_was_never_here_cannot_be_dropped(setting, message_id):
    setting.source.extended = True
    setting.put()

    assert not setting.intake.drop(message_id)
    assert setting.held == (1, 1)


async def test_requests_of_old_peers_may_have_the_same_id(setting):
    for content in "abc":
        setting.intake.put(Request(content, 7, setting.source, 1), paused=False)

    received = [(await setting.intake.get("the channel")).content for _ in range(3)]

    assert received == ["a", "b", "c"]
    assert setting.held == (0, 0)


async def test_who_waits_goes_on_waiting_if_the_request_is_dropped_at_once(setting):
    """It may come with its cancellation in the same bytes."""
    setting.source.extended = True
    waiting = asyncio.ensure_future(setting.get())
    await turn()
    setting.put()
    setting.intake.drop(0)
    await turn()
    await turn()
    assert not waiting.done()

    setting.put()
    assert await waiting == 1


async def test_who_waits_hears_of_the_end_if_the_request_is_dropped_before_it(setting):
    setting.source.extended = True
    waiting = asyncio.ensure_future(setting.get())
    await turn()
    setting.put()
    setting.intake.drop(0)
    setting.intake.close(lost())

    with pytest.raises(ConnectionLost):
        await waiting


# --- one by one -----------------------------------------------------------------------------------


async def test_requests_are_received_in_the_order_in_which_they_came(setting):
    for _ in range(3):
        setting.put()

    assert [await setting.get() for _ in range(3)] == [0, 1, 2]


async def test_who_is_early_waits_for_the_request(setting):
    waiting = asyncio.ensure_future(setting.get())
    await turn()
    setting.put()
    setting.put()

    assert await waiting == 0
    assert await setting.get() == 1


async def test_requests_are_received_although_the_peer_does_not_read(setting):
    """Who takes them one by one waits for the replies to leave, if it wants to."""
    setting.put(paused=True)

    assert await setting.get() == 0


async def test_only_one_can_wait_for_requests(setting):
    waiting = asyncio.ensure_future(setting.get())
    await turn()

    with pytest.raises(RuntimeError, match="Somebody else receives the requests of the channel"):
        await setting.get()

    setting.put()
    await waiting


async def test_nobody_can_wait_for_requests_that_a_handler_gets(setting):
    setting.serve()

    with pytest.raises(RuntimeError, match="Somebody else receives the requests of the channel"):
        await setting.get()


async def test_who_stops_waiting_loses_no_request(setting):
    waiting = asyncio.ensure_future(setting.get())
    await turn()
    setting.put()
    waiting.cancel()
    await asyncio.wait([waiting])

    assert setting.held == (1, 1)
    assert await setting.get() == 0


# --- the end --------------------------------------------------------------------------------------


async def test_requests_that_wait_are_received_after_the_end_and_then_it_is_told(setting):
    for _ in range(2):
        setting.put()
    setting.intake.close(lost())

    assert [await setting.get() for _ in range(2)] == [0, 1]
    for _ in range(2):
        with pytest.raises(ConnectionLost, match="was lost"):
            await setting.get()


async def test_who_waits_hears_of_the_end(setting):
    waiting = asyncio.ensure_future(setting.get())
    await turn()
    setting.intake.close(lost())

    with pytest.raises(ConnectionLost, match="was lost"):
        await waiting


async def test_each_who_asks_after_the_end_gets_an_error_of_its_own(setting):
    setting.intake.close(lost())

    errors = []
    for _ in range(2):
        with pytest.raises(ConnectionLost) as info:
            await setting.get()
        errors.append(info.value)

    assert errors[0] is not errors[1]


async def test_requests_that_wait_for_a_handler_end_with_the_connection(setting):
    setting.serve()
    setting.intake.pause()
    for _ in range(3):
        setting.put(size=10, paused=True)
    setting.open = False

    setting.intake.close(lost())

    assert setting.held == (0, 0)
    await turn()
    assert setting.handled == []


# --- requests -------------------------------------------------------------------------------------


async def test_a_result_a_failure_and_a_refusal_are_answers(setting):
    setting.serve()
    requests = [setting.put() for _ in range(3)]

    requests[0].reply("cya")
    requests[1].fail("spam")
    requests[2].refuse("lookup", "no such thing")

    assert setting.source.replies == [
        (RESULT, 0, "cya"),
        (EXCEPTION, 1, "content of 'spam'"),
        ("lookup", 2, "no such thing", Outcome.NOT_EXECUTED),
    ]


async def test_a_one_way_request_is_never_answered_and_counts_until_it_ends(setting):
    setting.serve()
    requests = [Request(None, number, setting.source, 10, one_way=True) for number in range(3)]
    for request in requests:
        setting.intake.put(request, paused=False)
    assert setting.held == (3, 30)

    requests[0].reply("cya")
    requests[1].fail(ValueError("spam"))
    requests[2].refuse("lookup", "no such thing")

    assert setting.source.replies == []
    assert setting.held == (0, 0)


@pytest.mark.parametrize("answer", ["reply", "fail"])
async def test_who_answers_can_wait_until_the_peer_reads(setting, answer):
    setting.source.paused = asyncio.get_running_loop().create_future()
    waiting = asyncio.ensure_future(getattr(setting.put(), answer)("spam"))
    await turn()
    assert not waiting.done()

    setting.source.paused.set_result(None)
    await waiting


async def test_a_request_shows_its_number_and_the_beginning_of_its_content(setting):
    assert repr(setting.put("spam")) == "<Request 0 'spam'>"
    assert len(repr(setting.put("x" * 10_000))) < 200


def error() -> ValueError:
    try:
        raise ValueError("spam")  # where it was raised
    except ValueError as exc:
        return exc


def test_a_failure_is_described_by_its_traceback():
    text = describe_failure(error(), tracebacks=True)

    assert text.startswith("Traceback")
    assert "where it was raised" in text
    assert text.endswith("ValueError: spam\n")


def test_a_failure_is_described_without_our_code_where_that_is_nobodys_business():
    assert describe_failure(error(), tracebacks=False) == "ValueError: spam"


@pytest.mark.parametrize("failure", ["spam", ["spam", 5]])
@pytest.mark.parametrize("tracebacks", [True, False])
def test_a_description_stays_as_it_is(failure, tracebacks):
    assert describe_failure(failure, tracebacks=tracebacks) is failure
