"""A host of a lab: what can be done to it, and what is seen of it from outside."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Literal, NamedTuple

from tests.e2e.hosts.detached import ENVIRONMENT, LabError, Process, Starting
from tests.e2e.hosts.switch import LINK, Port, Switch, filter_arrivals, limit, loss

_INIT = str(Path(__file__).with_name("init.py"))
_FILLER = "/tmp/filler"
_CHUNK = bytes(2**20)


class Inside(NamedTuple):
    """A process that runs inside of a host."""

    pid: int
    """Its number outside."""
    command: str


class LabHost:
    """A host: namespaces for network, processes, mounts and its name, with an sshd in them.

    It has a ``/tmp``, ``/dev/shm`` and ``/run`` of its own, and all other files of the machine.
    What a method changes has happened when it returns.
    """

    def __init__(
        self, port: Port, switch: Switch, guard: int, folder: Path, size: int, shown: list[str]
    ) -> None:
        self._port, self._switch, self._guard = port, switch, guard
        self._folder, self._size, self._shown = folder, size, shown
        self._starting: Starting | None = None
        self._init: Process | None = None
        self._unshare: Process | None = None

    def __repr__(self) -> str:
        return f"<LabHost {self.name} {self.address}>"

    @property
    def name(self) -> str:
        """Its host name, which the ssh configuration of the lab knows as well."""
        return self._port.name

    @property
    def address(self) -> str:
        return self._port.address

    @property
    def port(self) -> Port:
        """Where it is plugged in."""
        return self._port

    @property
    def is_up(self) -> bool:
        return self._init is not None and self._init.is_alive

    @property
    def pid(self) -> int:
        """The number outside of its first process.

        Raises:
            LabError: it is switched off.
        """
        return self._running.pid

    # --- power ------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Switch it on, with empty private folders and a good link; return when sshd answers."""
        self.start_boot()
        self.finish_boot()

    def start_boot(self) -> None:
        """Begin what `finish_boot` ends: hosts can start at the same time."""
        if self._init is not None:
            raise LabError(f"{self.name} is switched on already")
        spaces = ["--net", "--uts", "--mount", "--pid", "--fork", "--kill-child"]
        init = [sys.executable, "-I", "-S", _INIT, self.name, str(self._folder), str(self._size)]
        self._starting = Starting(
            ["unshare", *spaces, *init, *self._shown], guard=self._guard, log=self._folder / "log"
        )

    def finish_boot(self) -> None:
        assert self._starting is not None, "start_boot comes first"
        starting, self._starting = self._starting, None
        self._init = starting.ready()
        self._unshare = self._init.parent
        self._switch.connect(self._port, self._init)

    def crash(self) -> None:
        """Switch it off, as if its power failed: nobody hears of it, and all that ran is gone."""
        if self._init is None or self._unshare is None:
            return
        self._switch.disconnect(self._port)  # first, or peers would see connections closed
        self._init.kill()
        self._unshare.kill()
        self._init = self._unshare = None

    # --- the network ------------------------------------------------------------------------------

    def cut(self) -> None:
        """Pull its network cable."""
        self._switch.cut(self._port)

    def heal(self) -> None:
        """Put its network cable back.

        Who has tried to reach it meanwhile, or was tried by it, may not look for it for another
        second: so long does Linux wait before it asks again for a hardware address.
        """
        self._switch.heal(self._port, self._running)

    def loss(self, percent: int, direction: Literal["in", "out", "both"] = "both") -> None:
        """Let so many of the packets to it, from it or both be lost, at random; 0 ends that."""
        if direction != "out":
            filter_arrivals(self._running, LINK, [loss(percent)] if percent else [])
        if direction != "in":
            self._switch.lose(self._port, percent)

    def delay(self, milliseconds: float) -> None:
        """Let packets to it and from it take so much longer: a round trip takes twice that."""
        self._switch.delay(self._port, milliseconds / 1000)

    def no_delay(self) -> None:
        self._switch.delay(self._port, 0)

    def rate(self, rate: str) -> None:
        """Limit what it sends and gets, each to a rate as *tc* writes it, such as ``"1mbit"``.

        The first 32 KB after a pause pass at once.
        """
        self._limit(rate)

    def no_rate(self) -> None:
        self._limit(None)

    def _limit(self, rate: str | None) -> None:
        limit(self._running, LINK, rate)
        self._switch.limit(self._port, rate)

    # --- what is inside ---------------------------------------------------------------------------

    @property
    def enter(self) -> list[str]:
        """The words before a command that let it run inside, until the next crash.

        It gets none of our environment variables: those say where files are that it does not see.
        Who ends that command from outside ends ``nsenter`` alone: see `processes`.
        """
        spaces = ["--net", "--uts", "--mount", "--pid"]
        variables = [f"{name}={value}" for name, value in ENVIRONMENT.items()]
        return ["nsenter", f"--target={self.pid}", *spaces, "--", "env", "-i", *variables]

    def run(
        self, *command: str, input: str | None = None, check: bool = True, timeout: float = 30.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside, and return what it has printed; *timeout* in seconds.

        Raises:
            subprocess.CalledProcessError: it has failed, and *check* is set.
            subprocess.TimeoutExpired: it takes too long.
        """
        return subprocess.run(
            [*self.enter, *command],
            input=input,
            check=check,
            timeout=timeout,
            capture_output=True,
            text=True,
        )

    def processes(self) -> list[Inside]:
        """Return what runs inside, but for the host's first process and sshd with its sessions."""
        if not self.is_up:
            return []
        ours = Path(f"/proc/{self.pid}/ns/pid").readlink()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if (folder / "ns/pid").readlink() != ours or int(folder.name) == self.pid:
                    continue
                program = (folder / "exe").readlink()
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            except OSError:  # it has ended
                continue
            if not program.name.startswith("sshd"):
                found.append(Inside(int(folder.name), command))
        return sorted(found)

    def path(self, path: str) -> Path:
        """Return where a file of the host is seen from outside, such as one in its ``/tmp``."""
        return Path(f"/proc/{self.pid}/root{path}")

    def fill_disk(self) -> None:
        """Write to its ``/tmp`` until no byte fits any more."""
        handle = os.open(self.path(_FILLER), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            while os.write(handle, _CHUNK):
                pass
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
        finally:
            os.close(handle)

    def free_disk(self) -> None:
        """Take back what `fill_disk` has written."""
        self.path(_FILLER).unlink(missing_ok=True)

    @property
    def _running(self) -> Process:
        if self._init is None:
            raise LabError(f"{self.name} is switched off")
        return self._init
