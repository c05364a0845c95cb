"""The lab itself: its hosts are there, its faults happen, and nothing is left of it at its end."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.hosts import lab as module
from tests.e2e.hosts.detached import BOUND, Process
from tests.e2e.hosts.lab import ROOT, Lab, LabError, LabHost, why_not
from tests.e2e.hosts.probes import Mailbox, round_trip, transfer

SPACES = ("net", "uts", "mnt", "pid")


def ssh(lab: Lab, host: str, *command: str) -> subprocess.CompletedProcess[str]:
    options = [*lab.ssh_options, "-o", "BatchMode=yes"]
    return subprocess.run(
        ["ssh", *options, host, "--", *command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=False,
    )


def assert_lost(
    box: Mailbox, source: LabHost | None, fault: Callable[[], object], end: Callable[[], object]
) -> None:
    """Check that the fault loses what is sent from *source*, and only until its end."""
    box.before(source, "before")  # from now on, they know each other's hardware addresses
    fault()
    box.send(source, "lost")
    end()
    assert "lost" not in box.before(source, "after")


def spaces_of(pid: int) -> set[str]:
    return {str(Path(f"/proc/{pid}/ns/{kind}").readlink()) for kind in SPACES}


def spaces_in_use() -> set[str]:
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            found |= spaces_of(int(folder.name))
        except OSError:  # it has ended
            continue
    return found


def addresses(host: LabHost) -> list[str]:
    """Return the host's hardware address, as its neighbours remember it, and its other one."""
    return re.findall(r"(?:ether|inet) (\S+)", host.run("ip", "address", "show", "eth0").stdout)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class TestHosts:
    def test_each_one_answers_ssh_by_its_name(self, lab):
        for host in lab.hosts:
            done = ssh(lab, host.name, "hostname")
            assert (done.stdout, done.returncode) == (f"{host.name}\n", 0), done.stderr

    def test_ssh_refuses_a_host_with_another_key_until_all_is_restored(self, lab):
        lab.change_key(lab.hosts[0])
        done = ssh(lab, "h1", "true")
        assert done.returncode == 255
        assert "Host key verification failed" in done.stderr
        lab.restore()
        assert ssh(lab, "h1", "true").returncode == 0

    def test_they_reach_each_other_and_the_driver_by_name(self, lab):
        one, two, _ = lab.hosts
        with Mailbox.of(lab, None) as box:
            box.before(one, "one")
            box.before(two, "two")
        with Mailbox.of(lab, one) as box:
            box.before(two, "two")
            box.before(None, "driver")
        names = "import socket; print(*map(socket.gethostbyname, ['driver', 'h1', 'h2']))"
        found = one.run(sys.executable, "-c", names).stdout.split()
        assert found == [lab.driver_address, one.address, two.address]

    def test_each_has_private_folders_and_sees_the_project(self, lab):
        one, two, _ = lab.hosts
        for folder in ("/tmp", "/dev/shm", "/run"):
            file = Path(folder, "of-h1")
            one.run("touch", str(file))
            assert one.path(str(file)).exists()
            assert not two.path(str(file)).exists()
            assert not file.exists()
        code = "import aiomas; print(aiomas.__file__)"
        assert one.run("env").stdout.count("AIOMAS") == 0
        found = one.run(sys.executable, "-c", code).stdout.strip()
        assert found == str(ROOT / "aiomas/__init__.py")

    def test_what_runs_inside_is_seen_from_outside(self, lab):
        one, two, _ = lab.hosts
        assert ssh(lab, "h1", "sleep 4711 </dev/null >/dev/null 2>&1 &").returncode == 0
        (found,) = one.processes()
        assert found.command == "sleep 4711"
        assert two.processes() == []
        os.kill(found.pid, signal.SIGKILL)
        until(lambda: one.processes() == [])

    def test_a_command_inside_that_fails_raises_its_errors(self, lab):
        with pytest.raises(subprocess.CalledProcessError) as caught:
            lab.hosts[0].run("sh", "-c", "echo no >&2; exit 3")
        assert (caught.value.returncode, caught.value.stderr) == (3, "no\n")


class TestFaults:
    def test_a_cut_cable_loses_all_until_it_heals(self, lab):
        one, two, _ = lab.hosts
        with Mailbox.of(lab, one) as box:
            assert_lost(box, None, one.cut, one.heal)
            assert_lost(box, two, one.cut, one.heal)

    def test_dropping_between_two_loses_what_either_sends_the_other(self, lab):
        one, two, three = lab.hosts

        def end():
            box.before(three, "from another host")
            lab.undrop(one, two)

        for target, source in ((one, two), (two, one)):
            with Mailbox.of(lab, target) as box:
                assert_lost(box, source, lambda: lab.drop(one, two), end)

    def test_dropping_one_way_loses_nothing_on_the_way_back(self, lab):
        one, two, _ = lab.hosts

        def end():
            back.before(two, "on the way back")
            lab.undrop(one, two)

        with Mailbox.of(lab, two) as box, Mailbox.of(lab, one) as back:
            assert_lost(box, one, lambda: lab.drop(one, two, one_way=True), end)

    def test_the_driver_can_be_one_of_those_two(self, lab):
        one = lab.hosts[0]
        with Mailbox.of(lab, one) as box:
            assert_lost(box, None, lambda: lab.drop(None, one), lambda: lab.undrop(None, one))
        with Mailbox.of(lab, None) as box:
            assert_lost(box, one, lambda: lab.drop(None, one), lambda: lab.undrop(None, one))

    def test_dropping_goes_on_after_a_boot(self, lab):
        one = lab.hosts[0]

        def fault():
            lab.drop(one, None, one_way=True)
            one.crash()
            one.boot()

        with Mailbox.of(lab, None) as box:
            assert_lost(box, one, fault, lambda: lab.undrop(one, None))

    @pytest.mark.parametrize("direction", ["in", "out"])
    def test_loss_takes_its_part_in_one_direction_only(self, lab, direction):
        one = lab.hosts[0]
        into = direction == "in"
        with (
            Mailbox.of(lab, one if into else None) as box,
            Mailbox.of(lab, None if into else one) as back,
        ):
            source, other = (None, one) if into else (one, None)
            box.before(source, "before")
            one.loss(50, direction)
            box.send(source, "some", 400)
            back.before(other, "before")
            back.send(other, "all", 400)
            one.loss(0, direction)
            assert 100 < box.before(source, "after").count("some") < 300  # 10 standard deviations
            assert back.before(other, "after").count("all") == 400

    def test_loss_of_all_is_in_both_directions(self, lab):
        one = lab.hosts[0]
        for target, source in ((None, one), (one, None)):
            with Mailbox.of(lab, target) as box:
                assert_lost(box, source, lambda: one.loss(100), lambda: one.loss(0))

    def test_a_delay_is_part_of_each_round_trip_twice(self, lab):
        one, two, _ = lab.hosts
        one.delay(150)
        assert round_trip(one) >= 0.3
        assert min(round_trip(two) for _ in range(5)) < 0.1
        one.delay(20)
        assert 0.04 <= min(round_trip(one) for _ in range(5)) < 0.3
        one.no_delay()
        assert min(round_trip(one) for _ in range(5)) < 0.04

    def test_a_connection_lives_through_a_delay_that_comes_and_goes(self, lab):
        one = lab.hosts[0]
        with subprocess.Popen(
            ["ssh", *lab.ssh_options, "h1", "cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as cat:
            assert cat.stdin is not None
            assert cat.stdout is not None
            for change in (lambda: one.delay(10), one.no_delay):
                change()
                cat.stdin.write("line\n")
                cat.stdin.flush()
                assert cat.stdout.readline() == "line\n"

    def test_a_rate_limits_what_a_host_gets_and_what_it_sends(self, lab):
        one = lab.hosts[0]
        one.rate("1mbit")
        gets, sends = transfer(one)
        # 128 of 160 KB take 1 s; the first 32 KB pass at once.
        assert gets > 0.9
        assert sends > 0.9
        one.no_rate()
        gets, sends = transfer(one)
        assert gets + sends < 0.9

    def test_a_full_disk_is_full_for_that_host_only(self, lab):
        one, two, _ = lab.hosts
        one.fill_disk()
        write = ["tee", "/tmp/file"]
        done = one.run(*write, input="more", check=False)
        assert done.returncode != 0
        assert "No space left" in done.stderr
        two.run(*write, input="more")
        one.free_disk()
        one.run(*write, input="more")


class TestPower:
    def test_nobody_hears_of_a_crash(self, lab):
        one = lab.hosts[0]
        with socket.create_connection((one.address, 22), BOUND) as connection:
            assert connection.recv(4) == b"SSH-"
            while connection.recv(1) != b"\n":
                pass
            one.crash()
            connection.settimeout(0.2)
            with pytest.raises(TimeoutError):
                connection.recv(1)

    def test_a_crash_ends_all_that_runs_there_and_nothing_elsewhere(self, lab):
        one, two, _ = lab.hosts
        for host in (one, two):
            ssh(lab, host.name, "sleep 4711 </dev/null >/dev/null 2>&1 &")
        process = Process.of(one.processes()[0].pid)
        one.crash()
        assert not process.is_alive
        assert not one.is_up
        assert one.processes() == []
        with pytest.raises(LabError, match="h1 is switched off"):
            one.run("true")
        (left,) = two.processes()
        os.kill(left.pid, signal.SIGKILL)

    def test_it_boots_with_empty_folders_at_its_old_address(self, lab):
        one, two, _ = lab.hosts
        with Mailbox.of(lab, two) as box:
            box.before(one, "before")
            one.run("touch", "/tmp/file")
            hardware = addresses(one)
            one.crash()
            one.boot()
            assert addresses(one) == hardware
            assert one.run("ls", "/tmp").stdout == ""
            assert ssh(lab, "h1", "hostname").stdout == "h1\n"
            box.before(one, "after")

    def test_a_host_whose_first_process_was_killed_can_be_booted(self, lab):
        one = lab.hosts[0]
        process = Process.of(one.pid)
        os.kill(one.pid, signal.SIGKILL)
        process.wait()
        assert not one.is_up
        one.crash()
        one.boot()
        assert ssh(lab, "h1", "true").returncode == 0

    def test_restoring_ends_all_faults(self, lab):
        one, two, three = lab.hosts
        one.cut()
        two.delay(100)
        two.rate("1mbit")
        two.fill_disk()
        lab.drop(None, three)
        lab.drop(two, three)
        three.loss(100)
        lab.hosts[2].crash()
        lab.restore()
        for host in lab.hosts:
            assert min(round_trip(host) for _ in range(5)) < 0.1
            assert sum(transfer(host)) < 0.9
            host.run("tee", "/tmp/file", input="more")
        with Mailbox.of(lab, two) as box:
            box.before(three, "after")


class TestEnd:
    def test_nothing_is_left_of_a_closed_lab(self):
        links = {path.name for path in Path("/sys/class/net").iterdir()}
        mounts = Path("/proc/self/mountinfo").read_text()
        with Lab(1) as lab:
            host = lab.hosts[0]
            host.delay(1)
            ssh(lab, "h1", "sleep 4711 </dev/null >/dev/null 2>&1 &")
            (sleep,) = host.processes()
            spaces = spaces_of(host.pid) - spaces_of(os.getpid())
            assert len(spaces) == len(SPACES)
            assert {path.name for path in Path("/sys/class/net").iterdir()} > links
        assert {path.name for path in Path("/sys/class/net").iterdir()} == links
        assert Path("/proc/self/mountinfo").read_text() == mounts
        assert not lab.folder.exists()
        assert not Path(f"/proc/{sleep.pid}").exists()
        assert not spaces & spaces_in_use()
        assert not [line for line in commands() if str(lab.folder) in line]

    def test_a_lab_whose_owner_was_killed_ends_and_the_next_one_removes_the_rest(self):
        code = (
            "import os; from tests.e2e.hosts.lab import Lab\n"
            "with Lab(2) as lab:\n"
            "    lab.hosts[0].delay(1)\n"
            "    print(lab.folder, lab.hosts[0].pid, lab.hosts[1].pid, flush=True)\n"
            "    input()\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as owner:
            assert owner.stdout is not None
            folder, *pids = owner.stdout.readline().split()
            spaces = {space for pid in pids for space in spaces_of(int(pid))}
            spaces -= spaces_of(os.getpid())
            owner.kill()
        until(lambda: not spaces & spaces_in_use())
        left = Path(folder, "ssh_config")
        assert left.exists()
        file = left.stat().st_ino
        link = Path("/sys/class/net", f"aiomas-lab{folder.rpartition('-')[2]}")
        with Lab(1) as lab:
            if lab.folder == Path(folder):  # the number is free again
                assert not (lab.folder / "h2").exists()
            else:
                assert not left.exists() or left.stat().st_ino != file
                assert not link.exists()
            assert ssh(lab, "h1", "true").returncode == 0

    def test_two_labs_at_the_same_time_know_nothing_of_each_other(self, lab):
        with Lab(1) as other:
            assert other.number != lab.number
            with Mailbox.of(lab, lab.hosts[0]) as box:
                box.before(None, "driver")
                other.hosts[0].cut()
                assert box.before(None, "again") == []
        assert ssh(lab, "h1", "true").returncode == 0


class TestWhereThereCanBeNone:
    def test_a_tool_that_is_not_there_is_named(self, monkeypatch):
        monkeypatch.setattr(module, "TOOLS", ("ip", "no-such-tool"))
        assert why_not() == "no-such-tool not found: see scripts/install-host-tools"

    @pytest.mark.parametrize("required", ["", "1"])
    def test_tests_skip_or_fail_with_the_reason(self, lab, required, tmp_path):
        # In a user namespace without a mapping nobody is root.
        done = subprocess.run(
            [
                *("unshare", "--user", "--", sys.executable, "-m", "pytest"),
                *("-p", "no:cacheprovider", f"--basetemp={tmp_path}", "-rs"),
                f"{__file__}::TestHosts::test_each_one_answers_ssh_by_its_name",
            ],
            cwd=ROOT,
            env={**os.environ, "AIOMAS_REQUIRE_HOSTS": required},
            capture_output=True,
            text=True,
            check=False,
        )
        assert "there can be no hosts here: only root can" in done.stdout, done.stderr
        assert ("1 error" if required else "1 skipped") in done.stdout
        assert (done.returncode != 0) == bool(required)


def commands() -> list[str]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # it has ended
            continue
    return found
