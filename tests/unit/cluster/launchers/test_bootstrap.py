"""The first words that are had with a host go no further than they should."""

from __future__ import annotations

import ast
import asyncio
import json
import shutil
import socket
import subprocess
import sys
import types

import pytest

import aiomas
from aiomas._hello import VERSION
from aiomas.cluster.boot import CONTROL_VERSION
from aiomas.cluster.hosts import HostSpec
from aiomas.cluster.launchers import bootstrap
from aiomas.cluster.launchers.bootstrap import COMMAND, FirstWords
from aiomas.exceptions import ClusterError
from tests.interop.environments import pyenv_roots
from tests.unit.cluster.fakes import BOUND

GOOD = {
    "python": "3.12.1",
    "path": "/py",
    "aiomas": aiomas.__version__,
    "control": CONTROL_VERSION,
    "wire": VERSION,
    "trouble": None,
}
OLD = ("2.7", "3.6", "3.8", "3.10")


class Conversation:
    """First words with an end that the test plays."""

    def __init__(self):
        ours, self.far = socket.socketpair()
        ours.setblocking(False)
        self.far.settimeout(BOUND)
        self.sock = ours
        self.words = FirstWords(ours)
        self.facts = asyncio.create_task(self.words.exchange(HostSpec("far")))

    async def __aenter__(self):
        await asyncio.sleep(0)  # it asks
        self.question = self.far.recv(65536).splitlines()
        return self

    async def __aexit__(self, *_exc):
        self.facts.cancel()
        await asyncio.wait({self.facts})
        self.sock.close()
        self.far.close()

    def answer(self, before=b"", after=b"", **changes):
        self.say(GOOD | changes, before, after)

    def say(self, content, before=b"", after=b""):
        mark = f"aiomas:{self.words._nonce} ".encode()
        self.far.sendall(before + mark + json.dumps(content).encode() + b"\n" + after)

    async def told(self):
        """Return what the far end is told when its answer will do."""
        return json.loads(await asyncio.to_thread(self.far.recv, 1000))


async def test_an_answer_that_comes_in_pieces_after_noise_is_understood():
    async with Conversation() as talk:
        for byte in b"aiomas: Welcome\xff\n":
            talk.far.sendall(bytes([byte]))
            await asyncio.sleep(0)
        assert talk.words.noise.startswith("aiomas: Welcome")
        talk.answer(b"$ ")
        assert await talk.told() == {"argv": sys.argv[:1]}
        talk.say({"clock": 17.0}, b"more noise\n")
        facts = await talk.facts
        assert (facts["python"], facts["clock"]) == ("3.12.1", 17.0)
        assert "trouble" not in facts


async def test_a_slow_login_is_not_taken_for_a_clock_that_is_wrong(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(bootstrap, "time", types.SimpleNamespace(time=lambda: now))
    async with Conversation() as talk:
        now = 1600.0  # so long it takes until the far end reads anything
        talk.answer()
        await talk.told()
        talk.say({"clock": 1600.5})
        now = 1601.0
        facts = await talk.facts
    assert [facts[key] for key in ("asked", "clock", "answered")] == [1600.0, 1600.5, 1601.0]


async def test_an_end_that_does_not_go_on_has_hung_up():
    async with Conversation() as talk:
        talk.answer()
        await talk.told()
        talk.far.close()
        with pytest.raises(EOFError):
            await talk.facts


async def test_nothing_that_is_asked_looks_like_an_answer():
    async with Conversation() as talk:
        assert len(talk.question) == 3
        assert all(b"aiomas:" + talk.words._nonce.encode() not in line for line in talk.question)
        assert json.loads(talk.question[2]) == {"cwd": None, "env": {}}


@pytest.mark.parametrize("noise", [bytes(70_000), b"aiomas:x " * 8000])
async def test_too_much_noise_is_no_answer(noise):
    async with Conversation() as talk:
        talk.far.sendall(noise)
        with pytest.raises(EOFError):
            await talk.facts


async def test_an_answer_without_end_is_none():
    async with Conversation() as talk:
        talk.far.sendall(f"aiomas:{talk.words._nonce} ".encode() + bytes(70_000))
        with pytest.raises(EOFError):
            await talk.facts


async def test_what_follows_the_answer_spoils_it():
    async with Conversation() as talk:
        talk.answer(after=b"more")
        with pytest.raises(EOFError):
            await talk.facts


@pytest.mark.parametrize("unread", [True, False])
async def test_an_end_that_hangs_up_has_not_answered(unread):
    async with Conversation() as talk:
        if unread:  # then the system calls it a reset
            talk.sock.sendall(b"x")
        talk.far.close()
        with pytest.raises(EOFError):
            await talk.facts


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"control": 9}, f"version 9 and version {CONTROL_VERSION} of the control protocol of cl"),
        ({"wire": 9}, f"version 9 and version {VERSION} of the wire protocol's extensions; run `"),
        ({"wire": None}, f"version 0 and version {VERSION} of the wire protocol's extensions"),
        ({"wire": 9, "control": 8}, "control protocol of clusters; they speak version 9 and"),
    ],
)
async def test_a_host_that_will_not_do_is_not_told_to_go_on(changes, message):
    async with Conversation() as talk:
        talk.answer(**changes)
        with pytest.raises(ClusterError, match=f"cannot work together: they speak .*{message}"):
            await talk.facts
        talk.far.setblocking(False)
        with pytest.raises(BlockingIOError):
            talk.far.recv(1)


async def test_a_full_disk_is_said_plainly():
    async with Conversation() as talk:
        talk.answer(trouble="its disk is full")
        with pytest.raises(ClusterError, match=r"^far cannot be used: its disk is full$"):
            await talk.facts


def test_the_command_needs_no_more_than_single_quotes_in_any_shell():
    assert not set(COMMAND) & set("'!\\\n$`")


@pytest.mark.parametrize("version", [(3, 6), (3, 7)])
def test_what_says_that_a_python_is_too_old_is_good_for_it(version):
    ast.parse(bootstrap._PREAMBLE, feature_version=version)
    ast.parse(COMMAND, feature_version=version)


def interpreter(version):
    """Return the path of an interpreter of that version that runs, or ``None``."""
    on_path = shutil.which(f"python{version}")
    candidates = [on_path] if on_path else []
    for root in pyenv_roots():
        candidates += map(str, root.glob(f"versions/{version}.*/bin/python"))
    for candidate in candidates:
        probe = [candidate, "-c", "import sys; print(sys.executable)"]
        done = subprocess.run(probe, check=False, capture_output=True, timeout=BOUND)
        if not done.returncode:
            return done.stdout.decode().strip()
    return None


@pytest.mark.parametrize("version", OLD)
def test_an_old_python_says_that_it_is_too_old(version):
    python = interpreter(version)
    if python is None:
        pytest.skip(f"there is no Python {version} that runs")
    words = FirstWords.__new__(FirstWords)
    words._nonce = "abc"
    done = subprocess.run(
        [python, "-c", COMMAND],
        check=True,
        input=words._question(HostSpec("far")),
        capture_output=True,
        timeout=BOUND,
    )
    noise, mark, answer = done.stdout.partition(b"aiomas:abc ")
    assert (noise, mark) == (b"\n", b"aiomas:abc ")
    found = json.loads(answer)
    assert found["path"] == python
    assert found["python"].startswith(f"{version}.")
    with pytest.raises(ClusterError, match=r"is too old: aiomas needs 3\.11 or newer"):
        bootstrap._check(found, HostSpec("far"))
