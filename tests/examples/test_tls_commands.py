"""The openssl commands in the guide about TLS make certificates with which containers connect."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import aiomas

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "tls.md"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl command")
async def test_commands_of_the_guide(tmp_path):
    blocks = re.findall(r"```console\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    commands = re.split(r"^\$ ", "".join(blocks), flags=re.MULTILINE)[1:]
    assert len(commands) > 5

    for command in commands:
        subprocess.run(
            command,
            shell=True,
            check=True,
            cwd=tmp_path,
            input="a passphrase\na passphrase\n",
            text=True,
            capture_output=True,
            timeout=20,
            start_new_session=True,  # without a terminal, openssl asks for passphrases on stdin
        )

    assert (tmp_path / "device.key").stat().st_mode & 0o077 == 0
    assert "ENCRYPTED" in (tmp_path / "ca.key").read_text()
    certs = aiomas.SSLCerts(*(tmp_path / name for name in ("ca.pem", "device.pem", "device.key")))
    async with (
        aiomas.Container.open(("127.0.0.1", 0), ssl=certs) as here,
        aiomas.Container.open(("localhost", 0), ssl=certs) as there,
    ):
        for container, other in [(here, there), (there, here)]:
            url = aiomas.Agent(other).addr
            assert await container.connect(url)
