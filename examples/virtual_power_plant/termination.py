"""Detecting that a negotiation is over, although nobody can see all of it.

The method is by E. W. Dijkstra and C. S. Scholten: "Termination detection for diffusing
computations", Information Processing Letters 11(1), 1980. Each message is acknowledged once. The
message that wakes an idle agent up makes its sender the agent's *parent*; that one is acknowledged
only when the agent has nothing left to do and all its own messages are acknowledged. All others
are acknowledged at once. So the active agents always form a tree below the one that started it
all, and when that one has no message left to be acknowledged, all are idle and nothing is on its
way. No rounds are counted and nobody has to ask around.
"""

from __future__ import annotations


class Engagement:
    """One agent's part in the tree of active agents; agents are known by number."""

    def __init__(self) -> None:
        self.parent: int | None = None
        """Who woke the agent up and waits for its acknowledgement; None while it is idle."""
        self.deficit = 0
        """Own messages that have not been acknowledged yet."""

    def received(self, sender: int) -> bool:
        """Note a message. Tell whether its acknowledgement is owed: else it is due at once."""
        if self.parent is not None:
            return False
        self.parent = sender
        return True

    def sent(self) -> None:
        """Note that the agent sent a message."""
        self.deficit += 1

    def acknowledged(self) -> None:
        """Note that one of the agent's messages has been acknowledged."""
        if self.deficit == 0:
            msg = "an acknowledgement for a message that was not sent"
            raise RuntimeError(msg)
        self.deficit -= 1

    def release(self) -> int | None:
        """Leave the tree if possible. Return whom to acknowledge now, if anybody.

        To be called only when the agent has nothing to do and nothing to say.
        """
        if self.parent is None or self.deficit > 0:
            return None
        parent, self.parent = self.parent, None
        return parent
