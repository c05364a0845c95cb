"""The command ``aiomas cluster``.

The commands are thin: programs are run by `program`, runs are found by `rundir` and asked by
`watch`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from aiomas.cluster import rundir
from aiomas.cluster.naming import CODECS
from aiomas.cluster.overview import heading, hosts_in_trouble, with_host
from aiomas.cluster.rundir import Run
from aiomas.cluster.spec import LOOPS, TRANSPORTS
from aiomas.cluster.terminal import (
    Command,
    Commands,
    describe,
    json_option,
    name_argument,
    report,
    size,
    span,
    table,
)
from aiomas.exceptions import ClusterError

__all__ = ["cluster"]

_STATUS = (
    *("#", "pid", "state", "for", "CPU", "memory", "agents"),
    *("in", "out", "errors", "restarts", "exit code", "url"),
)
_PAUSE = 0.1  # seconds between two attempts to reach a run that does not listen yet


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show a traceback when something fails.")
def cluster(*, debug: bool) -> None:
    """Many containers, on this machine and others, as one system (POSIX only).

    run starts them for a program and stops them at its end; the other commands find what runs of
    this user there are.  Exit codes: 0 if all is well, 1 if something failed, 2 if a command was
    used wrongly, 130 after Ctrl-C.
    """


@cluster.command(
    cls=Command,
    examples=(
        "plant.py:main -n 8",
        "plant.scenarios:winter -n 8 --transport tls --name winter -- 2024 fast",
        "plant.py:main --hosts cluster.toml --sync plant.py",
    ),
)
@click.argument("target", metavar="TARGET")
@click.argument("arguments", metavar="[-- ARGS]", nargs=-1)
@click.option(
    "-n",
    "--containers",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many container processes in all.  [default: one for each core]",
)
@click.option("--transport", type=click.Choice(TRANSPORTS), help="How containers talk.")
@click.option("--codec", type=click.Choice(tuple(CODECS)), help="How messages are encoded.")
@click.option("--loop", type=click.Choice(LOOPS), help="The event loop of the containers.")
@click.option("--name", help="A name for the other commands.")
@click.option("--seed", type=int, metavar="INT", help="Seed the containers' random numbers.")
@click.option("--pin", is_flag=True, default=None, help="Keep each container on one core.")
@click.option(
    "--preload",
    multiple=True,
    metavar="MODULE",
    help="Import this before containers are forked.  May be repeated.",
)
@click.option(
    "--pki",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="A CA made by aiomas pki, for --transport tls.  [default: one for this run alone]",
)
@click.option("--logs", is_flag=True, default=None, help="Show what containers print, as well.")
@click.option("--clock", metavar="DATE", help="Start external clocks there, not in real time.")
@click.option(
    "--hosts",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE.toml",
    help="The hosts to run on, and options; those given here count more.",
)
@click.option(
    "--sync",
    multiple=True,
    type=click.Path(path_type=Path, exists=True),
    metavar="PATH",
    help="Send this module or folder to other hosts.  May be repeated.",
)
@click.option(
    "--lease",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="How long a host goes on that has lost its driver.",
)
@click.option(
    "--on-host-loss",
    metavar="WHAT",
    help="respawn to make its agents again on other hosts, or report.",
)
@click.option(
    "--allow-partial", is_flag=True, default=None, help="Begin without hosts that cannot be used."
)
@click.option("--insecure", is_flag=True, default=None, help="Allow --transport tcp between hosts.")
def run(
    target: str,
    arguments: Sequence[str],
    *,
    containers: int | None,
    hosts: Path | None,
    **options: Any,
) -> None:
    """Run a program in a cluster.

    TARGET is module:main or file.py:main, a function async def main(cluster, *args), which gets
    ARGS as strings.  An integer that it returns is the exit code.  Ctrl-C and SIGTERM (exit code
    143) stop everything in good order; a second one, at once.
    """
    from aiomas.cluster import program  # noqa: PLC0415 - the other commands do not need it

    options["containers"] = containers
    given = {key: value for key, value in options.items() if value not in {None, ()}}
    given["progress"] = True
    try:
        main = program.find_main(target, arguments)
        code = program.run(main, arguments, given, hosts)
    except program.BadTarget as exc:
        raise click.UsageError(describe(exc), click.get_current_context()) from exc
    except program.ProgramFailed as exc:
        msg = f"{describe(exc)} (see where: aiomas cluster --debug run ...)"
        raise program.ProgramFailed(msg) from exc.__cause__
    click.get_current_context().exit(code)


@cluster.command("ls", cls=Command, examples=("", "--json"))
@json_option
def list_(*, as_json: bool) -> None:
    """List the clusters of this user that run."""
    now = time.time()
    found = []
    for item in rundir.running():
        facts = {"name": item.name, **item.facts}
        facts["age"] = now - facts["started"] if "started" in facts else None
        found.append(facts)
    rows = [
        [
            facts["name"],
            str(facts.get("pid", "-")),
            span(facts["age"]),
            str(facts.get("containers", "-")),
            facts.get("transport", "-"),
            shlex.join(facts.get("command", ())),
        ]
        for facts in found
    ]
    titles = ("name", "pid", "for", "containers", "transport", "command")
    report(found, table(titles, rows) if rows else "(none)", as_json=as_json)


@cluster.command(cls=Command, examples=("", "winter --json"))
@name_argument
@json_option
def status(name: str | None, *, as_json: bool) -> None:
    """Show the containers of a cluster.

    NAME is needed if there are several clusters.
    """
    from aiomas.cluster.watch import Watch  # noqa: PLC0415 - the other commands do not need it

    async def ask() -> dict[str, Any]:
        async with Watch(rundir.find(name)) as watch:
            return await watch.status()

    found = asyncio.run(ask())
    facts, containers = found["facts"], found["containers"]
    titles, rows = with_host(facts, containers, _STATUS)
    text = table(titles, [[*start, *_status_row(container)] for start, container in rows])
    first = [heading(facts, containers), *hosts_in_trouble(facts)]
    report(found, "\n".join([*first, text]), as_json=as_json)


def _status_row(container: dict[str, Any]) -> list[str]:
    def text(key: str) -> str:
        value = container.get(key)
        return "-" if value is None else str(value)

    cpu = container.get("cpu")
    return [
        *(text("index"), text("pid"), text("state")),
        span(container.get("uptime")),
        "-" if cpu is None else f"{cpu:.1f} s",
        size(container.get("rss")),
        *(text("agents"), text("calls_in"), text("calls_out"), text("errors")),
        *(text("restarts"), text("exit_code"), text("url")),
    ]


@cluster.command(cls=Command, examples=("", "winter --interval 0.5", "--json"))
@name_argument
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two looks.",
)
@json_option
def top(name: str | None, *, interval: float, as_json: bool) -> None:
    """Watch the containers of a cluster until q or Ctrl-C.

    With --json, or without a terminal, it looks for SECONDS and prints what it saw, once.
    """
    from rich.console import Console  # noqa: PLC0415 - rich takes its time

    from aiomas.cluster import top as screen  # noqa: PLC0415

    found = rundir.find(name)
    console = Console()
    if as_json or not console.is_terminal or console.is_dumb_terminal:
        look = asyncio.run(screen.once(found, interval))
        containers = [
            {**container, "rates": dataclasses.asdict(rates) if rates else None}
            for container in look.containers
            for rates in [look.rates.get(container["index"])]
        ]
        facts = look.status["facts"]
        first = [heading(facts, look.containers), *hosts_in_trouble(facts)]
        text = "\n".join([*first, table(*screen.columns(look))])
        report({**look.status, "containers": containers}, text, as_json=as_json)
        return
    try:
        still_there = asyncio.run(screen.live(found, interval, console))
    except KeyboardInterrupt:
        return  # one of the two ways to end it
    if not still_there:
        click.echo(f"cluster {found.name!r} has ended", err=True)


@cluster.command(cls=Command, examples=("", "-f 3", "winter 3 -n 100", "-f --name 2024"))
@click.argument("which", metavar="[NAME] [INDEX]", nargs=-1)
@click.option("--name", help="The cluster, if its name is a number.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what containers print.")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    metavar="LINES",
    help="Begin with so many of the last lines.",
)
def logs(which: Sequence[str], *, name: str | None, follow: bool, lines: int) -> None:
    """Print what the containers of a cluster print.

    A number is the INDEX of a container; without one, lines of all containers come with the index
    in front.  -f ends when the cluster does.
    """
    from aiomas.cluster import tail, watched_logs  # noqa: PLC0415 - as above

    name, index = _name_and_index(which, name)
    found = rundir.find(name)
    if not {"containers", "log_dir"} <= found.facts.keys():
        msg = f"cluster {found.name!r} has no logs yet: it is starting"
        raise ClusterError(msg)
    if found.facts.get("hosts"):  # others have logs of their own
        asyncio.run(watched_logs.show(found, index, lines=lines, wait=follow))
        return
    count = found.facts["containers"]
    if index is not None and index >= count:
        msg = f"cluster {found.name!r} has {count} containers (from 0 up), there is no {index}"
        raise ClusterError(msg)
    folder = Path(found.facts["log_dir"])
    indices = range(count) if index is None else [index]
    tail.show({i: folder / f"{i}.log" for i in indices}, lines=lines, wait=follow)


def _name_and_index(which: Sequence[str], name: str | None) -> tuple[str | None, int | None]:
    """Return what is meant by at most two words."""
    match which:
        case []:
            return name, None
        case [word] if _is_index(word):
            return name, int(word)
        case [word] if name is None:
            return word, None
        case [word, index] if name is None and _is_index(index):
            return word, int(index)
    msg = f"expected [NAME] [INDEX], got {shlex.join(which)}"
    raise click.UsageError(msg, click.get_current_context())


def _is_index(word: str) -> bool:
    return word.isascii() and word.isdecimal()


@cluster.command(cls=Command, examples=("", "winter --timeout 60"))
@name_argument
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait until it has ended.",
)
def stop(name: str | None, *, timeout: float) -> None:
    """Stop a cluster, and wait until it has ended.

    If it has not ended in time, the exit code is 1.
    """
    from aiomas.cluster.watch import wait_until_gone  # noqa: PLC0415

    found = rundir.find(name)
    until = time.monotonic() + timeout
    asked = _ask_to_stop(found)
    while not wait_until_gone(found, _bounded(until, None if asked else _PAUSE)):
        if time.monotonic() >= until:
            pid = found.facts.get("pid")
            msg = f"cluster {found.name!r} (pid {pid}) has not ended within {timeout:g} s"
            raise ClusterError(msg)
        asked = asked or _ask_to_stop(found)
    click.echo(f"stopped {found.name}" if asked else f"{found.name} has ended by itself", err=True)


def _bounded(until: float, most: float | None) -> float:
    left = max(0.0, until - time.monotonic())
    return left if most is None else min(left, most)


def _ask_to_stop(run: Run) -> bool:
    """Tell *run* to stop; return whether it has heard it: it may not listen yet, or no more."""
    from aiomas.cluster.watch import RunGone, Watch  # noqa: PLC0415

    async def ask() -> None:
        async with Watch(run) as watch:
            await watch.stop()

    try:
        asyncio.run(ask())
    except RunGone:
        return False
    return True
