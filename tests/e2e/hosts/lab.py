"""Several hosts on one machine, for tests: a lab of namespaces, with a network that can be broken.

Needs Linux, root, and Debian's openssh-server, nftables and iproute2.  A lab ends with its owner,
whatever ends that; all it has outside of its namespaces is a folder and one network link, and the
next lab removes those that a killed owner has left.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.e2e.hosts.claim import claim
from tests.e2e.hosts.detached import ENVIRONMENT, PATH, LabError
from tests.e2e.hosts.host import LabHost
from tests.e2e.hosts.init import PRIVATE
from tests.e2e.hosts.switch import DRIVER, Port, Switch

TOOLS = ("sshd", "ssh", "nft", "ip", "tc", "unshare", "nsenter", "setsid", "mount")
ROOT = Path(__file__).parents[3]
_FIRST_HOST = 11
_SSH_CONFIG = """\
User root
IdentityFile {folder}/id
IdentitiesOnly yes
IdentityAgent none
UserKnownHostsFile {folder}/known_hosts
GlobalKnownHostsFile /dev/null
StrictHostKeyChecking yes
UpdateHostKeys no
"""


def why_not() -> str | None:
    """Return why there can be no lab on this machine; None if there can be one."""
    if sys.platform != "linux":
        return "namespaces are Linux's"
    if os.geteuid() != 0:
        return "only root can make namespaces and links"
    if missing := [tool for tool in TOOLS if shutil.which(tool, path=PATH) is None]:
        return f"{', '.join(missing)} not found: see scripts/install-host-tools"
    table = "nft add table netdev lab"
    probe = ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "sh", "-c", table]
    done = subprocess.run(probe, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    return f"namespaces cannot be made: {done.stderr.strip()}" if done.returncode else None


class Lab:
    """Hosts ``h1``, ``h2``, ... and the driver, which is this machine, on a network of their own.

    ::

        with Lab() as lab:
            lab.hosts[0].cut()
            subprocess.run(["ssh", *lab.ssh_options, "h2", "hostname"], check=True)

    Its methods block, for less than a second, and are for one thread at a time.

    Args:
        hosts: how many there are.
        size: bytes that each of a host's private ``/tmp``, ``/dev/shm`` and ``/run`` can hold.

    Raises:
        LabError: it cannot be made.
    """

    def __init__(self, hosts: int = 3, *, size: int = 64 * 2**20) -> None:
        self._count, self._size = hosts, size
        self._stack = contextlib.ExitStack()
        self.hosts: list[LabHost] = []

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._claim = claim()
            stack.callback(self._claim.release)
            self.folder = self._claim.folder
            guard, self._keep_open = os.pipe()
            stack.callback(os.close, guard)
            stack.callback(os.close, self._keep_open)
            self._switch = Switch(self._claim, guard, self.folder / "log")
            stack.callback(self._switch.close)
            self._driver = Port(DRIVER, self._claim.address(1), "")
            stack.callback(self._switch.disconnect_driver)
            self._switch.connect_driver(self._driver)
            self.hosts = [self._host(number, guard) for number in range(1, self._count + 1)]
            self._write_files()
            stack.callback(self._switch_off)
            self._boot()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def number(self) -> int:
        """No lab that runs at the same time has it."""
        return self._claim.number

    @property
    def driver_address(self) -> str:
        """The address of this machine on the lab's network."""
        return self._driver.address

    @property
    def ssh_options(self) -> list[str]:
        """The options that let ``ssh h1`` find the hosts, their keys and ours, and no others."""
        return ["-F", str(self.folder / "ssh_config")]

    def drop(self, a: LabHost | None, b: LabHost | None, *, one_way: bool = False) -> None:
        """Drop all packets between two hosts until `undrop`, whoever is booted meanwhile.

        Args:
            a: a host, or None for the driver.
            b: another one.
            one_way: only those that *a* sends to *b*.
        """
        self._switch.block(self._port(a), self._port(b))
        if not one_way:
            self._switch.block(self._port(b), self._port(a))

    def undrop(self, a: LabHost | None, b: LabHost | None) -> None:
        """End what `drop` has begun between two, in both directions."""
        self._switch.unblock(self._port(a), self._port(b))
        self._switch.unblock(self._port(b), self._port(a))

    def change_key(self, host: LabHost) -> None:
        """Boot a host with a new host key, so that ``ssh`` refuses it; until `restore`."""
        host.crash()
        self._write_key(host.name)
        host.boot()

    def restore(self) -> None:
        """End all faults, and boot all hosts anew: nothing of what was in them is left."""
        self._switch_off()
        self._switch.unblock_all()
        self._write_known_hosts()
        self._boot()

    def _host(self, number: int, guard: int) -> LabHost:
        mac = f"02:00:c6:12:{self.number:02x}:{number:02x}"
        port = Port(f"h{number}", self._claim.address(_FIRST_HOST + number - 1), mac)
        # What the private folders of a host would hide from it.
        needed = dict.fromkeys(map(str, (ROOT, Path(sys.prefix), Path(sys.base_prefix))))
        hidden = [path for path in needed if path.startswith(tuple(f"{p}/" for p in PRIVATE))]
        return LabHost(port, self._switch, guard, self.folder, self._size, hidden)

    def _port(self, host: LabHost | None) -> Port:
        return self._driver if host is None else host.port

    def _boot(self) -> None:
        for host in self.hosts:
            host.start_boot()
        for host in self.hosts:
            host.finish_boot()

    def _switch_off(self) -> None:
        for host in self.hosts:
            host.crash()

    def _write_files(self) -> None:
        for name in ("id", *(host.name for host in self.hosts)):
            self._write_key(name)
        addresses = [(self.driver_address, DRIVER), *((h.address, h.name) for h in self.hosts)]
        lines = [
            f"{address} {name}\n" for address, name in [("127.0.0.1", "localhost"), *addresses]
        ]
        (self.folder / "hosts").write_text("".join(lines))
        aliases = [f"Host {host.name}\n  HostName {host.address}\n" for host in self.hosts]
        config = _SSH_CONFIG.format(folder=self.folder) + "".join(aliases)
        (self.folder / "ssh_config").write_text(config)
        self._write_known_hosts()

    def _write_known_hosts(self) -> None:
        keys = [
            f"{host.name},{host.address} {(self.folder / f'{host.name}.pub').read_text()}\n"
            for host in self.hosts
        ]
        (self.folder / "known_hosts").write_text("".join(keys))

    def _write_key(self, name: str) -> None:
        key = Ed25519PrivateKey.generate()
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
        public = key.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
        (self.folder / name).touch(0o600)
        (self.folder / name).write_bytes(private)
        (self.folder / f"{name}.pub").write_bytes(public)


__all__ = ["Lab", "LabError", "LabHost", "why_not"]
