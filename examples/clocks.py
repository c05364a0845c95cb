"""Clocks: the same agent in real time and in a simulation.

A tea timer rings after a few minutes.  With the container's default clock these would be real
minutes.  With an external clock, the time passes when somebody (here: a simulation loop) sets it: a
day takes no longer than the computer needs for what happens on that day.

Run it with ``python examples/clocks.py``.
"""

from __future__ import annotations

import asyncio
import time

import aiomas

MINUTE = 60


class TeaTimer(aiomas.Agent):
    def __init__(self, container: aiomas.Container, tea: str, minutes: float) -> None:
        super().__init__(container)
        self.tea = tea
        self.minutes = minutes

    async def run(self) -> None:
        clock = self.container.clock
        print(f"{clock.utcnow():HH:mm:ss}  {self.tea}: put into the water")
        clock.call_in(self.minutes * MINUTE / 2, self.stir)
        await clock.sleep(self.minutes * MINUTE)
        print(f"{clock.utcnow():HH:mm:ss}  {self.tea}: ready")

    def stir(self) -> None:
        print(f"{self.container.clock.utcnow():HH:mm:ss}  {self.tea}: half of the time is over")


async def main() -> None:
    clock = aiomas.ExternalClock("2026-01-01T15:00:00")
    queue = aiomas.get_queue("kitchen")  # no network needed: an address in this process
    started = time.perf_counter()
    async with aiomas.Container.open(queue, clock=clock) as container:
        timers = [TeaTimer(container, "green", 2), TeaTimer(container, "black", 4)]
        async with asyncio.TaskGroup() as group:
            for timer in timers:
                group.create_task(timer.run())
            # The simulation: it goes on a minute at a time, and lets the agents act in between.
            for minute in range(1, 6):
                await asyncio.sleep(0)
                clock.set_time(minute * MINUTE)
    print(f"{clock.time() / MINUTE:.0f} minutes took {time.perf_counter() - started:.1f} seconds")


if __name__ == "__main__":
    asyncio.run(main())
