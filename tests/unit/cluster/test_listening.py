"""Who listens hears of each event from then on, whatever the others do, until the end."""

from __future__ import annotations

import asyncio
import contextlib
import gc

import pytest

from aiomas.cluster.events import ClusterEvent, EventKind
from aiomas.cluster.listening import Listeners


@pytest.fixture
def listeners():
    return Listeners()


def event(message):
    return ClusterEvent(kind=EventKind.HUNG, message=message)


def test_functions_hear_of_events_until_they_are_removed(listeners):
    heard: list[str] = []
    listeners.tell(event("before"))
    remove = listeners.add(lambda e: heard.append(e.message))
    listeners.tell(event("one"))
    remove()
    remove()  # is harmless
    listeners.tell(event("after"))
    assert heard == ["one"]


def test_a_function_that_fails_is_logged_and_the_others_hear_all_the_same(listeners, caplog):
    heard: list[ClusterEvent] = []
    listeners.add(lambda e: 1 / 0)
    listeners.add(heard.append)
    listeners.tell(event("one"))
    assert len(heard) == 1
    assert "A callback for events of a cluster failed" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_a_function_may_remove_itself(listeners):
    heard = []

    def once(e):
        heard.append(e)
        remove()

    remove = listeners.add(once)
    listeners.add(heard.append)
    listeners.tell(event("one"))
    listeners.tell(event("two"))
    assert len(heard) == 3


def test_what_cannot_be_called_is_refused(listeners):
    with pytest.raises(TypeError, match="callback must be a function that takes an event, got 5"):
        listeners.add(5)


async def test_loops_get_all_events_from_their_beginning_to_the_end(listeners):
    listeners.tell(event("before"))
    one, other = listeners.iterate(), listeners.iterate()
    listeners.tell(event("one"))
    listeners.tell(event("two"))
    listeners.close()
    assert [e.message async for e in one] == ["one", "two"]
    assert [e.message async for e in other] == ["one", "two"]


async def test_a_loop_waits_for_events(listeners):
    events = listeners.iterate()
    waiting = asyncio.create_task(anext(events))
    await asyncio.sleep(0)
    listeners.tell(event("one"))
    assert (await waiting).message == "one"
    await events.aclose()


async def test_a_loop_that_is_left_gets_nothing_any_more(listeners):
    async with contextlib.aclosing(listeners.iterate()) as events:
        listeners.tell(event("one"))
        async for _ in events:
            break
    assert not listeners._queues


async def test_a_loop_that_never_began_is_forgotten(listeners):
    listeners.iterate()
    gc.collect()
    listeners.tell(event("one"))
    assert not listeners._queues


async def test_after_the_end_there_is_nothing_to_wait_for(listeners):
    listeners.close()
    assert [e async for e in listeners.iterate()] == []


async def test_an_iterator_that_nobody_reads_keeps_the_newest_events(listeners):
    events = listeners.iterate()
    for number in range(10_005):
        listeners.tell(event(str(number)))
    listeners.close()
    kept = [e.message async for e in events]
    assert (kept[0], kept[-1], len(kept)) == ("6", "10004", 9_999)
