"""The command: make the plant, let its agents negotiate in a cluster, show what came of it."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import aiomas
from aiomas.agent import url_of
from aiomas.cluster import Cluster
from aiomas.cluster.hosts_file import HostsFile, read_hosts

from .agents import NegotiationError, Observer, Unit
from .chart import draw
from .plant import Outcome, Plant, read_target
from .progress import Display, Snapshot, display

HERE = Path(__file__).resolve().parent
PACKAGE = (HERE, *HERE.parents)[(__package__ or "").count(".")]
"""The folder that other hosts need, so that they find our modules by the names they have here."""


@dataclass(frozen=True)
class Report:
    """A finished negotiation."""

    outcome: Outcome
    messages: int
    seconds: float
    hosts: Sequence[str]
    """Of each container, on which host it is."""


class Parser(argparse.ArgumentParser):
    """A parser that says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def at_least(least: int) -> Any:
    """Return a converter for options that are whole numbers from `least` on."""

    def convert(text: str) -> int:
        number = int(text) if text.isdecimal() else least - 1
        if number < least:
            msg = f"{text!r} is no whole number of at least {least}"
            raise argparse.ArgumentTypeError(msg)
        return number

    return convert


def target_file(text: str) -> tuple[int, ...]:
    """Read the file of the option ``--target``."""
    try:
        return read_target(Path(text))
    except OSError as error:
        msg = f"{text}: {error.strerror}"
        raise argparse.ArgumentTypeError(msg) from None
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def hosts_file(text: str) -> HostsFile:
    """Read the file of the option ``--hosts``."""
    try:
        return read_hosts(text)
    except OSError as error:
        msg = f"{text}: {error.strerror}"
        raise argparse.ArgumentTypeError(msg) from None
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command."""
    parser = Parser(
        prog="virtual_power_plant",
        description="Let the agents of a virtual power plant agree on a common schedule.",
        epilog="Example: python examples/virtual_power_plant --agents 100 --seed 7 --day summer",
    )
    add = parser.add_argument
    add("--agents", type=at_least(2), default=300, metavar="N", help="units (default: 300)")
    add(
        "--containers",
        type=at_least(1),
        metavar="N",
        help="container processes (default: one per core, at least 2); with 1, the same seed gives "
        "the same result",
    )
    add(
        "--hosts",
        type=hosts_file,
        metavar="FILE.toml",
        help="the hosts to run on (default: this machine)",
    )
    add("--seed", type=at_least(0), default=1, help="for units and overlay (default: 1)")
    add("--day", choices=("winter", "spring", "summer"), default="winter", help="(default: winter)")
    add(
        "--target",
        type=target_file,
        metavar="FILE",
        help="CSV file with columns hour and kw (default: six even blocks made from the units)",
    )
    add(
        "--out",
        type=Path,
        default=HERE / "out",
        metavar="DIR",
        help="folder for result.svg and result.csv (default: out, beside the example)",
    )
    add(
        "--timeout",
        type=at_least(1),
        default=600,
        metavar="S",
        help="give up after that many seconds (default: 600)",
    )
    return parser.parse_args(argv)


def make_cluster(containers: int | None, hosts: HostsFile | None) -> Cluster:
    """Return the cluster: on this machine, or on the hosts of a file.

    Raises:
        ValueError: the options, or what is in the file, do not go together.
    """
    ours: dict[str, Any] = {"transport": "tls", "codec": "msgpack"}
    if containers is not None:
        ours["containers"] = containers
    if hosts is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return Cluster(**{"containers": max(cores or 1, 2), **ours})
    try:
        return Cluster(**{"sync": [PACKAGE], **hosts.keywords(**ours)})
    except ValueError as error:
        raise ValueError(hosts.located(str(error), ours)) from error


async def negotiate(plant: Plant, cluster: Cluster, screen: Display) -> Report:
    """Spread the plant's agents over a cluster, let them negotiate, and collect what they chose."""
    count = len(plant.schedules)
    screen.stage("Starting containers over mutual TLS")
    async with cluster:
        screen.stage(f"Spawning {count} agents")
        arguments = zip(range(count), plant.schedules, plant.neighbours, strict=True)
        units = await cluster.spawn_many(Unit, arguments)
        observer = Observer(cluster.container)
        addresses = [url_of(unit) for unit in units]
        # One message for each container, instead of one for each agent.
        await cluster.starmap(
            "meet",
            [
                (unit, [addresses[number] for number in neighbours], observer.addr)
                for unit, neighbours in zip(units, plant.neighbours, strict=True)
            ],
        )
        screen.stage("Negotiating")
        start = time.perf_counter()
        end = asyncio.create_task(observer.negotiate(units[0], plant.goal))
        try:
            while not end.done():
                screen.show(await look_at(cluster, units, start))
                await asyncio.wait([end], timeout=screen.interval)
            await end
        finally:
            end.cancel()
        seconds = time.perf_counter() - start
        final = await look_at(cluster, units, start)
        schedules = await cluster.map("schedule", units)
        hosts = [info.host for info in cluster.containers]
    after = tuple(map(sum, zip(*schedules, strict=True)))
    outcome = Outcome(plant.target, plant.uncontrolled, after)
    return Report(outcome, final.messages, seconds, hosts)


async def look_at(cluster: Cluster, units: Sequence[Any], start: float) -> Snapshot:
    """Ask all units how far they are. Only people look at it: nothing depends on the answer."""
    states = await cluster.map("status", units)
    messages, known, distances = zip(*states, strict=True)
    _, distance = min(
        (-number, distance) for number, distance in zip(known, distances, strict=True)
    )
    return Snapshot(
        seconds=time.perf_counter() - start,
        messages=sum(messages),
        informed=known.count(len(units)),
        agents=len(units),
        distance_kwh=distance / 1000,
    )


def places(hosts: Sequence[str]) -> str:
    """Return how many containers there were, and on which hosts if there were several."""
    shares = Counter(hosts)
    where = ", ".join(f"{count} on {host}" for host, count in shares.items())
    return f"{len(hosts)} ({where})" if len(shares) > 1 else f"{len(hosts)}"


def summary(plant: Plant, report: Report) -> str:
    """Return what people want to know in the end."""
    outcome = report.outcome
    kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(plant.kinds).most_common())
    rows = {
        "agents": f"{len(plant.kinds)} ({kinds})",
        "containers": places(report.hosts),
        "connections": "mutual TLS",
        "messages": f"{report.messages:,}",
        "seconds": f"{report.seconds:.1f}",
        "distance before": f"{outcome.distance_before_wh / 1000:,.1f} kWh",
        "distance after": f"{outcome.distance_after_wh / 1000:,.1f} kWh "
        f"({outcome.improvement:.1%} less)",
    }
    return "\n".join(f"{name:16} {value}" for name, value in rows.items())


async def run(options: argparse.Namespace, plant: Plant, cluster: Cluster) -> Report:
    """Negotiate and show progress."""
    before = Outcome(plant.target, plant.uncontrolled, plant.uncontrolled)
    with display(before.distance_before_wh / 1000) as screen:
        async with asyncio.timeout(options.timeout):
            return await negotiate(plant, cluster, screen)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Return its exit code: 0, 1 if something failed, 2 for a wrong option."""
    options = parse(argv)
    try:
        cluster = make_cluster(options.containers, options.hosts)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    plant = Plant.make(options.agents, options.seed, options.day, options.target)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"cannot write to {options.out}: {error.strerror}", file=sys.stderr)
        return 1
    try:
        report = asyncio.run(run(options, plant, cluster))
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except (NegotiationError, aiomas.AiomasError) as error:
        print(error, file=sys.stderr)
        return 1
    except TimeoutError as error:
        # That of the cluster's start says which containers were late.
        print(str(error) or f"no end within {options.timeout} s (see --timeout)", file=sys.stderr)
        return 1
    picture = options.out / "result.svg"
    picture.write_text(draw(report.outcome, len(plant.kinds)), encoding="utf-8")
    report.outcome.write_csv(options.out / "result.csv")
    print(summary(plant, report))
    print(f"{'picture':16} {picture}")
    return 0
