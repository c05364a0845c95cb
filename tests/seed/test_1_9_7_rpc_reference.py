"""Section 1.9.7: aiomas.rpc."""

from __future__ import annotations

import asyncio
import weakref
from contextlib import asynccontextmanager

import pytest

import aiomas
from aiomas.rpc import (
    Proxy,
    Router,
    RoutingDict,
    RpcClient,
    Service,
    expose,
    open_connection,
    rpc_service,
    start_server,
)

LOOPBACK = ("127.0.0.1", 0)


class Eggs:
    router = aiomas.rpc.Service()

    @expose
    def fry(self):
        return "fried"


class Spam:
    router = aiomas.rpc.Service(["eggs"])

    def __init__(self):
        self.eggs = Eggs()  # Instance with a sub-router

    @expose
    def cook(self, *args, **kwargs):
        return [args, kwargs]

    @expose
    async def cook_slowly(self):
        await asyncio.sleep(0)
        return "slow"

    @expose
    def burn(self):
        raise ValueError("burnt")

    @expose
    def get_eggs(self):
        return self.eggs

    @expose
    async def call_back(self, callee, value):
        return await callee.answer(value)

    def hidden(self):
        raise AssertionError("must not be called")


class Callee:
    router = aiomas.rpc.Service()

    @expose
    def answer(self, value):
        return value + 1


@asynccontextmanager
async def connected(router=None, **kwds):
    async with await start_server(LOOPBACK, Spam().router) as server:
        client = await open_connection(server.sockets[0].getsockname(), router=router, **kwds)
        try:
            yield client
        finally:
            await client.close()


async def test_section_1_9_7_open_connection_returns_an_rpcclient():
    async with connected() as client:
        assert isinstance(client, RpcClient)
        assert await client.remote.cook(1, a=2) == [[1], {"a": 2}]


async def test_section_1_9_7_open_connection_router_lets_the_other_side_call_back():
    callee = Callee()
    async with connected(router=callee.router) as client:
        assert await client.remote.call_back(callee, 41) == 42


async def test_section_1_9_7_open_connection_kwds_are_forwarded():
    async with await start_server(LOOPBACK, Spam().router, codec=aiomas.MsgPack) as server:
        addr = server.sockets[0].getsockname()
        client = await open_connection(addr, codec=aiomas.MsgPack)
        assert await client.remote.cook(b"raw") == ((b"raw",), {})
        await client.close()


async def test_section_1_9_7_start_server_client_connected_cb_gets_the_rpcclient():
    clients: asyncio.Queue[RpcClient] = asyncio.Queue()
    callee = Callee()
    async with await start_server(
        addr=LOOPBACK, router=Spam().router, client_connected_cb=clients.put_nowait
    ) as server:
        client = await open_connection(server.sockets[0].getsockname(), router=callee.router)
        accepted = await clients.get()

        assert isinstance(accepted, RpcClient)
        assert await accepted.remote.answer(1) == 2
        await client.close()


@pytest.mark.parametrize("handler", [object(), None, Eggs, lambda: None])
async def test_section_1_9_7_start_server_raises_valueerror(handler):
    with pytest.raises(ValueError, match="RPC service"):
        await start_server(LOOPBACK, handler)


async def test_section_1_9_7_rpc_service_serves_a_channel_until_it_closes():
    ended = asyncio.Event()

    async def serve(channel):
        await rpc_service(router=Spam().router, channel=channel)
        ended.set()

    async with await aiomas.channel.start_server(LOOPBACK, serve) as server:
        client = await open_connection(server.sockets[0].getsockname())
        assert await client.remote.cook_slowly() == "slow"
        with pytest.raises(aiomas.RemoteException, match="ValueError: burnt"):
            await client.remote.burn()
        assert not ended.is_set()
        await client.close()
        await ended.wait()


def test_section_1_9_7_expose_marks_and_does_not_wrap():
    def func():
        pass

    assert expose(func) is func
    assert func.__rpc__  # type: ignore[attr-defined]


def test_section_1_9_7_routingdict_dict_and_router():
    functions = {"f": expose(lambda: "f")}
    service = RoutingDict(dict=functions)

    assert service.dict is functions
    assert isinstance(service.router, Router)
    assert service.router.resolve("f")() == "f"
    assert RoutingDict().dict == {}


def test_section_1_9_7_router_obj_name_parent_path():
    spam = Spam()
    root, sub = spam.router, spam.eggs.router

    assert (root.obj, root.name, root.parent, root.path) == (spam, "", None, "")
    assert (sub.obj, sub.name, sub.parent, sub.path) == (spam.eggs, "eggs", root, "eggs")


@pytest.mark.parametrize("obj", [Spam, Spam(), {"hidden": None, "cook": Spam().cook}])
def test_section_1_9_7_router_of_a_class_an_instance_or_a_dict(obj):
    router = Router(obj=obj)

    assert router.resolve(path="cook").__name__ == "cook"
    with pytest.raises(LookupError):
        router.resolve("hidden")


def test_section_1_9_7_router_resolve():
    router = Spam().router

    assert router.resolve("eggs/fry")() == "fried"
    for path in ("nothing", "hidden", "eggs", "eggs/nothing", ""):
        with pytest.raises(LookupError):
            router.resolve(path)


def test_section_1_9_7_router_expose_and_service_expose_are_aliases():
    for alias in (Router.expose, Service.expose):

        @alias
        def func():
            pass

        assert func.__rpc__  # type: ignore[attr-defined]


def test_section_1_9_7_router_add_and_set_sub_router():
    class Kitchen:
        router = Service()

        def __init__(self):
            self.left = Eggs()
            self.right = Eggs()

    kitchen = Kitchen()
    kitchen.router.add(name="left")
    kitchen.router.set_sub_router(router=kitchen.right.router, name="other")

    assert kitchen.router.resolve("left/fry")() == "fried"
    assert kitchen.router.resolve("other/fry")() == "fried"
    assert kitchen.right.router.path == "other"
    assert kitchen.right.router.parent is kitchen.router


def test_section_1_9_7_service_makes_a_router_for_each_instance():
    one, two = Spam(), Spam()

    assert isinstance(one.router, Router)
    assert one.router is one.router
    assert one.router is not two.router


def test_section_1_9_7_service_sub_routers_parameter():
    class Kitchen:
        router = Service(sub_routers=("pan",))

        def __init__(self):
            self.pan = Eggs()

    assert Kitchen().router.resolve("pan/fry")() == "fried"


async def test_section_1_9_7_rpcclient_parameters_and_attributes():
    async with await start_server(LOOPBACK, Spam().router) as server:
        channel = await aiomas.channel.open_connection(server.sockets[0].getsockname())
        client = RpcClient(channel=channel, router=Callee().router)

        assert client.channel is channel
        assert isinstance(client.remote, Proxy)
        assert client.service is not None
        assert not client.service.done()
        client.close()
        await client.service


async def test_section_1_9_7_rpcclient_without_a_router_has_no_service():
    async with connected() as client:
        assert client.service is None


async def test_section_1_9_7_rpcclient_close():
    async with connected() as client:
        client.close()

        with pytest.raises(ConnectionError):
            await client.remote.cook()


async def test_section_1_9_7_proxy_of_an_attribute_is_a_proxy():
    async with connected() as client:
        proxy = client.remote.eggs

        assert isinstance(proxy, Proxy)
        assert isinstance(proxy.fry, Proxy)
        assert await proxy.fry() == "fried"
        assert await (await client.remote.get_eggs()).fry() == "fried"


async def test_section_1_9_7_proxy_call_returns_a_future():
    async with connected() as client:
        future = client.remote.cook(1, x=2)

        assert asyncio.isfuture(future)
        assert await future == [[1], {"x": 2}]
        with pytest.raises(aiomas.RemoteException, match="burnt"):
            await client.remote.burn()


async def test_section_1_9_7_proxy_weakref():
    async with connected() as client:
        proxy = client.remote.eggs
        assert weakref.ref(proxy)() is proxy


async def test_section_1_9_7_proxy_parameters():
    async with connected() as client:
        assert await Proxy(channel=client.channel, path="eggs/fry")() == "fried"
