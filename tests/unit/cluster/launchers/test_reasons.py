"""What a command has said is taken for what it means, and shown."""

from __future__ import annotations

import pytest

from aiomas.cluster.hosts import HostSpec
from aiomas.cluster.launchers import reasons

HOST = HostSpec("user@node1", name="a")


@pytest.mark.parametrize(
    ("code", "said", "meaning"),
    [
        (127, "sh: 1: py: not found", "has no py that can be run: name one with HostSpec(python="),
        (126, "sh: 1: py: Permission denied", "has no py that can be run"),
        (1, "OCI: no space: No space left on device", "cannot be used: its disk is full"),
        (1, "sudo: a password is required", "does not let us in: a key for it has to be"),
        (255, "Host key verification failed.", "has a key that is not in known_hosts: run `ssh us"),
        (255, "", "cannot be reached"),
        (-9, "", "has no supervisor"),
    ],
)
def test_what_is_meant_is_said_first(code, said, meaning):
    assert reasons.why(HOST, "py", ["run", "a b"], code, said).startswith(f"a {meaning}")


def test_the_command_and_its_end_are_shown():
    assert reasons.why(HOST, "py", ["run", "a b"], -9, " ") == (
        "a has no supervisor; `run 'a b'` was killed by SIGKILL, and has said nothing"
    )


def test_braces_in_names_do_no_harm():
    assert "has no {host} that" in reasons.why(HOST, "{host}", ["run"], 127, "")


def test_what_was_said_does_nothing_to_a_terminal_and_is_cut():
    message = reasons.late(HOST, 3, ["run"], "x" * 5000 + "\x1b[2J\r\nend\a")
    assert message.startswith("a has not answered within 3 s; `run` was killed, and has said:\nx")
    assert message.endswith("x?[2J\nend?")
    assert len(message) < 2100
