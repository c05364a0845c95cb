"""What a row of the table comes to: figures, ratios, and whether they are what they should be.

Ratios are those of each round, of which the median counts: a machine that is slow for a while is
slow for both.
"""

from __future__ import annotations

import dataclasses
import statistics
from typing import Any


@dataclasses.dataclass(frozen=True)
class Aim:
    """What a figure should be: at least, or at most, so much."""

    value: float
    against: str | None = None
    """The baseline to which this is the ratio; without one, it is the figure itself."""
    at_most: bool = False

    def met(self, value: float) -> bool:
        """Return whether *value* is as good."""
        return value <= self.value if self.at_most else value >= self.value


@dataclasses.dataclass
class Result:
    """The figures of one row on one event loop."""

    id: str
    what: str
    loop: str
    pinned: bool | None
    """Whether both ends shared one core; ``None`` where that is no question."""
    unit: str
    rounds: dict[str, list[float]]
    """By subject, the first of which is aiomas: the figure of each round."""
    aims: list[Aim] = dataclasses.field(default_factory=list)
    note: str = ""

    @property
    def ours(self) -> str:
        """The name of the subject that is measured."""
        return next(iter(self.rounds))

    @property
    def figures(self) -> dict[str, float]:
        """The medians, by subject."""
        return {name: statistics.median(values) for name, values in self.rounds.items()}

    @property
    def ratios(self) -> dict[str, float]:
        """The median of our figure divided by that of the same round, by baseline."""
        ours = self.rounds[self.ours]
        return {
            name: statistics.median(a / b for a, b in zip(ours, values, strict=True))
            for name, values in self.rounds.items()
            if name != self.ours
        }

    def reached(self, aim: Aim) -> float:
        """Return what is to be compared with the aim."""
        return self.figures[self.ours] if aim.against is None else self.ratios[aim.against]

    def as_json(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return {
            "id": self.id,
            "what": self.what,
            "loop": self.loop,
            "pinned": self.pinned,
            "unit": self.unit,
            "figures": self.figures,
            "ratios": self.ratios,
            "aims": [
                {**dataclasses.asdict(aim), "met": aim.met(self.reached(aim))} for aim in self.aims
            ],
            "rounds": self.rounds,
            "note": self.note,
        }
