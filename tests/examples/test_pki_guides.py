"""The commands in the guides about certificates work: containers connect with what they make."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import aiomas

GUIDES = Path(__file__).parents[2] / "docs" / "guides"


@pytest.fixture
def run(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("a passphrase\n")
    secret.chmod(0o600)

    def run(command):
        words = shlex.split(command)
        if words[:2] == ["aiomas", "pki"]:
            words[:2] = [sys.executable, "-m", "pki"]
            # What a person would be asked.
            if {"init", "issue", "renew", "revoke", "crl", "rotate", "sign"} & set(words):
                words += ["--passphrase-file", str(secret)]
            words += ["--yes"] if "sign" in words else []
        environment = os.environ | {"PYTHONPATH": str(GUIDES.parents[1])}
        done = subprocess.run(
            words,
            cwd=tmp_path,
            env=environment,
            text=True,
            capture_output=True,
            timeout=20,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}{done.stdout}"
        return done.stdout

    return run


def commands_of(page):
    text = (GUIDES / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]


async def connect(certs):
    async with (
        aiomas.Container.open(("127.0.0.1", 0), ssl=certs) as here,
        aiomas.Container.open(("localhost", 0), ssl=certs) as there,
    ):
        for container, other in [(here, there), (there, here)]:
            assert await container.connect(aiomas.Agent(other).addr)


async def test_commands_of_the_offline_flow(run, tmp_path):
    certs = aiomas.SSLCerts(
        *(tmp_path / "node1" / name for name in ("ca.pem", "device.pem", "device.key"))
    )
    connected = 0
    for command in commands_of("pki_offline.md"):
        run(command)
        if Path(certs.cafile).exists():
            await connect(certs)
            connected += 1

    assert connected > 5


async def test_command_for_tests_and_the_line_that_it_prints(run, tmp_path, monkeypatch):
    [command] = commands_of("pki_test.md")
    line = run(command).strip().splitlines()[-1].strip()
    monkeypatch.chdir(tmp_path)

    name, _, expression = line.partition(" = ")

    assert name == "certs"
    await connect(eval(expression, {"aiomas": aiomas}))
    run("aiomas pki check certs")
