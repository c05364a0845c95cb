"""How often a container is restarted, and after what pauses: a policy at work."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable

from aiomas.cluster.spec import RestartPolicy

_JITTER = 0.25  # containers that died together shall not all come back at once


class Intensity:
    """The restarts of one container.

    Args:
        policy: says how many there may be.
        clock: returns seconds.
    """

    def __init__(self, policy: RestartPolicy, clock: Callable[[], float] = time.monotonic) -> None:
        self.exhausted = False
        """Whether there were too many restarts."""
        self._policy = policy
        self._clock = clock
        self._restarts: deque[float] = deque()

    def next_pause(self, exit_code: int | None) -> float | None:
        """Return the seconds before the next restart, or ``None`` if there is to be none.

        Args:
            exit_code: that of the process which has ended; ``None`` if it could not be started.
        """
        if not self._policy.wants_restart(exit_code):
            return None
        now = self._clock()
        while self._restarts and self._restarts[0] <= now - self._policy.period:
            self._restarts.popleft()
        if len(self._restarts) >= self._policy.intensity:
            self.exhausted = True
            return None
        pause = self._policy.pause(len(self._restarts))
        self._restarts.append(now)
        return pause * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - no secret
