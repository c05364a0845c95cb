"""Who is measured, and in what."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.interop.environments import AIOMAS_2, Environment, find_python_3_8, this_python


@dataclass(frozen=True)
class Measure:
    """One thing that is measured.

    Args:
        title: for the table.
        program_measure: what the peer's program is told to measure.
        ours: what that of aiomas is told, to compare with.
        pinned: on which cores: one (``True``) or all (``False``).
        needs: ``"server"`` for two processes, ``"tls"`` for two with mutual TLS, ``"local"`` for
            one process.
        unit: of the figure, which the title names if it is another one than calls per second.
    """

    title: str
    program_measure: str
    ours: str
    pinned: tuple[bool, ...] = (True, False)
    needs: str = "server"
    unit: str = "calls/s"


MEASURES = {
    "B1": Measure("B1 sequential", "sequential", "sequential"),
    "B2-64": Measure("B2 64 in flight", "in_flight_64", "in_flight_64"),
    "B2-batch": Measure("B2 64 in one batch", "batch_64", "in_flight_64"),
    "B2-1000": Measure("B2 1000 in flight", "in_flight_1000", "in_flight_1000", (False,)),
    "B3": Measure("B3 1 MiB echo, GB/s", "mebibyte", "mebibyte", unit="GB/s"),
    "B4": Measure("B4 in one process", "sequential", "sequential", (True,), "local"),
    "B7-B1": Measure("B7 TLS, sequential", "sequential", "sequential", needs="tls"),
    "B7-B2": Measure("B7 TLS, 64 in flight", "in_flight_64", "in_flight_64", needs="tls"),
}
"""By the names that are used in the catalogue and in the JSON file."""

AIMS = {("B2-1000", "asyncio"): 1.5, ("B2-1000", "uvloop"): 2.0}
"""How many times as fast as pyzmq this aiomas is to be, by measure and by its event loop."""


@dataclass(frozen=True)
class Peer:
    """A library that aiomas is compared with.

    Args:
        name: for the table, and for ``--only``.
        program: the file in ``programs``.
        measures: names from :data:`MEASURES`.
        environment: what is installed for it; ``None`` for what runs this.
        base: returns the interpreter that the environment is made from.
        loop: the event loop, for programs that have a choice.
        has_server: whether the program is also run as a server; some start theirs themselves.
        does: what a call is, in a line: how its function is found, how it is encoded, and how a
            reply gets to its caller, so that a reader knows what is compared.
    """

    name: str
    program: str
    measures: tuple[str, ...]
    environment: Environment | None
    base: Callable[[], Path] = this_python
    loop: str = "asyncio"
    has_server: bool = True
    does: str = ""

    def python(self) -> Path:
        """Return the interpreter for the program; making its environment may take minutes.

        Raises:
            UnavailableError: there is none, and why.
        """
        if self.environment is None:
            return Path(sys.executable)
        return self.environment.python(self.base())


_OURS = "an agent's method by path, MsgPack, a future for each call"
OURS = {
    loop: Peer(f"aiomas, {loop}", "peer_aiomas.py", tuple(MEASURES), None, loop=loop, does=_OURS)
    for loop in ("asyncio", "uvloop")
}
"""This aiomas, by event loop."""

_PYZMQ = Environment("pyzmq", ("pyzmq", "msgpack", "uvloop"), "import msgpack, uvloop, zmq.asyncio")
_PYZMQ_ASYNCIO = "zmq.asyncio; a function by path, msgpack, a future for each call, by id"
_TCP = ("B1", "B2-64")
_TLS = ("B7-B1", "B7-B2")

PEERS = (
    Peer(
        "aiomas 2.0.1",
        "peer_aiomas.py",
        (*_TCP, "B3", "B4", *_TLS),
        AIOMAS_2,
        find_python_3_8,
        does=_OURS,
    ),
    Peer(
        "mango-agents",
        "peer_mango.py",
        (*_TCP, "B4"),
        Environment("mango-agents", ("mango-agents",), "import mango"),
        does="messages between agents, JSON; our own futures, by id, as it has no calls",
    ),
    Peer(
        "Pyro5",
        "peer_pyro5.py",
        (*_TCP, "B2-batch", "B3", *_TLS),
        Environment("pyro5", ("Pyro5", "msgpack"), "import msgpack, Pyro5.api"),
        does="an object's method by name, msgpack; calls block, in 16 threads, or in one batch",
    ),
    Peer(
        "rpyc",
        "peer_rpyc.py",
        (*_TCP, "B3", *_TLS),
        Environment("rpyc", ("rpyc",), "import rpyc.utils.authenticators"),
        does="a function held by reference, its own codec; in flight: an AsyncResult for each",
    ),
    Peer(
        "pyzmq",
        "peer_pyzmq.py",
        (*_TCP, "B2-1000", "B3"),
        _PYZMQ,
        does="plain sockets, no event loop; a function by path, msgpack, replies by id, no futures",
    ),
    Peer(
        "pyzmq-asyncio",
        "peer_pyzmq_asyncio.py",
        (*_TCP, "B2-1000"),
        _PYZMQ,
        does=_PYZMQ_ASYNCIO,
    ),
    Peer(
        "pyzmq-uvloop",
        "peer_pyzmq_asyncio.py",
        (*_TCP, "B2-1000"),
        _PYZMQ,
        loop="uvloop",
        does=f"{_PYZMQ_ASYNCIO}; on uvloop",
    ),
    Peer(
        "grpcio",
        "peer_grpcio.py",
        (*_TCP, "B3"),
        Environment("grpcio", ("grpcio", "msgpack"), "import grpc.aio, msgpack"),
        does="grpc.aio; a function by path, msgpack in place of protobuf, an awaitable for each",
    ),
    Peer(
        "ray",
        "peer_ray.py",
        _TCP,
        Environment("ray", ("ray",), "import ray.actor"),
        has_server=False,
        does="an actor's method, pickle; an ObjectRef for each call, ray.get() for all of them",
    ),
    Peer(
        "xoscar",
        "peer_xoscar.py",
        ("B4",),
        Environment("xoscar", ("xoscar",), "import xoscar"),
        does="an actor's method in its own process, by reference: nothing is encoded or copied",
    ),
)
"""All others.  Ray comes late, since what it leaves running for a moment would disturb."""
