"""Of a long message, one line has what was done and what went wrong."""

from __future__ import annotations

import traceback

import pytest

from aiomas.cluster.summary import LOG, summary


def caught(error):
    try:
        raise error
    except Exception:  # noqa: BLE001 - whatever is asked for
        return traceback.format_exc()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", ""),
        ("no luck", "no luck"),
        ("no\n  luck\n", "no luck"),
        ("Agent 1:\n" + caught(ValueError("bad")), "Agent 1: ValueError: bad"),
        (caught(ValueError("bad\nand ugly")), "ValueError: bad and ugly"),
        ("Origin: x\n" + caught(KeyError("k")), "Origin: x KeyError: 'k'"),
        ("It:\nTraceback (most recent call last):\n  File 'x'", "It: File 'x'"),
        (f"It died\n{LOG}", "It died"),
        (f"It died\n{LOG}\n  one\n  two", "It died (the last line of its log: two)"),
        (
            f"It failed: {caught(ImportError('no plant'))}{LOG}\n  one\n  two",
            "It failed: ImportError: no plant (the last line of its log: two)",
        ),
        (
            f"It failed:\n{caught(ImportError('no plant'))}{LOG}\n  one\n  two",
            "It failed: ImportError: no plant (the last line of its log: two)",
        ),
        (
            f"It died\n{LOG}\n  Traceback (most recent call last):\n    File\n  OSError: full",
            "It died (the last line of its log: OSError: full)",
        ),
    ],
)
def test_lines(text, line):
    assert summary(text) == line


def test_of_a_group_there_are_its_exceptions():
    group = ExceptionGroup("many", [ValueError("first"), OSError("second")])
    expected = "Agent 1: ExceptionGroup: many (2 sub-exceptions) ValueError: first OSError: second"
    assert summary(f"Agent 1:\n{caught(group)}") == expected


def test_of_causes_the_last_exception_counts():
    try:
        try:
            raise ValueError("first")
        except ValueError as exc:
            raise OSError("second") from exc
    except OSError:
        assert summary(f"Agent 1:\n{traceback.format_exc()}") == "Agent 1: OSError: second"
