"""Names of parametrized tests."""

from __future__ import annotations

import re


def plain(value: object) -> str:
    """Return a value as text, without addresses in memory: they differ between runs."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))
