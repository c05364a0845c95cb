"""A cluster: container processes on this machine, and agents spread over them.

There is one process for each core (but no more than 8), and in each an agent that looks for primes
in a part of the numbers.  All of them search at the same time.  Everything ends with the "async
with" block.

Run it with ``python examples/cluster_hello.py``, or let a command make the cluster:
``aiomas cluster run examples/cluster_hello.py:main -n 4 -- 50000``.
"""

from __future__ import annotations

import asyncio
import os

import aiomas
from aiomas.cluster import Cluster


# Other processes import this class from this file; the guard at the end of the file keeps them
# from starting a cluster of their own.
class Searcher(aiomas.Agent):
    @aiomas.expose
    async def count_primes(self, first: int, end: int) -> tuple[int, int]:
        return os.getpid(), sum(1 for number in range(first, end) if is_prime(number))


def is_prime(number: int) -> bool:
    return number > 1 and all(number % factor for factor in range(2, int(number**0.5) + 1))


async def main(cluster: Cluster, limit: str = "20000") -> None:
    """Count the primes below *limit*; arguments of a command are strings."""
    count, end = len(cluster.containers), int(limit)
    print(f"{count} containers run; this process has the id {os.getpid()}")
    searchers = await cluster.spawn_many(Searcher, count)
    bounds = [end * number // count for number in range(count + 1)]
    # All of them search at the same time; the results come in the order of the calls.
    calls = zip(searchers, bounds, bounds[1:], strict=False)
    total = 0
    for pid, found in await cluster.starmap("count_primes", calls):
        print(f"process {pid} found {found} primes")
        total += found
    print(f"There are {total} primes below {end}")


async def run() -> None:
    async with Cluster(containers=min(os.cpu_count() or 1, 8)) as cluster:
        await main(cluster)


if __name__ == "__main__":
    asyncio.run(run())
