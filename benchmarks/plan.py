"""How thoroughly a run measures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What all that measures has to know about the run."""

    only: Sequence[str] | None = None
    """What is asked for; None for everything."""
    rounds: int = 5
    seconds: float = 0.25
    """Of each round."""
    quick: bool = False
    """To see that everything works; the figures are worth nothing."""
    folder: str = ""
    """Where certificates and sockets are."""
    tell: Callable[[str], None] = print
    """Shows what is being measured."""

    def wants(self, name: str) -> bool:
        """Return whether "B2-64" is asked for: by its name, or by the first parts of it."""
        parts = self.only
        return parts is None or any(name == part or name.startswith(f"{part}-") for part in parts)

    def points(self, values: Sequence[T]) -> Sequence[T]:
        """Return those of a curve's points that are measured."""
        return values[:2] if self.quick else values

    def for_curves(self) -> Plan:
        """Return a plan with shorter rounds, since curves have many points."""
        return dataclasses.replace(self, rounds=min(self.rounds, 3), seconds=self.seconds / 2)
