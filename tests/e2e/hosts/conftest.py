"""Three hosts for tests, one lab for all of them: as new for each test, whatever the last one did.

These tests run where their folder or files are named, as `make test-hosts` does: the suite as a
whole leaves them out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.hosts.lab import Lab, why_not

HERE = Path(__file__).parent
REQUIRED = "AIOMAS_REQUIRE_HOSTS"
"""The environment variable that is 1 where these tests must not be skipped."""
GRACE = 5.0
"""Seconds in which what a test has already told to end may end."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave these tests out unless somebody has asked for them."""
    for argument in config.args:
        named = config.invocation_params.dir / argument.partition("::")[0]
        if HERE in (named.resolve(), *named.resolve().parents):
            return None
    return True


@pytest.fixture(scope="session")
def lab_of_session() -> Iterator[Lab]:
    """Start before, and end after, what looks for things that a test leaves behind."""
    if reason := why_not():
        if os.environ.get(REQUIRED) == "1":
            pytest.fail(f"{REQUIRED}=1, but there can be no hosts here: {reason}", pytrace=False)
        pytest.skip(f"there can be no hosts here: {reason}")
    with Lab() as lab:
        yield lab


@pytest.fixture
def lab(lab_of_session: Lab) -> Iterator[Lab]:
    """Three hosts; fail a test that leaves a process running on one of them."""
    yield lab_of_session
    deadline = time.monotonic() + GRACE
    while (left := _left(lab_of_session)) and time.monotonic() < deadline:
        time.sleep(0.02)
    lab_of_session.restore()
    if left:
        pytest.fail("the test left behind: " + "; ".join(left))


def _left(lab: Lab) -> list[str]:
    return [
        f"process {process.pid} ({process.command}) on {host.name}"
        for host in lab.hosts
        for process in host.processes()
    ]
