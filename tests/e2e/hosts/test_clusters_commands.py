"""The commands of ``aiomas cluster``, on the driver's machine, for a run over three hosts."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from aiomas.cluster import EventKind
from tests.e2e.hosts.agents import Worker
from tests.e2e.hosts.clusters import BOUND, HostEvents, containers_on, gone_from, over
from tests.e2e.hosts.lab import ROOT, Lab

pytestmark = pytest.mark.timeout(120)

PROGRAM = """
import aiomas

class Local(aiomas.Agent):
    @aiomas.expose
    def greet(self, name):
        print("greeting", name, flush=True)
        return f"hello {name} from {self.container.base_url.split(':')[1][2:]}"

async def main(cluster, name):
    agents = await cluster.spawn_many(Local, len(cluster.containers))
    for text in await cluster.map("greet", agents, name):
        print(text)
    return 7
"""


async def aiomas(*words: str, code: int = 0, cwd: Path | None = None) -> tuple[str, str]:
    """Run a command while this process goes on; return its output and its errors."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "aiomas.cli", "cluster", *words),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=cwd,
    )
    async with asyncio.timeout(BOUND):
        output, errors = await process.communicate()
    assert process.returncode == code, errors.decode()
    return output.decode(), errors.decode()


async def test_status_top_and_logs_show_all_hosts_and_stop_stops_them(lab: Lab) -> None:
    h2 = lab.hosts[1]
    async with over(lab, 6) as cluster:
        events = HostEvents(cluster)
        agents = await cluster.spawn_many(Worker, 6)
        for index, agent in enumerate(agents):
            await agent.say(f"I am in container {index}")
        name = cluster.name
        assert name in (await aiomas("ls"))[0]

        found: dict[str, Any] = json.loads((await aiomas("status", name, "--json"))[0])
        assert [host["name"] for host in found["facts"]["hosts"]] == ["h1", "h2", "h3"]
        rows = [(c["host"], c["state"], c["agents"]) for c in found["containers"]]
        assert rows == [(f"h{number}", "running", 1) for number in (1, 1, 2, 2, 3, 3)]
        first, *table = (await aiomas("status", name))[0].splitlines()
        assert first.startswith(f"{name}: 6 of 6 containers running on 3 of 3 hosts, tls, for ")
        assert [row.split()[0] for row in table[-6:]] == ["h1", "h1", "h2", "h2", "h3", "h3"]

        lines = (await aiomas("logs", name))[0].splitlines()
        assert sorted(line.split()[-1] for line in lines if "I am in" in line) == list("012345")
        [index, _] = containers_on(cluster, "h3")
        assert f"I am in container {index}\n" in (await aiomas("logs", name, str(index)))[0]

        h2.cut()
        await events.get(EventKind.HOST_LOST, "h2")
        text = (await aiomas("top", name, "--interval", "0.2"))[0]
        assert "4 of 6 containers running on 2 of 3 hosts" in text
        assert "h2: lost for " in text
        assert "silent" in text
        h2.heal()
        await events.get(EventKind.HOST_JOINED, "h2")

        await aiomas("stop", name)
        lost = await events.get(EventKind.LOST)
        assert str(lost.error) == f"The cluster {name} was told to stop"
        await gone_from(*lab.hosts)
        assert (await aiomas("ls"))[0].strip() == "(none)"
    assert not {info.state for info in cluster.containers} & {"running", "starting"}


async def test_a_program_runs_on_the_hosts_of_a_file(lab: Lab, tmp_path: Path) -> None:
    program, file = tmp_path / "program.py", tmp_path / "hosts.toml"
    program.write_text(PROGRAM)
    hosts = "".join(f'[[hosts]]\nhost = "{host.name}"\ncontainers = 1\n' for host in lab.hosts)
    file.write_text(
        f'{hosts}\n[defaults]\npython = "{sys.executable}"\n'
        f'env = {{ PYTHONPATH = "{ROOT}", XDG_CACHE_HOME = "/tmp/cache" }}\n'
        f"[cluster]\nsync = [{str(program)!r}]\nlogs = true\n"
        f"[ssh]\noptions = {lab.ssh_options!r}\n"
    )
    output, errors = await aiomas(
        "run", f"{program}:main", "--hosts", str(file), "--", "you", code=7
    )
    assert output.splitlines() == [f"hello you from {host.address}" for host in lab.hosts]
    assert sorted(line for line in errors.splitlines() if "greeting" in line) == [
        f"[{index}] greeting you" for index in range(3)
    ]
    await gone_from(*lab.hosts)


async def test_a_program_is_not_run_when_a_host_of_its_file_cannot_be_used(
    lab: Lab, tmp_path: Path
) -> None:
    lab.change_key(lab.hosts[2])
    program, file = tmp_path / "program.py", tmp_path / "hosts.toml"
    program.write_text(PROGRAM)
    names = ", ".join(f'{{ host = "{host.name}", containers = 1 }}' for host in lab.hosts)
    file.write_text(
        f'hosts = [{names}]\n[defaults]\npython = "{sys.executable}"\n'
        f"[ssh]\noptions = {lab.ssh_options!r}\n"
    )
    output, errors = await aiomas(
        "run", f"{program}:main", "--hosts", str(file), "--", "you", code=1
    )
    assert output == ""
    assert "1 of 3 hosts cannot be used, so nothing was started" in errors
    assert "h3 has another key than the one in known_hosts" in errors
    assert "Traceback" not in errors
    await gone_from(*lab.hosts)
