"""Hosts that come back, are added, or are chosen by the launcher."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from aiomas.clocks import ExternalClock
from aiomas.cluster.events import EventKind, error_content
from aiomas.cluster.hosts import HostSpec
from aiomas.cluster.policy import FENCE
from aiomas.exceptions import ClusterError
from aiomas.testing import VirtualTimeLoop
from tests.unit.cluster.kept import LEASE, N1, N3, STOP, UNREACHABLE


@pytest.fixture
def anyio_backend():
    return "asyncio", {"loop_factory": VirtualTimeLoop}


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


class TestChosenHosts:
    @pytest.fixture
    async def chosen(self, make_kept):
        kept = make_kept(chooses=True)
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

    async def test_the_drivers_own_machine_stays_without_any(self, make_kept):
        kept = make_kept(chooses=True)
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
