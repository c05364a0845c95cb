"""The command `aiomas`."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points

import pytest
from click.testing import CliRunner

import aiomas
from aiomas import cli


def run(*arguments):
    return CliRunner().invoke(cli.aiomas, arguments)


def test_help_names_the_groups():
    result = run("--help")

    assert result.exit_code == 0
    for name, (_, summary) in cli.GROUPS.items():
        assert name in result.output
        assert summary.split()[0] in result.output


@pytest.mark.parametrize("name", cli.GROUPS)
def test_summary_of_a_group_is_its_own(name):
    result = run(name, "--help")

    assert result.exit_code == 0
    assert cli.GROUPS[name][1] in result.output


def test_version_is_that_of_the_package():
    assert run("--version").output.split()[-1] == aiomas.__version__


def test_unknown_group_is_an_error():
    result = run("frobnicate")

    assert result.exit_code == 2
    assert "frobnicate" in result.output


def test_certificates_are_made_and_errors_are_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert run("pki", "bootstrap", "test", "--hosts", "localhost").exit_code == 0
    assert run("pki", "check", "test").exit_code == 0
    failed = run("pki", "list", "--ca", "nowhere")
    assert failed.exit_code == 1
    assert "aiomas pki init nowhere" in failed.stderr
    assert len(failed.stderr.splitlines()) == 1


def test_groups_are_loaded_when_they_are_used():
    code = (
        "import sys; from aiomas.cli import aiomas; "
        "aiomas(['--help'], standalone_mode=False); "
        "print([name for name in sys.modules if name.partition('.')[0] in ('pki', 'cryptography')])"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=20
    )

    assert done.stdout.splitlines()[-1] == "[]"


def test_script_is_installed():
    try:
        [script] = entry_points(group="console_scripts", name="aiomas")
    except ValueError:
        pytest.skip("this environment was installed before there was the script")

    assert script.load() is cli.main
