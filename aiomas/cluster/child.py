"""One container, as its supervisor sees it: an address, and one process after the other.

The listening socket is bound once and outlives the processes, so that the container keeps its
address when it is restarted.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from aiomas import rpc
from aiomas._address import TcpAddress
from aiomas.cluster.addresses import family_of
from aiomas.cluster.environment import STACK_DUMP
from aiomas.cluster.events import ClusterEvent, EventKind
from aiomas.cluster.intensity import Intensity
from aiomas.cluster.life import Life, StillThereError
from aiomas.cluster.logs import Log
from aiomas.cluster.making import make
from aiomas.cluster.records import Given, Records
from aiomas.cluster.restoring import restore
from aiomas.cluster.summary import LOG
from aiomas.cluster.surroundings import Archive, Surroundings
from aiomas.cluster.telling import Telling
from aiomas.exceptions import ClusterError, ContainerDied

T = TypeVar("T")

_log = logging.getLogger("aiomas.cluster")

_MOST_NAMED = 10  # agents in an error message
_MOST_LIVES = 10**6  # of a container, as long as its host is not lost: each has ids of its own
_END_TIMEOUT = 5.0  # seconds that the system may take to end a killed process
_BACKLOG = 1024  # connections that wait to be accepted, also while the container is restarted


class Child:
    """A container; it is started with :meth:`start`.

    Args:
        index: its number.
        around: what it shares with the others.
    """

    router = rpc.Service()

    def __init__(self, index: int, around: Surroundings) -> None:
        self.index = index
        self.state = "starting"
        self.url = ""
        self.pid = 0
        self.restarts = 0
        self.exit_code: int | None = None
        self._around = around
        self._spec = around.spec
        self._records = Records()
        self._given = Given()
        self._life: Life | None = None
        self._began = time.monotonic()
        self._intensity = Intensity(self._spec.restart)
        self._tasks: list[asyncio.Task[None]] = []
        self._telling = Telling()
        self._hung: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._settled = asyncio.Event()  # whether it is not about to be restarted
        echo = around.echo
        self._log = Log(
            around.logs / f"{index}.log",
            max_bytes=self._spec.log_bytes,
            backups=self._spec.log_backups,
            echo=None if echo is None else lambda line: echo(index, line),
        )
        self._socket: socket.socket | None = None
        self._path: Path | None = None

    @property
    def uptime(self) -> float:
        """Seconds since its process was started."""
        return time.monotonic() - self._began

    @property
    def running_pid(self) -> int | None:
        """The id of its process; ``None`` if that has ended, so that another may have its id."""
        return None if self._life is None or self._life.is_over else self.pid

    @rpc.expose
    def save(self, aid: str, state: bytes) -> None:
        """Keep the state of an agent."""
        self._records.save(aid, state)
        if self._around.archive is not None:
            self._around.archive.save(self.index, aid, state)

    @rpc.expose
    def forget(self, aid: str) -> None:
        """Do not make an agent again."""
        self._records.forget(aid)
        if self._around.archive is not None:
            self._around.archive.forget(self.index, aid)

    async def start(self) -> None:
        """Start the container, and watch it from then on.

        Raises:
            OSError: its address cannot be bound.
            ContainerDied: its process ended before it answered; the message has its last lines.
            ClusterError: it could not be made, or did not answer in time.
        """
        self._bind()
        try:
            await self._begin_life()
        except (ContainerDied, ClusterError) as exc:
            self.state = "died"
            raise self._explained(exc) from exc
        self.state = "running"
        self._settled.set()
        self._emit(EventKind.STARTED, f"Container {self.index} (pid {self.pid}) is ready")
        self._watch(self._keep_alive)
        if (timeout := self._spec.hang_timeout) is not None:
            self._watch(lambda: self._notice_hangs(timeout))

    async def call(self, method: str, *args: Any, timeout: float | None = None) -> Any:
        """Call a method of the worker; see :meth:`Life.call`.

        Without a *timeout*, nobody waits for a container that hangs.
        """
        life = self._alive()
        if timeout is not None:
            return await life.call(method, *args, timeout=timeout)
        return await self._unless_hung(life.call(method, *args), method)

    def take_states(self, states: dict[str, bytes]) -> None:
        """Keep states for agents of another container that :meth:`spawn` makes next."""
        self._given.put(states)

    async def spawn(
        self,
        target: str,
        arguments: bytes,
        former: Sequence[Sequence[str]] = (),
        *,
        respawn: bool,
        patient: bool = False,
    ) -> tuple[list[Any], str | None]:
        """Make agents; see :meth:`aiomas.cluster.worker.Worker.spawn`.

        Args:
            target: what makes them.
            arguments: theirs.
            former: under which keys :meth:`take_states` was given their states.
            respawn: whether they are made again if the container is.
            patient: whether to wait for a container that hangs, for as long as it lives: what has
                become of its agents is known then.
        """
        states, life = self._given.pop(former), self._alive()
        records, given = self._records, (target, arguments, former, states)
        spawning = make(life, records, *given, respawn=respawn)
        return await (spawning if patient else self._unless_hung(spawning, "spawn"))

    def hand_over(self, archive: Archive) -> None:
        """Give all states that we have to an archive."""
        for record in self._records.plan():
            for aid, state in self._records.states_of(record).items():
                archive.save(self.index, aid, state)

    def _alive(self) -> Life:
        """Return the process.

        Raises:
            ContainerDied: there is none.
        """
        if self._life is None:
            msg = f"Container {self.index} does not run: its state is {self.state!r}"
            raise ContainerDied(msg, self.index, self.exit_code, log=self._log.last_lines)
        return self._life

    async def _unless_hung(self, coro: Coroutine[Any, Any, T], method: str) -> T:
        """Await *coro*, but not for longer than the container answers."""
        calling = asyncio.create_task(coro)
        try:
            either: list[asyncio.Future[Any]] = [calling, self._hung]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if calling.done():
                return calling.result()
            msg = (
                f"Container {self.index} (pid {self.pid}) has not answered for "
                f"hang_timeout={self._spec.hang_timeout} s: its event loop is blocked, or the "
                f"process is stopped; whether {method}() was done is not known"
            )
            raise ClusterError(msg)
        finally:
            calling.cancel()

    async def checkpoint(self) -> None:
        """Save the states of all agents that can give them.

        Raises:
            ClusterError: those of some could not be had; the others are saved.
        """
        self._check_saved(*await self.call("checkpoint"))

    def _check_saved(self, failed: Sequence[str], failure: str | None) -> None:
        if failed:
            names = ", ".join(map(repr, failed[:_MOST_NAMED]))
            more = f" and {len(failed) - _MOST_NAMED} others" if len(failed) > _MOST_NAMED else ""
            msg = (
                f"Container {self.index} (pid {self.pid}): the states of these agents could not "
                f"be saved: {names}{more}. The first error:\n{failure}"
            )
            raise ClusterError(msg)

    async def set_time(self, time: float) -> None:
        """Set its clock; a process that is just being restarted gets the time by itself."""
        await self._settled.wait()
        await self.call("set_time", time)

    async def set_generation(self, *terms: Any, timeout: float) -> None:
        """Tell it that a host is lost; a process that is just being started hears it by itself.

        Args:
            terms: see :meth:`aiomas.cluster.container.ClusterContainer.set_generation`.
            timeout: seconds until this returns, and it is told later, as soon as it listens.

        Raises:
            ContainerDied: it has ended.
            ClusterError: it has not heard it yet, or it has failed.
        """
        life = self._life
        if life is not None and not life.is_over:
            await self._telling.tell(life, "set_generation", *terms, timeout=timeout)

    async def retire(self, timeout: float) -> str | None:
        """End the container as :meth:`stop` does; if it runs, its agents' last states are saved.

        Returns:
            What has kept states from being saved, if something has.
        """
        runs, problem = self.state == "running", None
        await self._look_away()
        try:
            if runs and self._life is not None:
                most = 3 * timeout + _END_TIMEOUT  # for calls, states, and what agents clean up
                saved = await self._life.call("retire", timeout, timeout=most)
                self._check_saved(*saved)
        except (ClusterError, ContainerDied) as exc:
            problem = str(exc)
        finally:  # also if we are cancelled
            await self.stop(timeout)
        return problem

    async def stop(self, timeout: float) -> None:
        """End the container; see :meth:`Life.stop`."""
        await self._look_away()
        await self._telling.close()
        try:
            if self._life is not None:
                self.exit_code = await self._life.stop(timeout)
        finally:
            self._close_address()
            self._log.close()
            if self.state not in {"died", "failed"}:
                self.state = "stopped"

    async def _look_away(self) -> None:
        """Let it end without starting it again."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _bind(self) -> None:
        spec = self._spec
        if spec.transport == "unix":
            self._path = self._around.directory / f"{self.index}.sock"
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            address: Any = str(self._path)
        else:
            bind = self._around.part.bind
            sock = socket.socket(family_of(bind), socket.SOCK_STREAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            address = (bind, spec.port + self.index if spec.port else 0)
        try:
            sock.bind(address)
            sock.listen(_BACKLOG)
        except OSError as exc:
            sock.close()
            exc.filename = f"the address of container {self.index}, {address}"
            raise
        self._socket = sock
        if self._path is None:  # nobody else can use the directory
            port = sock.getsockname()[1]
            self._around.urls.append(TcpAddress(self._around.part.address, port).url)

    def _close_address(self) -> None:
        """Let whoever dials it be refused."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    async def _begin_life(self) -> None:
        """Start a process, and return when all that a former one had is there again."""
        assert self._socket is not None  # noqa: S101 - bound before
        spec = self._spec
        self._began = time.monotonic()
        life = await Life.begin(
            self.index,
            self._around.fork,
            self._around.job(self.index, self.restarts),
            self._socket,
            self._log,
            self,
            spec.start_timeout,
        )
        generation = self._around.generation.fields()
        try:
            fields = self._fields() | generation
            self.url = await life.call("start", fields, timeout=spec.start_timeout)
            failures = await restore(life, self._records, spec.start_timeout)
            while generation != (newer := self._around.generation.fields()):
                # The others were told while it could not be.
                generation = newer
                await life.call("set_generation", *newer.values(), timeout=spec.start_timeout)
        except asyncio.CancelledError:
            await life.kill("was not wanted any more")
            await asyncio.wait({life.ended}, timeout=_END_TIMEOUT)
            raise
        except BaseException:
            # Two of them must not accept connections at the same address.
            await life.end("could not be started")
            raise
        self._life = life
        self.pid, self.exit_code = life.pid, None
        for failure in failures:
            msg = f"An agent could not be made again in container {self.index}:\n{failure}"
            self._emit(EventKind.AGENT_LOST, msg, ClusterError(msg))

    def _fields(self) -> dict[str, Any]:
        assert self._socket is not None  # noqa: S101 - bound before
        spec, part = self._spec, self._around.part
        address: Any = self._path
        return {
            "addr": self._socket.getsockname()[:2] if address is None else str(address),
            "advertise": None if part.address == part.bind else part.address,
            "codec": spec.codec,
            "extra_serializers": spec.extra_serializers,
            "clock": spec.clock,
            "time": self._around.time,
            "token": self._around.token,
            "tls": self._around.tls,
            "limits": dataclasses.asdict(spec.limits),
            "urls": self._around.urls,
            "life": part.incarnation * _MOST_LIVES + self.restarts,
            "awaited": self._records.awaited,
            "chosen": self._records.chosen,
        }

    async def _keep_alive(self) -> None:
        """Start the container again whenever it ends, as the policy says."""
        while self._life is not None:
            error = await asyncio.shield(self._life.ended)
            self._life = None
            self._has_died(error)
            while self._life is None:
                pause = self._intensity.next_pause(error.exit_code)
                if pause is None:
                    self._give_up(error)
                    return
                self.state = "restarting"
                msg = f"Container {self.index} is started again in {pause:.2f} s"
                self._emit(EventKind.RESTARTING, msg)
                await asyncio.sleep(pause)
                self.restarts += 1
                try:
                    await self._begin_life()
                except StillThereError as exc:
                    self._give_up(self._as_death(exc), "its last process does not end")
                    return
                except (ClusterError, ContainerDied, OSError) as exc:
                    error = self._as_death(exc)
                    self._has_died(error)
            self.state = "running"
            self._settled.set()
            msg = f"Container {self.index} runs again, now as pid {self.pid}"
            self._emit(EventKind.RESTARTED, msg)

    def _watch(self, look_after: Callable[[], Awaitable[None]]) -> None:
        """Run what looks after the container; if it fails itself, give the container up."""

        async def watch() -> None:
            try:
                await look_after()
            except Exception as exc:  # noqa: BLE001 - not expected, so somebody has to be told
                _log.exception("Container %s is not looked after any more", self.index)
                await self._abandon(exc)

        self._tasks.append(asyncio.create_task(watch()))

    async def _abandon(self, exc: Exception) -> None:
        """End the container for good: what looks after it has failed."""
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        life, self._life = self._life, None
        self._close_address()
        self.state = "failed"
        self._settled.set()
        msg = (
            f"Container {self.index} is given up, because its supervisor has failed: "
            f"{type(exc).__name__}: {exc}"
        )
        error = ContainerDied(msg, self.index, self.exit_code, log=self._log.last_lines)
        self._emit(EventKind.FAILED, msg, error)
        if life is not None:
            await life.kill("was given up")
            await asyncio.wait({life.ended}, timeout=_END_TIMEOUT)

    def _has_died(self, error: ContainerDied) -> None:
        self._settled.clear()
        self._not_hung()
        self.state, self.exit_code = "died", error.exit_code
        self._emit(EventKind.DIED, str(error), error)

    def _give_up(self, error: ContainerDied, why: str | None = None) -> None:
        self._close_address()
        self.state = "failed"
        self._settled.set()
        policy = self._spec.restart
        if why is None and self._intensity.exhausted:
            times = f"intensity={policy.intensity} times within period={policy.period} s"
            why = f"it was restarted {times}"
        elif why is None:
            why = f"restart mode {policy.mode!r}"
        msg = f"Container {self.index} is not started again: {why}. {error}"
        self._emit(EventKind.FAILED, msg, error)

    def _explained(self, exc: ContainerDied | ClusterError) -> ContainerDied | ClusterError:
        """Return what a failed start raises: the error, and what the container wrote last."""
        lines = self._log.last_lines
        msg = f"{exc}"
        if lines:
            msg += f"\n{LOG}\n  " + "\n  ".join(lines)
        if isinstance(exc, ContainerDied):
            return ContainerDied(
                msg, self.index, exc.exit_code, out_of_memory=exc.out_of_memory, log=lines
            )
        return ClusterError(msg)

    def _as_death(self, exc: Exception) -> ContainerDied:
        if isinstance(exc, ContainerDied):
            return exc
        msg = f"Container {self.index} could not be started again: {exc}"
        return ContainerDied(msg, self.index, None, log=self._log.last_lines)

    async def _notice_hangs(self, timeout: float) -> None:
        """Say so if the container does not answer, and do what the spec says."""
        while True:
            await asyncio.sleep(timeout / 3)
            life = self._life
            if life is None:
                continue
            answers = await life.answers(timeout)
            if life is not self._life:
                continue
            if answers and self.state == "hung":
                self._not_hung()
                self.state = "running"
                msg = f"Container {self.index} (pid {self.pid}) answers again"
                self._emit(EventKind.RECOVERED, msg)
            elif not answers and self.state == "running":
                self.state = "hung"
                why = f"did not answer for hang_timeout={timeout} s"
                msg = f"Container {self.index} (pid {self.pid}) {why}"
                self._emit(EventKind.HUNG, msg)
                if self._spec.on_hang == "restart":
                    await life.dump_stacks(STACK_DUMP)
                    await life.kill(why)
                else:
                    self._hung.set_result(None)

    def _not_hung(self) -> None:
        if self._hung.done():
            self._hung = asyncio.get_running_loop().create_future()

    def _emit(
        self, kind: EventKind, message: str, error: ContainerDied | ClusterError | None = None
    ) -> None:
        self._around.emit(
            ClusterEvent(kind=kind, message=message, index=self.index, pid=self.pid, error=error)
        )
