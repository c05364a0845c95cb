"""The network of a lab: a switch with a port for each host, and one for the driver.

It is a network namespace, so that of all links only the driver's end of one is seen outside, and
the firewall of the machine has no say between hosts.  Faults are made where a packet enters or
leaves a port, so that who sends and who receives it sees what a bad cable would let it see.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.hosts.claim import Claim
from tests.e2e.hosts.detached import BOUND, ENVIRONMENT, LabError, Process, Starting

BRIDGE = "switch"
DRIVER = "driver"
LINK = "eth0"
"""What a host calls its network link."""
_DELAY = str(Path(__file__).with_name("delay.py"))


def run_in_network(process: Process, *command: str, lines: list[str] | None = None) -> str:
    """Run a command in the network of a process, with *lines* as its input; return its output.

    Raises:
        LabError: it has failed; the message has what it said.
    """
    enter = ["nsenter", f"--net=/proc/{process.pid}/ns/net", "--", *command]
    text = "".join(f"{line}\n" for line in lines or [])
    done = subprocess.run(
        enter, input=text, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise LabError(f"{' '.join(command)} has failed: {done.stderr.strip()}\n{text}")
    return done.stdout


@dataclass(frozen=True)
class Port:
    """Where a host or the driver is plugged in."""

    name: str
    address: str
    mac: str
    """The same after a crash, as a real one's: neighbours remember it."""


class Switch:
    """A switch that ends with *guard*."""

    def __init__(self, claim: Claim, guard: int, log: Path) -> None:
        self._claim, self._guard, self._log = claim, guard, log
        self._blocked: set[tuple[str, str]] = set()
        self._ports: dict[str, Port] = {}
        self._losses: dict[str, int] = {}
        self._cables: dict[str, Process] = {}
        """Of ports with a delay, the process that makes it."""
        holder = ["unshare", "--net", "sh", "-c", "echo $$; exec cat"]
        self._process = Starting(holder, guard=guard, log=log).ready()
        self._ip(f"link add {BRIDGE} type bridge", f"link set {BRIDGE} up")

    def close(self) -> None:
        """Remove all of it."""
        for process in self._cables.values():
            process.kill()
        self._process.kill()

    def connect_driver(self, port: Port) -> None:
        """Plug in this machine."""
        link = self._claim.link
        changes = (
            f"link add {link} type veth peer name {DRIVER} netns {self._process.pid}",
            f"addr add {port.address}/24 dev {link}",
            f"link set {link} up",
        )
        run_in_network(Process.of(os.getpid()), "ip", "-batch", "-", lines=list(changes))
        self._plug(port)

    def disconnect_driver(self) -> None:
        with contextlib.suppress(LabError):  # it could not be connected
            run_in_network(Process.of(os.getpid()), "ip", "link", "delete", self._claim.link)

    def connect(self, port: Port, host: Process) -> None:
        """Plug in a host: give it a link that has no faults but blocked addresses."""
        peer = f"peer name {LINK} address {port.mac} netns {host.pid}"
        self._ip(f"link add {port.name} type veth {peer}")
        addresses = [f"addr add {port.address}/24 dev {LINK}", f"link set {LINK} up"]
        run_in_network(host, "ip", "-batch", "-", lines=addresses)
        self._plug(port)

    def disconnect(self, port: Port) -> None:
        """Unplug a host: from now on, nothing of what it does is noticed by others."""
        with contextlib.suppress(LabError):  # it is gone already if the host's processes are
            self._ip(f"link delete {port.name}")
        self._losses.pop(port.name, None)
        if cable := self._cables.pop(port.name, None):
            cable.kill()
            self._ip(f"link delete far-{port.name}")

    def cut(self, port: Port) -> None:
        self._ip(f"link set {port.name} down")

    def heal(self, port: Port, host: Process) -> None:
        """End `cut`; wait until both ends have noticed, for which Linux takes up to a second."""
        self._ip(f"link set {port.name} up")
        deadline = time.monotonic() + BOUND
        for process, link, sign in (
            (self._process, port.name, "state forwarding"),
            (host, LINK, "state UP"),
        ):
            show = ["ip", "-details", "link", "show", "dev", link]
            while sign not in run_in_network(process, *show):
                if time.monotonic() > deadline:
                    raise LabError(f"the link of {port.name} is not up after {BOUND:g} s")
                time.sleep(0.01)

    def block(self, source: Port, target: Port) -> None:
        """Drop what *source* sends to *target*."""
        self._blocked.add((source.name, target.name))
        self._filter(source)

    def unblock(self, source: Port, target: Port) -> None:
        self._blocked.discard((source.name, target.name))
        self._filter(source)

    def unblock_all(self) -> None:
        self._blocked.clear()
        for port in self._ports.values():
            self._filter(port)

    def lose(self, port: Port, percent: int) -> None:
        """Drop that part of what *port* sends, at random."""
        self._losses[port.name] = percent
        self._filter(port)

    def delay(self, port: Port, seconds: float) -> None:
        """Let each packet from and to *port* take so much longer; 0 for as fast as it can.

        Behind the port is a second switch, and in between a cable that takes its time.
        """
        name = port.name
        if cable := self._cables.pop(name, None):
            self._ip(f"link set {name} master {BRIDGE}", f"link delete far-{name}")
            cable.kill()
        if seconds:
            enter = ["nsenter", f"--net=/proc/{self._process.pid}/ns/net", "--"]
            command = [
                sys.executable,
                "-I",
                "-S",
                _DELAY,
                f"out-{name}",
                f"in-{name}",
                f"{seconds}",
            ]
            starting = Starting([*enter, *command], guard=self._guard, log=self._log)
            self._cables[name] = starting.ready()
            self._ip(
                f"link add far-{name} type bridge",
                f"link set out-{name} master {BRIDGE} up",
                f"link set in-{name} master far-{name} up",
                f"link set far-{name} up",
                f"link set {name} master far-{name}",
            )

    def limit(self, port: Port, rate: str | None) -> None:
        """Send to *port* only so fast."""
        limit(self._process, port.name, rate)

    def _plug(self, port: Port) -> None:
        self._ports[port.name] = port
        self._ip(f"link set {port.name} master {BRIDGE} up")
        self._filter(port)

    def _filter(self, port: Port) -> None:
        blocked = [target for source, target in self._blocked if source == port.name]
        rules = [f"ip daddr {self._ports[target].address} drop" for target in sorted(blocked)]
        if percent := self._losses.get(port.name):
            rules.append(loss(percent))
        filter_arrivals(self._process, port.name, rules)

    def _ip(self, *changes: str) -> None:
        run_in_network(self._process, "ip", "-batch", "-", lines=list(changes))


def loss(percent: int) -> str:
    """Return the rule that drops a part of all packets: 1 to 100 percent."""
    return "drop" if percent == 100 else f"numgen random mod 100 < {percent} drop"


def filter_arrivals(process: Process, link: str, rules: list[str]) -> None:
    """Set the rules, in a network, for what comes in through a link; there may have been others."""
    chain = f"chain netdev lab {link}"
    hook = f'{{ type filter hook ingress device "{link}" priority 0; }}'
    lines = ["add table netdev lab", f"add {chain} {hook}", f"flush {chain}"]
    lines += [f"add rule netdev lab {link} {rule}" for rule in rules]
    run_in_network(process, "nft", "-f", "-", lines=lines)


def limit(process: Process, link: str, rate: str | None) -> None:
    """Set, in a network, how fast is sent through a link; None for no limit."""
    if rate is None:
        qdisc = f"qdisc replace dev {link} root noqueue"
    else:
        qdisc = f"qdisc replace dev {link} root tbf rate {rate} burst 32kb latency 400ms"
    run_in_network(process, "tc", *qdisc.split())
