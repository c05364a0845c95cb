"""Logging that a flood of bad peers cannot flood."""

from __future__ import annotations

import logging
import time


class LimitedLog:
    """Lets only some of many similar lines through, and says how many it has left out.

    Args:
        logger: where they go.
        burst: how many lines pass in a *period*.
        period: seconds.
    """

    def __init__(self, logger: logging.Logger, burst: int = 10, period: float = 10.0) -> None:
        self._logger = logger
        self._burst = burst
        self._period = period
        self._until = 0.0
        self._passed = 0
        self._left_out = 0

    def warning(
        self, message: str, *args: object, exc_info: BaseException | None = None
    ) -> None:
        """Log a warning (and the traceback of an exception), unless there were too many lately."""
        now = time.monotonic()
        if now >= self._until:
            self._until = now + self._period
            self._passed = 0
            if self._left_out:
                self._logger.warning("%s more like the following were left out", self._left_out)
                self._left_out = 0
        if self._passed < self._burst:
            self._passed += 1
            self._logger.warning(message, *args, exc_info=exc_info)
        else:
            self._left_out += 1
