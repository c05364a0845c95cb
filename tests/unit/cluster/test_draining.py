"""Hosts and containers that leave, whose agents go on elsewhere."""

from __future__ import annotations

import asyncio
import logging

import pytest

from aiomas.cluster.events import EventKind
from aiomas.cluster.hosts import HostSpec
from aiomas.cluster.policy import FENCE
from aiomas.exceptions import ClusterError
from aiomas.testing import VirtualTimeLoop
from tests.unit.cluster.kept import LEASE, N1, STOP, UNREACHABLE


@pytest.fixture
def anyio_backend():
    return "asyncio", {"loop_factory": VirtualTimeLoop}


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

    async def test_where_there_is_nowhere_else_nothing_is_done(self, make_kept):
        kept = make_kept()
        await kept.begin(N1, containers=1)
        kept.agents("n1", 0, "0", "1")
        with pytest.raises(ClusterError, match=r"No other container .* so 2 agents could not"):
            await kept.keeper.remove("n1", STOP, drain=True)
        assert kept.journal == []
        assert [info.index for info in kept.roster.running()] == [0]
        await kept.keeper.remove("n1", STOP, drain=False)
        assert kept.host_states()["n1"] == "left"

    async def test_where_there_is_nobody_the_last_one_may_go(self, make_kept):
        kept = make_kept()
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

    async def test_this_machine_has_more_only_if_it_has_some(self, make_kept):
        kept = make_kept()
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
