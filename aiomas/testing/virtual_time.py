"""Time that passes as fast as the machine can: an event loop that jumps to its next timer.

Knows nothing of agents.  All times and durations are in seconds.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import heapq
import itertools
import math
import selectors
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, Unpack

from aiomas.clocks import AsyncioClock

if TYPE_CHECKING:
    import datetime

    from arrow import Arrow

__all__ = ["VirtualClock", "VirtualTimeLoop", "run"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_MANY_TIMERS = 64


def run(main: Coroutine[Any, Any, T], *, debug: bool | None = None) -> T:
    """Run *main* as :func:`asyncio.run` does, on a :class:`VirtualTimeLoop`.

    Args:
        main: a coroutine.
        debug: whether to use asyncio's debug mode; ``None`` leaves that to the environment.

    Raises:
        RuntimeError: an event loop is running in this thread.

    >>> async def main() -> float:
    ...     await asyncio.sleep(3600)
    ...     return asyncio.get_running_loop().time()
    >>> run(main())
    3600.0
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:  # the runner would say so as well, but not be able to close its own loop
        msg = "An event loop is running in this thread already; use await instead of run()"
        raise RuntimeError(msg)
    with asyncio.Runner(debug=debug, loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop of asyncio whose time jumps to the next timer whenever nothing else is ready.

    Its time starts at 0.  So ``asyncio.sleep(3600)``, timeouts, deadlines and heartbeats take no
    longer than what happens then, and :meth:`time` is exactly the moment for which a timer was
    set.  Timers fire in the order of their times, and those for the same moment in the order in
    which they were set.  One at infinity never fires.  While a callback runs, time stands still.

    What is outside of the loop does not know of all this:

    - Sockets are looked at before each jump.  What is on its way in another process or in the
      network is not waited for, so that a timeout may come first.
    - While a function runs in a thread (:func:`asyncio.to_thread`,
      :meth:`~asyncio.loop.run_in_executor`, a host name that is looked up) there is no jump: the
      next timer waits for as long as it would in real time.
    - Without any timer the loop waits, as every loop does, for sockets, signals and threads.
    """

    def __init__(self) -> None:
        self._timeline = _Timeline()
        super().__init__(_Selector(self._timeline, self._start))

    def time(self) -> float:
        """Return the virtual time in seconds; it starts at 0."""
        return self._timeline.now

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call ``callback(*args)`` when :meth:`time` is *when*; never, if that is infinite.

        Raises:
            ValueError: *when* is not a number.
            RuntimeError: the loop is closed.
        """
        if math.isnan(when):
            msg = "A timer cannot be set to NaN"
            raise ValueError(msg)
        if self.is_closed():
            msg = "Event loop is closed"
            raise RuntimeError(msg)
        timer = _Timer(when, functools.partial(callback, *args), self, context)
        if when < math.inf:
            self._timeline.add(when, timer)
        return timer

    def run_in_executor(
        self,
        executor: Executor | None,
        func: Callable[[Unpack[Ts]], T],
        *args: *Ts,
    ) -> asyncio.Future[T]:
        """Run ``func(*args)`` in a thread (or process); meanwhile, time does not jump."""
        future = super().run_in_executor(executor, func, *args)
        self._timeline.in_threads += 1
        future.add_done_callback(self._left_thread)
        return future

    async def shutdown_default_executor(self, *args: Any, **kwargs: Any) -> None:
        """Close the default executor; meanwhile, time does not jump."""
        self._timeline.in_threads += 1
        try:
            await super().shutdown_default_executor(*args, **kwargs)
        finally:
            self._timeline.in_threads -= 1

    def close(self) -> None:
        """Close the loop and forget its timers."""
        super().close()
        self._timeline.clear()

    def _start(self, timer: _Timer) -> None:
        self.call_soon(timer.fire, context=timer.context)

    def _left_thread(self, _: object) -> None:
        self._timeline.in_threads -= 1


class _Selector(selectors.DefaultSelector):
    """Looks at the sockets; where it would wait for them it lets the time jump instead.

    Of the timers asyncio's own code does not know: it passes 0 if it has something to do at once,
    and else ``None``.
    """

    def __init__(self, timeline: _Timeline, start: Callable[[_Timer], None]) -> None:
        super().__init__()
        self._timeline = timeline
        self._start = start

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            ready = super().select(self._timeline.patience())
            if not ready:
                self._timeline.jump()
        else:
            ready = super().select(timeout)
        for timer in self._timeline.take_due():
            self._start(timer)
        return ready


class _Timeline:
    """The virtual time and the timers that are set."""

    def __init__(self) -> None:
        self.now = 0.0
        self.in_threads = 0
        """How many functions run outside of the loop; while some do, time does not jump."""
        self._timers: list[tuple[float, int, _Timer]] = []
        self._many = _MANY_TIMERS  # look for cancelled ones when there are so many
        self._sequence = itertools.count()

    def add(self, when: float, timer: _Timer) -> None:
        if len(self._timers) >= self._many:
            self._timers = [entry for entry in self._timers if not entry[2].cancelled()]
            heapq.heapify(self._timers)
            self._many = max(_MANY_TIMERS, 2 * len(self._timers))
        heapq.heappush(self._timers, (when, next(self._sequence), timer))

    def clear(self) -> None:
        self._timers.clear()

    def patience(self) -> float | None:
        """Return the real seconds to wait before a jump; ``None`` if there is nowhere to go."""
        while self._timers and self._timers[0][2].cancelled():
            heapq.heappop(self._timers)
        if not self._timers:
            return None
        return max(0, self._timers[0][0] - self.now) if self.in_threads else 0

    def jump(self) -> None:
        """Let it be the time of the next timer."""
        if self._timers:
            self.now = max(self.now, self._timers[0][0])

    def take_due(self) -> Iterator[_Timer]:
        while self._timers and self._timers[0][0] <= self.now:
            yield heapq.heappop(self._timers)[2]


class _Timer(asyncio.TimerHandle):
    """A call that the loop makes at some time."""

    def __init__(
        self,
        when: float,
        call: Callable[[], object],
        loop: VirtualTimeLoop,
        context: contextvars.Context | None,
    ) -> None:
        self.context = contextvars.copy_context() if context is None else context
        self._call: Callable[[], object] | None = call
        super().__init__(when, call, (), loop, self.context)

    def cancel(self) -> None:
        self._call = None  # whatever it holds need not wait for its time
        super().cancel()

    def fire(self) -> None:
        if self._call is not None:
            self._call()


class VirtualClock(AsyncioClock):
    """A clock for containers that shows the virtual time of a :class:`VirtualTimeLoop`.

    All clocks of a loop agree: :meth:`time` is the loop's, which starts at 0.

    Args:
        utc_start: the date at time 0: an :class:`arrow.arrow.Arrow`, or anything that
            :func:`arrow.get` takes; by default, 1970-01-01.
        loop: the event loop to use; by default the one that is current when it is needed.

    All methods raise :class:`RuntimeError` where the loop is another one.
    """

    def __init__(
        self,
        utc_start: Arrow | datetime.datetime | str | float = 0,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        import arrow  # noqa: PLC0415 - 27 ms that programs without dates need not spend

        super().__init__(loop)
        self._utc_start = arrow.get(utc_start).to("utc")

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        loop = super()._loop
        if not isinstance(loop, VirtualTimeLoop):
            msg = f"A VirtualClock needs a VirtualTimeLoop, the event loop here is {loop!r}"
            raise RuntimeError(msg)  # noqa: TRY004 - no argument has a wrong type
        return loop

    def time(self) -> float:
        """Return the virtual time of the event loop in seconds."""
        return super().time()

    def utcnow(self) -> Arrow:
        """Return the date at the virtual time."""
        return self._utc_start.shift(seconds=self.time())

    def _time_of(self, date: Any) -> float:
        # Counted from the start: adding to the current time would not give a round number.
        if date == self.utcnow():  # which is rounded to microseconds
            return self.time()
        seconds: float = (date - self._utc_start).total_seconds()
        return seconds
