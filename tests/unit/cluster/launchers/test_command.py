"""A supervisor is started by a command, or the error says why not; in no case is anything left."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time

import psutil
import pytest

import aiomas
from aiomas._hello import VERSION
from aiomas.cluster.boot import CONTROL_VERSION
from aiomas.cluster.control import Host
from aiomas.cluster.hosts import HostSpec
from aiomas.cluster.launchers import command
from aiomas.cluster.launchers.command import CommandLauncher
from aiomas.exceptions import ClusterError
from tests.unit.cluster.fakes import BOUND, until
from tests.unit.cluster.launchers.far_ends import (
    bare_python,
    executable,
    old_aiomas,
    other_aiomas,
)

NOISY = ["sh", "-c", 'echo Welcome; printf "$ "; echo to {host} >&2; exec "$@"', "sh"]


def far(host="far", **kwargs):
    return HostSpec(host, **{"python": sys.executable} | kwargs)


async def launch(prefix, spec=None, timeout=BOUND, **kwargs):
    return await CommandLauncher(prefix, **kwargs).launch(spec or far(), timeout)


async def failure(prefix, spec=None, timeout=BOUND, **kwargs):
    with pytest.raises(ClusterError) as failed:
        await launch(prefix, spec, timeout, **kwargs)
    return str(failed.value)


async def told(link):
    """Return what the supervisor of ``other_aiomas`` tells."""
    loop = asyncio.get_running_loop()
    link.sock.setblocking(False)
    data = b""
    async with asyncio.timeout(BOUND):
        await loop.sock_sendall(link.sock, b"tell")
        while not data.endswith(b"\n"):
            data += await loop.sock_recv(link.sock, 65536)
        await loop.sock_sendall(link.sock, b"and back")
        assert await loop.sock_recv(link.sock, 100) == b"and back"
        assert await link.ended == 0
    link.sock.close()
    return json.loads(data)


async def test_a_supervisor_answers_through_all_noise_and_ends_with_its_stream():
    host = Host(print, print)
    await host.launch(CommandLauncher(NOISY), far(), BOUND, lambda: None)
    link = host._link
    assert link is not None
    try:
        assert list(await host.call("status", timeout=BOUND)) == []
        assert link.said() == "to far"
        supervisor, *others = psutil.Process().children(recursive=True)
        assert os.getsid(supervisor.pid) == supervisor.pid  # Ctrl-C does not reach it
        assert len(others) == 1  # its fork server
    finally:
        await host.close(BOUND)
    assert await link.ended == 0
    _, left = psutil.wait_procs([supervisor, *others], BOUND)
    assert not left


async def test_a_supervisor_behind_a_shell_answers():
    host = Host(print, print)
    prefix = ["sh", "-c", 'shift; sh -c "$*"', "sh", "{host}"]  # what ssh does
    await host.launch(CommandLauncher(prefix, shell=True), far(), BOUND, lambda: None)
    try:
        assert list(await host.call("status", timeout=BOUND)) == []
    finally:
        await host.close(BOUND)


async def test_the_facts_about_a_host_are_known():
    before = time.time()
    link = await launch(["env", "SSH_CONNECTION=10.0.0.1 4711 10.0.0.2 22"])
    link.sock.close()
    assert await link.ended == 0
    facts = link.facts
    assert facts["hostname"] == socket.gethostname()
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))
    assert facts["path"] == sys.executable
    assert facts["aiomas"] == aiomas.__version__
    assert facts["control"] == CONTROL_VERSION
    assert facts["cores"] >= 1
    assert before <= facts["asked"] <= facts["clock"] <= facts["answered"] <= time.time()
    assert facts["address"] == "10.0.0.2"


@pytest.mark.parametrize(
    ("host", "address"),
    [("user@127.0.0.3", "127.0.0.3"), ("no-such.invalid", None), ("::1", "::1")],
)
async def test_the_address_of_a_host_is_the_one_that_its_name_stands_for(
    monkeypatch, host, address
):
    monkeypatch.setenv("SSH_CONNECTION", "10.0.0.1 4711 10.0.0.2 22")  # that of the driver
    link = await launch(["env"], far(host, name="far"))
    link.sock.close()
    await link.ended
    assert link.facts.get("address") == address


async def test_variables_and_the_working_directory_are_those_of_the_host(tmp_path, monkeypatch):
    monkeypatch.setenv("AIOMAS_PKI_PASSPHRASE", "swordfish")
    monkeypatch.setenv("FROM_HERE", "1")
    cwd = other_aiomas(tmp_path, "9.9")
    env = {"TEXT": "a 'b' \"c\"\n{host} $HOME", "PYTHONPATH": "/from/env", "FROM_HERE": "2"}
    link = await launch(["env", "HOST={host}", "BRACES={}{x}"], far(cwd=cwd, env=env))
    found = await told(link)
    assert found["env"].items() >= {**env, "HOST": "far", "BRACES": "{}{x}"}.items()
    assert "AIOMAS_PKI_PASSPHRASE" not in found["env"]
    assert found["cwd"] == cwd
    assert found["path"][:2] == [cwd, "/from/env"]  # the latter is looked at when Python starts
    assert found["argv"] == sys.argv[:1]
    assert found["inheritable"] == [False, False]
    assert found["fds"][0] == "/dev/null"
    assert found["fds"][1] == found["fds"][2]
    assert link.said() == "printed"
    assert link.facts["aiomas"] == "9.9"  # another one that speaks as we do
    assert link.facts["wire"] == VERSION


@pytest.mark.parametrize("env", [{}, {"A": "1"}])
async def test_nothing_in_the_directory_of_the_login_is_run(tmp_path, env):
    for name in ("json", "io", "gc", "aiomas", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text("print('run')\nraise SystemExit\n")
    link = await launch(["env", "-C", str(tmp_path)], far(env=env))
    link.sock.close()
    assert await link.ended == 0
    assert link.facts["cwd"] == str(tmp_path)
    assert link.said() == ""


async def test_names_that_begin_with_the_home_directory_are_understood(tmp_path):
    (tmp_path / "a folder").mkdir()
    cwd = other_aiomas(tmp_path / "a folder", "9.9")
    executable(tmp_path / "a python", f'exec "{sys.executable}" "$@"\n')
    prefix = ["env", f"HOME={tmp_path}", "sh", "-c"]
    spec = far(python="~/a python", cwd="~/a folder")
    assert (await told(await launch(prefix, spec, shell=True)))["cwd"] == cwd


async def test_a_python_that_is_too_old_is_said_to_be(tmp_path):
    # In words of JSON, as the real ones do: see test_bootstrap.py.
    old = executable(tmp_path / "python3.8", OLD_PYTHON.replace("PYTHON", sys.executable))
    assert await failure(["env"], far(python=old)) == (
        f"Python 3.8.18 at {sys.executable} on far is too old: aiomas needs 3.11 or newer; "
        f"name another one with HostSpec(python=...)"
    )


# It is asked for its version by the program that is sent.
OLD_PYTHON = """\
exec "PYTHON" -c 'import sys; sys.version_info = (3, 8, 18); '"$2"
"""


async def test_a_host_without_aiomas_is_told_how_to_get_it(tmp_path):
    message = await failure(["env"], far(python=bare_python(tmp_path)))
    assert message.startswith(f"There is no aiomas on far for {sys.executable}: run ")
    assert f"-m pip install aiomas=={aiomas.__version__}` there" in message


async def test_an_aiomas_without_clusters_is_of_another_version(tmp_path):
    message = await failure(["env"], far(cwd=old_aiomas(tmp_path, "2.0.1")))
    assert f"aiomas 2.0.1 at {sys.executable} on far and aiomas {aiomas.__version__}" in message
    assert f"they speak version 0 and version {CONTROL_VERSION} of the control" in message


@pytest.mark.parametrize("control", [CONTROL_VERSION + 1, None])
async def test_an_aiomas_that_speaks_differently_is_refused(tmp_path, control):
    message = await failure(["env"], far(cwd=other_aiomas(tmp_path, "9.9", control)))
    assert f"aiomas 9.9 at {sys.executable} on far and aiomas {aiomas.__version__} here" in message
    assert f"version {control or 0} and version {CONTROL_VERSION}" in message
    assert "wire" not in message


async def test_an_aiomas_whose_containers_would_not_understand_ours_is_refused(tmp_path):
    message = await failure(["env"], far(cwd=other_aiomas(tmp_path, "9.9", wire=9)))
    assert f"they speak version 9 and version {VERSION} of the wire protocol's ext" in message


async def test_an_aiomas_that_lacks_something_is_said_to(tmp_path):
    cwd = other_aiomas(tmp_path, "9.9", program="import no_such_module")
    assert await failure(["env"], far(cwd=cwd)) == (
        f"far cannot be used: {sys.executable} cannot import aiomas: "
        "No module named 'no_such_module'"
    )


async def test_a_working_directory_that_is_missing_is_named(tmp_path):
    assert await failure(["env"], far(cwd=f"{tmp_path}/none")) == (
        f"far cannot be used: its directory '{tmp_path}/none' cannot be used "
        "(No such file or directory)"
    )


async def test_a_command_that_is_missing_is_named(tmp_path):
    assert await failure(["no-such-command", "{host}"]) == (
        "far cannot be reached: no-such-command cannot be run (No such file or directory)"
    )
    (tmp_path / "file").touch()
    assert "cannot be run (Permission denied)" in await failure([str(tmp_path / "file")])


async def test_a_python_that_is_missing_is_named():
    message = await failure(["env"], far(python="no-such-python"))
    assert message.startswith(
        "far has no no-such-python that can be run: name one with HostSpec(python=...); "
        "`env` ended with exit code 127, and has said:\nenv: "
    )


async def test_what_ends_without_an_answer_is_shown_with_its_words():
    assert await failure(["sh", "-c", "echo to {host}; echo no >&2; exit 3"]) == (
        "far has no supervisor; `sh -c 'echo to far; echo no >&2; exit 3'` ended with exit code 3, "
        "and has said:\nto far\n\nno"
    )


async def test_what_never_answers_is_ended_in_time_with_its_children(tmp_path):
    file = tmp_path / "pid"
    script = f'sleep 60 & echo $! >{file}; echo "Password: " >&2; cat >{os.devnull}'
    message = await failure(["sh", "-c", script], timeout=0.5)
    assert message.startswith("far has not answered within 0.5 s; `sh -c ")
    assert message.endswith(" was killed, and has said:\nPassword:")
    child = int(file.read_text())
    await until(lambda: not psutil.pid_exists(child) or is_zombie(child))


def is_zombie(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("what", ["cat /dev/zero", "yes noise"])
async def test_noise_has_a_bound(monkeypatch, what):
    monkeypatch.setattr(command, "_END_TIMEOUT", 0.1)
    message = await failure(["sh", "-c", f"{what} & wait"])
    assert message.startswith("far has not answered: is something in the files of its shell that")
    assert len(message) < 4000
    assert all(char.isprintable() or char == "\n" for char in message)


async def test_what_only_repeats_our_words_has_not_answered():
    message = await failure(["sh", "-c", "cat"], timeout=0.5)
    assert message.startswith("far has not answered within 0.5 s")


async def test_what_goes_on_to_talk_after_the_answer_is_refused(monkeypatch):
    monkeypatch.setattr(command, "_END_TIMEOUT", 0.1)
    # It writes in between what belongs to the control stream.
    script = '"$@" | { IFS= read -r a; IFS= read -r b; printf "%s\\n%s\\nmore\\n" "$a" "$b"; cat; }'
    message = await failure(["sh", "-c", script, "sh"])
    assert message.startswith("far has not answered")


async def test_a_launch_that_is_cancelled_leaves_nothing(tmp_path):
    file = tmp_path / "began"
    launching = asyncio.create_task(launch(["sh", "-c", f"touch {file}; sleep 60"]))
    await until(file.exists)
    launching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await launching
    assert psutil.Process().children() == []


async def test_it_can_be_killed_with_all_it_has_started():
    link = await launch(["sh", "-c", '"$@"; exit', "sh"])
    children = psutil.Process().children(recursive=True)
    assert len(children) >= 2
    link.kill()
    assert await link.ended == -signal.SIGKILL
    link.kill()
    link.sock.close()
    _, left = psutil.wait_procs(children, BOUND)
    assert not left


async def test_the_end_of_its_stream_ends_what_does_not_belong_to_us():
    # As with sudo, whose process nobody else may kill.
    link = await launch(["setsid", "-w"])
    children = psutil.Process().children(recursive=True)
    link.sock.close()
    assert await link.ended == 0
    _, left = psutil.wait_procs(children, BOUND)
    assert not left


@pytest.mark.parametrize("prefix", ["ssh {host}", [], [1]])
def test_a_prefix_has_to_be_a_list_of_words(prefix):
    with pytest.raises(ValueError, match="prefix must be a list of words"):
        CommandLauncher(prefix)
