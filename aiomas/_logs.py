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

    def warning(self, message: str, *args: object) -> None:
        """Log a warning, unless there were too many lines lately."""
        if self._may_pass():
            self._logger.warning(message, *args)

    def error(self, message: str, *args: object, exc_info: BaseException) -> None:
        """Log an error with its traceback, unless there were too many lines lately."""
        if self._may_pass():
            self._logger.error(message, *args, exc_info=exc_info)

    def _may_pass(self) -> bool:
        now = time.monotonic()
        if now >= self._until:
            self._until = now + self._period
            self._passed = 0
            if self._left_out:
                self._logger.warning("%s more like the following were left out", self._left_out)
                self._left_out = 0
        if self._passed >= self._burst:
            self._left_out += 1
            return False
        self._passed += 1
        return True
