"""All hosts are taken in or none, each has its share, and the driver's own machine leaves last."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest

from aiomas.cluster import gathering
from aiomas.cluster.hosts import HostSpec
from aiomas.cluster.launchers.local import LocalLauncher
from aiomas.cluster.policy import FENCE
from aiomas.exceptions import ClusterError, ContainerDied
from aiomas.testing import VirtualTimeLoop
from tests.unit.cluster.fake_hosts import SPEC, World

N1, N2, N3 = HostSpec("n1"), HostSpec("n2"), HostSpec("n3")


@pytest.fixture
def anyio_backend():
    return "asyncio", {"loop_factory": VirtualTimeLoop}


@pytest.fixture
async def world(monkeypatch):
    monkeypatch.setattr(gathering, "usable_cores", lambda: 2)
    monkeypatch.setattr(gathering, "route_to", lambda a: a.replace("10.0.0", "10.9.9"))
    return World()


def shares(fleet):
    return {member.name: member.info.containers for member in fleet.members}


def states(fleet):
    return {member.name: member.info.state for member in fleet.members}


class TestGather:
    async def test_each_host_is_launched_once_this_machine_as_well(self, world):
        fleet = world.fleet(N1, N2)
        assert await fleet.gather(world.launcher, SPEC, 5) == 5
        assert shares(fleet) == {"localhost": [], "n1": [0, 1, 2], "n2": [3, 4]}
        assert states(fleet) == dict.fromkeys(("localhost", "n1", "n2"), "running")
        assert sorted(world.did("launch")) == [
            ("launch", "localhost"),
            ("launch", "n1"),
            ("launch", "n2"),
        ]
        assert [host.home for hosts in world.launched.values() for host in hosts].count(True) == 1
        assert world.host("localhost").home

    async def test_this_machine_is_no_business_of_the_launcher(self, world):
        seen = {}

        async def note(host, launcher, timeout):
            seen[host.label] = launcher

        world.at = {("launch", name): note for name in ("desk", "n1")}
        fleet = world.fleet(N1, HostSpec("localhost", 2, name="desk"))
        await fleet.gather(world.launcher, SPEC, 4)
        assert world.did("allocate") == [("allocate", ["n1"], 4)]
        assert (type(seen["desk"]), seen["n1"]) == (LocalLauncher, world.launcher)
        assert shares(fleet) == {"desk": [0, 1], "n1": [2, 3]}

    async def test_without_a_number_there_is_a_container_for_each_core(self, world):
        world.facts = {"n1": {"cores": 3}}
        fleet = world.fleet(HostSpec("localhost"), N1, N2, HostSpec("n4", 1))
        assert await fleet.gather(world.launcher, SPEC, None) == 2 + 3 + 1 + 1
        assert shares(fleet) == {"localhost": [0, 1], "n1": [2, 3, 4], "n2": [5], "n4": [6]}

    async def test_hosts_may_be_chosen_by_the_launcher(self, world):
        world.launcher.chosen = [[HostSpec("r1", 2), HostSpec("r2", 1)]]
        fleet = world.fleet()
        assert await fleet.gather(world.launcher, SPEC, 3) == 3
        assert shares(fleet) == {"localhost": [], "r1": [0, 1], "r2": [2]}

    async def test_where_nothing_can_be_allocated_the_home_is_still_known(self, world):
        world.launcher.chosen = [ClusterError("no room for 3 containers")]
        fleet = world.fleet()
        with pytest.raises(ClusterError, match="no room for 3"):
            await fleet.gather(world.launcher, SPEC, 3)
        assert world.host("localhost").is_open  # so that it is closed with the others
        await fleet.close(1.0)
        assert not world.host("localhost").is_open
        assert world.journal[-1] == ("launcher closed",)

    async def test_hosts_have_to_answer_a_while_before_the_start_has_to_be_over(self, world):
        bounds = []

        async def note(host, launcher, timeout):
            bounds.append(timeout)
            await asyncio.sleep(timeout)
            msg = "no answer"
            raise TimeoutError(msg)

        world.at["launch", "n1"] = note
        with pytest.raises(ClusterError, match="n1: no answer"):
            await world.fleet(N1).gather(world.launcher, SPEC, 1)
        assert bounds == [pytest.approx(0.8 * SPEC.start_timeout)]
        assert world.now() < SPEC.start_timeout


class TestAllOrNothing:
    @pytest.fixture(autouse=True)
    def broken(self, world):
        world.at = {
            ("launch", "n1"): OSError("no route to host"),
            ("check", "n3"): ["it has no module\nnamed plant", "port 7 is taken"],
        }
        world.facts = {"n2": {"python": "3.12.1", "aiomas": "3.0", "cores": 8}}

    async def test_the_report_has_a_line_for_each_host(self, world):
        fleet = world.fleet(N1, N2, N3)
        with pytest.raises(ClusterError) as caught:
            await fleet.gather(world.launcher, SPEC, 6)
        first, *lines = str(caught.value).splitlines()
        assert first.startswith("2 of 3 hosts cannot be used, so nothing was started (allow")
        assert lines == [
            "  n1: no route to host",
            "  n2: ready at 10.0.0.3, Python 3.12.1, aiomas 3.0, cores: 8",
            "  n3: it has no module",
            "    named plant; port 7 is taken",
        ]
        assert world.did("prepare", "begin") == []
        assert not world.host("n3").is_open

    async def test_what_is_there_may_be_enough(self, world):
        fleet = world.fleet(N1, N2, N3, allow_partial=True)
        begun = await world.started(fleet, 6)
        assert shares(fleet) == {"localhost": [], "n1": [], "n2": [0, 1, 2, 3, 4, 5], "n3": []}
        assert states(fleet) == {
            "localhost": "running",
            "n1": "missing",
            "n2": "running",
            "n3": "missing",
        }
        assert fleet.named("n1").info.problem == "no route to host"
        assert world.did("release") == [("release", "n1"), ("release", "n3")]
        assert {container["host"] for container in begun} == {"n2"}

    async def test_nothing_is_not_enough(self, world):
        world.at["launch", "n2"] = TimeoutError("no answer")
        with pytest.raises(ClusterError, match="3 of 3 hosts cannot be used"):
            await world.fleet(N1, N2, N3, allow_partial=True).gather(world.launcher, SPEC, 6)

    async def test_this_machine_is_enough_if_it_has_containers(self, world):
        fleet = world.fleet(HostSpec("localhost"), N1, allow_partial=True)
        assert await fleet.gather(world.launcher, SPEC, 6) == 6
        assert shares(fleet) == {"localhost": [0, 1, 2, 3, 4, 5], "n1": []}

    async def test_what_missing_hosts_would_have_is_not_put_elsewhere(self, world):
        hosts = HostSpec("n1", 2), HostSpec("n2", 3), HostSpec("n3", 4)
        fleet = world.fleet(*hosts, allow_partial=True)
        assert await fleet.gather(world.launcher, SPEC, 9) == 3
        assert shares(fleet)["n2"] == [0, 1, 2]

    async def test_the_rest_is_left_out_if_those_who_would_have_it_are_missing(self, world):
        fleet = world.fleet(N1, HostSpec("n2", 3), allow_partial=True)
        assert await fleet.gather(world.launcher, SPEC, 9) == 3

    async def test_a_bug_is_no_host_that_cannot_be_used(self, world):
        world.at["launch", "n1"] = LookupError("a bug")
        with pytest.raises(LookupError):
            await world.fleet(N1, N2, allow_partial=True).gather(world.launcher, SPEC, 2)


class TestPlainText:
    """The launcher and the hosts that come later are not known when parameters are checked."""

    spec = dataclasses.replace(SPEC, transport="tcp")

    async def test_nobody_who_is_found_elsewhere_is_taken_in(self, world):
        world.launcher.chosen = [[HostSpec("r1", 2)]]
        with pytest.raises(ClusterError, match=r"(?s)r1: transport='tcp' sends .* insecure=True"):
            await world.fleet().gather(world.launcher, self.spec, 2)

    async def test_nor_is_one_that_is_added(self, world):
        fleet = world.fleet(HostSpec("n1", address="127.0.0.1"))
        await world.started(fleet, 1, self.spec)
        with pytest.raises(ClusterError, match=r"sends everything to 10\.0\.0\.\d in plain text"):
            await fleet.reach(fleet.candidate(N2))
        await fleet.reach(fleet.candidate(HostSpec("n3", address="127.0.0.1")))

    async def test_who_is_insecure_takes_all(self, world):
        fleet = world.fleet(N1, insecure=True)
        await world.started(fleet, 1, self.spec)
        await fleet.reach(fleet.candidate(N2))
        assert states(fleet)["n1"] == "running"


class TestOwnAddress:
    async def test_it_is_the_one_on_the_way_to_the_others(self, world):
        fleet = world.fleet(N1)
        await fleet.gather(world.launcher, SPEC, 1)
        assert fleet.home.info.address == "10.9.9.2"

    async def test_the_user_may_know_better(self, world):
        fleet = world.fleet(N1, address="192.0.2.9")
        await fleet.gather(world.launcher, SPEC, 1)
        assert fleet.home.info.address == "192.0.2.9"
        part = fleet.home_part()
        assert (part.address, part.bind, part.indices) == ("192.0.2.9", "192.0.2.9", ())
        assert part.several
        assert part.lease is None
        assert part.host == "localhost"

    async def test_the_home_is_told_its_name(self, world):
        fleet = world.fleet(HostSpec("localhost", name="desk"), N1)
        await fleet.gather(world.launcher, SPEC, 2)
        assert fleet.home_part().host == "desk"

    async def test_hosts_that_are_all_here_reach_this_one_here(self, world):
        fleet = world.fleet(HostSpec("n1", address="127.0.0.2"))
        await fleet.gather(world.launcher, SPEC, 1)
        assert fleet.home.info.address == "127.0.0.1"

    async def test_where_no_way_leads_another_host_may_tell(self, world, monkeypatch):
        ways = {"10.0.0.3": "10.0.0.99"}
        monkeypatch.setattr(gathering, "route_to", ways.get)
        fleet = world.fleet(N1, N2)
        await fleet.gather(world.launcher, SPEC, 2)
        assert fleet.home.info.address == "10.0.0.99"


class TestStart:
    async def test_every_host_has_its_part_and_its_certificate(self, world):
        fleet = world.fleet(N1, N2, lease=12.0, on_host_loss="respawn")
        begun = await world.started(fleet, 3)
        parts = {label: part for _, label, _, _, part in world.did("prepare")}
        assert parts["n1"]["indices"] == (0, 1)
        assert parts["n2"]["indices"] == (2,)
        assert (parts["n1"]["lease"], parts["n1"]["archive"]) == (12.0, True)
        assert parts["localhost"]["lease"] is None
        assert sorted(world.did("sign")) == [
            ("sign", "n1", "10.0.0.2", b"request of n1"),
            ("sign", "n2", "10.0.0.3", b"request of n2"),
        ]
        assert sorted(world.did("begin")) == [
            ("begin", "localhost", "token", "own", True, 0),
            ("begin", "n1", "token", "certificate of n1", True, 0),
            ("begin", "n2", "token", "certificate of n2", True, 0),
        ]
        assert [(c["index"], c["host"]) for c in begun] == [(0, "n1"), (1, "n1"), (2, "n2")]

    async def test_ports_are_those_of_the_indices(self, world):
        await world.started(world.fleet(N1, N2), 3, dataclasses.replace(SPEC, port=7000))
        assert [(entry[1], entry[3]) for entry in world.did("check")][2:] == [
            ("n1", [7000, 7001]),
            ("n2", [7002]),
        ]

    async def test_an_error_says_on_which_host(self, world):
        world.at["prepare", "n2"] = ClusterError("the disk is full")
        with pytest.raises(ClusterError, match=r"^host n2: the disk is full$"):
            await world.started(world.fleet(N1, N2), 2)

    async def test_a_container_that_died_is_told_as_it_is(self, world):
        world.at["begin", "n1"] = died = ContainerDied("Container 0 died", 0, -9)
        with pytest.raises(ContainerDied) as caught:
            await world.started(world.fleet(N1), 1)
        assert caught.value is died

    async def test_when_one_fails_nobody_waits_for_the_others(self, world):
        cancelled = []

        async def hang(host, *_, **__):
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.append(host.label)

        world.at = {("begin", "n1"): hang, ("begin", "n2"): ClusterError("no")}
        with pytest.raises(ClusterError, match="host n2: no"):
            await world.started(world.fleet(N1, N2), 2)
        assert cancelled == ["n1"]

    async def test_this_machine_alone(self, world):
        fleet = world.fleet()
        await fleet.begin_here(world.launcher, [0, 1], 5.0)
        assert states(fleet) == {"localhost": "running"}
        assert shares(fleet) == {"localhost": [0, 1]}


@pytest.fixture
async def fleet(world):
    fleet = world.fleet(N1, N2)
    await world.started(fleet, 4)
    world.journal.clear()
    return fleet


class TestMembers:
    async def test_they_have_names(self, fleet):
        assert fleet.named("n2").name == "n2"
        with pytest.raises(ValueError, match=r"no host 'n9' .*; there are: localhost, n1, n2"):
            fleet.named("n9")

    async def test_each_container_is_on_one(self, fleet):
        assert [fleet.of(index).name for index in range(4)] == ["n1", "n1", "n2", "n2"]
        with pytest.raises(ClusterError, match="no container 4"):
            fleet.of(4)

    async def test_a_loss_is_told_in_the_loop_of_the_caller(self, world, fleet):
        world.host("n2").cut()
        assert world.lost == []
        await asyncio.sleep(0)
        assert world.lost == ["n2"]

    async def test_who_is_there_cannot_be_added(self, fleet):
        with pytest.raises(ValueError, match="host 'n1' is in this cluster already"):
            fleet.candidate(HostSpec("n1"))

    @pytest.mark.parametrize("name", ["localhost", "desk"])
    async def test_nor_can_this_machine(self, fleet, name):
        with pytest.raises(ValueError, match=r"'localhost' is this machine, .* use scale\(\)"):
            fleet.candidate(HostSpec("localhost", name=name))

    async def test_a_former_one_has_another_life(self, fleet):
        assert fleet.candidate(N3).info.incarnation == 0
        fleet.named("n1").becomes("lost", "gone")
        candidate = fleet.candidate(N1)
        assert candidate.info.incarnation == 1
        assert candidate.control is not fleet.named("n1").control
        fleet.named("n1").info.incarnation = 4
        assert fleet.candidate(N1).info.incarnation == 5

    async def test_one_that_has_never_been_there_begins_with_its_first_life(self, fleet):
        fleet.named("n1").becomes("missing", "no route")
        assert fleet.candidate(N1).info.incarnation == 0


class TestJoin:
    async def test_it_is_a_member_when_it_is_confirmed(self, world, fleet):
        candidate = fleet.candidate(N3)

        await fleet.reach(candidate)
        assert [entry[0] for entry in world.journal] == ["launch", "check"]
        candidate.info.containers = [4]
        [begun] = await fleet.join(candidate, world.sign)
        assert (begun["index"], begun["host"]) == (4, "n3")
        assert [entry[0] for entry in world.journal] == [
            *("launch", "check", "check", "prepare", "sign", "begin"),
        ]
        assert "n3" not in shares(fleet)
        fleet.confirm(candidate)
        assert states(fleet)["n3"] == "running"
        assert fleet.of(4) is candidate

    async def test_it_begins_with_the_generation_of_the_others(self, world, fleet):
        fleet.generation = 3
        candidate = fleet.candidate(N3)
        await fleet.reach(candidate)
        await fleet.join(candidate, world.sign)
        assert world.did("begin") == [("begin", "n3", "token", "certificate of n3", True, 3)]

    async def test_it_takes_the_place_of_its_former_life(self, world, fleet):
        former = fleet.named("n1")
        former.becomes("lost", "gone")
        candidate = fleet.candidate(N1)
        candidate.info.containers = [0, 1]
        await fleet.reach(candidate)
        await fleet.join(candidate, world.sign)
        fleet.confirm(candidate)
        assert [member.name for member in fleet.members] == ["localhost", "n2", "n1"]
        assert former not in fleet.members
        assert fleet.of(0) is candidate

    async def test_containers_of_a_lost_host_may_be_on_another_one_now(self, world, fleet):
        fleet.named("n1").becomes("lost", "gone")
        candidate = fleet.candidate(N3)
        candidate.info.containers = [1]
        await fleet.reach(candidate)
        await fleet.join(candidate, world.sign)
        fleet.confirm(candidate)
        assert fleet.of(1) is candidate
        assert fleet.named("n1").info.containers == [0]

    async def test_one_that_is_lost_already_is_no_member(self, world, fleet):
        candidate = fleet.candidate(N3)
        await fleet.reach(candidate)
        await fleet.join(candidate, world.sign)
        world.host("n3").cut()
        with pytest.raises(ClusterError, match="n3 was lost before it had joined"):
            fleet.confirm(candidate)
        assert "n3" not in shares(fleet)


class TestFences:
    async def test_all_others_are_told_in_three_rounds(self, world, fleet):
        lost = fleet.named("n1")
        lost.becomes("lost", "gone")
        own = world.container.set_generation
        await fleet.fence(lost, ["tcp://n1:0/"], own)
        rounds: list[dict[str, Any]] = [
            {"accept": 0, "known": 1, "use": 0, "lost": ["tcp://n1:0/"]},
            {"accept": 0, "known": 1, "use": 1},
            {"accept": 1, "known": 1, "use": 1},
        ]
        told = world.did("own generation", "set_generation")
        assert len(told) == 9
        for number, terms in enumerate(rounds):
            ours, *others = told[3 * number : 3 * number + 3]
            assert ours == ("own generation", terms)
            assert sorted(others) == [
                ("set_generation", name, *terms.values()) for name in ("localhost", "n2")
            ]

    async def test_no_round_begins_before_the_last_has_heard_of_the_one_before(self, world, fleet):
        goes_on = asyncio.Event()

        async def slow(*_, **__):
            await goes_on.wait()

        world.at["set_generation", "n2"] = slow
        fencing = asyncio.create_task(fleet.fence(fleet.named("n1"), [], lambda **_: None))
        await asyncio.sleep(1.0)
        assert len(world.did("set_generation")) == 2
        goes_on.set()
        await fencing
        assert len(world.did("set_generation")) == 6

    async def test_who_does_not_hear_of_it_does_not_keep_the_others_from_it(self, world, fleet):
        world.at["set_generation", "n2"] = ClusterError("it is about to be lost")
        await fleet.fence(fleet.named("n1"), [], lambda **_: None)
        assert len([e for e in world.did("set_generation") if e[1] == "localhost"]) == 3

    async def test_each_loss_is_a_generation(self, world, fleet):
        for name in ("n1", "n2"):
            fleet.named(name).becomes("lost", "gone")
        for name in ("n1", "n2"):
            await fleet.fence(fleet.named(name), [], lambda **_: None)
        assert fleet.generation == 2
        assert {entry[1] for entry in world.did("set_generation")} == {"localhost"}

    async def test_all_hear_of_what_is_there_again_the_candidate_first(self, world, fleet):
        candidate = fleet.candidate(N3)
        await fleet.reach(candidate)
        await fleet.join(candidate, world.sign)
        fleet.generation = 2
        await fleet.unfence(candidate, ["u"], world.container.set_generation)
        terms = {"accept": 2, "known": 2, "use": 2, "found": ["u"]}
        ours, *others = world.did("own generation", "set_generation")
        assert ours == ("own generation", terms)
        assert [entry[1] for entry in others] == ["n3", "localhost", "n1", "n2"]
        assert {entry[2:5] for entry in others} == {(2, 2, 2)}

    async def test_a_candidate_has_to_hear_of_it(self, world, fleet):
        candidate = fleet.candidate(N3)
        await fleet.reach(candidate)
        await fleet.join(candidate, world.sign)
        world.at["set_generation", "n1"] = ClusterError("about to be lost")
        await fleet.unfence(candidate, [], lambda **_: None)
        world.at["set_generation", "n3"] = ClusterError("it is gone")
        with pytest.raises(ClusterError, match="it is gone"):
            await fleet.unfence(candidate, [], lambda **_: None)

    async def test_a_host_has_time_to_end_what_it_runs(self, world, fleet):
        until = world.host("n1").lease_until
        assert until == fleet.policy.lease
        assert fleet.fenced_at(fleet.named("n1")) == until + FENCE


class TestStop:
    async def test_home_is_the_last(self, world, fleet):
        ended = []

        async def stop(host, *_):
            await asyncio.sleep(1.0)
            ended.append(host.label)
            return {index: 10 + index for index in host.indices}

        world.at = {("stop", name): stop for name in ("localhost", "n1", "n2")}
        assert await fleet.stop(2.0, 9.0) == {0: 10, 1: 11, 2: 12, 3: 13}
        assert sorted(ended[:2]) == ["n1", "n2"]
        assert ended[2:] == ["localhost"]
        assert world.now() == 2.0

    async def test_one_that_is_gone_keeps_nobody(self, world, fleet):
        world.at["stop", "n1"] = ClusterError("it is gone")
        assert await fleet.stop(2.0, 9.0) == {2: 12, 3: 13}
        fleet.named("n2").becomes("lost", "gone")
        assert await fleet.stop(2.0, 9.0) == {}

    async def test_a_bug_is_told(self, world, fleet):
        world.at["stop", "n1"] = LookupError("a bug")
        with pytest.raises(LookupError):
            await fleet.stop(2.0, 9.0)

    async def test_all_streams_are_closed_and_the_launcher_last(self, world, fleet):
        fleet.named("n2").becomes("lost", "gone")
        await fleet.close(1.0)
        closed = world.did("close", "launcher closed")
        assert sorted(closed[:3]) == [("close", name) for name in ("localhost", "n1", "n2")]
        assert closed[3:] == [("launcher closed",)]

    async def test_so_are_those_of_hosts_that_are_no_members_yet(self, world, fleet):
        for spec in (N3, HostSpec("n4"), HostSpec("n5"), HostSpec("n6")):
            candidate = fleet.candidate(spec)
            if spec.label != "n6":
                await fleet.reach(candidate)
            if spec.label == "n4":
                await fleet.dismiss(candidate, "it could not be used")
            if spec.label == "n5":
                fleet.confirm(candidate)
        world.journal.clear()
        await fleet.close(1.0)
        closed = [name for _, name in world.did("close")]
        assert sorted(closed) == ["localhost", "n1", "n2", "n3", "n5"]
        assert world.did("release", "launcher closed") == [("release", "n3"), ("launcher closed",)]

    async def test_all_but_home_can_be_given_up_at_once(self, world, fleet):
        fleet.named("n2").becomes("lost", "it is silent")
        await fleet.reach(fleet.candidate(N3))
        await fleet.abandon("the cluster is gone")
        assert [name for _, name in world.did("give up")] == ["n1", "n2", "n3"]
        assert states(fleet) == {"localhost": "running", "n1": "lost", "n2": "lost"}
        problems = [member.info.problem for member in fleet.members]
        assert problems == [None, "the cluster is gone", "it is silent"]
