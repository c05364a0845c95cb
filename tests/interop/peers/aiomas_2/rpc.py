"""An RPC server and client of aiomas 2.0.1 without containers, for Python 3.8.

Arguments: the name of the codec, and whether types of the user's are known ("types" or "no types").
Says the server's port.
"""

import sys

import aiomas
from aiomas import rpc
from lines import described, loop, obey, say


class Point:
    def __init__(self, x, y):
        self.x = x
        self.y = y

    @classmethod
    def __serializer__(cls):
        return cls, lambda point: {"x": point.x, "y": point.y}, lambda values: cls(**values)


class Meter:
    router = rpc.Service()

    @rpc.expose
    def read(self):
        return 4


@rpc.expose
def double(value):
    return 2 * value


class Site:
    router = rpc.Service(["meter", "functions"])

    def __init__(self):
        self.meter = Meter()
        self.functions = rpc.ServiceDict({"double": double})

    @rpc.expose
    def add(self, a, b=0):
        return a + b

    @rpc.expose
    def get_meter(self):
        return self.meter

    @rpc.expose
    async def read_meter(self, meter):
        return await meter.read()

    @rpc.expose
    def fail(self):
        raise ValueError("boom")

    @rpc.expose
    def point(self, point):
        return Point(point.x + 1, point.y + "!")


class Actions:
    def __init__(self, site, clients, kwds):
        self.site = site
        self.clients = clients
        self.kwds = kwds
        self.client = None

    async def connect(self, port, with_service):
        service = self.site if with_service else None
        self.client = await rpc.open_connection(
            ("127.0.0.1", port), rpc_service=service, **self.kwds
        )
        if with_service:
            self.client.on_connection_reset(lambda exc: say(described(exc)))

    async def calls(self):
        remote = self.client.remote
        meter = await remote.get_meter()
        return [
            await remote.add(1, b=2),
            await remote.meter.read(),
            await remote.functions.double(21),
            await meter.read(),
        ]

    async def callbacks(self):
        remote = self.client.remote
        return [
            await remote.read_meter(self.site.meter),
            await remote.ask_back(),
        ]

    async def points(self):
        point = await self.client.remote.point(Point(1, "z"))
        return [type(point).__name__, point.x, point.y]

    async def fail(self):
        return await self.client.remote.fail()

    async def call_last_client(self):
        return await self.clients[-1].remote.add(1, b=2)

    async def close(self):
        await self.client.close()


async def main():
    codec, types = sys.argv[1:]
    serializers = [Point.__serializer__] if types == "types" else []
    kwds = {"codec": getattr(aiomas, codec), "extra_serializers": serializers}
    site = Site()
    clients = []

    def connected(client):
        client.on_connection_reset(lambda exc: say(described(exc)))
        clients.append(client)

    server = await rpc.start_server(("127.0.0.1", 0), site, connected, **kwds)
    say(server.sockets[0].getsockname()[1])
    actions = Actions(site, clients, kwds)
    await obey({name: getattr(actions, name) for name in dir(actions) if name[0] != "_"})


loop.run_until_complete(main())
