"""The files beside this one are programs as users write them; mypy, strict, has to agree with them.

They are not run. `typing.assert_type` says what a type has to be, and an expected complaint is
written as ``# type: ignore[code]``: where mypy does not complain, that comment is an error.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = sorted(set(Path(__file__).parent.glob("*.py")) - {Path(__file__)})


@pytest.mark.timeout(180)  # without a cache, mypy reads everything that aiomas imports
def test_mypy_agrees_with_the_programs_of_users() -> None:
    assert PROGRAMS

    ran = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-pretty", *PROGRAMS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 0, ran.stdout + ran.stderr
