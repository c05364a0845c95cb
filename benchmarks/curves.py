"""Curves over agents, connections and payloads: what a call costs, and what memory there is.

All points of a curve are measured in turns, with both ends on one core, so that a machine that is
slow for a while does not bend the curve.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import random
import resource
import statistics
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import psutil

import aiomas
from benchmarks.loops import LOOPS, pinned, run
from benchmarks.measure import MIB, Call, Measure, echoed, pipelined, sequential
from benchmarks.plan import Plan
from benchmarks.subjects import Subjects, server
from benchmarks.svg import Curve, size

AGENTS = (1, 10, 100, 1_000, 10_000, 100_000)
CONNECTIONS = (1, 10, 100, 1_000, 2_000)
PAYLOADS = (16, 256, 4 * 2**10, 64 * 2**10, MIB, 16 * MIB, 64 * MIB)
AT_ONCE = 50
"""So many connections are made at once."""
FIRST_CALLS = 500
"""So many agents are called for the first time at once."""
SPARE_FILES = 200
"""Descriptors for all but connections."""

Points = list[tuple[float, float]]


def memory(pid: int) -> float:
    """Return the MiB that a process has for itself alone."""
    return float(psutil.Process(pid).memory_full_info().uss) / MIB


def rotating(calls: Sequence[Call]) -> Call:
    """Return a call that goes to each of *calls* in turns."""
    turns = itertools.cycle(calls)

    def call(value: Any) -> Awaitable[Any]:
        return next(turns)(value)

    return call


async def costs(
    calls: dict[int, Call], measures: Callable[[int], Measure], plan: Plan
) -> dict[int, float]:
    """Return the medians of what *measures* return for each point, which take turns."""
    figures: dict[int, list[float]] = {point: [] for point in calls}
    for number in range(plan.rounds + 1):
        for point, call in calls.items():
            figure = await measures(point)(call, plan.seconds)
            if number:  # the first round is to warm up
                figures[point].append(figure)
    return {point: statistics.median(values) for point, values in figures.items()}


def microseconds(rates: dict[int, float]) -> Points:
    """Return what one call costs, from calls per second."""
    return [(point, 1e6 / rate) for point, rate in rates.items()]


# --- agents ---------------------------------------------------------------------------------------


async def over_agents(loop_name: str, plan: Plan) -> tuple[Points, Points]:
    """Return microseconds per call, and MiB of the server, by agents in a container."""
    calls, sizes = {}, []
    async with contextlib.AsyncExitStack() as stack:
        own = aiomas.Container.open(aiomas.get_queue("curve"), codec=aiomas.MsgPack)
        container = await stack.enter_async_context(own)
        for count in plan.points(AGENTS):
            told = stack.enter_context(server("aiomas", loop_name, agents=count))
            sizes.append((float(count), memory(told["pid"])))
            base, _, _ = told["address"].rpartition("/")
            order = random.Random(1).sample(range(count), count)
            await container.connect(f"{base}/0")
            echoes = [container.proxy(f"{base}/{number}").echo for number in order]
            calls[count] = rotating(echoes)
            for start in range(0, count, FIRST_CALLS):  # which make their routers
                await asyncio.gather(*[echo("") for echo in echoes[start : start + FIRST_CALLS]])
        rates = await costs(calls, lambda _count: pipelined(64), plan)
    return microseconds(rates), sizes


def draw_agents(plan: Plan) -> list[Curve]:
    """Return the curves over agents in a container."""
    cost: dict[str, Points] = {}
    sizes: dict[str, Points] = {}
    for loop_name in LOOPS:
        plan.tell(f"agents, {loop_name}")
        with pinned(to_one_core=True):
            cost[loop_name], sizes[loop_name] = run(loop_name, over_agents(loop_name, plan))
    x_label = "agents in the container that is called"
    return [
        Curve(
            "agents",
            "Cost of a call, 64 in flight, both ends on one core",
            f"{x_label}, in turns",
            "microseconds per call",
            cost,
        ),
        Curve("agents-memory", "Memory of a container", x_label, "MiB of its process", sizes),
    ]


# --- connections ----------------------------------------------------------------------------------


def allow_connections(wanted: int) -> int:
    """Let this process and those that it starts have so many, and return how many they may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = max(soft, wanted + SPARE_FILES)
    # More than the standard says is more than some systems take.
    raised = min(hard, max(soft, wanted + SPARE_FILES))
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (raised, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    )
    return raised - SPARE_FILES


async def connected(address: str, containers: Sequence[aiomas.Container]) -> list[Call]:
    """Return calls of the agent at *address*, over one connection for each of the containers."""
    proxies: list[Any] = []
    for start in range(0, len(containers), AT_ONCE):
        some = containers[start : start + AT_ONCE]
        proxies += await asyncio.gather(*[container.connect(address) for container in some])
    return [proxy.echo for proxy in proxies]


async def over_connections(
    loop_name: str, counts: Sequence[int], plan: Plan
) -> tuple[Points, Points]:
    """Return microseconds per call, and MiB of the server, by connections to a container."""
    calls, sizes = {}, []
    async with contextlib.AsyncExitStack() as stack:
        containers = [
            await stack.enter_async_context(
                aiomas.Container.open(aiomas.get_queue(f"curve-{number}"), codec=aiomas.MsgPack)
            )
            for number in range(max(counts))
        ]
        for count in counts:
            told = stack.enter_context(server("aiomas", loop_name))
            over_each = await connected(told["address"], containers[:count])
            sizes.append((float(count), memory(told["pid"])))
            calls[count] = rotating(over_each)
        rates = await costs(calls, lambda _count: sequential, plan)
    return microseconds(rates), sizes


def draw_connections(plan: Plan) -> list[Curve]:
    """Return the curves over connections to a container."""
    wanted = plan.points(CONNECTIONS)
    share = min(1.0, allow_connections(sum(wanted)) / sum(wanted))
    counts = sorted({max(1, math.floor(count * share)) for count in wanted})
    note = "" if share == 1.0 else f"This system allows no more than {counts[-1]} connections here."
    cost: dict[str, Points] = {}
    sizes: dict[str, Points] = {}
    for loop_name in LOOPS:
        plan.tell(f"connections, {loop_name}")
        with pinned(to_one_core=True):
            found = run(loop_name, over_connections(loop_name, counts, plan))
        cost[loop_name], sizes[loop_name] = found
    x_label = "connections to the container that is called"
    return [
        Curve(
            "connections",
            "Cost of a call, one after the other, both ends on one core",
            f"{x_label} (all of them in turns)",
            "microseconds per call",
            cost,
            note=note,
        ),
        Curve(
            "connections-memory",
            "Memory of a container",
            x_label,
            "MiB of its process",
            sizes,
            note=note,
        ),
    ]


# --- payload --------------------------------------------------------------------------------------


async def over_payloads(loop_name: str, name: str, plan: Plan) -> Points:
    """Return microseconds per call by bytes of the payload, which is sent there and back."""
    async with contextlib.AsyncExitStack() as stack:
        call = await Subjects(loop_name, plan.folder, stack).call(name, "echo")
        points = plan.points(PAYLOADS)
        rates = await costs(dict.fromkeys(points, call), echoed, plan)
    # The rate counts both ways.
    return [(float(point), 2e6 * point / rate) for point, rate in rates.items()]


def draw_payloads(plan: Plan) -> list[Curve]:
    """Return the curve over the size of the payload."""
    series = {}
    for loop_name in LOOPS:
        for name, label in (("aiomas large", "aiomas"), ("tuned", "tuned baseline")):
            plan.tell(f"payload, {label}, {loop_name}")
            with pinned(to_one_core=True):
                series[f"{label}, {loop_name}"] = run(
                    loop_name, over_payloads(loop_name, name, plan)
                )
    return [
        Curve(
            "payload",
            "Time of an echo, both ends on one core",
            "bytes sent and received",
            "microseconds per call",
            series,
            x_text=size,
        )
    ]
