"""`aiomas cluster`: what each command prints, for people and for programs, and its exit code."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from aiomas import cli
from aiomas.cluster import commands, program
from aiomas.cluster.hosts import host_specs
from aiomas.cluster.rundir import RunDirectory

PROGRAM = """
async def main(cluster, *args):
    print(cluster.options, args)
    if args: raise ValueError("bad " + args[0])
    return 5
"""


def run(*arguments):
    return CliRunner().invoke(cli.aiomas, ["cluster", *arguments])


def failure(*arguments, code=1):
    """Return the line that a command fails with."""
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    [line] = result.stderr.splitlines()
    return line


def words(line):
    """Return a line with single spaces."""
    return " ".join(line.split())


class FakeCluster:
    def __init__(self, **options):
        if options.get("clock") == "nonsense":
            raise ValueError("clock must be a date, got 'nonsense'")
        if options.get("name") == "nonsense":
            raise ValueError("name must be short, got 'nonsense'")
        assert options.pop("progress") is True
        self.options = options

    def on_event(self, callback):
        pass

    async def __aenter__(self):
        return self

    async def __aexit__(self, *exc_info):
        pass


@pytest.mark.parametrize("name", commands.cluster.commands)
def test_every_command_has_help_with_an_example(name):
    result = run(name, "--help")
    assert result.exit_code == 0
    assert "Examples:\n" in result.output
    assert f"cluster {name}" in result.output.partition("Examples:\n")[2]


def test_what_a_command_does_not_need_is_not_imported():
    code = (
        "import sys; from aiomas.cli import aiomas; "
        "aiomas(['cluster', '--help'], standalone_mode=False); "
        "print([name for name in sys.modules if name.partition('.')[0] in ('pki', 'rich')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=20
    )
    assert done.stdout.splitlines()[-1] == "[]"


class TestRun:
    @pytest.fixture(autouse=True)
    def program(self, tmp_path, monkeypatch):
        (tmp_path / "plant.py").write_text(PROGRAM)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", list(sys.path))
        monkeypatch.setattr(program, "Cluster", FakeCluster)
        before = set(sys.modules)
        yield
        for name in set(sys.modules) - before:
            del sys.modules[name]

    def test_only_options_that_were_given_are_passed_on(self):
        result = run("run", "plant.py:main", "-n", "3")
        assert (result.exit_code, result.output) == (5, "{'containers': 3} ()\n")

    def test_without_options_the_cluster_has_its_defaults(self):
        assert run("run", "plant.py:main").output == "{} ()\n"

    @pytest.mark.parametrize(
        ("arguments", "option"),
        [
            ("--transport tls", {"transport": "tls"}),
            ("--codec json", {"codec": "json"}),
            ("--loop asyncio", {"loop": "asyncio"}),
            ("--name winter", {"name": "winter"}),
            ("--seed 0", {"seed": 0}),
            ("--pin", {"pin": True}),
            ("--preload a.b --preload c", {"preload": ("a.b", "c")}),
            ("--logs", {"logs": True}),
            ("--clock 2020-01-01", {"clock": "2020-01-01"}),
            ("--lease 2.5", {"lease": 2.5}),
            ("--on-host-loss respawn", {"on_host_loss": "respawn"}),
            ("--allow-partial", {"allow_partial": True}),
            ("--insecure", {"insecure": True}),
        ],
    )
    def test_options_are_those_of_a_cluster(self, arguments, option):
        result = run("run", "plant.py:main", "-n", "1", *arguments.split())
        assert result.output == f"{option | {'containers': 1}} ()\n"

    def test_files_to_send_are_there(self, tmp_path):
        (tmp_path / "folder").mkdir()
        seen = run("run", "plant.py:main", "--sync", "plant.py", "--sync", "folder").output
        assert seen == f"{ {'sync': (Path('plant.py'), Path('folder'))} } ()\n"
        assert "nowhere" in failure("run", "plant.py:main", "--sync", "nowhere", code=2)

    def test_a_file_has_hosts_and_options_that_count_less(self, tmp_path):
        (tmp_path / "cluster.toml").write_text(
            'hosts = ["node1", "node2"]\n[cluster]\nlease = 5\ncontainers = 2\nseed = 1'
        )
        result = run("run", "plant.py:main", "--hosts", "cluster.toml", "-n4", "--lease", "7")
        hosts = host_specs(["node1", "node2"])
        options = {"hosts": hosts, "lease": 7.0, "containers": 4, "seed": 1}
        assert result.output == f"{options} ()\n"

    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ("hosts = 3", "cluster.toml, line 1: hosts must be a list"),
            ("hosts = ['a']\nhost = 3", "cluster.toml, line 2: host is not known"),
            ("hosts = [", "cluster.toml, line 1: "),
            (
                "hosts = ['a']\n[cluster]\nname = 'nonsense'",
                "cluster.toml, line 3: cluster.name must be short, got 'nonsense'",
            ),
        ],
    )
    def test_a_bad_file_is_wrong_use(self, text, line, tmp_path):
        (tmp_path / "cluster.toml").write_text(text)
        found = failure("run", "plant.py:main", "--hosts", "cluster.toml", code=2)
        assert found.startswith(f"Error: {line}")
        assert "cluster run --help" in found

    def test_what_is_wrong_on_the_command_line_is_not_in_the_file(self, tmp_path):
        (tmp_path / "cluster.toml").write_text("hosts = ['a']\n[cluster]\nname = 'winter'")
        arguments = ["--hosts", "cluster.toml", "--name", "nonsense"]
        found = failure("run", "plant.py:main", *arguments, code=2)
        assert found.startswith("Error: name must be short, got 'nonsense'")

    def test_a_ca_is_a_directory(self, tmp_path):
        seen = run("run", "plant.py:main", "-n1", "--pki", str(tmp_path)).output
        assert "'pki': " in seen
        assert str(tmp_path) in seen
        assert "nowhere" in failure("run", "plant.py:main", "--pki", "nowhere", code=2)

    def test_an_error_of_the_program_is_one_line(self):
        result = run("run", "plant.py:main", "-n1", "--", "-x")
        assert result.exit_code == 1
        assert result.stdout == "{'containers': 1} ('-x',)\n"
        assert result.stderr == (
            "Error: ValueError: bad -x (see where: aiomas cluster --debug run ...)\n"
        )

    def test_a_traceback_is_there_when_asked_for(self):
        result = run("--debug", "run", "plant.py:main", "x")
        assert isinstance(result.exception, program.ProgramFailed)
        assert isinstance(result.exception.__cause__, ValueError)

    @pytest.mark.parametrize(
        ("arguments", "word"),
        [
            ("plant", "TARGET"),
            ("plant.py:nobody", "nobody"),
            ("plant.py:main --clock nonsense", "clock must be a date"),
            ("plant.py:main -n 0", "0"),
            ("plant.py:main --transport pigeon", "pigeon"),
            ("plant.py:main --seed x", "seed"),
            ("plant.py:main --lease 0", "lease"),
            ("plant.py:main --hosts nowhere.toml", "nowhere.toml"),
            ("", "TARGET"),
        ],
    )
    def test_wrong_use_is_another_exit_code(self, arguments, word):
        line = failure("run", *arguments.split(), code=2)
        assert word in line
        assert "cluster run --help" in line

    def test_an_interrupt_is_another_exit_code(self, tmp_path):
        (tmp_path / "plant.py").write_text("async def main(cluster): raise KeyboardInterrupt")
        assert run("run", "plant.py:main").exit_code == 130


class TestLs:
    def test_there_is_nothing(self, run_base):
        assert (run("ls").exit_code, run("ls").output) == (0, "(none)\n")
        assert json.loads(run("ls", "--json").output) == []
        assert not run_base.exists()

    def test_runs_are_a_table(self, supervise):
        supervise("winter")
        supervise("summer", containers=8)
        titles, first, second = run("ls").output.splitlines()
        assert titles.split() == ["name", "pid", "for", "containers", "transport", "command"]
        assert first.split() == [
            "summer",
            "4711",
            "2",
            "min",
            "5",
            "s",
            "8",
            "unix",
            "plant.py",
            "'a",
            "b'",
        ]
        assert second.startswith("winter")

    def test_runs_are_json(self, supervise):
        supervisor = supervise("winter")
        [found] = json.loads(run("ls", "--json").output)
        assert found.pop("age") == pytest.approx(125, abs=10)
        assert found == supervisor.facts

    def test_a_run_that_starts_says_little(self, run_base):
        directory = RunDirectory.create("new")
        try:
            directory.publish({})
            _, row = run("ls").output.splitlines()
            assert row.split() == ["new", "-", "-", "-", "-"]
            assert json.loads(run("ls", "--json").output) == [{"name": "new", "age": None}]
        finally:
            directory.remove()


@pytest.mark.parametrize("command", ["status", "top", "logs", "stop"])
class TestWhichOne:
    def test_none_is_an_error(self, command, run_base):
        assert "no cluster of this user is running" in failure(command)

    def test_several_are_an_error_that_names_them(self, command, supervise):
        supervise("winter")
        supervise("summer")
        assert "summer, winter" in failure(command)

    def test_an_unknown_one_is_an_error_that_names_the_others(self, command, supervise):
        supervise("winter")
        line = failure(command, "autumn")
        assert "autumn" in line
        assert "winter" in line


class TestStatus:
    def test_is_a_table(self, supervise):
        supervisor = supervise("winter")
        supervisor.containers[1] |= {"state": "died", "exit_code": -9, "cpu": None, "rss": None}
        first, titles, *rows = run("status").output.splitlines()
        assert first == "winter: 1 of 2 containers running, unix, for 2 min 5 s, pid 4711"
        assert titles.split()[:4] == ["#", "pid", "state", "for"]
        assert words(rows[0]) == "0 5000 running 1 min 1 s 1.5 s 20.0 MiB 7 10 0 0 3 - ipc://[0]/"
        assert words(rows[1]) == "1 5001 died 1 min 1 s - - 7 10 0 0 3 -9 ipc://[1]/"

    def test_containers_are_together_with_those_of_their_host(self, supervise):
        supervisor = supervise("winter", containers=4)
        supervisor.spread("node2", "node1")
        supervisor.facts["hosts"][1] |= {
            "state": "lost",
            "since": time.time() - 62,
            "problem": "nothing was heard\nfor 3 s",
        }
        first, second, titles, *rows = run("status").output.splitlines()
        assert first.startswith("winter: 4 of 4 containers running on 1 of 2 hosts, unix, for")
        assert second == "node1: lost for 1 min 2 s: nothing was heard for 3 s"
        assert titles.split()[:3] == ["host", "#", "pid"]
        starts = [row.split()[:2] for row in rows]
        assert starts == [["node2", "0"], ["node2", "2"], ["node1", "1"], ["node1", "3"]]
        found = json.loads(run("status", "--json").output)
        assert [container["index"] for container in found["containers"]] == [0, 1, 2, 3]

    def test_one_host_has_no_column(self, supervise):
        supervise("winter").spread("node1")
        first, titles, *_ = run("status").output.splitlines()
        assert "hosts" not in first
        assert titles.split()[0] == "#"

    def test_is_json(self, supervise):
        supervise("summer")
        supervisor = supervise("winter")
        found = json.loads(run("status", "winter", "--json").output)
        assert found == {"facts": supervisor.facts, "containers": supervisor.containers}

    def test_a_supervisor_that_is_gone_is_an_error(self, run_base):
        directory = RunDirectory.create("new")
        try:
            assert "'new'" in failure("status")
        finally:
            directory.remove()


class TestTop:
    def test_is_printed_once_without_a_terminal(self, supervise):
        supervisor = supervise("winter")
        first, titles, *rows = run("top", "--interval", "0.1").output.splitlines()
        assert first.startswith("winter: 2 of 2 containers running")
        assert words(titles) == "# pid state CPU % memory agents in/s out/s restarts"
        number = int(rows[0].split()[7])
        assert 10 < number <= 100
        assert rows[1].split()[:2] == ["1", "5001"]
        assert supervisor.asked == 2

    def test_several_hosts_are_a_column(self, supervise):
        supervisor = supervise("winter")
        supervisor.spread("node1", "node2", "node3")
        supervisor.facts["hosts"][2] |= {"state": "missing", "problem": "no Python"}
        _, second, titles, *rows = run("top", "--interval", "0.1").output.splitlines()
        assert re.fullmatch(r"node3: missing for \d+ s: no Python", second)
        assert titles.split()[:2] == ["host", "#"]
        assert [row.split()[:2] for row in rows] == [["node1", "0"], ["node2", "1"]]

    def test_is_json(self, supervise):
        supervisor = supervise("winter")
        supervisor.containers[1]["cpu"] = None
        found = json.loads(run("top", "winter", "--json", "--interval", "0.1").output)
        assert found["facts"] == supervisor.facts
        first, second = found["containers"]
        assert first["pid"] == 5000
        assert first["rates"].pop("calls_in") > 0
        assert first["rates"] == {"cpu": 0, "calls_out": 0, "bytes_in": 0, "bytes_out": 0}
        assert second["rates"] is None


class TestLogs:
    @pytest.fixture
    def supervisor(self, supervise):
        supervisor = supervise("winter", containers=3)
        supervisor.log(0, "a\nb\n")
        supervisor.log(1, "".join(f"{number}\n" for number in range(50)))
        supervisor.log(2, "")
        return supervisor

    @pytest.mark.parametrize(
        "which", ["1", "winter 1", "1 --name winter"], ids=lambda which: which.replace(" ", "-")
    )
    def test_of_one_container_are_its_last_lines(self, which, supervisor):
        lines = run("logs", *which.split()).output.split()
        assert lines == [str(number) for number in range(40, 50)]
        assert run("logs", *which.split(), "-n", "2").output == "48\n49\n"

    @pytest.mark.parametrize("which", ["", "winter", "--name winter"])
    def test_of_all_have_the_index_in_front(self, which, supervisor):
        assert run("logs", *which.split(), "-n1").output == "[0] b\n[1] 49\n"

    def test_of_a_run_whose_name_is_a_number(self, supervisor, supervise):
        supervise("2024").log(0, "x\n")
        assert run("logs", "--name", "2024", "0").output == "x\n"

    @pytest.mark.parametrize("which", ["a b", "1 2 3", "winter 1 2", "winter --name winter", "1 a"])
    def test_nonsense_is_wrong_use(self, which, run_base):
        assert "[NAME] [INDEX]" in failure("logs", *which.split(), code=2)

    def test_of_a_container_that_is_not_there_are_an_error(self, supervisor):
        assert "there is no 3" in failure("logs", "3")

    def test_of_a_run_that_starts_are_an_error(self, run_base):
        directory = RunDirectory.create("new")
        try:
            assert "it is starting" in failure("logs")
        finally:
            directory.remove()

    @pytest.mark.parametrize("which", ["0", ""])
    def test_are_followed_until_the_run_ends(self, which, supervisor):
        def go_on():
            supervisor.log(0, "c\n")
            supervisor.end()

        timer = threading.Timer(0.5, go_on)
        timer.start()
        lines = run("logs", "-f", "-n1", *which.split()).output.splitlines()
        timer.join()
        if which:
            assert lines == ["b", "c"]
        else:  # files are read at the same time
            assert (set(lines[:2]), lines[2:]) == ({"[0] b", "[1] 49"}, ["[0] c"])

    def test_of_several_hosts_are_read_by_the_supervisor(self, supervisor):
        assert run("logs", "-n1").output == "[0] b\n[1] 49\n"
        assert supervisor.reads == 0
        supervisor.spread("node1", "node2")
        assert run("logs", "-n1").output == "[0] b\n[1] 49\n"
        assert run("logs", "-n2", "1").output == "48\n49\n"
        assert supervisor.reads > 0
        assert "there is no 3" in failure("logs", "3")

    @pytest.mark.parametrize("which", ["0", "winter"])
    def test_ctrl_c_ends_them(self, which, supervisor):
        command = [sys.executable, "-m", "aiomas.cli", "cluster", "logs", "-f", "-n1", which]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            try:
                assert process.stdout
                assert process.stdout.readline()
                process.send_signal(signal.SIGINT)
                _, errors = process.communicate(timeout=20)
            except BaseException:
                process.kill()
                raise
        assert (process.returncode, errors) == (130, b"")


class TestStop:
    def test_ends_when_the_run_has_gone(self, supervise):
        supervise("winter")
        result = run("stop")
        assert (result.exit_code, result.stdout, result.stderr) == (0, "", "stopped winter\n")
        assert run("ls").output == "(none)\n"

    def test_of_one_leaves_the_others(self, supervise):
        supervise("winter")
        supervise("summer")
        assert run("stop", "winter").exit_code == 0
        assert [facts["name"] for facts in json.loads(run("ls", "--json").output)] == ["summer"]

    def test_is_bounded(self, supervise):
        supervise("winter").obeys = False
        began = time.monotonic()
        line = failure("stop", "--timeout", "0.2")
        assert "'winter' (pid 4711) has not ended within 0.2 s" in line
        assert time.monotonic() - began < 5

    def test_of_a_run_that_does_not_listen_waits_for_its_end(self, run_base):
        directory = RunDirectory.create("new")
        timer = threading.Timer(0.2, directory.remove)
        timer.start()
        result = run("stop", "new")
        assert (result.exit_code, result.stderr) == (0, "new has ended by itself\n")
        timer.join()

    def test_one_that_does_not_listen_yet_is_told_when_it_does(self, supervise):
        supervise("new", listens_after=1.0)
        result = run("stop", "new")
        assert (result.exit_code, result.stderr) == (0, "stopped new\n")
