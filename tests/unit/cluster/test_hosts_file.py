"""A file of hosts is read; what is wrong in it is said with the file, the line and the field."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

from aiomas.cluster.hosts import HostSpec
from aiomas.cluster.hosts_file import read_hosts
from aiomas.cluster.launchers.command import CommandLauncher
from aiomas.cluster.launchers.ssh import SSHLauncher
from aiomas.cluster.spec import RestartPolicy

NAME = "cluster.toml"
WHOLE = """
[cluster]
transport = "tls"
containers = 12
lease = 30.0
heartbeat = 1
on_host_loss = "respawn"
allow_partial = false
insecure = true
sync = ["agents.py", "plant/"]
pki = "ca"
log_dir = "/var/log/plant"
preload = ["arrow"]
seed = 7
restart = { mode = "permanent", intensity = 5 }

[defaults]
python = "/opt/venv/bin/python"
env = { OMP_NUM_THREADS = "1", REGION = "north" }

[[hosts]]
host = "user@node1"
containers = 4
address = "10.0.0.1"
env = { REGION = "south" }

[[hosts]]
host = "node2"
name = "second"
python = "python3.13"
cwd = "plant"
bind = "0.0.0.0"
"""
HOST = '\n[[hosts]]\nhost = "node1"\n'


class Launcher:
    def __init__(self, *args, **options):
        self.args, self.options = args, options
        if options.get("python") == "/nowhere":
            raise ValueError("Launcher.python must be somewhere, got '/nowhere'")
        if options.get("ssh") == "rsh":
            raise ValueError("no way")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "plant").mkdir()
    (tmp_path / "ca").mkdir()
    (tmp_path / "agents.py").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def fakes(monkeypatch):
    """Launchers that tell what they were made from."""
    for module, name in (("ssh", "SSHLauncher"), ("command", "CommandLauncher")):
        fake: object = types.SimpleNamespace(**{name: type(name, (Launcher,), {})})
        monkeypatch.setitem(sys.modules, f"aiomas.cluster.launchers.{module}", fake)


def read(text, name=NAME):
    Path(name).write_text(text)
    return read_hosts(name)


def error(text):
    """Return what is said of a file, which is one line."""
    with pytest.raises(ValueError) as info:
        read(text)
    message = str(info.value)
    assert "\n" not in message
    return message


class TestWhatIsRead:
    def test_hosts_have_what_they_say_and_else_the_defaults(self):
        north, python = {"OMP_NUM_THREADS": "1", "REGION": "north"}, "/opt/venv/bin/python"
        assert read(WHOLE).hosts == (
            HostSpec(
                "user@node1",
                4,
                address="10.0.0.1",
                python=python,
                env=north | {"REGION": "south"},
            ),
            HostSpec(
                "node2", name="second", python="python3.13", cwd="plant", bind="0.0.0.0", env=north
            ),
        )

    def test_the_rest_is_what_a_cluster_takes(self, folder):
        found = read(WHOLE)
        assert found.cluster == {
            "transport": "tls",
            "containers": 12,
            "lease": 30.0,
            "heartbeat": 1,
            "on_host_loss": "respawn",
            "allow_partial": False,
            "insecure": True,
            "sync": (folder / "agents.py", folder / "plant"),
            "pki": folder / "ca",
            "log_dir": Path("/var/log/plant"),
            "preload": ["arrow"],
            "seed": 7,
            "restart": RestartPolicy(mode="permanent", intensity=5),
        }
        assert found.launcher is None

    def test_paths_are_relative_to_the_file(self, folder, monkeypatch):
        (folder / NAME).write_text(f'[cluster]\nsync = ["agents.py"]\n{HOST}')
        monkeypatch.chdir("/")
        assert read_hosts(folder / NAME).cluster["sync"] == (folder / "agents.py",)

    def test_a_host_with_no_more_to_say_is_a_string(self):
        found = read('hosts = ["user@node1", "node2"]\n[defaults]\ncontainers = 2')
        assert found.hosts == (HostSpec("user@node1", 2), HostSpec("node2", 2))

    def test_ssh_has_options(self, fakes):
        found = read(f'[ssh]\noptions = ["-p", "2222"]\nconnect_timeout = 3{HOST}').launcher
        assert type(found).__name__ == "SSHLauncher"
        assert vars(found) == {
            "args": (),
            "options": {"options": ["-p", "2222"], "connect_timeout": 3},
        }

    def test_any_command_can_be_used(self, fakes):
        found = read(f'[command]\nprefix = ["srun", "-w", "{{host}}"]\nshell = true{HOST}').launcher
        assert type(found).__name__ == "CommandLauncher"
        assert vars(found) == {
            "args": (),
            "options": {"prefix": ["srun", "-w", "{host}"], "shell": True},
        }

    @pytest.mark.parametrize(
        ("table", "kind"),
        [
            (
                """[ssh]
                options = ["-v"]
                python = "python3.13"
                ssh = "/opt/ssh"
                connect_timeout = 3.5""",
                SSHLauncher,
            ),
            (
                """[command]
                prefix = ["docker", "exec", "-i", "{host}"]
                python = "python3.13"
                shell = false""",
                CommandLauncher,
            ),
        ],
        ids=["ssh", "command"],
    )
    def test_a_table_has_what_the_launcher_takes(self, table, kind):
        assert type(read(f"{table}{HOST}").launcher) is kind

    def test_a_file_that_is_not_there_is_an_error_of_the_system(self):
        with pytest.raises(FileNotFoundError):
            read_hosts("nowhere.toml")


class TestParameters:
    def test_those_that_are_given_count_more(self, fakes):
        found = read(f'[cluster]\nlease = 5\nname = "winter"\n[ssh]\n{HOST}')
        keywords = found.keywords(lease=7, seed=1)
        assert type(keywords.pop("launcher")).__name__ == "SSHLauncher"
        assert keywords == {"hosts": found.hosts, "lease": 7, "name": "winter", "seed": 1}

    def test_without_a_launcher_there_is_none(self):
        assert set(read(HOST).keywords()) == {"hosts"}

    def test_an_error_about_one_is_located(self):
        found = read(f"[cluster]\n\nport = 9000\n{HOST}")
        assert found.located("port=9000 needs transport='tcp'") == (
            "cluster.toml, line 3: cluster.port=9000 needs transport='tcp'"
        )
        for message in ("ports are rare", "name must be short", "", "No port"):
            assert found.located(message) == message
        assert found.located("port is bad", given=["port"]) == "port is bad"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            WHOLE.replace("= 4", "= 'x'"),
            "23: hosts[0].containers must be a number from 0 up, got 'x'",
        ),
        (f"{HOST}{HOST}", "6: hosts[1].host is 'node1', as hosts[0] in line 2 is: give it a name"),
        (f'{HOST}{HOST}name = "node1"', "7: hosts[1].name is 'node1', as hosts[0] in line 2 is"),
        (f"{HOST}container = 4", "4: hosts[0].container is not known; do you mean containers?"),
        (f"{HOST}xyz = 4", "4: hosts[0].xyz is not known; known are host, containers, name"),
        (f'{HOST}"a\\nb" = 4', "4: hosts[0].'a\\nb' is not known"),
        (f'{HOST}bind = ""', "4: hosts[0].bind must be a string with something in it, got ''"),
        (f"{HOST}address = 10.0", "4: hosts[0].address must be a string"),
        (f"{HOST}env = {{ A = 1 }}", "4: hosts[0].env.A must be a string, got 1"),
        (f"{HOST}[hosts.env]\nB='1'\nA = true", "6: hosts[0].env.A must be a string, got True"),
        (f"{HOST}env = 3", "4: hosts[0].env must be a mapping"),
        ('[[hosts]]\n\nhost = "-x"', "3: hosts[0].host cannot begin with '-', got '-x'"),
        ('[[hosts]]\nhost = "a b"', "1: hosts[0].name must have at most"),
        ("\n[[hosts]]\ncontainers = 4", "2: hosts[0] must say host"),
        ('hosts = [\n"a",\n3]', "3: hosts[1] must be a table or a string, got 3"),
        ('[hosts]\nhost = "a"', "1: hosts must be a list: write [[hosts]]"),
        ("", "1: hosts must have at least one host"),
        ("\n\nhosts = []", "3: hosts must have at least one host"),
        (f"[host]\nx = 1{HOST}", "1: host is not known; do you mean hosts?"),
        (f"[defaults]\ncontainers = -1{HOST}", "2: defaults.containers must be a number from 0 up"),
        (f"[defaults]\nname = 'x'{HOST}", "2: defaults.name is not known; known are containers"),
        (f"[defaults.env]\nA = 1{HOST}", "2: defaults.env.A must be a string, got 1"),
        (f"defaults = 3{HOST}", "1: defaults must be a table, got 3"),
        (f"[cluster]\nleese = 3{HOST}", "2: cluster.leese is not known; do you mean lease?"),
        (f"[cluster]\nlease = 'x'{HOST}", "2: cluster.lease must be a positive number of seconds"),
        (f"[cluster]\nlease = nan{HOST}", "2: cluster.lease must be a positive number of seconds"),
        (f"[cluster]\nlease = true{HOST}", "2: cluster.lease must be a positive number of seconds"),
        (f"[cluster]\nlease = 0{HOST}", "2: cluster.lease must be a positive number of seconds"),
        (f"[cluster]\ninsecure = 1{HOST}", "2: cluster.insecure must be true or false, got 1"),
        (f"[cluster]\ncontainers = 0{HOST}", "2: cluster.containers must be a number from 1 up"),
        (f"[cluster]\nnice = 1.5{HOST}", "2: cluster.nice must be a number from 0 up, got 1.5"),
        (f"[cluster]\nseed = 1.5{HOST}", "2: cluster.seed must be an integer or a string, got 1.5"),
        (
            f"[cluster]\ntransport = 'udp'{HOST}",
            "2: cluster.transport must be one of unix, tcp, tls, got 'udp'",
        ),
        (f"[cluster]\nsync = 'a'{HOST}", "2: cluster.sync must be a list of strings, got 'a'"),
        (
            f"[cluster]\nsync = ['agents.py',\n'b.py']{HOST}",
            "3: cluster.sync[1] must be there, there is no ",
        ),
        (f"[cluster]\nsync = [\n3]{HOST}", "3: cluster.sync[0] must be a string"),
        (f"[cluster]\npki = 'agents.py'{HOST}", "2: cluster.pki must be a directory, there is no"),
        (
            f"[cluster.restart]\nmode = 'often'{HOST}",
            "2: cluster.restart.mode must be one of permanent, transient, temporary, got 'often'",
        ),
        (
            f"[cluster.restart]\nmodes = 'often'{HOST}",
            "2: cluster.restart.modes is not known; do you mean mode?",
        ),
        (f"[cluster]\nrestart = 3{HOST}", "2: cluster.restart must be a table, got 3"),
        (f"[ssh]\noptions = '-v'{HOST}", "2: ssh.options must be a list of strings, got '-v'"),
        (f"[ssh]\npyton = 'x'{HOST}", "2: ssh.pyton is not known; do you mean python?"),
        (f"[ssh]\npython = '/nowhere'{HOST}", "2: ssh.python must be somewhere, got '/nowhere'"),
        (f"[ssh]\nssh = 'rsh'{HOST}", "1: ssh is refused: no way"),
        (f"[ssh]\n[command]\nprefix = ['x']{HOST}", "2: command cannot be used with ssh"),
        (f"[command]\nshell = true{HOST}", "1: command.prefix must be there"),
        (f"[command]\nprefix = []{HOST}", "2: command.prefix must be there"),
        (f"ssh = 3{HOST}", "1: ssh must be a table, got 3"),
        ("[[hosts]]\nhost = 'a'\nhost = 'b'", "3: Cannot overwrite a value"),
        ("[[hosts]]\nhost 'a'", "2: Expected '='"),
        ("[[hosts]]\nhost = 'a'\nx = '''", "3: Expected \"'''\""),
        (f"x = {'[' * 10_000}", "1: arrays are nested too deep"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text, message, fakes):
    found = error(text)
    assert found.startswith(f"cluster.toml, line {message}"), found


def test_windows_lines_count_as_lines():
    Path(NAME).write_bytes(b"# a\r\n[[hosts]]\r\nhost = 3\r\n")
    with pytest.raises(
        ValueError, match=r"^cluster.toml, line 3: hosts\[0\].host must be a string"
    ):
        read_hosts(NAME)


def test_what_is_no_text_is_an_error_with_its_line():
    Path(NAME).write_bytes(b"[[hosts]]\n\nhost = '\xff'\n")
    with pytest.raises(ValueError, match=r"^cluster.toml, line 3: this is no UTF-8$"):
        read_hosts(NAME)
