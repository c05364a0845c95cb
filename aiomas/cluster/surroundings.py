"""What all containers of a supervisor share, and what a process of one of them is started with."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from aiomas.cluster.environment import Environment
from aiomas.cluster.events import ClusterEvent
from aiomas.cluster.part import Part
from aiomas.cluster.spec import ClusterSpec
from aiomas.cluster.zygote import ForkServer


@dataclasses.dataclass(slots=True)
class Generation:
    """How many hosts of the run have been lost, as containers know it; see ``aiomas._hello``."""

    accept: int = 0
    """The oldest that is served."""
    known: int = 0
    """The newest that there may be."""
    use: int = 0
    """That of new connections to others."""
    lost: set[str] = dataclasses.field(default_factory=set)
    """The base URLs of containers that nobody has anything to do with any more."""

    def take(
        self, accept: int, known: int, use: int, lost: Iterable[str], found: Iterable[str]
    ) -> None:
        """Change it; see :meth:`aiomas.cluster.container.ClusterContainer.set_generation`."""
        self.accept, self.known, self.use = accept, known, use
        self.lost |= set(lost)
        self.lost -= set(found)

    def fields(self) -> dict[str, Any]:
        """Return what a container gets when it starts; in the order of the arguments of `take`."""
        return {
            "accept": self.accept,
            "known": self.known,
            "generation": self.use,
            "lost": sorted(self.lost),
        }


class Archive(Protocol):
    """Keeps, somewhere else, what is needed to make agents again on another host."""

    def save(self, index: int, aid: str, state: bytes) -> None:
        """Keep the state of an agent of the container with that index."""

    def forget(self, index: int, aid: str) -> None:
        """Do not make an agent again."""


@dataclasses.dataclass(slots=True, kw_only=True)
class Surroundings:
    """What all containers of a supervisor share."""

    spec: ClusterSpec
    run: str
    """The name of the run."""
    directory: Path
    """That of the run."""
    logs: Path
    """The directory of the log files."""
    fork: ForkServer
    token: str = dataclasses.field(repr=False)
    tls: bool
    """Whether they use TLS; what they need for it, they have from the fork server."""
    emit: Callable[[ClusterEvent], None]
    echo: Callable[[int, str], None] | None
    """Gets each line of a log, if it is wanted."""
    urls: list[str] = dataclasses.field(default_factory=list)
    """Where containers listen at ports, which others can take when these are closed."""
    time: float = 0
    """What the external clocks were set to, in seconds."""
    part: Part = dataclasses.field(default_factory=Part)
    """What of the run is on this host."""
    generation: Generation = dataclasses.field(default_factory=Generation)
    archive: Archive | None = None
    """Who wants to know of states, beside us."""

    def job(self, index: int, life: int) -> dict[str, Any]:
        """Return what :func:`aiomas.cluster.worker.main` gets.

        Args:
            index: the container's index.
            life: how often it has been restarted.
        """
        spec = self.spec
        seed = None
        if spec.seed is not None:
            seed = "/".join(str(part) for part in (spec.seed, index, life))
        cores = sorted(_cores()) if spec.pin else []
        environment = Environment(
            env=spec.env_of(index),
            cwd=spec.cwd,
            cpu=cores[index % len(cores)] if cores else None,
            nice=spec.nice,
            memory=spec.memory,
            open_files=spec.open_files,
            seed=seed,
            title=f"aiomas {self.run}/{index}",
        )
        return {
            "environment": environment.to_job(),
            "directory": str(self.directory),
            "uvloop": spec.uses_uvloop,
        }


def _cores() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set()
