"""How much later than usual a message has arrived, though the clocks of both ends differ.

The difference between the time of arrival, by our clock, and of departure, by the peer's, is the
offset of the clocks and the time of the journey.  Its minimum over all messages stands for a
journey without waiting, so what is above it was waiting: in the network, in the buffers of the
operating system, or because our event loop was blocked.  That is the queueing delay of RFC 6817
(LEDBAT), section 2.4.2.
"""

from __future__ import annotations

_SHORT = 0.1  # seconds; a round trip that is no longer has met no queue worth mentioning


class Delay:
    """Measures the delay of messages from one peer; all times are in seconds."""

    def __init__(self) -> None:
        self._base: float | None = None

    def of(self, sent: float, received: float) -> float:
        """Return how long a message has waited that was *sent* (by the peer's clock)."""
        difference = received - sent
        if self._base is None or difference < self._base:
            self._base = difference
        return difference - self._base

    def calibrate(self, asked: float, answered: float, received: float) -> None:
        """Take the answer to a question for the new usual, if the round trip was a short one.

        Clocks drift apart, and stand still while a machine sleeps.

        Args:
            asked: when we asked.
            answered: when the peer answered, by its clock.
            received: when we got the answer.
        """
        if 0 <= received - asked <= _SHORT:
            self._base = received - answered
