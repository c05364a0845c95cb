"""How a process has ended, in words."""

from __future__ import annotations

import signal


def how_it_ended(code: int) -> str:
    """Return what to say of a process.

    Args:
        code: its exit code; negative for the number of the signal that killed it.
    """
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
