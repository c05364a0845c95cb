"""The driver: starts everything, prints how it is going, and judges at the end."""

from __future__ import annotations

import argparse
import asyncio
import collections
import logging
import os
import random
import sys
import tempfile
import time
from pathlib import Path

from aiomas.exceptions import AiomasError
from soak import memory
from soak.caller import Caller
from soak.faults import Faults
from soak.ledger import Expectations
from soak.load import KINDS
from soak.logs import is_ours
from soak.memory import Sample
from soak.site import Child, Site, rss
from soak.worker import LIFE, state

CALLERS = 12
SHOWN = 20  # problems
_ALLOCATOR = "MALLOC_MMAP_THRESHOLD_"
"""Makes glibc give large blocks back at once, so that what is resident says what is used."""

State = dict[str, int]


class Run:
    """One run, from the first call to the verdict."""

    def __init__(
        self, site: Site, expected: Expectations, seconds: float, seed: str, every: float
    ) -> None:
        self.problems: list[str] = []
        self._site = site
        self._seconds = seconds
        self._every = every
        self._expected = expected
        self._callers = [
            Caller(site, self._expected, random.Random(f"{seed} caller {i}"))
            for i in range(CALLERS)
        ]
        self._faults = Faults(site, random.Random(f"{seed} faults"))
        self._samples: list[Sample] = []
        self._began = 0.0

    async def run(self) -> None:
        """Warm up, do what is to be survived, and look at what is left."""
        await self._load(min(5.0, self._seconds / 4), faults=False)
        before = await self._quiet_states(None)
        self._began = time.monotonic()
        await self._load(self._seconds, faults=True)
        after = await self._quiet_states(before)
        self.problems += exceeds(after, before)
        for child in self._site.children:
            if (code := await child.end()) != 0:
                self.problems.append(f"{child.name} has ended with {code}")
            if log := (self._site.folder / f"{child.name}.log").read_text():
                self.problems.append(f"{child.name} has logged:\n{log}")
        self.problems += [problem for each in self._callers for problem in each.problems]
        self.problems += self._expected.broken(self._site.ledger)
        self._judge_memory()
        print(f"{self._faults.count} faults, {self._expected.total:,} calls:")
        for end, count in self._expected.ends.most_common():
            print(f"    {count:9,} {end}")
        for name, value in after.items():
            print(f"at the end, {name}: {value}")

    async def _load(self, seconds: float, *, faults: bool) -> None:
        tasks = [asyncio.create_task(caller.run(KINDS)) for caller in self._callers]
        if faults:
            tasks.append(asyncio.create_task(self._faults.run()))
        until = time.monotonic() + seconds
        try:
            while (left := until - time.monotonic()) > 0:
                ended, _ = await asyncio.wait(tasks, timeout=min(left, self._every))
                for task in ended:
                    task.result()  # none of them ends by itself
                if faults:
                    self._report()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _report(self) -> None:
        seconds = time.monotonic() - self._began
        kib = {f"{child.name} {child.lives}": child.memory for child in self._site.children}
        sample = Sample(seconds, self._expected.total, {"driver": rss()} | kib)
        self._samples.append(sample)
        ends: collections.Counter[str] = collections.Counter()
        for end, count in self._expected.ends.items():
            if not end.startswith("caller: "):
                ends[end.partition(",")[0]] += count
        state_now = state(*self._site.containers)
        print(
            f"{seconds:5.0f} s ",
            ", ".join(f"{count:,} {end}" for end, count in ends.most_common()),
            "| " + ", ".join(f"{value} {key}" for key, value in state_now.items()),
            "| MiB: " + ", ".join(f"{n} {kib / 1024:.1f}" for n, kib in sample.kib.items()),
            f"| {self._faults.count} faults",
            flush=True,
        )

    async def _quiet_states(self, goal: dict[str, State] | None) -> dict[str, State]:
        """Return what everybody holds, when it is *goal*, or when that takes too long."""
        until = time.monotonic() + LIFE + 10
        await asyncio.sleep(0 if goal else LIFE + 1)
        while True:
            states = {"driver": state(*self._site.containers)}
            for child in self._site.children:
                states[child.name] = await self._ask(child)
            if goal is None or time.monotonic() > until or not exceeds(states, goal):
                return states
            await asyncio.sleep(0.2)

    async def _ask(self, child: Child) -> State:
        for _ in range(100):
            try:
                answer: State = await self._site.proxy(child).state()
            except AiomasError:  # some connections have yet to find out that they are lost
                await asyncio.sleep(0.1)
            else:
                return answer
        self.problems.append(f"{child.name} does not answer")
        return {}

    def _judge_memory(self) -> None:
        for name, slope in memory.slopes(self._samples, self._seconds).items():
            print(
                f"memory of {name} in the second half: {slope.per_minute:+,.0f} KiB/min, "
                f"{slope.per_100k_calls:+,.0f} KiB per 100,000 calls"
            )
            if slope.per_minute > memory.BOUND and self._seconds >= memory.MEANINGFUL:
                self.problems.append(
                    f"the memory of {name} grows by {slope.per_minute:,.0f} KiB/min, more than "
                    f"{memory.BOUND:,.0f}"
                )


def exceeds(states: dict[str, State], before: dict[str, State]) -> list[str]:
    """Describe what there is more of than there was."""
    return [
        f"{name} has {value} {key}, and had {before[name].get(key, 0)}"
        for name, state_now in states.items()
        for key, value in state_now.items()
        if value > before[name].get(key, 0)
    ]


class Collector(logging.Handler):
    """Keeps what is logged, all of which is held against us."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []
        self.setFormatter(logging.Formatter("%(name)s: %(message)s"))
        self.addFilter(is_ours)

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(self.format(record))


async def soak(seconds: float, seed: str, every: float) -> int:
    """Do a run and return the exit code."""
    logged = Collector()
    logging.getLogger().addHandler(logged)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        async with Site(Path(folder)) as site:
            with Expectations(site.folder) as expected:
                run = Run(site, expected, seconds, seed, every)
                await run.run()
    problems = run.problems + [f"the driver has logged: {message}" for message in logged.messages]
    for problem in problems[:SHOWN]:
        print(f"WRONG: {problem}")
    print(f"{len(problems)} problems (seed {seed})" if problems else "all is well")
    return 1 if problems else 0


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="of the run (default: 600)")
    parser.add_argument("--seed", default="1", help="of all that is random (default: 1)")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between lines")
    options = parser.parse_args()
    if _ALLOCATOR not in os.environ:  # it is read when a process starts
        os.environ[_ALLOCATOR] = "65536"
        os.execv(sys.executable, [sys.executable, "-m", "soak", *sys.argv[1:]])
    sys.exit(asyncio.run(soak(options.seconds, options.seed, options.every)))


if __name__ == "__main__":
    main()
