"""A container of aiomas 2.0.1 with one agent, for Python 3.8.

Arguments: the name of the codec, and the path of a Unix socket (none: TCP).  Says its agent's URL.
"""

import asyncio
import sys

import aiomas
import arrow
from lines import described, loop, obey, say


class Point:
    def __init__(self, x, y):
        self.x = x
        self.y = y

    @classmethod
    def __serializer__(cls):
        return cls, lambda point: {"x": point.x, "y": point.y}, lambda values: cls(**values)


class Meter:
    router = aiomas.rpc.Service()

    @aiomas.expose
    def read(self):
        return 4


class OldAgent(aiomas.Agent):
    router = aiomas.rpc.Service(["meter"])

    def __init__(self, container):
        self.meter = Meter()
        super().__init__(container)
        self.kept = None
        self.waiting = 0
        self.all_there = asyncio.Event()

    @aiomas.expose
    def add(self, a, b=0):
        return a + b

    @aiomas.expose
    async def later(self, value):
        await asyncio.sleep(0)
        return value

    @aiomas.expose
    def nothing(self):
        pass

    @aiomas.expose
    def echo(self, value):
        return value

    @aiomas.expose
    def kind(self, value):
        return type(value).__name__

    @aiomas.expose
    def fail(self):
        raise ValueError("boom")

    @aiomas.expose
    async def fail_later(self):
        await asyncio.sleep(0)
        raise ValueError("boom")

    def hidden(self):
        return "secret"

    @aiomas.expose
    def something_strange(self):
        return object()

    @aiomas.expose
    def myself(self):
        return self

    @aiomas.expose
    def get_meter(self):
        return self.meter

    @aiomas.expose
    def point(self, point):
        return Point(point.x + 1, point.y + "!")

    @aiomas.expose
    def next_day(self, date):
        return date.shift(days=1)

    @aiomas.expose
    async def call_back(self, caller, number):
        return await caller.add(number, b=1)

    @aiomas.expose
    async def call_back_and_fail(self, caller):
        await caller.fail()

    @aiomas.expose
    async def read_meter(self, meter):
        return await meter.read()

    @aiomas.expose
    def keep(self, caller):
        self.kept = caller

    @aiomas.expose
    async def meet(self, number, of):
        """Return when so many are here at the same time."""
        self.waiting += 1
        if self.waiting == of:
            self.all_there.set()
        await self.all_there.wait()
        return number

    @aiomas.expose
    async def hang(self):
        say("hanging")
        await loop.create_future()


class Actions:
    """What the test can tell this program to do."""

    def __init__(self, container, agent, codec):
        self.container = container
        self.agent = agent
        self.codec = codec

    async def connect(self, url):
        return str(await self.container.connect(url))

    async def calls(self, url):
        proxy = await self.container.connect(url)
        return [
            await proxy.add(1, 2),
            await proxy.add(1, b=3),
            await proxy.nothing(),
            await proxy.later("spam"),
            await proxy.meter.read(),
        ]

    async def echoes(self, url, values):
        proxy = await self.container.connect(url)
        return [await proxy.echo(value) for value in values]

    async def bytes(self, url):
        proxy = await self.container.connect(url)
        value = bytes(range(256))
        return [await proxy.kind(value), await proxy.echo(value) == value]

    async def large(self, url, size):
        proxy = await self.container.connect(url)
        value = "spam" * (size // 4)
        return await proxy.echo(value) == value

    async def call(self, url, name):
        proxy = await self.container.connect(url)
        return await getattr(proxy, name)()

    async def send_something_strange(self, url):
        proxy = await self.container.connect(url)
        return await proxy.echo(object())

    async def dates(self, url):
        proxy = await self.container.connect(url)
        date = arrow.get("2015-06-01T12:34:56.789012+02:00")
        result = await proxy.next_day(date)
        return [await proxy.kind(date), type(result).__name__, result.isoformat()]

    async def points(self, url):
        proxy = await self.container.connect(url)
        result = await proxy.point(Point(1, "z"))
        return [await proxy.kind(Point(1, "z")), type(result).__name__, result.x, result.y]

    async def callbacks(self, url):
        proxy = await self.container.connect(url)
        itself = await proxy.myself()
        meter = await proxy.get_meter()
        return [
            await proxy.call_back(self.agent, 5),
            await proxy.read_meter(self.agent.meter),
            await itself.add(1, 2),
            await meter.read(),
        ]

    async def failing_callback(self, url):
        proxy = await self.container.connect(url)
        return await proxy.call_back_and_fail(self.agent)

    async def let_keep(self, url):
        proxy = await self.container.connect(url)
        return await proxy.keep(self.agent)

    async def call_kept(self):
        return await self.agent.kept.add(1, b=2)

    async def concurrent(self, url, number):
        proxy = await self.container.connect(url)
        calls = [proxy.meet(i, number) for i in range(number)]
        callbacks = [proxy.call_back(self.agent, i) for i in range(number)]
        return await asyncio.gather(*calls, *callbacks)

    async def wait_for_the_end(self, url):
        """Return how a call ends during which the other end may go away, and the one after it."""
        proxy = await self.container.connect(url)
        outcomes = []
        for call in (proxy.hang, proxy.nothing):
            try:
                outcomes.append(await call())
            except Exception as exc:
                outcomes.append(described(exc))
        return outcomes

    async def shut_down(self):
        await self.container.shutdown(as_coro=True)
        return "shut down"


async def main():
    codec, path = sys.argv[1], sys.argv[2:]
    container = await aiomas.Container.create(
        path[0] if path else ("127.0.0.1", 0),
        codec=getattr(aiomas, codec),
        extra_serializers=[Point.__serializer__],
        as_coro=True,
    )
    agent = OldAgent(container)
    if path:
        say(agent.addr)
    else:
        # 2.0.1 does not know which port it was given.
        say("tcp://127.0.0.1:%d/0" % container._tcp_server.sockets[0].getsockname()[1])
    actions = Actions(container, agent, codec)
    await obey({name: getattr(actions, name) for name in dir(actions) if name[0] != "_"})


loop.run_until_complete(main())
