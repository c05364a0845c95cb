"""The command at a terminal: it asks, does not show what is secret, and takes no for an answer."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from pki import authority

ROOT = Path(__file__).parents[3]
SECRET = "correct horse"


class Terminal:
    """A pseudo-terminal in which `python -m pki` runs."""

    def __init__(self, folder, *arguments):
        self.ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pki", *arguments],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT), "TERM": "dumb", "SUDO_USER": "tester"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - no threads here
        )
        os.close(theirs)
        self.seen = ""
        self.unread = ""

    def read_until(self, text):
        """Wait for *text*; None: for the end."""
        deadline = time.monotonic() + 15
        while text is None or text not in self.unread:
            assert select.select([self.ours], [], [], deadline - time.monotonic())[0], self.seen
            try:
                data = os.read(self.ours, 4096).decode()
            except OSError:  # so Linux says that nobody has the other end any more
                data = ""
            if not data:
                assert text is None, f"no {text!r} in {self.seen!r}"
                break
            self.seen += data
            self.unread += data
        if text is not None:
            self.unread = self.unread.partition(text)[2]

    def answer(self, question, reply):
        self.read_until(question)
        # The question is there before the echo is off: what is typed in between would be shown.
        deadline = time.monotonic() + 15
        secret = "assphrase" in question or "again" in question
        while secret and termios.tcgetattr(self.ours)[3] & termios.ECHO:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.write(self.ours, reply.encode())

    def end(self):
        self.read_until(None)
        return self.process.wait(15)


@pytest.fixture
def terminal(tmp_path):
    with contextlib.ExitStack() as stack:

        def start(*arguments):
            running = Terminal(tmp_path, *arguments)
            stack.callback(os.close, running.ours)
            stack.callback(running.process.wait)
            stack.callback(running.process.kill)
            return running

        yield start


def test_passphrase_is_asked_twice_and_not_shown(terminal, tmp_path):
    init = terminal("init", "ca")
    init.answer("New passphrase for the CA's key: ", f"{SECRET}\n")
    init.answer("The same again: ", f"{SECRET}\n")

    assert init.end() == 0
    assert SECRET not in init.seen
    key, certificate = ((tmp_path / "ca" / name).read_bytes() for name in ("ca.key", "ca.pem"))
    authority.load_authority(certificate, key, SECRET)


def test_passphrase_that_was_mistyped_is_asked_for_again(terminal, tmp_path):
    init = terminal("init", "ca")
    init.answer("New passphrase", "one\n")
    init.answer("The same again", "two\n")
    init.answer("New passphrase", f"{SECRET}\n")
    init.answer("The same again", f"{SECRET}\n")

    assert init.end() == 0
    assert (tmp_path / "ca" / "index.json").exists()


def test_interrupt_leaves_nothing(terminal, tmp_path):
    init = terminal("init", "ca")
    init.answer("New passphrase", "\x03")

    assert init.end() == 1
    assert "Traceback" not in init.seen
    assert list(tmp_path.iterdir()) == []


def test_request_is_shown_and_signed_after_a_yes(terminal, tmp_path):
    init = terminal("init", "ca", "--name", "plant")
    init.answer("New passphrase", f"{SECRET}\n")
    init.answer("The same again", f"{SECRET}\n")
    assert init.end() == 0
    assert terminal("request", "node1", "--dns", "node1.example").end() == 0

    refused = terminal("sign", "device.csr")
    refused.answer("Sign it? [y/N]: ", "n\n")
    assert refused.end() == 1
    assert "DNS:node1.example, URI:spiffe://plant/node1" in refused.seen
    assert not (tmp_path / "device.pem").exists()

    wrong = terminal("sign", "device.csr")
    wrong.answer("Sign it?", "y\n")
    wrong.answer("Passphrase of the CA's key: ", "wr0ng\n")
    assert wrong.end() == 1
    assert "wr0ng" not in wrong.seen
    assert "Traceback" not in wrong.seen

    signed = terminal("sign", "device.csr")
    signed.answer("Sign it?", "y\n")
    signed.answer("Passphrase of the CA's key: ", f"{SECRET}\n")
    assert signed.end() == 0
    assert SECRET not in signed.seen
    info = authority.inspect((tmp_path / "device.pem").read_bytes())
    assert info.names.dns == ("node1.example",)


def test_key_without_passphrase_is_not_asked_about(terminal):
    assert terminal("init", "ca", "--no-passphrase").end() == 0

    issued = terminal("issue", "node1")

    assert issued.end() == 0
    assert "assphrase" not in issued.seen
