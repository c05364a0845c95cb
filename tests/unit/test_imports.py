"""What takes long to import is imported by those who need it, and by nobody else.

Each program runs in an interpreter of its own, and prints which of the modules were imported that
it could have done without.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {
    "arrow",
    "blosc",
    "click",
    "cryptography",
    "dateutil",
    "numpy",
    "pki",
    "psutil",
    "rich",
    "uvloop",
    # Of the standard library, beyond asyncio and what msgpack needs.
    "decimal",
    "hashlib",
    "hmac",
    "ipaddress",
    "pathlib",
    "shutil",
    "tempfile",
    "urllib",
    "uuid",
}
PRELUDE = f"""
import asyncio, logging, sys
BEFORE = set(sys.modules)  # a site may have imported more than Python itself does
def heavy():
    return sorted({HEAVY!r} & (sys.modules.keys() - BEFORE))
"""
CALLS = """
import aiomas

class Echo(aiomas.Agent):
    @aiomas.expose
    def echo(self, value):
        return value

    async def ask(self, url):
        other = await self.container.connect(url)
        return await other.echo(1)

async def main():
    async with aiomas.Container.open(ADDRESS, KWARGS) as one:
        caller, local = Echo(one), Echo(one)
        assert await caller.ask(local.addr) == 1
        async with aiomas.Container.open(OTHER, KWARGS) as two:
            assert await caller.ask(Echo(two).addr) == 1

asyncio.run(main())
print(*heavy())
"""
CLUSTER = """
import aiomas
from aiomas.cluster import Cluster

class Witness(aiomas.Agent):
    @aiomas.expose
    def heavy(self):
        return sorted(HEAVY & sys.modules.keys())

async def main():
    async with Cluster(1, loop="asyncio") as cluster:
        witness = await cluster.spawn(__file__ + ":Witness")
        print(*await witness.heavy())
    print(*heavy())

if __name__ == "__main__":
    asyncio.run(main())
"""


def run(*arguments: str) -> list[set[str]]:
    """Return the names in each line that a program prints."""
    done = subprocess.run(
        [sys.executable, *arguments], check=True, timeout=30, capture_output=True, text=True
    )
    return [set(line.split()) for line in done.stdout.splitlines()]


def test_the_package_alone():
    assert run("-c", f"{PRELUDE}\nimport aiomas\nprint(*heavy())") == [set()]


def test_each_public_module():
    modules = "agent channel clocks codecs exceptions local_queue routing rpc subproc tls util"
    imports = "\n".join(f"import aiomas.{name}" for name in modules.split())
    assert run("-c", f"{PRELUDE}\n{imports}\nprint(*heavy())") == [set()]


@pytest.mark.parametrize("codec", ["JSON", "MsgPack"])
def test_calls_over_tcp(codec):
    program = (
        CALLS.replace("ADDRESS", "('127.0.0.1', 0)")
        .replace("OTHER", "('127.0.0.1', 0)")
        .replace("KWARGS", f"codec=aiomas.{codec}")
    )
    assert run("-c", PRELUDE + program) == [set()]


def test_calls_over_unix_sockets_look_at_paths(tmp_path):
    program = (
        CALLS.replace("ADDRESS", repr(str(tmp_path / "one")))
        .replace("OTHER", repr(str(tmp_path / "two")))
        .replace("KWARGS", "codec=aiomas.MsgPack")
    )
    [imported] = run("-c", PRELUDE + program)
    # pathlib has needed these two until Python 3.13.
    assert "pathlib" in imported
    assert imported <= {"pathlib", "urllib", "ipaddress"}


def test_calls_with_a_token_prove_it():
    program = (
        CALLS.replace("ADDRESS", "('127.0.0.1', 0)")
        .replace("OTHER", "('127.0.0.1', 0)")
        .replace("KWARGS", "token='secret'")
    )
    assert run("-c", PRELUDE + program) == [{"hashlib", "hmac"}]


def test_a_cluster(tmp_path):
    file = tmp_path / "witness.py"
    file.write_text(f"{PRELUDE}\nHEAVY = {HEAVY!r}\n{CLUSTER}")
    worker, driver = run(str(file))
    # For tokens, and for the directory of the run.
    needed = {"hashlib", "hmac", "pathlib", "shutil", "tempfile"}
    with_pathlib = {"ipaddress", "urllib"}  # until Python 3.13
    assert needed <= worker <= needed | with_pathlib
    assert needed <= driver <= needed | with_pathlib
