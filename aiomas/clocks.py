"""Clocks for containers: real time, or a time that somebody else sets.

A program that asks its container's clock for the time, and sleeps by it, can run in real time or
inside a simulation without a change.  All durations and times are in seconds.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import numbers
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

from aiomas.util import current_loop

if TYPE_CHECKING:
    import datetime

    from arrow import Arrow

__all__ = ["AsyncioClock", "BaseClock", "ExternalClock", "TimerHandle"]

T = TypeVar("T")


class Cancellable(Protocol):
    """What :meth:`BaseClock.call_in` and :meth:`BaseClock.call_at` return."""

    def cancel(self) -> Any:
        """Cancel the scheduled call; nothing happens if it was made already."""


class BaseClock(ABC):
    """Interface of all clocks.

    A subclass implements at least :meth:`time` and :meth:`utcnow`, and overrides the methods that
    sleep and schedule if its users need them.
    """

    @abstractmethod
    def time(self) -> float:
        """Return the value of a monotonic clock in seconds; where it starts is not defined."""

    @abstractmethod
    def utcnow(self) -> Arrow:
        """Return the current date in UTC."""

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        return current_loop()

    # A user's clock may do without these two, and bring methods of its own for what needs them.

    def _wake(self, due: float, future: asyncio.Future[Any], result: Any) -> None:
        """Set *result* to *future* when :meth:`time` reaches *due*."""
        raise NotImplementedError

    def _call(self, due: float, func: Callable[..., Any], args: tuple[Any, ...]) -> Cancellable:
        """Call *func* when :meth:`time` reaches *due*."""
        raise NotImplementedError

    @overload
    def sleep(self, dt: float, result: None = None) -> asyncio.Future[None]: ...
    @overload
    def sleep(self, dt: float, result: T) -> asyncio.Future[T]: ...
    def sleep(self, dt: float, result: Any = None) -> asyncio.Future[Any]:
        """Sleep for *dt* seconds; the time counts from this call, not from the ``await``.

        Returns:
            A future that gets *result* when the time is over; at once if *dt* is not positive.
        """
        return self._sleep(self.time() + max(dt, 0), result)

    @overload
    def sleep_until(self, t: float | Arrow, result: None = None) -> asyncio.Future[None]: ...
    @overload
    def sleep_until(self, t: float | Arrow, result: T) -> asyncio.Future[T]: ...
    def sleep_until(self, t: float | Arrow, result: Any = None) -> asyncio.Future[Any]:
        """Sleep until the time *t*: seconds as :meth:`time` counts them, or a date.

        Returns:
            A future that gets *result* at that time.

        Raises:
            ValueError: *t* is in the past.
        """
        return self._sleep(self._due(t), result)

    def call_in(self, dt: float, func: Callable[..., Any], *args: Any) -> Cancellable:
        """Call ``func(*args)`` in *dt* seconds; return a handle to cancel the call."""
        return self._call(self.time() + max(dt, 0), func, args)

    def call_at(self, t: float | Arrow, func: Callable[..., Any], *args: Any) -> Cancellable:
        """Call ``func(*args)`` at *t* (seconds or a date); return a handle to cancel the call.

        Raises:
            ValueError: *t* is in the past.
        """
        return self._call(self._due(t), func, args)

    def _sleep(self, due: float, result: Any) -> asyncio.Future[Any]:
        future = self._loop.create_future()
        self._wake(due, future, result)
        return future

    def _due(self, t: float | Arrow) -> float:
        now = self.time()
        due = t if isinstance(t, numbers.Real) else self._time_of(t)
        if not due >= now:  # nor is it NaN
            msg = f"{t} is in the past: the clock shows {now} s, {self.utcnow()}"
            raise ValueError(msg)
        return due

    def _time_of(self, date: Any) -> float:
        seconds: float = (date - self.utcnow()).total_seconds()
        return self.time() + seconds


class AsyncioClock(BaseClock):
    """Real time, as the event loop counts it.

    Args:
        loop: the event loop to use; by default the one that is current when it is needed.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._own_loop = loop

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        return self._own_loop or current_loop()

    def time(self) -> float:
        """Return the event loop's monotonic time in seconds."""
        return self._loop.time()

    def utcnow(self) -> Arrow:
        """Return the system's date in UTC."""
        import arrow  # noqa: PLC0415 - 27 ms that programs without dates need not spend

        return arrow.utcnow()

    def _wake(self, due: float, future: asyncio.Future[Any], result: Any) -> None:
        handle = self._loop.call_at(due, _set_result, future, result)
        # A cancelled sleep leaves no timer behind.
        future.add_done_callback(lambda _: handle.cancel())

    def _call(self, due: float, func: Callable[..., Any], args: tuple[Any, ...]) -> Cancellable:
        return self._loop.call_at(due, func, *args)


_MANY_TIMERS = 64


class ExternalClock(BaseClock):
    """A clock that stands still until :meth:`set_time` is called.

    Args:
        utc_start: the date at time 0: an :class:`arrow.arrow.Arrow`, or anything that
            :func:`arrow.get` takes.
        init_time: the initial time, in seconds.
        loop: the event loop to use; by default the one that is current when it is needed.
    """

    def __init__(
        self,
        utc_start: Arrow | datetime.datetime | str | float,
        init_time: float = 0,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        import arrow  # noqa: PLC0415 - 27 ms that programs without dates need not spend

        self._own_loop = loop
        self._utc_start = arrow.get(utc_start).to("utc")
        self._time = init_time
        self._timers: list[tuple[float, int, asyncio.Future[Any], Callable[[], Any]]] = []
        self._many = _MANY_TIMERS  # look for cancelled ones when there are so many
        self._sequence = itertools.count()
        self._setting = False

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        return self._own_loop or current_loop()

    def time(self) -> float:
        """Return the time that was set last, in seconds."""
        return self._time

    def utcnow(self) -> Arrow:
        """Return the date that was set last."""
        return self._utc_start.shift(seconds=self._time)

    def set_time(self, t: float) -> None:
        """Set the time to *t* seconds and fire, in order, all timers that are due by then.

        Functions scheduled with :meth:`~BaseClock.call_in` and :meth:`~BaseClock.call_at` are
        called before this method returns, and each sees its own due time on the clock, as it would
        in real time; what they schedule fires as well if it is due.  Tasks that sleep are woken in
        the same order and run as soon as the event loop gets to them; they see the new time.

        Raises:
            ValueError: *t* is not later than the current time.
            RuntimeError: called by a function that this method is just calling.
        """
        if self._setting:
            msg = "set_time() was called by a function that it is just calling"
            raise RuntimeError(msg)
        if not t > self._time:
            msg = f"The time can only be set forward: it is {self._time} s, got {t} s"
            raise ValueError(msg)
        self._setting = True
        try:
            while self._timers and self._timers[0][0] <= t:
                due, _, future, fire = heapq.heappop(self._timers)
                if not future.done():
                    self._time = due
                    fire()
        finally:
            self._time = t
            self._setting = False

    def _wake(self, due: float, future: asyncio.Future[Any], result: Any) -> None:
        if self._is_over(due):
            future.set_result(result)
        else:
            self._push(due, future, lambda: future.set_result(result))

    def _call(self, due: float, func: Callable[..., Any], args: tuple[Any, ...]) -> Cancellable:
        if self._is_over(due):
            return self._loop.call_soon(func, *args)
        future: asyncio.Future[None] = self._loop.create_future()

        def fire() -> None:
            future.set_result(None)
            try:
                func(*args)
            except Exception as exc:  # noqa: BLE001 - user code; as the event loop treats its own callbacks
                future.get_loop().call_exception_handler(
                    {"message": f"Exception in {func!r}, called by a clock", "exception": exc}
                )

        self._push(due, future, fire)
        return TimerHandle(future, fire)

    def _time_of(self, date: Any) -> float:
        # Counted from the start: adding to the current time would not give a round number.
        if date == self.utcnow():  # which is rounded to microseconds
            return self._time
        seconds: float = (date - self._utc_start).total_seconds()
        return seconds

    def _is_over(self, due: float) -> bool:
        # While timers fire, the one that calls us may schedule another for the same moment.
        return due <= self._time and not self._setting

    def _push(self, due: float, future: asyncio.Future[Any], fire: Callable[[], Any]) -> None:
        if len(self._timers) >= self._many:  # cancelled ones need not wait for their time
            self._timers = [timer for timer in self._timers if not timer[2].done()]
            heapq.heapify(self._timers)
            self._many = max(_MANY_TIMERS, 2 * len(self._timers))
        heapq.heappush(self._timers, (due, next(self._sequence), future, fire))


class TimerHandle:
    """Lets you cancel a call that was scheduled with an :class:`ExternalClock`.

    Args:
        future: done once the call was made or cancelled.
        callback: makes the call.
    """

    def __init__(self, future: asyncio.Future[Any], callback: Callable[[], Any]) -> None:
        self._future = future
        self._callback = callback

    def __repr__(self) -> str:
        return f"<TimerHandle {self._future._state.lower()} {self._callback!r}>"  # noqa: SLF001

    def cancel(self) -> None:
        """Cancel the scheduled call; nothing happens if it was made already."""
        self._future.cancel()


def _set_result(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():
        future.set_result(result)
