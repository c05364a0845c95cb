"""What commands share: an error is one line, a table has columns, numbers are for people."""

from __future__ import annotations

import sys

import click
import pytest
from click.testing import CliRunner

from aiomas.cluster import terminal
from aiomas.cluster.terminal import Command, Commands, describe, size, span, table
from aiomas.exceptions import ClusterError, SpawnError


def run(error, *arguments):
    """Run a command that raises *error*."""

    @click.group(cls=Commands)
    @click.option("--debug", is_flag=True)
    def group(*, debug):
        """Has commands."""

    @group.command(cls=Command, examples=("", "now"))
    @click.argument("when", required=False)
    def fail(when):
        """Fail."""
        if error is not None:
            raise error

    return CliRunner().invoke(group, arguments or ["fail"])


@pytest.mark.parametrize(
    "error", [ClusterError("no\nluck"), OSError("no luck"), TimeoutError("no luck")], ids=repr
)
def test_an_error_is_one_line(error):
    result = run(error)
    assert (result.exit_code, result.stderr) == (1, "Error: no luck\n")
    assert result.stdout == ""


def test_the_whole_story_is_there_when_asked_for():
    error = ClusterError("no luck")
    assert run(error, "--debug", "fail").exception is error


def test_a_bug_is_not_hidden():
    error = AssertionError()
    assert run(error).exception is error


def test_a_wrong_use_is_one_line_that_says_where_help_is():
    for arguments in (["fail", "--nonsense"], ["nonsense"]):
        result = run(None, *arguments)
        assert result.exit_code == 2
        assert len(result.stderr.splitlines()) == 1
        assert "nonsense" in result.stderr
        assert " --help" in result.stderr


def test_an_interrupt_has_the_exit_code_that_shells_give_it():
    result = run(KeyboardInterrupt())
    assert (result.exit_code, result.output) == (130, "")


def test_windows_is_told_in_one_line(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    result = run(None)
    assert (result.exit_code, result.stderr) == (
        1,
        "Error: aiomas.cluster needs a POSIX system, Windows is none\n",
    )


def test_help_ends_with_examples():
    @click.command(cls=Command, examples=("", "--fast"))
    def go():
        """Go."""

    result = CliRunner().invoke(go, ["--help"])
    assert result.output.endswith("Examples:\n  go\n  go --fast\n")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (FileNotFoundError(2, "No such file", "a.py"), "a.py: No such file"),
        (OSError(28, "No space"), "[Errno 28] No space"),
        (ValueError(" two\n  lines "), "two lines"),
        (ValueError("\x1b[2J"), "\\x1b[2J"),
        (
            SpawnError("Agent 3:\nTraceback (most recent call last):\n  File x\nKeyError: 'a'\n"),
            "Agent 3: KeyError: 'a'",
        ),
        (
            ClusterError("Traceback (most recent call last):\n  File x\nKeyError: 'a'"),
            "KeyError: 'a'",
        ),
        (ValueError(), ""),
    ],
    ids=repr,
)
def test_what_went_wrong_is_one_line(error, line):
    assert describe(error) == line


def test_a_table_has_columns():
    text = table(["a", "long"], [["123", "4"], ["x\x1b", ""]])
    assert text.splitlines() == ["a      long", "123    4", "x\\x1b"]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (20 * 2**20, "20.0 MiB"),
        (2**31, "2.0 GiB"),
        (2**41, "2048.0 GiB"),
    ],
)
def test_a_number_of_bytes_has_a_unit(number, text):
    assert size(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (-1.0, "0 s"),
        (59.9, "59 s"),
        (125, "2 min 5 s"),
        (3600, "1 h 0 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_a_time_span_has_two_units(seconds, text):
    assert span(seconds) == text


def test_a_report_is_for_people_or_for_programs(capsys):
    terminal.report({"a": 1}, "text", as_json=False)
    terminal.report({"a": 1}, "text", as_json=True)
    assert capsys.readouterr().out == 'text\n{\n  "a": 1\n}\n'
