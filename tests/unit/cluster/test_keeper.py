"""What is done when a host is lost, comes back, is added or leaves, and in which order."""

from __future__ import annotations

import asyncio
import itertools
import logging
from typing import Any

import pytest

from aiomas.clocks import ExternalClock
from aiomas.cluster import gathering
from aiomas.cluster import keeper as keeper_module
from aiomas.cluster.events import EventKind, error_content
from aiomas.cluster.hosts import HostSpec
from aiomas.cluster.keeper import Keeper
from aiomas.cluster.policy import FENCE
from aiomas.cluster.roster import Roster
from aiomas.codecs import MsgPack
from aiomas.exceptions import ClusterError
from aiomas.testing import VirtualTimeLoop
from tests.unit.cluster.fake_hosts import SPEC, FakeProxy, World

N1, N2, N3 = HostSpec("n1"), HostSpec("n2"), HostSpec("n3")
LEASE = 30.0
STOP = 2.0  # seconds that containers have to end


@pytest.fixture
def anyio_backend():
    return "asyncio", {"loop_factory": VirtualTimeLoop}


class FakeRun:
    """A cluster that runs."""

    def __init__(self, world, fleet):
        self.fleet, self.container, self.sign = fleet, world.container, world.sign
        self.spec = SPEC


class Kept(World):
    """Hosts that are kept, with agents on them."""

    async def begin(self, *hosts, containers=None, **policy):
        self.the_fleet = fleet = self.fleet(*hosts, lease=LEASE, **policy)
        self.roster = Roster()
        begun = await self.started(fleet, containers)
        for member in fleet.members:
            self.roster.expect(member.info.containers, member.name)
        self.roster.began(begun)
        self.events: list[Any] = []
        self.moved: list[Any] = []
        run: Any = FakeRun(self, fleet)
        self.run = run
        self.keeper = Keeper(run, self.roster, self.tell, self.remake)
        fleet._on_lost = self.keeper.lost
        self.keeper.begin()
        self.journal.clear()

    def tell(self, event):
        self.events.append(event)
        self.journal.append(("event", event.kind, event.host, self.now()))

    async def remake(self, formers, took):
        urls = [former.url for former in formers]
        self.journal.append(("remake", self.now(), urls))
        await asyncio.sleep(0)
        place = self.roster.running()[0].url
        made = {url: FakeProxy(f"{place}{n}") for n, url in enumerate(urls) if "bad" not in url}
        if made:
            took(made)

    def agents(self, label, index, *aids, name=None):
        """Let there be agents that are made again."""
        member = self.the_fleet.named(label)
        records = member.control.archive.of(index)
        with records.adding():
            arguments = MsgPack().encode([((), {}) for _ in aids])
            records.add("m:A", arguments, [(aid, [aid]) for aid in aids])
        url = self.roster.containers[index].url
        if name is not None:
            self.roster.claim(name)
            self.roster.give(name, FakeProxy(url + aids[0]), index, 0, respawn=True)
            self.roster.release(name)
        return [url + aid for aid in aids]

    def kinds(self):
        return [(event.kind, event.host) for event in self.events]

    def states(self):
        return {info.index: (info.state, info.host) for info in self.roster.containers}

    def host_states(self):
        return {member.name: member.info.state for member in self.the_fleet.members}


@pytest.fixture
async def make(monkeypatch):
    """Make a world; its keeper is closed with the test."""
    monkeypatch.setattr(gathering, "usable_cores", lambda: 1)
    monkeypatch.setattr(gathering, "route_to", lambda _: None)
    worlds = []

    def make(**options):
        world = Kept(**options)
        monkeypatch.setattr(keeper_module, "now", world.now)
        worlds.append(world)
        return world

    yield make
    for world in worlds:
        await world.keeper.close()


@pytest.fixture
async def kept(make):
    """Two containers on each of two hosts; what is lost is made again."""
    kept = make()
    await kept.begin(N1, N2, containers=4, on_host_loss="respawn")
    return kept


UNREACHABLE = ConnectionRefusedError("no route to host")


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

    async def test_who_wants_a_report_has_one(self, make):
        kept = make()
        await kept.begin(N1, N2, containers=4)
        kept.agents("n1", 0, "0")
        kept.at["launch", "n1"] = UNREACHABLE
        kept.host("n1").cut()
        await asyncio.sleep(300.0)
        assert kept.kinds() == [(EventKind.HOST_LOST, "n1")]
        assert kept.did("remake") == []

    async def test_two_at_once_are_given_up_one_after_the_other(self, make):
        kept = make()
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


class TestReturn:
    async def test_it_has_the_same_containers_in_another_life(self, kept):
        former = kept.the_fleet.named("n1")
        kept.host("n1").cut()
        await asyncio.sleep(1.5)
        assert kept.kinds() == [(EventKind.HOST_LOST, "n1"), (EventKind.HOST_JOINED, "n1")]
        assert kept.events[-1].message == "Host n1 has joined with 2 containers"
        [(_, _, _, _, part)] = kept.did("prepare")
        assert (part["indices"], part["incarnation"]) == ((0, 1), 1)
        [begin] = kept.did("begin")
        assert begin[-1] == 1  # the generation of the others
        member = kept.the_fleet.named("n1")
        assert member is not former
        assert kept.the_fleet.of(0) is member
        assert [kept.roster.containers[i].url for i in (0, 1)] == ["tcp://n1-2:0/", "tcp://n1-2:1/"]
        assert kept.states()[0] == ("running", "n1")

    async def test_all_hear_of_it_before_it_is_called(self, kept):
        kept.host("n1").cut()
        await asyncio.sleep(0.5)
        kept.journal.clear()
        await asyncio.sleep(1.0)
        urls = ["tcp://n1-2:0/", "tcp://n1-2:1/"]
        terms = {"accept": 1, "known": 1, "use": 1, "found": urls}
        steps = [entry for entry in kept.journal if entry[0] not in {"check", "sign", "prepare"}]
        assert steps == [
            ("launch", "n1"),
            ("begin", "n1", "token", "certificate of n1", True, 1),
            ("own generation", terms),
            *(("set_generation", name, 1, 1, 1, urls) for name in ("n1", "localhost", "n2")),
            *(("ping", url) for url in urls),
            ("event", EventKind.HOST_JOINED, "n1", 1.0),
        ]

    async def test_it_is_tried_again_ever_more_seldom(self, kept):
        times = []

        async def fail(*_):
            times.append(kept.now())
            raise UNREACHABLE

        kept.at["launch", "n1"] = fail
        kept.host("n1").cut()
        await asyncio.sleep(130.0)
        pauses = [later - former for former, later in itertools.pairwise(times)]
        assert [times[0], *pauses] == [1.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
        del kept.at["launch", "n1"]
        await asyncio.sleep(30.0)
        assert kept.host_states()["n1"] == "running"
        assert kept.the_fleet.named("n1").info.incarnation == 1

    @pytest.mark.parametrize("step", ["launch", "check", "prepare", "begin", "set_generation"])
    async def test_one_that_fails_leaves_nothing_and_is_tried_again(self, kept, step):
        kept.at[step, "n1"] = ["it is wrong"] if step == "check" else ClusterError("no")
        kept.host("n1").cut()
        await asyncio.sleep(1.5)
        assert kept.host("n1") is not kept.launched["n1"][0]
        assert kept.host("n1").given_up == "it could not be used"
        assert kept.states()[0] == ("lost", "n1")
        del kept.at[step, "n1"]
        await asyncio.sleep(2.0)
        assert kept.states()[0] == ("running", "n1")
        assert kept.kinds() == [(EventKind.HOST_LOST, "n1"), (EventKind.HOST_JOINED, "n1")]

    async def test_one_whose_containers_do_not_answer_us_is_none(self, kept):
        kept.dumb = {"tcp://n1-2:1/"}
        kept.host("n1").cut()
        await asyncio.sleep(1.5)
        assert kept.launched["n1"][1].given_up == "it could not be used"
        assert kept.host_states()["n1"] == "lost"
        await asyncio.sleep(1.0)
        assert kept.host_states()["n1"] == "running"

    async def test_agents_that_wait_are_made_again_only_then(self, kept):
        """A host that comes back early does not get them before the lease of the former life."""
        urls = kept.agents("n1", 0, "0")
        kept.host("n1").cut()
        await asyncio.sleep(LEASE + FENCE - 0.1)
        assert kept.host_states()["n1"] == "running"
        assert kept.did("remake") == []
        await asyncio.sleep(0.2)
        assert kept.did("remake") == [("remake", LEASE + FENCE, urls)]

    async def test_clocks_are_set(self, kept):
        clock = ExternalClock("2020-01-01", init_time=0)
        clock.set_time(17.5)
        kept.container.clock = clock
        kept.host("n1").cut()
        await asyncio.sleep(1.5)
        assert kept.did("set_time") == [("set_time", "n1", 17.5)]

    async def test_one_that_was_removed_meanwhile_does_not_come_back(self, kept):
        goes_on = asyncio.Event()

        async def slow(*_):
            await goes_on.wait()

        kept.at["launch", "n1"] = slow
        kept.host("n1").cut()
        await asyncio.sleep(5.0)  # it is being tried
        async with asyncio.timeout(1.0):
            await kept.keeper.remove("n1", STOP, drain=True)
        goes_on.set()
        await asyncio.sleep(300.0)
        assert kept.host_states()["n1"] == "left"
        assert kept.kinds() == [(EventKind.HOST_LOST, "n1"), (EventKind.HOST_LEFT, "n1")]
        assert kept.did("begin") == []
        assert kept.host("n1").given_up == "it could not be used"
        assert len(kept.launched["n1"]) == 2

    async def test_one_that_was_added_meanwhile_does_not_come_back_twice(self, kept):
        kept.at["launch", "n1"] = UNREACHABLE
        kept.host("n1").cut()
        await asyncio.sleep(2.5)
        del kept.at["launch", "n1"]
        await kept.keeper.add(HostSpec("n1", 1))
        assert kept.states()[4] == ("running", "n1")
        launched = len(kept.launched["n1"])
        await asyncio.sleep(300.0)
        assert len(kept.launched["n1"]) == launched
        assert kept.states()[0] == ("lost", "n1")

    async def test_hosts_that_are_lost_keep_nobody_from_others(self, kept):
        async def hang(*_):
            await asyncio.Event().wait()

        kept.at["launch", "n1"] = hang
        kept.host("n1").cut()
        await asyncio.sleep(5.0)
        async with asyncio.timeout(1.0):
            await kept.keeper.add(HostSpec("n3", 1))
            await kept.keeper.scale(5, STOP)
            await kept.keeper.remove("n3", STOP, drain=False)

    async def test_one_that_is_lost_when_another_joins_is_fenced_after_that(self, kept):
        """Else the new one would not hear of it, and refuse all others."""
        at_ping = asyncio.Event()

        async def ping(url):
            at_ping.set()
            await asyncio.sleep(5.0)

        kept.container.ping = ping
        adding = asyncio.create_task(kept.keeper.add(HostSpec("n3", 1)))
        await at_ping.wait()
        kept.host("n1").cut()
        await asyncio.sleep(1.0)
        assert kept.kinds() == [(EventKind.HOST_LOST, "n1")]
        assert kept.the_fleet.generation == 0
        await adding
        await asyncio.sleep(0.1)
        assert kept.the_fleet.generation == 1
        told = [entry for entry in kept.did("set_generation") if entry[1] == "n3"]
        terms = [(0, 0, 0), (0, 1, 0), (0, 1, 1), (1, 1, 1)]
        assert [entry[2:5] for entry in told[:4]] == terms

    async def test_it_does_not_wait_for_those_who_take_long_to_hear_of_the_loss(self, kept):
        hears = asyncio.Event()

        async def hear(*_, **__):
            await hears.wait()

        kept.at["set_generation", "n2"] = hear
        kept.host("n1").cut()
        await asyncio.sleep(5.0)
        assert len(kept.did("begin")) == 1
        # But they have to know that the former one is lost before the new one is found.
        assert kept.host_states()["n1"] == "lost"
        hears.set()
        await asyncio.sleep(0.1)
        assert kept.host_states()["n1"] == "running"
        found = [terms.get("found") for _, terms in kept.did("own generation")]
        assert [bool(urls) for urls in found] == [False, False, False, True]

    async def test_a_time_that_is_set_while_it_joins_is_for_it_as_well(self, kept):
        kept.container.clock = ExternalClock("2020-01-01", init_time=0)
        kept.container.clock.set_time(10.0)

        async def set_time(host, time):
            if time == 10.0:  # all others are told, and it is no member yet
                kept.keeper.set_time(100.0)

        kept.at["set_time", "n1"] = set_time
        kept.host("n1").cut()
        await asyncio.sleep(1.5)
        assert kept.did("set_time") == [("set_time", "n1", 10.0), ("set_time", "n1", 100.0)]
        await kept.keeper.scale(5, STOP)
        assert kept.did("grow") == [("grow", "n2", [4], 100.0)]

    async def test_one_whose_clocks_cannot_be_set_is_tried_again(self, kept):
        kept.keeper.set_time(17.5)
        kept.at["set_time", "n1"] = [error_content(ClusterError("it is not answering"))]
        kept.host("n1").cut()
        await asyncio.sleep(1.5)
        assert kept.host_states()["n1"] == "lost"
        del kept.at["set_time", "n1"]
        await asyncio.sleep(1.5)
        assert kept.host_states()["n1"] == "running"


class TestAdd:
    async def test_it_has_new_containers(self, kept):
        kept.facts["n3"] = {"cores": 3}
        await kept.keeper.add(N3)
        assert [kept.states()[index] for index in (4, 5, 6)] == [("running", "n3")] * 3
        assert kept.roster.containers[5].url == "tcp://n3-1:5/"
        assert kept.kinds() == [(EventKind.HOST_JOINED, "n3")]
        await kept.keeper.add(HostSpec("n4", 2))
        assert kept.the_fleet.named("n4").info.containers == [7, 8]

    async def test_one_that_is_there_is_not_allocated_again(self, kept):
        with pytest.raises(ValueError, match="'n1' is in this cluster already"):
            await kept.keeper.add(N1)
        assert kept.journal == []

    @pytest.mark.parametrize("step", ["launch", "check", "prepare", "begin", "set_generation"])
    async def test_one_that_fails_leaves_nothing(self, kept, step):
        kept.at[step, "n3"] = ["no"] if step == "check" else ClusterError("no")
        with pytest.raises(ClusterError, match="no"):
            await kept.keeper.add(HostSpec("n3", 1))
        assert kept.host("n3").given_up
        assert kept.did("release") == [("release", "n3")]
        assert "n3" not in kept.host_states()
        assert [info.index for info in kept.roster.running()] == [0, 1, 2, 3]
        assert kept.events == []
        del kept.at[step, "n3"]
        await kept.keeper.add(HostSpec("n3", 1))
        assert kept.host_states()["n3"] == "running"

    @pytest.mark.parametrize(
        ("step", "what"),
        [("launch", "its supervisor was not ready"), ("begin", "its containers were not ready")],
    )
    async def test_so_does_one_that_takes_too_long(self, kept, step, what):
        async def hang(*_, **__):
            await asyncio.Event().wait()

        kept.at[step, "n3"] = hang
        with pytest.raises(TimeoutError, match=rf"host n3: {what} within start_timeout=20.0 s"):
            await kept.keeper.add(HostSpec("n3", 1))
        assert kept.now() == 20.0
        assert kept.host("n3").given_up
        assert kept.did("release") == [("release", "n3")]

    async def test_so_does_one_that_is_cancelled(self, kept):
        begun = asyncio.Event()

        async def hang(*_, **__):
            begun.set()
            await asyncio.Event().wait()

        kept.at["begin", "n3"] = hang
        adding = asyncio.create_task(kept.keeper.add(HostSpec("n3", 1)))
        await begun.wait()
        adding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await adding
        assert kept.host("n3").given_up
        assert kept.did("release") == [("release", "n3")]
        assert kept.states()[4] == ("lost", "n3")

    async def test_a_container_that_has_started_is_not_used_before_its_host_is_there(self, kept):
        async def begin(host, *_, **__):
            kept.roster.containers[4].state = "running"  # the event of its start
            assert [info.index for info in kept.roster.running()] == [0, 1, 2, 3]

        kept.at["begin", "n3"] = begin
        await kept.keeper.add(HostSpec("n3", 1))
        assert [info.index for info in kept.roster.running()] == [0, 1, 2, 3, 4]


class TestRemove:
    async def test_agents_are_handed_over_before_the_end(self, kept):
        urls = kept.agents("n1", 0, "0", "1", name="market")
        await kept.keeper.remove("n1", STOP, drain=True)
        steps = [entry for entry in kept.journal if entry[0] != "release"]
        assert steps == [
            ("checkpoint", "n1", [0, 1]),
            ("retire", "n1", [0, 1], STOP),
            ("hand_over", "n1", [0, 1]),
            ("stop", "n1", STOP),
            ("close", "n1"),
            ("event", EventKind.HOST_LEFT, "n1", 0.0),
            ("remake", 0.0, urls),  # nothing of it runs: nobody has to wait
            ("event", EventKind.RESPAWNED, "n1", 0.0),
        ]
        assert kept.did("release") == [("release", "n1")]
        assert kept.states()[0] == ("stopped", "n1")
        assert kept.host_states()["n1"] == "left"
        assert kept.roster.find("market")._url == "tcp://n2-1:2/0"

    async def test_nothing_new_is_put_there_meanwhile(self, kept):
        async def look(*_):
            assert [info.index for info in kept.roster.running()] == [2, 3]

        for method in ("checkpoint", "retire", "hand_over", "stop"):
            kept.at[method, "n1"] = look
        await kept.keeper.remove("n1", STOP, drain=True)
        assert len(kept.did("stop")) == 1

    async def test_who_does_not_drain_loses_them(self, kept):
        kept.agents("n1", 0, "0")
        await kept.keeper.remove("n1", STOP, drain=False)
        assert kept.did("checkpoint", "hand_over", "remake") == []
        assert kept.kinds() == [(EventKind.HOST_LEFT, "n1")]

    async def test_its_end_is_no_loss(self, kept):
        async def stop(host, *_):
            host.on_lost()

        kept.at["stop", "n1"] = stop
        await kept.keeper.remove("n1", STOP, drain=False)
        await asyncio.sleep(300.0)
        assert kept.kinds() == [(EventKind.HOST_LEFT, "n1")]
        assert len(kept.launched["n1"]) == 1

    async def test_if_states_cannot_be_saved_nothing_was_done(self, kept):
        kept.agents("n1", 0, "0")
        kept.at["checkpoint", "n1"] = ClusterError("Agent 0 has no state")
        with pytest.raises(ClusterError, match="no state"):
            await kept.keeper.remove("n1", STOP, drain=True)
        assert kept.did("stop", "event") == []
        assert [info.index for info in kept.roster.running()] == [0, 1, 2, 3]
        assert kept.did("retire") == []
        del kept.at["checkpoint", "n1"]
        await kept.keeper.remove("n1", STOP, drain=True)
        assert len(kept.did("remake")) == 1

    @pytest.mark.parametrize(
        ("step", "result"),
        [
            ("retire", ["Container 0: Agent 0 has no state"]),
            ("retire", ClusterError("Agent 0 has no state")),
            ("hand_over", ClusterError("Agent 0 has no state")),
        ],
    )
    async def test_last_states_that_are_missing_are_told_when_all_was_done(
        self, kept, step, result
    ):
        urls = kept.agents("n1", 0, "0")
        kept.at[step, "n1"] = result
        with pytest.raises(ClusterError, match=r"(?s)All was done.* of host n1 .*0 has no state"):
            await kept.keeper.remove("n1", STOP, drain=True)
        assert kept.did("remake") == [("remake", 0.0, urls)]
        assert kept.host_states()["n1"] == "left"

    async def test_where_there_is_nowhere_else_nothing_is_done(self, make):
        kept = make()
        await kept.begin(N1, containers=1)
        kept.agents("n1", 0, "0", "1")
        with pytest.raises(ClusterError, match=r"No other container .* so 2 agents could not"):
            await kept.keeper.remove("n1", STOP, drain=True)
        assert kept.journal == []
        assert [info.index for info in kept.roster.running()] == [0]
        await kept.keeper.remove("n1", STOP, drain=False)
        assert kept.host_states()["n1"] == "left"

    async def test_where_there_is_nobody_the_last_one_may_go(self, make):
        kept = make()
        await kept.begin(N1, containers=1)
        await kept.keeper.remove("n1", STOP, drain=True)
        assert kept.host_states()["n1"] == "left"

    async def test_one_that_is_cancelled_before_anything_has_ended_is_undone(self, kept):
        begun = asyncio.Event()

        async def hang(*_):
            begun.set()
            await asyncio.Event().wait()

        kept.at["checkpoint", "n1"] = hang
        removing = asyncio.create_task(kept.keeper.remove("n1", STOP, drain=True))
        await begun.wait()
        removing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await removing
        assert [info.index for info in kept.roster.running()] == [0, 1, 2, 3]
        await asyncio.sleep(10.0)
        assert kept.did("retire", "stop") == []

    @pytest.mark.parametrize("step", ["retire", "hand_over", "stop"])
    async def test_one_that_is_cancelled_later_goes_on(self, kept, step):
        urls = kept.agents("n1", 0, "0", name="market")
        begun = asyncio.Event()

        async def wait(*_):
            begun.set()
            await asyncio.sleep(1.0)

        kept.at[step, "n1"] = wait
        removing = asyncio.create_task(kept.keeper.remove("n1", STOP, drain=True))
        await begun.wait()
        removing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await removing
        with pytest.raises(ValueError, match="has left this cluster already"):
            await kept.keeper.remove("n1", STOP, drain=True)  # which waits for the former
        assert kept.did("remake") == [("remake", 1.0, urls)]
        assert kept.states()[0] == ("stopped", "n1")
        assert kept.roster.find("market")._url == "tcp://n2-1:2/0"

    async def test_what_fails_when_nobody_waits_is_logged(self, kept, caplog):
        begun = asyncio.Event()

        async def fail(*_):
            begun.set()
            await asyncio.sleep(1.0)
            return ["Agent 0 has no state"]

        kept.at["retire", "n1"] = fail
        removing = asyncio.create_task(kept.keeper.remove("n1", STOP, drain=True))
        await begun.wait()
        removing.cancel()
        await asyncio.sleep(2.0)
        assert "Removing host n1, whose caller was cancelled, has failed" in caplog.text

    async def test_one_that_is_lost_meanwhile_is_lost(self, kept):
        async def lose(host, *_):
            host.cut("it is silent")

        urls = kept.agents("n1", 0, "0")
        kept.at["hand_over", "n1"] = lose
        with pytest.raises(ClusterError, match="it is silent"):
            await kept.keeper.remove("n1", STOP, drain=True)
        kept.at["launch", "n1"] = UNREACHABLE
        await asyncio.sleep(LEASE + FENCE + 1.0)
        assert kept.kinds() == [(EventKind.HOST_LOST, "n1"), (EventKind.RESPAWNED, "n1")]
        assert [entry[2] for entry in kept.did("remake")] == [urls]

    async def test_agents_of_one_that_is_lost_with_its_last_answer_are_made_once(self, kept):
        async def lose(host, *_):
            await asyncio.sleep(0)
            kept.keeper.lost(kept.the_fleet.named("n1"))

        kept.agents("n1", 0, "0")
        kept.at["hand_over", "n1"] = lose
        with pytest.raises(ClusterError, match="n1 was lost when it was about to hand"):
            await kept.keeper.remove("n1", STOP, drain=True)
        kept.at["launch", "n1"] = UNREACHABLE
        await asyncio.sleep(LEASE + FENCE + 1.0)
        assert len(kept.did("remake")) == 1

    async def test_one_that_does_not_end_has_its_lease_for_it(self, kept, caplog):
        caplog.set_level(logging.CRITICAL, "aiomas.cluster")

        async def lose(host, *_):
            host.cut("it is silent")

        urls = kept.agents("n1", 0, "0")
        kept.at["stop", "n1"] = lose
        await kept.keeper.remove("n1", STOP, drain=True)
        assert kept.did("remake") == [("remake", LEASE + FENCE, urls)]
        assert kept.kinds() == [(EventKind.HOST_LEFT, "n1"), (EventKind.RESPAWNED, "n1")]
        await asyncio.sleep(300.0)
        assert len(kept.launched["n1"]) == 1

    async def test_the_drivers_own_machine_stays(self, kept):
        with pytest.raises(ValueError, match=r"localhost is the driver's own machine; use scale()"):
            await kept.keeper.remove("localhost", STOP, drain=True)
        assert kept.journal == []

    async def test_who_is_not_there_cannot_be_removed(self, kept):
        with pytest.raises(ValueError, match="no host 'n9'"):
            await kept.keeper.remove("n9", STOP, drain=True)
        await kept.keeper.remove("n1", STOP, drain=False)
        kept.journal.clear()
        with pytest.raises(ValueError, match="'n1' has left this cluster already"):
            await kept.keeper.remove("n1", STOP, drain=False)
        assert kept.journal == []

    async def test_one_that_was_removed_can_be_added_again(self, kept):
        await kept.keeper.remove("n1", STOP, drain=False)
        await kept.keeper.add(HostSpec("n1", 1))
        assert kept.states()[0] == ("stopped", "n1")
        assert kept.states()[4] == ("running", "n1")
        await kept.keeper.remove("n1", STOP, drain=False)


class TestScale:
    async def test_new_containers_go_where_there_are_the_fewest(self, kept):
        await kept.keeper.add(HostSpec("n3", 1))
        await kept.keeper.scale(9, STOP)
        sizes = {m.name: len(m.info.containers) for m in kept.the_fleet.members}
        assert sizes == {"localhost": 0, "n1": 3, "n2": 3, "n3": 3}
        assert len(kept.roster.running()) == 9
        assert kept.did("grow") == [
            ("grow", "n3", [5, 8], 0.0),
            ("grow", "n1", [6], 0.0),
            ("grow", "n2", [7], 0.0),
        ]

    async def test_this_machine_has_more_only_if_it_has_some(self, make):
        kept = make()
        await kept.begin(HostSpec("localhost"), N1, containers=3)
        await kept.keeper.scale(6, STOP)
        assert {m.name: len(m.info.containers) for m in kept.the_fleet.members} == {
            "localhost": 3,
            "n1": 3,
        }

    async def test_the_last_ones_are_ended_first_and_their_agents_move(self, kept):
        urls = kept.agents("n2", 3, "0")
        kept.agents("n2", 2, "0")
        await kept.keeper.scale(3, STOP)
        steps = kept.did("checkpoint", "retire", "hand_over", "shrink", "remake")
        assert steps == [
            ("checkpoint", "n2", [3]),
            ("retire", "n2", [3], STOP),
            ("hand_over", "n2", [3]),
            ("shrink", "n2", [3], STOP),
            ("remake", 0.0, urls),
        ]
        assert kept.states()[3] == ("stopped", "n2")
        assert kept.roster.containers[3].exit_code == 0
        assert kept.kinds() == [(EventKind.RESPAWNED, "n2")]

    async def test_agents_do_not_move_to_where_the_next_ones_are_ended(self, kept):
        kept.agents("n1", 1, "0")
        kept.agents("n2", 3, "0")
        places = []
        remake = kept.remake

        async def look(formers, took):
            places.append([info.index for info in kept.roster.running()])
            await remake(formers, took)

        kept.keeper._remake = look
        await kept.keeper.scale(1, STOP)
        assert places == [[0], [0]]

    async def test_those_that_could_not_be_ended_are_used_again(self, kept):
        kept.at["checkpoint", "n2"] = ClusterError("Agent 0 has no state")
        with pytest.raises(ClusterError, match="no state"):
            await kept.keeper.scale(1, STOP)
        assert [info.index for info in kept.roster.running()] == [0, 1, 2, 3]
        assert kept.did("retire", "shrink") == []

    async def test_last_states_that_are_missing_are_told_when_all_was_done(self, kept):
        kept.agents("n1", 1, "0")
        for name, index in (("n1", 1), ("n2", 3)):
            kept.at["retire", name] = [f"Container {index} has no state"]
        with pytest.raises(ClusterError, match="Container 1 has no state") as caught:
            await kept.keeper.scale(1, STOP)
        assert "Container 3 has no state" in caught.value.__notes__[0]
        assert [kept.states()[index][0] for index in (1, 2, 3)] == ["stopped"] * 3
        assert len(kept.did("remake")) == 1

    async def test_where_there_is_nowhere_else_nothing_is_done(self, kept):
        kept.at["launch", "n1"] = UNREACHABLE
        kept.agents("n2", 3, "0")
        kept.roster.lose([0, 2])
        kept.roster.containers[2].state = "hung"  # it counts, but takes nobody
        kept.roster.containers[0].state = "hung"
        kept.roster.lose([1])
        with pytest.raises(ClusterError, match=r"No other container .* so 1 agents could not"):
            await kept.keeper.scale(2, STOP)
        assert kept.did("checkpoint", "retire", "shrink") == []

    async def test_what_is_cancelled_goes_on_when_containers_are_being_ended(self, kept):
        begun = asyncio.Event()

        async def wait(*_):
            begun.set()
            await asyncio.sleep(1.0)

        kept.at["shrink", "n2"] = wait
        urls = kept.agents("n2", 3, "0")
        scaling = asyncio.create_task(kept.keeper.scale(3, STOP))
        await begun.wait()
        scaling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await scaling
        await kept.keeper.scale(3, STOP)
        assert kept.states()[3] == ("stopped", "n2")
        assert kept.did("remake") == [("remake", 1.0, urls)]
        assert len(kept.did("shrink")) == 1

    async def test_what_is_cancelled_goes_on_when_containers_are_being_started(self, kept):
        begun = asyncio.Event()

        async def wait(*_):
            begun.set()
            await asyncio.sleep(1.0)

        kept.at["grow", "n1"] = wait
        scaling = asyncio.create_task(kept.keeper.scale(6, STOP))
        await begun.wait()
        scaling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await scaling
        await kept.keeper.scale(6, STOP)
        assert [info.index for info in kept.roster.running()] == [*range(6)]
        assert len(kept.did("grow")) == 2

    async def test_containers_that_may_not_have_ended_are_not_used_again(self, kept):
        kept.at["shrink", "n2"] = ClusterError("it has not answered within 11 s")
        with pytest.raises(ClusterError, match="has not answered"):
            await kept.keeper.scale(3, STOP)
        assert [info.index for info in kept.roster.running()] == [0, 1, 2]
        assert kept.did("remake") == []

    async def test_as_many_as_there_are_is_nothing_to_do(self, kept):
        await kept.keeper.scale(4, STOP)
        assert kept.journal == []

    async def test_those_that_were_ended_are_forgotten(self, kept):
        """They are not started again with their host, and do not count where there are few."""
        kept.agents("n2", 3, "0")
        await kept.keeper.scale(3, STOP)
        kept.host("n2").cut()
        await asyncio.sleep(LEASE + FENCE + 1.0)
        assert kept.did("prepare")[0][-1]["indices"] == (2,)
        assert kept.states()[3] == ("stopped", "n2")
        assert len(kept.did("remake")) == 1
        await kept.keeper.scale(4, STOP)
        assert kept.did("grow") == [("grow", "n2", [4], 0.0)]

    async def test_lost_ones_do_not_count(self, kept):
        kept.at["launch", "n1"] = UNREACHABLE
        kept.host("n1").cut()
        await asyncio.sleep(0.5)
        await kept.keeper.scale(4, STOP)
        assert kept.did("grow") == [("grow", "n2", [4, 5], 0.0)]

    async def test_where_there_is_no_room_nothing_is_left(self, kept):
        kept.at["grow", "n1"] = ClusterError("port 7004 is taken")
        with pytest.raises(ClusterError, match="port 7004") as caught:
            await kept.keeper.scale(5, STOP)
        assert caught.value.__notes__ == [
            "These were containers [4] on host n1, of 1 new ones; 4 containers of the cluster run"
        ]
        assert [info.index for info in kept.roster.running()] == [0, 1, 2, 3]
        assert kept.the_fleet.named("n1").info.containers == [0, 1]


class TestChosenHosts:
    @pytest.fixture
    async def chosen(self, make):
        kept = make(chooses=True)
        kept.launcher.chosen = [[HostSpec("r1", 2), HostSpec("r2", 2)]]
        await kept.begin(containers=4, on_host_loss="respawn")
        return kept

    async def test_a_lost_one_is_replaced(self, chosen):
        chosen.launcher.chosen = [[HostSpec("r3", 1), HostSpec("r4", 1)]]
        chosen.host("r1").cut("the node is gone")
        await asyncio.sleep(1.5)
        assert chosen.did("release", "allocate") == [("release", "r1"), ("allocate", [], 2)]
        assert chosen.states()[0] == ("running", "r3")
        assert chosen.states()[1] == ("running", "r4")
        assert chosen.the_fleet.of(1).name == "r4"
        assert chosen.host_states()["r1"] == "left"
        problem = chosen.the_fleet.named("r1").info.problem
        assert problem == "the node is gone; others have taken its place"
        await asyncio.sleep(300.0)
        assert len(chosen.did("allocate")) == 1

    async def test_it_may_come_back_itself(self, chosen):
        chosen.launcher.chosen = [[HostSpec("r1", 2)]]
        chosen.host("r1").cut()
        await asyncio.sleep(1.5)
        assert chosen.host_states() == {"localhost": "running", "r2": "running", "r1": "running"}
        assert chosen.the_fleet.named("r1").info.incarnation == 1

    async def test_until_there_is_room_it_is_asked_again(self, chosen):
        chosen.launcher.chosen = [ClusterError("no room"), [HostSpec("r3", 2)]]
        chosen.host("r1").cut()
        await asyncio.sleep(1.5)
        assert chosen.host_states()["r1"] == "lost"
        await asyncio.sleep(1.0)
        assert chosen.states()[1] == ("running", "r3")

    async def test_what_has_been_replaced_is_not_replaced_again(self, chosen):
        chosen.launcher.chosen = [[HostSpec("r3", 1), HostSpec("r4", 1)], [HostSpec("r5", 1)]]
        chosen.at["launch", "r4"] = UNREACHABLE
        chosen.host("r1").cut()
        await asyncio.sleep(2.5)
        assert chosen.did("release", "allocate") == [
            ("release", "r1"),
            ("allocate", [], 2),
            ("release", "r4"),
            ("release", "r1"),
            ("allocate", [], 1),
        ]
        assert chosen.states()[0] == ("running", "r3")
        assert chosen.states()[1] == ("running", "r5")

    async def test_it_grows_on_new_hosts(self, chosen):
        chosen.launcher.chosen = [[HostSpec("r3", 2), HostSpec("r4", 1)]]
        await chosen.keeper.scale(7, STOP)
        assert chosen.did("allocate") == [("allocate", [], 3)]
        assert chosen.the_fleet.named("r3").info.containers == [4, 5]
        assert chosen.the_fleet.named("r4").info.containers == [6]
        assert len(chosen.roster.running()) == 7

    async def test_hosts_that_could_not_be_used_are_given_back(self, chosen):
        chosen.launcher.chosen = [[HostSpec("r3", 2), HostSpec("r4", 1), HostSpec("r5", 1)]]
        chosen.at["launch", "r4"] = UNREACHABLE
        with pytest.raises(ConnectionRefusedError):
            await chosen.keeper.scale(8, STOP)
        assert chosen.did("release") == [("release", "r4"), ("release", "r5")]
        assert chosen.host_states()["r3"] == "running"

    async def test_one_without_containers_is_given_back(self, chosen):
        await chosen.keeper.scale(2, STOP)
        assert chosen.did("close", "release") == [("close", "r2"), ("release", "r2")]
        assert chosen.host_states()["r2"] == "left"
        assert chosen.kinds() == [(EventKind.HOST_LEFT, "r2")]

    async def test_the_drivers_own_machine_stays_without_any(self, make):
        kept = make(chooses=True)
        kept.launcher.chosen = [[HostSpec("r1", 1)]]
        await kept.begin(HostSpec("localhost", 1), containers=2)
        kept.the_fleet.home.info.containers, chosen = [1], kept.the_fleet.named("r1")
        chosen.info.containers = [0]
        kept.roster.expect([0], "r1")
        kept.roster.expect([1], "localhost")
        kept.roster.began({"index": i, "pid": i, "url": f"tcp://x:{i}/"} for i in (0, 1))
        await kept.keeper.scale(1, STOP)
        assert kept.host_states() == {"localhost": "running", "r1": "running"}
        assert kept.did("close") == []

    async def test_the_rest_is_looked_for_if_a_part_has_come_back_itself(self, chosen):
        chosen.launcher.chosen = [
            [HostSpec("r1", 1), HostSpec("r4", 1)],
            [HostSpec("r5", 1)],
        ]
        chosen.at["launch", "r4"] = UNREACHABLE
        chosen.host("r1").cut()
        await asyncio.sleep(2.5)
        assert chosen.did("release", "allocate") == [
            ("release", "r1"),
            ("allocate", [], 2),
            ("release", "r4"),
            ("allocate", [], 1),  # what r1 has now stays
        ]
        assert chosen.states()[0] == ("running", "r1")
        assert chosen.states()[1] == ("running", "r5")
        await asyncio.sleep(300.0)
        assert len(chosen.did("allocate")) == 2

    async def test_a_part_may_come_back_itself_and_the_rest_elsewhere(self, chosen):
        chosen.launcher.chosen = [[HostSpec("r1", 1), HostSpec("r4", 1)]]
        chosen.host("r1").cut()
        await asyncio.sleep(1.5)
        assert chosen.states()[0] == ("running", "r1")
        assert chosen.states()[1] == ("running", "r4")

    async def test_hosts_that_are_there_already_are_given_back_with_the_others(self, chosen):
        chosen.launcher.chosen = [[HostSpec("r2", 1), HostSpec("r3", 1)], [HostSpec("r4", 2)]]
        chosen.host("r1").cut()
        await asyncio.sleep(1.5)
        assert chosen.did("release") == [("release", name) for name in ("r1", "r2", "r3")]
        await asyncio.sleep(1.0)
        assert chosen.states()[0] == ("running", "r4")


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
