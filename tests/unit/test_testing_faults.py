"""Connections with faults: what each fault does, and that the same seed does the same again."""

from __future__ import annotations

import asyncio
import gc
import itertools
import weakref

import pytest

import aiomas
from aiomas import channel, local_queue
from aiomas.exceptions import AddressError, ConnectionLost
from aiomas.local_queue import create_connection, create_server, get_queue
from aiomas.testing import Connection, Fault, Faults, FaultyQueue, Rates, VirtualTimeLoop, run

FRAME = b"\0\0\0\x06abcdef"


@pytest.fixture(autouse=True)
def no_queues():
    local_queue.clear_queue_cache()


@pytest.fixture
def anyio_backend():
    return "asyncio", {"loop_factory": VirtualTimeLoop}


class Recorder(asyncio.Protocol):
    """Writes down what happens, and when."""

    def __init__(self, name: str, log: list) -> None:
        self.name = name
        self.log = log
        self.transport: asyncio.Transport
        self.got: list[bytes] = []
        self.lost: list = []
        self.may_write = True

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.got.append(data)
        self.log.append((now(), self.name, data))

    def pause_writing(self):
        assert self.may_write
        self.may_write = False

    def resume_writing(self):
        assert not self.may_write
        self.may_write = True

    def connection_lost(self, exc):
        self.lost.append(exc)
        self.log.append((now(), self.name, exc))


class Line:
    """A client and a server over a queue with faults."""

    def __init__(self, connection: Connection, client: Recorder, server: Recorder) -> None:
        self.connection = connection
        self.client = client
        self.server = server
        self.log = client.log

    @classmethod
    async def over(cls, faults: Faults, name: str = "q", log: list | None = None) -> Line:
        log = [] if log is None else log
        queue = faults.queue(name)
        served: list[Recorder] = []

        def factory():
            served.append(Recorder(f"{name} server", log))
            return served[-1]

        server = await create_server(factory, queue)
        _, client = await create_connection(lambda: Recorder(f"{name} client", log), queue)
        server.close()
        return cls(faults.connections[-1], client, served[-1])

    def send(self, *frames: bytes) -> None:
        for frame in frames:
            self.client.transport.write(frame)


def now() -> float:
    return asyncio.get_running_loop().time()


async def turns(count: int = 6) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class TestRates:
    @pytest.mark.parametrize("name", ["drop", "cut", "garble", "reorder"])
    @pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
    def test_a_probability_is_from_0_to_1(self, name, rate):
        with pytest.raises(ValueError, match=name):
            Rates(**{name: rate})
        with pytest.raises(ValueError, match=name):
            Faults(**{name: rate})
        with pytest.raises(ValueError, match=name):
            Faults().set(**{name: rate})

    @pytest.mark.parametrize("delay", [(-1, 1), (2, 1), (0, float("inf")), (float("nan"), 1)])
    def test_a_delay_is_a_range(self, delay):
        with pytest.raises(ValueError, match="delay"):
            Rates(delay=delay)

    def test_setting_changes_only_what_is_named(self):
        faults = Faults(drop=0.5, delay=(1, 2))
        faults.to_client = Rates(garble=0.3)
        faults.set(drop=0, cut=0.1)
        assert faults.to_server == Rates(cut=0.1, delay=(1, 2))
        assert faults.to_client == Rates(garble=0.3, cut=0.1)
        faults.set(garble=0.0, reorder=1, delay=(0, 0))
        assert faults.to_server == faults.to_client == Rates(cut=0.1, reorder=1)
        assert "cut=0.1" in repr(faults)


class TestQueue:
    def test_it_is_found_by_its_id(self):
        queue = Faults().queue("a")
        assert isinstance(queue, FaultyQueue)
        assert get_queue("a") is queue
        assert get_queue("b") is not queue

    def test_there_is_one_for_each_id(self):
        faults, others = Faults(), Faults()
        queue = faults.queue("a")
        assert faults.queue("a") is queue
        assert others.queue("a") is get_queue("a") is not queue

    def test_it_takes_the_place_of_one_that_nobody_uses(self):
        plain = get_queue("a")
        assert Faults().queue("a") is get_queue("a") is not plain

    async def test_it_does_not_take_the_place_of_one_that_is_used(self):
        server = await create_server(asyncio.Protocol, get_queue("a"))
        with pytest.raises(OSError, match="in use"):
            Faults().queue("a")
        server.close()
        Faults().queue("a")

    @pytest.mark.parametrize("queue_id", ["", "a/b"])
    def test_its_id_is_a_name(self, queue_id):
        with pytest.raises(AddressError):
            Faults().queue(queue_id)


class TestWithoutFaults:
    async def test_bytes_arrive_as_on_a_plain_queue(self):
        faults = Faults()
        log: list = []
        lines = [await Line.over(faults, name, log) for name in "abc"]
        expected = []
        for number, line in enumerate(lines * 5):
            end, other = (line.client, line.server)[:: 1 if number % 2 else -1]
            end.transport.write(b"%d" % number)
            expected.append((0, other.name, b"%d" % number))
        assert log == []
        await asyncio.sleep(0)
        assert log == expected
        assert faults.record == []

    async def test_closing_delivers_what_was_written(self):
        line = await Line.over(Faults())
        line.send(b"1", b"2")
        line.client.transport.close()
        line.send(b"too late")
        await turns()
        assert line.server.got == [b"1", b"2"]
        assert line.client.lost == line.server.lost == [None]

    async def test_connections_have_names(self):
        faults = Faults()
        line = await Line.over(faults)
        assert line.connection.name == "q#1"
        assert repr(line.connection) == "<Connection q#1>"
        assert "to_server" in repr(line.connection.to_server)
        other = await Line.over(faults, "r")
        assert list(faults.connections) == [line.connection, other.connection]
        line.client.transport.close()
        await turns()
        assert list(faults.connections) == [other.connection]


class TestDrop:
    async def test_a_frame_is_lost_and_those_behind_it_arrive(self):
        faults = Faults()
        line = await Line.over(faults)
        line.send(b"1")
        faults.set(drop=1)
        line.send(b"2")
        line.server.transport.write(b"re")
        faults.set(drop=0)
        line.send(b"3")
        await turns()
        assert line.server.got == [b"1", b"3"]
        assert line.client.got == []
        assert faults.record == [
            Fault("q#1", "to_server", 2, "drop", 0),
            Fault("q#1", "to_client", 1, "drop", 0),
        ]

    async def test_directions_have_rates_of_their_own(self):
        faults = Faults()
        line = await Line.over(faults)
        faults.to_client = Rates(drop=1)
        line.send(b"1")
        line.server.transport.write(b"re")
        await turns()
        assert (line.server.got, line.client.got) == ([b"1"], [])

    async def test_the_end_is_never_lost(self):
        line = await Line.over(Faults(drop=1))
        line.client.transport.close()
        await turns()
        assert line.server.lost == [None]

    async def test_so_many_are_lost(self):
        faults = Faults(seed=3, drop=0.25)
        line = await Line.over(faults)
        line.send(*[b"x"] * 1000)
        await turns()
        assert 200 < len(faults.record) < 300
        assert len(line.server.got) == 1000 - len(faults.record)


class TestDelay:
    async def test_frames_arrive_later_and_in_order(self):
        faults = Faults(delay=(1, 3))
        line = await Line.over(faults)
        line.send(*[b"%d" % n for n in range(50)])
        await asyncio.sleep(3)
        delays = [fault.amount for fault in faults.record]
        assert {fault.kind for fault in faults.record} == {"delay"}
        assert all(1 <= delay <= 3 for delay in delays)
        assert max(delays) - min(delays) > 1
        # Each waits for those before it.
        assert [time for time, *_ in line.log] == list(itertools.accumulate(delays, max))
        assert line.server.got == [b"%d" % n for n in range(50)]

    async def test_the_end_comes_behind_what_is_late(self):
        line = await Line.over(Faults(delay=(5, 5)))
        line.send(b"x")
        line.client.transport.close()
        await asyncio.sleep(6)
        assert line.log == [(0, "q client", None), (5, "q server", b"x"), (5, "q server", None)]

    async def test_frames_of_different_connections_overtake_each_other(self):
        faults = Faults(seed=1, delay=(0, 1))
        log: list = []
        lines = [await Line.over(faults, name, log) for name in "ab"]
        for n in range(20):
            lines[n % 2].send(b"%d" % n)
        await asyncio.sleep(2)
        assert sorted(int(data) for *_, data in log) == list(range(20))
        assert [int(data) for *_, data in log] != list(range(20))
        assert [line.server.got for line in lines] == [
            [b"%d" % n for n in range(start, 20, 2)] for start in (0, 1)
        ]


class TestReorder:
    async def test_other_connections_overtake_without_any_time(self):
        faults = Faults()
        log: list = []
        lines = [await Line.over(faults, name, log) for name in "ab"]
        faults.set(reorder=1)
        lines[0].send(b"0")
        faults.set(reorder=0)
        lines[0].send(b"1")
        lines[1].send(b"2")
        await turns()
        assert [data for *_, data in log] == [b"2", b"0", b"1"]
        assert {time for time, *_ in log} == {0}
        [fault] = faults.record
        assert fault[:4] == ("a#1", "to_server", 1, "reorder")
        assert fault.amount in (1, 2, 3)

    async def test_the_order_within_a_connection_stays(self):
        faults = Faults(seed=2, reorder=0.5)
        line = await Line.over(faults)
        sent = [b"%d" % n for n in range(100)]
        line.send(*sent)
        await turns()
        assert line.server.got == sent
        assert {fault.amount for fault in faults.record} == {1, 2, 3}


class TestGarble:
    async def test_one_byte_is_changed_in_header_or_payload(self):
        faults = Faults(garble=1)
        line = await Line.over(faults)
        line.send(*[FRAME] * 2000)
        await turns()
        assert len(line.server.got) == 2000
        for data, fault in zip(line.server.got, faults.record, strict=True):
            changed = [n for n, (a, b) in enumerate(zip(data, FRAME, strict=True)) if a != b]
            assert changed == [fault.amount]
            assert fault.kind == "garble"
        places = [fault.amount for fault in faults.record]
        assert set(places) == set(range(len(FRAME)))
        assert 900 < sum(place < 4 for place in places) < 1100

    @pytest.mark.parametrize("size", [1, 4, 5])
    async def test_small_writes_are_garbled_as_well(self, size):
        line = await Line.over(Faults(garble=1))
        line.send(*[bytes(size)] * 50)
        await turns()
        assert len(line.server.got) == 50
        assert all(len(data) == size and data != bytes(size) for data in line.server.got)


class TestCut:
    async def test_it_ends_all_connections_at_once(self):
        faults = Faults()
        lines = [await Line.over(faults, name) for name in "ab"]
        for line in lines:
            line.send(b"on its way")
        faults.cut()
        await turns()
        for line in lines:
            for end in (line.client, line.server):
                [error] = end.lost
                assert isinstance(error, ConnectionResetError)
                assert end.got == []
                assert end.transport.is_closing()
        assert faults.connections == ()
        assert faults.record == []

    async def test_it_ends_the_one_that_is_chosen(self):
        faults = Faults()
        one, other = [await Line.over(faults, name) for name in "ab"]
        one.connection.cut()
        one.connection.cut()
        other.send(b"x")
        await turns()
        assert (len(one.client.lost), len(one.server.lost)) == (1, 1)
        assert other.server.got == [b"x"]
        assert list(faults.connections) == [other.connection]

    async def test_what_is_written_before_the_ends_notice_is_lost(self):
        faults = Faults()
        line = await Line.over(faults)
        faults.cut()
        assert not line.client.transport.is_closing()
        line.send(b"lost")
        await turns()
        assert line.server.got == []

    async def test_nobody_hears_of_it_within_the_call(self):
        faults = Faults(cut=1)
        line = await Line.over(faults)
        line.send(b"abc")
        faults.cut()
        assert line.log == []
        await turns()
        assert len(line.log) == 2

    async def test_a_frame_may_be_cut_anywhere(self):
        faults = Faults(cut=1)
        arrived: set[int] = set()
        for _ in range(60):
            line = await Line.over(faults, "q")
            line.send(FRAME, b"behind it")
            await turns()
            assert b"" not in line.server.got
            data = b"".join(line.server.got)
            assert data == FRAME[: len(data)]
            arrived.add(len(data))
            assert len(line.client.lost) == len(line.server.lost) == 1
            assert [type(exc) for exc in line.server.lost] == [ConnectionResetError]
            faults.seed += 1
        assert arrived == set(range(len(FRAME) + 1))
        assert {fault[1:4] for fault in faults.record} >= {("to_server", 1, "cut")}
        assert {int(f.amount) for f in faults.record if f.frame == 1} == arrived

    async def test_what_was_written_before_still_arrives(self):
        faults = Faults()
        line = await Line.over(faults)
        line.send(b"1")
        faults.set(cut=1, delay=(2, 2))
        line.send(FRAME)
        await asyncio.sleep(3)
        assert line.server.got[0] == b"1"
        assert [time for time, _, data in line.log if isinstance(data, Exception)] == [2, 2]

    async def test_a_peer_that_does_not_read_is_cut_too(self):
        faults = Faults()
        line = await Line.over(faults)
        line.connection.to_server.pause()
        line.send(bytes(100_000))
        assert not line.client.may_write
        faults.cut()
        await turns()
        assert len(line.client.lost) == len(line.server.lost) == 1
        line.connection.to_server.resume()
        await turns()
        assert not line.client.may_write  # for nobody tells it anything any more
        assert line.server.got == []


class TestPause:
    async def test_one_direction_waits(self):
        line = await Line.over(Faults())
        direction = line.connection.to_server
        line.send(b"1")
        direction.pause()
        assert direction.paused
        line.send(b"2")
        line.server.transport.write(b"re")
        await turns()
        assert (line.server.got, line.client.got) == ([], [b"re"])
        assert direction.waiting == line.client.transport.get_write_buffer_size() == 2
        assert line.server.transport.get_write_buffer_size() == 0
        direction.resume()
        assert not direction.paused
        line.send(b"3")
        assert line.server.got == []
        await turns()
        assert line.server.got == [b"1", b"2", b"3"]
        assert direction.waiting == 0

    async def test_it_can_be_paused_again_by_who_gets_a_frame(self):
        line = await Line.over(Faults())
        direction = line.connection.to_server
        direction.pause()
        line.send(b"1", b"2")

        def take_one(data):
            line.server.got.append(data)
            direction.pause()

        line.server.data_received = take_one  # type: ignore[method-assign]
        for expected in ([b"1"], [b"1", b"2"]):
            direction.resume()
            await turns()
            assert line.server.got == expected

    async def test_what_is_late_waits_as_well(self):
        line = await Line.over(Faults(delay=(5, 5)))
        line.send(b"1")
        line.connection.to_server.pause()
        await asyncio.sleep(10)
        line.send(b"2")
        line.connection.to_server.resume()
        await asyncio.sleep(10)
        assert [(time, data) for time, _, data in line.log] == [(10, b"1"), (15, b"2")]

    async def test_who_writes_is_told_to_hold_back(self):
        line = await Line.over(Faults())
        transport, direction = line.client.transport, line.connection.to_server
        transport.set_write_buffer_limits(high=100)
        assert transport.get_write_buffer_limits() == (25, 100)
        line.send(bytes(1000))
        assert line.client.may_write  # for the other end reads
        await turns()
        direction.pause()
        line.send(bytes(100))
        assert line.client.may_write
        line.send(b"x")
        assert not line.client.may_write
        direction.resume()
        assert line.client.may_write
        await turns()
        assert sum(map(len, line.server.got)) == 1101

    async def test_a_pause_counts_what_is_on_its_way(self):
        line = await Line.over(Faults())
        line.client.transport.set_write_buffer_limits(high=100)
        line.send(bytes(101))
        line.connection.to_server.pause()
        assert not line.client.may_write

    async def test_limits_of_the_buffer_are_those_of_asyncio(self):
        transport = (await Line.over(Faults())).client.transport
        limits = transport.get_write_buffer_limits
        assert limits() == (16 * 1024, 64 * 1024)
        transport.set_write_buffer_limits(low=10)
        assert limits() == (10, 40)
        transport.set_write_buffer_limits(high=0)
        assert limits() == (0, 0)
        transport.set_write_buffer_limits()
        assert limits() == (16 * 1024, 64 * 1024)
        with pytest.raises(ValueError, match="low"):
            transport.set_write_buffer_limits(high=1, low=2)

    async def test_lower_limits_apply_at_once(self):
        line = await Line.over(Faults())
        line.connection.to_server.pause()
        line.send(bytes(100))
        line.client.transport.set_write_buffer_limits(high=10)
        assert not line.client.may_write
        line.client.transport.set_write_buffer_limits(high=200, low=99)
        assert not line.client.may_write
        line.client.transport.set_write_buffer_limits(high=200, low=100)
        assert line.client.may_write

    async def test_closing_waits_until_all_is_written(self):
        line = await Line.over(Faults())
        line.connection.to_server.pause()
        line.send(b"x")
        line.client.transport.close()
        await turns()
        assert line.log == []
        line.connection.to_server.resume()
        await turns()
        assert [event[1:] for event in line.log] == [
            ("q client", None),  # for its buffer is empty now
            ("q server", b"x"),
            ("q server", None),
        ]

    async def test_aborting_does_not_wait(self):
        line = await Line.over(Faults())
        line.connection.to_server.pause()
        line.send(b"x")
        line.client.transport.close()
        await turns()
        line.client.transport.abort()
        await turns()
        assert line.client.lost == [None]
        line.connection.to_server.resume()
        await turns()
        assert (line.server.got, line.server.lost) == ([], [None])

    async def test_a_peer_that_does_not_read_does_not_notice_the_end(self):
        line = await Line.over(Faults())
        line.connection.to_server.pause()
        line.client.transport.close()
        await turns()
        assert (line.client.lost, line.server.lost) == ([None], [])
        line.connection.to_server.resume()
        await turns()
        assert line.server.lost == [None]


async def test_a_closed_connection_leaves_nothing_behind():
    faults = Faults(delay=(0.1, 0.5))
    line = await Line.over(faults)
    line.send(b"x")
    references = [weakref.ref(thing) for thing in (line.connection, line.client, line.server)]
    line.client.transport.close()
    await asyncio.sleep(1)
    del line
    gc.collect()
    assert [ref() for ref in references if ref() is not None] == []


class TestSeed:
    def story(self, seed: int) -> tuple[list, list]:
        """Return what happened to some connections, and what arrived when."""
        local_queue.clear_queue_cache()
        faults = Faults(seed, drop=0.05, cut=0.01, garble=0.1, reorder=0.3, delay=(0.0, 0.5))
        log: list = []

        async def main():
            lines = [await Line.over(faults, name, log) for name in "abc"]
            for n in range(100):
                line = lines[n % 3]
                (line.client, line.server)[n % 2].transport.write(FRAME + b"%d" % n)
                if n == 50:
                    faults.set(drop=0.5)
                await asyncio.sleep(0.1)
            await asyncio.sleep(1)

        run(main())
        return faults.record, [(time, name, str(what)) for time, name, what in log]

    def test_the_same_seed_does_the_same(self):
        first = self.story(1)
        assert {fault.kind for fault in first[0]} == {"drop", "garble", "reorder", "delay", "cut"}
        assert self.story(1) == first

    def test_another_seed_does_something_else(self):
        assert self.story(1)[0] != self.story(2)[0]

    async def test_connections_and_directions_have_different_faults(self):
        faults = Faults(1, drop=0.5)
        line, other = [await Line.over(faults, name) for name in "qq"]
        for end in (line.client, line.server, other.client):
            for _ in range(50):
                end.transport.write(FRAME)
        dropped: dict = {}
        for fault in faults.record:
            dropped.setdefault(fault[:2], []).append(fault.frame)
        assert len(dropped) == len({tuple(frames) for frames in dropped.values()}) == 3

    async def test_what_happens_to_a_connection_does_not_depend_on_others(self):
        def of_a(faults):
            return [fault for fault in faults.record if fault.connection == "a#1"]

        alone = Faults(5, drop=0.3, garble=0.3)
        (await Line.over(alone, "a")).send(*[FRAME] * 50)
        both = Faults(5, drop=0.3, garble=0.3)
        local_queue.clear_queue_cache()
        other, line = [await Line.over(both, name) for name in "ba"]
        for _ in range(50):
            other.send(FRAME)
            line.send(FRAME)
        assert of_a(both) == of_a(alone) != []
        assert len(both.record) > len(alone.record)

    async def test_a_rate_does_not_change_what_others_do(self):
        def drops(faults):
            return [fault for fault in faults.record if fault.kind == "drop"]

        plain = Faults(5, drop=0.3)
        (await Line.over(plain, "a")).send(*[FRAME] * 50)
        mixed = Faults(5, drop=0.3, garble=0.5, reorder=0.5, delay=(1, 2))
        local_queue.clear_queue_cache()
        (await Line.over(mixed, "a")).send(*[FRAME] * 50)
        assert drops(mixed) == drops(plain) != []


class Counter(aiomas.Agent):
    def __init__(self, container):
        super().__init__(container)
        self.count = 0

    @aiomas.expose
    def add(self, number):
        self.count += number
        return self.count


class TestWithContainers:
    async def test_a_lost_reply_is_a_timeout_of_the_caller(self):
        faults = Faults()
        async with (
            aiomas.Container.open(faults.queue("shop")) as shop,
            aiomas.Container.open(get_queue("customer")) as customer,
        ):
            counter = Counter(shop)
            proxy = await customer.connect(counter.addr)
            assert counter.addr == "local://shop/0"
            faults.to_client = Rates(drop=1)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(60):
                    await proxy.add(1)
            assert (counter.count, now()) == (1, 60)
            faults.set(drop=0)
            assert await proxy.add(1) == 2

    async def test_a_cut_connection_is_made_again(self):
        faults = Faults()
        async with (
            aiomas.Container.open(faults.queue("shop")) as shop,
            aiomas.Container.open(get_queue("customer")) as customer,
        ):
            proxy = await customer.connect(Counter(shop).addr)
            call = proxy.add(1)
            faults.cut()
            with pytest.raises(ConnectionLost, match="cut by a fault"):
                await call
            assert await proxy.add(5) == 5
            assert [connection.name for connection in faults.connections] == ["shop#2"]

    async def test_garbled_frames_end_or_stall_a_connection_or_change_what_it_says(self):
        results = set()
        for seed in range(60):
            faults = Faults(seed)
            server = await channel.start_server(
                faults.queue("q"), lambda ch: ch.serve(lambda request: request.reply("yes"))
            )
            client = await channel.open_connection(get_queue("q"))
            faults.to_server = Rates(garble=1)
            try:
                async with asyncio.timeout(5):
                    results.add(str(await client.send("hello")))
            except TimeoutError:
                results.add("silence")
            except (ConnectionLost, aiomas.RemoteException) as exc:
                results.add(type(exc).__name__)
            await client.close()
            server.close()
        assert {"silence", "ConnectionLost"} <= results
        assert results <= {"silence", "ConnectionLost", "RemoteException", "yes"}

    async def test_a_channel_waits_for_a_peer_that_does_not_read(self):
        faults = Faults()
        server = await channel.start_server(
            faults.queue("q"), lambda ch: ch.serve(lambda request: request.reply(None))
        )
        client = await channel.open_connection(get_queue("q"))
        [connection] = faults.connections
        connection.to_server.pause()
        calls = [client.send("x" * 50_000) for _ in range(20)]
        await turns()
        assert 64 * 1024 < connection.to_server.waiting < 200_000
        connection.to_server.resume()
        await asyncio.gather(*calls)
        await client.close()
        server.close()
