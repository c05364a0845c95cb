"""The outbox: batches, what is held while the peer does not read, and what has left for certain."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from aiomas import _outbox
from aiomas._limits import Limits
from aiomas._outbox import Outbox
from aiomas._stats import Counters
from aiomas._wire import LARGE_FRAME, frame, header
from aiomas.testing import VirtualTimeLoop

HIGH = 100
LIMITS = Limits(write_high_water=HIGH, write_cap=1_000, write_timeout=30.0)


class Transport(asyncio.Transport):
    """Keeps what was written until the peer takes it; pauses and resumes as asyncio's do."""

    def __init__(self) -> None:
        super().__init__()
        self.outbox: Outbox
        self.writes: list[bytes] = []
        self.buffered = 0
        self.closing = False
        self.high_water = HIGH
        self.high: int | None = None

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.high = high

    def get_write_buffer_size(self) -> int:
        return self.buffered

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: Any) -> None:
        assert not self.closing
        self.writes.append(data)
        self.buffered += len(data)
        if self.buffered > self.high_water and not self.outbox.paused:
            self.outbox.pause()

    def take(self, size: float = math.inf) -> None:
        """Let the peer take so many bytes."""
        self.buffered -= min(int(min(size, self.buffered)), self.buffered)
        if self.buffered <= self.high_water / 4 and self.outbox.paused:
            self.outbox.resume()
            loop = self.outbox._loop
            if not loop.is_running():
                loop.run_until_complete(asyncio.sleep(0))

    def written(self) -> bytes:
        """Return what was written since the last time."""
        data = b"".join(self.writes)
        self.writes.clear()
        return data


class Setting:
    """An outbox with all that belongs to it."""

    def __init__(
        self, loop: VirtualTimeLoop, limits: Limits = LIMITS, *, write_through: bool = False
    ) -> None:
        self.loop = loop
        self.given_up: list[tuple[float, str]] = []
        self.writable: list[float] = []
        self.counters = Counters()
        self.transport = Transport()
        self.outbox = Outbox(
            loop,
            limits,
            lambda reason: self.given_up.append((loop.time(), reason)),
            lambda: self.writable.append(loop.time()),
        )
        self.transport.outbox = self.outbox
        self.outbox.attach(self.transport, self.counters, write_through=write_through)

    def turn(self) -> None:
        """Let a turn of the loop pass."""
        self.loop.run_until_complete(asyncio.sleep(0))

    def until(self, when: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(when - self.loop.time()))

    def fill(self) -> None:
        """Send so much that the transport is over its high-water mark."""
        data = b"#" * (HIGH + 1)
        self.outbox.send(data)
        assert self.outbox.paused
        assert self.transport.written().endswith(data)

    def blocked(self, start: float, end: float) -> None:
        """Let a callback block the loop."""
        self.loop.call_at(start, setattr, self.loop._timeline, "now", end)

    def timers(self) -> int:
        return sum(not timer.cancelled() for *_, timer in self.loop._timeline._timers)


@pytest.fixture
def loop():
    loop = VirtualTimeLoop()
    yield loop
    loop.close()


@pytest.fixture
def setting(loop):
    return Setting(loop)


@pytest.fixture
def outbox(setting):
    return setting.outbox


@pytest.fixture
def transport(setting):
    return setting.transport


# --- batches --------------------------------------------------------------------------------------


def test_the_transport_gets_the_high_water_mark(transport):
    assert transport.high == HIGH


def test_the_frames_of_a_turn_leave_in_one_write(setting, outbox, transport):
    for data in (b"a", b"b", b"c"):
        outbox.send(data)
    assert transport.writes == []

    setting.turn()

    assert transport.writes == [b"abc"]


def test_a_later_turn_has_its_own_write(setting, outbox, transport):
    outbox.send(b"a")
    setting.turn()
    outbox.send(b"b")
    setting.turn()

    assert transport.writes == [b"a", b"b"]


@pytest.mark.parametrize(("cores", "size"), [(1, 128), (2, 32), (64, 32)])
def test_a_batch_that_is_full_leaves_at_once(loop, monkeypatch, cores, size):
    monkeypatch.setattr(_outbox, "usable_cores", lambda: cores)
    setting = Setting(loop, Limits(write_high_water=1000))
    outbox, transport = setting.outbox, setting.transport
    transport.high_water = 1000
    for _ in range(size - 1):
        outbox.send(b"x")
    assert transport.writes == []

    outbox.send(b"x")
    assert transport.writes == [b"x" * size]

    outbox.send(b"y")
    setting.turn()
    assert transport.writes == [b"x" * size, b"y"]


def test_a_large_frame_leaves_at_once_with_those_before_it(outbox, transport):
    outbox.send(b"a")
    outbox.send(b"b" * HIGH)

    assert transport.writes == [b"a" + b"b" * HIGH]


def test_a_frame_below_the_high_water_mark_waits_for_the_end_of_the_turn(outbox, transport):
    outbox.send(b"b" * (HIGH - 1))

    assert transport.writes == []


def test_each_frame_leaves_at_once_if_that_is_wanted(loop):
    setting = Setting(loop, write_through=True)

    setting.outbox.send(b"a", 0)
    assert setting.transport.writes == [b"a"]
    assert setting.outbox.first_unsent() == math.inf

    setting.outbox.send(b"b")
    assert setting.transport.writes == [b"a", b"b"]
    setting.turn()
    assert setting.transport.writes == [b"a", b"b"]


def test_flushing_writes_now_and_nothing_twice(setting, outbox, transport):
    outbox.send(b"a")
    outbox.flush()
    outbox.flush()
    setting.turn()

    assert transport.writes == [b"a"]


def test_what_was_written_is_counted(setting, outbox):
    outbox.send(b"abc")
    assert setting.counters.bytes_out == 0
    setting.turn()
    assert setting.counters.bytes_out == 3


def test_nothing_is_written_to_a_transport_that_is_closing(setting, outbox, transport):
    outbox.send(b"abc")
    transport.closing = True
    setting.turn()

    assert transport.writes == []
    assert setting.counters.bytes_out == 0


# --- while the peer does not read -----------------------------------------------------------------


def test_frames_are_held_while_the_transport_is_over_its_high_water_mark(
    setting, outbox, transport
):
    setting.fill()

    outbox.send(b"abc")
    outbox.send(b"b" * HIGH)
    setting.turn()

    assert transport.writes == []
    assert outbox.held_bytes == 3 + HIGH


def test_what_was_held_leaves_in_order_and_before_what_comes_later(setting, outbox, transport):
    setting.fill()
    for number in range(5):
        outbox.send(bytes([number]))

    transport.take()
    outbox.send(b"\5")
    setting.turn()

    assert transport.written() == bytes(range(6))
    assert outbox.held_bytes == 0
    assert not outbox.paused


def test_what_was_held_leaves_in_pieces_as_the_transport_takes_them(setting, outbox, transport):
    setting.fill()
    frames = [bytes([number]) * 30 for number in range(20)]
    for data in frames:
        outbox.send(data)

    transport.take()
    assert transport.writes == [b"".join(frames[:4])]  # the first ones that are enough for it
    assert outbox.paused
    assert outbox.held_bytes == 16 * 30
    outbox.send(b"last")

    while outbox.paused:
        transport.take()
    assert len(transport.writes) == 6  # the last one did not fill it, so the rest came at once
    assert transport.written() == b"".join(frames) + b"last"
    assert outbox.held_bytes == 0


def test_a_batch_from_before_the_pause_leaves_before_what_was_held(setting, outbox, transport):
    """Some transports notice only later that they are over their high-water mark."""
    outbox.send(b"a", 0)
    outbox.pause()
    outbox.send(b"b", 1)
    assert outbox.first_unsent() == 0

    outbox.resume()
    setting.turn()

    assert transport.written() == b"ab"
    assert outbox.first_unsent() == math.inf


def test_the_one_who_hands_out_requests_hears_when_all_has_left(setting, outbox, transport):
    setting.fill()
    for _ in range(5):
        outbox.send(b"x" * 60)
    setting.until(1.0)

    transport.take()
    assert setting.writable == []  # it is paused again

    setting.until(2.0)
    transport.take()
    transport.take()
    assert setting.writable == [2.0]


def test_there_is_room_up_to_the_cap(setting, outbox):
    setting.fill()
    outbox.send(b"x" * 400)  # and 200 bytes for what Python needs for it

    assert outbox.has_room(400)
    assert not outbox.has_room(401)


def test_what_was_released_makes_room(setting, outbox, transport):
    setting.fill()
    for _ in range(4):
        outbox.send(b"x" * 100)
    assert not outbox.has_room(1)

    transport.take()

    assert outbox.held_bytes == 200  # two of them are more than it takes at once
    assert outbox.has_room(400)
    assert not outbox.has_room(401)


# --- what has not left ----------------------------------------------------------------------------


def test_nothing_is_unsent_at_first(outbox):
    assert outbox.first_unsent() == math.inf


def test_requests_of_this_turn_are_unsent_until_its_end(setting, outbox):
    outbox.send(b"reply")
    outbox.send(b"a", 7)
    outbox.send(b"b", 8)
    assert outbox.first_unsent() == 7

    setting.turn()
    assert outbox.first_unsent() == math.inf

    outbox.send(b"c", 9)
    assert outbox.first_unsent() == 9


def test_replies_are_no_requests(setting, outbox, transport):
    outbox.send(b"reply")
    assert outbox.first_unsent() == math.inf

    setting.turn()
    setting.fill()
    outbox.send(b"reply")
    assert outbox.first_unsent() == math.inf


def test_requests_that_are_held_are_unsent(setting, outbox, transport):
    setting.fill()
    outbox.send(b"x" * 60)
    for number in range(5):
        outbox.send(b"x" * 60, number)
    assert outbox.first_unsent() == 0

    transport.take()  # the first two frames
    assert outbox.first_unsent() == 1
    transport.take()
    assert outbox.first_unsent() == 3
    transport.take()
    assert outbox.first_unsent() == math.inf


def test_request_number_0_counts(setting, outbox):
    outbox.send(b"a", 0)
    assert outbox.first_unsent() == 0

    outbox.flush()
    setting.fill()
    outbox.send(b"b", 0)
    assert outbox.first_unsent() == 0


def test_requests_in_a_full_batch_are_sent(outbox):
    for number in range(outbox.batch_size + 1):
        outbox.send(b"x", number)

    assert outbox.first_unsent() == outbox.batch_size


def test_requests_that_were_held_at_the_end_of_the_connection_stay_unsent(setting, outbox):
    setting.fill()
    outbox.send(b"x", 3)

    outbox.discard()

    assert outbox.first_unsent() == 3


def test_requests_in_a_batch_at_the_end_of_the_connection_stay_unsent(setting, outbox):
    outbox.send(b"x", 2)
    outbox.flush()
    outbox.send(b"x", 3)

    outbox.discard()
    setting.turn()

    assert outbox.first_unsent() == 3


def test_requests_that_a_closing_transport_does_not_take_stay_unsent(setting, outbox, transport):
    outbox.send(b"x", 2)
    setting.turn()
    outbox.send(b"x", 3)
    outbox.send(b"x", 4)
    transport.closing = True
    setting.turn()
    assert outbox.first_unsent() == 3

    outbox.discard()
    assert outbox.first_unsent() == 3


def test_held_requests_that_a_closing_transport_does_not_take_stay_unsent(
    setting, outbox, transport
):
    setting.fill()
    outbox.send(b"x", 3)
    transport.closing = True

    outbox.close()
    assert outbox.first_unsent() == 3

    outbox.discard()
    assert outbox.first_unsent() == 3
    assert outbox.held_bytes == 0


def test_nothing_that_was_held_is_written_to_a_transport_that_is_closing(
    setting, outbox, transport
):
    setting.fill()
    outbox.send(b"x", 3)
    transport.closing = True

    transport.take()

    assert transport.writes == []
    assert outbox.first_unsent() == 3


def test_requests_that_a_closing_outbox_has_written_are_sent(setting, outbox, transport):
    setting.fill()
    outbox.send(b"x", 3)

    outbox.close()
    outbox.discard()

    assert outbox.first_unsent() == math.inf


# --- a peer that takes nothing --------------------------------------------------------------------


def test_a_peer_that_takes_nothing_in_time_is_given_up(setting):
    setting.until(5.0)
    setting.fill()

    setting.until(100.0)

    [(when, reason)] = setting.given_up
    assert when == 35.0
    assert "write_timeout=30.0 s" in reason
    assert setting.timers() == 0


def test_a_peer_that_takes_something_has_time_again(setting, transport):
    setting.fill()
    for when in range(20, 100, 20):  # at least one byte in each 30 s
        setting.until(when)
        transport.take(1)
    assert setting.given_up == []

    setting.until(200.0)
    assert [when for when, _ in setting.given_up] == [120.0]


def test_what_we_write_ourselves_is_no_progress_of_the_peer(setting, outbox, transport):
    setting.fill()
    setting.until(20.0)
    outbox.send(b"x" * 300)
    outbox.close()

    setting.until(100.0)

    assert [when for when, _ in setting.given_up] == [30.0]


def test_what_we_write_ourselves_does_not_hide_the_progress_of_the_peer(setting, outbox, transport):
    setting.fill()
    setting.until(20.0)
    outbox.send(b"x" * 300)
    outbox.close()
    transport.take(50)

    setting.until(100.0)

    assert [when for when, _ in setting.given_up] == [60.0]


def test_a_peer_that_reads_again_is_watched_no_more(setting, transport):
    setting.fill()
    setting.until(29.0)

    transport.take()

    assert setting.timers() == 0
    setting.until(100.0)
    assert setting.given_up == []


def test_the_next_pause_has_all_of_the_time(setting, transport):
    setting.fill()
    setting.until(29.0)
    transport.take()
    setting.fill()

    setting.until(100.0)

    assert [when for when, _ in setting.given_up] == [59.0]


def test_a_pause_that_follows_at_once_is_watched_by_one_timer(setting, outbox, transport):
    setting.fill()
    for _ in range(5):
        outbox.send(b"x" * 60)
    setting.until(29.0)

    transport.take()  # and it is paused again
    assert outbox.paused
    assert setting.timers() == 1

    setting.until(100.0)
    assert [when for when, _ in setting.given_up] == [59.0]


def test_time_in_which_our_own_loop_was_blocked_does_not_count(setting):
    setting.fill()
    setting.blocked(20.0, 90.0)

    setting.until(119.0)
    assert setting.given_up == []

    setting.until(200.0)
    assert [when for when, _ in setting.given_up] == [120.0]


def test_a_timer_that_is_a_little_late_is_not_that_of_a_blocked_loop(setting):
    setting.fill()
    setting.blocked(29.5, 30.5)

    setting.until(31.0)

    assert [when for when, _ in setting.given_up] == [30.5]


def test_without_a_time_limit_there_is_no_timer(loop):
    setting = Setting(loop, Limits(write_high_water=HIGH, write_timeout=None))
    setting.fill()

    assert setting.timers() == 0
    setting.until(10_000.0)
    assert setting.given_up == []


# --- waiting --------------------------------------------------------------------------------------


def test_nobody_waits_while_the_transport_takes_all(setting, outbox):
    setting.loop.run_until_complete(outbox.drained())


def test_those_who_wait_go_on_when_all_has_left(setting, outbox, transport):
    setting.fill()
    for _ in range(5):
        outbox.send(b"x" * 60)

    async def wait() -> float:
        await outbox.drained()
        return setting.loop.time()

    async def main() -> list[float]:
        waiting = [asyncio.ensure_future(wait()) for _ in range(2)]
        for when in (1.0, 2.0, 3.0):
            setting.loop.call_at(when, transport.take)
        return await asyncio.gather(*waiting)

    assert setting.loop.run_until_complete(main()) == [3.0, 3.0]


def test_who_stops_waiting_does_not_stop_the_others(setting, outbox, transport):
    setting.fill()

    async def main() -> None:
        first, second = (asyncio.ensure_future(outbox.drained()) for _ in range(2))
        await asyncio.sleep(1)
        first.cancel()
        await asyncio.wait([first])
        assert not second.done()
        transport.take()
        await second

    setting.loop.run_until_complete(main())


def test_those_who_wait_go_on_at_the_end_of_the_connection(setting, outbox):
    setting.fill()
    setting.loop.call_at(1.0, outbox.discard)

    setting.loop.run_until_complete(outbox.drained())

    assert setting.loop.time() == 1.0


def test_who_wants_to_know_is_told_once_when_all_has_left(setting, outbox, transport):
    told: list[float] = []
    setting.fill()
    for _ in range(3):
        outbox.send(b"x" * 60)
    for _ in range(2):
        outbox.on_room(lambda: told.append(outbox.first_unsent()))

    transport.take()
    setting.turn()
    assert told == []

    transport.take()
    setting.turn()
    assert told == [math.inf, math.inf]

    setting.fill()
    transport.take()
    setting.turn()
    assert told == [math.inf, math.inf]


def test_who_wants_to_know_is_told_of_the_end_of_the_connection(setting, outbox):
    told: list[float] = []
    setting.fill()
    outbox.send(b"x", 3)
    outbox.on_room(lambda: told.append(outbox.first_unsent()))

    outbox.discard()
    setting.turn()

    assert told == [3]


def test_nobody_waits_for_a_transport_that_is_not_paused_although_others_want_to_know(
    setting, outbox
):
    outbox.on_room(lambda: None)

    setting.loop.run_until_complete(asyncio.wait_for(outbox.drained(), 1))

    assert setting.loop.time() == 0.0


# --- the end --------------------------------------------------------------------------------------


def test_closing_writes_all_that_is_here_in_order(setting, outbox, transport):
    outbox.send(b"a", 0)
    outbox.pause()
    outbox.send(b"b" * HIGH, 1)
    outbox.send(b"c" * HIGH, 2)

    outbox.close()

    assert transport.written() == b"a" + b"b" * HIGH + b"c" * HIGH
    assert outbox.held_bytes == 0
    assert outbox.first_unsent() == math.inf
    assert setting.counters.bytes_out == 1 + 2 * HIGH


def test_a_peer_that_takes_nothing_of_what_a_closing_outbox_has_written_is_given_up(
    setting, outbox
):
    setting.fill()
    outbox.close()

    setting.until(100.0)

    assert [when for when, _ in setting.given_up] == [30.0]


def test_nothing_is_left_at_the_end_of_the_connection(setting, outbox, transport):
    outbox.send(b"a")
    outbox.pause()
    outbox.send(b"b")

    outbox.discard()
    setting.turn()

    assert transport.writes == []
    assert outbox.held_bytes == 0
    assert not outbox.paused
    assert setting.timers() == 0
    assert setting.writable == []  # there is nobody to whom replies could go
    setting.until(100.0)
    assert setting.given_up == []


def test_nothing_is_written_while_the_transport_is_writing_itself(setting):
    # It would not be prepared for an error of ours in the middle of its own work.
    setting.fill()
    setting.outbox.send(b"held")
    setting.transport.buffered = 0
    setting.outbox.resume()
    assert setting.transport.writes == []
    setting.turn()
    assert setting.transport.written() == b"held"


def test_who_closes_the_connection_meanwhile_is_left_alone(setting):
    setting.fill()
    setting.outbox.send(b"held")
    setting.outbox.resume()
    setting.transport.closing = True
    setting.turn()
    assert setting.transport.writes == []
    assert setting.outbox.first_unsent() == math.inf


class TestTakingTurns:
    def test_what_is_said_in_a_dialogue_leaves_at_once(self, setting, outbox, transport):
        outbox.send(b"question")
        setting.turn()
        assert transport.written() == b"question"
        outbox.heard()
        outbox.send(b"again")
        assert transport.written() == b"again"

    def test_what_follows_in_a_burst_leaves_in_one_batch(self, setting, outbox, transport):
        outbox.send(b"question")
        setting.turn()
        outbox.heard()
        for data in (b"1", b"2", b"3"):
            outbox.send(data)
        setting.turn()
        assert transport.writes[-2:] == [b"1", b"23"]  # in their order

    def test_whoever_has_said_more_waits_for_others(self, setting, outbox, transport):
        for data in (b"1", b"2", b"3"):
            outbox.send(data)
        setting.turn()
        transport.written()
        outbox.heard()
        outbox.send(b"4")
        assert transport.written() == b""
        setting.turn()
        assert transport.written() == b"4"


class TestLongPayloads:
    """Those whose size is not known to be small."""

    LARGE = b"#" * LARGE_FRAME

    @pytest.fixture
    def setting(self, loop):
        limits = Limits(write_high_water=4 * LARGE_FRAME, write_cap=9 * LARGE_FRAME)
        setting = Setting(loop, limits)
        setting.transport.high_water = 4 * LARGE_FRAME
        return setting

    def test_only_the_beginning_of_a_large_one_is_copied_for_its_header(self, outbox, transport):
        payload = memoryview(self.LARGE + b"the end")
        outbox.send_long(payload)
        first, second = transport.writes
        assert first == header(payload) + self.LARGE
        assert second == b"the end"
        assert second.obj is payload.obj

    def test_it_is_not_copied_for_transports_of_uvloop_which_write_several_at_once(self, loop):
        class Gathering(Transport):
            __module__ = "uvloop.loop"

            def writelines(self, data: Any) -> None:
                pieces.append(tuple(data))
                self.buffered += sum(map(len, data))

        pieces: list[tuple] = []
        setting = Setting(loop)
        transport = Gathering()
        setting.outbox.attach(transport, setting.counters, write_through=False)
        payload = memoryview(self.LARGE)
        setting.outbox.send_long(payload)
        (piece,) = pieces
        assert piece[0] == header(payload)
        assert piece[1] is payload
        assert setting.counters.bytes_out == len(frame(self.LARGE))
        assert not setting.outbox.all_taken()

    def test_one_below_that_size_leaves_with_others_of_this_turn(self, setting, outbox, transport):
        payload = self.LARGE[1:]
        outbox.send_long(payload)
        outbox.send(b"next")
        assert transport.writes == []
        setting.turn()
        assert transport.writes == [frame(payload) + b"next"]

    def test_a_large_one_leaves_after_those_before_it(self, setting, outbox, transport):
        outbox.send(b"before", 1)
        outbox.send_long(self.LARGE, 2)
        outbox.send(b"after", 3)
        assert transport.writes == [b"before", frame(self.LARGE)]
        assert outbox.first_unsent() == 3
        setting.turn()
        assert transport.writes[2:] == [b"after"]
        assert outbox.first_unsent() == math.inf

    def test_it_is_counted(self, setting, outbox):
        outbox.send_long(self.LARGE)
        assert setting.counters.bytes_out == len(frame(self.LARGE))
        assert not outbox.all_taken()
        setting.transport.take()
        assert outbox.all_taken()

    @pytest.mark.parametrize("size", [10, LARGE_FRAME])
    def test_it_is_held_while_the_peer_does_not_read(self, setting, outbox, transport, size):
        payload = memoryview(bytearray(b"x" * size))
        outbox.pause()
        outbox.send(b"before", 1)
        outbox.send_long(payload, 2)
        outbox.send(b"after", 3)
        payload[:] = b"y" * size  # its memory may be used for something else by then
        assert transport.writes == []
        assert outbox.held_bytes == len(b"before" + b"after") + len(header(payload)) + size
        assert outbox.first_unsent() == 1

        outbox.resume()
        setting.turn()

        assert transport.written() == b"before" + frame(b"x" * size) + b"after"
        assert outbox.first_unsent() == math.inf

    def test_the_first_that_is_held_is_the_first_unsent(self, outbox):
        outbox.send_long(self.LARGE, 6)
        outbox.pause()
        outbox.send_long(self.LARGE, 7)
        assert outbox.first_unsent() == 7
        outbox.discard()
        assert outbox.first_unsent() == 7

    def test_one_that_a_closing_transport_does_not_take_stays_unsent(
        self, setting, outbox, transport
    ):
        transport.closing = True
        outbox.send_long(self.LARGE, 5)
        setting.turn()
        assert transport.writes == []
        assert outbox.first_unsent() == 5

    def test_those_before_it_stay_unsent_with_it(self, outbox, transport):
        outbox.send(b"before", 4)
        transport.closing = True
        outbox.send_long(self.LARGE, 5)
        assert transport.writes == []
        outbox.discard()
        assert outbox.first_unsent() == 4

    def test_one_that_brings_the_transport_over_its_mark_leaves_as_a_whole(
        self, setting, outbox, transport
    ):
        payload = b"#" * 5 * LARGE_FRAME
        outbox.send_long(payload, 1)
        outbox.send_long(self.LARGE, 2)
        assert outbox.paused
        assert transport.written() == frame(payload)
        assert outbox.first_unsent() == 2

    def test_one_whose_header_alone_brings_the_transport_over_its_mark_leaves_as_a_whole(
        self, outbox, transport
    ):
        transport.buffered = transport.high_water
        outbox.send_long(self.LARGE, 1)
        assert outbox.paused
        assert transport.written() == frame(self.LARGE)
        assert outbox.first_unsent() == math.inf

    def test_after_the_end_it_is_lost(self, outbox, transport):
        outbox.close()
        outbox.send_long(self.LARGE, 1)
        assert transport.writes == []
        assert outbox.held_bytes == 0

    def test_who_said_a_large_thing_has_said_one_thing(self, outbox, transport):
        outbox.send_long(self.LARGE)
        outbox.heard()
        transport.written()
        outbox.send(b"again")
        assert transport.written() == b"again"
