"""Starts the functions that a peer calls, in the order in which the calls arrive.

What a call looks like on the wire, and how a reply gets back, is the business of the requests.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import logging
import sys
import types
from collections.abc import Awaitable, Callable
from typing import Any

from aiomas import util
from aiomas._current import Call, Now, Source, serving
from aiomas._handlers import Handlers
from aiomas._intake import Request, ServeNow
from aiomas._logs import LimitedLog
from aiomas._paths import PLAIN, TASK, UNSURE, Paths, is_coroutine_function, kind_of
from aiomas._served import Served
from aiomas.exceptions import Outcome
from aiomas.routing import GoneError, NotYetError, Router, is_idempotent, not_found

troubles = LimitedLog(logging.getLogger("aiomas.rpc"))

_LISTS = frozenset({list, tuple})
# Results that need no search for what could be awaited in them.
_NOT_AWAITABLE = frozenset({type(None), bool, int, float, str, bytes, list, tuple, dict})
_EAGER = sys.version_info >= (3, 12)
# As methods of an imported object they would be looked up and made for each call.
_get_serving, _set_serving = serving.get, serving.set
_EXITS = SystemExit | KeyboardInterrupt  # not errors, but the wish to end this program


class _Turn(Call):
    """Stands for the calls that are served at once, one after the other, until one needs its own.

    What a function starts takes a copy of the context with it, so there has to be a call in there
    that it can belong to.  To make one for each function would take a tenth of the time of a short
    call.
    """

    _source: Any = None

    def __init__(self) -> None:
        self.active = False  # all else has the value that it has in the class

    def begin(self, path: str, source: Source) -> None:
        """Become the call of the function that is being served, which has asked for it."""
        self.path = path
        self.active = True
        self._source = source


class _Ordinary(Request):
    """A request without options; :meth:`Dispatcher.serve_now` sets what it has."""

    __init__ = object.__init__  # to call one of its own would double what it takes to make it


class Dispatcher:
    """Serves the calls that come over one connection.

    An ordinary function runs at once, a coroutine function as a task.

    Args:
        root: the router that resolves the paths.
        handlers: who owns the coroutine functions, if not this dispatcher alone.
        loop: the event loop in which it serves, if not the current one.
    """

    def __init__(
        self,
        root: Router,
        handlers: Handlers | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.handlers = Handlers() if handlers is None else handlers
        """The coroutine functions that are running."""
        self.guard: Callable[[str], bool] | None = None
        """Whether the peer may call what is at a path; ``None`` if it may call everything."""
        self._paths = Paths.of(root)
        self._known = self._paths.known
        # By the ids of their requests.
        self._running: dict[int, Served] = {}
        self._context = contextvars.Context()  # for timers, as in Outgoing
        self._loop = loop or util.current_loop()
        self._refusal: str | None = None
        self._not_started = 0
        self._now = Now.of(self._loop)
        # Of the call that is being served at once:
        self._turn = _Turn()
        self._path = ""
        self._source: Any = None

    def __len__(self) -> int:
        return len(self._running)

    def refuse(self, reason: str) -> None:
        """Answer all further calls with the error *reason*."""
        self._refusal = reason

    def cancel(self, message_id: int) -> None:
        """Cancel a call, if it is still running: its caller has given up."""
        if message_id in self._running:
            request = self._running[message_id]
            request.one_way = True  # nobody is left who would take a reply
            request.cancel("the caller has given up")

    def cancel_all(self) -> None:
        """Cancel all calls that are running: their caller is gone."""
        for request in list(self._running.values()):
            request.cancel("the connection to the caller was lost")

    def end(self) -> None:
        """Let go of the connection, which has ended."""
        self._source = None

    def begin_turn(self, source: Any) -> ServeNow | None:
        """Return :meth:`serve_now` if it can be used, for what has been received in one go."""
        if self.guard is not None:
            return None
        self._source = source
        # One that nobody has asked for is as good as a new one.
        if _get_serving() is not self._turn or self._turn.active:
            self._new_turn()
        return self.serve_now

    def _new_turn(self) -> None:
        self._turn = turn = _Turn()
        _set_serving(turn)

    def serve_now(  # noqa: C901 - in one piece, as what is in _shortcuts
        self, source: Any, message_id: int, content: Any, size: int
    ) -> bool:
        """Serve an ordinary request, and return whether it was one.

        It is served at once if nothing has to be looked after, and that takes half the steps.  Call
        :meth:`begin_turn` before.

        Args:
            source: the connection on which it came.
            message_id: its number.
            content: the call.
            size: how much it counts for the limits, in bytes.
        """
        try:  # what Paths.resolve() does, whose call counts here
            path, args, kwargs = content
            objects, key, cls, name, plain, returns = self._known[path]
            obj = objects[key]
            function = getattr(obj, name)
            if type(obj) is not cls or function.__func__ is not plain:
                raise LookupError  # noqa: TRY301 - as if it had never been known
        except Exception:  # noqa: BLE001 - then it is searched for
            found = self._find(content)
            if found is None:
                return False
            path, args, kwargs, function, plain, returns = found
        if (
            self._refusal is not None
            or type(args) not in _LISTS
            or type(kwargs) is not dict
            or (self._not_started and returns is not TASK)
        ):
            return False
        if returns is UNSURE:  # perhaps it goes on in what it returns, and needs its own turn
            self._new_turn()
        now = self._now
        before = now.server
        now.server = self
        self._path = path
        try:
            # Without any keywords, a third of the time of the call is saved.
            result = function(*args, **kwargs) if kwargs else function(*args)
        except BaseException as exc:  # noqa: BLE001 - those that are no errors are raised again
            now.server = before
            self._end_now()
            self._failed(Request(content, message_id, source, size), function, exc)
            return True
        now.server = before
        kind = type(result)
        call = None
        if returns is not TASK or kind is not types.CoroutineType:
            if kind in _NOT_AWAITABLE or not hasattr(kind, "__await__"):
                if self._turn.active:
                    self._end_now()
                if returns is UNSURE:
                    self._paths.note(path, PLAIN)
                answer = source.answer
                answer(message_id, result)
                return True
            # Part of it has run already, and what it has started may belong to what goes on.
            call = self._call_that_goes_on(path, source, returns)
        request = _Ordinary()
        request.content = content
        request.message_id = message_id
        request.source = source
        request.size = size
        request.one_way = False
        request.deadline = request.task = request.timer = request.called = None
        request.intake = intake = source.intake  # what Intake.hold() does
        intake.requests += 1
        intake.bytes += size
        self._start_task(request, result, call)
        return True

    def _find(self, content: Any) -> tuple[Any, ...] | None:
        """Take a call apart whose function is not known, or not any more."""
        try:
            path, args, kwargs = content
            function = self._paths.resolve(path)
        except Exception:  # noqa: BLE001 - then it is tried again, and the caller is told why
            return None
        plain = getattr(function, "__func__", function)
        if type(plain) is not types.FunctionType:
            return None
        return path, args, kwargs, function, plain, kind_of(plain)

    def _call_that_goes_on(self, path: str, source: Any, returns: int) -> Call:
        """Return the call of a function that has returned something to be awaited."""
        if returns is PLAIN:  # but for this time
            self._paths.note(path, UNSURE)
        if returns is UNSURE or self._turn.active:
            call = self.call()
            self._new_turn()
            return call
        return Call(path, source)  # the turn belongs to others as well

    def call(self) -> Call:
        """Return the call that is being served at once."""
        turn: _Turn = self._turn
        if not turn.active:
            turn.begin(self._path, self._source)
        return turn

    def _end_now(self) -> None:
        """End the call that was served at once; if it was asked for, the next ones get another."""
        if self._turn.active:
            self._turn.active = False
            self._new_turn()

    def __call__(self, request: Served) -> None:
        """Serve a request (of a channel, or one like it)."""
        if self._refusal is not None:
            request.refuse("refused", self._refusal)
            return
        try:
            path, args, kwargs = request.content
        except (TypeError, ValueError):
            path = args = kwargs = None
        if type(path) is not str or type(args) not in _LISTS or type(kwargs) is not dict:
            text = "TypeError: a call is [path, args, kwargs], a string, list and map"
            request.refuse("bad request", text)
            return
        if self.guard is not None and not self.guard(path):
            request.refuse("denied", f"PermissionError: you may not call {path!r:.300}")
            return
        try:
            function = self._paths.resolve(path)
        except Exception as exc:  # noqa: BLE001 - a router may be made now, with users' attributes
            _refuse_unknown(request, path, exc)
            return
        if request.again and not is_idempotent(function):
            request.refuse("not idempotent", f"RuntimeError: {path} is not declared idempotent")
            return
        if self._not_started and not is_coroutine_function(function):
            # Tasks made for earlier calls have not begun; the loop's queue keeps the order.
            self._not_started += 1
            self._loop.call_soon(self._run_late, request, function, args, kwargs)
        else:
            self._run(request, function, args, kwargs)

    def _run_late(
        self, request: Served, function: Callable[..., Any], args: Any, kwargs: dict[str, Any]
    ) -> None:
        self._not_started -= 1
        if request.source.holding:  # those before us wait for that, so we have to

            async def run() -> Any:
                return function(*args, **kwargs)

            call = Call(
                request.content[0], request.source, request.deadline, one_way=request.one_way
            )
            self._start_task(request, run(), call)
        else:
            self._run(request, function, args, kwargs)

    def _run(
        self, request: Served, function: Callable[..., Any], args: Any, kwargs: dict[str, Any]
    ) -> None:
        if request.deadline is not None and _is_late(request):
            _refuse_late(request)
            return
        call = Call(request.content[0], request.source, request.deadline, one_way=request.one_way)
        token = serving.set(call)
        try:
            result = function(*args, **kwargs)
        except BaseException as exc:  # noqa: BLE001 - those that are no errors are raised again
            call.active = False
            self._failed(request, function, exc)
            return
        finally:
            serving.reset(token)
        kind = type(result)
        if kind in _NOT_AWAITABLE or not hasattr(kind, "__await__"):
            call.active = False
            request.answer(result)
            return
        self._start_task(request, result, call)

    def _failed(self, request: Served, function: Callable[..., Any], exc: BaseException) -> None:
        if _has_not_started(function, exc):
            request.refuse("bad request", f"TypeError: {exc}")
        else:
            _fail(request, exc)
        if isinstance(exc, _EXITS):
            raise exc

    def _start_task(
        self, request: Served, awaitable: Awaitable[Any], call: Call | None = None
    ) -> None:
        request.awaitable = awaitable
        if call is not None:
            request.called = call
        coro = self._serve(request)
        if _EAGER:
            # It runs up to its first wait right here, and many never have to wait.
            task = asyncio.Task(coro, loop=self._loop, eager_start=True)  # type: ignore[call-arg,unused-ignore]
            if task.done():
                return
        else:
            self._not_started += 1
            coro.send(None)  # up to _BEGUN, so that it notices if it is cancelled before it runs
            if self._loop.get_task_factory() is None:
                # What create_task() does.  To be given a number as a name would take longer.
                task = asyncio.Task(coro, loop=self._loop, name=request.content[0])
            else:
                task = self._loop.create_task(coro)
        request.task = task
        # Others never cancel, and may choose their ids in bad faith.
        if request.source.session.extended:
            self._running[request.message_id] = request
        self.handlers.paths[task] = request.content[0]
        if request.deadline is not None:
            deadline = request.deadline
            request.timer = self._loop.call_at(deadline, request.expire, context=self._context)

    async def _serve(self, request: Served) -> None:  # noqa: C901 - in one piece, as serve_now()
        started = False
        try:
            if not _EAGER:
                await _BEGUN
            while request.source.outbox.blocked and request.source.holding:
                # Those before us in this turn of the loop have replied more than the peer reads.
                await request.source.drained()
            started = True
            if not _EAGER:
                self._not_started -= 1
            if request.deadline is not None and _is_late(request):
                request.drop()
                _refuse_late(request)
                return
            _set_serving(request)
            result = await request.awaitable
        except BaseException as exc:
            if not self._ended_by(request, exc, started=started):
                raise
        else:
            request.answer(result)
        finally:
            request.active = False
            if request.called is not None:
                request.called.active = False
            if request.task is not None:  # it has not ended eagerly
                if request.timer is not None:
                    request.timer.cancel()
                self._running.pop(request.message_id, None)
                del self.handlers.paths[request.task]
                request.task = None  # or the two would wait for the garbage collector

    def _ended_by(self, request: Served, exc: BaseException, *, started: bool) -> bool:
        """Tell the caller what has ended its call; return whether *exc* ends nothing else."""
        is_cancelled = isinstance(exc, asyncio.CancelledError)
        if not started:
            if not _EAGER:
                self._not_started -= 1
            request.drop()
        if self._loop.is_closed():  # which ends all that it has not finished; nobody can be told
            return False
        if not started:
            if request.expired:
                _refuse_late(request)
            elif is_cancelled:
                request.refuse("cancelled", "CancelledError: cancelled before it was started")
        elif is_cancelled and request.expired:
            text = "DeadlineExceeded: it was cancelled when the caller's time was up"
            request.refuse("deadline", text, Outcome.MAYBE_EXECUTED)
        else:
            _fail(request, exc)
        return started and not is_cancelled and not isinstance(exc, _EXITS)


class _Begun:
    """Waits for the first step of a task: what has begun before notices if that never comes.

    It does so with nothing but functions in C, in a third of the steps of a generator.
    """

    __await__ = staticmethod(functools.partial(iter, (None,)))


_BEGUN: Any = _Begun()


def _is_late(request: Served) -> bool:
    deadline: float | None = request.deadline
    return deadline is not None and asyncio.get_running_loop().time() >= deadline


def _has_not_started(function: Callable[..., Any], exc: BaseException) -> bool:
    """Whether the arguments did not fit: then the error has no frame below that of the call."""
    is_python = inspect.isfunction(getattr(function, "__func__", function))
    at_the_call = exc.__traceback__ is not None and exc.__traceback__.tb_next is None
    return is_python and isinstance(exc, TypeError) and at_the_call


def _refuse_unknown(request: Served, path: str, exc: Exception) -> None:
    """Say the same to the peer, whatever the reason is why it can call nothing at *path*."""
    if isinstance(exc, NotYetError):
        request.refuse("refused", str(exc))
        return
    text = str(exc) if isinstance(exc, GoneError) else not_found(path)
    if not isinstance(exc, GoneError) and str(exc) != text:
        troubles.error("The router of %.200r could not be made", path, exc_info=exc)
    request.refuse("lookup", f"LookupError: {text}")


def _refuse_late(request: Served) -> None:
    text = "DeadlineExceeded: the caller's time was up before it was started"
    request.refuse("deadline", text)


def _fail(request: Served, exc: BaseException) -> None:
    # Our own frame at the top is of no interest to the caller.
    if exc.__traceback__ is not None:
        exc = exc.with_traceback(exc.__traceback__.tb_next)
    if request.one_way and not isinstance(exc, asyncio.CancelledError):
        # Nobody waits for an answer, or not any more.
        path = request.content[0]
        troubles.error("A call of %s failed", path, exc_info=exc, subject=path)
    request.fail(exc)
