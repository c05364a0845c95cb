"""What is kept away from a host is enough to make its agents again, and no more than that."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aiomas.cluster import archive as archive_module
from aiomas.cluster.archive import Archive, Former, Forwarding, formers_of
from aiomas.codecs import MsgPack
from aiomas.exceptions import ConnectionLost
from tests.unit.cluster.fakes import BOUND, until


class FakeDriver:
    """Takes states, each when it is let go on."""

    def __init__(self):
        self.taken: list[tuple[int, str, bytes | None]] = []
        self.error: Exception | None = None
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.remote: Any = self

    async def keep_state(self, index, aid, state):
        if self.error is not None:
            raise self.error
        self.taken.append((index, aid, state))
        await self.goes_on.wait()


@pytest.fixture
async def driver():
    return FakeDriver()


@pytest.fixture
async def forwarding(driver):
    return Forwarding(driver)


class TestForwarding:
    async def test_states_go_to_the_driver(self, forwarding, driver):
        forwarding.save(1, "0", b"one")
        forwarding.save(2, "0", b"two")
        forwarding.forget(1, "0")
        await forwarding.flush()
        assert driver.taken == [(1, "0", None), (2, "0", b"two")]
        forwarding.save(1, "1", b"later")
        await forwarding.flush()
        assert driver.taken[2:] == [(1, "1", b"later")]

    async def test_of_what_waits_only_the_newest_is_sent(self, forwarding, driver):
        driver.goes_on.clear()
        forwarding.save(0, "a", b"0")
        await until(lambda: driver.taken)
        for number in range(1, 100):
            forwarding.save(0, "a", b"%d" % number)
        forwarding.save(0, "b", b"x")
        driver.goes_on.set()
        await forwarding.flush()
        assert driver.taken == [(0, "a", b"0"), (0, "a", b"99"), (0, "b", b"x")]

    async def test_one_is_on_its_way_at_a_time(self, forwarding, driver):
        driver.goes_on.clear()
        for index in range(5):
            forwarding.save(index, "a", b"x")
        await until(lambda: driver.taken)
        await asyncio.sleep(0.01)
        assert len(driver.taken) == 1
        driver.goes_on.set()
        await forwarding.flush()
        assert [index for index, *_ in driver.taken] == [0, 1, 2, 3, 4]

    @pytest.mark.parametrize("error", [ConnectionLost("gone"), ConnectionResetError("gone")])
    async def test_without_a_driver_they_are_dropped(self, forwarding, driver, error):
        driver.error = error
        forwarding.save(0, "a", b"x")
        forwarding.save(0, "b", b"x")
        await forwarding.flush()
        assert driver.taken == []
        driver.error = None
        forwarding.save(0, "c", b"x")
        await forwarding.flush()
        assert driver.taken == [(0, "c", b"x")]

    async def test_nobody_waits_for_a_driver_that_does_not_answer(
        self, forwarding, driver, monkeypatch
    ):
        monkeypatch.setattr(archive_module, "_FLUSH_TIMEOUT", 0.01)
        driver.goes_on.clear()
        forwarding.save(0, "a", b"x")
        with pytest.raises(TimeoutError):
            await forwarding.flush()
        driver.goes_on.set()  # what is on its way was not cancelled
        async with asyncio.timeout(BOUND):
            await forwarding.flush()
        assert driver.taken == [(0, "a", b"x")]

    async def test_nothing_is_flushed_at_once(self, forwarding):
        await forwarding.flush()


CODEC = MsgPack()
URL = "tcp://node1:7/"


def add(archive, index, target, calls, made):
    """Note agents as the driver does it that has spawned them with one message."""
    with archive.of(index).adding():
        archive.of(index).add(target, CODEC.encode(calls), made)


def formers(archive, index=3):
    return list(formers_of(archive.kept(index), URL, CODEC))


def plain(arguments):
    args, kwargs = arguments
    return list(args), kwargs


class TestArchive:
    @pytest.fixture
    def archive(self):
        archive = Archive()
        calls = [((1, "x"), {}), ((), {"power": 2.5}), ((3,), {})]
        add(archive, 3, "m:House", calls, [("0", ["0", "1"]), ("2", ["2"]), ("h", ["h"])])
        add(archive, 3, "m:Wind", [((), {})], [("5", ["5"])])
        add(archive, 4, "m:House", [((4,), {})], [("0", ["0"])])
        return archive

    def test_agents_have_their_urls_arguments_and_states(self, archive):
        archive.take(3, "1", b"state of the second that was made with it")
        archive.take(3, "2", b"old")
        archive.take(3, "2", b"new")
        first, second, third, fourth = formers(archive)
        assert (first.url, first.target) == (URL + "0", "m:House")
        assert plain(first.arguments) == ([1, "x"], {})
        assert first.states == [None, b"state of the second that was made with it"]
        assert plain(second.arguments) == ([], {"power": 2.5})
        assert second.states == [b"new"]
        assert (third.url, third.states) == (URL + "h", [None])
        assert fourth == Former(URL + "5", "m:Wind", fourth.arguments, [None])

    def test_those_that_have_ended_are_not_made_again(self, archive):
        archive.take(3, "0", None)
        archive.take(3, "5", None)
        assert [former.url for former in formers(archive)] == [URL + "2", URL + "h"]
        assert len(formers(archive, 4)) == 1

    def test_what_is_kept_changes_no_more_when_it_has_been_given(self, archive):
        archive.take(3, "2", b"old")
        kept = archive.kept(3)
        archive.take(3, "2", b"new")
        archive.take(3, "0", None)
        archive.drop(3)
        found = [(former.url, former.states) for former in formers_of(kept, URL, CODEC)]
        assert found[:2] == [(URL + "0", [None, None]), (URL + "2", [b"old"])]
        assert len(found) == 4

    def test_each_container_is_dropped_for_itself(self, archive):
        archive.drop(3)
        archive.drop(17)
        assert formers(archive) == []
        assert [former.url for former in formers(archive, 4)] == [URL + "0"]

    def test_states_of_agents_that_nobody_awaits_are_not_kept(self, archive):
        archive.take(4, "77", b"x")
        archive.take(9, "0", b"x")
        assert [former.states for former in formers(archive, 4)] == [[None]]
        assert formers(archive, 9) == []
