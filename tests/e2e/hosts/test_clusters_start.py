"""How clusters on several hosts start, and what is said about hosts that cannot be used."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from aiomas.agent import url_of
from aiomas.cluster import Cluster, ClusterError, HostSpec
from tests.e2e.hosts.agents import Worker
from tests.e2e.hosts.clusters import HostEvents, containers_on, gone_from, over, spec
from tests.e2e.hosts.lab import ROOT, Lab, LabHost
from tests.e2e.hosts.probes import program

pytestmark = pytest.mark.timeout(90)

OTHER_VERSION = """
import sys, types
__version__ = "9.8.7"
"""
OWN_CACHE = {"XDG_CACHE_HOME": "/tmp/cache"}
"""All hosts have the same home directory."""
OCCUPY = """
import socket
server = socket.create_server(("", {port}))
print("ready", flush=True)
server.accept()
"""
SHIPPED = """
import aiomas
from {package}.words import WORD

class Speaker(aiomas.Agent):
    @aiomas.expose
    def word(self):
        return WORD
"""


def put(host: LabHost, path: str, text: str) -> None:
    """Write a file that only this host sees."""
    file = host.path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def another_aiomas(host: LabHost, control: int | None) -> HostSpec:
    """Put another version of aiomas on a host; return what lets its Python use that."""
    put(host, "/tmp/other/aiomas/__init__.py", OTHER_VERSION)
    put(host, "/tmp/other/aiomas/_hello.py", "VERSION = 1\n")
    if control is not None:
        put(host, "/tmp/other/aiomas/cluster/__init__.py", "")
        put(host, "/tmp/other/aiomas/cluster/boot.py", f"CONTROL_VERSION = {control}\n")
    return spec(host, cwd=None, env={"PYTHONPATH": "/tmp/other"})


async def why_not(cluster: Cluster) -> str:
    """Return the error of a start that has to fail, and leave nothing."""
    with pytest.raises(ClusterError) as info:
        async with cluster:
            pytest.fail("it was started")
    assert str(cluster).endswith("over: it could not be started>")
    return str(info.value)


async def test_each_host_that_cannot_be_used_has_a_line_that_says_why_and_what_to_do(
    lab: Lab,
) -> None:
    h1, h2, h3 = lab.hosts
    lab.change_key(h1)
    h3.fill_disk()
    hosts = [
        spec(h1, name="other-key"),
        spec(h2, name="good"),
        spec(h2, name="no-python", python="/nowhere/python3"),
        another_aiomas(h2, control=99),
        spec(h2, name="no-folder", cwd="/nowhere"),
        spec(h2, name="bind", bind="10.9.8.7"),
        spec(h2, name="address", address=lab.hosts[0].address),
        # Where Python would look for another folder, it is told not to.
        spec(h3, name="full", env={"AIOMAS_RUN_DIR": "/tmp/runs"}),
        HostSpec("nowhere.invalid"),
    ]
    text = await why_not(over(lab, 12, hosts=hosts))
    first, *lines = text.split("\n")
    assert first.startswith("8 of 9 hosts cannot be used, so nothing was started")
    assert "allow_partial=True" in first
    about = {line.strip().partition(":")[0]: line for line in lines if not line.startswith("    ")}
    assert list(about) == [host.label for host in hosts]
    assert "has another key than the one in known_hosts" in about["other-key"]
    assert "ready at" in about["good"]
    assert "no /nowhere/python3" in about["no-python"]
    assert "HostSpec(python=...)" in about["no-python"]
    assert "9.8.7" in about["h2"]
    assert "pip install aiomas==" in about["h2"]
    assert "'/nowhere'" in about["no-folder"]
    assert "10.9.8.7 is no address of this host" in about["bind"]
    assert f"{h1.address} is no address of this host" in about["address"]
    assert "its disk is full" in about["full"]
    assert "its name is not known" in about["nowhere.invalid"]
    await gone_from(*lab.hosts)


async def test_an_aiomas_without_clusters_is_no_good(lab: Lab) -> None:
    h1, h2, _ = lab.hosts
    hosts = [spec(h1), another_aiomas(h2, control=None)]
    text = await why_not(over(lab, 4, hosts=hosts))
    assert "1 of 2 hosts cannot be used" in text
    assert "h2: aiomas" in text
    assert "cannot work together" in text
    await gone_from(*lab.hosts)


async def test_a_host_that_does_not_answer_is_named_in_time(lab: Lab) -> None:
    lab.hosts[1].cut()
    start = time.monotonic()
    text = await why_not(over(lab, 6))
    assert time.monotonic() - start < 15
    assert "h2 cannot be reached: it does not answer" in text
    assert "h1: ready at" in text
    await gone_from(*lab.hosts)


async def test_a_port_that_somebody_has_there_is_named(lab: Lab) -> None:
    h2 = lab.hosts[1]
    with program(h2, OCCUPY.format(port=7003)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        text = await why_not(over(lab, 6, port=7000))
    assert "host h2: port 7003 of " in text
    assert "cannot be had: Address already in use" in text
    await gone_from(*lab.hosts)


async def test_with_allow_partial_the_others_start_and_the_status_says_what_is_missing(
    lab: Lab,
) -> None:
    h1, h2, h3 = lab.hosts
    hosts = [spec(h1, 2), spec(h2, 2, python="/nowhere/python3"), spec(h3, 2)]
    async with over(lab, hosts=hosts, allow_partial=True) as cluster:
        states = {info.name: (info.state, info.containers) for info in cluster.hosts}
        assert states == {
            "h1": ("running", [0, 1]),
            "h2": ("missing", []),
            "h3": ("running", [2, 3]),
        }
        assert "no /nowhere/python3" in str(cluster.hosts[1].problem)
        agents = await cluster.spawn_many(Worker, 4)
        assert [host for host, *_ in await cluster.map("where", agents)] == ["h1", "h1", "h3", "h3"]
        assert (await agents[0].ask(agents[3]))[0] == "h3"
        assert [s["host"] for s in await cluster.status()] == ["h1", "h1", "h3", "h3"]
    await gone_from(*lab.hosts, within=0)


async def test_two_runs_on_the_same_hosts_have_nothing_to_do_with_each_other(lab: Lab) -> None:
    async with asyncio.TaskGroup() as group, over(lab, 6) as one:
        two = over(lab, 6)
        starting = group.create_task(two.__aenter__())
        mine = await one.spawn_many(Worker, 6)
        await starting
        try:
            theirs = await two.spawn_many(Worker, 6)
            assert one.name != two.name
            assert len(lab.hosts[0].processes()) == 8
            for agents in (mine, theirs):
                found = await asyncio.gather(*(agents[0].ask(agent) for agent in agents))
                assert [host for host, _ in found] == ["h1", "h1", "h2", "h2", "h3", "h3"]
            # The certificates of the other run are none here, and its token is another one.
            answer, _ = await mine[0].ask(theirs[3])
            assert answer in {"HandshakeError", "ConnectionLost"}
            with pytest.raises(ssl.SSLCertVerificationError):
                await (await one.container.connect(url_of(theirs[0]))).where()
        finally:
            await two.__aexit__(None, None, None)
        assert len(lab.hosts[0].processes()) == 4
        assert await mine[0].add() == 1
    await gone_from(*lab.hosts, within=0)


@contextmanager
def only_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Make a package that hosts do not see, and return the class of an agent in it."""
    package = tmp_path / "only_here"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "words.py").write_text('WORD = "first"\n')
    (package / "speakers.py").write_text(SHIPPED.format(package="only_here"))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield package


async def test_modules_that_only_the_driver_has_are_sent_once(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[str, int]] = []
    with only_here(tmp_path, monkeypatch) as package:
        for word, files in (("first", 3), ("first", 0), ("second", 1)):
            sent.clear()
            (package / "words.py").write_text(f'WORD = "{word}"\n')
            hosts = [spec(host, cwd=None, env=OWN_CACHE) for host in lab.hosts[:2]]
            with counted(monkeypatch, sent):
                async with over(lab, 2, hosts=hosts, sync=[package]) as cluster:
                    agents = await cluster.spawn_many("only_here.speakers:Speaker", 2)
                    assert await cluster.map("word", agents) == [word, word]
            assert sorted(sent) == [("h1", files), ("h2", files)]
    await gone_from(*lab.hosts, within=0)


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch, sent: list[tuple[str, int]]) -> Iterator[None]:
    """Write down how many files each host says that it needs."""
    from aiomas.cluster.members import Member

    call = Member.call

    async def counting(self: Member, method: str, *args: Any, **kwargs: Any) -> Any:
        found = await call(self, method, *args, **kwargs)
        if method == "shipping.missing":
            sent.append((self.name, len(found)))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Member, "call", counting)
        yield


@pytest.mark.timeout(150)
async def test_a_slow_link_is_good_enough_for_all_that_a_cluster_does(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for host in lab.hosts:
        host.delay(20)
        host.rate("1mbit")
    with only_here(tmp_path, monkeypatch) as package:
        (package / "large.py").write_text(f"TEXT = '{'x' * 200_000}'\n")
        start = time.monotonic()
        hosts = [
            spec(host, cwd=None, env=OWN_CACHE | {"PYTHONPATH": str(ROOT)}) for host in lab.hosts
        ]
        async with over(lab, 6, hosts=hosts, sync=[package], logs=True, heartbeat=1.0) as cluster:
            started = time.monotonic() - start
            assert started < 30
            events = HostEvents(cluster)
            speakers = await cluster.spawn_many("only_here.speakers:Speaker", 6)
            assert await cluster.map("word", speakers) == ["first"] * 6
            agents = await cluster.spawn_many(Worker, 6)
            there = agents[containers_on(cluster, "h3")[0]]
            host, seconds = await agents[0].ask(there)
            host, seconds = await agents[0].ask(there)
            assert (host, 0.08 <= seconds < 2.0) == ("h3", True)  # four times 20 ms
            start = time.monotonic()
            assert len(await there.echo("x" * 125_000)) == 125_000
            assert time.monotonic() - start > 1.5  # a megabit there, and one back, less the burst
            for number in range(200):
                await asyncio.gather(agents[0].say(f"line {number}"), there.say(f"far {number}"))
            assert len(await cluster.status()) == 6
            await cluster.checkpoint()
            assert events.kinds() == []
            start = time.monotonic()
        assert time.monotonic() - start < 10
    said = capfd.readouterr().err
    assert "[0] line 199\n" in said
    assert f"[{containers_on(cluster, 'h3')[0]}] far 199\n" in said
    await gone_from(*lab.hosts, within=0)
