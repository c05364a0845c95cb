"""A request of whatever kind, as what serves it sees it: it may become a task."""

from __future__ import annotations

import asyncio
import inspect
from abc import abstractmethod
from collections.abc import Awaitable
from typing import Any

from aiomas._current import Call
from aiomas.exceptions import Outcome


class Served:
    """A request that is to be served, or is being served.

    It also stands in the context of its task for the call that is being served there.
    """

    # As in `aiomas.channel.Request`.
    content: Any
    message_id: int
    # It also has `outbox.blocked` (see `holding`) and `session.extended`: to look at properties of
    # its own costs each call two more.
    source: Any
    # What is so for most of them; what an instance does not have takes no time to set.  (To look at
    # it takes ten times as long, so that Dispatcher.serve_now() sets what each call looks at.)
    deadline: float | None = None
    one_way: bool = False
    again: bool = False

    # While it is served by a task:
    active: bool = True
    """Whether it is still being served, or will be."""
    awaitable: Awaitable[Any]
    """What the function has returned."""
    task: asyncio.Task[None] | None = None
    timer: asyncio.TimerHandle | None = None
    expired = False
    """Whether it was cancelled because the caller's time was up."""
    called: Call | None = None
    """The call that it is, once somebody has asked for it."""
    _ending = False

    @abstractmethod
    def answer(self, result: Any) -> None:
        """Send *result* back."""

    @abstractmethod
    def fail(self, exception: BaseException) -> Any:
        """Raise an exception at the peer."""

    @abstractmethod
    def refuse(self, kind: str, text: str, outcome: Outcome = Outcome.NOT_EXECUTED) -> None:
        """Say that this request has not run, or not to its end.

        Args:
            kind: of which kind the failure is.
            text: what is wrong.
            outcome: whether the request may have run.
        """

    def call(self) -> Call:
        """Return the call that it is."""
        if self.called is None:
            path = self.content[0]
            self.called = Call(path, self.source, self.deadline, one_way=self.one_way)
            self.called.active = self.active
        return self.called

    def cancel(self, reason: str) -> None:
        """Cancel its task, once: then it may take its time to clean up."""
        if not self._ending and self.task is not None:
            self._ending = True
            self.task.cancel(reason)

    def expire(self) -> None:
        """Cancel its task because the caller's time is up."""
        self.expired = not self._ending
        self.cancel("the caller's time is up")

    def drop(self) -> None:
        """End the coroutine of a call that is not started any more."""
        if inspect.iscoroutine(self.awaitable):
            self.awaitable.close()
