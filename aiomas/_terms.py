"""On which terms one end takes part in a connection."""

from __future__ import annotations

import dataclasses

from aiomas._hello import Hello
from aiomas._limits import Limits
from aiomas._stats import Counters
from aiomas._strangers import Strangers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Terms:
    """What one end wants, and what it says about itself."""

    limits: Limits = dataclasses.field(default_factory=Limits)
    tracebacks: bool = True
    """Whether the peer may see where in our code an exception was raised."""
    call_timeout: float | None = None
    """Seconds that an own call has if its caller does not say so."""
    hello: Hello = dataclasses.field(default_factory=Hello)
    """What it says about itself."""
    expects: str | None = None
    """The proof that the peer has to show before it is served; see ``aiomas._hello``."""
    dialled: str | None = None
    """The base URL that was dialled, by an end that expects a proof."""
    proven: set[str] = dataclasses.field(default_factory=set)
    """Base URLs where nobody is called any more who does not show it, as it was shown there."""
    strangers: Strangers = dataclasses.field(default_factory=Strangers)
    """Those who have dialled us and not shown it yet."""
    counters: Counters = dataclasses.field(default_factory=Counters)
    """Where it is counted what the connections do."""
