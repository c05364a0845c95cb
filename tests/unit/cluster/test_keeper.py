"""What is done when a host is lost, and at the end, in which order."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aiomas.cluster.events import EventKind
from aiomas.cluster.hosts import HostSpec
from aiomas.cluster.policy import FENCE
from aiomas.exceptions import ClusterError
from aiomas.testing import VirtualTimeLoop
from tests.unit.cluster.fake_hosts import FakeProxy
from tests.unit.cluster.kept import LEASE, N1, N2, N3, STOP, UNREACHABLE


@pytest.fixture
def anyio_backend():
    return "asyncio", {"loop_factory": VirtualTimeLoop}


class TestLoss:
    async def test_everything_happens_in_its_order(self, kept):
        urls = kept.agents("n1", 0, "0", "x") + kept.agents("n1", 1, "0")
        places = [info.url for info in kept.roster.containers[:2]]
        kept.at["launch", "n1"] = UNREACHABLE
        await asyncio.sleep(10.0)
        kept.host("n1").lease_until = until = kept.now() + LEASE - 0.5
        kept.host("n1").cut("it is silent")
        await asyncio.sleep(0.5)

        event = kept.events[0]
        assert event.kind is EventKind.HOST_LOST
        assert str(event.error) == event.message == "Host n1 is lost: it is silent"
        first, second, third, *_ = kept.journal
        # Nothing can be heard of it, and nobody there be called, after the event.
        assert (first, second) == (("give up", "n1"), ("own cut off", places))
        assert third == ("event", EventKind.HOST_LOST, "n1", 10.0)
        rounds = kept.did("own generation")
        assert [terms.get("lost") for _, terms in rounds] == [places, None, None]
        assert [(terms["accept"], terms["use"]) for _, terms in rounds] == [(0, 0), (0, 1), (1, 1)]
        assert {entry[1] for entry in kept.did("set_generation")} == {"localhost", "n2"}
        assert len(kept.did("set_generation")) == 6
        assert kept.states() == {
            **dict.fromkeys((0, 1), ("lost", "n1")),
            **dict.fromkeys((2, 3), ("running", "n2")),
        }
        assert kept.did("remake") == []

        await asyncio.sleep(until + FENCE - kept.now() - 0.01)
        assert kept.did("remake") == []
        await asyncio.sleep(0.02)
        assert kept.did("remake") == [("remake", until + FENCE, urls)]
        last = kept.events[-1]
        assert (last.kind, last.host) == (EventKind.RESPAWNED, "n1")
        assert last.message == "3 of 3 agents of host n1 were made again"
        assert last.moved == {url: f"tcp://n2-1:2/{n}" for n, url in enumerate(urls)}

    async def test_nothing_more_is_put_there_while_it_is_found_out_why(self, kept):
        goes_on = asyncio.Event()

        async def lost():
            await goes_on.wait()
            return ClusterError("it was killed")

        host = kept.host("n1")
        host.lost = lost
        host.cut()
        await asyncio.sleep(0.1)
        assert [info.index for info in kept.roster.running()] == [2, 3]
        assert kept.host_states()["n1"] == "lost"
        assert kept.events == []
        goes_on.set()
        await asyncio.sleep(0.1)
        assert kept.the_fleet.named("n1").info.problem == "it was killed"
        assert kept.kinds()[0] == (EventKind.HOST_LOST, "n1")

    async def test_names_go_with_the_agents(self, kept):
        kept.agents("n1", 0, "0", name="market")
        kept.host("n1").cut()
        await asyncio.sleep(0.5)
        with pytest.raises(LookupError):
            kept.roster.find("market")
        await asyncio.sleep(LEASE + FENCE)
        [event] = [event for event in kept.events if event.kind is EventKind.RESPAWNED]
        assert kept.roster.find("market")._url == event.moved["tcp://n1-1:0/0"]

    async def test_agents_that_are_lost_again_at_once_keep_their_names_for_later(self, kept):
        urls = kept.agents("n1", 0, "0", name="market")
        kept.roster.lose([0])
        proxy = FakeProxy(kept.roster.containers[2].url + "5")
        kept.roster.lose([2])
        kept.roster.move({urls[0]: proxy})
        with pytest.raises(LookupError):
            kept.roster.find("market")
        third = FakeProxy(kept.roster.containers[3].url + "7")
        kept.roster.move({proxy._url: third})
        assert kept.roster.find("market") is third

    async def test_those_that_could_not_be_made_are_counted(self, kept):
        kept.agents("n1", 0, "good", "bad")
        kept.host("n1").cut()
        await asyncio.sleep(LEASE + FENCE + 1.0)
        assert kept.events[-1].message == "1 of 2 agents of host n1 were made again"
        assert list(kept.events[-1].moved) == ["tcp://n1-1:0/good"]

    async def test_who_wants_a_report_has_one(self, make_kept):
        kept = make_kept()
        await kept.begin(N1, N2, containers=4)
        kept.agents("n1", 0, "0")
        kept.at["launch", "n1"] = UNREACHABLE
        kept.host("n1").cut()
        await asyncio.sleep(300.0)
        assert kept.kinds() == [(EventKind.HOST_LOST, "n1")]
        assert kept.did("remake") == []

    async def test_two_at_once_are_given_up_one_after_the_other(self, make_kept):
        kept = make_kept()
        await kept.begin(N1, N2, N3, containers=3, on_host_loss="respawn")
        urls = kept.agents("n1", 0, "0"), kept.agents("n2", 1, "0")
        kept.at |= {("launch", name): UNREACHABLE for name in ("n1", "n2")}
        for name in ("n1", "n2"):
            kept.host(name).cut()
        await asyncio.sleep(0.5)
        assert kept.kinds() == [(EventKind.HOST_LOST, "n1"), (EventKind.HOST_LOST, "n2")]
        assert kept.the_fleet.generation == 2
        uses = [terms["use"] for _, terms in kept.did("own generation")]
        assert uses == [0, 1, 1, 1, 2, 2]
        assert {entry[1] for entry in kept.did("set_generation")} == {"localhost", "n3"}
        await asyncio.sleep(LEASE + FENCE)
        assert [entry[2] for entry in kept.did("remake")] == list(urls)
        assert {place for event in kept.events for place in event.moved.values()} == {
            "tcp://n3-1:2/0"
        }

    async def test_one_that_is_not_there_yet_or_any_more_is_not_lost(self, kept):
        candidate = kept.the_fleet.candidate(N3)
        kept.keeper.lost(candidate)
        member = kept.the_fleet.named("n1")
        member.becomes("left")
        kept.host("n1").cut()
        await asyncio.sleep(1.0)
        assert kept.events == []

    async def test_each_loss_is_told_once(self, kept):
        kept.at["launch", "n1"] = UNREACHABLE
        kept.host("n1").cut()
        kept.host("n1").cut()
        await asyncio.sleep(1.0)
        kept.host("n1").cut()
        await asyncio.sleep(1.0)
        assert kept.kinds() == [(EventKind.HOST_LOST, "n1")]

    async def test_a_bug_is_not_kept_secret(self, kept, caplog):
        async def remake(*_):
            raise ZeroDivisionError("a bug")

        kept.agents("n1", 0, "0")
        kept.keeper._remake = remake
        reported: list[Any] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reported.append(context))
        try:
            kept.host("n1").cut()
            await asyncio.sleep(LEASE + FENCE + 1.0)
        finally:
            loop.set_exception_handler(None)
        assert [str(context["exception"]) for context in reported] == ["a bug"]


class TestAgents:
    @pytest.fixture
    def waiting(self, kept):
        """Let agents wait until they can be made again."""
        kept.goes_on = asyncio.Event()
        remake = kept.remake

        async def wait(formers, took):
            await kept.goes_on.wait()
            await remake(formers, took)

        kept.keeper._remake = wait
        return kept

    async def test_those_that_are_made_later_are_told_then(self, kept):
        urls = kept.agents("n1", 0, "0", "1", name="market")
        first, second = FakeProxy("tcp://n2-1:2/0"), FakeProxy("tcp://n2-1:3/0")

        async def remake(formers, took):
            took({urls[0]: first})
            assert kept.roster.find("market") is first
            await asyncio.sleep(100.0)
            took({urls[1]: second})

        kept.keeper._remake = remake
        kept.host("n1").cut()
        await asyncio.sleep(LEASE + FENCE + 101.0)
        told = [event for event in kept.events if event.kind is EventKind.RESPAWNED]
        assert [event.moved for event in told] == [
            {urls[0]: "tcp://n2-1:2/0"},
            {urls[1]: "tcp://n2-1:3/0"},
        ]
        assert {event.message for event in told} == {"1 of 2 agents of host n1 were made again"}

    async def test_that_none_could_be_made_is_told(self, kept):
        kept.agents("n1", 0, "bad")
        kept.host("n1").cut()
        await asyncio.sleep(LEASE + FENCE + 1.0)
        [event] = [event for event in kept.events if event.kind is EventKind.RESPAWNED]
        assert (event.message, event.moved) == ("0 of 1 agents of host n1 were made again", {})

    async def test_who_waits_does_not_keep_the_user_from_anything(self, waiting):
        """Or nobody could add the host that they wait for."""
        urls = waiting.agents("n1", 0, "0")
        async with asyncio.timeout(100.0):
            await waiting.keeper.remove("n1", STOP, drain=True)
            await waiting.keeper.add(N3)
        assert waiting.did("remake") == []
        waiting.goes_on.set()
        await asyncio.sleep(1.0)
        assert [entry[2] for entry in waiting.did("remake")] == [urls]

    async def test_they_are_made_again_also_if_the_user_does_not_wait(self, waiting):
        waiting.agents("n1", 0, "0")
        removing = asyncio.create_task(waiting.keeper.remove("n1", STOP, drain=True))
        await asyncio.sleep(5.0)
        removing.cancel()
        await asyncio.wait({removing})
        waiting.goes_on.set()
        await asyncio.sleep(1.0)
        assert len(waiting.did("remake")) == 1

    async def test_with_the_end_they_wait_no_more(self, waiting):
        waiting.agents("n1", 0, "0")
        removing = asyncio.create_task(waiting.keeper.remove("n1", STOP, drain=True))
        await asyncio.sleep(5.0)
        async with asyncio.timeout(1.0):
            await waiting.keeper.close()
            with pytest.raises(ClusterError, match="the cluster is being stopped"):
                await removing
        assert waiting.did("remake") == []
        assert not waiting.keeper._tasks

    async def test_what_is_kept_of_them_is_touched_in_its_own_thread_only(self, kept, monkeypatch):
        """There it may just be changed by what the host tells."""
        running, touched = [], []

        async def run(coro):
            running.append(coro)
            try:
                return await coro
            finally:
                running.remove(coro)

        kept.thread.run = run
        for member in kept.the_fleet.members:
            for name in ("kept", "drop"):
                method = getattr(member.control.archive, name)

                def touch(*args, name=name, method=method):
                    touched.append((name, bool(running)))
                    return method(*args)

                monkeypatch.setattr(member.control.archive, name, touch)
        kept.agents("n2", 3, "0")
        await kept.keeper.scale(3, STOP)
        kept.agents("n1", 0, "0")
        kept.host("n1").cut()
        await asyncio.sleep(LEASE + FENCE + 1.0)
        assert set(touched) == {("kept", True), ("drop", True)}

    async def test_those_that_were_lost_at_the_start_are_lost_when_it_is_over(self, kept):
        kept.keeper._begun = False
        kept.host("n1").cut()
        await asyncio.sleep(1.0)
        assert kept.events == []
        kept.keeper.begin()
        await asyncio.sleep(0.1)
        assert kept.kinds() == [(EventKind.HOST_LOST, "n1")]
        assert [info.index for info in kept.roster.running()] == [2, 3]


class TestClose:
    async def test_what_the_user_wants_is_not_done_to_its_end(self, kept):
        async def hang(*_, **__):
            await asyncio.Event().wait()

        kept.at["begin", "n3"] = hang
        adding = asyncio.create_task(kept.keeper.add(HostSpec("n3", 1)))
        scaling = asyncio.create_task(kept.keeper.scale(3, STOP))
        await asyncio.sleep(1.0)
        await kept.keeper.close()
        for task, what in ((adding, "Adding host n3"), (scaling, "Scaling to 3 containers")):
            with pytest.raises(ClusterError, match=f"{what} .*: the cluster is being stopped"):
                await task
        assert kept.host("n3").given_up
        assert kept.did("release") == [("release", "n3")]
        assert kept.did("retire") == []

    async def test_nothing_is_begun_after_it(self, kept):
        kept.keeper.end("the cluster is gone")
        await kept.keeper.close()
        for wanted in (
            kept.keeper.add(HostSpec("n3", 1)),
            kept.keeper.remove("n1", STOP, drain=True),
            kept.keeper.scale(9, STOP),
        ):
            with pytest.raises(ClusterError, match="the cluster is gone"):
                await wanted
        kept.host("n1").cut()
        await asyncio.sleep(300.0)
        assert kept.journal == []

    async def test_nothing_goes_on_after_it(self, kept):
        kept.agents("n1", 0, "0")
        kept.at["launch", "n1"] = UNREACHABLE
        kept.host("n1").cut()
        await asyncio.sleep(0.5)
        before = len(kept.journal)
        await kept.keeper.close()
        assert not kept.keeper._tasks
        kept.host("n2").cut()
        await asyncio.sleep(300.0)
        assert len(kept.journal) == before

    async def test_a_host_that_is_being_started_is_given_up(self, kept):
        async def hang(*_):
            await asyncio.Event().wait()

        kept.at["prepare", "n1"] = hang
        kept.host("n1").cut()
        await asyncio.sleep(2.0)
        await kept.keeper.close()
        assert kept.host("n1").given_up == "it could not be used"

    async def test_with_nothing_to_do_it_is_done(self, kept):
        await kept.keeper.close()
        await kept.keeper.close()
