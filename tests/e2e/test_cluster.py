"""Clusters of real processes: start, spawn, call, look, set the time, stop; nothing is left."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import arrow
import psutil
import pytest

from aiomas import codecs, util
from aiomas.cluster import (
    Cluster,
    ClusterError,
    ClusterEvent,
    ContainerDied,
    EventKind,
    PartialResult,
    RestartPolicy,
    SpawnError,
)
from aiomas.cluster.placement import RoundRobin
from aiomas.exceptions import RemoteException, SerializationError
from tests.ids import plain

AGENTS = """
import asyncio, os, random, sys
import aiomas
from aiomas.cluster import checkpoint
from aiomas.codecs import serializable


class Worker(aiomas.Agent):
    def __init__(self, container, *args, **kwargs):
        super().__init__(container)
        self.arguments = [list(args), kwargs]

    @aiomas.expose
    def get(self):
        return self.arguments

    @aiomas.expose
    def pid(self):
        return os.getpid()

    @aiomas.expose
    def where(self):
        return os.getcwd(), sys.path

    @aiomas.expose
    def loop(self):
        return type(self.container.loop).__module__

    @aiomas.expose
    def codec(self):
        return type(self.container._local.codec).__name__

    @aiomas.expose
    def time(self):
        clock = self.container.clock
        return clock.time(), clock.utcnow()

    @aiomas.expose
    async def ask(self, url):
        return await (await self.container.connect(url)).pid()

    @aiomas.expose
    async def hang(self):
        await asyncio.get_running_loop().create_future()

    @aiomas.expose
    async def wait_until(self, t):
        await self.container.clock.sleep_until(t)
        return self.container.clock.time()

    @aiomas.expose
    def echo(self, value):
        return value

    @aiomas.expose
    def random(self):
        return random.random()

    @aiomas.expose
    def variable(self, name):
        return os.environ.get(name)

    @aiomas.expose
    def write(self, text, times=1):
        for _ in range(times):
            print(text, flush=True)

    @aiomas.expose
    def leave(self, code):
        os._exit(code)

    @aiomas.expose
    def set_own_clock(self, t):
        self.container.clock.set_time(t)


class Keeper(Worker):
    def __init__(self, container, value=0):
        super().__init__(container)
        self.value = value

    @aiomas.expose
    async def add(self, number):
        self.value += number
        await checkpoint(self)
        return self.value

    def get_state(self):
        return self.value

    def set_state(self, value):
        self.value = value


class Asking(aiomas.Agent):
    def __init__(self, container, other, date):
        super().__init__(container)
        self.other = other
        self.date = date

    @aiomas.expose
    async def ask(self):
        return await self.other.pid(), self.date.year


class Failing(aiomas.Agent):
    def __init__(self, container, fail=True):
        super().__init__(container)
        if fail:
            raise ValueError("cannot be made")


class Dying(aiomas.Agent):
    def __init__(self, container):
        os._exit(3)


async def create(container, *args):
    await asyncio.sleep(0)
    return Worker(container, "created", *args)


def nothing(container):
    return None


@serializable
class Point:
    def __init__(self, x, y):
        self.x = x
        self.y = y


def broken_serializer():
    raise LookupError("this serializer is broken")


class OtherCodec(aiomas.codecs.JSON):
    pass


class BrokenCodec(aiomas.codecs.JSON):
    def __init__(self):
        if os.getpid() != int(os.environ["DRIVER"]):
            raise LookupError("this codec is broken")
        super().__init__()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder on `sys.path` with a module of agents, `cluster_agents`."""
    folder = tmp_path_factory.mktemp("agents")
    (folder / "cluster_agents.py").write_text(AGENTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv("DRIVER", str(os.getpid()))
        yield folder
        sys.modules.pop("cluster_agents", None)


@pytest.fixture
def agents(folder):
    return importlib.import_module("cluster_agents")


def directories() -> set[str]:
    return {path.name for path in Path(tempfile.gettempdir()).iterdir()}


def assert_all_gone(cluster: Cluster) -> None:
    assert [info.pid for info in cluster.containers if psutil.pid_exists(info.pid)] == []
    assert all(info.state in {"stopped", "died"} for info in cluster.containers if info.pid)


async def until(condition, timeout=10):
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110 - of what happens elsewhere there is no event
            await asyncio.sleep(0.005)


class TestLife:
    @pytest.mark.parametrize("transport", ["unix", "tcp"])
    async def test_it_starts_agents_call_each_other_and_all_is_gone_at_the_end(
        self, folder, transport
    ):
        before = directories()
        async with Cluster(2, transport=transport) as cluster:
            (new,) = directories() - before
            assert (Path(tempfile.gettempdir()) / new).stat().st_mode & 0o777 == 0o700
            assert [info.state for info in cluster.containers] == ["running"] * 2
            assert [info.index for info in cluster.containers] == [0, 1]
            scheme = {"unix": "ipc://[", "tcp": "tcp://127.0.0.1:"}[transport]
            urls = [info.url for info in cluster.containers] + [cluster.container.base_url]
            assert all(url.startswith(scheme) and url.endswith("/") for url in urls)

            one, other = [await cluster.spawn("cluster_agents:Worker") for _ in range(2)]
            pids = [info.pid for info in cluster.containers]
            assert [await one.pid(), await other.pid()] == pids
            assert os.getpid() not in pids
            assert await one.ask(other._url) == pids[1]
            assert repr(one) == f"WorkerProxy('{cluster.containers[0].url}0')"
        assert_all_gone(cluster)
        assert [info.exit_code for info in cluster.containers] == [0, 0]
        assert directories() == before

    async def test_it_can_be_started_again_and_beside_another(self, folder):
        async with Cluster(1) as one, Cluster(1) as other:
            agents = [await c.spawn("cluster_agents:Worker") for c in (one, other)]
            assert len({await agent.pid() for agent in agents}) == 2

    async def test_an_error_in_the_block_stops_it_too(self, folder):
        with pytest.raises(LookupError, match="of the user"):
            async with Cluster(1) as cluster:
                raise LookupError("of the user")
        assert_all_gone(cluster)

    async def test_a_cancelled_start_leaves_nothing(self, folder):
        cluster = Cluster(2)
        starting = asyncio.create_task(cluster.__aenter__())
        await until(lambda: any(info.pid for info in cluster.containers))
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert_all_gone(cluster)

    async def test_a_start_that_takes_too_long_says_which_containers(self, folder):
        cluster = Cluster(2, start_timeout=0.01)
        with pytest.raises(
            TimeoutError, match=r"Containers .* were not ready within start_timeout"
        ):
            async with cluster:
                pass
        assert_all_gone(cluster)

    async def test_workers_get_the_path_and_the_directory_of_the_driver(
        self, folder, tmp_path, monkeypatch
    ):
        monkeypatch.chdir(tmp_path)
        async with Cluster(1) as cluster:
            agent = await cluster.spawn("cluster_agents:Worker")
            cwd, path = await agent.where()
            assert cwd == str(tmp_path)
            assert list(path) == sys.path

    @pytest.mark.parametrize("loop", ["asyncio", "uvloop", "auto"])
    async def test_the_loop_is_chosen(self, folder, loop):
        async with Cluster(1, loop=loop) as cluster:
            agent = await cluster.spawn("cluster_agents:Worker")
            name = await agent.loop()
            assert name == ("uvloop" if loop != "asyncio" else "asyncio.unix_events")

    async def test_the_codec_and_serializers_are_chosen(self, agents):
        options = {"codec": agents.OtherCodec, "extra_serializers": [agents.Point.__serializer__]}
        with pytest.raises(ValueError, match=r"cannot be imported|<locals>|top level"):
            Cluster(1, **options)
        options["extra_serializers"] = ["cluster_agents:Point.__serializer__"]
        async with Cluster(1, **options) as cluster:
            agent = await cluster.spawn(agents.Worker, agents.Point(1, 2))
            assert await agent.codec() == "OtherCodec"
            assert repr(await agent.echo(agents.Point(3, 4))) == "Point(x=3, y=4)"
            assert repr(await agent.get()) == "[[Point(x=1, y=2)], {}]"
        async with Cluster(1, codec="json", extra_serializers=[codecs.uuid_serializer]) as cluster:
            assert await (await cluster.spawn(agents.Worker)).codec() == "JSON"


class TestBadParameters:
    @pytest.mark.parametrize(
        ("parameters", "message"),
        [
            ({"containers": 0}, "containers must be"),
            ({"containers": "x"}, "containers must be"),
            ({"transport": "udp"}, "transport must be one of"),
            ({"codec": "pickle"}, "codec must be one of"),
            ({"codec": int}, "codec must be one of"),
            ({"loop": "trio"}, "loop must be one of"),
            ({"extra_serializers": [lambda: None]}, "top level of a module"),
            ({"clock": "nonsense"}, "clock"),
        ],
        ids=plain,
    )
    def test_each_is_refused_with_its_name_before_anything_starts(self, parameters, message):
        with pytest.raises(ValueError, match=message):
            Cluster(**{"containers": 1} | parameters)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"extra_serializers": ["cluster_agents:broken_serializer"]}, "serializer is broken"),
            ({"extra_serializers": ["no_such_module:x"]}, "no_such_module"),
            ({"extra_serializers": ["cluster_agents:nobody"]}, "nobody"),
        ],
        ids=plain,
    )
    async def test_what_fails_at_the_start_takes_all_down(self, folder, options, message):
        cluster = Cluster(2, **options)
        with pytest.raises((LookupError, ImportError, AttributeError), match=message):
            async with cluster:
                pass
        assert_all_gone(cluster)

    async def test_what_fails_in_a_container_alone_takes_all_down_and_says_where(self, agents):
        cluster = Cluster(2, codec=agents.BrokenCodec)
        with pytest.raises(ClusterError, match=r"Container \d \(pid \d+\)(.|\n)*codec is broken"):
            async with cluster:
                pass
        assert_all_gone(cluster)


class TestSpawn:
    async def test_classes_functions_names_and_files(self, agents, folder):
        async with Cluster(1) as cluster:
            targets = {
                agents.Worker: [],
                "cluster_agents:Worker": [],
                f"{folder}/cluster_agents.py:Worker": [],
                agents.create: ["created"],
                "cluster_agents:create": ["created"],
            }
            for target, expected in targets.items():
                args, kwargs = await (await cluster.spawn(target, 1)).get()
                assert (list(args), kwargs) == ([*expected, 1], {})
            agent = await cluster.spawn(agents.Worker, key="value")
            assert (await agent.get())[1] == {"key": "value"}
            assert cluster.containers[0].agents == len(targets) + 1

    async def test_many_with_a_number_tuples_or_dictionaries(self, folder):
        async with Cluster(3) as cluster:
            agents = await cluster.spawn_many("cluster_agents:Worker", 2500)
            assert [info.agents for info in cluster.containers] == [834, 833, 833]
            pids = [info.pid for info in cluster.containers]
            found = await asyncio.gather(*(agent.pid() for agent in agents))
            assert found == [pids[n % 3] for n in range(2500)]

            arguments: list[Any] = [(1, 2), [3], {"x": 4}, (), {}]
            agents = await cluster.spawn_many("cluster_agents:Worker", iter(arguments))
            results = [await agent.get() for agent in agents]
            assert [(list(args), kwargs) for args, kwargs in results] == [
                ([1, 2], {}),
                ([3], {}),
                ([], {"x": 4}),
                ([], {}),
                ([], {}),
            ]
            assert await cluster.spawn_many("cluster_agents:Worker", 0) == []
            wrong: list[Any] = ["text"]
            with pytest.raises(TypeError, match="a tuple, list or dictionary for each"):
                await cluster.spawn_many("cluster_agents:Worker", wrong)

    async def test_many_with_large_arguments(self, folder):
        async with Cluster(1) as cluster:
            size = 300_000
            many = [("x" * size, n) for n in range(60)]
            agents = await cluster.spawn_many("cluster_agents:Worker", many)
            for n, agent in enumerate(agents):
                args, _ = await agent.get()
                assert (len(args[0]), args[1]) == (size, n)

    async def test_placement(self, folder):
        async with Cluster(3) as cluster:
            pids = [info.pid for info in cluster.containers]

            async def places(placement, count=4):
                agents = await cluster.spawn_many(
                    "cluster_agents:Worker", count, placement=placement
                )
                return [pids.index(await agent.pid()) for agent in agents]

            assert await places("round-robin") == [0, 1, 2, 0]
            assert await places("round-robin") == [1, 2, 0, 1]
            assert await places(2) == [2] * 4
            assert await places(RoundRobin()) == [0, 1, 2, 0]
            assert [info.agents for info in cluster.containers] == [5, 4, 7]
            assert await places(2, count=30) == [2] * 30
            # However much of its core a process uses, it counts at most as twice its agents.
            assert 2 not in await places("least-loaded")
            beside = await cluster.spawn("cluster_agents:Worker", placement=1)
            assert await places(beside) == [1] * 4
            assert await places(lambda containers: len(containers) - 1) == [2] * 4
            agent = await cluster.spawn("cluster_agents:Worker", placement=1)
            assert await agent.pid() == pids[1]
            stranger = cluster.container.proxy("tcp://127.0.0.1:1/0")
            for bad, message in (
                (7, "no running container"),
                ("nowhere", "placement must be"),
                (stranger, "no agent of this cluster"),
            ):
                with pytest.raises(ValueError, match=message):
                    await cluster.spawn("cluster_agents:Worker", placement=bad)

    async def test_named_agents_are_found(self, folder):
        async with Cluster(1) as cluster:
            agent = await cluster.spawn("cluster_agents:Worker", name="market")
            assert cluster.find("market") is agent
            with pytest.raises(LookupError, match=r"'nobody'; there are: \['market'\]"):
                cluster.find("nobody")
            with pytest.raises(ValueError, match="'market' already"):
                await cluster.spawn("cluster_agents:Worker", name="market")
            with pytest.raises(SpawnError):
                await cluster.spawn("cluster_agents:Failing", name="failing")
            await cluster.spawn("cluster_agents:Worker", name="failing")
            results = await asyncio.gather(
                *(cluster.spawn("cluster_agents:Worker", name="at once") for _ in range(3)),
                return_exceptions=True,
            )
            assert sorted(type(result).__name__ for result in results) == [
                "AgentProxy",
                "ValueError",
                "ValueError",
            ]
            assert cluster.containers[0].agents == 3

    async def test_an_agent_that_cannot_be_made(self, folder):
        async with Cluster(2) as cluster:
            arguments = [{"fail": n in {4, 9}} for n in range(12)]
            with pytest.raises(SpawnError) as caught:
                await cluster.spawn_many("cluster_agents:Failing", arguments)
            message = str(caught.value)
            assert "number 4 (cluster_agents:Failing)" in message or "number 9" in message
            assert "container" in message
            assert "pid" in message
            assert "ValueError: cannot be made" in message
            assert "Traceback" in message
            # Those before it in its own container, and in the other one, exist.
            assert len(caught.value.spawned) == 2 + 4
            assert all("FailingProxy" in repr(proxy) for proxy in caught.value.spawned)
            assert await (await cluster.spawn("cluster_agents:Worker")).pid()

    @pytest.mark.parametrize(
        ("target", "message"),
        [
            ("cluster_agents:nothing", "returned None, which is no agent"),
            ("cluster_agents:nobody", "nobody"),
            ("no_such_module:Worker", "no_such_module"),
            ("/no/such/file.py:Worker", "no Python file"),
            ("nonsense", "nonsense"),
        ],
    )
    async def test_a_target_that_is_none(self, folder, target, message):
        async with Cluster(1) as cluster:
            with pytest.raises(SpawnError, match=message) as caught:
                await cluster.spawn(target)
            assert caught.value.spawned == []

    async def test_a_target_or_argument_that_cannot_travel(self, agents):
        local = type("Local", (agents.Worker,), {"__qualname__": "function.<locals>.Local"})
        async with Cluster(1) as cluster:
            with pytest.raises(ValueError, match="top level of a module"):
                await cluster.spawn(local)
            with pytest.raises(SerializationError, match="object"):
                await cluster.spawn(agents.Worker, object())
            assert cluster.containers[0].agents == 0


class TestTimeAndStatus:
    async def test_all_clocks_are_set(self, folder):
        async with Cluster(2, clock="2020-01-01T00:00:00", extra_serializers=[]) as cluster:
            agents = await cluster.spawn_many("cluster_agents:Worker", 4)
            waiting = [agent.wait_until(3600) for agent in agents]
            assert [(await agent.time())[0] for agent in agents] == [0] * 4
            await cluster.set_time(3600)
            assert await asyncio.gather(*waiting) == [3600] * 4
            for agent in agents:
                now, date = await agent.time()
                assert now == 3600
                assert date.isoformat() == "2020-01-01T01:00:00+00:00"
            assert cluster.container.clock.time() == 3600
            with pytest.raises(ValueError, match="forward"):
                await cluster.set_time(3600)

    async def test_real_time_cannot_be_set(self, folder):
        async with Cluster(1) as cluster:
            with pytest.raises(ValueError, match=r"real time.*clock="):
                await cluster.set_time(5)

    async def test_status(self, folder):
        async with Cluster(2, restart=RestartPolicy(mode="temporary")) as cluster:
            await cluster.spawn_many("cluster_agents:Worker", 3)
            statuses = await cluster.status()
            assert isinstance(statuses, list)
            for info, status in zip(cluster.containers, statuses, strict=True):
                assert status["index"] == info.index
                assert status["pid"] == info.pid
                assert status["url"] == info.url
                assert status["state"] == "running"
                assert status["agents"] == info.agents == (2 if info.index == 0 else 1)
                assert 0 <= status["cpu"] < 60  # in steps of 10 ms
                assert status["rss"] > 1_000_000
            psutil.Process(cluster.containers[0].pid).kill()
            await until(lambda: cluster.containers[0].state == "failed")
            dead, alive = await cluster.status()
            assert (dead["state"], dead["exit_code"]) == ("failed", -signal.SIGKILL)
            assert "rss" not in dead
            assert alive["state"] == "running"

    async def test_the_loss_of_the_fork_server_is_told_once(self):
        told: list[ClusterEvent] = []

        def lost():
            return [event for event in told if event.kind is EventKind.LOST]

        async with Cluster(1, loop="asyncio") as cluster:
            cluster.on_event(told.append)
            [server] = psutil.Process().children()[0].children()
            server.kill()
            await until(lambda: cluster.containers[0].state == "died")
            for _ in range(2):
                with pytest.raises(ClusterError, match=r"The fork server .*SIGKILL"):
                    await cluster.status()
                await until(lost)
            with pytest.raises(ClusterError, match=r"not run any more: The fork server .*SIGKILL"):
                cluster.find("somebody")
        with pytest.raises(ClusterError, match=r"not run any more: The fork server .*SIGKILL"):
            await cluster.spawn("cluster_agents:Worker")
        assert ["fork server" in event.message for event in lost()] == [True]

    async def test_one_that_does_not_answer_is_said_to(self, folder):
        async with Cluster(2) as cluster:
            stuck = psutil.Process(cluster.containers[0].pid)
            stuck.suspend()
            try:
                first, second = await cluster.status(timeout=0.2)
            finally:
                stuck.resume()
            assert (first["state"], second["state"]) == ("hung", "running")
            assert first["rss"] > 1_000_000

    async def test_a_number_of_agents_is_not_negative(self, folder):
        async with Cluster(1) as cluster:
            with pytest.raises(ValueError, match="cannot be negative"):
                await cluster.spawn_many("cluster_agents:Worker", -1)

    async def test_an_error_of_a_container_is_raised_with_its_number(self, folder):
        async with Cluster(1, clock="2020-01-01") as cluster:
            agent = await cluster.spawn("cluster_agents:Worker")
            await agent.set_own_clock(10)
            with pytest.raises(ClusterError, match=r"(?s)Container 0 .*forward"):
                await cluster.set_time(5)

    async def test_of_several_that_fail_each_is_named(self, folder):
        async with Cluster(3, loop="asyncio", clock="2020-01-01") as cluster:
            agents = [await cluster.spawn("cluster_agents:Worker", placement=n) for n in range(3)]
            for agent in agents[:2]:
                await agent.set_own_clock(10)
            with pytest.raises(ClusterError, match=r"(?s)Container 0 .*forward") as caught:
                await cluster.set_time(5)
            [note] = caught.value.__notes__
            assert note.startswith("And ClusterError: Container 1 ")
            assert [(await agent.time())[0] for agent in agents] == [10, 10, 5]
            await cluster.set_time(11)
            assert [(await agent.time())[0] for agent in agents] == [11, 11, 11]


class TestWhatComesBack:
    async def test_agents_come_back_with_their_ids_and_states_and_events_tell_of_it(self, folder):
        heard: list[EventKind] = []
        policy = RestartPolicy(backoff=0.01)
        async with Cluster(2, loop="asyncio", restart=policy) as cluster:
            remove = cluster.on_event(lambda event: heard.append(event.kind))
            events = cluster.events()
            keeper = await cluster.spawn("cluster_agents:Keeper", 5, name="keeper", respawn=True)
            other = await cluster.spawn("cluster_agents:Worker", name="other", placement=0)
            assert await keeper.add(2) == 7
            assert [info.agents for info in cluster.containers] == [2, 0]
            before = cluster.containers[0].pid
            with pytest.raises(ConnectionError):
                await other.leave(3)
            kinds = []
            async with asyncio.timeout(20):
                async for event in events:
                    kinds.append(event.kind)
                    if event.kind is EventKind.DIED:
                        assert isinstance(event.error, ContainerDied)
                        assert (event.index, event.pid, event.error.exit_code) == (0, before, 3)
                    if event.kind is EventKind.RESTARTED:
                        break
            assert kinds == heard == [EventKind.DIED, EventKind.RESTARTING, EventKind.RESTARTED]
            info = cluster.containers[0]
            assert (info.state, info.restarts, info.agents) == ("running", 1, 1)
            assert cluster.find("keeper") is keeper
            assert await keeper.add(1) == 8
            assert await keeper.pid() == info.pid != before
            with pytest.raises(LookupError, match="'other' any more: its container ended"):
                cluster.find("other")
            with pytest.raises((RemoteException, ConnectionError)):
                await other.pid()
            remove()
        assert [event async for event in events] == []

    async def test_one_that_is_not_restarted_refuses_and_is_not_used(self, folder):
        policy = RestartPolicy(mode="temporary")
        async with Cluster(2, loop="asyncio", restart=policy) as cluster:
            agent = await cluster.spawn("cluster_agents:Worker", name="a", respawn=True)
            with pytest.raises(ConnectionError):
                await agent.leave(0)
            await until(lambda: cluster.containers[0].state == "failed")
            with pytest.raises(LookupError, match="its container ended"):
                cluster.find("a")
            again = await cluster.spawn("cluster_agents:Worker", name="a")
            assert cluster.find("a") is again
            others = await cluster.spawn_many("cluster_agents:Worker", 3)
            assert {await other.pid() for other in others} == {cluster.containers[1].pid}
            with pytest.raises(ValueError, match="no running container"):
                await cluster.spawn("cluster_agents:Worker", placement=0)
            with pytest.raises(ConnectionError):
                await agent.pid()
            with pytest.raises(PartialResult):
                await cluster.map("pid", [*others, agent])


class TestSurroundings:
    async def test_name_directory_variables_logs_and_ports(self, folder, tmp_path, capfd):
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
        logs = tmp_path / "logs" / "surroundings"
        async with Cluster(
            1,
            loop="asyncio",
            transport="tcp",
            port=port,
            name="surroundings",
            env={"AIOMAS_TEST_VARIABLE": "x y"},
            logs=True,
            log_dir=logs.parent,
            log_bytes=10_000,
            log_backups=1,
        ) as cluster:
            assert repr(cluster) == "<Cluster 'surroundings' of 1 containers, 1 running>"
            assert cluster.name == "surroundings"
            assert cluster.directory is not None
            assert cluster.directory.name == "surroundings"
            assert cluster.directory.stat().st_mode & 0o777 == 0o700
            assert cluster.containers[0].url == f"tcp://127.0.0.1:{port}/"
            agent = await cluster.spawn("cluster_agents:Worker")
            assert await agent.variable("AIOMAS_TEST_VARIABLE") == "x y"
            await agent.write("x" * 999, 15)
            await agent.write("the last line")
            with pytest.raises(ClusterError, match="surroundings"):
                async with Cluster(1, name="surroundings"):
                    pass
        over = "over: its 'async with' block has ended"
        assert repr(cluster) == f"<Cluster 'surroundings' of 1 containers, {over}>"
        assert repr(Cluster(2)) == "<Cluster of 2 containers, not started>"
        assert not cluster.directory.exists()
        assert sorted(path.name for path in logs.iterdir()) == ["0.log", "0.log.1"]
        text = "".join((logs / name).read_text() for name in ("0.log.1", "0.log"))
        assert text.endswith("x\nthe last line\n")
        errors = capfd.readouterr().err.splitlines()
        assert errors.count("[0] " + "x" * 999) == 15
        assert errors[-1] == "[0] the last line"

    async def test_random_numbers_follow_from_the_seed(self, folder):
        numbers = []
        for seed in ("a", "a", "b"):
            async with Cluster(2, loop="asyncio", seed=seed) as cluster:
                agents = await cluster.spawn_many("cluster_agents:Worker", 2)
                numbers.append(await cluster.map("random", agents))
        assert numbers[0] == numbers[1]
        assert len({number for pair in numbers for number in pair}) == 4

    async def test_progress_is_shown_on_terminals_only(self, folder, capfd):
        async with Cluster(1, loop="asyncio", progress=True) as cluster:
            await cluster.spawn_many("cluster_agents:Worker", 3)
        assert capfd.readouterr() == ("", "")


class TestMany:
    async def test_calls_of_many_and_what_they_may_be_given(self, agents):
        async with Cluster(2, loop="asyncio", name=None) as cluster:
            own = agents.Worker(cluster.container)
            workers = await cluster.spawn_many("cluster_agents:Worker", 10)
            pids = await cluster.map("pid", workers)
            assert pids == [info.pid for info in cluster.containers] * 5
            echoes = await cluster.starmap("echo", [(w, n) for n, w in enumerate(workers)])
            assert echoes == list(range(10))
            date = arrow.get("2021-01-01")
            asking = await cluster.spawn(agents.Asking, own, date, placement="localhost")
            assert list(await asking.ask()) == [os.getpid(), 2021]
            asking = await cluster.spawn(agents.Asking, workers[1], date, placement=workers[0])
            assert list(await asking.ask()) == [cluster.containers[1].pid, 2021]
            status = (await cluster.status())[0]
            assert {"cpu", "rss", "uptime", "calls_in", "calls_out", "errors"} <= status.keys()
            assert {"bytes_in", "bytes_out", "restarts", "exit_code", "host"} <= status.keys()
            assert status["calls_in"] >= 5
            assert status["bytes_in"] > 0


SCRIPT = """
import asyncio, os, sys
import aiomas
from aiomas.cluster import Cluster

assert "imported twice" not in os.environ or __name__ != "__main__"

class Worker(aiomas.Agent):
    @aiomas.expose
    def pid(self):
        return os.getpid()

async def main():
    async with Cluster(2) as cluster:
        agents = await cluster.spawn_many(Worker, 4)
        pids = {await agent.pid() for agent in agents}
        assert pids == {info.pid for info in cluster.containers}, pids
        assert os.getpid() not in pids
    print("done")

if __name__ == "__main__":
    asyncio.run(main())
"""


class TestMain:
    @pytest.mark.parametrize("way", ["script", "module", "relative"])
    def test_a_class_in_the_main_program(self, tmp_path, way):
        package = tmp_path / "package"
        package.mkdir()
        (package / "program.py").write_text(SCRIPT)
        command = {
            "script": [str(package / "program.py")],
            "module": ["-m", "package.program"],
            "relative": ["package/program.py"],
        }[way]
        ran = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "done\n", "")

    def test_a_class_typed_into_the_interpreter_is_refused(self):
        code = textwrap.dedent("""
            import asyncio
            import aiomas
            from aiomas.cluster import Cluster

            class Worker(aiomas.Agent):
                pass

            async def main():
                async with Cluster(1) as cluster:
                    await cluster.spawn(Worker)

            asyncio.run(main())
        """)
        ran = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
        )
        assert ran.returncode == 1
        assert "ValueError" in ran.stderr
        assert "write it into a module" in ran.stderr


async def test_a_call_to_an_agent_that_is_not_there(folder):
    async with Cluster(1) as cluster:
        with pytest.raises(RemoteException, match="LookupError"):
            await cluster.container.proxy(cluster.containers[0].url + "99").pid()
        assert util.current_loop().is_running()
        assert issubclass(ContainerDied, ConnectionError)
