"""Ray as a launcher, without Ray: what goes where, what is short, and the stream that is relayed.

In place of Ray's actors there are threads of this process; what they start is real.  With real
ones, see ``tests/ray``.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import itertools
import os
import signal
import socket
import sys
import threading
import time
import types
from typing import Any

import pytest

from aiomas.cluster import streams
from aiomas.cluster.hosts import HostSpec
from aiomas.cluster.launchers import ray_actor, ray_relay, ray_session
from aiomas.cluster.launchers.ray import RayLauncher
from aiomas.cluster.launchers.ray_placing import Search
from aiomas.cluster.launchers.ray_plan import Demand, Node
from aiomas.exceptions import ClusterError
from tests.unit.cluster.fakes import BOUND, until

SHORT = 0.5  # seconds


def node(number, free, total=None, **more):
    resources = {"CPU": float(free if total is None else total), **more}
    return Node(
        f"id{number}", f"10.0.0.{number}", f"n{number}", resources, {**resources, "CPU": free}
    )


def demand(containers, *hosts, each=None, strategy="STRICT_SPREAD", per_new_node=None):
    return Demand(hosts, containers, each or {"CPU": 1}, strategy, per_new_node)


def sizes(plan):
    return [bundle.containers for bundle in plan.bundles]


class TestPlan:
    @pytest.mark.parametrize(
        ("strategy", "containers", "expected"),
        [
            ("STRICT_SPREAD", 4, [2, 1, 1]),
            ("SPREAD", 8, [4, 3, 1]),
            ("STRICT_SPREAD", 2, [1, 1]),
            ("PACK", 5, [4, 1]),
            ("PACK", 8, [4, 3, 1]),
            ("STRICT_PACK", 4, [4]),
            ("STRICT_SPREAD", None, [4, 3, 1]),
            ("STRICT_PACK", None, [4]),
        ],
    )
    def test_the_strategy_says_how_containers_are_divided(self, strategy, containers, expected):
        nodes = [node(1, 3), node(2, 1), node(3, 0), node(4, 4)]
        plan = demand(containers, strategy=strategy).plan(nodes)
        assert plan.fits
        assert sizes(plan) == expected

    def test_a_bundle_has_what_its_containers_need(self):
        each = {"CPU": 0.1, "GPU": 0.5}
        plan = demand(3, each=each).plan([node(1, 1, GPU=2)])
        assert plan.bundles[0].resources == pytest.approx({"CPU": 0.3, "GPU": 1.5})
        assert sizes(demand(10, each={"CPU": 0.1}).plan([node(1, 1)])) == [10]

    def test_what_is_in_use_may_become_free(self):
        plan = demand(4).plan([node(1, 0, 2), node(2, 2)])
        assert not plan.fits
        assert sizes(plan) == [2, 2]

    def test_what_is_short_where_is_told(self):
        with pytest.raises(ClusterError) as caught:
            demand(9).plan([node(1, 1, 4), node(2, 2, 4)])
        text = str(caught.value)
        assert "cannot place 9 containers (CPU 1 each, STRICT_SPREAD)" in text
        assert "room for more than 8" in text
        assert "10.0.0.1 (n1) has CPU 1 of 4 free: room for 1 now, 4 at most" in text
        assert "10.0.0.2 (n2) has CPU 2 of 4 free: room for 2 now, 4 at most" in text
        assert "containers_per_new_node" in text

    def test_one_node_may_be_too_small_for_all(self):
        with pytest.raises(ClusterError, match="no single node has room for more than 2"):
            demand(3, strategy="STRICT_PACK").plan([node(1, 2), node(2, 2)])

    def test_without_nodes_there_is_no_room(self):
        with pytest.raises(ClusterError, match="Its nodes: none is alive"):
            demand(None).plan([])

    def test_of_many_nodes_a_message_tells_only_of_some(self):
        with pytest.raises(ClusterError, match="and 5 more"):
            demand(99).plan([node(number, 1) for number in range(25)])

    def test_nodes_that_will_be_added_are_planned_with(self):
        nodes = [node(1, 0), node(2, 2)]
        plan = demand(9, per_new_node=4).plan(nodes)
        assert not plan.fits
        assert sizes(plan) == [2, 4, 3]
        assert sizes(demand(9, strategy="STRICT_PACK", per_new_node=4).plan(nodes)) == [9]

    def test_named_nodes_get_what_is_said(self):
        hosts = [
            HostSpec("n2", 2),
            HostSpec("10.0.0.1", name="one"),
            HostSpec("id3", name="three"),
            HostSpec("n4", 0),
        ]
        nodes = [node(number, 4) for number in range(1, 5)]
        plan = demand(5, *hosts).plan(nodes)
        assert [bundle.node.id for bundle in plan.bundles] == ["id2", "id1", "id3", "id4"]
        assert sizes(plan) == [2, 3, 2, 0]
        assert plan.bundles[3].resources == {"node:10.0.0.4": 0.001}
        assert sizes(demand(None, *hosts).plan(nodes)) == [2, 4, 4, 0]

    def test_nodes_at_one_address_are_told_apart(self):
        nodes = [node(1, 1), dataclasses.replace(node(2, 1), address="10.0.0.1")]
        hosts = [HostSpec("10.0.0.1", 1, name=name) for name in "ab"]
        plan = demand(None, *hosts).plan(nodes)
        assert [bundle.node.id for bundle in plan.bundles] == ["id1", "id2"]

    @pytest.mark.parametrize(
        ("host", "message"),
        [
            (HostSpec("n7", 1), "no node that is alive has .* 'n7'"),
            (HostSpec("n1", 5), "n1 would have 5 containers, too many for node 10.0.0.1"),
        ],
    )
    def test_named_nodes_that_will_not_do_are_told(self, host, message):
        with pytest.raises(ClusterError, match=message):
            demand(None, host).plan([node(1, 4)])


class FakeGroups:
    """Ray's placement groups; ``view`` is what the nodes are said to be, in turn."""

    def __init__(self, *view):
        self.view = list(view)
        self.reserved = {}
        self.all = []
        self.refused = 0
        """How many of the next groups are not there in time."""
        self._numbers = itertools.count()

    def nodes(self):
        return self.view.pop(0) if len(self.view) > 1 else self.view[0]

    def reserve(self, bundles, strategy, without):
        number = next(self._numbers)
        self.reserved[number] = bundles
        self.all.append((strategy, [bundle.node and bundle.node.id for bundle in bundles], without))
        return number

    def wait(self, group, seconds):
        if self.refused:
            self.refused -= 1
            time.sleep(0.01)
            return False
        return True

    def places(self, group):
        taken = [n.id for n in self.view[0]]
        return [b.node.id if b.node else taken.pop(0) for b in self.reserved[group]]

    def give_back(self, group):
        self.reserved.pop(group, None)


class TestSearch:
    def test_all_are_placed_together_and_then_each_for_itself(self):
        groups = FakeGroups([node(1, 2), node(2, 2)])
        places = Search(groups, demand(4), BOUND).run()
        assert groups.all == [
            ("STRICT_SPREAD", [None, None], []),
            ("PACK", ["id1"], []),
            ("PACK", ["id2"], []),
        ]
        assert [place.node.id for place in places] == ["id1", "id2"]
        assert list(groups.reserved) == [place.group for place in places]

    def test_a_better_plan_replaces_one_that_waits(self):
        busy, idle = [node(1, 0, 2), node(2, 1, 2)], [node(1, 0, 2), node(2, 2)]
        groups = FakeGroups(busy, idle, idle)
        groups.refused = 1
        places = Search(groups, demand(2), BOUND).run()
        assert [place.bundle.containers for place in places] == [2]
        assert len(groups.reserved) == 1

    def test_nothing_is_left_when_time_is_over(self):
        groups = FakeGroups([node(1, 0, 2)])
        groups.refused = 10**6
        with pytest.raises(ClusterError, match=r"did not become free.*within 0.05 s.*CPU 0 of 2"):
            Search(groups, demand(2), 0.05).run()
        assert groups.reserved == {}

    def test_what_others_took_meanwhile_is_looked_for_again(self, monkeypatch):
        monkeypatch.setattr("aiomas.cluster.launchers.ray_placing._OWN_TIMEOUT", 0)
        groups: Any = FakeGroups([node(1, 1)])
        wait = groups.wait
        answers = iter([True, False])
        groups.wait = lambda group, seconds: next(answers, None) or wait(group, seconds)
        groups.refused = 1
        [place] = Search(groups, demand(1), BOUND).run()
        assert len(groups.all) == 4
        assert list(groups.reserved) == [place.group]

    def test_nodes_where_supervisors_were_lost_are_the_last_choice(self):
        groups = FakeGroups([node(1, 2), node(2, 2)])
        Search(groups, demand(2), BOUND, avoid={"id1"}).run()
        assert groups.all[0] == ("STRICT_SPREAD", [None], ["id1"])
        Search(groups, demand(4), BOUND, avoid={"id1"}).run()
        assert groups.all[2] == ("STRICT_SPREAD", [None, None], [])

    def test_what_we_have_ourselves_is_not_waited_for(self):
        groups = FakeGroups([node(1, 2), node(2, 0, 2)])
        [place] = Search(groups, demand(2), BOUND).run()
        groups.view = [[node(1, 0, 2), node(2, 2)]]
        with pytest.raises(ClusterError, match=r"more than 2.*CPU 0 of 2 free: .* 0 at most"):
            Search(groups, demand(3), BOUND, ours=[place]).run()
        # So there is no other way than to use a node where a supervisor was lost.
        [again] = Search(groups, demand(2), BOUND, ours=[place], avoid={"id2"}).run()
        assert again.bundle.containers == 2

    def test_who_gives_up_has_nothing(self):
        groups = FakeGroups([node(1, 1)])
        search = Search(groups, demand(1), BOUND)
        search.give_up()
        with pytest.raises(ClusterError, match="Nobody waits"):
            search.run()
        assert groups.reserved == {}
        late = Search(groups, demand(1), BOUND)
        late.run()
        late.give_up()
        assert groups.reserved == {}


class RayError(Exception):
    pass


class FakeActor:
    """Calls the methods of an object in threads, as Ray does."""

    def __init__(self, relay):
        self.relay = relay
        self.pending = []
        self.killed = False

    def __getattr__(self, name):
        return types.SimpleNamespace(remote=lambda *args: self.call(name, args))

    def call(self, name, args):
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self.pending.append(future)

        def run():
            try:
                result = getattr(self.relay, name)(*args)
            except OSError as exc:
                if not future.done():
                    future.set_exception(exc)
            else:
                if not future.done():
                    future.set_result(result)

        if self.killed:
            future.set_exception(RayError("it died"))
        else:
            threading.Thread(target=run, daemon=True).start()
        return types.SimpleNamespace(future=lambda: future)

    def kill(self):
        self.killed = True
        for future in self.pending:
            if not future.done():
                future.set_exception(RayError("Numbers.\nThe actor died because of a test.\n"))
        if hasattr(self.relay, "_process"):
            self.relay._process.kill()
            self.relay._sock.shutdown(socket.SHUT_RDWR)

    def end(self):
        """Leave nothing of what the object has."""
        if hasattr(self.relay, "_process"):
            self.relay._process.kill()
            self.relay._process.wait()
            self.relay._listening.join()
            self.relay._process.stderr.close()
            self.relay._sock.close()


@pytest.fixture
def ray(monkeypatch):
    """A module with that name."""
    module: Any = types.ModuleType("ray")
    module.__file__ = "/site/ray/__init__.py"
    module.is_initialized = lambda: False
    parts: dict[str, Any] = {"ray": module}
    for name in ("util", "exceptions", "cloudpickle", "util.client"):
        parts[f"ray.{name}"] = part = types.ModuleType(f"ray.{name}")
        parent, _, last = f"ray.{name}".rpartition(".")
        setattr(parts[parent], last, part)
    parts["ray.exceptions"].RayError = RayError
    parts["ray.cloudpickle"].register_pickle_by_value = lambda module: None
    parts["ray.util.client"].ray = types.SimpleNamespace(is_connected=lambda: False)
    for name, part in parts.items():
        monkeypatch.setitem(sys.modules, name, part)
    return module


@pytest.fixture
async def run(ray):
    """Let an actor run a program, and be at the other end of the stream to it."""
    streams, actors = [], []

    def start(program, **options):
        relay = ray_actor.Relay()
        relay.start(None, ["-c", program], "SECRET", options.get("threads", ("", "")))
        actors.append(FakeActor(relay))
        streams.append(ray_relay.RelayedStream(actors[-1], lambda actor: actor.kill(), RayError))
        return streams[-1]

    yield start
    for stream in streams:
        stream.sock.close()
        await stream.close(BOUND)
    for actor in actors:
        actor.end()


CAT = "import sys\nwhile data := sys.stdin.buffer.read1(): sys.stdout.buffer.write(data)"


async def everything(sock):
    loop = asyncio.get_running_loop()
    found = bytearray()
    while data := await loop.sock_recv(sock, 2**20):
        found += data
    return bytes(found)


class TestStream:
    async def test_all_comes_through_in_its_order(self, run):
        stream = run(CAT)
        data = bytes(itertools.islice(itertools.cycle(range(251)), 3 * 2**20))
        reading = asyncio.create_task(everything(stream.sock))
        await asyncio.get_running_loop().sock_sendall(stream.sock, data)
        stream.sock.shutdown(socket.SHUT_WR)
        assert await reading == data
        assert await stream.ended == 0

    async def test_who_does_not_read_stops_the_other_end(self, run):
        stream = run("import os\nsent = 0\nwhile True: sent += os.write(1, bytes(65536))")
        relay = stream._actor.relay
        reads = []
        read = relay.read

        def count_and_read():
            reads.append(1)
            return read()

        relay.read = count_and_read
        await until(lambda: len(reads) > 1)
        count = -1
        while count != len(reads):  # it stops for good
            count = len(reads)
            await asyncio.sleep(0.2)
        assert count * ray_actor.CHUNK < 16 * 2**20

    async def test_how_it_ended_and_what_it_said_is_told(self, run):
        stream = run("import sys; sys.exit('no good reason')")
        assert await stream.ended == 1
        assert stream.said == "no good reason\n"
        assert stream.told_its_end
        assert await everything(stream.sock) == b""

    async def test_a_driver_that_hangs_up_is_noticed(self, run):
        stream = run(CAT)
        stream.sock.close()
        assert await stream.ended == 0

    async def test_a_lost_actor_is_told(self, run):
        stream = run(CAT)
        stream.kill()
        assert await stream.ended == -signal.SIGKILL
        assert stream.said == "The actor died because of a test."
        assert not stream.told_its_end
        assert await everything(stream.sock) == b""

    async def test_it_has_the_path_of_the_actor_but_not_that_of_ray(self, run, monkeypatch):
        monkeypatch.setattr(sys, "path", ["", "/site/ray/thirdparty_files", "/mine", *sys.path])
        monkeypatch.setenv("SECRET", "swordfish")
        monkeypatch.setenv("OMP_NUM_THREADS", "4")
        program = (
            "import os; print(os.environ['PYTHONPATH'].split(':')[0], 'SECRET' in os.environ, "
            "os.environ['OMP_NUM_THREADS'])"
        )
        assert await everything(run(program, threads=("4", "1")).sock) == b"/mine False 1\n"
        assert await everything(run(program, threads=("8", "1")).sock) == b"/mine False 4\n"


class FakeSession(FakeGroups):
    """All of Ray that a launcher uses."""

    connected_here = True

    def __init__(self, *view):
        super().__init__(*view)
        self.actors = []
        self.options = None
        self.closed = 0

    def open(self, address, options):
        self.options = options

    def close(self):
        self.closed += 1

    def start_actor(self, class_, bundle, group, options):
        self.actors.append(FakeActor(class_()))
        return self.actors[-1]

    def kill(self, actor):
        actor.kill()


@pytest.fixture
async def launcher(ray):
    made = []

    def make(*view, **options):
        launcher: Any = RayLauncher(**options)
        launcher._session = FakeSession(*view)
        made.append(launcher)
        return launcher

    yield make
    for launcher in made:
        await launcher.close()
        assert launcher._session.closed
        assert launcher._session.reserved == {}
        for actor in launcher._session.actors:
            actor.end()


class TestLauncher:
    async def test_hosts_have_names_and_addresses_of_their_own(self, launcher):
        here = launcher([node(1, 2), dataclasses.replace(node(2, 1), address="10.0.0.1")])
        hosts = await here.allocate([], 3, BOUND)
        assert [(h.host, h.label, h.containers, h.address) for h in hosts] == [
            ("10.0.0.1", "node-10.0.0.1", 2, "10.0.0.1"),
            ("10.0.0.1", "node-10.0.0.1-2", 1, "10.0.0.1"),
        ]
        await here.release(hosts[0])
        assert len(here._session.reserved) == 1

    async def test_what_the_user_says_about_a_host_is_kept(self, launcher):
        here = launcher([node(1, 2)])
        host = HostSpec("n1", name="a", env={"A": "1"}, address="example.org", bind="10.0.0.1")
        assert await here.allocate([host], 2, BOUND) == [dataclasses.replace(host, containers=2)]

    async def test_a_supervisor_answers_and_ends_with_its_stream(self, launcher):
        here = launcher([node(1, 2)])
        [host] = await here.allocate([], 2, BOUND)
        link = await here.launch(host, BOUND)
        assert link.facts["address"] == "10.0.0.1"
        assert link.facts["asked"] <= link.facts["clock"] <= link.facts["answered"]
        client = await streams.dial(link.sock, None, timeout=BOUND)
        assert "value" in await client.remote.loads()
        client.close()
        await client.channel.wait_closed()
        assert await link.ended == 0

    async def test_a_node_whose_supervisor_is_lost_is_avoided(self, launcher):
        here = launcher([node(1, 2), node(2, 2)])
        [host, other] = await here.allocate([], 2, BOUND)
        link = await here.launch(host, BOUND)
        link.kill()
        assert await link.ended == -signal.SIGKILL
        assert "because of a test" in link.said()
        link.sock.close()
        await here.release(host)
        await here.release(other)
        here._session.view = [[node(1, 2), node(2, 2)]]
        await here.allocate([], 2, BOUND)
        assert here._session.all[-2] == ("STRICT_SPREAD", [None], ["id1"])

    async def test_one_that_cannot_be_started_is_told(self, launcher):
        here = launcher([node(1, 2)], python="/no/such/python")
        [host] = await here.allocate([], 2, BOUND)
        with pytest.raises(
            ClusterError, match=r"node-10.0.0.1 \(node 10.0.0.1, n1\).*No such file"
        ):
            await here.launch(host, BOUND)

    async def test_one_that_says_nothing_is_told(self, launcher):
        here = launcher([node(1, 2)], python="/bin/false")
        [host] = await here.allocate([], 2, BOUND)
        with pytest.raises(ClusterError, match="No supervisor could be started on node-10"):
            await here.launch(host, BOUND)
        assert here._session.reserved == {}  # nobody could use it

    async def test_one_that_is_late_is_told(self, launcher, tmp_path):
        program = tmp_path / "python"
        program.write_text("#!/bin/sh\nexec sleep 60\n")
        program.chmod(0o700)
        here = launcher([node(1, 2)], python=str(program))
        [host] = await here.allocate([], 2, BOUND)
        with pytest.raises(ClusterError, match=r"No supervisor has answered on .* within 0.5 s"):
            await here.launch(host, SHORT)

    async def test_where_nothing_is_reserved_nothing_is_started(self, launcher):
        with pytest.raises(ClusterError, match="Nothing is reserved on Ray for n1"):
            await launcher([node(1, 2)]).launch(HostSpec("n1"), BOUND)

    async def test_the_search_ends_with_who_waits_for_it(self, launcher):
        here = launcher([node(1, 0, 2)])
        here._session.refused = 10**6
        waiting = asyncio.create_task(here.allocate([], 2, BOUND))
        await until(lambda: here._session.reserved)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await until(lambda: not here._session.reserved)

    async def test_what_is_short_is_told_in_time(self, launcher):
        here = launcher([node(1, 0, 2)])
        here._session.refused = 10**6
        async with asyncio.timeout(SHORT):
            with pytest.raises(ClusterError, match="CPU 0 of 2 free"):
                await here.allocate([], 2, SHORT)

    async def test_a_ray_that_does_not_answer_is_told(self, launcher):
        here = launcher([node(1, 2)])
        goes_on = threading.Event()
        here._session.open = lambda *_: goes_on.wait(BOUND)
        with pytest.raises(ClusterError, match="Ray at address='auto' has not answered"):
            await here.allocate([], 2, 0.1)
        goes_on.set()

    async def test_modules_come_along_by_the_connection(self, launcher):
        here = launcher([node(1, 2)], runtime_env={"working_dir": "w"}, init={"num_cpus": 4})
        await here.allocate([], 2, BOUND)
        assert here._session.options == {
            "log_to_driver": False,
            "logging_level": "ERROR",
            "namespace": None,
            "num_cpus": 4,
            "runtime_env": {"working_dir": "w"},
        }

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"strategy": "NEAR"}, "strategy must be one of STRICT_SPREAD"),
            ({"cpus_per_container": 0}, "cpus_per_container must be a positive number"),
            ({"cpus_per_container": float("nan")}, "cpus_per_container must be a positive number"),
            ({"resources": {"GPU": -1}}, r"resources\['GPU'\] must be a positive number"),
            ({"resources": {"CPU": 1}}, "that is cpus_per_container"),
            ({"containers_per_new_node": 0}, "containers_per_new_node must be"),
            ({"address": "ray://host:10001"}, "cannot be that of a Ray Client"),
        ],
    )
    def test_parameters_are_checked(self, options, message):
        with pytest.raises(ValueError, match=message):
            RayLauncher(**options)


class TestSession:
    @pytest.fixture
    def connections(self, ray):
        """What Ray is told, in which thread."""
        calls: list[Any] = []
        ray.is_initialized = lambda: bool(calls) and calls[-1][0] == "init"

        def note(name):
            def call(**options):
                calls.append((name, options, threading.get_ident()))

            return call

        ray.init, ray.shutdown = note("init"), note("shutdown")
        return calls

    def test_the_last_one_closes_what_the_first_one_has_opened(self, connections):
        first, second = ray_session.Session(), ray_session.Session()
        first.open("auto", {"namespace": "n"})
        second.open("auto", {})
        assert (first.connected_here, second.connected_here) == (True, False)
        first.close()
        first.close()
        [(_, options, opened)] = connections
        assert options == {"address": "auto", "namespace": "n"}
        second.close()
        name, _, closed = connections[-1]
        assert name == "shutdown"
        assert opened == closed != threading.get_ident()  # what it has started lives so long

    def test_what_the_user_has_opened_is_left_alone(self, connections, ray):
        ray.init()
        session = ray_session.Session()
        session.open("auto", {})
        session.close()
        assert [name for name, *_ in connections] == ["init"]

    def test_a_ray_client_is_refused(self, connections, ray):
        ray.init()
        ray.util.client.ray = types.SimpleNamespace(is_connected=lambda: True)
        with pytest.raises(ClusterError, match="ray job submit"):
            ray_session.Session().open("auto", {})

    def test_without_a_cluster_it_says_what_to_do(self, ray):
        def fail(**_):
            raise ConnectionError("Could not find any")

        ray.init = fail
        session = ray_session.Session()
        with pytest.raises(ClusterError, match=r"Could not find any.*ray start --head.*'local'"):
            session.open("auto", {})
        session.close()

    def test_without_ray_it_says_how_to_get_it(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "ray", None)
        with pytest.raises(ClusterError, match=r"pip install aiomas\[ray\]"):
            ray_session.Session().open("auto", {})


def test_ray_is_imported_only_when_it_is_used():
    program = (
        "import sys, aiomas.cluster, aiomas.cluster.launchers.ray; assert 'ray' not in sys.modules"
    )
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", program]) == 0
