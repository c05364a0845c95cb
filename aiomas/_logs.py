"""Logging that a flood of bad peers cannot flood."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time

_SUBJECTS = 1000  # at the most; all others share one budget


@dataclasses.dataclass(eq=False, slots=True)
class _Period:
    ends: float
    lines: int = 0


class LimitedLog:
    """Lets only some of many similar lines through, and says how many it has left out.

    Each subject has lines of its own, so that a flood of the one does not hide the other.  Used
    within a running event loop.

    Args:
        logger: where they go.
        burst: how many lines pass in a *period*.
        period: seconds.
    """

    def __init__(self, logger: logging.Logger, burst: int = 10, period: float = 10.0) -> None:
        self._logger = logger
        self._burst = burst
        self._period = period
        self._periods: dict[str, _Period] = {}  # the current ones, by their subjects

    def warning(self, message: str, *args: object, subject: str = "") -> None:
        """Log a warning, unless there were too many lines about the *subject* lately."""
        if self._may_pass(subject):
            self._logger.warning(message, *args)

    def error(
        self, message: str, *args: object, exc_info: BaseException, subject: str = ""
    ) -> None:
        """Log an error with its traceback, unless there were too many about the *subject*."""
        if self._may_pass(subject):
            self._logger.error(message, *args, exc_info=exc_info)

    def clear(self) -> None:
        """Begin anew."""
        self._periods.clear()

    def _may_pass(self, subject: str) -> bool:
        now = time.monotonic()
        period = self._periods.get(subject)
        if period is None and len(self._periods) >= _SUBJECTS:
            subject = "others"
            period = self._periods.get(subject)
        if period is None or now >= period.ends:  # its event loop may be gone
            self._end_period(subject)
            period = self._periods[subject] = _Period(now + self._period)
        period.lines += 1
        if period.lines == self._burst + 1:
            delay = period.ends - now
            asyncio.get_running_loop().call_later(delay, self._end_period, subject, period)
        return period.lines <= self._burst

    def _end_period(self, subject: str, only: _Period | None = None) -> None:
        period = self._periods.get(subject)
        if period is None or only not in {None, period}:
            return
        del self._periods[subject]
        if period.lines > self._burst:
            about = f" about {subject}" if subject else ""
            left_out = period.lines - self._burst
            self._logger.warning("%s more such lines%s were left out", left_out, about)
