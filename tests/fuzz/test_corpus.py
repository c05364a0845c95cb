"""Every input in fuzz/corpus through its target, so that what was once found stays mended.

`make fuzz` looks for new ones, where there is a fuzzer; this needs none.
"""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from fuzz.__main__ import NAMES, ROOT
from fuzz.targets import TARGETS

CORPUS = [(target, path) for target in TARGETS.values() for path in sorted(target.corpus.iterdir())]
MAX_FILES = 300
MAX_BYTES = 500_000


@pytest.mark.parametrize(
    ("target", "path"), CORPUS, ids=[f"{target.name}/{path.name}" for target, path in CORPUS]
)
def test_the_input_does_no_harm(target, path, caplog):
    caplog.set_level(logging.CRITICAL)  # it is right to complain about most of them

    target.run(path.read_bytes(), measure=True)


def test_the_corpus_stays_small():
    assert len(CORPUS) < MAX_FILES
    assert sum(path.stat().st_size for _, path in CORPUS) < MAX_BYTES


def test_every_target_has_a_name_and_inputs():
    assert set(NAMES) == set(TARGETS)
    assert all(any(target.corpus.iterdir()) for target in TARGETS.values())


def test_one_input_can_be_replayed_without_a_fuzzer():
    command = [sys.executable, "-m", "fuzz", "json", "--replay", "fuzz/corpus/json/plain"]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert "json stands" in done.stdout
