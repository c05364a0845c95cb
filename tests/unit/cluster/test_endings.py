"""How a process has ended, in words."""

from __future__ import annotations

import pytest

from aiomas.cluster.endings import how_it_ended


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "ended with exit code 0"),
        (3, "ended with exit code 3"),
        (-9, "was killed by SIGKILL"),
        (-40, "was killed by signal 40"),
    ],
)
def test_exit_codes_and_signals_have_words(code, words):
    assert how_it_ended(code) == words
