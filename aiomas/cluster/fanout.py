"""Calls of many agents, with few messages for each container.

The calls are grouped by container and cut into chunks, each of which travels as one message to a
:class:`.ClusterContainer`.  Agents elsewhere, and proxies with options of their own, are called
one by one; what a caller sees is the same.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from aiomas._current import CallOptions
from aiomas._futures import copy_error
from aiomas._limits import check_seconds
from aiomas._objects import AgentProxy
from aiomas._outgoing import typed_failure
from aiomas.agent import Agent, url_of
from aiomas.cluster.batch import RAISED, Piece, pack, size_of, unpack
from aiomas.cluster.container import ClusterContainer, Link
from aiomas.cluster.slots import Slots
from aiomas.cluster.summary import summary
from aiomas.exceptions import (
    AiomasError,
    DeadlineExceeded,
    DecodeError,
    Outcome,
    PartialResult,
    PermissionDenied,
    RemoteException,
    RemoteLookupError,
    SerializationError,
)
from aiomas.rpc import Proxy, with_options

CONCURRENCY = 1000
"""Calls that are under way at the same time, by default."""

_CHUNK_CALLS = 256
_CHUNK_BYTES = 1 << 20
_CALL_BYTES = 32  # of a call beside its id and its arguments, at the most
_GRACE = 0.5  # seconds for a reply that says which of its calls were done in time


async def map_calls(
    container: ClusterContainer,
    method: str,
    agents: Iterable[Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    timeout: float | None = None,
    concurrency: int = CONCURRENCY,
    return_exceptions: bool = False,
) -> list[Any]:
    """Call the same function of many agents with the same arguments; see :func:`starmap_calls`.

    Each agent gets a copy of the arguments.

    Args:
        container: makes the calls.
        method: the name of the function; with ``/`` if it is one of a sub-router.
        agents: proxies, or agents of *container*.
        args: the arguments.
        kwargs: the keyword arguments.
        timeout: as in :func:`starmap_calls`, like the others and what is raised.
        concurrency: how many calls are under way at the same time.
        return_exceptions: return exceptions like results.
    """
    fan_out = _FanOut(container, method, timeout, concurrency, (tuple(args), dict(kwargs or {})))
    return await fan_out.run([(agent, None) for agent in agents], raising=not return_exceptions)


async def starmap_calls(
    container: ClusterContainer,
    method: str,
    calls: Iterable[Sequence[Any]],
    kwargs: Mapping[str, Any] | None = None,
    *,
    timeout: float | None = None,
    concurrency: int = CONCURRENCY,
    return_exceptions: bool = False,
) -> list[Any]:
    """Call the same function of many agents, each with arguments of its own.

    If this is cancelled, all calls are.

    Args:
        container: makes the calls.
        method: the name of the function; with ``/`` if it is one of a sub-router.
        calls: ``(agent, *arguments)`` for each call, with a proxy or an agent of *container*.
        kwargs: keyword arguments for all of them.
        timeout: seconds that all calls together have; what is late fails with
            :class:`~aiomas.exceptions.DeadlineExceeded`.
        concurrency: how many calls are under way at the same time, at the most.
        return_exceptions: return exceptions like results, in the place of results.

    Returns:
        The results in the order of *calls*.

    Raises:
        PartialResult: a call failed; raised when all others have ended.  It has their results,
            and the first failure is its cause.
        AttributeError: *method* is private.
        TypeError: something in *calls* is none.
        ValueError: *timeout* or *concurrency* is not positive.
    """
    keywords = dict(kwargs or {})
    own: list[tuple[Any, Any]] = []
    for call in calls:
        if not isinstance(call, tuple | list) or not call:
            msg = f"starmap takes (agent, *arguments) for each call, got {call!r}"
            raise TypeError(msg)
        own.append((call[0], (tuple(call[1:]), keywords)))
    fan_out = _FanOut(container, method, timeout, concurrency, ((), {}))
    return await fan_out.run(own, raising=not return_exceptions)


@dataclasses.dataclass(slots=True)
class _Call:
    """A call of an agent whose container is known."""

    position: int
    target: Any
    aid: str
    arguments: tuple[Sequence[Any], dict[str, Any]] | None
    """``None`` for those of all calls."""
    piece: Piece | None = None


class _FanOut:
    """The calls of one function of many agents."""

    def __init__(
        self,
        container: ClusterContainer,
        method: str,
        timeout: float | None,
        concurrency: int,
        arguments: tuple[Sequence[Any], dict[str, Any]],
    ) -> None:
        _check_method(method)
        check_seconds("timeout", timeout)
        if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
            msg = f"concurrency is a positive number of calls, got {concurrency!r}"
            raise ValueError(msg)
        self._container = container
        self._method = method
        self._arguments = arguments
        # A default is for each of the calls, from when it is made.
        self._deadline = None if timeout is None else container.deadline(timeout)
        self._concurrency = concurrency
        self._slots = Slots(concurrency)
        self._results: list[Any] = []
        self._failures: dict[int, Exception] = {}  # in the order in which they came
        self._tasks: asyncio.TaskGroup

    async def run(self, calls: Sequence[tuple[Any, Any]], *, raising: bool) -> list[Any]:
        """Make all calls and return their results.

        Raises:
            PartialResult: a call failed, if that is to be raised.
        """
        groups, others = self._grouped(calls)
        self._results = [None] * len(calls)
        share = self._concurrency // (2 * len(groups) or 1)
        async with asyncio.TaskGroup() as self._tasks:
            for base_url, group in groups.items():
                chunk = max(1, min(_CHUNK_CALLS, share))
                self._tasks.create_task(self._send_group(base_url, group, chunk))
            await self._send_singly(others)
        if self._failures and raising:
            position, error = next(iter(self._failures.items()))
            msg = (
                f"{len(self._failures)} of {len(calls)} calls of {self._method!r} failed, "
                f"the first was that of {calls[position][0]!r}: "
                f"{type(error).__name__}: {summary(str(error))}"
            )
            raise PartialResult(msg, self._results) from error
        return self._results

    def _grouped(
        self, calls: Sequence[tuple[Any, Any]]
    ) -> tuple[dict[str, list[_Call]], list[_Call]]:
        """Return the calls by the base URLs of containers; and those to be made one by one."""
        groups: dict[str, list[_Call]] = {}
        others: list[_Call] = []
        for position, (target, arguments) in enumerate(calls):
            if isinstance(target, AgentProxy | Agent):
                base_url, _, aid = url_of(target).rpartition("/")
                call = _Call(position, target, aid, arguments)
                if _is_plain(target, aid):
                    groups.setdefault(base_url + "/", []).append(call)
                else:
                    others.append(call)
            elif isinstance(target, Proxy):
                others.append(_Call(position, target, "", arguments))
            else:
                msg = f"Calls are made with proxies and agents, got {target!r}"
                raise TypeError(msg)
        return groups, others

    async def _send_group(self, base_url: str, calls: list[_Call], count: int) -> None:
        """Call agents of one container."""
        try:
            link = await self._container.link(base_url, self._deadline_now())
            shared = pack(link.codec, self._arguments)
        except AiomasError as exc:
            self._fail_all(calls, exc)
            return
        if not link.extended:
            await self._send_singly(calls)
            return
        for chunk in self._chunks(link, calls, shared, count):
            await self._slots.take(len(chunk))
            self._tasks.create_task(self._send_chunk(base_url, chunk, shared))

    def _chunks(
        self, link: Link, calls: list[_Call], shared: Piece, count: int
    ) -> Iterator[list[_Call]]:
        most = min(_CHUNK_BYTES, self._container.max_frame // 2)
        chunk: list[_Call] = []
        size = size_of(shared)
        for call in calls:
            added = len(call.aid) + _CALL_BYTES
            if call.arguments is not None:
                try:
                    call.piece = pack(link.codec, call.arguments)
                except SerializationError as exc:
                    self._fail(call, exc.of_call(Outcome.NOT_SENT))
                    continue
                added += size_of(call.piece)
            if chunk and (len(chunk) >= count or size + added > most):
                yield chunk
                chunk, size = [], size_of(shared)
            chunk.append(call)
            size += added
        if chunk:
            yield chunk

    async def _send_chunk(self, base_url: str, chunk: list[_Call], shared: Piece) -> None:
        """Make some calls of one container, for which there are slots already."""
        singly = False
        try:
            deadline = self._deadline_now()
            link = await self._container.link(base_url, deadline)
            await self._exchange(link, chunk, shared, deadline)
        except (RemoteLookupError, PermissionDenied, SerializationError) as exc:
            # It is another kind of container, or does not let us use this, or the message was not
            # sent, since it was too large or the codec knows no bytes.
            singly = exc.outcome is not None and exc.outcome.has_not_run
            if not singly:
                self._fail_all(chunk, exc)
        except AiomasError as exc:
            self._fail_all(chunk, exc)
        finally:
            self._slots.give(len(chunk))
        if singly:
            await self._send_singly(chunk)

    async def _exchange(
        self, link: Link, chunk: list[_Call], shared: Piece, deadline: float | None
    ) -> None:
        options = None
        if deadline is not None:
            _check_time(deadline, link.peer)
            options = CallOptions(deadline=deadline + _GRACE)
        room = self._container.max_frame
        pieces = [(call.aid, call.piece) for call in chunk]
        keywords = {"concurrency": len(chunk), "grace": _GRACE, "room": room}
        content = ("call_many", (self._method, pieces, shared), keywords)
        entries, ticket = _reply(link, await link.send(content, options), len(chunk))
        self._container.count(calls=len(chunk))
        missing: dict[int, _Call] = {}
        for number, (call, entry) in enumerate(zip(chunk, entries, strict=True)):
            if entry is None:
                missing[number] = call
            else:
                self._take(link, call, entry)
        while missing and ticket is not None:
            try:
                reply = await link.send(("more_results", (ticket, room), {}), options)
                lot, more = _lot(link, reply)
            except AiomasError as exc:  # they have run, but nobody knows how they ended
                self._fail_all(missing.values(), exc, Outcome.EXECUTED)
                return
            for number in lot.keys() & missing.keys():
                self._take(link, missing.pop(number), lot[number])
            if not (lot and more):
                break
        if missing:
            error = RemoteException(link.peer, "There is no result of this call in the reply")
            self._fail_all(missing.values(), error, Outcome.EXECUTED)

    def _take(self, link: Link, call: _Call, entry: Any) -> None:
        """Take what came back of a call."""
        try:
            match entry:
                case [True, piece]:
                    self._results[call.position] = unpack(link.codec, piece)
                    return
                case [False, piece, str(kind), str(outcome)]:
                    text = unpack(link.codec, piece)
                case _:
                    kind, text = "", f"There is no result of this call in the reply: {entry!r:.100}"
                    outcome = Outcome.EXECUTED
        except DecodeError as exc:
            self._fail(call, exc.of_call(Outcome.EXECUTED))
        else:
            error = (
                RemoteException(link.peer, text).of_call(Outcome.EXECUTED)
                if kind == RAISED
                else typed_failure(link.peer, (kind, text, outcome))
            )
            self._fail(call, error)
        self._container.count(errors=1)

    async def _send_singly(self, calls: Iterable[_Call]) -> None:
        for call in calls:
            await self._slots.take(1)
            self._tasks.create_task(self._send_one(call))

    async def _send_one(self, call: _Call) -> None:
        try:
            function = self._function(call.target)
            if self._deadline is not None:
                left = _check_time(self._deadline, function)
                own = function._options and function._options.timeout  # noqa: SLF001 - as in url_of()
                function = with_options(function, timeout=min(own or left, left))
            args, kwargs = self._arguments if call.arguments is None else call.arguments
            self._results[call.position] = await function(*args, **kwargs)
        except (AiomasError, OSError, ValueError) as exc:
            self._fail(call, exc)
        finally:
            self._slots.give(1)

    def _function(self, target: Any) -> Any:
        function = self._container.proxy(url_of(target)) if isinstance(target, Agent) else target
        for name in self._method.split("/"):
            function = getattr(function, name)
        return function

    def _deadline_now(self) -> float | None:
        """Return when a message that is sent now has to be answered."""
        return self._container.deadline(None) if self._deadline is None else self._deadline

    def _fail(self, call: _Call, error: Exception) -> None:
        self._results[call.position] = self._failures[call.position] = error

    def _fail_all(
        self, calls: Iterable[_Call], error: AiomasError, outcome: Outcome | None = None
    ) -> None:
        for call in calls:
            own = copy_error(error)
            own.outcome = error.outcome if outcome is None else outcome
            self._fail(call, own)


def _is_plain(target: AgentProxy | Agent, aid: str) -> bool:
    """Whether the call of an agent is what :meth:`ClusterContainer.call_many` makes."""
    if isinstance(target, Agent):
        return True
    # Proxies have no public attributes of their own.
    return target._options is None and target._path == f"agents/{aid}"  # noqa: SLF001


def _check_time(deadline: float, origin: Any) -> float:
    """Return how many seconds are left.

    Raises:
        DeadlineExceeded: there are none.
    """
    left = deadline - asyncio.get_running_loop().time()
    if left <= 0:
        text = "DeadlineExceeded: the time was up before the call was sent"
        raise DeadlineExceeded(origin, text).of_call(Outcome.NOT_SENT)
    return left


def _check_method(method: object) -> None:
    if not isinstance(method, str) or not all(method.split("/")):
        msg = f"The method is the name of an exposed function, got {method!r}"
        raise ValueError(msg)
    if any(name.startswith("_") for name in method.split("/")):
        msg = f"{method!r} is private: it cannot be called"
        raise AttributeError(msg)


def _reply(link: Link, reply: Any, count: int) -> tuple[Sequence[Any], int | None]:
    match reply:
        case [list() | tuple() as entries, int() | None as ticket] if len(entries) == count:
            return entries, ticket
    text = f"This is no reply to a call of many agents: {reply!r:.100}"
    raise RemoteException(link.peer, text).of_call(Outcome.EXECUTED)


def _lot(link: Link, reply: Any) -> tuple[dict[int, Any], bool]:
    match reply:
        case [list() | tuple() as lot, bool() as more] if all(_is_pair(pair) for pair in lot):
            return dict(lot), more
    text = f"These are no results of calls of many agents: {reply!r:.100}"
    raise RemoteException(link.peer, text).of_call(Outcome.EXECUTED)


def _is_pair(pair: Any) -> bool:
    match pair:
        case [int(), _]:
            return True
    return False
