"""What runs in a container process: the container, and the service that it is controlled by.

The service is reached over the socket that the process has from its supervisor, never over the
network.
"""

from __future__ import annotations

import asyncio
import faulthandler
import inspect
import logging
import os
import signal
import socket
import ssl
import sys
import threading
import traceback
from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from aiomas import rpc
from aiomas._limits import Limits
from aiomas.agent import Agent
from aiomas.clocks import ExternalClock
from aiomas.cluster import state, streams
from aiomas.cluster.container import ClusterContainer
from aiomas.cluster.environment import STACK_DUMP, Environment, ignore
from aiomas.cluster.fencing import Fence, first_generation
from aiomas.cluster.loading import load
from aiomas.cluster.rundir import remove_tree
from aiomas.codecs import Codec
from aiomas.exceptions import ClusterError, SerializationError
from aiomas.tls import SSLCerts, make_ssl_client_context, make_ssl_server_context

_contexts: list[ssl.SSLContext] = []  # for our server socket, and for client sockets
_SAVED_AT_ONCE = 64  # states that are on their way to the supervisor
_LAST_TIMEOUT = 0.5  # seconds that remain when the process has been told to end


def load_tls(tls: Sequence[Any]) -> None:
    """Load certificates once, for all workers that are forked from then on.

    Args:
        tls: the paths of an :class:`~aiomas.SSLCerts`.
    """
    certs = SSLCerts(*tls)
    _contexts[:] = make_ssl_server_context(*certs), make_ssl_client_context(*certs)


class Worker:
    """The control service of a container process.

    Args:
        listening: the socket that the container accepts connections on.
        environment: what the process was given at its start.
    """

    router = rpc.Service()

    def __init__(self, listening: socket.socket, environment: Environment | None = None) -> None:
        self.container: ClusterContainer
        self._listening = listening
        self._environment = environment or Environment()
        self._numpy_is_seeded = "numpy" in sys.modules  # by the environment
        self._codec: Codec
        self._states: dict[str, bytes] = {}  # of agents that are about to be made again
        self._supervisor: rpc.RpcClient
        self._fence = Fence(lambda: self.stop(_LAST_TIMEOUT))

    @rpc.expose
    async def start(self, fields: dict[str, Any]) -> str:
        """Create the container.

        Args:
            fields: ``addr`` (a path, or host and port), ``codec``, ``extra_serializers``,
                ``clock`` (a date or ``None``), ``time`` (seconds), ``token``, ``tls`` (whether
                to use what :func:`load_tls` has loaded), ``limits`` (the fields of an
                :class:`~aiomas.Limits`), ``urls`` (of containers of this run), ``life`` (how often
                the container was restarted), ``awaited`` (the ids of agents that will be made
                again) and ``chosen`` (ids that agents of former lives have chosen).  There may be
                ``advertise`` (the host name for URLs), and what :func:`.first_generation` takes.

        Returns:
            Its base URL.
        """
        clock = fields["clock"]
        self.container = await ClusterContainer.create(
            fields["addr"],
            sock=self._listening,
            codec=load(fields["codec"]),
            extra_serializers=[load(name) for name in fields["extra_serializers"]],
            clock=None if clock is None else ExternalClock(clock, init_time=fields["time"]),
            ssl=(_contexts[0], _contexts[1]) if fields["tls"] else None,
            token=fields["token"],
            limits=Limits(**fields["limits"]),
            advertise=fields.get("advertise"),
            as_coro=True,
        )
        # Nothing has been served yet: we have not let go of the event loop since it was bound.
        self.container.insist_on(fields["urls"])
        self.container.set_generation(**first_generation(fields))
        self.container.on_outdated(self._fence.outdated)
        self.container.begin_life(fields["life"], fields["awaited"], fields["chosen"])
        self._codec = self.container.portable_codec()
        self.container.on_removed(self._forget)
        state.keep_with(self._codec, self._save)
        return self.container.base_url

    @rpc.expose
    def set_generation(
        self,
        accept: int,
        known: int,
        use: int,
        lost: Sequence[str] = (),
        found: Sequence[str] = (),
    ) -> None:
        """Say what was given up; see :meth:`.ClusterContainer.set_generation`."""
        self.container.set_generation(accept=accept, known=known, use=use, lost=lost, found=found)
        self._fence.told(known)

    @rpc.expose
    async def spawn(
        self, target: str, arguments: bytes, former: Sequence[Sequence[str]] = ()
    ) -> tuple[list[Any], str | None]:
        """Make agents, one after the other.

        Args:
            target: the name of an agent class or of a (coroutine) function that makes agents.
            arguments: a list with ``[args, kwargs]`` for each agent, encoded by the cluster's
                codec.
            former: for each agent under which keys :meth:`take_states` was given the states of all
                that are made with it, in this order; they come from another container.

        Returns:
            URL, class name, and ids of all that were made with it, of each agent that was made;
            and the traceback of the first failure, after which no more are tried, or ``None``.
        """
        made: list[Any] = []
        states = self._taken(former)
        try:
            factory = self._load(target)
            for args, kwargs in self._codec.decode(arguments):
                keys = former[len(made)] if former else None
                agent, aids = await self._make(
                    target, factory, args, kwargs, states=states, keys=keys
                )
                made.append((agent.addr, type(agent).__name__, aids))
        except (Exception, SystemExit):  # noqa: BLE001 - user code; the driver raises it
            return made, traceback.format_exc()
        return made, None

    @rpc.expose
    def take_states(self, states: dict[str, bytes]) -> None:
        """Keep states that agents have saved, for the next :meth:`restore` or :meth:`spawn`.

        Args:
            states: by their ids; or by other keys, for agents of another container.
        """
        self._states.update(states)

    @rpc.expose
    async def restore(
        self, target: str, arguments: bytes, former: Sequence[Sequence[str]], timeout: float
    ) -> list[str]:
        """Make agents again that a former life of this container had, with their states.

        Args:
            target: as in :meth:`spawn`.
            arguments: as in :meth:`spawn`.
            former: for each of them the ids of all that were made with it.  None, if it is not to
                be made again.
            timeout: seconds that the making of each may take.

        Returns:
            A traceback for each that could not be made again.
        """
        states, self._states = self._states, {}
        failures = []
        calls = self._codec.decode(arguments)
        for (args, kwargs), aids in zip(calls, former, strict=False):
            if not aids:
                continue
            bound = asyncio.timeout(timeout)
            try:
                async with bound:
                    await self._make(target, self._load(target), args, kwargs, aids, states)
            except (Exception, SystemExit):  # noqa: BLE001 - user code; the driver is told
                failure = traceback.format_exc()
                if bound.expired():
                    failure += f"{target} has not made agent {aids[0]!r} again in {timeout} s\n"
                failures.append(failure)
            finally:
                self.container.give_up(aids)
        return failures

    @rpc.expose
    async def checkpoint(self) -> tuple[list[str], str | None]:
        """Save the states of all agents that can give them.

        Returns:
            The ids of those whose states could not be had, and the traceback of the first of them.
        """
        return await self._save_all(None)

    @rpc.expose
    async def retire(self, timeout: float) -> tuple[list[str], str | None]:
        """Shut the container down as :meth:`stop` does, and save the last states of all agents.

        These are what the last request has left, before :meth:`~aiomas.Agent.on_stop` is called.

        Args:
            timeout: seconds that calls have which are being served, and then :meth:`get_state`.

        Returns:
            As :meth:`checkpoint`.
        """
        aids = list(self.container.agents.dict)
        saved: tuple[list[str], str | None] = aids, "the container was being shut down already"

        async def save(timeout: float) -> None:
            nonlocal saved
            self.container.on_removed(lambda _: None)  # who ends now is to be made again
            saved = await self._save_all(asyncio.get_running_loop().time() + timeout)

        self.container.on_drained(save)
        await self.stop(timeout)
        return saved

    async def _save_all(self, until: float | None) -> tuple[list[str], str | None]:
        failed: list[str] = []
        failure = None
        on_the_way: list[Awaitable[None]] = []
        size = 0
        for aid, agent in list(self.container.agents.dict.items()):
            if not callable(getattr(agent, "get_state", None)):
                continue
            try:
                async with asyncio.timeout_at(until):
                    value = await state.state_of(agent)
                data = _bounded(aid, self._codec.encode(value))
            except (Exception, SystemExit):  # noqa: BLE001 - user code; the driver raises it
                failed.append(aid)
                failure = failure or traceback.format_exc()
                continue
            on_the_way.append(self._supervisor.remote.save(aid, data))
            size += len(data)
            if size > streams.PIECE or len(on_the_way) >= _SAVED_AT_ONCE:
                await asyncio.gather(*on_the_way)
                on_the_way, size = [], 0
        await asyncio.gather(*on_the_way)
        return failed, failure

    @rpc.expose
    def status(self) -> dict[str, Any]:
        """Return how many agents live here, and what the container has done."""
        stats = self.container.stats()
        return {
            "agents": len(self.container.agents),
            "calls_in": stats.calls_in,
            "calls_out": stats.calls_out,
            "errors": stats.errors,
            "bytes_in": stats.bytes_in,
            "bytes_out": stats.bytes_out,
        }

    @rpc.expose
    def ping(self) -> None:
        """Answer: the event loop is running."""

    @rpc.expose
    def set_time(self, time: float) -> None:
        """Set the container's external clock to *time* seconds."""
        clock = self.container.clock
        assert isinstance(clock, ExternalClock)  # noqa: S101 - the driver checks it
        if clock.time() != time:  # we may just have been started with it
            clock.set_time(time)

    @rpc.expose
    async def stop(self, timeout: float) -> None:
        """Shut the container down; the process ends when its control stream is closed.

        Args:
            timeout: seconds that calls have which are being served.
        """
        if hasattr(self, "container"):  # it may not have come that far
            await self.container.shutdown(as_coro=True, timeout=timeout)

    async def run(self, control: socket.socket) -> None:
        """Serve until *control* is closed, or until we are cancelled; then shut down."""
        self._supervisor = await streams.accept(control, self, name="the supervisor")
        try:
            await self._supervisor.channel.wait_closed()
        finally:
            self._fence.disarm()
            if hasattr(self, "container"):
                await self.container.shutdown(as_coro=True, timeout=_LAST_TIMEOUT)

    def _load(self, target: str) -> Any:
        """Return what makes agents; where numpy comes with it, its numbers follow from our seed."""
        factory = load(target)
        if not self._numpy_is_seeded and "numpy" in sys.modules:
            self._numpy_is_seeded = True
            self._environment.seed_numpy()
        return factory

    def _taken(self, former: Sequence[Sequence[str]]) -> dict[str, bytes]:
        """Return the states that were sent for agents of another container."""
        keys = {key for keys in former for key in keys}
        return {key: self._states.pop(key) for key in keys & self._states.keys()}

    async def _save(self, aid: str, data: bytes) -> None:
        await self._supervisor.remote.save(aid, _bounded(aid, data))

    def _forget(self, aid: str) -> None:
        if self._supervisor.channel.is_open:
            rpc.with_options(self._supervisor.remote.forget, one_way=True)(aid)

    async def _make(
        self,
        target: str,
        factory: Any,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        aids: Sequence[str] = (),
        states: Mapping[str, bytes] = MappingProxyType({}),
        keys: Sequence[str] | None = None,
    ) -> tuple[Agent, list[str]]:
        """Make an agent, or make it again: then calls to it are served when it has its state."""
        made: list[str] = []
        try:
            with self.container.assigning(aids) as made:
                agent = factory(self.container, *args, **kwargs)
                if inspect.isawaitable(agent):
                    agent = await agent
                for aid, key in zip(made, made if keys is None else keys, strict=False):
                    if key in states:
                        agent_with_state = self.container.agents.dict[aid]
                        await state.give_state(agent_with_state, self._codec.decode(states[key]))
            if not isinstance(agent, Agent):
                msg = f"{target} returned {agent!r}, which is no agent"
                raise TypeError(msg)  # noqa: TRY301 - to be cleaned up like others
        except BaseException:  # also if we are cancelled
            await self.container.discard(made)  # or there were agents that nobody knows
            raise
        return agent, made


def _bounded(aid: str, data: bytes) -> bytes:
    """Return the state of an agent, if it is not too large to be sent.

    Raises:
        SerializationError: it is.
    """
    if len(data) > streams.MAX_STATE:
        msg = (
            f"The state of agent {aid!r} has {len(data)} bytes; the supervisor keeps at most "
            f"{streams.MAX_STATE} bytes of an agent"
        )
        raise SerializationError(msg)
    return data


def main(job: dict[str, Any], descriptors: Sequence[int], guard_fd: int) -> None:
    """Run a worker in a process that has just been forked.

    Args:
        job: ``environment`` (see :class:`~aiomas.cluster.environment.Environment`), ``directory``
            (that of the run, which is removed if the supervisor dies) and ``uvloop``.
        descriptors: a socket for the control service, and one that the container listens on.
        guard_fd: a pipe that ends when the supervisor does.

    Raises:
        SystemExit: the environment is not possible; its message says why.
    """
    # Ctrl-C in a terminal is for the driver alone.
    signal.signal(signal.SIGINT, ignore)
    faulthandler.enable()
    faulthandler.register(STACK_DUMP, all_threads=True)
    try:
        environment = Environment.from_job(job["environment"])
        environment.apply()
    except ClusterError as exc:
        raise SystemExit(str(exc)) from None  # which says it all
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    directory = Path(job["directory"])
    threading.Thread(
        target=_exit_with_supervisor, args=(guard_fd, directory), name="guard", daemon=True
    ).start()
    control, listening = (socket.socket(fileno=fd) for fd in descriptors)
    terminated = _run(Worker(listening, environment), control, uvloop=job["uvloop"])
    sys.stdout.flush()
    if terminated:  # as whoever has sent the signal expects it to end
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)


def _run(worker: Worker, control: socket.socket, *, uvloop: bool) -> bool:
    """Run *worker* in a loop of its own; return whether a signal has ended it.

    Threads that are still busy with something are not waited for, unlike in ``asyncio.run()``.
    """
    loop = _new_loop(uvloop=uvloop)
    asyncio.set_event_loop(loop)
    task = loop.create_task(worker.run(control))
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        loop.run_until_complete(task)
    except asyncio.CancelledError:
        return True
    else:
        return False
    finally:
        _cancel_the_rest(loop)


def _new_loop(*, uvloop: bool) -> asyncio.AbstractEventLoop:
    if not uvloop:
        return asyncio.new_event_loop()
    import uvloop as package  # noqa: PLC0415 - not there on every system

    return package.new_event_loop()


def _cancel_the_rest(loop: asyncio.AbstractEventLoop) -> None:
    """Let tasks that user code has left behind clean up, for a moment."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=_LAST_TIMEOUT))


def _exit_with_supervisor(guard_fd: int, directory: Path) -> None:
    """End this process when its supervisor has ended, whatever our event loop is doing.

    Nothing is ever written to the pipe, so reading from it returns when its other end is closed.
    """
    os.read(guard_fd, 1)
    remove_tree(directory)  # the supervisor cannot do it any more
    os._exit(1)
