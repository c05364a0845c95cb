"""How much later than usual a message has arrived, though the clocks of both ends differ.

The difference between the time of arrival, by our clock, and of departure, by the peer's, is the
offset of the clocks and the time of the journey.  Its minimum over the last minutes stands for a
journey without waiting, so what is above it was waiting: in the network, in the buffers of the
operating system, or because our event loop was blocked.  That is the queueing delay of RFC 6817
(LEDBAT), section 2.4.2, which forgets old minima as well, since clocks drift.
"""

from __future__ import annotations

import math

_SHORT = 0.1  # seconds; a round trip that is no longer has met no queue worth mentioning
_PERIOD = 60.0  # seconds; a minimum is kept for this one and the next one
_DOUBTFUL = 1.0  # seconds; a delay that is so long may be a clock that has stood still


class Delay:
    """Measures the delay of messages from one peer; all times are in seconds."""

    def __init__(self) -> None:
        self.in_doubt = False
        """Whether somebody should ask the peer for its time, for :meth:`calibrate`."""
        self._minimum = self._earlier_minimum = math.inf
        self._period_ends = -math.inf

    def of(self, sent: float, received: float) -> float:
        """Return how long a message has waited that was *sent* (by the peer's clock)."""
        difference = received - sent
        if received >= self._period_ends:
            self._period_ends = received + _PERIOD
            self._earlier_minimum, self._minimum = self._minimum, difference
        self._minimum = min(self._minimum, difference)
        delay = difference - min(self._minimum, self._earlier_minimum)
        self.in_doubt = self.in_doubt or delay > _DOUBTFUL
        return delay

    def calibrate(self, asked: float, answered: float, received: float) -> None:
        """Take the answer to a question for the new usual, if the round trip was a short one.

        Clocks drift apart, and stand still while a machine sleeps.

        Args:
            asked: when we asked.
            answered: when the peer answered, by its clock.
            received: when we got the answer.
        """
        self.in_doubt = False
        if 0 <= received - asked <= _SHORT:
            self._minimum = self._earlier_minimum = received - answered
