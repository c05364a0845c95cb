"""Two actors of Xoscar in one process, where arguments go by reference."""

from __future__ import annotations

from typing import Any

import measuring
import xoscar


class Echo(xoscar.Actor):
    """Returns what it gets."""

    def echo(self, value: Any) -> Any:
        """Return *value*."""
        return value


class Caller(xoscar.Actor):
    """Calls the other actor; only an actor has the short way to one of its process."""

    async def measure(self, name: str, seconds: float) -> float:
        """Return the figure of the measure with this name."""
        echo = await xoscar.actor_ref(self.address, "echo")
        measures = measuring.async_measures_of(echo.echo)
        figure: float = await measures[name](seconds)
        return figure


async def main() -> None:
    """Call until standard input ends."""
    pool = await xoscar.create_actor_pool("127.0.0.1:0", n_process=0)
    async with pool:
        address = pool.external_address
        await xoscar.create_actor(Echo, address=address, uid="echo")
        caller = await xoscar.create_actor(Caller, address=address, uid="caller")

        async def sequential(seconds: float) -> float:
            figure: float = await caller.measure("sequential", seconds)
            return figure

        await measuring.obey_async({"sequential": sequential})


if __name__ == "__main__":
    measuring.run(main())
