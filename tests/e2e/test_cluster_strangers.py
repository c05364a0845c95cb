"""Who does not belong to a cluster: other users and runs, other authorities, plain containers."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import psutil
import pytest

import aiomas
from aiomas import rpc
from aiomas.agent import url_of
from aiomas.cluster import Cluster, ClusterError, EventKind, RestartPolicy
from aiomas.cluster.certificates import (
    PASSPHRASE,
    RunAuthority,
    contexts_for_driver,
    driver_credentials,
)
from aiomas.codecs import MsgPack
from aiomas.exceptions import HandshakeError
from pki.store import Root, Store
from tests.e2e.clusters import Events, until
from tests.e2e.driver_process import AGENTS

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(autouse=True)
def agents(tmp_path, monkeypatch):
    (tmp_path / "stranger_agents.py").write_text(AGENTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()


def address_of(agent):
    """Return what to dial for an agent, and its id."""
    url, _, aid = url_of(agent).rpartition("/")
    where = url.partition("://")[2]
    if where.startswith("["):
        return where.strip("[]"), aid
    host, _, port = where.rpartition(":")
    return (host, int(port)), aid


async def assert_refused(agent, mark, ours, ssl=None, match=None):
    """Make sure that a container that is not of the cluster, and less than one, can do nothing."""
    async with aiomas.Container.open(ours, ssl=ssl, codec=MsgPack) as container:
        with pytest.raises(OSError, match=match):
            await (await container.connect(url_of(agent))).touch(str(mark))
    address, aid = address_of(agent)
    contexts = {} if ssl is None else {"ssl": ssl[1]}
    # Those who know nothing of tokens: their requests are refused, before anything has run.
    for call in (
        lambda remote: getattr(remote.agents.dict, aid).touch(str(mark)),
        lambda remote: getattr(remote.agents, aid).touch(str(mark)),
        lambda remote: remote.spawn("stranger_agents:Worker", b""),
        lambda remote: remote.call_many("touch", [[aid, None]]),
        lambda remote: remote.stop(0),
    ):
        try:
            client = await rpc.open_connection(address, codec=MsgPack, **contexts)
        except OSError:
            continue
        with pytest.raises((aiomas.RemoteException, ConnectionError)) as caught:
            await call(client.remote)
        assert "belongs to a cluster" in str(caught.value) or "lost" in str(caught.value)
        await client.close()
    assert not mark.exists()


@pytest.mark.parametrize("transport", ["unix", "tcp"])
async def test_plain_containers_are_refused(tmp_path, unix_path, transport):
    async with Cluster(1, transport=transport, loop="asyncio") as cluster:
        agent = await cluster.spawn("stranger_agents:Worker")
        ours = unix_path if transport == "unix" else ("127.0.0.1", 0)
        await assert_refused(agent, tmp_path / "mark", ours, match="belongs to a cluster")
        assert await agent.pid() == cluster.containers[0].pid  # it is well
        await agent.touch(str(tmp_path / "mark"))
    assert (tmp_path / "mark").exists()


async def test_nobody_is_called_who_has_taken_the_port_of_a_container(tmp_path):
    never = RestartPolicy(mode="temporary")
    async with Cluster(2, transport="tcp", loop="asyncio", restart=never) as cluster:
        events = Events(cluster)
        caller, agent = await cluster.spawn_many("stranger_agents:Worker", 2)
        address, aid = address_of(agent)
        os.kill(cluster.containers[1].pid, signal.SIGKILL)
        await events.get(EventKind.FAILED, 1)
        async with aiomas.Container.open(address, codec=MsgPack) as impostor:
            agents = [Impostor(impostor) for _ in range(3)]
            assert aid in impostor.agents.dict
            # The driver, which has connected to all, and another container, which has not.
            for call in (agent.pid, lambda: caller.ask(agent)):
                with pytest.raises((aiomas.RemoteException, HandshakeError)) as caught:
                    await call()
                assert "has not shown the token" in str(caught.value)
            assert [called for agent in agents for called in agent.called] == []


class Impostor(aiomas.Agent):
    def __init__(self, container):
        super().__init__(container)
        self.called = []

    @aiomas.expose
    def pid(self):
        self.called.append("pid")


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_silent_strangers_take_no_descriptors(loop):
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    async with Cluster(1, transport="tcp", loop=loop, open_files=200) as cluster:
        first = await cluster.spawn("stranger_agents:Worker")
        address, _ = address_of(first)
        silent = [socket.create_connection(address, timeout=10) for _ in range(400)]
        try:
            agents = await cluster.spawn_many("stranger_agents:Worker", 3)
            assert await cluster.map("pid", agents) == [cluster.containers[0].pid] * 3
            # Somebody new can still connect, and open files.
            async with aiomas.Container.open(("127.0.0.1", 0), codec=MsgPack) as container:
                with pytest.raises(OSError, match="belongs to a cluster"):
                    await container.connect(url_of(first))
            worker = psutil.Process(cluster.containers[0].pid)
            assert worker.num_fds() < 100
        finally:
            for sock in silent:
                sock.close()
        assert cluster.directory is not None
        log = cluster.directory / "logs" / "0.log"
        await until(lambda: "peers that have not shown the token" in log.read_text())


async def test_another_authority_or_none_at_all_is_refused(tmp_path):
    async with Cluster(1, transport="tls", loop="asyncio") as cluster:
        agent = await cluster.spawn("stranger_agents:Worker")
        ours, mark = ("127.0.0.1", 0), tmp_path / "mark"
        authority = RunAuthority.temporary(cluster.name)
        other = contexts_for_driver(driver_credentials(authority), tmp_path)
        await assert_refused(agent, mark, ours, ssl=other)
        async with aiomas.Container.open(ours, codec=MsgPack) as container:
            with pytest.raises(ConnectionError):
                await container.connect(url_of(agent))
        assert await agent.pid() == cluster.containers[0].pid
    assert not mark.exists()


async def test_runs_of_one_authority_do_not_meet(tmp_path, monkeypatch):
    monkeypatch.delenv(PASSPHRASE, raising=False)
    Store.create(tmp_path / "ca", Root("plant", "ec-p256", 3650))
    async with Cluster(1, transport="tls", pki=tmp_path / "ca", loop="asyncio") as cluster:
        agent = await cluster.spawn("stranger_agents:Worker")
        assert await agent.pid() == cluster.containers[0].pid
        # It has a good certificate, and no token.
        authority = RunAuthority.of_directory(tmp_path / "ca")
        contexts = contexts_for_driver(driver_credentials(authority), tmp_path)
        await assert_refused(
            agent, tmp_path / "mark", ("127.0.0.1", 0), ssl=contexts, match="belongs to a cluster"
        )
        assert cluster.directory is not None
        assert not [path for path in cluster.directory.rglob("*") if path.suffix == ".pem"]
        # Nor does a container that is started again need one.
        events = Events(cluster)
        again = await cluster.spawn("stranger_agents:Worker", respawn=True)
        os.kill(cluster.containers[0].pid, signal.SIGKILL)
        await events.get(EventKind.RESTARTED)
        assert await again.pid() == cluster.containers[0].pid
    # What the run has got is in the index of the authority.
    assert len(Store(tmp_path / "ca").index().issued) >= 2


async def test_the_passphrase_of_an_authority(tmp_path, monkeypatch):
    monkeypatch.delenv(PASSPHRASE, raising=False)
    Store.create(tmp_path / "ca", Root("plant", "ec-p256", 3650), passphrase="swordfish")
    for passphrase, problem in ((None, PASSPHRASE), ("tuna", "passphrase")):
        if passphrase is not None:
            monkeypatch.setenv(PASSPHRASE, passphrase)
        with pytest.raises(ClusterError, match=problem):
            await Cluster(1, transport="tls", pki=tmp_path / "ca").__aenter__()
    monkeypatch.setenv(PASSPHRASE, "swordfish")
    async with Cluster(1, transport="tls", pki=tmp_path / "ca", loop="asyncio") as cluster:
        assert await (await cluster.spawn("stranger_agents:Worker")).pid()
        worker = psutil.Process(cluster.containers[0].pid)
        # Nobody else needs it.
        assert PASSPHRASE not in worker.environ()
    with pytest.raises(ClusterError, match="no such directory"):
        await Cluster(1, transport="tls", pki=tmp_path / "nothing").__aenter__()


@pytest.mark.parametrize("transport", ["tcp", "tls"])
async def test_only_this_machine_can_connect(transport):
    async with Cluster(1, transport=transport, loop="asyncio") as cluster:
        assert cluster.containers[0].url.startswith("tcp://127.0.0.1:")
        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
        listening = [
            connection
            for process in processes
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        ]
        assert len(listening) >= 2
        assert {connection.laddr.ip for connection in listening} == {"127.0.0.1"}


async def test_files_of_a_run_are_for_this_user_alone():
    before = os.umask(0)
    try:
        async with Cluster(1, transport="tls", loop="asyncio") as cluster:
            assert cluster.directory is not None
            found = [cluster.directory.parent, cluster.directory, *cluster.directory.rglob("*")]
            modes = {path: path.lstat().st_mode for path in found}
    finally:
        os.umask(before)
    names = {path.name for path in found}
    assert names >= {"run.json", "watch.sock", "0.log"}
    for path, mode in modes.items():
        allowed = 0o700 if stat.S_ISDIR(mode) else 0o600
        if not stat.S_ISSOCK(mode):
            assert stat.S_IMODE(mode) == allowed, path


NOBODY = """
import os, socket, sys
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
for path in sys.argv[1:]:
    try:
        if path.endswith(".sock"):
            socket.socket(socket.AF_UNIX).connect(path)
        elif path.endswith("/"):
            os.listdir(path)
        else:
            open(path).close()
    except PermissionError:
        continue
    except OSError as exc:
        print(path, exc)
    else:
        print("could use", path)
print("tried", len(sys.argv) - 1)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("transport", ["unix", "tls"])
async def test_another_user_cannot_connect_or_read(monkeypatch, transport):
    # The way there is open, so that the directory of the runs itself has to keep others out.
    folder = Path(tempfile.mkdtemp(prefix="aiomas-", dir="/tmp"))
    try:
        folder.chmod(0o755)
        monkeypatch.setenv("AIOMAS_RUN_DIR", str(folder / "runs"))
        async with Cluster(1, transport=transport, loop="asyncio") as cluster:
            assert cluster.directory is not None
            found = [str(path) + "/" * path.is_dir() for path in cluster.directory.rglob("*")]
            output = subprocess.run(
                [sys.executable, "-I", "-c", textwrap.dedent(NOBODY), f"{folder}/runs/", *found],
                capture_output=True,
                text=True,
                check=False,
                cwd="/",
                timeout=20,
            )
        assert output.stdout == f"tried {len(found) + 1}\n", output.stderr
    finally:
        shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to somebody else")
async def test_a_base_directory_of_somebody_else_is_refused(tmp_path, monkeypatch):
    base = tmp_path / "runs"
    base.mkdir(0o700)
    os.chown(base, 65534, 65534)
    monkeypatch.setenv("AIOMAS_RUN_DIR", str(base))
    with pytest.raises(ClusterError, match="it belongs to the user with id 65534"):
        await Cluster(1).__aenter__()
    assert list(base.iterdir()) == []
