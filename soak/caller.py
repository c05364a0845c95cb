"""Makes calls, and checks whether each of them ends as it may."""

from __future__ import annotations

import asyncio
import random
import traceback
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiomas.exceptions import (
    AiomasError,
    ConnectionLost,
    ContainerClosedError,
    HandshakeError,
    Overloaded,
    ProtocolError,
)
from soak.ledger import Expectations, runs_allowed
from soak.site import Site

LONGEST = 30.0
"""Seconds in which each call has to end: the dead are noticed within LIMITS.heartbeat times 3."""

_NEVER = (ContainerClosedError, HandshakeError, ProtocolError)
_LARGEST = 1 << 20
_SENT = random.Random(0).randbytes(2 * _LARGEST)

Kind = Callable[["Caller"], Awaitable[None]]
LOST = (ConnectionLost, Overloaded)
"""What may happen to each call while processes are killed and stopped."""


class Wrong(Exception):  # noqa: N818 - it is no error of a call
    """A call has ended as it must not end."""


class Caller:
    """Makes one call after the other, to random processes."""

    def __init__(self, site: Site, expected: Expectations, rng: random.Random) -> None:
        self.site = site
        self.rng = rng
        self.child = site.tcp
        self.problems: list[str] = []
        self._expected = expected
        self._kind = ""

    async def run(self, kinds: Mapping[Kind, int]) -> None:
        """Make calls of these kinds, which have weights, until cancelled."""
        while True:
            kind = self.rng.choices([*kinds], [*kinds.values()])[0]
            self._kind = kind.__name__
            self.child = self.rng.choice(self.site.children)
            try:
                await kind(self)
            except (AiomasError, OSError):
                pass  # it was looked at where it was raised
            except Wrong as exc:
                self.problems.append(f"{self._kind} ({self.child.name}): {exc}")
            await asyncio.sleep(0)

    @property
    def proxy(self) -> Any:
        return self.site.proxy(self.child)

    def data(self) -> bytes:
        """Return 0 bytes to 1 MiB, most of them few."""
        size = int(2 ** self.rng.uniform(0, 20.001)) - 1 if self.rng.random() < 0.3 else 100
        first = self.rng.randrange(_LARGEST)
        return _SENT[first : first + min(size, _LARGEST)]

    def number(self) -> int:
        return self._expected.new(self._kind)

    async def call(
        self,
        function: Any,
        *arguments: Any,
        allowed: tuple[type[AiomasError], ...] = LOST,
        leaf: int | None = None,
        attempts: int = 1,
        certain: bool = True,
        cancel_after: float | None = None,
        returns: Any = ...,
    ) -> Any:
        """Call ``function(number, *arguments)``, and check what becomes of it.

        Args:
            allowed: what it may raise.
            leaf: the number of the call that the called function makes itself.
            attempts: how often it may be sent.
            certain: whether a result means that it has run.
            cancel_after: seconds after which it is cancelled.
            returns: what it has to return; by default, its first argument, and for ``Any``, whatever
                it likes.
        """
        number = self.number()
        numbers = (number,) if leaf is None else (number, leaf)
        end, runs = "cancelled", (0, attempts)
        try:
            async with asyncio.timeout(cancel_after or LONGEST):
                result = await function(*numbers, *arguments)
            end, runs = "ok", (int(certain), attempts)
        except AiomasError as exc:
            end, runs = f"{type(exc).__name__}, {exc.outcome}", runs_allowed(exc.outcome, attempts)
            if exc.outcome is None or not isinstance(exc, allowed) or isinstance(exc, _NEVER):
                raise Wrong("".join(traceback.format_exception(exc))) from exc
            raise
        except TimeoutError:
            if cancel_after is None:
                msg = f"no end within {LONGEST} s"
                raise Wrong(msg) from None
            return None
        finally:
            self._expected.ended(number, self._kind, end, runs)
            if leaf is not None:
                least = int(end == "ok")
                self._expected.ended(leaf, self._kind, f"caller: {end}", (least, 1))
        expected = arguments[0] if returns is ... else returns
        if expected is not Any and result != expected:
            msg = f"returned {result!r:.80}, expected {expected!r:.80}"
            raise Wrong(msg)
        return result
