"""Section 1.9.8: aiomas.util."""

from __future__ import annotations

import asyncio
import ssl

import arrow
import pytest

import aiomas
from aiomas import util

util_async = getattr(util, "async")  # a word of the language today


def test_section_1_9_8_arrow_serializer():
    codec = aiomas.JSON()
    codec.add_serializer(*util.arrow_serializer())
    date = arrow.get("2015-01-01T12:00:00+01:00")

    assert codec.decode(codec.encode([date])) == [date]


async def fail():
    raise ValueError("boom")


def collected_errors(loop):
    errors = []
    loop.set_exception_handler(lambda _, context: errors.append(context["exception"]))
    return errors


def test_section_1_9_8_async_reports_errors_at_once(loop):
    errors = collected_errors(loop)

    async def main():
        kept = util_async(fail())
        assert isinstance(kept, asyncio.Task)
        for _ in range(3):
            await asyncio.sleep(0)
        assert [str(error) for error in errors] == ["boom"]

    aiomas.run(main())


@pytest.mark.parametrize("ignore_cancel", [True, False])
def test_section_1_9_8_async_ignore_cancel(loop, ignore_cancel):
    errors = collected_errors(loop)

    async def main():
        task = util_async(asyncio.sleep(10), ignore_cancel=ignore_cancel)
        await asyncio.sleep(0)
        task.cancel()
        for _ in range(3):
            await asyncio.sleep(0)

    aiomas.run(main())
    assert len(errors) == (0 if ignore_cancel else 1)


def test_section_1_9_8_async_loop_and_futures(loop):
    other = asyncio.new_event_loop()

    task = util_async(asyncio.sleep(0, "result"), loop=other)
    assert util_async(task, loop=other) is task
    assert other.run_until_complete(task) == "result"
    other.close()


def test_section_1_9_8_run_until(loop):
    async def result():
        return "result"

    assert util.run(until=result()) == "result"
    assert util.run(until=loop.create_task(result())) == "result"


def test_section_1_9_8_run_forever(loop):
    loop.call_soon(loop.stop)
    assert util.run() is None


@pytest.mark.parametrize("make", [util.make_ssl_server_context, util.make_ssl_client_context])
def test_section_1_9_8_make_ssl_contexts(certs, make):
    context = make(cafile=certs.cafile, certfile=certs.certfile, keyfile=certs.keyfile)

    assert isinstance(context, ssl.SSLContext)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname is (make is util.make_ssl_client_context)
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_COMPRESSION
