"""Many calls in one message: how they travel, and how they are served.

Arguments and results travel as pieces, each encoded for itself: one that is bad spoils no other,
and agents that get the same arguments share no objects.  The calls themselves pass through a
:class:`Dispatcher` like all others, so what can be called, and how it fails, is decided there.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

from aiomas._current import Source
from aiomas._dispatch import Dispatcher
from aiomas._intake import describe_failure
from aiomas._served import Served
from aiomas.codecs import JSON, Codec, MsgPack, MsgPackBlosc
from aiomas.exceptions import DecodeError, Outcome, SerializationError

Piece = bytes | str
Entry = tuple[bool, Piece] | tuple[bool, Piece, str, str]
"""``(True, result)``, or ``(False, text, kind, outcome)`` for a failure."""

RAISED = "raised"
"""The kind of failures that are exceptions of the function itself."""

_ENTRY_BYTES = 64  # that an entry takes beside its piece, at the most
_IMMUTABLE = frozenset({bool, bytes, float, int, str, type(None)})
_LATE = "DeadlineExceeded: there was no reply in time"


def pack(codec: Codec, value: Any) -> Piece:
    """Return *value* as something that can be a part of a message of *codec*.

    Raises:
        SerializationError: *value* cannot be encoded.
    """
    if _compresses(codec):
        return MsgPack.encode(codec, value)  # type: ignore[arg-type]
    try:
        data = codec.encode(value)
    except SerializationError:
        raise
    except Exception as exc:  # a codec of a user, which may raise anything
        msg = f"{codec!r} cannot encode a part of a message: {exc!r}"
        raise SerializationError(msg) from exc
    # JSON has no bytes. Nor may codecs of users; then a message with them cannot be encoded.
    return data.decode() if type(codec).encode is JSON.encode else data


def unpack(codec: Codec, piece: object) -> Any:
    """Return the value that a piece stands for.

    Raises:
        DecodeError: it stands for none.
    """
    if not isinstance(piece, bytes | str):
        msg = f"A part of a message is text or bytes, got {piece!r:.100}"
        raise DecodeError(msg)
    data = piece.encode(errors="surrogatepass") if isinstance(piece, str) else piece
    if _compresses(codec):
        value, error = MsgPack.decode_message(codec, data)  # type: ignore[arg-type]
    else:
        value, error = codec.decode_message(data)
    if error is not None:
        raise error
    return value


def _compresses(codec: Codec) -> bool:
    """Whether it compresses messages, so that their pieces need not be."""
    return type(codec).encode is MsgPackBlosc.encode


def size_of(piece: Piece) -> int:
    """Return how many bytes a piece takes in a message, at the most."""
    if isinstance(piece, bytes):
        return len(piece) + 8
    return len(piece) + piece.count('"') + piece.count("\\") + 8


def fill(entries: Sequence[Entry | None], room: int) -> tuple[list[Entry | None], dict[int, Entry]]:
    """Divide *entries* into those that fit into a message, and the others.

    Args:
        entries: what there is.
        room: bytes in the message.

    Returns:
        The entries, with ``None`` for those that have no room; and these, by their positions.
    """
    taken = 8 * len(entries)
    kept: dict[int, Entry] = {}
    fitting: list[Entry | None] = []
    for position, entry in enumerate(entries):
        if entry is not None:
            size = size_of(entry[1]) + _ENTRY_BYTES
            if taken + size > room:
                kept[position] = entry
                fitting.append(None)
                continue
            taken += size
        fitting.append(entry)
    return fitting, kept


def take(kept: dict[int, Entry], room: int) -> list[tuple[int, Entry]]:
    """Remove from *kept* what fits into a message with *room* bytes; one entry at least."""
    taken = 0
    lot: list[tuple[int, Entry]] = []
    for position, entry in list(kept.items()):
        taken += size_of(entry[1]) + _ENTRY_BYTES
        if lot and taken > room:
            break
        lot.append((position, kept.pop(position)))
    return lot


class BatchSource(Source, Protocol):
    """The connection on which a batch has come; see :class:`~aiomas._intake.Replier`."""

    @property
    def extended(self) -> bool:
        """Whether the peer may give up calls."""


@dataclasses.dataclass(frozen=True, slots=True)
class BatchTerms:
    """What holds for all calls of a batch."""

    source: BatchSource
    codec: Codec
    deadline: float | None
    """When the caller's time is up, in terms of the event loop's ``time()``."""
    room: int
    """Bytes that an entry may take."""
    tracebacks: bool


class Batch:
    """Calls of one function of many agents, which are being served.

    Args:
        method: the path of the function, from the agent.
        calls: ``[aid, arguments]`` for each agent; ``None`` for the *arguments* of all.
        arguments: a piece with the arguments of those that have none of their own.
        dispatcher: serves these calls, and no others.
        terms: what holds for all of them.
        concurrency: how many are served at the same time, at the most.
    """

    def __init__(
        self,
        method: str,
        calls: Sequence[Any],
        arguments: Piece | None,
        dispatcher: Dispatcher,
        terms: BatchTerms,
        concurrency: int,
    ) -> None:
        self.terms = terms
        self._method = method
        self._calls = calls
        self._arguments = arguments
        self._shared: tuple[Any, Any] | None = None
        self._dispatcher = dispatcher
        self._concurrency = concurrency
        self._entries: list[Entry | None] = [None] * len(calls)
        self._running: dict[int, _Part] = {}
        self._started = 0
        self._wake: asyncio.Future[None] | None = None

    async def run(self) -> list[Entry]:
        """Serve all calls and return how they ended."""
        try:
            async with asyncio.timeout_at(self.terms.deadline) as bound:
                while True:
                    self._start_some()
                    if not self._running:
                        break
                    self._wake = asyncio.get_running_loop().create_future()
                    await self._wake
        except TimeoutError:
            if not bound.expired():
                raise
        finally:
            # Nobody takes the reply of what is still running.
            for number in list(self._running):
                self._dispatcher.cancel(number)
        return [entry or self._late(number) for number, entry in enumerate(self._entries)]

    def ended(self, part: _Part, entry: Entry) -> None:
        """Take the end of a call."""
        if self._running.pop(part.message_id, None) is None:
            return
        self._entries[part.message_id] = entry
        more = self._started < len(self._calls)
        # It is not started from here: this may be the context of the call that has ended.
        if (more or not self._running) and self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def describe(self, failure: BaseException | str | list[Any]) -> Any:
        """Return what the caller sees of a failure."""
        return describe_failure(failure, tracebacks=self.terms.tracebacks)

    def _start_some(self) -> None:
        while self._started < len(self._calls) and len(self._running) < self._concurrency:
            number = self._started
            self._started += 1
            part = self._running[number] = _Part(number, self)
            try:
                part.content = self._content(self._calls[number])
            except (TypeError, ValueError) as exc:  # a DecodeError is both
                part.refuse("bad request", f"{type(exc).__name__}: {exc}")
            else:
                self._dispatcher(part)

    def _content(self, call: Any) -> Any:
        match call:
            case [str(aid), piece]:
                pass
            case _:
                msg = "one of many calls is [aid, arguments]"
                raise TypeError(msg)
        args, kwargs = self._arguments_of_all() if piece is None else self._unpacked(piece)
        return f"agents/{aid}/{self._method}", args, kwargs

    def _arguments_of_all(self) -> tuple[Any, Any]:
        if self._shared is not None:
            return self._shared
        args, kwargs = self._unpacked(self._arguments)
        if all(type(value) in _IMMUTABLE for value in [*args, *kwargs.values()]):
            self._shared = args, kwargs  # else each agent gets objects of its own
        return args, kwargs

    def _unpacked(self, piece: object) -> tuple[Any, Any]:
        match unpack(self.terms.codec, piece):
            case [list() | tuple() as args, dict() as kwargs]:
                return args, kwargs
        msg = "arguments are [args, kwargs], a list and a map"
        raise TypeError(msg)

    def _late(self, number: int) -> Entry:
        outcome = Outcome.MAYBE_EXECUTED if number < self._started else Outcome.NOT_EXECUTED
        return False, pack(self.terms.codec, _LATE), "deadline", str(outcome)


class _Part(Served):
    """One call of a batch, as a dispatcher sees it."""

    def __init__(self, number: int, batch: Batch) -> None:
        self.content: Any = None
        self.message_id = number
        self.source = batch.terms.source
        self.deadline = batch.terms.deadline
        self._batch = batch

    def answer(self, result: Any) -> None:
        try:
            entry = True, self._fitting(result)
        except SerializationError as exc:
            self.fail(f"{type(exc).__name__}: {exc}"[:1000])
        else:
            self._batch.ended(self, entry)

    def fail(self, failure: BaseException | str | list[Any]) -> None:
        self._end(self._batch.describe(failure), RAISED, Outcome.EXECUTED)

    def refuse(self, kind: str, text: str, outcome: Outcome = Outcome.NOT_EXECUTED) -> None:
        self._end(text, kind, outcome)

    def _end(self, text: Any, kind: str, outcome: Outcome) -> None:
        try:
            piece = self._fitting(text)
        except SerializationError as exc:
            piece = pack(self._batch.terms.codec, f"{type(exc).__name__}: {exc}"[:1000])
        self._batch.ended(self, (False, piece, kind, str(outcome)))

    def _fitting(self, value: Any) -> Piece:
        terms = self._batch.terms
        piece = pack(terms.codec, value)
        size = size_of(piece) + _ENTRY_BYTES
        if size > terms.room:
            msg = f"A message of {size} bytes is over the limit max_frame={terms.room}"
            raise SerializationError(msg)
        return piece
