"""Section 1.4: the channel layer."""

# ruff: noqa: T201 - the examples print what they show

from __future__ import annotations

import errno
import random

import aiomas


async def handle_client(channel):
    req = await channel.recv()
    print(req.content)
    await req.reply("cya")
    channel.close()


def test_section_1_4_minimal_example(loop, free_port, capsys):
    ADDR = ("localhost", free_port)

    async def client():
        channel = await aiomas.channel.open_connection(ADDR)
        rep = await channel.send("ohai")
        print(rep)
        channel.close()

    server = aiomas.run(aiomas.channel.start_server(ADDR, handle_client))
    aiomas.run(client())
    server.close()
    aiomas.run(server.wait_closed())

    assert capsys.readouterr().out == "ohai\ncya\n"


def test_section_1_4_1_binding_to_a_random_port(loop):
    max_tries = 100
    port_range = (49152, 65536)

    async def random_server(host, port_range, max_tries):
        for _ in range(max_tries):
            try:
                port = random.randrange(*port_range)
                server = await aiomas.channel.start_server((host, port), handle_client)
            except OSError as oe:
                if oe.errno != errno.EADDRINUSE:
                    raise
            else:
                return server, port
        raise RuntimeError("Could not bind server to a random port.")

    server, port = aiomas.run(random_server("localhost", port_range, max_tries))

    assert {sock.getsockname()[1] for sock in server.sockets} == {port}
    server.close()
    aiomas.run(server.wait_closed())


def test_section_1_4_1_the_system_is_asked_for_a_port_today(loop):
    server = aiomas.run(aiomas.channel.start_server(("localhost", 0), handle_client))

    [port] = {sock.getsockname()[1] for sock in server.sockets}
    assert port > 0
    server.close()
    aiomas.run(server.wait_closed())
