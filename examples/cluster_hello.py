"""A cluster: container processes on this machine, and agents spread over them.

There is one process for each core (but no more than 8), and in each an agent that looks for primes
in a part of the numbers.  All of them search at the same time.  Everything ends with the "async
with" block.

Run it with ``python examples/cluster_hello.py``.
"""

from __future__ import annotations

import asyncio
import os

import aiomas
from aiomas.cluster import Cluster

LIMIT = 20_000


# Other processes import this class from this file; the guard at the end of the file keeps them
# from starting a cluster of their own.
class Searcher(aiomas.Agent):
    @aiomas.expose
    async def count_primes(self, first: int, end: int) -> tuple[int, int]:
        return os.getpid(), sum(1 for number in range(first, end) if is_prime(number))


def is_prime(number: int) -> bool:
    return number > 1 and all(number % factor for factor in range(2, int(number**0.5) + 1))


async def main() -> None:
    count = min(os.cpu_count() or 1, 8)
    async with Cluster(containers=count) as cluster:
        print(f"{count} containers run; this process has the id {os.getpid()}")
        searchers = await cluster.spawn_many(Searcher, count)
        bounds = [LIMIT * number // count for number in range(count + 1)]
        # Each call starts at once and returns a future, so all of them run at the same time.
        calls = [
            searcher.count_primes(first, end)
            for searcher, first, end in zip(searchers, bounds, bounds[1:], strict=False)
        ]
        total = 0
        for pid, found in await asyncio.gather(*calls):
            print(f"process {pid} found {found} primes")
            total += found
        print(f"There are {total} primes below {LIMIT}")


if __name__ == "__main__":
    asyncio.run(main())
