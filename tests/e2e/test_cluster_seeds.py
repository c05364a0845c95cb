"""Random numbers of containers follow from the seed, also those of libraries that come later."""

from __future__ import annotations

import pytest

from aiomas.cluster import Cluster

AGENTS = """
import sys
before = "numpy" in sys.modules
import aiomas, numpy

class Dice(aiomas.Agent):
    @aiomas.expose
    def throw(self):
        return before, int(numpy.random.randint(10**9))
"""


@pytest.mark.timeout(60)
async def test_numpy_that_comes_with_the_agents_is_seeded(tmp_path):
    target = tmp_path / "dice.py"
    target.write_text(AGENTS)

    async def throws(seed):
        async with Cluster(2, loop="asyncio", seed=seed) as cluster:
            dice = await cluster.spawn_many(f"{target}:Dice", 2)
            again = await cluster.spawn_many(f"{target}:Dice", 2)
            return [await each.throw() for each in dice + again]

    first = await throws(7)
    assert not any(loaded_before for loaded_before, _ in first)
    assert len({number for _, number in first}) == len(first)
    assert await throws(7) == first
    assert await throws(8) != first
