"""The fork server: a small program that does nothing but fork container processes.

It has one thread and no event loop, so that forking it is safe, and it has imported what its
children need, so that they start at once and share that memory.  It serves the requests of the
supervisor (see :mod:`aiomas.cluster.zygote`), tells it about each child that ended, and when the
supervisor is gone it ends itself with all of its children and removes the run's directory.

Requests and replies are frames of the ordinary protocol; the descriptors for a child come over a
second socket, in a datagram that says to which request they belong.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import os
import selectors
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NoReturn

from aiomas._wire import FrameReader, frame
from aiomas.cluster.environment import die_with_parent, outlive_parent, set_title
from aiomas.cluster.loading import load
from aiomas.codecs import MsgPack
from aiomas.exceptions import ClusterError

OUT_OF_MEMORY = 77
"""The exit code of a child that ended because of a :class:`MemoryError`."""

MAX_DESCRIPTORS = 253  # in one message, says the kernel
TICKET = struct.Struct("!QI")
"""What comes with descriptors: the number of the fork they are for, and how many they are."""

REQUEST, RESULT, EXCEPTION = range(3)

_MAX_FRAME = 16 * 1024 * 1024  # bytes, as of any connection
_CHUNK = 65536  # bytes
_REAP_TIMEOUT = 5.0  # seconds that the system may take to end killed processes
_REAP_INTERVAL = 0.05  # seconds between two looks at them if no signal says that one ended

# Only the supervisor decides when this program ends, not what a terminal or service manager sends.
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_HANDLED = (signal.SIGCHLD, *_IGNORED)

Main = Callable[[dict[str, Any], list[int], int], object]


def keep_open(descriptors: Collection[int]) -> None:
    """Close all descriptors but these and the standard streams."""
    low = 3
    for number in sorted(descriptors):
        os.closerange(low, number)
        low = number + 1
    os.closerange(low, max(low, os.sysconf("SC_OPEN_MAX")))


def run(requests_fd: int, descriptors_fd: int, guard_fd: int, target: str) -> NoReturn:
    """Be a fork server from now on, in a process that was forked for it; see :func:`serve`."""

    def program() -> None:
        gc.disable()  # what is collected here would not be shared any more
        # The standard output may be what somebody reads by program.
        os.dup2(2, 1)
        serve(requests_fd, descriptors_fd, guard_fd, target)

    _exit_after(program)


def serve(requests_fd: int, descriptors_fd: int, guard_fd: int, target: str) -> None:
    """Serve until the supervisor is gone.

    When it is, and has not asked us to stop (then it is alive), the directory of the run is
    removed, if we were told of it.

    Args:
        requests_fd: an inherited stream socket, over which requests come.
        descriptors_fd: an inherited datagram socket, over which descriptors come.
        guard_fd: an inherited pipe, which ends when the supervisor does; children get it, too.
        target: the name of the function that is a child's program, as :func:`load` takes it.  It
            gets the job, the descriptors and *guard_fd*.
    """
    os.set_inheritable(guard_fd, False)
    set_title("aiomas fork server")
    with (
        socket.socket(fileno=requests_fd) as requests,
        socket.socket(fileno=descriptors_fd) as descriptors,
    ):
        server = _Server(requests, descriptors, guard_fd, target)
        server.run()
        server.end_children()
    if server.directory is not None and not server.dismissed:
        _remove_tree(server.directory)


class _Server:
    """Forks, and waits for what it forked."""

    def __init__(
        self, requests: socket.socket, descriptors: socket.socket, guard_fd: int, target: str
    ) -> None:
        self.dismissed = False
        """Whether the supervisor has asked us to stop."""
        self.directory: Path | None = None
        """That of the run, if we know it."""
        self._requests = requests
        self._descriptors = descriptors
        self._guard_fd = guard_fd
        self._codec = MsgPack()
        self._reader = FrameReader(_MAX_FRAME)
        self._next_id = 0
        self._children: set[int] = set()  # not yet reaped
        self._over = False
        self._wakeup, self._waker = socket.socketpair()
        self._functions: dict[str, Callable[..., Any]] = {
            "tidy_up": self._tidy_up,
            "preload": self._preload,
            "prepare": self._prepare,
            "fork": self._fork,
            "kill": self._kill,
            "ping": lambda: None,
            "stop": self._stop,
        }
        for sock in (requests, descriptors):
            sock.set_inheritable(False)
        for sock in (descriptors, self._wakeup, self._waker):
            sock.setblocking(False)
        self._main: Main | None = None
        self._trouble = ""
        try:
            self._main = load(target)
        except (Exception, SystemExit):  # noqa: BLE001 - importing is running; fork() reports it
            self._trouble = f"{target} cannot be loaded:\n{traceback.format_exc()}"

    def run(self) -> None:
        """Serve until the supervisor is gone."""
        self._watch_signals()
        with selectors.PollSelector() as selector:  # which has no descriptor that children inherit
            selector.register(self._wakeup, selectors.EVENT_READ, self._children_ended)
            selector.register(self._requests, selectors.EVENT_READ, self._read)
            selector.register(self._guard_fd, selectors.EVENT_READ, self._supervisor_ended)
            while not self._over:
                for key, _ in selector.select():
                    key.data()

    def end_children(self) -> None:
        """Kill all children with all that is in their process groups, and reap them."""
        deadline = time.monotonic() + _REAP_TIMEOUT
        for pid in self._children:
            _kill_group(pid)
        with selectors.PollSelector() as selector:
            selector.register(self._wakeup, selectors.EVENT_READ)
            while self._reap() and time.monotonic() < deadline:
                selector.select(_REAP_INTERVAL)
                self._drain_wakeup()

    # --- the loop ---------------------------------------------------------------------------------

    def _watch_signals(self) -> None:
        """Have children that end wake the loop; modules that were imported may have changed it."""
        for number in _IGNORED:
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, _nothing)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)

    def _drain_wakeup(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wakeup.recv(_CHUNK):
                pass

    def _supervisor_ended(self) -> None:
        self._over = True

    def _read(self) -> None:
        try:
            data = self._requests.recv(_CHUNK)
        except ConnectionError:
            data = b""
        if not data:
            self._over = True
        for payload in self._reader.feed(data) if data else ():
            match self._codec.decode(payload):
                case [0, int(number), [str(path), list() | tuple() as args, _]]:
                    self._serve(number, path, args)
                case _:
                    pass  # an answer to our news

    def _serve(self, number: int, path: str, args: Sequence[Any]) -> None:
        try:
            if path not in self._functions:
                msg = f"The fork server has no function {path}"
                raise ClusterError(msg)  # noqa: TRY301 - answered like the others
            reply = RESULT, self._functions[path](*args)
        except (OSError, LookupError, ClusterError) as exc:
            reply = EXCEPTION, _describe(exc)
        self._send(reply[0], number, reply[1])

    def _send(self, kind: int, number: int, content: Any) -> None:
        try:
            self._requests.sendall(frame(self._codec.encode([kind, number, content])))
        except OSError:
            self._over = True

    # --- what the supervisor asks for -------------------------------------------------------------

    def _tidy_up(self, directory: str) -> None:
        """Remove the directory of the run, which has its name, when the supervisor dies."""
        self.directory = Path(directory)
        set_title(f"aiomas {self.directory.name}/fork server")

    def _prepare(self, function: str, args: Sequence[Any]) -> None:
        """Call a function, for what all children are to share."""
        try:
            load(function)(*args)
        except Exception as exc:  # whatever it is, the supervisor is told
            msg = f"{function} failed in the fork server:\n{traceback.format_exc()}"
            raise ClusterError(msg) from exc
        _check_single(f"{function} leaves the fork server with")

    def _preload(self, names: Sequence[str]) -> None:
        """Import modules, none of which may start a thread."""
        for name in names:
            # While that takes its time, we do not notice that the supervisor is gone.
            die_with_parent()
            self._check_guard()
            try:
                importlib.import_module(name)
            except (Exception, SystemExit) as exc:  # a module may do anything
                msg = f"The module {name} cannot be preloaded:\n{traceback.format_exc()}"
                raise ClusterError(msg) from exc
            finally:
                outlive_parent()
                self._watch_signals()
            _check_single(f"Importing {name} leaves the fork server with")

    def _check_guard(self) -> None:
        with selectors.PollSelector() as selector:
            selector.register(self._guard_fd, selectors.EVENT_READ)
            if selector.select(0):
                self._over = True
                msg = "The supervisor has ended"
                raise ClusterError(msg)

    def _fork(self, ticket: int, job: dict[str, Any]) -> int:
        """Return the pid of a new child, which gets the job and the descriptors of *ticket*."""
        descriptors = self._take_descriptors(ticket)
        try:
            if self._main is None:
                raise ClusterError(self._trouble)
            _check_single("The fork server has")
            pid = self._fork_child(self._main, job, descriptors)
        finally:
            for fd in descriptors:
                os.close(fd)
        with contextlib.suppress(OSError):  # it does so, too; whoever comes first
            os.setpgid(pid, pid)
        self._children.add(pid)
        return pid

    def _kill(self, pid: int, number: int) -> None:
        """Signal a child; SIGKILL goes to all of its process group."""
        self._reap()
        if pid not in self._children:
            msg = f"There is no process {pid} of this run (any more)"
            raise LookupError(msg)
        if number == signal.SIGKILL:
            _kill_group(pid)
        else:
            os.kill(pid, number)

    def _stop(self) -> None:
        """End all children; the supervisor will close its connection."""
        self.dismissed = True
        self.end_children()

    def _take_descriptors(self, ticket: int) -> list[int]:
        cloexec = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(
                    self._descriptors, TICKET.size, MAX_DESCRIPTORS, cloexec
                )
            except BlockingIOError:
                msg = f"No descriptors came for fork number {ticket}"
                raise ClusterError(msg) from None
            for fd in fds if not cloexec else ():
                os.set_inheritable(fd, False)
            number, count = TICKET.unpack(data)
            if number == ticket and len(fds) == count:
                return fds
            for fd in fds:  # they are for a fork that was given up, or not all of them
                os.close(fd)
            if number == ticket:
                text = f"the fork server has no room for {count} descriptors of a container process"
                raise OSError(errno.EMFILE, f"{os.strerror(errno.EMFILE)}: {text} (see ulimit -n)")

    def _fork_child(self, main: Main, job: dict[str, Any], descriptors: list[int]) -> int:
        gc.freeze()  # a collection in a child would else write to, and so copy, all of our pages
        _flush()  # or each child would print, too, what a module has printed
        server = os.getpid()
        # A signal for the child must not meet our handlers there.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
        try:
            pid = os.fork()
            if pid == 0:

                def child() -> None:
                    self._leave(server, descriptors, before)
                    main(job, descriptors[1:], self._guard_fd)

                _exit_after(child)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return pid

    def _leave(self, server: int, descriptors: list[int], mask: set[int | signal.Signals]) -> None:
        """Make a process of its own of the one that was just forked."""
        if descriptors:
            _print_to(descriptors[0])
        with contextlib.suppress(OSError):  # our parent may have done it
            os.setpgid(0, 0)
        die_with_parent(server)
        signal.set_wakeup_fd(-1)
        for number in _HANDLED:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for sock in (self._requests, self._descriptors, self._wakeup, self._waker):
            sock.close()
        gc.enable()

    # --- children that end ------------------------------------------------------------------------

    def _children_ended(self) -> None:
        self._drain_wakeup()
        self._reap()

    def _reap(self) -> int:
        """Tell the supervisor about all children that have ended; return how many are left."""
        while (ended := _reap_one()) is not None:
            pid, status = ended
            if pid in self._children:  # not a process that an imported module has started
                self._children.remove(pid)
                code = os.waitstatus_to_exitcode(status)
                self._next_id += 1
                self._send(REQUEST, self._next_id, ["exited", [pid, code], {}])
        return len(self._children)


def _reap_one() -> tuple[int, int] | None:
    """Reap a child that has ended, and kill what is left of its process group.

    Returns:
        Its pid and its status, or ``None`` if none has ended.
    """
    try:
        if not hasattr(os, "waitid"):  # macOS before Python 3.13
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return None
            _kill_group(pid)
            return pid, status
        info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    if info is None:
        return None
    # While it is not reaped, nobody else can get its number.
    _kill_group(info.si_pid)
    return os.waitpid(info.si_pid, 0)


def _kill_group(pid: int) -> None:
    # A child that has ended may be all that there is of its group.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _check_single(what: str) -> None:
    """Make sure that there is one thread, as only that one would live on in a child."""
    count = _count_threads()
    if count > 1:
        msg = (
            f"{what} {count} threads, and a process with threads must not be forked: do not "
            f"preload what starts threads, let the agents' module import it (for numerical "
            f"libraries, setting OMP_NUM_THREADS=1 and OPENBLAS_NUM_THREADS=1 helps, too)"
        )
        raise ClusterError(msg)


def _count_threads() -> int:
    """Return how many threads there are, those that Python knows nothing of included (Linux)."""
    try:
        return Path("/proc/self/task").stat().st_nlink - 2  # a folder for each
    except OSError:
        return threading.active_count()


def _describe(exc: Exception) -> list[Any]:
    """Return what the supervisor can make the exception of again."""
    match exc:
        case OSError():
            return ["OSError", exc.errno or 0, exc.strerror or str(exc)]
        case LookupError():
            return ["LookupError", 0, str(exc.args[0])]
        case _:
            return ["ClusterError", 0, str(exc)]


def _exit_after(program: Callable[[], object]) -> NoReturn:
    """Run *program*, and end this process as Python ends one."""
    code = 1
    try:
        code = _exit_code(program)
    finally:
        _flush()
        os._exit(code)


def _exit_code(program: Callable[[], object]) -> int:
    try:
        program()
    except SystemExit as exc:
        if exc.code is None or isinstance(exc.code, int):
            return (exc.code or 0) & 0xFF
        with contextlib.suppress(OSError, ValueError):
            print(exc.code, file=sys.stderr)  # noqa: T201 - as Python does
        return 1
    except BaseException as exc:  # noqa: BLE001 - users' code, and the end of this process
        # What is printed may need memory, too, and its reader may be gone.
        with contextlib.suppress(MemoryError, OSError, ValueError):
            traceback.print_exception(exc)
        return OUT_OF_MEMORY if _has_memory_error(exc) else 1
    return 0


def _has_memory_error(exc: BaseException) -> bool:
    if isinstance(exc, BaseExceptionGroup):
        return any(map(_has_memory_error, exc.exceptions))
    return isinstance(exc, MemoryError)


def _print_to(fd: int) -> None:
    """Make *fd* the standard output and error of this process."""
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)
    # The old streams believe that they could seek, if the server's were files.
    streams = [
        open(number, "w", 1, "utf-8", "backslashreplace", closefd=False)  # noqa: SIM115
        for number in (1, 2)
    ]
    sys.stdout, sys.stderr = streams
    sys.__stdout__, sys.__stderr__ = streams  # type: ignore[misc]


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()


def _nothing(*_: object) -> None:
    """Handle a signal: that it came is known by the wakeup descriptor."""


def _remove_tree(path: Path) -> None:
    from aiomas.cluster.rundir import remove_tree  # noqa: PLC0415 - not needed by children

    remove_tree(path)
