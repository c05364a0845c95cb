"""The container of the processes of a cluster: it serves and makes many calls in one message."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from aiomas import rpc
from aiomas._address import parse_url
from aiomas._authorize import Guard
from aiomas._current import CallOptions, Source, current_call, deadline_of
from aiomas._dispatch import Dispatcher
from aiomas._loopback import Loopback
from aiomas.agent import Container
from aiomas.cluster.batch import Batch, BatchTerms, Entry, Piece, fill, take
from aiomas.codecs import Codec
from aiomas.exceptions import ConnectionLost, DeadlineExceeded, Outcome

_log = logging.getLogger("aiomas.cluster")

_MARGIN = 100  # bytes of a reply beside its entries
_MOST_KEPT = 256  # replies whose caller has not come for the rest of them
_DISCARD_TIMEOUT = 5.0  # seconds that an agent has to clean up which was made in vain
_KEEP = 60.0  # seconds in which a caller has to come for results that had no room in a reply


class Link(rpc.Sender, Protocol):
    """What calls are sent over: a connection, or the inside of the container itself."""

    codec: Codec

    @property
    def extended(self) -> bool:
        """Whether the other end knows the extensions of the protocol."""


class ClusterContainer(Container):
    """A container that also serves many calls in one message.

    Takes the same parameters as :class:`~aiomas.Container`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._kept: dict[int, tuple[Source, dict[int, Entry]]] = {}
        self._tickets = itertools.count(1)
        self._told_of_removal: Callable[[str], object] | None = None
        self._told_of_last_call: Callable[[float], Awaitable[object]] | None = None

    def insist_on(self, urls: Iterable[str]) -> None:
        """Call nobody at these base URLs who does not show the token, from the first time on."""
        self._terms.proven.update(urls)

    def set_generation(
        self,
        *,
        accept: int,
        known: int,
        use: int,
        lost: Iterable[str] = (),
        found: Iterable[str] = (),
    ) -> None:
        """Say which part of the cluster was given up, and what has taken its place.

        With each host that is given up the cluster begins a new *generation*, a number.  What is
        left of the cluster is told in three rounds, each to all before the next one begins, so that
        no two of them ever refuse each other: that there is a new one (*known*, with what is
        *lost*), to use it (*use*), and to serve no older one (*accept*).  Connections that are open
        go on, whatever their generation, but for those with what is lost: they are cut.

        Args:
            accept: the oldest generation whose containers are served.
            known: the newest generation that there may be.  A container of a newer one is refused,
                and :meth:`on_outdated` told: it is we who were given up.
            use: the generation that we show to others; no older than *accept*, no newer than
                *known*.
            lost: base URLs of containers that were given up.  Calls to them, those under way as
                well, fail with :class:`~aiomas.exceptions.ConnectionLost`, and none of them is
                served, until they are *found*.
            found: base URLs at which there are containers of the cluster again.

        Raises:
            ValueError: the numbers are not in this order, or the container has no token, so that
                nobody could prove of which generation he is.
        """
        if not 0 <= accept <= use <= known:
            msg = f"generations are 0 <= accept <= use <= known, got {accept=}, {use=}, {known=}"
            raise ValueError(msg)
        if self._terms.token is None:
            msg = f"{self!r} has no token, so that nobody could prove of which generation he is"
            raise ValueError(msg)
        generations = self._terms.generations
        generations.accept, generations.known, generations.use = accept, known, use
        generations.lost.difference_update(found)
        self.cut_off(lost)

    def cut_off(self, lost: Iterable[str]) -> None:
        """Have nothing to do any more with the containers that have these base URLs.

        It is what :meth:`set_generation` does with those that are *lost*.
        """
        urls = set(lost)
        self._terms.generations.lost.update(urls)
        self._cut_lost(urls)

    def on_outdated(self, callback: Callable[[int], object]) -> None:
        """Call ``callback(generation)`` for each peer of a generation that is newer than ours."""
        self._terms.generations.on_outdated = callback

    def begin_life(self, life: int, awaited: Iterable[str], gone: Iterable[str] = ()) -> None:
        """Take the place of a container that died.

        Args:
            life: how many there were before.
            awaited: the ids of agents that will be made again.
            gone: ids that former agents have chosen; no other agent gets one of them.
        """
        self._population.begin_life(life, gone)
        self._population.await_agents(awaited)

    def assigning(self, former: Sequence[str]) -> AbstractContextManager[list[str]]:
        """Give agents that are made in this context their former ids; yield all ids made there."""
        return self._population.assigning(former)

    def give_up(self, aids: Iterable[str]) -> None:
        """Let callers know that there will be no agents with these ids, where there are none."""
        self._population.give_up(aids)

    def portable_codec(self) -> Codec:
        """Return a codec for values that travel beside the connections of the cluster."""
        return self._portable_codec()

    def on_removed(self, callback: Callable[[str], object]) -> None:
        """Call ``callback(aid)`` when an agent was stopped."""
        self._told_of_removal = callback

    def on_drained(self, callback: Callable[[float], Awaitable[object]]) -> None:
        """Await ``callback(timeout)`` when we shut down, after the last request, before agents end.

        The *timeout*, in seconds, is that of :meth:`~aiomas.Container.shutdown`.
        """
        self._told_of_last_call = callback

    async def discard(self, aids: Iterable[str]) -> None:
        """End those agents of a factory that has failed which it had made."""
        for aid in aids:
            agent = self.agents.dict.get(aid)
            if agent is not None:
                try:
                    await super()._remove(agent, aid, _DISCARD_TIMEOUT)
                except Exception:  # noqa: BLE001 - whatever its on_stop() raises
                    _log.exception(
                        "Agent %s, of a factory that has failed, could not be ended", aid
                    )

    async def _drained(self, timeout: float) -> None:
        if self._told_of_last_call is not None:
            await self._told_of_last_call(timeout)

    async def _remove(self, agent: Any, aid: str, timeout: float) -> None:
        if self._told_of_removal is not None:
            self._told_of_removal(aid)
        await super()._remove(agent, aid, timeout)

    @rpc.expose
    async def call_many(
        self,
        method: str,
        calls: Sequence[Any],
        arguments: Piece | None = None,
        *,
        concurrency: int = 256,
        grace: float = 0.0,
        room: int | None = None,
    ) -> tuple[list[Entry | None], int | None]:
        """Call a function of many agents here, each as if it had been called alone.

        It reaches the same functions as ordinary calls of ``agents/<aid>/<method>``, and asks
        *authorize* for each of them.

        Args:
            method: the path of the function, from the agent.
            calls: ``[aid, arguments]`` for each agent.  The latter are ``[args, kwargs]``, encoded
                by :func:`.batch.pack`; ``None`` for the *arguments* of all.
            arguments: those of agents that have none of their own; each one gets a copy.
            concurrency: how many of them are served at the same time, at the most.
            grace: seconds before the deadline of this call at which theirs is: then it returns,
                even if some of them have not.
            room: bytes that a reply may have, if that is less than our *max_frame*.

        Returns:
            For each call ``(True, result)``, or ``(False, text, kind, outcome)``; ``None`` if it
            had no room in the reply.  Then there is a ticket as well, with which
            :meth:`more_results` returns the others.

        Raises:
            TypeError: a parameter has the wrong type, or *grace* is not finite.
            ValueError: there are more calls than *max_requests*.
        """
        self._check(method, calls, concurrency, grace)
        source = current_call()._source  # noqa: SLF001 - a container knows its connections
        deadline = current_call().deadline
        own_room = self._room(room)
        terms = BatchTerms(
            source=source,  # type: ignore[arg-type]
            codec=_codec_of(source),
            deadline=None if deadline is None else deadline - grace,
            room=own_room,
            tracebacks=self._terms.tracebacks,
        )
        self._terms.counters.calls_in += len(calls)
        batch = Batch(
            method, calls, arguments, self._dispatcher_for(source), terms, max(1, concurrency)
        )
        ended = await batch.run()
        if not isinstance(source, Loopback):  # the same counters count it at the caller's end
            self.count(errors=sum(not entry[0] for entry in ended))
        entries, kept = fill(ended, own_room)
        return entries, self._keep(source, kept)

    @rpc.expose
    def more_results(self, ticket: int, room: int | None = None) -> tuple[list[Any], bool]:
        """Return results of :meth:`call_many` that had no room in its reply.

        Args:
            ticket: what :meth:`call_many` has returned, over the same connection.
            room: as there.

        Returns:
            ``(position, result)`` for some of the calls, with results as there; and whether there
            are more.

        Raises:
            LookupError: there are none; they are kept for a minute.
        """
        found = self._kept.get(ticket) if isinstance(ticket, int) else None
        if found is None or found[0] is not current_call()._source:  # noqa: SLF001 - as above
            msg = f"There are no results for the ticket {ticket!r:.20}"
            raise LookupError(msg)
        kept = found[1]
        lot = take(kept, self._room(room))
        if not kept:
            del self._kept[ticket]
        return lot, bool(kept)

    @property
    def max_frame(self) -> int:
        """The largest message that the container sends or accepts, in bytes."""
        return self._terms.limits.max_frame

    def deadline(self, timeout: float | None) -> float | None:
        """Return when a call that is made now has to be done; see :func:`~aiomas.with_options`.

        Args:
            timeout: seconds that it has, if its caller says so.
        """
        return deadline_of(self._loop, CallOptions(timeout=timeout), self._terms.call_timeout)

    def count(self, calls: int = 0, errors: int = 0) -> None:
        """Count calls that were made in one message, and those that failed."""
        self._terms.counters.calls_out += calls
        self._terms.counters.errors += errors

    async def link(self, base_url: str, deadline: float | None = None) -> Link:
        """Return the connection to the container at *base_url*; make one if need be.

        Raises:
            ConnectionLost: none could be made.
            DeadlineExceeded: none could be made before the *deadline*, a time of the event loop.
        """
        if base_url == self._base_url:
            return self._local
        peer = self._pool.peer(parse_url(base_url + "0")[0])
        peer.check_not_closing()
        try:
            async with asyncio.timeout_at(deadline) as bound:
                return (await peer.connect()).channel
        except ConnectionLost as exc:
            exc.of_call(Outcome.NOT_SENT)
            raise
        except OSError as exc:
            if bound.expired():
                text = f"DeadlineExceeded: there was no connection to {base_url} in time"
                raise DeadlineExceeded(base_url, text).of_call(Outcome.NOT_SENT) from None
            msg = f"No connection to {base_url}: {exc}"
            raise ConnectionLost(msg).of_call(Outcome.NOT_SENT) from exc

    def _check(self, method: object, calls: object, concurrency: object, grace: object) -> None:
        good = (
            isinstance(method, str)
            and isinstance(calls, list | tuple)
            and isinstance(concurrency, int)
            and isinstance(grace, int | float)
            and math.isfinite(grace)
        )
        if not good:
            msg = "call_many() takes the name of a function and a list of calls"
            raise TypeError(msg)
        if isinstance(calls, list | tuple) and len(calls) > self._terms.limits.max_requests:
            msg = (
                f"{len(calls)} calls in one message are over the limit "
                f"max_requests={self._terms.limits.max_requests}"
            )
            raise ValueError(msg)

    def _room(self, room: object) -> int:
        own = self._terms.limits.max_frame
        return max(1, (min(own, room) if isinstance(room, int) else own) - _MARGIN)

    def _dispatcher_for(self, source: Source) -> Dispatcher:
        """Return a dispatcher for what the peer may call."""
        dispatcher = Dispatcher(self.router, self._handlers, self._loop)
        if self._authorize is not None and not isinstance(source, Loopback):
            channel = source.channel  # type: ignore[attr-defined]
            if channel.is_tls:
                dispatcher.guard = Guard(self._authorize, channel)
        return dispatcher

    def _keep(self, source: Source, kept: dict[int, Entry]) -> int | None:
        if not kept:
            return None
        ticket = next(self._tickets)
        self._kept[ticket] = source, kept
        if len(self._kept) > _MOST_KEPT:
            del self._kept[next(iter(self._kept))]
        if not isinstance(source, Loopback):
            channel = source.channel  # type: ignore[attr-defined]
            channel.on_closed(lambda: self._kept.pop(ticket, None))
        # Not in the context of the caller, which would live as long.
        context = contextvars.Context()
        self._loop.call_later(_KEEP, self._kept.pop, ticket, None, context=context)
        return ticket


def _codec_of(source: Any) -> Codec:
    codec: Codec = source.codec if isinstance(source, Loopback) else source.channel.codec
    return codec
