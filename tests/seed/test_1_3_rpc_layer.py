"""Section 1.3 is empty in the original; sections 1.1, 1.5.3 and 1.9.7 say what the layer does."""

from __future__ import annotations

import aiomas


async def test_section_1_3_both_sides_of_a_connection_can_call_the_other():
    class Server:
        router = aiomas.rpc.Service()

        @aiomas.expose
        async def greet(self, client):
            return "hello " + await client.name()

    class Client:
        router = aiomas.rpc.Service()

        @aiomas.expose
        def name(self):
            return "Monty"

    async with await aiomas.rpc.start_server(("127.0.0.1", 0), Server().router) as server:
        me = Client()
        client = await aiomas.rpc.open_connection(server.sockets[0].getsockname(), router=me.router)

        assert await client.remote.greet(me) == "hello Monty"
        await client.close()
