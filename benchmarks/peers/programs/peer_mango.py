"""Two agents of mango: one replies, the other gives the replies to futures."""

from __future__ import annotations

import asyncio
from typing import Any

import mango
import measuring


class Echo(mango.Agent):
    """Replies with what it gets."""

    def handle_message(self, content: Any, meta: dict[str, Any]) -> None:
        """Reply with *content*."""
        self.schedule_instant_task(self.reply_to(content, meta))


class Caller(mango.Agent):
    """Sends ``[id, value]`` and waits for it to come back."""

    def __init__(self) -> None:
        super().__init__()
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._next_id = 0

    async def call(self, addr: Any, value: Any) -> Any:
        """Return the echo of *value* from the agent at *addr*."""
        self._next_id += 1
        number = self._next_id
        future = asyncio.get_running_loop().create_future()
        self._pending[number] = future
        await self.send_message([number, value], receiver_addr=addr)
        return await future

    def handle_message(self, content: Any, meta: dict[str, Any]) -> None:  # noqa: ARG002
        """Give a reply to whom it is for."""
        number, value = content
        self._pending.pop(number).set_result(value)


async def main(options: dict[str, Any]) -> None:
    """Serve or call, as the options say."""
    container = mango.create_tcp_container(("127.0.0.1", measuring.free_port()))
    if options["role"] == "serve":
        agent = container.register(Echo(), suggested_aid="echo")
        async with mango.activate(container):
            measuring.say([*container.addr, agent.aid])
            await measuring.wait_for_end_async()
        return
    caller = container.register(Caller())
    own_echo = container.register(Echo())
    async with mango.activate(container):
        addr = own_echo.addr
        if options["address"]:
            host, port, aid = options["address"]
            addr = mango.AgentAddress(protocol_addr=(host, port), aid=aid)
        await measuring.obey_async(
            measuring.async_measures_of(lambda value: caller.call(addr, value))
        )


if __name__ == "__main__":
    measuring.run(main(measuring.options()))
