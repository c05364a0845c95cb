"""What a peer with extensions may send: no number or text in it does harm to this end."""

from __future__ import annotations

import asyncio
import json
import logging
import struct
from typing import Any

import pytest

from aiomas import Limits
from aiomas._hello import Hello
from aiomas._terms import Terms
from aiomas._wire import frame
from aiomas.channel import ChannelProtocol, Request
from aiomas.codecs import JSON, datetime_serializer, make_codec
from tests.kept_transport import KeptTransport

NO_TIMES = ["NaN", "Infinity", "-Infinity", "1e999", "9" * 400, "-" + "9" * 400, "true", '"1"']


class End:
    """The accepting end of a connection, whose peer sends JSON that this test made up."""

    def __init__(self, terms: Terms | None = None) -> None:
        self.codec = make_codec(JSON, [datetime_serializer])
        loop = asyncio.get_running_loop()
        self.protocol = ChannelProtocol(self.codec, loop=loop, terms=terms or Terms())
        self.transport = KeptTransport()
        self.protocol.connection_made(self.transport)
        self.requests: list[Request] = []
        self.protocol.channel.serve(self.requests.append)

    def take(self, *messages: str) -> list[Any]:
        """Take messages and return what is sent then."""
        for message in messages:
            self.protocol.data_received(frame(message.encode()))
        self.protocol.outbox.flush()
        data, self.transport.data = self.transport.data, b""
        sent = []
        while data:
            (length,) = struct.unpack_from("!L", data)
            sent.append(json.loads(data[4 : 4 + length]))
            data = data[4 + length :]
        return sent

    def greet(self, clock: str = "0.0") -> None:
        content = json.dumps({**Hello().speaking(self.codec).content(), "clock": "CLOCK"})
        content = content.replace('"CLOCK"', clock)
        [[kind, message_id, _]] = self.take(f'[0, 0, ["aiomas/hello", [{content}], {{}}]]')
        assert (kind, message_id) == (1, 0)
        assert self.protocol.extended


@pytest.fixture
async def end():
    end = End()
    yield end
    end.protocol.connection_lost(None)


@pytest.mark.parametrize("clock", NO_TIMES, ids="{:.9}".format)
async def test_a_hello_with_an_odd_clock_is_a_hello(end, clock):
    end.greet(clock)

    end.take('[3, 1, [{"timeout": 5, "sent": 100}, "ohai"]]')

    [request] = end.requests
    assert request.deadline == pytest.approx(asyncio.get_running_loop().time() + 5, abs=1)


@pytest.mark.parametrize("timeout", NO_TIMES, ids="{:.9}".format)
async def test_an_odd_timeout_is_none(end, timeout):
    end.greet()

    end.take(f'[3, 1, [{{"timeout": {timeout}, "sent": 0}}, "ohai"]]')

    [request] = end.requests
    assert request.deadline is None


@pytest.mark.parametrize("sent", NO_TIMES, ids="{:.9}".format)
async def test_an_odd_time_of_departure_is_none(end, sent):
    end.greet()

    end.take(f'[3, 1, [{{"timeout": 5, "sent": {sent}}}, "ohai"]]')

    [request] = end.requests
    assert request.deadline == pytest.approx(asyncio.get_running_loop().time() + 5, abs=1)


@pytest.mark.parametrize("asked", ["0", "-1", "9" * 400, "-" + "9" * 400])
@pytest.mark.parametrize("answered", ["null", "[]", *NO_TIMES])
async def test_an_odd_pong_is_ignored(end, asked, answered):
    end.greet()

    assert end.take(f"[6, {asked}, {answered}]") == []
    assert end.take("[5, 7, null]")[0][:2] == [6, 7]  # the connection is as good as ever


async def test_a_ping_with_an_odd_number_is_answered(end):
    end.greet()

    [pong] = end.take(f"[5, {'9' * 400}, null]")

    assert pong[:2] == [6, int("9" * 400)]


@pytest.mark.parametrize("message_id", ["0", "-1", "7", "9" * 400])
async def test_a_cancellation_of_no_request_is_ignored(end, message_id):
    end.greet()

    assert end.take(f"[4, {message_id}, null]") == []
    assert not end.transport.closing


async def test_a_token_that_is_no_text_is_refused(caplog):
    end = End(Terms(expects="secret"))
    content = json.dumps({**Hello(token="\ud800").speaking(end.codec).content()})

    with caplog.at_level(logging.WARNING):
        [[_, _, answer]] = end.take(f'[0, 0, ["aiomas/hello", [{content}], {{}}]]')

    assert "token" in answer["refusal"]
    assert end.transport.closing
    end.protocol.connection_lost(None)


async def test_a_refusal_is_short_however_long_the_lists_of_the_peer_are(caplog):
    end = End(Terms(limits=Limits(max_frame=100_000)))
    content = json.dumps({**Hello().content(), "serializers": ["\x01"] * 9_000})

    with caplog.at_level(logging.WARNING):
        [[_, _, answer]] = end.take(f'[0, 0, ["aiomas/hello", [{content}], {{}}]]')

    assert len(answer["refusal"]) < 10_000
    assert all(len(record.getMessage()) < 10_000 for record in caplog.records)
    assert end.transport.closing
    end.protocol.connection_lost(None)


async def test_the_error_about_a_bad_request_is_short_however_long_that_is():
    end = End(Terms(limits=Limits(max_frame=10_000)))
    end.greet()
    text = r"\u0001" * 1_600

    [[kind, message_id, content]] = end.take(f'[0, 1, {{"__type__": [0, "{text}"]}}]')

    assert (kind, message_id) == (7, 1)
    assert content[0] == "bad request"
    assert len(content[1]) <= 1_000
    end.protocol.connection_lost(None)


async def test_who_asks_what_has_no_answer_that_fits_is_cut_off(caplog):
    end = End(Terms(limits=Limits(max_frame=300), hello=Hello(url="tcp://" + "x" * 300)))
    content = json.dumps(Hello().speaking(end.codec).content())

    with caplog.at_level(logging.WARNING):
        assert end.take(f'[0, 0, ["aiomas/hello", [{content}], {{}}]]') == []

    assert end.transport.closing
    [record] = caplog.records
    assert "max_frame=300" in record.getMessage()
    end.protocol.connection_lost(None)
