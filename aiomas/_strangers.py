"""Peers that have connected and not shown the token yet: how long they may take, and how many.

Each of them holds a descriptor of ours, and anybody can connect.  What they have to show is not
known here.
"""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from collections.abc import Callable

if sys.platform != "win32":
    import resource

MOST = 128
"""How many there may be; the one that has been there for the longest gives way to a new one."""

_SHARE = 4  # and of all descriptors of this process, they have only a part: one of so many

Refuse = Callable[[str], None]
"""Ends the connection of a stranger, for a reason."""


@dataclasses.dataclass(eq=False, slots=True)
class _Visit:
    due: float
    timer: asyncio.TimerHandle


class Strangers:
    """All of them that are connected to one container."""

    def __init__(self) -> None:
        self._visits: dict[Refuse, _Visit] = {}  # in the order in which they came

    def __len__(self) -> int:
        return len(self._visits)

    def came(self, loop: asyncio.AbstractEventLoop, timeout: float, refuse: Refuse) -> None:
        """Take in one that has just connected.

        Args:
            loop: the event loop.
            timeout: seconds that it has.
            refuse: called if it takes longer, or if there are too many; also what names it.
        """
        most = _most()
        while len(self._visits) >= most:
            oldest = next(iter(self._visits))
            self.left(oldest)
            oldest(f"there are more than {most} peers that have not shown the token, it came first")
        self._wait(loop, timeout, refuse)

    def left(self, refuse: Refuse) -> None:
        """Forget one that has shown the token, or is gone."""
        visit = self._visits.pop(refuse, None)
        if visit is not None:
            visit.timer.cancel()

    def _wait(self, loop: asyncio.AbstractEventLoop, timeout: float, refuse: Refuse) -> None:
        timer = loop.call_later(timeout, self._time_is_up, loop, timeout, refuse)
        self._visits[refuse] = _Visit(timer.when(), timer)

    def _time_is_up(self, loop: asyncio.AbstractEventLoop, timeout: float, refuse: Refuse) -> None:
        visit = self._visits.pop(refuse)
        if loop.time() - visit.due > timeout / 10:
            self._wait(loop, timeout, refuse)  # it is us who were late, its proof may have come
        else:
            refuse(f"it has not shown the token within handshake_timeout={timeout} s")


def _most() -> int:
    if sys.platform == "win32":
        return MOST
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST if limit == resource.RLIM_INFINITY else max(1, min(MOST, limit // _SHARE))
