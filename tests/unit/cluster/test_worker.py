"""What a container process does for its supervisor: make agents, keep states, tell, and end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import aiomas
from aiomas import rpc
from aiomas.cluster import fencing, state, streams, worker
from aiomas.cluster.container import ClusterContainer
from aiomas.cluster.worker import Worker
from aiomas.codecs import MsgPack
from aiomas.exceptions import ConnectionLost, HandshakeError, RemoteException, SerializationError
from aiomas.tls import SSLCerts
from tests.unit.cluster.fakes import BOUND, until

HERE = __name__
SHORT = 0.05  # seconds
FIELDS: dict[str, Any] = {
    "codec": "aiomas.codecs:MsgPack",
    "extra_serializers": (),
    "clock": None,
    "time": 0,
    "token": "secret",
    "tls": False,
    "limits": {},
    "urls": [],
    "life": 0,
    "awaited": [],
    "chosen": [],
}


class Plant(aiomas.Agent):
    def __init__(self, container, value=0):
        super().__init__(container)
        if value == "bad":
            raise LookupError("a bad value")
        self.value = value

    def get_state(self):
        return self.value

    def set_state(self, value):
        if value == "bad":
            raise LookupError("a bad state")
        self.value = value


class Plain(aiomas.Agent):
    pass


class Slow(Plant):
    """Counts, but not at once; what it has counted is gone when it has ended."""

    def __init__(self, container, value=0):
        super().__init__(container, value)
        self.asked, self.goes_on = asyncio.Event(), asyncio.Event()

    @aiomas.expose
    async def add(self):
        self.asked.set()
        await self.goes_on.wait()
        self.value += 1
        return self.value

    async def on_stop(self):
        self.value = "ended"


class Last(Plant):
    async def on_stop(self):
        await self.stop()


class Stuck(Plant):
    async def get_state(self):
        await asyncio.Event().wait()


async def wait(container, value):
    agent = Plant(container, value)
    if value == "wait":
        await asyncio.get_running_loop().create_future()
    return agent


def named(container, aid):
    return Plain(container, aid=aid)


async def grow(container, value):
    await asyncio.sleep(0)
    return Plant(container, value)


def nothing(container):
    return None


def leave(container):
    raise SystemExit(3)


class Supervisor:
    router = rpc.Service()

    def __init__(self):
        self.saved = {}
        self.forgotten = []

    @rpc.expose
    def save(self, aid, data):
        self.saved[aid] = data

    @rpc.expose
    def forget(self, aid):
        self.forgotten.append(aid)


class World:
    """A worker in this process, and its supervisor."""

    def __init__(self, path):
        self.path = path
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.bind(path)
        self.listening.listen()
        self.worker = Worker(self.listening)
        self.service = Supervisor()

    async def connect(self):
        ours, theirs = socket.socketpair()
        self.task = asyncio.create_task(self.worker.run(theirs))
        self.client = await streams.dial(ours, self.service, timeout=BOUND)

    async def start(self, **fields):
        return await self.call("start", FIELDS | {"addr": self.path} | fields)

    async def call(self, method, *args):
        return await getattr(self.client.remote, method)(*args)

    async def spawn(self, target, *calls):
        encoded = MsgPack().encode([[list(args), {}] for args in calls])
        return await self.call("spawn", f"{HERE}:{target}", encoded)

    @property
    def agents(self):
        return self.worker.container.agents.dict

    async def close(self):
        self.client.close()
        async with asyncio.timeout(BOUND):
            await self.task
        self.listening.close()


@pytest.fixture
async def world(unix_path, monkeypatch):
    monkeypatch.setattr(state, "_keepers", [])
    monkeypatch.setitem(sys.modules, HERE, sys.modules[HERE])
    world = World(unix_path)
    await world.connect()
    yield world
    await world.close()


@pytest.fixture
async def started(world):
    world.url = await world.start()
    return world


@pytest.fixture
async def other(unix_path):
    async with ClusterContainer.open(
        unix_path + "other", codec=aiomas.MsgPack, token="secret"
    ) as other:
        yield other


class TestStart:
    async def test_its_container_is_reached_where_it_listens(self, started):
        assert started.url == f"ipc://[{started.path}]/"
        async with aiomas.Container.open(
            (str(Path(started.path).with_name("other"))), codec=aiomas.MsgPack, token="secret"
        ) as other:
            await started.spawn("Plain", [])
            assert await other.connect(started.url + "0")

    async def test_its_clock_begins_when_it_is_told(self, world):
        await world.start(clock="2020-01-01T00:00:00", time=60)
        clock = world.worker.container.clock
        assert (clock.time(), clock.utcnow().isoformat()) == (60, "2020-01-01T00:01:00+00:00")
        await world.call("set_time", 100)
        await world.call("set_time", 100)  # what it has already is no error
        assert clock.time() == 100
        with pytest.raises(RemoteException, match="forward"):
            await world.call("set_time", 99)

    async def test_what_cannot_be_loaded_is_an_error(self, world):
        with pytest.raises(RemoteException, match="no_such_module"):
            await world.start(codec="no_such_module:Codec")

    def test_certificates_are_loaded_once_for_all(self, monkeypatch):
        monkeypatch.setattr(worker, "_contexts", [])
        monkeypatch.setattr(worker, "make_ssl_server_context", lambda *paths: ("server", paths))
        monkeypatch.setattr(worker, "make_ssl_client_context", lambda *paths: ("client", paths))
        paths = tuple(SSLCerts("ca", "cert", "key"))
        worker.load_tls(paths)
        expected: Any = [("server", paths), ("client", paths)]
        assert worker._contexts == expected

    async def test_it_answers_before_it_has_a_container(self, world):
        await world.call("ping")
        await world.call("stop", BOUND)


class TestGenerations:
    async def test_it_begins_with_the_one_that_it_is_told(self, world, other):
        url = await world.start(generation=2)
        with pytest.raises(HandshakeError, match="is fenced"):
            await other.ping(url)
        other.set_generation(accept=2, known=2, use=2)
        await other.ping(url)
        await world.worker.container.ping(other.base_url)

    async def test_it_begins_with_what_is_lost(self, world, other):
        await world.start(generation=1, accept=0, known=1, lost=[other.base_url])
        with pytest.raises(ConnectionLost, match="was lost"):
            await world.worker.container.ping(other.base_url)

    async def test_it_is_told_of_others(self, started, other):
        other.set_generation(accept=1, known=1, use=1)
        await started.call("set_generation", 0, 1, 1, [other.base_url], [])
        with pytest.raises(ConnectionLost, match="was lost"):
            await started.worker.container.ping(other.base_url)
        await started.call("set_generation", 1, 1, 1, [], [other.base_url])
        await started.worker.container.ping(other.base_url)
        await other.ping(started.url)

    async def test_it_ends_if_others_know_of_a_newer_one(self, started, other, monkeypatch):
        codes: list[int] = []
        monkeypatch.setattr(fencing, "OUTDATED_GRACE", 0.05)
        monkeypatch.setattr(fencing, "END_TIMEOUT", BOUND)
        monkeypatch.setattr(os, "_exit", codes.append)
        other.set_generation(accept=1, known=1, use=1)
        with pytest.raises(HandshakeError, match="older generation"):
            await other.ping(started.url)
        await until(lambda: codes)
        [timer] = [
            thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)
        ]
        timer.cancel()
        timer.join(BOUND)
        assert codes == [fencing.FENCED]
        with pytest.raises(ConnectionError):  # it had shut down before
            await started.worker.container.connect(started.url + "0", timeout=0)

    async def test_it_ends_no_more_when_it_is_ending_anyway(self, started, other, monkeypatch):
        monkeypatch.setattr(os, "_exit", pytest.fail)
        other.set_generation(accept=1, known=1, use=1)
        with pytest.raises(HandshakeError, match="older generation"):
            await other.ping(started.url)
        thread = started.worker._fence._thread
        started.client.close()
        await started.task
        thread.join(BOUND)
        assert not thread.is_alive()


class TestAddress:
    async def test_others_may_reach_it_by_another_one_than_it_listens_on(self, monkeypatch):
        monkeypatch.setattr(state, "_keepers", [])
        with socket.create_server(("0.0.0.0", 0)) as listening:
            port = listening.getsockname()[1]
            container = Worker(listening)
            fields = FIELDS | {"addr": ("127.0.0.1", port), "advertise": "localhost"}
            url = await container.start(fields | {"generation": 1})
            assert url == f"tcp://localhost:{port}/"
            async with ClusterContainer.open(
                ("127.0.0.1", 0), codec=aiomas.MsgPack, token="secret"
            ) as other:
                other.set_generation(accept=1, known=1, use=1)
                await other.ping(url)
                with pytest.raises(HandshakeError, match=f"dial it by its URL {url}"):
                    await other.ping(f"tcp://127.0.0.1:{port}/")
            await container.stop(BOUND)


class TestAgents:
    async def test_they_are_made_one_after_the_other(self, started):
        made, failure = await started.spawn("Plant", [1], [2])
        assert [list(agent[:2]) for agent in made] == [
            [started.url + "0", "Plant"],
            [started.url + "1", "Plant"],
        ]
        assert [list(agent[2]) for agent in made] == [["0"], ["1"]]
        assert failure is None
        assert [agent.value for agent in started.agents.values()] == [1, 2]

    async def test_a_function_may_make_them(self, started):
        [[_, name, _]], failure = await started.spawn("grow", [5])
        assert (name, failure) == ("Plant", None)

    async def test_the_first_failure_is_the_last(self, started):
        made, failure = await started.spawn("Plant", [1], ["bad"], [3])
        assert len(made) == 1
        assert failure.endswith("LookupError: a bad value\n")
        assert [agent.value for agent in started.agents.values()] == [1]

    @pytest.mark.parametrize(
        ("target", "message"),
        [
            ("nothing", "nothing returned None, which is no agent"),
            ("nobody", "nobody"),
            ("leave", "SystemExit: 3"),
        ],
    )
    async def test_what_makes_none_is_a_failure(self, started, target, message):
        made, failure = await started.spawn(target, [])
        assert list(made) == []
        assert message in failure

    async def test_the_end_of_one_is_told(self, started):
        await started.spawn("Plant", [1])
        await started.agents["0"].stop()
        await until(lambda: started.service.forgotten == ["0"])

    async def test_how_many_there_are_and_what_was_done_is_known(self, started):
        await started.spawn("Plant", [1], [2])
        status = await started.call("status")
        assert status == {
            "agents": 2,
            "calls_in": 0,
            "calls_out": 0,
            "errors": 0,
            "bytes_in": 0,
            "bytes_out": 0,
        }


class TestStates:
    async def test_they_are_had_from_all_that_can_give_them(self, started):
        await started.spawn("Plant", [1])
        await started.spawn("Plain", [])
        assert await started.call("checkpoint") == ((), None)
        assert started.service.saved == {"0": MsgPack().encode(1)}

    async def test_many_are_had_a_few_at_a_time(self, started, monkeypatch):
        monkeypatch.setattr(worker, "_SAVED_AT_ONCE", 3)
        await started.spawn("Plant", *([n] for n in range(10)))
        assert await started.call("checkpoint") == ((), None)
        assert len(started.service.saved) == 10

    async def test_one_that_cannot_be_had_does_not_matter_to_the_others(self, started):
        await started.spawn("Plant", [1], [2], [3])
        started.agents["0"].value = object()
        started.agents["1"].value = bytes(streams.MAX_STATE)
        failed, failure = await started.call("checkpoint")
        assert list(failed) == ["0", "1"]
        assert "SerializationError" in failure
        assert started.service.saved == {"2": MsgPack().encode(3)}

    async def test_the_largest_one_comes_back(self, started):
        await started.spawn("Plant", [bytes(streams.MAX_STATE - 5)])
        await state.checkpoint(started.agents["0"])
        [data] = started.service.saved.values()
        assert len(data) == streams.MAX_STATE
        await started.call("take_states", {"0": data})
        started.agents["0"].value += b"."
        limit = f"'0' has {streams.MAX_STATE + 1} bytes; .* at most {streams.MAX_STATE} bytes"
        with pytest.raises(SerializationError, match=limit):
            await state.checkpoint(started.agents["0"])

    async def test_agents_save_them_themselves(self, started):
        await started.spawn("Plant", [5])
        await state.checkpoint(started.agents["0"])
        assert started.service.saved == {"0": MsgPack().encode(5)}

    async def test_agents_are_made_again_with_them(self, world):
        await world.start(life=1, awaited=["3", "5", "8"])
        arguments = MsgPack().encode([[[n], {}] for n in range(5)])
        await world.call("take_states", {"5": MsgPack().encode("new")})
        await world.call("take_states", {"8": MsgPack().encode("bad")})
        failures = await world.call(
            "restore", f"{HERE}:Plant", arguments, [["3"], [], ["5"], ["8"]], BOUND
        )
        [failure] = failures
        assert failure.endswith("LookupError: a bad state\n")
        assert (world.agents["3"].value, world.agents["5"].value) == (0, "new")

    async def test_one_that_cannot_be_made_again_is_told(self, world):
        await world.start(life=1, awaited=["3", "4"])
        arguments = MsgPack().encode([[["bad"], {}], [[7], {}]])
        failures = await world.call("restore", f"{HERE}:Plant", arguments, [["3"], ["4"]], BOUND)
        assert [failure.splitlines()[-1] for failure in failures] == ["LookupError: a bad value"]
        assert world.agents["4"].value == 7

    async def test_one_whose_making_takes_too_long_does_not_hold_up_the_others(self, world):
        await world.start(life=1, awaited=["3", "4"])
        arguments = MsgPack().encode([[["wait"], {}], [[7], {}]])
        [failure] = await world.call("restore", f"{HERE}:wait", arguments, [["3"], ["4"]], 0.2)
        assert failure.endswith(
            f"TimeoutError\n{HERE}:wait has not made agent '3' again in 0.2 s\n"
        )
        assert list(world.agents) == ["4"]

    async def test_ids_that_others_had_chosen_are_not_given_again(self, world):
        await world.start(life=1, awaited=["boss"], chosen=["boss", "guard"])
        arguments = MsgPack().encode([[["boss"], {}]])
        assert not await world.call("restore", f"{HERE}:named", arguments, [["boss"]], BOUND)
        _, failure = await world.spawn("named", ["guard"])
        assert "'guard' was the id of another agent" in failure

    async def test_what_made_them_may_not_be_there_any_more(self, world):
        await world.start(life=1, awaited=["3"])
        arguments = MsgPack().encode([[[], {}]])
        [failure] = await world.call("restore", "no_such:Plant", arguments, [["3"]], BOUND)
        assert "no_such" in failure


class TestEnd:
    async def test_it_ends_with_its_control_stream(self, started):
        container = started.worker.container
        started.client.close()
        await asyncio.wait_for(started.task, BOUND)
        with pytest.raises(ConnectionError):
            await container.connect(started.url + "0", timeout=0)

    async def test_it_shuts_down_when_it_is_told(self, started):
        await started.call("stop", BOUND)
        with pytest.raises(ConnectionError):
            await started.worker.container.connect(started.url + "0", timeout=0)
        assert not started.task.done()

    async def test_one_that_retires_saves_what_its_last_call_has_left(self, started, other):
        await started.spawn("Slow", [5])
        agent = started.agents["0"]
        caller = await other.connect(started.url + "0")
        calling = asyncio.ensure_future(caller.add())
        await agent.asked.wait()
        retiring = asyncio.create_task(started.call("retire", BOUND))
        await until(lambda: started.worker.container._shutdown is not None)
        with pytest.raises(RemoteException, match="is being shut down"):
            await caller.add()
        agent.goes_on.set()
        assert await calling == 6
        assert await retiring == ((), None)
        assert started.service.saved == {"0": MsgPack().encode(6)}
        assert agent.value == "ended"

    async def test_who_ends_with_one_that_retires_is_not_forgotten(self, started):
        await started.spawn("Last", [1])
        await started.call("retire", BOUND)
        assert started.service.forgotten == []
        assert started.agents == {}

    async def test_who_gives_no_state_in_time_does_not_hold_up_the_others(self, started):
        await started.spawn("Stuck", [1])
        await started.spawn("Plant", [2])
        failed, failure = await started.call("retire", SHORT)
        assert list(failed) == ["0"]
        assert "TimeoutError" in failure
        assert started.service.saved == {"1": MsgPack().encode(2)}

    async def test_one_that_was_told_to_stop_before_has_nothing_to_save(self, started):
        await started.spawn("Plant", [1])
        await started.call("stop", BOUND)
        failed, failure = await started.call("retire", BOUND)
        assert list(failed) == ["0"]
        assert "already" in failure

    async def test_a_supervisor_that_is_gone_is_told_nothing(self, started):
        await started.spawn("Plant", [1])
        started.client.close()
        await started.task
        started.worker._forget("0")


class TestProgram:
    """The parts of :func:`aiomas.cluster.worker.main`, which needs a process of its own."""

    @pytest.fixture
    def pair(self):
        ours, theirs = socket.socketpair()
        yield ours, theirs
        ours.close()
        theirs.close()

    @pytest.fixture
    def loop_of_others(self):
        """Let the thread have no event loop afterwards, as before."""
        before = signal.getsignal(signal.SIGTERM)
        yield
        asyncio.set_event_loop(None)
        signal.signal(signal.SIGTERM, before)

    @pytest.mark.parametrize("uvloop", [False, True])
    def test_it_ends_with_its_stream(self, pair, unix_path, loop_of_others, monkeypatch, uvloop):
        if uvloop:
            pytest.importorskip("uvloop")
        loops = keep_loops(monkeypatch)
        ours, theirs = pair
        ours.close()
        with socket.socket(socket.AF_UNIX) as listening:
            assert worker._run(Worker(listening), theirs, uvloop=uvloop) is False
        [loop] = loops
        assert type(loop).__module__.startswith("uvloop") == uvloop
        loop.close()

    def test_it_ends_on_a_signal_and_tasks_can_clean_up(self, pair, loop_of_others, monkeypatch):
        loops = keep_loops(monkeypatch)
        cleaned = []

        class Busy:
            async def run(self, control):
                self.task = asyncio.create_task(self.wait())
                asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGTERM)
                await asyncio.Event().wait()

            async def wait(self):
                try:
                    await asyncio.Event().wait()
                finally:
                    cleaned.append(True)

        busy: Any = Busy()
        assert worker._run(busy, pair[1], uvloop=False) is True
        assert cleaned == [True]
        loops[0].close()

    def test_it_ends_with_its_supervisor(self, tmp_path, monkeypatch):
        exits: list[int] = []
        removed: list[Path] = []
        monkeypatch.setattr(os, "_exit", exits.append)
        monkeypatch.setattr(worker, "remove_tree", removed.append)
        read, write = os.pipe()
        thread = threading.Thread(target=worker._exit_with_supervisor, args=(read, tmp_path))
        thread.start()
        os.close(write)
        thread.join(BOUND)
        os.close(read)
        assert (exits, removed) == ([1], [tmp_path])


def keep_loops(monkeypatch):
    """Return a list of the loops that are made."""
    loops = []
    new_loop = worker._new_loop

    def keep(**options):
        loops.append(new_loop(**options))
        return loops[-1]

    monkeypatch.setattr(worker, "_new_loop", keep)
    return loops
