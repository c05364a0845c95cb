"""A host is looked at before it is used, and told what it has to know in its own terms."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiomas.cluster.basedir import LONGEST_NAME
from aiomas.cluster.hosts import HostSpec
from aiomas.cluster.members import Member, part_name
from aiomas.cluster.policy import HostPolicy
from aiomas.cluster.sync import Bundle
from aiomas.codecs import MsgPack
from aiomas.exceptions import ClusterError
from aiomas.testing import VirtualTimeLoop
from tests.unit.cluster.fake_hosts import SPEC, World

DAY = 86_400.0


@pytest.fixture
def anyio_backend():
    return "asyncio", {"loop_factory": VirtualTimeLoop}


@pytest.fixture
async def world():
    world = World()
    world.facts = {"n1": {"clock": 1000.0, "asked": 999.0, "answered": 1001.0}}
    return world


async def launched(world, spec=None, *, facts=None):
    spec = spec or HostSpec("n1")
    world.facts.setdefault(spec.label, {}).update(facts or {})
    member = Member(spec, world.make(home=False), world.thread)
    await member.launch(world.launcher, 5.0, lambda: None)
    return member


class TestExamination:
    async def test_all_is_well(self, world):
        member = await launched(world)
        await member.examine(SPEC, None)
        assert member.info.address == member.bind == "10.0.0.1"
        assert world.did("check") == [("check", "n1", "10.0.0.1", (), [])]

    async def test_what_the_user_says_is_taken(self, world):
        spec = HostSpec("n1", address="192.0.2.1", bind="10.7.7.7")
        member = await launched(world, spec)
        await member.examine(SPEC, None)
        assert (member.info.address, member.bind) == ("192.0.2.1", "10.7.7.7")
        assert world.did("check")[0][2] == "10.7.7.7"

    @pytest.mark.parametrize("skew", [-239.0, -3.0, 0.0, 29 * DAY])
    async def test_clocks_may_differ_as_far_as_certificates_allow(self, world, skew):
        member = await launched(world, facts={"clock": 1000.0 + skew})
        await member.examine(SPEC, None)
        told = f"its clock is {skew:+.1f} s off ours"
        assert (told in member.described()) == (abs(skew) > 1)

    @pytest.mark.parametrize(
        ("skew", "message"),
        [
            (-241.0, "its clock is 241 s behind ours, .* set it"),
            (31 * DAY, "its clock is 2678400 s ahead of ours, .* set it"),
        ],
    )
    async def test_with_another_clock_certificates_are_not_valid(self, world, skew, message):
        member = await launched(world, facts={"clock": 1000.0 + skew})
        with pytest.raises(ClusterError, match=message):
            await member.examine(SPEC, None)
        await member.examine(dataclasses.replace(SPEC, transport="tcp"), None, insecure=True)

    @pytest.mark.parametrize("clock", [1001.0, 1300.0, 1599.0])
    async def test_time_on_the_way_is_no_skew(self, world, clock):
        facts = {"clock": clock, "asked": 1000.0, "answered": 1600.0}
        member = await launched(world, facts=facts)
        await member.examine(SPEC, None)
        assert "clock" not in member.described()

    @pytest.mark.parametrize("skew", [-301.0, 301.0])
    async def test_what_is_more_than_the_time_on_the_way_is(self, world, skew):
        facts = {"clock": 1300.0 + skew, "asked": 1000.0, "answered": 1600.0}
        member = await launched(world, facts=facts)
        assert f"its clock is {skew:+.1f} s off ours" in member.described()

    @pytest.mark.parametrize(
        ("address", "bind"), [("10.7.7.7", None), ("127.0.0.1", "0.0.0.0"), ("10.7.7.7", "::1")]
    )
    async def test_plain_text_does_not_leave_a_machine_unless_it_may(self, world, address, bind):
        member = await launched(world, HostSpec("n1", address=address, bind=bind))
        plain = dataclasses.replace(SPEC, transport="tcp")
        with pytest.raises(ClusterError, match=r"in plain text, .* use transport='tls', or say"):
            await member.examine(plain, None)
        await member.examine(plain, None, insecure=True)
        await member.examine(SPEC, None)

    async def test_plain_text_may_stay_on_a_machine(self, world):
        member = await launched(world, facts={"address": "127.0.0.2"})
        await member.examine(dataclasses.replace(SPEC, transport="tcp"), None)

    async def test_what_it_speaks_is_told(self, world):
        member = await launched(world, facts={"aiomas": "3.0", "wire": 1, "cores": 4})
        assert member.described().endswith("aiomas 3.0, protocol 1, cores: 4")

    async def test_an_address_has_to_be_known(self, world):
        member = await launched(world, HostSpec("me@n1"), facts={"address": None})
        with pytest.raises(ClusterError, match=r"reach n1: say it with HostSpec\('me@n1', address"):
            await member.examine(SPEC, None)
        assert world.did("check") == []

    async def test_a_name_has_the_address_that_it_has_here(self, world, monkeypatch):
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.5", 0))]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        member = await launched(world, HostSpec("n1", address="n1.example"))
        await member.examine(SPEC, None)
        assert (member.info.address, member.bind) == ("n1.example", "192.0.2.5")

    async def test_all_that_is_wrong_is_said_at_once(self, world, monkeypatch):
        def fail(*_, **__):
            raise socket.gaierror(-2, "Name or service not known")

        member = await launched(world, HostSpec("n1", address="n1.example"), facts={"clock": 0.0})
        monkeypatch.setattr(socket, "getaddrinfo", fail)
        with pytest.raises(ClusterError, match=r"behind ours.*; the address 'n1.example' is not"):
            await member.examine(SPEC, None)
        monkeypatch.undo()
        member = await launched(world, facts={"clock": 0.0})
        world.at["check", "n1"] = ["there is no module 'plant'", "no such address"]
        with pytest.raises(ClusterError, match=r"behind ours.*; there is no module .*; no such"):
            await member.examine(SPEC, None)

    async def test_modules_that_are_sent_need_not_be_there(self, world, tmp_path):
        (tmp_path / "plant.py").write_text("")
        member = await launched(world)
        spec = dataclasses.replace(SPEC, preload=("plant", "numpy.random"))
        await member.examine(spec, Bundle.of_paths([tmp_path / "plant.py"]))
        assert world.did("check")[0][4] == ["numpy"]

    async def test_ports_are_looked_at_when_it_is_known_which_ones(self, world):
        member = await launched(world)
        await member.examine(SPEC, None)
        world.journal.clear()
        await member.check_ports(SPEC, [3, 4])
        await member.check_ports(dataclasses.replace(SPEC, port=7000), [3, 4])
        assert [entry[3] for entry in world.journal] == [(), [7003, 7004]]
        world.at["check", "n1"] = ["port 7003 is taken", "port 7004 is taken"]
        with pytest.raises(ClusterError, match="port 7003 is taken; port 7004 is taken"):
            await member.check_ports(dataclasses.replace(SPEC, port=7000), [3, 4])


names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}", fullmatch=True)


class TestPartName:
    @given(st.from_regex(r"[a-z][a-z0-9._-]{0,63}", fullmatch=True), st.lists(names, unique=True))
    def test_it_is_possible_and_another_one_for_each_host(self, run, hosts):
        parts = [part_name(run, host) for host in hosts]
        assert len(set(parts)) == len(parts)
        assert all(len(part) <= LONGEST_NAME and ":" not in part for part in parts)
        assert part_name(run, hosts[0]) == parts[0] if hosts else True

    def test_it_is_readable_where_it_can_be(self):
        assert part_name("plant", "n1.example") == "plant.n1.example"
        assert part_name("plant", "fd00::1").startswith("plant.fd00--1-")
        assert part_name("plant", "a:b") != part_name("plant", "a-b")

    def test_long_names_differ_at_their_end(self):
        first, second = (part_name("plant", "n" * 62 + end) for end in "ab")
        assert first != second
        assert first.startswith("plant.nnnn")


class TestPreparation:
    async def prepared(self, world, policy=None, spec=SPEC, **fields):
        member = await launched(world)
        await member.examine(SPEC, None)
        member.info.containers = [3, 4]
        member.info.incarnation = 2
        policy = policy or HostPolicy(**fields)
        self.request = await member.prepare(spec, "plant", {"fact": 1}, policy)
        return member

    async def test_it_is_told_about_its_part(self, world, tmp_path):
        spec = dataclasses.replace(SPEC, cwd=str(tmp_path), name="plant")
        await self.prepared(world, spec=spec, lease=12.0, heartbeat=2.0, on_host_loss="respawn")
        [(_, _, fields, facts, part)] = world.did("prepare")
        assert (fields["name"], fields["cwd"]) == ("plant.n1.2", None)
        assert facts == {"fact": 1}
        assert part == {
            "host": "n1",
            "indices": (3, 4),
            "bind": "10.0.0.1",
            "address": "10.0.0.1",
            "lease": 12.0,
            "heartbeat": 2.0,
            "incarnation": 2,
            "several": True,
            "archive": True,
            "shipped": False,
        }
        assert self.request == b"request of n1"

    async def test_the_driver_waits_for_a_lease_that_began_when_it_was_heard_of(self, world):
        """The message may be long on its way, and nobody knows which way took so long."""

        async def slow(host, *_):
            assert host.granted == [12.0]  # else it would be refused over there
            await asyncio.sleep(7.0)
            host.began = world.now()
            await asyncio.sleep(4.0)
            return {"request": None}

        world.at["prepare", "n1"] = slow
        member = await self.prepared(world, lease=12.0)
        host = world.host("n1")
        assert member.control.lease_until >= host.began + 12.0
        assert member.control.lease_until == world.now() + 12.0

    async def test_modules_are_sent_in_batches_before_anything_else(self, world, tmp_path):
        (tmp_path / "small.py").write_text("x")
        (tmp_path / "large.py").write_bytes(bytes(range(256)) * 2000)
        bundle = Bundle.of_paths([tmp_path / "small.py", tmp_path / "large.py"])
        world.missing = [entry.checksum for entry in bundle.entries.values()]
        await self.prepared(world, HostPolicy(bundle=bundle))
        assert world.did("prepare")[0][-1]["shipped"]
        manifest, *batches = world.host("n1").shipped
        assert manifest == bundle.manifest()
        sent = [piece for batch in batches for piece in batch]
        assert len(batches) == len(list(bundle.batches(world.missing))) >= 4
        assert sent == list(bundle.pieces(world.missing))
        assert [entry[0] for entry in world.journal][-1] == "shipping.build"

    async def test_what_is_there_is_not_sent(self, world, tmp_path):
        (tmp_path / "small.py").write_text("x")
        await self.prepared(world, HostPolicy(bundle=Bundle.of_paths([tmp_path / "small.py"])))
        assert world.did("shipping.put") == []
        assert len(world.did("shipping.build")) == 1

    async def test_files_have_their_names_over_there(self, world, tmp_path):
        (tmp_path / "plant").mkdir()
        (tmp_path / "plant/house.py").write_text("")
        (tmp_path / "other.py").write_text("")
        bundle = Bundle.of_paths([tmp_path / "plant"])
        member = await self.prepared(world, HostPolicy(bundle=bundle))
        sent, other = f"{tmp_path}/plant/house.py:House", f"{tmp_path}/other.py:Other"
        assert member.localized(sent) == "/tree/of/n1/plant/house.py:House"
        for same in (other, "plant.house:House", "house.py"):
            assert member.localized(same) == same
        await member.spawn(3, sent, b"arguments", True)
        there = "/tree/of/n1/plant/house.py:House"
        assert world.did("spawn") == [("spawn", "n1", 3, sent, there, True)]

    async def test_without_modules_names_stay(self, world):
        member = await self.prepared(world)
        assert member.localized("/home/me/plant.py:House") == "/home/me/plant.py:House"


class TestMember:
    async def test_its_state_has_a_reason_and_a_time(self, world):
        member = await launched(world)
        assert not member.runs
        before = time.time()
        member.becomes("running")
        assert member.runs
        assert before <= member.info.since <= time.time()
        member.becomes("lost", "it is silent")
        assert (member.info.state, member.info.problem) == ("lost", "it is silent")
        assert repr(member) == "<Member n1 lost>"

    async def test_the_reason_of_a_loss_is_that_of_the_host(self, world):
        member = await launched(world)
        world.host("n1").cut("The cluster is gone: the fork server was killed")
        assert await member.reason() == "the fork server was killed"

    async def test_a_line_says_what_is_known(self, world):
        member = await launched(world, facts={"python": "3.12.1", "aiomas": "3.0", "cores": 8})
        await member.examine(SPEC, None)
        assert member.described() == "ready at 10.0.0.1, Python 3.12.1, aiomas 3.0, cores: 8"

    async def test_large_messages_leave_room_for_heartbeats(self, world):
        member = await launched(world)
        going = []

        async def slow(host, index):
            going.append(index)
            await asyncio.sleep(1.0)

        world.at["spawn", "n1"] = slow
        large = bytes(2**20)
        spawning = [asyncio.create_task(member.spawn(i, "m:A", large, False)) for i in range(4)]
        await asyncio.sleep(0.5)
        assert going == [0, 1]
        await asyncio.gather(*spawning)
        assert going == [0, 1, 2, 3]

    async def test_small_ones_do_not_wait_for_each_other(self, world):
        member = await launched(world)
        all_there = asyncio.Barrier(4)

        async def wait(host, index):
            await all_there.wait()

        world.at["spawn", "n1"] = wait
        async with asyncio.timeout(1.0):
            await asyncio.gather(*(member.spawn(i, "m:A", b"small", False) for i in range(4)))

    async def test_states_are_sent_to_its_supervisor(self, world):
        member = await launched(world)
        await member.spawn(3, "m:A", b"arguments", True, [[b"x", None], [b"y"]])
        await member.spawn(3, "m:A", b"arguments", True, [[None]])
        assert world.did("take_states", "spawn") == [
            ("take_states", "n1", 3, {"0": b"x", "2": b"y"}),
            ("spawn", "n1", 3, "m:A", "m:A", True, [["0", "1"], ["2"]], True),
            ("spawn", "n1", 3, "m:A", "m:A", True, [["3"]], True),
        ]

    async def test_those_of_agents_that_are_made_at_the_same_time_are_not_mixed_up(self, world):
        member = await launched(world)
        taken = {}

        async def take(host, index, states):
            taken.update(states)
            await asyncio.sleep(1.0)

        world.at["take_states", "n1"] = take
        states = [[[b"%d" % n]] for n in range(5)]
        await asyncio.gather(*(member.spawn(3, "m:A", b"", True, each) for each in states))
        assert sorted(taken.values()) == [b"0", b"1", b"2", b"3", b"4"]

    async def test_many_states_need_several_messages(self, world):
        member = await launched(world)
        large = bytes(2**19 + 1)
        await member.spawn(3, "m:A", b"", True, [[large]] * 3)
        assert len(world.did("take_states")) == 3

    async def test_it_knows_whose_agents_can_be_made_again(self, world):
        member = await launched(world)
        archive, codec = member.control.archive, MsgPack()
        with archive.of(3).adding():
            archive.of(3).add("m:A", codec.encode([((1,), {})]), [("0", ["0"])], [[b"x"]])
        [former] = await member.formers(3, "tcp://n1:3/", codec)
        assert (former.url, former.states) == ("tcp://n1:3/0", [b"x"])
        await member.drop(3)
        assert await member.formers(3, "tcp://n1:3/", codec) == []

    async def test_it_is_given_up_and_closed(self, world):
        member = await launched(world)
        await member.give_up("of no use")
        assert world.host("n1").given_up == "of no use"
        await member.close(1.0)
        assert [entry[0] for entry in world.journal[-2:]] == ["give up", "close"]
