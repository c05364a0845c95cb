"""The helpers around the event loop, names of objects, and dates."""

from __future__ import annotations

import asyncio
import gc
import os.path
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import Any, cast

import arrow
import pytest

import aiomas
from aiomas import tls, util
from aiomas.codecs import JSON, MsgPack, make_codec
from aiomas.exceptions import DecodeError


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Make a new event loop the current one."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield loop
    asyncio.set_event_loop(None)
    loop.close()


async def answer() -> int:
    await asyncio.sleep(0)
    return 42


class TestCurrentLoop:
    async def test_inside_of_a_loop_it_is_the_running_one(self):
        assert util.current_loop() is asyncio.get_running_loop()

    def test_outside_of_a_loop_it_is_the_current_one(self, loop):
        assert util.current_loop() is loop

    @pytest.mark.parametrize("before", ["none", "closed"])
    def test_where_there_is_none_that_works_one_is_made_and_kept(self, before):
        loops: list[asyncio.AbstractEventLoop] = []

        def in_a_new_thread():
            if before == "closed":
                closed = asyncio.new_event_loop()
                closed.close()
                asyncio.set_event_loop(closed)
            loops.extend([util.current_loop(), util.current_loop()])
            asyncio.set_event_loop(None)

        thread = threading.Thread(target=in_a_new_thread)
        thread.start()
        thread.join()

        assert loops[0] is loops[1]
        assert not loops[0].is_closed()
        util._close_loop(loops[0])
        assert loops[0].is_closed()

    @pytest.mark.parametrize("end", ["", "loop.run_in_executor(None, print)\nloop.run_forever()"])
    def test_a_loop_that_was_made_is_closed_at_the_end_of_the_program(self, end):
        program = (
            "import aiomas, asyncio\n"
            "aiomas.run(asyncio.sleep(0))\n"
            "loop = aiomas.util.current_loop()\n"
            "loop.call_soon(loop.stop)\n"
            f"{end}"
        )
        ran = subprocess.run(
            [sys.executable, "-X", "dev", "-W", "error", "-c", program],
            capture_output=True,
            text=True,
            check=False,
        )

        assert (ran.returncode, ran.stderr) == (0, "")

    async def test_a_loop_that_still_runs_is_left_alone(self):
        util._close_loop(asyncio.get_running_loop())
        assert not asyncio.get_running_loop().is_closed()


class TestRun:
    def test_it_returns_the_result(self, loop):
        assert util.run(answer()) == 42
        assert util.run(until=answer()) == 42

    def test_it_raises_what_the_coroutine_raises(self, loop):
        async def fail():
            raise ValueError("boom")

        with pytest.raises(ValueError, match="boom"):
            util.run(fail())

    def test_it_leaves_the_loop_open_and_its_tasks_alive(self, loop):
        async def start():
            return asyncio.ensure_future(answer())

        task = util.run(start())
        assert util.run(task) == 42
        assert not loop.is_closed()

    def test_without_anything_to_wait_for_it_runs_until_the_loop_is_stopped(self, loop):
        loop.call_soon(loop.stop)
        util.run()
        loop.call_soon(loop.stop)
        util.run(until=None)

    def test_it_can_be_given_a_loop(self, loop):
        other = asyncio.new_event_loop()

        async def which():
            return asyncio.get_running_loop()

        assert util.run(which(), loop=other) is other
        assert util.run(which()) is loop
        other.call_soon(other.stop)
        util.run(loop=other)
        other.close()

    async def test_inside_of_a_loop_it_is_refused(self):
        coro = answer()
        other = asyncio.new_event_loop()
        for loop in (None, asyncio.get_running_loop(), other):
            with pytest.raises(RuntimeError, match="use await"):
                util.run(coro, loop=loop)
        other.close()
        assert await coro == 42


@pytest.fixture
async def reports() -> Any:
    """Collect what the event loop's exception handler is told."""
    loop = asyncio.get_running_loop()
    reports: list[dict[str, Any]] = []
    others = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, report: reports.append(report))
    yield reports
    loop.set_exception_handler(others)


async def fail() -> None:
    await asyncio.sleep(0)
    raise ValueError("boom")


class TestCreateTask:
    async def test_it_returns_a_task_with_the_result(self, reports):
        task = util.create_task(answer())

        assert isinstance(task, asyncio.Task)
        assert await task == 42
        assert reports == []

    async def test_an_exception_is_reported_when_it_happens_though_the_task_is_kept(self, reports):
        task = util.create_task(fail())

        await asyncio.wait([task])
        await asyncio.sleep(0)

        [report] = reports
        assert str(report["exception"]) == "boom"
        assert report["future"] is task

    async def test_an_exception_can_still_be_awaited(self, reports):
        with pytest.raises(ValueError, match="boom"):
            await util.create_task(fail())

    async def test_a_cancellation_is_no_news(self, reports):
        task = util.create_task(answer())
        task.cancel()

        await asyncio.wait([task])
        await asyncio.sleep(0)
        assert reports == []

    async def test_a_cancellation_is_reported_on_request(self, reports):
        task = util.create_task(answer(), ignore_cancel=False)
        task.cancel()

        await asyncio.wait([task])
        await asyncio.sleep(0)
        [report] = reports
        assert isinstance(report["exception"], asyncio.CancelledError)

    async def test_a_future_is_watched_as_it_is(self, reports):
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        assert util.create_task(future) is future
        future.set_exception(ValueError("boom"))
        await asyncio.sleep(0)
        assert len(reports) == 1

    def test_it_can_be_given_a_loop(self, loop):
        other = asyncio.new_event_loop()
        task = util.create_task(answer(), loop=other)

        assert task.get_loop() is other
        assert other.run_until_complete(task) == 42
        other.close()

    def test_outside_of_a_loop_the_current_one_is_taken(self, loop):
        assert util.run(util.create_task(answer())) == 42

    def test_its_historic_name_is_no_word_of_the_language_for_getattr(self):
        assert getattr(util, "async") is util.create_task
        assert getattr(aiomas, "async") is util.create_task


class TestArrowSerializer:
    @pytest.mark.parametrize("cls", [JSON, MsgPack])
    @pytest.mark.parametrize(
        "date", ["2015-01-01T00:00:00+00:00", "2015-06-01T12:34:56.789012+02:00"]
    )
    def test_dates_survive_with_offset_and_microseconds(self, cls, date):
        codec = cls()
        codec.add_serializer(*util.arrow_serializer())
        before = arrow.get(date)

        after = codec.decode(codec.encode(before))

        assert type(after) is arrow.Arrow
        assert after == before
        assert str(after) == date

    def test_a_date_travels_as_text(self):
        codec = JSON()
        codec.add_serializer(*util.arrow_serializer())

        data = codec.encode(arrow.get("2015-01-01"))

        assert data == b'{"__type__": [0, "2015-01-01T00:00:00+00:00"]}'

    def test_many_dates_are_not_guessed_at_one_by_one(self, monkeypatch):
        """``arrow.get()`` tries so many formats that a peer could keep us busy for seconds."""
        codec = make_codec(JSON, [util.arrow_serializer])
        date = arrow.get("2015-06-01T12:34:56.789012+02:00")
        data = codec.encode([date] * 20_000)
        monkeypatch.setattr(arrow, "get", None)

        assert codec.decode(data) == [date] * 20_000

    @pytest.mark.parametrize(
        "bad", ["", "yesterday", "2015-13-01", "1.1.2015", "x" * 10_000, 1420070400, None, ["2015"]]
    )
    def test_what_is_no_iso_date_is_an_error_of_its_call(self, bad):
        codec = make_codec(JSON, [util.arrow_serializer])
        data = JSON().encode([0, 7, {"__type__": [0, bad]}])

        message, error = codec.decode_message(data)

        assert message == [0, 7, None]
        assert type(error) is DecodeError


class TestObjFromStr:
    @pytest.mark.parametrize(
        ("name", "obj"),
        [
            ("aiomas:Agent", aiomas.Agent),
            ("aiomas.util:run", util.run),
            ("os.path:join", os.path.join),
            ("aiomas.agent:Container.create.__func__", aiomas.Container.create.__func__),  # type: ignore[attr-defined]
        ],
    )
    def test_a_name_stands_for_an_object(self, name, obj):
        assert util.obj_from_str(name) is obj

    @pytest.mark.parametrize("name", ["", "aiomas", ":", ":Agent", "aiomas:", "aiomas:Agent:x"])
    def test_a_name_of_another_form_is_refused(self, name):
        with pytest.raises(ValueError, match=r"'package.module:attribute'"):
            util.obj_from_str(name)

    def test_a_module_that_does_not_exist_is_an_import_error(self):
        with pytest.raises(ModuleNotFoundError):
            util.obj_from_str("aiomas.nothing:Agent")

    @pytest.mark.parametrize("name", ["aiomas:Nothing", "aiomas:Agent.nothing", "aiomas:a..b"])
    def test_an_attribute_that_does_not_exist_is_an_attribute_error(self, name):
        with pytest.raises(AttributeError):
            util.obj_from_str(name)


def test_ssl_contexts_are_found_under_their_historic_names():
    assert util.make_ssl_server_context is tls.make_ssl_server_context
    assert util.make_ssl_client_context is tls.make_ssl_client_context


async def test_a_task_that_nobody_holds_is_not_lost():
    done = asyncio.Event()

    async def work():
        waiter = asyncio.get_running_loop().create_future()
        reference = weakref.ref(waiter)
        asyncio.get_running_loop().call_later(
            0.01, lambda: cast("Any", reference()).set_result(None)
        )
        await waiter
        done.set()

    aiomas.create_task(work())
    await asyncio.sleep(0)
    gc.collect()
    async with asyncio.timeout(5):
        await done.wait()
    await asyncio.sleep(0)
    assert not util._tasks
