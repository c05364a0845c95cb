"""Section 1.5: codecs for the serialization of messages."""

from __future__ import annotations

import json
from typing import Any

import arrow
import numpy as np
import pytest

import aiomas
from aiomas import codecs

ALL: list[type[Any]] = [aiomas.JSON, aiomas.MsgPack, aiomas.MsgPackBlosc]


def test_section_1_5_the_encoding_of_a_list_in_json():
    assert aiomas.JSON().encode(["spam", 3.14]) == b'["spam", 3.14]'
    assert aiomas.JSON().decode(b'["spam", 3.14]') == ["spam", 3.14]


def test_section_1_5_1_the_codecs_and_their_place():
    assert codecs.JSON is aiomas.JSON
    assert codecs.MsgPack is aiomas.MsgPack
    assert codecs.MsgPackBlosc is aiomas.MsgPackBlosc


def test_section_1_5_1_msgpackblosc_makes_large_messages_smaller():
    message = ["some text"] * 10_000

    sizes = [len(codec().encode(message)) for codec in ALL]

    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("codec", ALL)
async def test_section_1_5_2_the_class_of_a_codec_is_passed_to_functions(codec):
    @aiomas.expose
    def codec_of_the_call():
        return "called"

    service = aiomas.rpc.RoutingDict({"f": codec_of_the_call})
    server = await aiomas.rpc.start_server(("127.0.0.1", 0), service.router, codec=codec)
    async with server, aiomas.Container.open(("127.0.0.1", 0), codec=codec):
        client = await aiomas.rpc.open_connection(server.sockets[0].getsockname(), codec=codec)
        assert type(client.channel.codec) is codec
        assert await client.remote.f() == "called"
        await client.close()


@pytest.mark.parametrize("codec", ALL)
@pytest.mark.parametrize("value", [None, True, False, 42, 3.14, "text", {"a": 1}])
def test_section_1_5_3_types_that_need_no_serializer(codec, value):
    instance = codec()
    assert instance.decode(instance.encode(value)) == value


@pytest.mark.parametrize("value", [[1, 2], (1, 2)])
def test_section_1_5_3_lists_and_tuples(value):
    assert aiomas.JSON().decode(aiomas.JSON().encode(value)) == [1, 2]
    for codec in (aiomas.MsgPack, aiomas.MsgPackBlosc):
        assert codec().decode(codec().encode(value)) == (1, 2)


def test_section_1_5_3_bytes_are_for_msgpack_and_msgpackblosc():
    for codec in (aiomas.MsgPack, aiomas.MsgPackBlosc):
        assert codec().decode(codec().encode(b"raw")) == b"raw"
    with pytest.raises(aiomas.exceptions.SerializationError):
        aiomas.JSON().encode(b"raw")


@pytest.mark.parametrize("codec", ALL)
async def test_section_1_5_3_objects_with_a_router_arrive_as_proxies(codec):
    class Sub:
        router = aiomas.rpc.Service()

        @aiomas.expose
        def name(self):
            return "sub"

    class Root:
        router = aiomas.rpc.Service(["sub"])

        def __init__(self):
            self.sub = Sub()

        @aiomas.expose
        def get_sub(self):
            return self.sub

    async with await aiomas.rpc.start_server(("127.0.0.1", 0), Root().router, codec=codec) as srv:
        client = await aiomas.rpc.open_connection(srv.sockets[0].getsockname(), codec=codec)
        sub = await client.remote.get_sub()

        assert isinstance(sub, aiomas.rpc.Proxy)
        assert await sub.name() == "sub"
        await client.close()


@pytest.mark.parametrize("codec", ALL)
async def test_section_1_5_3_containers_support_arrow_dates(codec):
    class Callee(aiomas.Agent):
        @aiomas.expose
        def tomorrow(self, date):
            return date.shift(days=1)

    async with (
        aiomas.Container.open(("127.0.0.1", 0), codec=codec) as one,
        aiomas.Container.open(("127.0.0.1", 0), codec=codec) as two,
    ):
        callee = Callee(one)
        for container in (one, two):
            proxy = await container.connect(callee.addr)
            assert await proxy.tomorrow(arrow.get("2015-01-01")) == arrow.get("2015-01-02")


def get_np_serializer():
    return np.ndarray, _serialize_ndarray, _deserialize_ndarray


def _serialize_ndarray(obj):
    return {
        "type": obj.dtype.str,
        "shape": obj.shape,
        "data": obj.tobytes(),
    }


def _deserialize_ndarray(obj):
    array = np.frombuffer(obj["data"], dtype=np.dtype(obj["type"]))
    return array.reshape(obj["shape"])


class Mirror(aiomas.Agent):
    @aiomas.expose
    def transpose(self, array):
        assert isinstance(array, np.ndarray)
        return array.T


@pytest.mark.parametrize("codec", [aiomas.MsgPack, aiomas.MsgPackBlosc])
def test_section_1_5_4_a_serializer_for_numpy_arrays(loop, codec):
    c = aiomas.Container.create(
        ("localhost", 0), codec=codec, extra_serializers=[get_np_serializer]
    )
    d = aiomas.Container.create(
        ("localhost", 0), codec=codec, extra_serializers=[get_np_serializer]
    )
    mirror = Mirror(c)

    async def run(container):
        proxy = await container.connect(mirror.addr)
        return await proxy.transpose(np.arange(6.0).reshape(2, 3))

    for container in (c, d):
        np.testing.assert_array_equal(aiomas.run(run(container)), np.arange(6.0).reshape(2, 3).T)
    c.shutdown()
    d.shutdown()


def test_section_1_5_4_such_a_serializer_is_not_for_json():
    codec = aiomas.JSON()
    codec.add_serializer(*get_np_serializer())

    with pytest.raises(aiomas.exceptions.SerializationError):
        codec.encode(np.arange(3))


class Spam:
    pass


class Eggs(Spam):
    pass


@pytest.mark.parametrize("codec", ALL)
def test_section_1_5_4_a_serializer_is_for_direct_instances_only(codec):
    instance = codec()
    instance.add_serializer(Spam, lambda spam: "spam", lambda text: text)

    assert instance.decode(instance.encode(Spam())) == "spam"
    with pytest.raises(aiomas.exceptions.SerializationError):
        instance.encode(Eggs())


@pytest.mark.parametrize("codec", ALL)
def test_section_1_5_4_a_serializer_for_object_is_the_fallback(codec):
    instance = codec()
    instance.add_serializer(Spam, lambda spam: "spam", lambda text: text)
    instance.add_serializer(object, lambda obj: type(obj).__name__, lambda text: text)

    assert instance.decode(instance.encode(Spam())) == "spam"
    assert instance.decode(instance.encode(Eggs())) == "Eggs"


async def test_section_1_5_4_all_that_take_a_codec_take_extra_serializers():
    def complex_serializer():
        return complex, str, complex

    extra: dict[str, Any] = {"extra_serializers": [complex_serializer]}

    async def echo(channel):
        request = await channel.recv()
        await request.reply(request.content)
        await channel.close()

    async with await aiomas.channel.start_server(("127.0.0.1", 0), echo, **extra) as server:
        addr = server.sockets[0].getsockname()
        channel = await aiomas.channel.open_connection(addr, **extra)
        assert await channel.send([1 + 2j]) == [1 + 2j]
        await channel.close()

    service = aiomas.rpc.RoutingDict({"conjugate": aiomas.expose(lambda z: z.conjugate())})
    async with await aiomas.rpc.start_server(("127.0.0.1", 0), service.router, **extra) as server:
        addr = server.sockets[0].getsockname()
        client = await aiomas.rpc.open_connection(addr, **extra)
        assert await client.remote.conjugate(1 + 2j) == 1 - 2j
        await client.close()


class Backwards(codecs.Codec):
    """A custom codec as the section asks for one: it has encode() and decode()."""

    def encode(self, data):
        return json.dumps(data, default=self.serialize_obj).encode()[::-1]

    def decode(self, data):
        return json.loads(data[::-1].decode(), object_hook=self.deserialize_obj)


async def test_section_1_5_5_a_custom_codec():
    async with (
        aiomas.Container.open(("127.0.0.1", 0), codec=Backwards) as one,
        aiomas.Container.open(("127.0.0.1", 0), codec=Backwards) as two,
    ):

        class Callee(aiomas.Agent):
            @aiomas.expose
            def tomorrow(self, date):
                return [self, date.shift(days=1)]

        callee = Callee(one)
        for container in (one, two):
            proxy = await container.connect(callee.addr)
            agent, date = await proxy.tomorrow(arrow.get("2015-01-01"))
            assert date == arrow.get("2015-01-02")
            assert isinstance(agent, aiomas.rpc.Proxy)
            with pytest.raises(aiomas.exceptions.SerializationError):
                await proxy.tomorrow({1, 2})
